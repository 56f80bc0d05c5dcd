"""Stops a run whose loss is not finite, and tells how to continue it."""

import json
import os
import shlex
from pathlib import Path
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import files
from jssl.errors import NotFiniteError
from jssl.run import init_from, pretrained, versioned, versions, workdir

MARKER = "not_finite.json"
# Flags of the command that the suggested command replaces.
REPLACED = ("workdir", "extend", "config.init_from", "config.optim.lr", *(
    f"config.{key}" for key in versioned.OLD_KEYS))  # fmt: skip
# Keys that cannot change whether a loss is finite.
IRRELEVANT = ("log.", "checkpoint.")


def stop(folder: Path, config: ConfigDict, found: str, *, step: int, good: int | None) -> NoReturn:
    """Ends a run, with how to continue from its last good state; writes a marker to the workdir.

    Args:
        folder: the workdir.
        config: of the run.
        found: what is not finite.
        step: of the newest checkpoint.
        good: step of the newest finite checkpoint; None if there is none.

    Raises:
        NotFiniteError: always.
    """
    text = advice(folder, config, good=good)
    if jax.process_index() == 0:
        marker = {"step": step, "message": f"{found} {text}", "config": _relevant(config)}
        files.write_json(folder / MARKER, marker)
    raise NotFiniteError(found, text)


def advice(folder: Path, config: ConfigDict, *, good: int | None) -> str:
    """Returns how to continue from a good state: new workdir, `init_from`, half the learning rate.

    Args:
        folder: the workdir of the stopped run.
        config: of that run.
        good: step of the state; None if there is none, and the run must start again.
    """
    if os.path.exists(folder.parent / "stages.json"):
        return (
            f"It is a stage of {folder.parent}: type another --workdir and a smaller "
            f"--config.optim.lr than {config.optim.lr:g}."
        )
    if good == 0 and config.init_from:
        return (
            f"No update was made: the network of --config.init_from={config.init_from} is already "
            f"broken. Type --config.init_from={pretrained.split(config.init_from)[0]}:N with "
            f"an earlier step, or leave it out, and --workdir={_free(folder)}."
        )
    rate = f"{config.optim.lr / 2:.6g}"
    start = config.init_from if good is None else f"{folder}:{good}"
    flags = [f"--workdir={_free(folder)}", f"--config.optim.lr={rate}"]
    flags += [f"--config.init_from={start}"] if start else []
    args = shlex.split(versions.command())
    kept = _without(args) if "train" in args else ["jssl", "train", "--config=FILE.py"]
    how = (
        f"To continue from step {good}, start a new run with its network and a smaller learning "
        "rate; the optimiser's state starts anew"
    )
    earlier = [str(step) for step in init_from.steps_of(folder) if good and step < good]
    if earlier:
        how += f" (if it is already broken, from an earlier step: {', '.join(earlier)})"
    if good is None:
        how = "No good state is kept; start a new run with a smaller learning rate"
    return (
        f"{how}:\n  {shlex.join([*kept, *flags])}\n"
        "A longer --config.optim.warmup_epochs may help as well."
    )


def _without(args: list[str]) -> list[str]:
    """Removes the flags in `REPLACED` from a command, in every form that can be typed."""
    kept, skip = [], False
    for position, arg in enumerate(args):
        flag, given, _ = arg.lstrip("-").partition("=")
        if skip:
            skip = False
        elif arg.startswith("-") and flag in REPLACED:
            following = args[position + 1 : position + 2]
            skip = not given and flag != "extend" and bool(following) and following[0][:1] != "-"
        else:
            kept.append(arg)
    return kept


def _free(folder: Path) -> Path:
    number = 2
    while (place := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return place


def check(folder: str | Path, config: ConfigDict) -> None:
    """Stops a run that would reach the same loss again.

    The run may start if a setting differs (repaired data, another launch, more epochs), if the
    stored state is no longer the newest, or if the marker was deleted.

    Args:
        folder: the workdir.
        config: of the run to start, resolved.

    Raises:
        NotFiniteError: with the earlier message.
    """
    path = workdir.local(folder) / MARKER
    if not os.path.exists(path):  # False, too, for a name that is too long
        return
    marker = workdir.read_json(path)
    if marker.get("config") != _relevant(config):
        return
    if init_from.steps_of(path.parent)[-1:] != [marker.get("step")]:
        return
    raise NotFiniteError(
        f"{marker.get('message')}\nThis is the earlier message of the run: it was not tried "
        f"again, as nothing has changed. To try again anyway, delete {path}."
    )


def clear(folder: Path) -> None:
    """Removes the marker of a run that continues."""
    if jax.process_index() == 0:
        (folder / MARKER).unlink(missing_ok=True)


def _relevant(config: Any) -> dict[str, Any]:
    flat = config_lib.flatten(json.loads(config.to_json()))
    return {key: value for key, value in flat.items() if not key.startswith(IRRELEVANT)}
