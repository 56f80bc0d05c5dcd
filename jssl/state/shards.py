"""Leaves of a state that are split over devices instead of replicated.

A State declares them: `SPLIT = {"bank": 1}` allows to split axis 1 of the leaves under `bank`. The
launch mode decides: `shard_map` splits them, and a step gets its device's part; `pmap`, `vmap:N`
and `jit` give every replica the whole leaf.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jssl.errors import UserError
from jssl.types import PyTree


def partition_specs(state: PyTree, mesh: Mesh) -> PyTree:
    """Returns the PartitionSpec of every leaf of a state on a one-axis mesh.

    Args:
        state: of arrays or their shapes; its type may have `SPLIT`, {field: axis}.
        mesh: of one axis.

    Returns:
        The same tree of PartitionSpecs: split for the leaves in `SPLIT`, else replicated.

    Raises:
        UserError: a leaf that cannot be split equally over the devices.

    Example:
        >>> import numpy as np
        >>> mesh = Mesh(np.array(jax.devices()[:1]), ('batch',))
        >>> partition_specs({'bank': np.zeros((2, 4))}, mesh)['bank'] == PartitionSpec()
        True
    """
    split = vars(type(state)).get("SPLIT", {})
    name = mesh.axis_names[0]

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        if not split or path[0].name not in split:
            return PartitionSpec()
        field = path[0].name
        rows = leaf.shape[split[field]]
        if rows % mesh.size:
            raise UserError(
                f"Leaf '{field}' {tuple(leaf.shape)} of the state cannot be shared by {mesh.size} "
                f"devices: expected a divisor of {rows}. Type --config.launch=pmap, which gives "
                "each device the whole of it, or take another number of devices."
            )
        return PartitionSpec(*[None] * split[field], name)

    return jax.tree_util.tree_map_with_path(spec, state)


def shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """Returns `partition_specs` as NamedShardings."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        partition_specs(state, mesh),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
