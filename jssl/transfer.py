"""An encoder from another run's checkpoint, as the start of a fine-tuning."""

from typing import Any

import jax
import numpy as np

from jssl import checkpoint, experiment, workdir
from jssl.errors import UserError
from jssl.models.position import at_resolution, expand_shared_table
from jssl.types import PyTree, TrainState

NEW = ("fc_norm",)  # of an encoder with mean pooling: not pre-trained


def fitted(found: PyTree, like: PyTree, *, grid: int, new_grid: int) -> PyTree:
    """Pre-trained parameters in the structure of another encoder.

    A shared relative table is given to every block where `like` has one a block; tables and
    position embeddings are resized from `grid` x `grid` patches to `new_grid`; what `like` has no
    place for (the mask token, the last norm) is left out; the norm after mean pooling is `like`'s.

    Args:
        found: parameters of the encoder that was trained.
        like: of the one to start, with its own initialisation.
        grid, new_grid: patches along a side of both.

    Returns:
        A tree with the structure of `like`.

    Raises:
        UserError: parameters that `found` lacks, or that have another shape.
    """
    shared = "relative_table" in found and "relative_table" not in like
    if shared and "relative_table" in like.get("block0", {}):
        found = expand_shared_table(found)
    if grid != new_grid:
        found = at_resolution(found, grid=(grid, grid), new_grid=(new_grid, new_grid))
    have, want = checkpoint.flat_leaves(found), checkpoint.flat_leaves(like)
    wrong = [
        f"  {name}: {'absent' if name not in have else list(have[name].shape)}, "
        f"expected {list(leaf.shape)}"
        for name, leaf in want.items()
        if name.split(".")[0] not in NEW and np.shape(have.get(name)) != leaf.shape
    ]
    if wrong:
        raise UserError(
            f"The pre-trained encoder does not fit config.model in {len(wrong)} parameters:\n"
            + "\n".join(wrong[:5])
            + "\nGive the model section of the run it comes from."
        )
    leaves = [have.get(name, leaf) for name, leaf in want.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def trained_network(folder: str, *, sharding: Any) -> tuple[Any, PyTree, PyTree]:
    """The network that a run's `embed` uses: the averaged weights where it keeps them.

    Args:
        folder: workdir of the run.
        sharding: where it is to lie.

    Returns:
        The run's config, parameters and running statistics.

    Raises:
        UserError: no workdir, or no checkpoint in it.
    """
    _, state = experiment.load_encoder(folder, sharding=sharding)
    if getattr(state, "average", {}):
        statistics = getattr(state, "average_stats", state.batch_stats)
        return workdir.read_config(folder), state.average, statistics
    return workdir.read_config(folder), state.params, state.batch_stats


def encoder_for(config: Any, old: Any, found: PyTree, like: PyTree) -> PyTree:
    """`fitted` for two configs: the encoder `found` of `old` in the structure of `config`'s."""
    grids = [1, 1]  # a convolutional network has no places
    if config.model.name.startswith("vit") and old.model.name.startswith("vit"):
        grids = [c.augment.size // c.model.patch_size for c in (old, config)]
    return fitted(found, like, grid=grids[0], new_grid=grids[1])


def as_trained(config: Any, folder: str) -> None:
    """Sets, in place, what an encoder must have as in the run that it comes from.

    The model section and the normalisation of the pictures: another padding or mean would fit the
    parameters' shapes, and spoil them unseen. Batch normalisation is over the whole batch again.

    Args:
        config: of the run that is to start, from `jssl.config.base('supervised', ...)`.
        folder: workdir of the other.

    Raises:
        UserError: no workdir.
    """
    before = workdir.read_config(folder)
    config.model.update(before.model)
    config.model.bn_groups = 1
    config.augment.normalize = before.augment.normalize


def start_from(config: Any, state: TrainState, folder: str) -> TrainState:
    """The first state of a run with the encoder of another run.

    Args:
        config: of the run that starts.
        state: its first state, whose `params` and `batch_stats` have an 'encoder'.
        folder: workdir of the other.

    Returns:
        The state with parameters and running statistics of the encoder replaced.

    Raises:
        UserError: no workdir, no checkpoint, no encoder in it, or one that does not fit.
    """
    sharding = jax.tree.leaves(state.params)[0].sharding
    before, params, batch_stats = trained_network(folder, sharding=sharding)
    if "encoder" not in params:
        raise UserError(
            f"The run in '{folder}' is of method '{before.method}', whose parameters "
            f"{sorted(params)} have no 'encoder'. Type another --config.supervised.init_from."
        )
    encoder = encoder_for(config, before, params["encoder"], state.params["encoder"])
    # Each leaf a buffer of its own: the step gives its state's buffers away.
    encoder = jax.tree.map(lambda x: jax.device_put(np.array(x), sharding), encoder)
    state = state.replace(params={**state.params, "encoder": encoder})
    if "encoder" in state.batch_stats:
        statistics = {**state.batch_stats, "encoder": batch_stats["encoder"]}
        state = state.replace(batch_stats=statistics)
    return state
