"""`jssl.train`: a folder of pictures, a Python object, or a config, from Python."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jssl import data as data_lib
from jssl import models
from jssl.errors import UserError
from jssl.precision import narrow
from jssl.run import quick
from jssl.run import workdir as workdirs
from jssl.run.judge import train_and_judge
from jssl.run.train import OnStep
from jssl.run.train import train as train_config
from jssl.third_party import same_handlers


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of `jssl.train(data=...)`.

    Attributes:
        workdir: of the run, for `jssl evaluate`, `jssl.load_encoder` and so on.
        config: resolved, as in the workdir.
        steps: number of updates.
        metrics: the last value of each number in `metrics.jsonl`.
    """

    workdir: Path
    config: ConfigDict
    steps: int
    metrics: dict[str, float]


@narrow
@same_handlers()
def train(
    config: ConfigDict | None = None,
    folder: str | Path | None = None,
    *,
    data: Any = None,
    method: str | None = None,
    workdir: str | Path | None = None,
    model: str | Any = None,
    size: int | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    labels: str = "auto",
    settings: Mapping[str, Any] | None = None,
    judged: bool = False,
    longer: bool = False,
    on_step: OnStep | None = None,
) -> Any:
    """Trains on pictures, or trains a config; resumes if the workdir has a checkpoint.

    With `data` it is `jssl train --data=DIR`: the settings are chosen, and printed. With `config`
    it is `jssl.run.train.train`. It changes no signal handlers, logging or streams of its caller.

    Args:
        config: the complete config; without `data`.
        folder: the workdir of `config`.
        data: the folder of pictures; or an object with `__len__` and `__getitem__`, such as a
            torch Dataset, see `jssl.data.PythonSource`; or a mapping with such objects as 'train'
            and 'test'. Without `config`.
        method: of `jssl.methods`.
        workdir: of the run on `data`.
        model: name of a network, or a flax module `(images [B,H,W,3], train) -> features [B,D]`,
            which is registered under the name of its class, see `jssl.models.register`.
        size, minutes, epochs, labels: see `jssl.run.quick.Asked`.
        settings: any keys of the config, such as `{'batch_size': 64}`; with `data`.
        on_step: called as `on_step(step, metrics)`, see `jssl.run.train.train`; for a loop, a
            tracker or an early stop of one's own.
        judged, longer: of `config`, see `jssl.run.train.train`.

    Returns:
        With `data` a `Trained`; with `config` the last `TrainState`.

    Raises:
        UserError: mistakes of the user, before anything is compiled.
        NotFiniteError: the loss, the gradient, the network or a feature is not finite.

    Example (trains):
        run = jssl.train(data='pictures', method='simclr', workdir='runs/pictures', epochs=10)
        embed, state = jssl.load_encoder(run.workdir)
    """
    form = {"data": data, "method": method, "workdir": workdir}
    others = {"model": model, "size": size, "minutes": minutes, "epochs": epochs,
              "settings": settings}  # fmt: skip
    given = [name for name, value in {**form, **others}.items() if value is not None]
    if config is not None or folder is not None:
        if given or config is None or folder is None or labels != "auto":
            raise UserError(
                "jssl.train takes a config and its workdir, jssl.train(config, folder), or a "
                "folder of pictures or an object, jssl.train(data=..., method=..., workdir=...); "
                f"found {', '.join(given) or 'one of config and folder'}."
            )
        return train_config(config, folder, judged=judged, longer=longer, on_step=on_step)
    if missing := [name for name in form if name not in given]:
        raise UserError(
            f"jssl.train lacks {', '.join(missing)}. Type for example jssl.train(data='pictures', "
            "method='simclr', workdir='runs/pictures')."
        )
    if judged:
        raise UserError(
            "judged is for a config: with data, the config's final.enabled decides. Leave it out, "
            "or give settings={'final.enabled': True}."
        )
    if model is not None and not isinstance(model, str):
        models.register(type(model).__name__, model)
        model = type(model).__name__
    in_folder = isinstance(data, str | os.PathLike)
    asked = quick.Asked(
        os.fspath(data) if in_folder else "", str(method), model, size, minutes, epochs, labels,
        _typed(settings or {}), False, "folder" if in_folder else "python",
    )  # fmt: skip
    place = str(workdir)
    quick.check(asked)
    with contextlib.nullcontext() if in_folder else data_lib.provided(data, labels=labels):
        resolved = quick.resolve(asked, place)
        with quick.own_flags():
            train_and_judge(resolved, place, longer=longer, on_step=on_step)
    return result_of(place)


def _typed(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns the settings as the command line has them."""
    return tuple((k, v if isinstance(v, str) else repr(v)) for k, v in settings.items())


def result_of(folder: str | Path) -> Trained:
    """Returns the `Trained` of a finished run."""
    place, metrics, steps = Path(folder).absolute(), {}, 0
    for line in (place / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        steps = max(steps, row["step"])
        metrics.update({k: v for k, v in row.items() if k not in ("step", "time")})
    return Trained(place, workdirs.read_config(place), steps, metrics)
