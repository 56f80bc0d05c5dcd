"""Builds the parts of a run from a config: data, launcher, optimiser, method and first state."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import data, methods, models, optim
from jssl.data import semi_supervised
from jssl.data.channels import other_channels
from jssl.errors import UserError
from jssl.methods._common import blank_batch as blank_batch
from jssl.methods._common import (
    channels_of,
    check_accumulate,
    check_colours,
    input_functions,
)
from jssl.methods.spec import LabelledPart
from jssl.parallel.launcher import Launcher, check_batch_size, make_launcher, placed
from jssl.parallel.microbatches import accumulate_of, check_groups, check_microbatches
from jssl.run import batches, checkpoint, checks, dense, versioned, workdir
from jssl.third_party import same_handlers
from jssl.types import Method, RunLengths, TrainState


class Experiment(NamedTuple):
    """The parts of one run.

    Attributes:
        config: the resolved config.
        train_source: examples to train on.
        probe_source: labelled examples on which kNN and linear probes are fitted; usually the same.
        test_source: examples to evaluate on; None for a folder without such a split.
        launcher: runs the step on the devices.
        method: the method's pure functions.
        schedule: step -> learning rate.
        steps_per_epoch, total_steps: in updates.
        held_out: labelled training examples that are not trained with; None if there are none.
    """

    config: ConfigDict
    train_source: Any
    probe_source: Any
    test_source: Any
    launcher: Launcher
    method: Method
    schedule: Any
    steps_per_epoch: int
    total_steps: int
    held_out: Any = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names of the data; None if unknown, () if there are no labels."""
        names = data.class_names(self.train_source)
        return data.class_names(self.probe_source) if names == () else names


def build(config: ConfigDict) -> Experiment:
    """Checks a config, and builds the parts of its run.

    Args:
        config: from a config file; `run` is set from the data, and so is a method's
            `num_classes` if it is 0.

    Returns:
        An `Experiment`; nothing is compiled yet.

    Raises:
        UserError: an invalid config, before any compilation.
    """
    versioned.move_old_keys(config)
    checks.check(config)
    spec = methods.get(config.method)
    check_colours(config)
    check_accumulate(config)
    input_functions(config)  # refuses operations and statistics that the channels do not have
    resolve(config)
    extra_fields(config)
    launcher = make_launcher(config.launch)
    check_batch_size(config.batch_size, launcher)
    parts = {"batch_size": config.batch_size, "devices": launcher.size}
    check_microbatches(accumulate_of(config), **parts)
    if config.model.norm == "bn":
        check_groups(config.model.bn_groups, accumulate=accumulate_of(config), **parts)
    models.check_devices(config.model.name, launcher.size)
    train_source, probe_source, test_source, held_out = _sources(config)
    section = config[config.method]
    _check_classes(section, train_source, probe_source, test_source)
    if "num_classes" in section and section.num_classes == 0:
        labelled = train_source.num_classes >= 2
        if not labelled and spec.labels == "required":
            raise UserError(
                f"Method '{config.method}' needs labels, but data set '{train_source.name}' has "
                f"{train_source.num_classes} classes: expected a folder with one sub-folder per "
                "class, or a labelled data set. Type --config.data.name=NAME."
            )
        section.num_classes = train_source.num_classes if labelled else 0
    if needs_labels(config) and section.num_classes < train_source.num_classes:
        raise UserError(
            f"--config.{config.method}.num_classes={section.num_classes}, but data set "
            f"'{train_source.name}' has {train_source.num_classes} classes: expected at least that "
            "many, or 0 to count them."
        )
    count_lengths(config, len(train_source), advice="Type --config.batch_size=N with a smaller N.")
    method, schedule = make_method(config, axis_name=launcher.axis_name)
    return Experiment(
        config,
        train_source,
        probe_source,
        test_source,
        launcher,
        method,
        schedule,
        config.run.steps_per_epoch,
        config.run.total_steps,
        held_out,
    )


def _sources(config: ConfigDict) -> tuple[Any, Any, Any, Any]:
    """Returns the examples to train on, to probe with, to test on, and those held out (or None)."""
    spec = methods.get(config.method)
    if spec.data.dense:
        return dense.sources(config)
    train_source = data.make_source(config.data, "train")
    _check_channels(config, train_source)
    _check_fields(config, train_source)
    config.data.host_crop = data.resolve_crop(
        config.data, train_source, random=batches.random_crops(config)
    )
    probe_source = data.make_source(config.data, "probe")
    part = spec.data.part(config)
    _check_held_out(config, part)
    train_source, probe_source, held_out = data.hold_out(
        train_source, probe_source, config.data.held_out
    )
    test_source: data.Source | None = None
    if part.held_out:
        test_source = data.held_out_part(train_source, count=part.held_out)
    if part != LabelledPart():  # the probes use the same labels as the method
        train_source = probe_source = data.labelled_part(
            train_source, **part._asdict(), seed=config.seed
        )
    if spec.data.pseudo_labels:
        train_source = probe_source = semi_supervised.labelled_half(config, train_source)
    if test_source is None and data.has_split(config.data, "test"):
        test_source = data.make_source(config.data, "test")
    test_source = held_out if test_source is None else test_source
    return train_source, probe_source, test_source, held_out


def _check_held_out(config: ConfigDict, part: LabelledPart) -> None:
    if not config.data.held_out:
        return
    if part.held_out:
        raise UserError(
            f"Found --config.data.held_out={config.data.held_out} and --config.{config.method}."
            f"held_out={part.held_out}: expected one of them. Type --config.data.held_out=0."
        )
    if methods.get(config.method).data.pseudo_labels:
        raise UserError(
            f"Method '{config.method}' has labelled and unlabelled parts of its own. Type "
            "--config.data.held_out=0."
        )


def count_lengths(config: ConfigDict, examples: int, *, advice: str) -> None:
    """Sets `config.run`: the number of examples, the steps of an epoch and of the run.

    Args:
        config: of the run, in place.
        examples: of the train split.
        advice: what to type where they do not fill a batch.

    Raises:
        UserError: fewer examples than a batch.
    """
    steps = examples // config.batch_size
    if steps == 0:
        raise UserError(
            f"Batch size {config.batch_size} is larger than the {examples} training examples of "
            f"'{config.data.name}'. {advice}"
        )
    total = optim.count_updates(
        config.updates, examples=examples, epochs=config.epochs, batch_size=config.batch_size
    )
    config.run.update(num_examples=examples, steps_per_epoch=steps, total_steps=total)


def resolve(config: ConfigDict) -> None:
    """Sets, in place, what a method needs from other runs, such as its teacher.

    Raises:
        UserError: a required run is not named, does not exist, or does not fit.
    """
    for other in methods.get(config.method).other_runs:
        if not other.wanted(config):
            continue
        key = f"config.{config.method}.{other.key}"
        folder = config[config.method][other.key]
        if not (Path(folder) / "config.json").exists():
            raise UserError(
                f"{key}='{folder}' is not the workdir of a run: expected one with a config.json. "
                f"{other.advice or f'Type --{key}=WORKDIR of a trained run.'}"
            )
        theirs = workdir.read_config(folder)
        if channels_of(theirs) != channels_of(config):
            raise UserError(
                f"{key}='{folder}' is a run on pictures of data.channels={channels_of(theirs)}, "
                f"this one has {channels_of(config)}: expected the same. {other.advice or ''}"
            )
        other.resolve(config, theirs)


def _check_classes(section: Any, train: Any, probe: Any, test: Any) -> None:
    """Refuses splits, and a teacher, whose labels mean other classes."""
    names = data.class_names(train) or data.class_names(probe)
    for other, split in ((probe, "probe"), (test, "test")):
        data.check_same(
            data.class_names(other),
            names,
            what=f"The {split} split of '{other.name if other else ''}' and its training data",
            advice=f"Type another --config.data.{split}_split.",
        )
    teacher = section.get("teacher", "")
    if teacher and Path(teacher).is_dir():
        data.check_same(
            workdir.read_classes(teacher),
            names,
            what=f"The teacher in '{teacher}' and data set '{train.name}'",
            advice="Use a teacher that was trained on this data set.",
        )


def needs_labels(config: ConfigDict) -> bool:
    """Whether a method requires labels."""
    return methods.get(config.method).labels == "required"


def make_method(config: ConfigDict, *, axis_name: str | None) -> tuple[Method, Any]:
    """Returns the method and its learning-rate schedule, for the lengths in `config.run`."""
    steps_per_epoch = config.run.steps_per_epoch
    if config.updates != "whole_epochs":
        steps_per_epoch = config.run.num_examples / config.batch_size
    tx, schedule = optim.build(
        config.optim,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.run.total_steps,
    )
    lengths = RunLengths(**config.run)
    return methods.get(config.method).make(config, tx, lengths, axis_name=axis_name), schedule


def extra_fields(config: ConfigDict) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns the arrays that a method needs: {name: (shape after [B,H,W], dtype)}."""
    return dict(methods.get(config.method).data.extra_fields(config))


def _check_channels(config: ConfigDict, source: Any) -> None:
    """Refuses a source whose pictures have other channels, as far as one picture shows it."""
    channels, shape = channels_of(config), source.image_shape
    if shape is None and channels != 3 and len(source) and source.on_error == "stop":
        shape = source[0]["image"].shape
    if shape is not None and shape[-1] != channels:
        raise UserError(
            f"The first picture of data set '{source.name}' {other_channels(shape, channels)}."
        )


def _check_fields(config: ConfigDict, source: Any) -> None:
    needed = extra_fields(config)
    example = source[0] if needed else {}
    shapes = {k: (*np.shape(example["image"])[:2], *shape) for k, (shape, _) in needed.items()}
    wrong = [k for k in needed if k not in example or np.shape(example[k]) != shapes[k]]
    if wrong:
        found = ", ".join(
            f"{k} {np.asarray(v).dtype} {list(np.shape(v))}" for k, v in example.items()
        )
        raise UserError(
            f"Data set '{source.name}' lacks the arrays for the views of config.{config.method}. "
            f"Found in an example: {found}. Expected: "
            + "; ".join(f"{k} {needed[k][1]} {list(shapes[k])}" for k in wrong)
            + ". See jssl/augment/modalities.py for units and directions. To use your own "
            "arrays type --config.data.name=arrays --config.data.data_dir=FOLDER, with train.npz "
            "and test.npz in it."
        )


def first_state(config: ConfigDict, method: Method, size: int) -> TrainState:
    """Returns the state before training, from the config's seed only; call it under jit."""
    return method.init(jax.random.key(config.seed), blank_batch(config, size))


def init_state(experiment: Experiment, *, begin: bool = True) -> TrainState:
    """Returns the state before training, with the launcher's sharding.

    Networks of other runs that the state holds (a teacher, a tokenizer) are loaded here, unless
    `begin=False`. The network of `init_from` is loaded by `jssl.run.train`, see
    `jssl.run.init_from`: here it is untrained.
    """
    config, launcher = experiment.config, experiment.launcher
    size = config.batch_size // launcher.size
    state = launcher.init(lambda: first_state(config, experiment.method, size))
    if not begin:
        return state
    return placed(launcher, put_other_runs(config, state, launcher.sharding))


def put_other_runs(config: ConfigDict, state: TrainState, sharding: Any = None) -> TrainState:
    """Puts the networks of other runs, such as a teacher, into the first state of a method.

    Args:
        config: of the run.
        state: the first state.
        sharding: of a replicated leaf; by default that of the first parameter.
    """
    sharding = sharding or jax.tree.leaves(state.params)[0].sharding
    for other in methods.get(config.method).other_runs:
        if other.wanted(config):
            folder = config[config.method][other.key]
            _, other_state = load_encoder(folder, sharding=sharding)
            state = other.put(config, state, other_state)
    return state


def abstract_state(experiment: Experiment) -> TrainState:
    """Returns shapes, dtypes and shardings of the state, without computing it."""
    size = experiment.config.batch_size // experiment.launcher.size
    shapes = jax.eval_shape(lambda: first_state(experiment.config, experiment.method, size))
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        experiment.launcher.shardings(shapes),
    )


@same_handlers()
def load_encoder(folder: str | Path, *, step: int | None = None, sharding: Any = None):
    """Loads the trained network of a run as a pure function and its state.

    Args:
        folder: the workdir of `jssl train`.
        step: of the checkpoint; the newest by default.
        sharding: of the state; one device of this process by default.

    Returns:
        `(embed, state)`: `embed(state, images [B,H,W,C]) -> (features float32 [B,D],
        intermediates)` is pure and may be jitted, vmapped and differentiated; images are uint8,
        or float in [0, 1].

    Raises:
        UserError: not a workdir, no checkpoint, or one with other shapes.

    Example (after a run):
        embed, state = jssl.load_encoder('runs/simclr')
        features, _ = jax.jit(embed)(state, images)
    """
    config = workdir.read_config(folder)
    method, _ = make_method(config, axis_name=None)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: first_state(config, method, config.batch_size))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    checkpoints = checkpoint.Checkpoints(folder, method=config.method, read_only=True)
    try:
        state, _ = checkpoints.restore(like, step)
    finally:
        checkpoints.close()
    return method.embed, state
