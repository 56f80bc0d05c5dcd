"""Trains a detector or a segmentation network for a protocol, in a workdir of its own.

A second call resumes it, and returns a finished one without another step.
"""

import contextlib
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import data, methods
from jssl.errors import NotFiniteError, UserError
from jssl.evaluate.context import Context
from jssl.run import batches as batching
from jssl.run import build, checkpoint, init_from, lock, pretrained, stopping, workdir, writers
from jssl.run.writers import say
from jssl.types import TrainState

DRY_STEPS = 2
CUTOUTS = "cutouts"
SELECTIVE_SEARCH = "selective_search_data"  # in --data_dir, as its archive unpacks


def dense_config(context: Context, method: str, preset: str, *, kind: str, seed: int) -> ConfigDict:
    """Returns the config of a training on the network of a run.

    Args:
        context: of the run; its --source, --data_dir and --epochs are read.
        method: 'faster_rcnn', 'fast_rcnn', 'fcn' or 'fcn32s'.
        preset: of the method; on cut-outs 'cutouts'.
        kind: 'trained' or 'untrained'.
        seed: of the training.

    Raises:
        UserError: fewer epochs than one.
    """
    settings = context.settings
    source = settings.source or "voc"
    config = config_lib.base(method, preset=CUTOUTS if source == CUTOUTS else preset)
    config.data.name = source
    config.data.data_dir = settings.data_dir or ""
    if source not in ("voc", CUTOUTS):  # the preset's splits are VOC's
        config.data.train_split = config.data.test_split = ""
    if config[method].get("proposals") == "":
        config[method].proposals = str(Path(settings.data_dir or ".") / SELECTIVE_SEARCH)
    kind_of_labels = methods.get(method).data.dense
    if source == "folder" and kind_of_labels == "masks":
        section, key = (config.fcn, "test_size") if method == "fcn" else (config.augment, "size")
        section[key] = max(config.augment.size, *_sides(config, kind_of_labels))
    config.seed = seed
    if settings.epochs:
        if settings.epochs < 1:
            raise UserError(f"Found --epochs={settings.epochs:g}: a training expects 1 or more.")
        share = settings.epochs / config.epochs
        config.optim.boundaries = tuple(b * share for b in config.optim.boundaries)
        config.optim.warmup_epochs *= min(1.0, share)
        config.epochs = float(settings.epochs)
    name = str(context.folder)
    if settings.step is not None:
        name += f":{settings.step}"
    pretrained.as_trained(config, name)
    config.init_from = name if kind == "trained" else ""
    if settings.limit:
        config.max_steps = DRY_STEPS
        config.batch_size = min(config.batch_size, settings.limit)
        section = config[method]
        if "precise_batches" in section:
            section.precise_batches = min(section.precise_batches, DRY_STEPS)
    config.launch = "jit" if config.batch_size % jax.device_count() else "pmap"
    return config


def _sides(config: ConfigDict, kind: str) -> list[int]:
    """Returns the longer side of every picture: whole pictures lie on a square of the largest."""
    sources = (data.make_dense_source(config.data, split, kind) for split in ("train", "test"))
    return [max(s.encoded(i)["image"].size()) for s in sources for i in range(len(s))]


def experiment(config: ConfigDict, *, limit: int | None = None) -> build.Experiment:
    """Builds the parts of a training; of a dry run on `limit` pictures of each split."""
    parts = build.build(config)
    if limit is None:
        return parts
    train, test = (data.Limited(s, limit) for s in (parts.train_source, parts.test_source))
    return parts._replace(train_source=train, probe_source=train, test_source=test)


def train_dense(parts: build.Experiment, folder: Path) -> TrainState:
    """Trains until the config's last step; resumes if the folder has a checkpoint.

    Args:
        parts: from `experiment`.
        folder: the workdir of the training.

    Returns:
        The last state, global.

    Raises:
        UserError: the network does not fit, or the folder belongs to another training.
        NotFiniteError: the loss is not finite.
    """
    config = parts.config
    source = init_from.read(parts, folder)
    folder = workdir.make_folder(folder)
    with workdir.write_errors(folder), lock.held(folder):
        workdir.open_workdir(folder, config, classes=parts.class_names)
        saved = checkpoint.Checkpoints(folder, method=config.method, keep=1)
        batches = batching.batches_of(parts)
        with contextlib.closing(saved), contextlib.closing(batches):
            step, _ = saved.newest_whole()
            if step is None:
                state: Any = build.init_state(parts)
                if source is not None:
                    state = init_from.put(parts, source, state, folder)
            else:
                state, data_state = saved.restore(build.abstract_state(parts), step)
                batches.restore(data_state)
            return _loop(parts, state, batches, saved)


def _loop(parts: build.Experiment, state: TrainState, batches: Any, saved: Any) -> TrainState:
    config, launcher, first = parts.config, parts.launcher, int(state.step)
    last = min(parts.total_steps, config.max_steps or parts.total_steps)
    progress = writers.Progress(total=last, initial=first, images_per_step=config.batch_size)
    step_fn = launcher.compile_step(parts.method.train_step)

    pending: tuple[int, Any] | None = None

    def read(step: int, values: Any) -> None:
        """Reads the numbers of one update: stops if not finite, reports if due."""
        loss, done = float(np.asarray(values["loss"])), step + 1
        progress.advance(done)
        if not bool(np.asarray(values["ok"])):
            raise NotFiniteError(
                f"The loss of {config.method} is not finite at step {step}. Type another --seed, "
                "or train its config with a lower --config.optim.lr."
            )
        if done % config.log.every_steps == 0 or done == last:
            progress.report(done, {"loss": loss})

    with contextlib.closing(progress), stopping.after_the_step():
        if first < last:
            progress.say("compiling ...")
        for step in range(first, last):
            state, values = step_fn(state, launcher.put_batch(next(batches)), np.int32(step))
            # The numbers of the last step are read while this one runs.
            if pending is not None:
                read(*pending)
            pending, done, stop = (step, values), step + 1, stopping.asked()
            if done % config.checkpoint.every_steps == 0 or done == last or stop:
                read(*pending)
                pending = None
                saved.save(done, launcher.as_global(state), batches.state())
            if stop:
                _exit(saved, done)
        saved.wait()
    return launcher.as_global(state)


def _exit(saved: Any, done: int) -> NoReturn:
    saved.wait()
    say(f"Asked to stop: the training is saved after step {done}; the same command resumes it.")
    raise SystemExit(stopping.STATUS)
