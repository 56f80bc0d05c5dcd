"""A run of several stages, which pass on checkpoints and pseudo-labels.

The method section of the config has a list `stages`; each stage has its own folder in the workdir,
and uses the files of the stages before it:

    1_teacher   trains on the labelled images
    2_labels    pseudo-labels.npz, from the network before it: averaged weights, no noise, its own
                resolution; in parts, so that a killed stage can resume
    3_student   trains on both, at least as large as its teacher
    4_labels, 5_student, ...
    6_fixres    a few epochs of the student before it at a higher resolution: no augmentation,
                labelled images only, optionally with the shallow blocks frozen

A restart skips finished stages and resumes the others exactly. Touvron et al., FixRes,
NeurIPS 2019, https://arxiv.org/abs/1906.06423.
"""

import contextlib
import copy
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import data, methods
from jssl.data import pseudo_labels, semi_supervised
from jssl.errors import UserError
from jssl.evaluate.embed import embed_source, select_feature
from jssl.evaluate.table import classifier_scores
from jssl.parallel.launcher import make_launcher
from jssl.precision import narrow
from jssl.run import (
    build,
    checkpoint,
    checks,
    lock,
    pretrained,
    stopping,
    versioned,
    versions,
    workdir,
)
from jssl.run.checksums import tree_hash
from jssl.run.stage_plan import LABELS, Stage, plan
from jssl.run.stage_plan import stages_of as stages_of
from jssl.run.train import train
from jssl.run.writers import say
from jssl.third_party import same_handlers
from jssl.types import TrainState

DONE = "done.json"
PART = 100_000  # images per file of pseudo-labels
BATCH = 256  # images per batch of evaluation and labelling


@narrow
@same_handlers()
def run(config: ConfigDict, folder: str | Path) -> dict[str, Any]:
    """Runs every unfinished stage, then writes and prints the accuracy of each network.

    Args:
        config: the complete config, with stages.
        folder: the workdir.

    Returns:
        The record that is written to `result.json`.
    """
    checks.check(config)
    with stopping.ends_at_once("Stopped between two stages: finished stages are kept."):
        stages, folder = plan(config, folder), workdir.make_folder(folder)
        with lock.held(folder):
            return _run(config, stages, workdir.open_workdir(folder, config))


def _run(config: ConfigDict, stages: Sequence[Stage], folder: Path) -> dict[str, Any]:
    _write(folder / "stages.json", [stage.name for stage in stages])
    finished = {}
    for stage in stages:
        place = folder / stage.name
        done = _finished(stage, place)
        if done is None:
            say(f"stage {stage.name} starts")
            work = {"label": _label, "fixres": _fixres}.get(stage.kind, _train)
            started = time.monotonic()
            done = {"stage": stage.name, **_identity(stage), **work(stage, place)}
            done["minutes"] = (time.monotonic() - started) / 60
            _write(place / DONE, done)
        else:
            say(f"stage {stage.name} is finished already")
        finished[stage.name] = done
    record = _record(config, stages, finished, folder)
    for row in record["rows"]:
        say(f"{row['probe']}: {100 * row['top1']['trained']:.2f} %   ({row['protocol']})")
    _write(folder / "result.json", record)
    return record


def _identity(stage: Stage) -> dict[str, Any]:
    """Returns what must be equal for a finished stage to belong to this config."""
    own = json.loads(stage.config.to_json())
    kept = {k: v for k, v in config_lib.flatten(own).items() if not k.startswith(workdir.FREE)}
    return {
        "stage_hash": config_lib.config_hash(kept),
        "max_steps": stage.config.max_steps,
        "config": own,
    }


def _finished(stage: Stage, place: Path) -> dict[str, Any] | None:
    path = place / DONE
    if not path.exists():
        return None
    try:
        done = workdir.read_json(path)
    except UserError:
        say(f"WARNING {path} is damaged: the stage resumes from its files, as if not finished")
        return None
    if stage.kind == "label":
        pseudo_labels.load(place / LABELS, expected=_teacher_of(stage))
    # Another max_steps continues training; other differences were refused with the workdir.
    if done.get("max_steps") != stage.config.max_steps:
        return None
    own = json.loads(stage.config.to_json())
    if isinstance(done.get("config"), dict):
        old = versioned.complete(done["config"], path)
        rows = config_lib.diff(config_lib.flatten(old), config_lib.flatten(own))
        return None if any(not row.startswith(workdir.FREE) for row in rows) else done
    return done if done.get("stage_hash") == _identity(stage)["stage_hash"] else None


def _train(stage: Stage, place: Path) -> dict[str, Any]:
    """Trains a teacher or a student to its last step."""
    config = copy.deepcopy(stage.config)  # the run modifies it
    state = train(config, place)
    return {"step": int(state.step), **judged(config, state), "sha256": _hash(config, state)}


def _fixres(stage: Stage, place: Path) -> dict[str, Any]:
    """Fine-tunes the averaged network of the stage before, which is the checkpoint of step 0."""
    parts = build.build(copy.deepcopy(stage.config))
    workdir.open_workdir(place, parts.config)
    saved = checkpoint.Checkpoints(place, method=parts.config.method)
    assert stage.network is not None  # see `plan`
    try:
        if saved.latest_step() is None:
            _, before = build.load_encoder(stage.network, sharding=parts.launcher.sharding)
            state = build.init_state(parts)
            state = state.replace(
                params=before.average,
                batch_stats=before.average_stats,
                average=before.average,
                average_stats=before.average_stats,
            )
            saved.save(0, parts.launcher.as_global(state), _data_state(parts))
    finally:
        saved.close()
    return _train(stage, place)


def _data_state(parts: build.Experiment) -> dict[str, Any]:
    batches = data.train_batches(
        parts.train_source, batch_size=parts.config.batch_size, seed=parts.config.seed
    )
    return batches.state()


def _hash(config: ConfigDict, state: TrainState) -> str:
    """Returns the hash of the network that a run's `embed` uses, which is the teacher."""
    params, batch_stats = methods.get(config.method).judged(state)
    return tree_hash({"params": params, "batch_stats": batch_stats})[:16]


def probabilities(embed: Callable[..., Any]) -> Callable[[TrainState, Any], jax.Array]:
    """Wraps `embed` to return the softmax of its logits, float32 [B,K]."""
    return lambda state, images: jax.nn.softmax(embed(state, images)[1]["logits"], axis=1)


def judged(config: ConfigDict, state: TrainState) -> dict[str, Any]:
    """Computes the scores of the averaged network's own classifier on the test split."""
    if not data.has_split(config.data, "test"):
        return {}
    source = data.make_source(config.data, "test")
    method, _ = build.make_method(config, axis_name=None)
    launcher = make_launcher(config.launch)
    size = config.augment.size
    logits, labels, _ = embed_source(
        launcher.compile_embed(select_feature(method.embed, "logits")),
        state,
        source,
        batch_size=BATCH,
        transform=data.eval_transform(config.data, source, size=size),
    )
    return {
        **classifier_scores(logits, labels),
        "protocol": f"own classifier, averaged weights, not augmented, {size} px, "
        f"{len(labels):,} test examples of {source.name}",
    }


def _teacher_of(stage: Stage) -> dict[str, str]:
    """Returns the provenance that the labels of a stage must have."""
    network = stage.network
    assert network is not None  # see `plan`
    path = network / DONE
    if path.exists():
        with contextlib.suppress(UserError, KeyError):  # then hash the network itself
            return {"teacher_sha256": workdir.read_json(path)["sha256"]}
    return {"teacher_sha256": _hash(workdir.read_config(network), build.load_encoder(network)[1])}


def _label(stage: Stage, place: Path) -> dict[str, Any]:
    """Predicts pseudo-labels for all unlabelled images, in parts, then selects which to use."""
    config, settings = stage.config, stage.config[stage.config.method]
    assert stage.network is not None  # see `plan`
    place.mkdir(exist_ok=True)
    split = semi_supervised.split(config, data.make_source(config.data, "train"))
    if not len(split.rows):
        raise UserError(
            f"Stage {stage.name}: every example of '{split.labelled.name}' is labelled, none is "
            "left to label. Type --config.noisy_student.label_fraction=0.1, or use other "
            "images: --config.noisy_student.unlabeled_name=NAME."
        )
    data.check_same(
        workdir.read_classes(stage.network),
        data.class_names(split.labelled),
        what=f"The teacher in '{stage.network}' and data set '{split.labelled.name}'",
        advice="Use a teacher that was trained on this data set.",
    )
    launcher = make_launcher(config.launch)
    embed, state = build.load_encoder(stage.network, sharding=launcher.sharding)
    teacher = workdir.read_config(stage.network)
    provenance = {
        "teacher": str(stage.network),
        "teacher_step": str(int(state.step)),
        "teacher_sha256": _hash(teacher, state),
        "config_hash": config_lib.config_hash(teacher),
        "data": split.unlabelled.name,
        "fingerprint": split.unlabelled.fingerprint(),
    }
    compiled = launcher.compile_embed(probabilities(embed))
    transform = data.eval_transform(
        semi_supervised.unlabelled_data(config), split.unlabelled, size=teacher.augment.size
    )
    parts = []
    for first in range(0, len(split.rows), PART):
        rows = split.rows[first : first + PART]
        path = place / f"part-{first}.npz"
        if not path.exists():
            source = data.Part(split.unlabelled, rows)
            probs, _, indices = embed_source(
                compiled, state, source, batch_size=BATCH, transform=transform
            )
            part = pseudo_labels.PseudoLabels(
                rows[indices], probs, np.ones(len(indices), np.int32), provenance
            )
            _only_first(functools.partial(pseudo_labels.save, path, part))
        parts.append(pseudo_labels.load(path, expected=provenance))
    probs = np.concatenate([part.probs for part in parts])
    copies = pseudo_labels.select(
        probs,
        per_class=settings.images_per_class,
        min_confidence=settings.min_confidence,
        upsample=settings.upsample,
        empty_classes=settings.empty_classes,
        seed=config.seed,
    )
    indices = np.concatenate([part.indices for part in parts])
    if names := data.class_names(split.labelled):
        provenance["classes"] = json.dumps(names)
    labels = pseudo_labels.PseudoLabels(indices, probs, copies, provenance)
    _only_first(lambda: pseudo_labels.save(place / LABELS, labels))
    _only_first(functools.partial(_remove_parts, place))
    kept = int(np.sum(copies > 0))
    say(f"{kept:,} of {len(probs):,} images keep their pseudo-labels, used {copies.sum():,} times")
    return {"labelled": len(probs), "kept": kept, "used": int(copies.sum()), **provenance}


def _remove_parts(place: Path) -> None:
    for path in place.glob("part-*.npz"):
        path.unlink()


def _record(
    config: ConfigDict,
    stages: Sequence[Stage],
    finished: Mapping[str, dict[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """Returns a record for `jssl.run.results`: a row per network, and one per student's gain."""
    networks = [s for s in stages if s.kind != "label" and "top1" in finished[s.name]]
    rows = []
    for i, stage in enumerate(networks):
        done = finished[stage.name]
        # A stage that an older version finished has no more than the first three.
        kept = ("top1", "correct", "count", "top5", "mean_per_class")
        numbers = {key: done[key] for key in kept if key in done}
        rows.append(_row(stage.name, done["protocol"], done["top1"], trained=numbers))
        if i:
            before = finished[networks[i - 1].name]
            gain = done["top1"] - before["top1"]
            protocol = "difference of the two rows, seed by seed, in points"
            rows.append(_row(f"{stage.name} minus {networks[i - 1].name}", protocol, gain))
    fraction = config[config.method].label_fraction
    shown = f", {100 * fraction:g} % labels" if fraction < 1 else ""
    steps = [done["step"] for done in finished.values() if "step" in done]
    return {
        "name": f"{config.method} on {config.data.name}{shown}{_origin(stages, folder)}",
        "run_hash": _run_hash(config),
        "seed": config.seed,
        "epochs": sum(stage.config.epochs for stage in stages if stage.kind != "label"),
        "steps": sum(steps),
        "minutes": sum(done["minutes"] for done in finished.values()),
        "rows": rows,
        "versions": versions.collect(),
    }


def _row(probe: str, protocol: str, top1: float, **numbers: Any) -> dict[str, Any]:
    return {"probe": probe, "protocol": protocol, "top1": {"trained": top1}, "numbers": numbers}


def _origin(stages: Sequence[Stage], folder: Path) -> str:
    """Describes from which run the first stage that trains started; '' for none."""
    for stage in stages:
        record = pretrained.record(folder / stage.name)
        if record is not None and stage.config.init_from:
            return f", {stage.kind} after {record.get('weights') or record['method']}"
    return ""


def _run_hash(config: ConfigDict) -> str:
    flat = config_lib.flatten(config)
    flat["init_from"] = bool(config.init_from)  # the name says from what
    kept = {k: v for k, v in flat.items() if k != "seed" and not k.startswith(workdir.FREE)}
    return config_lib.config_hash(kept)


def _only_first(write: Callable[[], Any]) -> None:
    """Writes in the first process, while the others wait."""
    if jax.process_index() == 0:
        write()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jssl.run.stages")


def _write(path: Path, value: Any) -> None:
    _only_first(lambda: workdir.write_json(path, value))
