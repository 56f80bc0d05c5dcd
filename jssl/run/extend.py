"""`jssl train --extend`: the same run in the same workdir, with more epochs."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jssl import files, methods
from jssl.errors import UserError
from jssl.run import build, init_from, workdir
from jssl.run.writers import say
from jssl.types import RunLengths

RECORD = "extended.json"


class Extension(NamedTuple):
    """The changes of a run that is extended.

    Attributes:
        step: of the checkpoint from which it continues.
        epochs: old and new.
        steps: in the whole run, old and new.
        schedules: {name: (old value at `step`, new)} of everything that depends on the length.
    """

    step: int
    epochs: tuple[float, float]
    steps: tuple[int, int]
    schedules: dict[str, tuple[float, float]]


def check(folder: str | Path, parts: build.Experiment) -> Extension | None:
    """Compares a longer run with the one in its workdir; nothing is written.

    Args:
        folder: the workdir.
        parts: of the longer run.

    Returns:
        None if the run was already extended to this length, and resumes.

    Raises:
        UserError: no run to extend, or one that is not shorter. Other differences are refused by
            `jssl.run.workdir.open_workdir`.
    """
    config, place = parts.config, workdir.local(folder)
    steps = init_from.steps_of(place)
    if not os.path.exists(place / "config.json") or not steps:
        raise UserError(
            f"--extend makes a run longer, but the workdir {place.absolute()} has no checkpoint. "
            "Leave --extend out to start the run."
        )
    old, step = workdir.read_config(place), steps[-1]
    if old.method != config.method:
        return None  # refused with the workdir
    before, now = old.run.total_steps, parts.total_steps
    if (
        config.epochs == old.epochs
        and now == before
        and _records(place)[-1:]
        and (_records(place)[-1]["epochs"][1] == config.epochs)
    ):
        return None
    if config.epochs <= old.epochs or now <= before:
        raise UserError(
            f"--extend makes a run longer: the workdir {place.absolute()} has one of "
            f"{old.epochs:g} epochs ({before} steps), found {config.epochs:g} ({now} steps). Type "
            f"--config.epochs=N with N above {old.epochs:g}."
        )
    if config.max_steps and config.max_steps <= step:
        raise UserError(
            f"--extend would train nothing: the run is at step {step}, and --config.max_steps="
            f"{config.max_steps} ends it there. Type --config.max_steps=0."
        )
    values = [{k: float(f(step)) for k, f in _schedules(c).items()} for c in (old, config)]
    schedules = {name: (value, values[1][name]) for name, value in values[0].items()}
    return Extension(step, (old.epochs, config.epochs), (before, now), schedules)


def _schedules(config: Any) -> dict[str, Any]:
    """Returns everything that depends on the length of a run, as functions of the step."""
    _, rate = build.make_method(config, axis_name=None)
    others = methods.get(config.method).schedules(config, RunLengths(**config.run))
    return {"learning rate": rate, **others}


def tell(folder: Path, longer: Extension) -> None:
    """Prints what happens to the schedules, and adds it to the workdir's `extended.json`."""
    shown = "; ".join(f"{k} {a:.6g} -> {b:.6g}" for k, (a, b) in longer.schedules.items())
    say(
        f"extended from {longer.epochs[0]:g} to {longer.epochs[1]:g} epochs ({longer.steps[0]} -> "
        f"{longer.steps[1]} steps): from step {longer.step} on the schedules are those of a run of "
        f"{longer.steps[1]} steps; at step {longer.step}: {shown}"
    )
    if jax.process_index() == 0:
        files.write_json(folder / RECORD, [*_records(folder), longer._asdict()])


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / RECORD
    return workdir.read_json(path, kind=list) if path.exists() else []


def refuse_stages() -> None:
    """Refuses a config with several stages.

    Raises:
        UserError: always.
    """
    raise UserError(
        "--extend is for a single training, but this config has several stages, each with its own "
        "length: leave --extend out, and type another --workdir for longer stages."
    )
