"""Leaves of a state that are split over devices instead of replicated.

A State declares them: `SPLIT = {"bank": 1}` allows to split axis 1 of the leaves under `bank`. The
launch mode decides: `shard_map` splits them, and a step gets its device's part; `fsdp` splits them
and every other large leaf; `pmap`, `vmap:N` and `jit` give every replica the whole leaf.
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


SMALLEST = 1024  # values of a leaf that `scattered` splits


def scattered(state: PyTree, mesh: Mesh) -> PyTree:
    """Returns shardings that split every large leaf of a state over the devices.

    The leaves in `SPLIT` along their axis, the others along the longest axis that the number of
    devices divides; a leaf with none, or with fewer than `SMALLEST` values, is replicated.

    Args:
        state: of arrays or their shapes.
        mesh: of one axis.

    Returns:
        The same tree of NamedShardings.

    Raises:
        UserError: a leaf in `SPLIT` that cannot be split equally over the devices.

    Example:
        >>> import numpy as np
        >>> mesh = Mesh(np.array(jax.devices()[:1]), ('batch',))
        >>> shapes = {'kernel': np.zeros((3, 3, 16, 32)), 'bias': np.zeros(32)}
        >>> {name: tuple(x.spec) for name, x in scattered(shapes, mesh).items()}
        {'bias': (), 'kernel': (None, None, None, 'batch')}
    """
    name = mesh.axis_names[0]

    def one(leaf: Any, declared: PartitionSpec) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n % mesh.size == 0]
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if declared != PartitionSpec() or not axes or leaf.size < SMALLEST or is_key:
            return NamedSharding(mesh, declared)
        axis = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, name))

    return jax.tree.map(one, state, partition_specs(state, mesh))
