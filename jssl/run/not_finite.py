"""A run whose loss was not finite: what it keeps, and how to go on with it."""

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
# Flags of the command that the advised one has in another form.
REPLACED = ("workdir", "extend", "config.init_from", "config.optim.lr", *(
    f"config.{key}" for key in versioned.OLD_KEYS))  # fmt: skip
# Keys that cannot change whether a loss is finite.
IRRELEVANT = ("log.", "checkpoint.")


def stop(folder: Path, config: ConfigDict, found: str, *, step: int, good: int | None) -> NoReturn:
    """Ends a run, with how to go on from its last good state; a marker is left in the workdir.

    Args:
        folder: the workdir.
        config: of the run.
        found: what is not finite.
        step: of the newest checkpoint.
        good: of the newest one that is not broken; None where there is none.

    Raises:
        NotFiniteError: always.
    """
    words = advice(folder, config, good=good)
    if jax.process_index() == 0:
        marker = {"step": step, "message": f"{found} {words}", "config": _relevant(config)}
        files.write_json(folder / MARKER, marker)
    raise NotFiniteError(found, words)


def advice(folder: Path, config: ConfigDict, *, good: int | None) -> str:
    """How to go on from a good state: a new workdir, `init_from` and half the learning rate.

    Args:
        folder: the workdir of the run that stopped.
        config: of it.
        good: step of the state; None where there is none, and the run is to start again.
    """
    if os.path.exists(folder.parent / "stages.json"):
        return (
            f"It is a stage of {folder.parent}: type another --workdir and a smaller "
            f"--config.optim.lr than {config.optim.lr:g}."
        )
    if good == 0 and config.init_from:
        return (
            f"Not one update was made: the network of --config.init_from={config.init_from} was "
            f"lost before. Type --config.init_from={pretrained.split(config.init_from)[0]}:N with "
            f"an earlier step, or leave it out, and --workdir={_free(folder)}."
        )
    rate = f"{config.optim.lr / 2:.6g}"
    begun = config.init_from if good is None else f"{folder}:{good}"
    flags = [f"--workdir={_free(folder)}", f"--config.optim.lr={rate}"]
    flags += [f"--config.init_from={begun}"] if begun else []
    words = shlex.split(versions.command())
    kept = _without(words) if "train" in words else ["jssl", "train", "--config=FILE.py"]
    how = (
        f"To go on from step {good}, begin a new run with its network and a smaller learning rate; "
        "the optimiser's state starts anew"
    )
    earlier = [str(step) for step in init_from.steps_of(folder) if good and step < good]
    if earlier:
        how += f" (or from an earlier one, if it was lost before: there are {', '.join(earlier)})"
    if good is None:
        how = "No good state is kept; begin a new run with a smaller learning rate"
    return (
        f"{how}:\n  {shlex.join([*kept, *flags])}\n"
        "A longer --config.optim.warmup_epochs may help as well."
    )


def _without(words: list[str]) -> list[str]:
    """A command without the flags of `REPLACED`, in each way in which they can be typed."""
    kept, skip = [], False
    for position, word in enumerate(words):
        flag, given, _ = word.lstrip("-").partition("=")
        if skip:
            skip = False
        elif word.startswith("-") and flag in REPLACED:
            following = words[position + 1 : position + 2]
            skip = not given and flag != "extend" and bool(following) and following[0][:1] != "-"
        else:
            kept.append(word)
    return kept


def _free(folder: Path) -> Path:
    number = 2
    while (place := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return place


def check(folder: str | Path, config: ConfigDict) -> None:
    """Stops a run that would come to the same loss again.

    It goes on where a setting differs (the data were mended, another launch, more epochs), where
    the kept state is no longer the newest, and where the marker was deleted.

    Args:
        folder: the workdir.
        config: of the run that is to start, resolved.

    Raises:
        NotFiniteError: with what was said then.
    """
    path = workdir.local(folder) / MARKER
    if not os.path.exists(path):  # False, too, for a name that is too long
        return
    found = workdir.read_json(path)
    if found.get("config") != _relevant(config):
        return
    if init_from.steps_of(path.parent)[-1:] != [found.get("step")]:
        return
    raise NotFiniteError(
        f"{found.get('message')}\nThis is what the run said when it stopped: it was not tried "
        f"again, as nothing has changed. To try it all the same, delete {path}."
    )


def clear(folder: Path) -> None:
    """Removes the marker of a run that goes on."""
    if jax.process_index() == 0:
        (folder / MARKER).unlink(missing_ok=True)


def _relevant(config: Any) -> dict[str, Any]:
    flat = config_lib.flatten(json.loads(config.to_json()))
    return {key: value for key, value in flat.items() if not key.startswith(IRRELEVANT)}
