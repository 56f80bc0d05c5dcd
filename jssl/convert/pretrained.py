"""Loads published weights: the kind of file is recognised, and every name in it is checked."""

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jssl import files
from jssl.augment._pixels import in_words
from jssl.convert import (
    byol,
    cmc,
    dalle,
    efficientnets,
    moco_v3,
    plain_nets,
    regnets,
    resnets,
    simclr,
    swav,
    vits,
)
from jssl.convert.containers import Weights, is_weights, read_weights
from jssl.convert.family import Family, reason
from jssl.convert.transformers_names import from_transformers
from jssl.errors import UserError, nearest
from jssl.run import build, checkpoint, checks, checksums, pretrained, workdir
from jssl.run.writers import say
from jssl.types import TrainState

# fmt: off
FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (resnets, moco_v3, simclr, byol, cmc, plain_nets, swav, efficientnets, regnets,
                   vits, dalle)
    for family in module.FAMILIES
}
# fmt: on
BESIDE = "no part of the network"  # an optimiser's state, a bank
SHOWN = 5  # names in a message
RECORD = pretrained.WEIGHTS


class Pretrained(NamedTuple):
    """A published network.

    Attributes:
        family: what kind of file it is of.
        config: of a run with this network.
        state: with its weights; what the file does not have is as in a new run.
        dropped: name in the file -> why it was left out.
        kept: leaves of the state that the file does not have.
        assumed: what the file does not say, and was taken for granted; '' for nothing.
        absent: modules of the network that the file does not have, as in a new run.
    """

    family: Family
    config: ConfigDict
    state: TrainState
    dropped: dict[str, str]
    kept: tuple[str, ...]
    assumed: str
    absent: tuple[str, ...] = ()


def read_pretrained(path: str | Path, family: str | None = None) -> Pretrained:
    """Reads a published weights file.

    Args:
        path: of the file, or of a folder of timm or Hugging Face.
        family: a key of `FAMILIES`; by default it is recognised from the names in the file.

    Raises:
        UserError: a file that cannot be read, no known family, or tensors that are missing, not
            known or of another shape; the message names the first of them.
    """
    weights = from_transformers(read_weights(path))
    chosen = _find(weights, family)
    named = weights.other.get("architecture")
    if isinstance(named, str) and not re.fullmatch(chosen.architectures, named):
        raise UserError(
            f"'{path}' is of architecture '{named}', which jssl does not have, although its "
            f"tensors have the names of family '{chosen.name}': expected {chosen.about}."
        )
    try:
        weights = weights._replace(tensors=dict(chosen.prepare(weights.tensors)))
        config = chosen.config(weights)
        checks.check(config)
    except UserError as error:
        raise UserError(f"'{path}', family '{chosen.name}': {error}") from error
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"'{path}' does not fit family '{chosen.name}' ({chosen.about}): its tensors do not "
            f"describe such a network, {error}. Type another --family, one of "
            f"{', '.join(FAMILIES)}."
        ) from error
    method, _ = build.make_method(config, axis_name=None)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, 1))
    sources = {leaf: chosen.source(leaf, config) for leaf in checkpoint.flat_leaves(shapes)}
    absent = _absent(chosen, sources, weights)
    sources = {leaf: None if _module(leaf) in absent else n for leaf, n in sources.items()}
    kept = [leaf for leaf, name in sources.items() if name is None]

    def initial() -> dict[str, Any]:
        leaves = checkpoint.flat_leaves(build.first_state(config, method, 1))
        return {leaf: leaves[leaf] for leaf in kept}

    values, problems = {}, []
    for leaf, value in checkpoint.flat_leaves(shapes).items():
        if (name := sources[leaf]) is None:
            continue
        try:
            values[leaf] = _value(weights, name, leaf, value, chosen, config)
        except _MisfitError as error:
            problems.append(f"  {name}: {error}")
    dropped = dict.fromkeys(weights.beside, BESIDE)
    for name in sorted(set(weights.tensors) - set(sources.values())):
        why = reason(name, chosen.dropped)
        if why is None:
            problems.append(f"  {name}: not known to family '{chosen.name}'")
        else:
            dropped[name] = why
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"'{path}' does not fit family '{chosen.name}' ({chosen.about}) in {len(problems)} "
            "tensors:\n" + "\n".join(problems[:SHOWN]) + f"{more}\nType another --family, one of "
            f"{', '.join(FAMILIES)}; or fetch the file again from where its authors publish it."
        )
    state = checkpoint.from_leaves(shapes, {**values, **jax.jit(initial)()})
    assumed = "" if "pretrained_cfg" in weights.other else chosen.assumed
    return Pretrained(chosen, config, state, dropped, tuple(kept), assumed, absent)


class _MisfitError(Exception):
    """Says why a tensor is not the leaf of a state."""


def _value(
    weights: Weights, name: str, leaf: str, like: Any, family: Family, config: ConfigDict
) -> jax.Array:
    """Reads the tensor of a leaf in jssl's layout.

    Args:
        weights: of the file.
        name: of the tensor.
        leaf: of the state.
        like: its shape and dtype.
        family, config: of the file.

    Raises:
        _MisfitError: absent, of another shape, or not finite.
    """
    if name not in weights.tensors:
        raise _MisfitError(f"absent, expected for {leaf} {list(like.shape)}")
    tensor = np.asarray(weights.tensors[name])
    try:
        array = family.convert(leaf, tensor, config)
    except (ValueError, IndexError, TypeError) as error:  # a shape that it cannot turn or split
        why = f". {error}" if isinstance(error, UserError) else ""
        raise _MisfitError(
            f"{list(tensor.shape)} cannot be {leaf}, expected {list(like.shape)} as jssl has "
            f"it{why}"
        ) from None
    if array.shape != like.shape:
        raise _MisfitError(f"as {leaf} {list(array.shape)}, expected {list(like.shape)}")
    if not np.all(np.isfinite(np.asarray(array, np.float32))):
        raise _MisfitError("values that are not finite")
    return jnp.asarray(np.asarray(array, like.dtype))


def _module(leaf: str) -> str:
    """The module of a leaf of the parameters; '' of another leaf."""
    return leaf.split(".")[1] if leaf.startswith("params.") else ""


def _absent(family: Family, sources: dict[str, str | None], weights: Weights) -> tuple[str, ...]:
    """The optional modules of which the file has no tensor."""
    held = {_module(leaf) for leaf, name in sources.items() if name in weights.tensors}
    modules = {_module(leaf) for leaf in sources}
    return tuple(m for m in family.optional if m in modules and m not in held)


def _find(weights: Weights, family: str | None) -> Family:
    names = frozenset(weights.tensors)
    if family is not None:
        if family not in FAMILIES:
            raise UserError(f"Unknown --family={family}: {nearest(family, FAMILIES)}.")
        return FAMILIES[family]
    matching = [known for known in FAMILIES.values() if known.matches(names)]
    if len(matching) != 1:
        first = ", ".join(sorted(names)[:SHOWN])
        raise UserError(
            f"'{weights.path}' is of no family that jssl recognises: found {len(names)} tensors, "
            f"{first}, ... Expected one of {', '.join(FAMILIES)}; type --family=NAME."
        )
    return matching[0]


def load_pretrained(path: str | Path, family: str | None = None):
    """Loads published weights as a pure function and its state, as `load_encoder` does a run's.

    Args:
        path: of the file, or of a folder of timm or Hugging Face.
        family: a key of `FAMILIES`; by default it is recognised from the names in the file.

    Returns:
        `(embed, state)`: `embed(state, images [B,H,W,3]) -> (features float32 [B,D],
        intermediates)` is pure; images are uint8, or float in [0, 1], of any size that the network
        takes, and are normalised as the network was trained.

    Raises:
        UserError: as `read_pretrained`.

    Example (MoCo v2's file):
        embed, state = jssl.load_pretrained('moco_v2_800ep_pretrain.pth.tar')
        features, _ = jax.jit(embed)(state, images)
    """
    loaded = read_pretrained(path, family)
    tell(loaded, path, stacklevel=3)
    method, _ = build.make_method(loaded.config, axis_name=None)
    return method.embed, loaded.state


def tell(loaded: Pretrained, path: str | Path, *, stacklevel: int) -> None:
    """Prints whose file was read and its licence; warns of what it does not say or have.

    Args:
        loaded: what was read.
        path: as it was given.
        stacklevel: of the warnings.
    """
    if loaded.assumed:
        text = f"{path} does not say it, assumed: {loaded.assumed}"
        warnings.warn(text, stacklevel=stacklevel)
    if loaded.absent:
        warnings.warn(f"{path}: {_untrained(loaded.absent)}", stacklevel=stacklevel)
    say(f"{path}: {loaded.family.about}; licence of the file: {loaded.family.licence}")


def import_weights(path: str | Path, folder: str | Path, family: str | None = None) -> None:
    """Writes published weights as the workdir of a run, which every command takes.

    A workdir into which the same file was imported before is left as it is.

    Args:
        path: of the file.
        folder: the workdir.
        family: as `read_pretrained`.

    Raises:
        UserError: as `read_pretrained`; a folder that holds anything else.
    """
    folder, record = Path(folder), Path(folder) / RECORD
    weights = read_weights(path)
    sha256 = _sum(weights)
    if record.exists() and workdir.read_json(record).get("sha256") == sha256:
        say(f"{path} was imported into {folder} before")
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"The folder '{folder}' holds something else than what --weights={path} would write, "
            "or an import that was interrupted: remove it, or type another --workdir."
        )
    loaded = read_pretrained(path, family)
    workdir.open_workdir(folder, loaded.config)
    saved = checkpoint.Checkpoints(folder, method=loaded.config.method)
    try:
        saved.save(0, loaded.state, {})
    finally:
        saved.close()
    facts = {
        "file": ", ".join(file.name for file in weights.files),
        "sha256": sha256,
        "container": weights.container,
        "family": loaded.family.name,
        "licence": loaded.family.licence,
        "left_out": loaded.dropped,
    }
    files.write_json(record, facts)  # last: a folder with it is whole
    for line in describe(loaded):
        say(line)


def import_if_weights(name: str, folder: Path) -> Path | None:
    """Imports the file of a name as `import_weights` does; returns None if it is no weights file.

    Args:
        name: of a weights file, or of anything else.
        folder: the workdir that is written.
    """
    if not is_weights(name):
        return None
    import_weights(name, folder)
    return folder


def _sum(weights: Weights) -> str:
    """The sha256 of a file; of several, that of their sums in order."""
    sums = [checksums.file_sum(file) for file in weights.files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def describe(loaded: Pretrained) -> list[str]:
    """What was read of a file, in lines for the terminal."""
    config, family = loaded.config, loaded.family
    count = sum(x.size for x in jax.tree.leaves(loaded.state.params))
    lines = [
        f"{family.about}: {config.model.name}, {count:,} parameters, as method '{config.method}'; "
        f"licence of the file: {family.licence}",
        f"preprocessing: {config.augment.size} px, normalised by '{in_words(config.augment)}'",
    ]
    if loaded.assumed:
        lines.append(f"NOTE the file does not say it, assumed: {loaded.assumed}")
    if loaded.absent:
        lines.append(f"NOTE {_untrained(loaded.absent)}")
    for why in sorted(set(loaded.dropped.values())):
        count = sum(other == why for other in loaded.dropped.values())
        lines.append(f"left out: {count} tensors, {why}")
    return lines


def _untrained(absent: tuple[str, ...]) -> str:
    return f"not in the file, untrained here: {', '.join(absent)}; its logits say nothing"
