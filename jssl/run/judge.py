"""What a run is worth: it is trained, and the table at its end is made."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import data, methods
from jssl.evaluate.embed import BACKBONE, embed_source, raw_pixels
from jssl.evaluate.protocols.frozen_features import grid_probe
from jssl.evaluate.table import classifier_row, format_table, probe_rows
from jssl.precision import narrow
from jssl.run import build, lock, pretrained, stopping, versions, workdir
from jssl.run.build import Experiment
from jssl.run.train import train
from jssl.run.writers import say
from jssl.third_party import same_handlers
from jssl.types import TrainState


@narrow
@same_handlers()
def train_and_judge(config: ConfigDict, folder: str | Path, *, longer: bool = False) -> None:
    """Trains (or resumes), then writes and prints the table of the finished run.

    Args:
        config: the whole config.
        folder: the workdir.
        longer: whether the run in it is extended to more epochs, see `jssl.run.extend`.
    """
    started = time.monotonic()
    state = train(config, folder, judged=config.final.enabled, longer=longer)
    if not config.final.enabled or int(state.step) == 0:
        return
    kept = "Stopped while judging: the training is finished and saved."
    with stopping.ends_at_once(kept, last=True):
        with lock.held(Path(folder)):
            _judge(config, Path(folder), state, started)


def _judge(config: ConfigDict, folder: Path, state: TrainState, started: float) -> None:
    parts = build.build(config)
    if parts.test_source is None or parts.probe_source.num_classes < 2:
        say(f"{parts.train_source.name} has no labelled test split: there is nothing to judge by.")
        return
    rows = final_rows(parts, state)
    record = {
        "name": run_name(config, folder),
        "run_hash": run_hash(config, folder),
        "seed": config.seed,
        "epochs": int(state.step) / parts.steps_per_epoch,
        "steps": int(state.step),
        "minutes": (time.monotonic() - started) / 60,
        "rows": rows,
        "versions": versions.collect(),
    }
    if (begun := pretrained.record(folder)) is not None:
        record["init_from"] = {key: begun[key] for key in ("method", "step", "sha256")}
    say(format_table(rows))
    if jax.process_index() == 0:
        workdir.write_json(folder / "result.json", record)
    say(f"{record['minutes']:.1f} minutes, steps {record['steps']}. Record: {folder}/result.json")


def run_name(config: ConfigDict, folder: Path | None = None) -> str:
    """Method, data set, and what tells its runs apart: the method's `run_name`, and a beginning.

    Args:
        config: of the run.
        folder: its workdir, which knows what it began with.
    """
    after = f", {_begun(config, folder)}" if config.init_from else ""
    return (
        f"{config.method} on {config.data.name}{methods.get(config.method).run_name(config)}{after}"
    )


def _begun(config: ConfigDict, folder: Path | None) -> str:
    """The method of the run that another begins with; that run's workdir may be gone."""
    found = pretrained.record(folder) if folder is not None else None
    if found is not None:
        return f"after {found['method']}"
    source = Path(pretrained.split(config.init_from)[0])
    if not (source / "config.json").exists():  # and an older version has left no record
        return "after another run"
    return f"after {workdir.read_config(source).method}"


def run_hash(config: ConfigDict, folder: Path | None = None) -> str:
    """Hash of everything that moves a weight, but the seed: runs that differ only by it agree.

    Of a run that another begins, the method counts and not the folder, which each seed has its own.
    """
    flat = config_lib.flatten(config)
    if config.init_from:
        flat["init_from"] = _begun(config, folder)
    kept = {k: v for k, v in flat.items() if k != "seed" and not k.startswith(workdir.FREE)}
    return config_lib.config_hash(kept)


def final_rows(parts: Experiment, state: TrainState) -> list[dict[str, Any]]:
    """kNN and linear top-1 of the frozen features, of the untrained net and of raw pixels.

    The untrained net is the state before the first step: the same seed, running statistics as
    they are initialised.
    """
    config = parts.config
    trained = parts.launcher.compile_embed(parts.method.embed)
    pixels = jax.jit(raw_pixels)
    feature = config.monitor.knn_feature
    kinds: dict[str, tuple[Callable[..., Any], Any, str]] = {
        "trained": (trained, state, feature),
        "untrained": (trained, build.init_state(parts, begin=False), feature),
        "raw pixels": (pixels, None, BACKBONE),
    }
    sets = {}
    for kind, (embed, owner, name) in kinds.items():
        arrays: list[Any] = []
        for source in (parts.probe_source, parts.test_source):
            features, labels, _ = embed_source(
                embed,
                owner,
                source,
                batch_size=256,
                feature=name,
                transform=data.eval_transform(config.data, source, size=config.augment.size),
                tell=say if kind == "trained" else None,
            )
            arrays += [features, labels]
        x, y, test_x, test_y = arrays
        sets[kind] = x, y, test_x, test_y
    rows = probe_rows(
        sets,
        num_classes=parts.probe_source.num_classes,
        name=parts.test_source.name,
        feature=feature,
        k=config.monitor.knn_k,
        temperature=config.monitor.knn_temperature,
        linear_epochs=config.final.linear_epochs,
    )
    spec = methods.get(config.method)
    if spec.has_classifier:
        logits, labels, _ = embed_source(
            trained,
            state,
            parts.test_source,
            batch_size=256,
            feature="logits",
            transform=data.eval_transform(config.data, parts.test_source, size=config.augment.size),
        )
        rows.append(classifier_row(logits, labels, name=parts.test_source.name))
    if spec.grid_feature is not None:
        owners = {kind: owner for kind, (_, owner, _) in kinds.items()}
        halves = parts.probe_source, parts.test_source
        embed = parts.method.embed
        epochs = config.final.linear_epochs
        rows.append(
            grid_probe(config, config.data, embed, owners, halves, spec.grid_feature, epochs)
        )
    return rows
