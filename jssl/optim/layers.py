"""Learning rates by layer: layer-wise decay of a transformer, a multiple for a classifier."""

import re
from typing import Any

import jax
import optax

from jssl.errors import UserError
from jssl.types import PyTree

_FIRST = re.compile(r"(^|/)(patch_embed/.*|cls_token|dist_token|mask_token|pos_embed)$")
_BLOCK = re.compile(r"(^|/)block(\d+)/")


def layer_of(name: str, *, depth: int) -> int:
    """Returns the layer of a ViT parameter: 0 before the blocks, i + 1 in block i, then depth + 1.

    Example:
        >>> names = 'patch_embed/kernel', 'block0/fc1/bias', 'fc_norm/scale', 'relative_table'
        >>> [layer_of(f'encoder/{name}', depth=12) for name in names]
        [0, 1, 13, 13]
    """
    if _FIRST.search(name):
        return 0
    block = _BLOCK.search(name)
    return int(block[2]) + 1 if block else depth + 1


def layer_scales(params: PyTree, *, decay: float, depth: int) -> PyTree:
    """Returns decay^(depth + 1 - layer) for every parameter.

    Args:
        params: of a ViT of `depth` blocks and its heads; only the structure is read.
        decay: in (0, 1].
        depth: number of blocks.

    Returns:
        A tree of floats; 1 for the head.

    Raises:
        UserError: a decay outside (0, 1]; parameters without blocks.

    Example:
        >>> params = {'patch_embed': {'bias': 0.0}, 'block11': {'fc1': 0.0}, 'head': 0.0}
        >>> scales = layer_scales(params, decay=0.65, depth=12)
        >>> round(scales['patch_embed']['bias'], 6), scales['block11']['fc1'], scales['head']
        (0.003697, 0.65, 1.0)

    Reference: BEiT, https://github.com/microsoft/unilm/tree/master/beit, optim_factory.py.
    """
    if not 0 < decay <= 1:
        raise UserError(f"Expected a layer decay in (0, 1], found {decay}.")
    names = []

    def scale(path: tuple[Any, ...], _: Any) -> float:
        names.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        return decay ** (depth + 1 - layer_of(names[-1], depth=depth))

    scales = jax.tree_util.tree_map_with_path(scale, params)
    if not any(_BLOCK.search(name) for name in names):
        raise UserError(
            "Layer-wise decay is for a ViT, found parameters without blocks: "
            f"{', '.join(names[:5])}. Type --config.supervised.layer_decay=1.0."
        )
    return scales


def scale_by_layer(*, decay: float, depth: int) -> optax.GradientTransformation:
    """Multiplies the updates, including weight decay, by `layer_scales`.

    After an optimiser, it equals the learning rates of the official code's parameter groups.

    Example:
        >>> tx = scale_by_layer(decay=0.5, depth=1)
        >>> params = {'block0': {'w': 1.0}, 'head': 1.0}
        >>> tx.update(params, tx.init(params), params)[0]
        {'block0': {'w': 0.5}, 'head': 1.0}
    """

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        scales = layer_scales(updates, decay=decay, depth=depth)
        return jax.tree.map(lambda u, s: u * s, updates, scales), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def scale_by_name(pattern: str, *, factor: float) -> optax.GradientTransformation:
    """Multiplies the updates of the parameters whose path matches a regex.

    After an optimiser, it multiplies their learning rate, at every step of the schedule.

    Args:
        pattern: searched in the path, joined by '/', as 'classifier/kernel'.
        factor: above 0.

    Example:
        >>> tx = scale_by_name('^classifier/', factor=250.0)
        >>> params = {'classifier': {'bias': 1.0}, 'encoder': 1.0}
        >>> tx.update(params, tx.init(params), params)[0]
        {'classifier': {'bias': 250.0}, 'encoder': 1.0}
    """
    if not factor > 0:
        raise UserError(f"Expected a factor of the learning rate above 0, found {factor}.")

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        matches = []

        def scaled(path: tuple[Any, ...], leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            matches.append(bool(re.search(pattern, name)))
            return leaf * factor if matches[-1] else leaf

        updates = jax.tree_util.tree_map_with_path(scaled, updates)
        if not any(matches):
            raise UserError(f"No parameter's path has '{pattern}' in it.")
        return updates, state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
