"""Trains, then evaluates and writes result.json."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import methods, report
from jssl.evaluate import dense
from jssl.evaluate.run import final_rows
from jssl.evaluate.table import format_table, table_values
from jssl.precision import narrow
from jssl.run import build, lock, pretrained, sinks, stopping, versions, workdir
from jssl.run.train import OnStep, train
from jssl.run.writers import say
from jssl.third_party import same_handlers
from jssl.types import TrainState


@narrow
@same_handlers()
def train_and_judge(
    config: ConfigDict,
    folder: str | Path,
    *,
    longer: bool = False,
    on_step: OnStep | None = None,
) -> None:
    """Trains (or resumes), then writes and prints the table of the finished run.

    Args:
        config: the complete config.
        folder: the workdir.
        longer: whether to extend its run to more epochs, see `jssl.run.extend`.
        on_step: see `jssl.run.train.train`.
    """
    started = time.monotonic()
    state = train(config, folder, judged=config.final.enabled, longer=longer, on_step=on_step)
    if not (config.final.enabled or config.report.enabled) or int(state.step) == 0:
        return
    message = "Stopped while evaluating: the training is finished and saved."
    with stopping.ends_at_once(message, last=True):
        with lock.held(Path(folder)):
            parts = build.build(config)
            compiled = parts.launcher.compile_embed(parts.method.embed)
            place = Path(folder).absolute()
            with sinks.open_sinks(parts.config, place, required=False) as trackers:
                if config.final.enabled:
                    _judge(parts, Path(folder), state, compiled, started, trackers)
                sections = report.at_the_end(parts, place, state, compiled)
                for name, picture in report.pictures_of(sections):
                    trackers.picture(name, int(state.step), picture)


def _judge(
    parts: build.Experiment,
    folder: Path,
    state: TrainState,
    compiled: Callable[..., Any],
    started: float,
    trackers: sinks.Sinks,
) -> None:
    config = parts.config
    if parts.test_source is None or parts.probe_source.num_classes < 2:
        say(f"{parts.train_source.name} has no labelled test split: the run is not evaluated.")
        return
    if methods.get(config.method).data.dense:
        rows, sheet = dense.final(parts, state)
        if jax.process_index() == 0:
            workdir.write_picture(folder / "pictures" / "test.png", sheet)
            trackers.picture("test", int(state.step), np.asarray(sheet))
    else:
        rows = final_rows(parts, state, compiled=compiled)
    record = {
        "name": run_name(config, folder),
        "run_hash": run_hash(config, folder),
        "seed": config.seed,
        "epochs": int(state.step) / parts.steps_per_epoch,
        "steps": int(state.step),
        "minutes": (time.monotonic() - started) / 60,
        "peak_memory_bytes": peak_memory(),
        "rows": rows,
        "versions": versions.collect(),
    }
    if (origin := pretrained.record(folder)) is not None:
        kept = ("method", "step", "sha256", "weights")
        record["init_from"] = {key: origin[key] for key in kept if key in origin}
    say(format_table(rows))
    if jax.process_index() == 0:
        workdir.write_json(folder / "result.json", record)
    trackers.table(record["steps"], table_values(rows))
    say(f"{record['minutes']:.1f} minutes, steps {record['steps']}. Record: {folder}/result.json")


def peak_memory() -> int:
    """Returns the most memory that this process has had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def run_name(config: ConfigDict, folder: Path | None = None) -> str:
    """Returns the name of a run: method, data set, the method's `run_name`, and `init_from`.

    Args:
        config: of the run.
        folder: its workdir, with the record of `init_from`.
    """
    after = f", {_origin(config, folder)}" if config.init_from else ""
    return (
        f"{config.method} on {config.data.name}{methods.get(config.method).run_name(config)}{after}"
    )


def _origin(config: ConfigDict, folder: Path | None) -> str:
    """Returns what the run in `init_from` is: its method, or the published file imported there.

    That run's workdir may be gone.
    """
    record = pretrained.record(folder) if folder is not None else None
    if record is not None:
        return f"after {record.get('weights') or record['method']}"
    source = Path(pretrained.split(config.init_from)[0])
    if not (source / "config.json").exists():  # and an older version wrote no record
        return "after another run"
    return f"after {pretrained.weights_file(source) or workdir.read_config(source).method}"


def run_hash(config: ConfigDict, folder: Path | None = None) -> str:
    """Returns a hash of all settings that affect the weights, except the seed.

    Of `init_from` only the method or the published file counts, not the folder, which differs
    between seeds.
    """
    flat = config_lib.flatten(config)
    if config.init_from:
        flat["init_from"] = _origin(config, folder)
    kept = {k: v for k, v in flat.items() if k != "seed" and not k.startswith(workdir.FREE)}
    return config_lib.config_hash(kept)
