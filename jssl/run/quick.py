"""Trains on a folder of pictures without a config file: `jssl train --data=DIR --method=NAME`.

What is chosen is printed in five lines, and written to the config of the workdir, from which the
same command resumes. `chosen.json` has the lines, and for `--minutes` what was measured.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jssl import files, methods
from jssl.errors import UserError
from jssl.optim import TRANSFORMER
from jssl.run import build, chosen, pretrained, sinks, timed, workdir
from jssl.run.writers import say

RECORD = "chosen.json"
# What a method adds to its network, or chooses in it, whatever weights the run starts from.
ADDED = ("distillation_token", "mask_token", "freeze_patches", "stochastic_depth", "dropout",
         "bn_groups")  # fmt: skip
# Keys of a config for which this form has flags.
FLAG_OF = {"data.data_dir": "data", "model.name": "model", "augment.size": "size",
           "epochs": "epochs"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the user asked for; None leaves a choice to `choose`.

    Attributes:
        data: the folder of pictures; '' for an object.
        method: of `jssl.methods`.
        model, size, epochs: network, side of a view in pixels, length.
        minutes: length as a time; instead of `epochs`.
        labels: 'auto': sub-folders are classes; 'none': every picture at any depth, no labels.
        settings: (key, value) of each `--config.KEY=VALUE`.
        processes: whether worker processes may read the pictures.
        name: of the data set: 'folder', or 'python' for an object.
    """

    data: str
    method: str
    model: str | None = None
    size: int | None = None
    minutes: float | None = None
    epochs: float | None = None
    labels: str = "auto"
    settings: Sequence[tuple[str, str]] = ()
    processes: bool = True
    name: str = "folder"


def choose(asked: Asked, device: chosen.Device) -> tuple[ConfigDict, list[str]]:
    """Chooses every setting of a run.

    Args:
        asked: by the user.
        device: to train on.

    Returns:
        The config, and five lines: what was chosen, why, and how to change it.

    Raises:
        UserError: something that a method, a folder or a device does not allow.
    """
    config = chosen.base(asked.method, asked.data, asked.labels, asked.size or 64, asked.name)
    chosen.set_all(config, asked.settings)
    typed = "data.held_out" in dict(asked.settings)
    pictures = chosen.look(config, held_out=config.data.held_out if typed else None)
    if pictures.classes < 2 and methods.get(asked.method).labels == "required":
        if asked.name == "python":
            raise UserError(
                f"method='{asked.method}' learns from labels, but '{pictures.name}' has "
                f"{pictures.classes} classes: expected items (picture, label) of two or more. "
                "Pass such items, or a method without labels, such as method='simclr'."
            )
        raise UserError(
            f"--method={asked.method} learns from labels, but the pictures in '{asked.data}' have "
            "none: expected a folder with one sub-folder per class. Make them, or type a method "
            "without labels, such as --method=simclr."
        )
    size = asked.size or chosen.side(pictures, device)
    config = chosen.base(asked.method, asked.data, asked.labels, size, asked.name)
    config.data.held_out = pictures.held_out
    start = dict(asked.settings).get("init_from", "")
    if not (start and asked.model is None and same_network(config, start)):
        if name := asked.model or chosen.network_of(config, pictures, device):
            chosen.set_model(config, name, size)
        chosen.set_patches(config, size)
    config.dtype = "float32" if device.platform == "cpu" else "bfloat16"
    config.data.workers = chosen.workers_of(device) if asked.processes else 0
    config.batch_size = chosen.batch_of(pictures, device)
    chosen.set_all(config, asked.settings)
    chosen.fit_method(config, pictures.total)
    steps = max(1, pictures.total // config.batch_size)
    chosen.set_length(config, asked.epochs or chosen.epochs_of(steps, device), steps)
    chosen.set_all(config, asked.settings)
    return config, _lines(asked, config, pictures, device)


def same_network(config: ConfigDict, start: str) -> bool:
    """Sets, in place, the network of the workdir from which a run starts.

    Args:
        config: of the run; what its method adds to a network is kept.
        start: value of `init_from`.

    Returns:
        Whether it was set: not from a file of weights, and not if no config is there to read.
    """
    folder, _ = pretrained.split(start)
    if not (workdir.local(folder) / "config.json").is_file():
        return False  # `init_from.read` says what is there
    model = workdir.read_config(folder).model
    if model.name == "dvae" or config.model.name == "dvae":
        return False  # these fit no other network, which is refused with its reason
    own = {key: config.model[key] for key in ADDED if key in config.model}
    if model.name.startswith("vit") and not config.model.name.startswith("vit"):
        config.optim.rules = TRANSFORMER
    config.model.update({**model, **own})
    return True


def _lines(
    asked: Asked, c: ConfigDict, pictures: chosen.Pictures, device: chosen.Device
) -> list[str]:
    labels = "sub-folders are classes (--labels=none: no labels)"
    if asked.name == "python":
        labels = "labels of the items" if pictures.classes else "no labels"
    elif asked.labels == "none":
        labels = "sub-folders are not classes, as --labels=none says"
    elif not pictures.classes:
        labels = "no sub-folders, so no labels"
    classes = f"{pictures.classes} classes" if pictures.classes else "no classes"
    total = pictures.total + pictures.held_out
    if c.data.held_out:
        classes += f", {c.data.held_out:,} held out for the numbers"
    where = f"{device.number} x {device.kind}, {device.cores} cores"
    depth = f", width {c.model.width:g}" if c.model.width != 1 else ""
    own = ", the network of the method" if c.model.name == "dvae" else " (--model=NAME)"
    if c.init_from:
        own = f", to start from {c.init_from}{own}"
    readers = f"{c.data.workers} processes" if c.data.workers else "threads of this process"
    cut = "random crops of the original pictures"
    if c.data.image_size or c.data.host_crop == "device":
        side = c.data.image_size or c.augment.size
        cut = f"the host shrinks the pictures to {side} px, the device crops"
    return [
        f"data     {pictures.name}: {total:,} pictures, {classes}; {labels}",
        f"model    {c.model.name}{depth}, {c.dtype}, for {where}{own}",
        f"views    {c.augment.size} px, {cut}; {pictures.sizes} (--size=N)",
        _length_line(c, pictures.total, "" if asked.epochs else f"for a {device.platform}"),
        f"reading  by {readers}; settings of {asked.method}_photos (--config.data.workers=N; any "
        "key: --config.KEY=VALUE)",
    ]


def _length_line(config: ConfigDict, count: int, reason: str) -> str:
    per_epoch = count // config.batch_size
    steps = max(1, round(config.epochs * per_epoch))
    return (
        f"length   {config.epochs:g} epochs of {per_epoch} steps of {config.batch_size} pictures: "
        f"{steps:,} steps{', ' * bool(reason)}{reason} (--epochs=N, --minutes=N, "
        "--config.batch_size=N)"
    )


def resumed(asked: Asked, folder: Path) -> ConfigDict | None:
    """Returns the config of the run in a workdir, which goes on as it was chosen; None: no run.

    Raises:
        UserError: what is asked now differs from what that run has.
    """
    if not (workdir.local(folder) / "config.json").exists():
        return None
    config = workdir.read_config(folder)
    record = workdir.local(folder) / RECORD
    minutes = workdir.read_json(record).get("minutes") if record.exists() else None
    if asked.name != config.data.name:
        kinds = {"python": "a Python object", "folder": "a folder of pictures"}
        was = kinds.get(config.data.name, f"data set '{config.data.name}'")
        raise UserError(
            f"The workdir {folder} holds a run on {was}, found {kinds[asked.name]}. Type another "
            "--workdir, or resume that run with the data with which it started."
        )
    rows = [
        ("method", asked.method, config.method),
        ("model", asked.model, config.model.name),
        ("size", asked.size, config.augment.size),
        ("minutes", asked.minutes, minutes),
    ]
    if "data.layout" not in dict(asked.settings):
        was_none = config.data.layout == "nested"
        rows.append(("labels", asked.labels, "none" if was_none else "auto"))
    differ = [row for row in rows if row[1] is not None and row[1] != row[2]]
    if differ:
        now = " ".join(f"--{flag}={value}" for flag, value, _ in differ)
        was = " ".join(f"--{flag}={value}" for flag, _, value in differ if value is not None)
        raise UserError(
            f"The workdir {folder} holds a run with {was or 'no --minutes'}, found {now}. Type "
            "another --workdir, or the same flags to resume that run."
        )
    config.data.data_dir = asked.data
    config.data.workers = chosen.workers_of(chosen.this_device()) if asked.processes else 0
    if asked.epochs is not None:  # another length is refused, but for --extend
        config.epochs = float(asked.epochs)
    chosen.set_all(config, asked.settings)
    say(f"resumes the run in {folder} with the settings in its config.json")
    return config


def resolve(asked: Asked, folder: str | Path, started: float | None = None) -> ConfigDict:
    """Returns the config of a run on a folder, new or resumed, and prints what was chosen.

    Args:
        asked: by the user.
        folder: the workdir.
        started: `time.monotonic()` when the run began, for `minutes`.

    Raises:
        UserError: a mistake, in the flags of this form.
    """
    started = time.monotonic() if started is None else started
    check(asked)
    with own_flags():
        return _resolve(asked, Path(folder), started)


def _resolve(asked: Asked, folder: Path, started: float) -> ConfigDict:
    if asked.data:
        asked = dataclasses.replace(asked, data=str(Path(asked.data).expanduser()))
    if (config := resumed(asked, folder)) is not None:
        return config
    config, lines = choose(asked, chosen.this_device())
    sinks.check(config)
    parts = build.build(config)  # checks all, before anything is compiled
    record: dict[str, Any] = {}
    if asked.minutes is not None:
        say("measuring the speed for --minutes: compiles, and times a few steps ...")
        speed = timed.measure(parts)
        steps = config.run.steps_per_epoch
        epochs = timed.epochs_in(asked.minutes, time.monotonic() - started, speed, steps)
        chosen.set_length(config, epochs, steps)
        chosen.set_all(config, asked.settings)
        reason = (
            f"for --minutes={asked.minutes:g}: {speed.step:.2g} s a step, measured over "
            f"{speed.steps}, compiling {speed.compiling:.0f} s"
        )
        lines[3] = _length_line(config, config.run.num_examples, reason)
        record = {"minutes": asked.minutes, **speed._asdict(), "epochs": epochs}
    say("\n".join(lines))
    if jax.process_index() == 0:
        files.write_json(workdir.make_folder(folder) / RECORD, {**record, "lines": lines})
    return config


def check(asked: Asked) -> None:
    """Checks what was asked without reading the data.

    Raises:
        UserError: an unknown method, a value outside its range, or a flag given twice.
    """
    chosen.check(asked.method, asked.data, asked.labels)
    if asked.minutes is not None and asked.epochs is not None:
        raise UserError("Found --minutes and --epochs: expected one of them. Leave one out.")
    if asked.minutes is not None and jax.process_count() > 1:
        raise UserError(
            "--minutes measures the speed of one process; this job has several. Type --epochs=N."
        )
    for flag in ("minutes", "epochs"):
        value = getattr(asked, flag)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{flag} expects a number above 0, found {value:g}.")
    if asked.size is not None and (asked.size < 32 or asked.size % 8):
        raise UserError(
            f"--size expects a multiple of 8 from 32 up, found {asked.size}. Type for example "
            f"--size={max(32, round(asked.size / 8) * 8)}."
        )
    taken = [key for key, _ in asked.settings if key in FLAG_OF]
    taken += [key for key, _ in asked.settings if key == "data.layout" and asked.labels == "none"]
    if taken:
        key = taken[0]
        flag = f"--{FLAG_OF[key]}=VALUE" if key in FLAG_OF else "no --labels=none"
        raise UserError(f"--config.{key} has a flag of its own with --data: type {flag}.")


@contextlib.contextmanager
def own_flags() -> Iterator[None]:
    """Translates the keys in a `UserError` to the flags of this form."""
    try:
        yield
    except UserError as error:
        if type(error) is not UserError:  # others have parts of their own
            raise
        raise UserError(in_flags(str(error))) from error


def in_flags(message: str) -> str:
    """Translates the keys in an error message to the flags of this form.

    Example:
        >>> in_flags('Type --config.data.data_dir=DIR or --config.seed=1.')
        'Type --data=DIR or --config.seed=1.'
    """
    for key, flag in FLAG_OF.items():
        message = re.sub(rf"--config\.{re.escape(key)}(?![\w.])", f"--{flag}", message)
    return message
