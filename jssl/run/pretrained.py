"""Fits the encoder of another run to that of this run, and checks settings that must agree."""

import contextlib
import contextvars
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jssl import config as config_lib
from jssl.augment._pixels import in_words
from jssl.errors import UserError
from jssl.models import VIT_SIZES
from jssl.models.position import at_resolution, expand_shared_table
from jssl.optim import EXCLUDE_NORM_AND_BIAS as RESNET_RULES
from jssl.optim import TRANSFORMER
from jssl.run import checkpoint, workdir
from jssl.types import PyTree

NEW = ("fc_norm",)  # of an encoder with mean pooling: not pre-trained
LEFT_OUT = ("mask_token", "norm")  # of masked pre-training: not used without masks
# Keys of `model` that change the training step, but not the output of given weights.
HARMLESS = ("bn_groups", "bn_momentum", "bn_unbiased_running_var", "stochastic_depth", "dropout",
            "zero_init_last_gamma", "vit_init", "layer_scale", "mask_token", "pool",
            "relative_bias", "kernel_init", "freeze_patches", "remat")  # fmt: skip
RECORD = "init_from.json"  # in the workdir: from what a run started
WEIGHTS = "weights.json"  # in the workdir of an import: which file it was
IMPORTED = "weights"  # in the workdir: a published file from which the run started, as a workdir
# Imports the published weights of a name into a workdir; None for a name of something else.
Importer = Callable[[str, Path], Path | None]


class _Run(NamedTuple):
    folder: Path | None = None
    importer: Importer | None = None


_NO_RUN = _Run()
_run: contextvars.ContextVar[_Run] = contextvars.ContextVar("run", default=_NO_RUN)


def fitted(
    found: PyTree, like: PyTree, *, grid: int, new_grid: int, path: str = "", advice: str = ""
) -> PyTree:
    """Converts pre-trained parameters to the structure of another encoder.

    A shared relative table is copied to every block if `like` has one per block; tables and
    position embeddings are resized from `grid` x `grid` patches to `new_grid`; parameters that
    `like` does not have (the mask token, the last norm) are left out; the norm after mean pooling
    is that of `like`.

    Args:
        found: parameters of the trained encoder.
        like: of the new encoder, with its own initialisation.
        grid, new_grid: patches along a side of both.
        path: prefix of the names in messages.
        advice: what to type if they do not fit.

    Returns:
        A tree with the structure of `like`.

    Raises:
        UserError: parameters that only one has, or with another shape.
    """
    shared = "relative_table" in found and "relative_table" not in like
    if shared and "relative_table" in like.get("block0", {}):
        found = expand_shared_table(found)
    if grid != new_grid:
        found = at_resolution(found, grid=(grid, grid), new_grid=(new_grid, new_grid))
    old, new = checkpoint.flat_leaves(found), checkpoint.flat_leaves(like)
    rows = []
    for name in [*new, *(name for name in old if name not in new)]:
        top = name.split(".")[0]
        if top in (NEW if name not in old else LEFT_OUT if name not in new else ()):
            continue
        shapes = [list(np.shape(x[name])) if name in x else "absent" for x in (old, new)]
        if shapes[0] != shapes[1]:
            rows.append(f"  {path}{name}: {shapes[0]}, expected {shapes[1]}")
    if rows:
        raise UserError(_misfit(rows, advice))
    leaves = [old.get(name, leaf) for name, leaf in new.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _misfit(rows: list[str], advice: str) -> str:
    return (
        f"The pre-trained encoder does not fit config.model in {len(rows)} parameters:\n"
        + "\n".join(rows[:5])
        + f"\n{advice or 'Use the model section of the run it comes from.'}"
    )


def encoder_for(config: Any, old: Any, found: PyTree, like: PyTree, *, path: str = "") -> PyTree:
    """Applies `fitted` to two configs: the encoder `found` of `old` for `config`."""
    grids = [1, 1]  # a convolutional network has no position embeddings
    if config.model.name.startswith("vit") and old.model.name.startswith("vit"):
        grids = [c.augment.size // c.model.patch_size for c in (old, config)]
    advice = _what_to_type(config, old)
    return fitted(found, like, grid=grids[0], new_grid=grids[1], path=path, advice=advice)


def check_same_leaves(
    found: Mapping[str, Any], expected: Mapping[str, Any], config: Any, old: Any, path: str
) -> None:
    """Refuses statistics of another encoder.

    Args:
        found, expected: shape and dtype by name, see `jssl.run.checkpoint.describe`.
        config, old: of this run and of the other.
        path: prefix of the names in the message.

    Raises:
        UserError: they differ.
    """
    rows = [
        f"  {path}{name}: {found.get(name, ['absent'])[0]}, "
        f"expected {expected.get(name, ['absent'])[0]}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if rows:
        raise UserError(_misfit(rows, _what_to_type(config, old)))


def _model_difference(config: Any, old: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the keys of `model` that differ, with the old and the new value."""
    there, here = (json.loads(config_lib.to_json(c.model)) for c in (old, config))  # no tuples
    return {key: (there.get(key), here[key]) for key in here if there.get(key) != here[key]}


def _what_to_type(config: Any, old: Any) -> str:
    if old.method != config.method and "dvae" in (old.method, config.method):
        return (
            f"A run of '{old.method}' has another network: type --config.init_from of another run."
        )
    flags = []
    for key, (there, _) in _model_difference(config, old).items():
        if key in HARMLESS:
            continue
        shown = f"'{tuple(there)!r}'" if isinstance(there, (list, tuple)) else there
        flags.append(f"--config.model.{key}={shown}")
    if not flags:
        return "Use the model section of the run it comes from."
    return f"Type {' '.join(flags)}, as that run has, or --config.init_from of another run."


def other_settings(config: Any, old: Any) -> list[str]:
    """Describes settings that keep all shapes but change the output, a line for each."""
    lines = [
        f"that run was trained with model.{key}={there}, this one has {here}"
        for key, (there, here) in _model_difference(config, old).items()
        if key not in HARMLESS
    ]
    before, now = in_words(old.augment), in_words(config.augment)
    if before != now:
        lines.append(f"that run was trained with augment.normalize={before}, this one has {now}")
    return lines


@contextlib.contextmanager
def run_in(folder: str | Path | None, importer: Importer | None = None) -> Iterator[None]:
    """Sets the workdir for `as_trained` and `workdir_of`.

    Args:
        folder: the workdir of the run; None: there is none.
        importer: of published weights.
    """
    token = _run.set(_Run(Path(folder) if folder else None, importer))
    try:
        yield
    finally:
        _run.reset(token)


def workdir_of(name: str) -> str:
    """Returns the workdir that a run starts from; a weights file is imported into one first.

    Args:
        name: of a workdir; within `run_in` also of a file of published weights, which is imported
            into `IMPORTED` of the run's own workdir.
    """
    folder, importer = _run.get()
    if folder is None or importer is None:
        return name
    return str(importer(name, folder / IMPORTED) or name)


def as_trained(config: Any, init_from: str) -> None:
    """Sets, in place, the settings of an encoder to those of the run that it comes from.

    These are the model section and the normalisation of the images: another padding or mean has
    the same shapes, but would silently change the output. Batch normalisation is over the whole
    batch, and a patch embedding that MoCo v3 froze is trained. Of a ViT the rules of weight decay
    for a ResNet, which do not know its tokens, become those of a transformer. A resumed run reads
    all of this from its own workdir.

    Args:
        config: of the run to start, from `jssl.config.base('supervised', ...)`.
        init_from: `WORKDIR[:step]` of the other, or a weights file.

    Raises:
        UserError: no workdir.
    """
    own = _run.get().folder
    stored = record(own) if own is not None else None
    if stored is not None and stored["init_from"] == init_from:
        model, statistics = stored["model"], stored
    else:
        name = workdir_of(split(init_from)[0])
        if Path(name).is_file():
            raise UserError(
                f"{name} is a file, expected the workdir of a run. {import_first(name)}"
            )
        before = workdir.read_config(name)
        model, statistics = before.model, before.augment
    config.model.update({key: value for key, value in model.items() if key in config.model})
    config.model.bn_groups = 1
    config.model.freeze_patches = False
    of_resnets = [list(rule) for rule in config.optim.rules] == list(map(list, RESNET_RULES))
    if config.model.name in VIT_SIZES and of_resnets:
        with config.ignore_type():
            config.optim.rules = TRANSFORMER
    config.augment.normalize = statistics["normalize"]
    for key in ("mean", "std"):  # records of older versions lack them
        config.augment[key] = tuple(statistics.get(key, ()))


def import_first(name: str) -> str:
    """Returns what to type where a weights file stands for the workdir of a run."""
    return (
        f"For published weights type `jssl import --weights={name} --workdir=DIR`, and then "
        "--config.init_from=DIR."
    )


def split(text: str) -> tuple[str, int | None]:
    """Splits `WORKDIR[:step]`; if a folder has the full name, it is the workdir.

    Example:
        >>> split('runs/a:300'), split('runs/a')
        (('runs/a', 300), ('runs/a', None))
    """
    match = re.fullmatch(r"(.+):(\d+)", text)
    if match is None or Path(text).is_dir():
        return text, None
    return match[1], int(match[2])


def weights_file(folder: str | Path) -> str:
    """Returns the name of the published file that was imported into a workdir; '' if none was."""
    path = Path(folder) / WEIGHTS
    return workdir.read_json(path)["file"] if path.exists() else ""


def record(folder: str | Path) -> dict[str, Any] | None:
    """Reads a run's `init_from.json`; None if the run did not start from another one."""
    path = Path(folder) / RECORD
    return workdir.read_json(path) if path.exists() else None
