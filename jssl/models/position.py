"""Position embeddings and relative-position tables: initial values and resizing.

Tokens of a grid (h, w) are numbered row by row, after the extra tokens (class, distillation).
Everything here runs on the host, once, when a network is built or its weights are resized.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl.errors import UserError, nearest
from jssl.third_party import unchanged
from jssl.types import Array, PyTree

Grid = tuple[int, int]

METHODS = ("official", "antialiased")
EXTRA_DISTANCES = 3  # class to patch, patch to class, class to class


def sincos_position_embedding(grid: Grid, dim: int, *, temperature: float = 10_000.0) -> np.ndarray:
    """Returns the fixed 2-D position embedding: sin and cos of the row, then of the column.

    With D / 4 frequencies w_i = temperature^(-4 i / D), the token in row r and column c gets
    [sin(r w), cos(r w), sin(c w), cos(c w)].

    Args:
        grid: rows and columns of patches.
        dim: D.
        temperature: of the frequencies.

    Returns:
        float32 [h*w,D].

    Raises:
        UserError: D is not divisible by 4.

    Example:
        >>> sincos_position_embedding((1, 2), 4).round(4)
        array([[0.    , 1.    , 0.    , 1.    ],
               [0.    , 1.    , 0.8415, 0.5403]], dtype=float32)

    Reference:
        MoCo v3, https://arxiv.org/abs/2104.02057; https://github.com/facebookresearch/moco-v3,
        vits.py, whose `grid_w` is the row, because torch's meshgrid indexes 'ij'.
    """
    if dim % 4:
        raise UserError(f"A sin-cos position embedding needs a width divisible by 4, found {dim}.")
    frequencies = 1 / temperature ** (np.arange(dim // 4) / (dim // 4))
    rows, columns = np.meshgrid(*map(np.arange, grid), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (rows, columns)]
    parts = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def bicubic_matrix(old: int, new: int, *, a: float = -0.75) -> np.ndarray:
    """Returns the matrix of interpolation along one axis: Keys' cubic kernel, no antialiasing.

    Output i is at (i + 1/2) old / new - 1/2; indices are clipped at the edges.

    Args:
        old, new: lengths.
        a: of the kernel; torch's is -0.75.

    Returns:
        float64 [new,old]; rows sum to 1.

    Example:
        >>> row = bicubic_matrix(4, 7)[0]
        >>> print((row @ [0, 1, 4, 9]).round(5))
        -0.09922

    Reference:
        Keys, 1981, equation 4 of https://doi.org/10.1109/TASSP.1981.1163711, there a = -0.5.
    """
    matrix = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        left = math.floor(place)
        for j in range(left - 1, left + 3):
            d = abs(place - j)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[i, min(max(j, 0), old - 1)] += near if d <= 1 else far if d < 2 else 0.0
    return matrix


def resize_position_embedding(
    embedding: Array, *, grid: Grid, new_grid: Grid, method: str = "official"
) -> Array:
    """Resizes a learned position embedding to another grid; extra tokens are kept.

    Args:
        embedding: float [1,N,D], the extra tokens first.
        grid: rows and columns of the embedding.
        new_grid: rows and columns of the result.
        method: 'official': bicubic with a = -0.75 and no antialiasing, as in torch and DeiT;
            'antialiased': a = -0.5, widened for a smaller grid, as in newer timm and
            `jax.image.resize`.

    Returns:
        float32 [1,N',D].

    Raises:
        UserError: unknown method.
        ValueError: fewer tokens than the grid has.

    Example:
        >>> pos = jnp.arange(5.0).reshape(1, 5, 1)
        >>> resize_position_embedding(pos, grid=(2, 2), new_grid=(3, 3)).shape
        (1, 10, 1)

    Reference:
        https://github.com/facebookresearch/deit, main.py.
    """
    if method not in METHODS:
        raise UserError(f"Unknown interpolation '{method}': {nearest(method, METHODS)}.")
    D, extra = embedding.shape[-1], embedding.shape[1] - grid[0] * grid[1]
    if extra < 0:
        raise ValueError(f"A grid {grid} has more tokens than the embedding {embedding.shape}.")
    embedding = jnp.asarray(embedding, jnp.float32)
    places = embedding[0, extra:].reshape(*grid, D)
    if method == "antialiased":
        resized = jax.image.resize(places, (*new_grid, D), "cubic", antialias=True)
    else:
        matrices = [bicubic_matrix(*sides) for sides in zip(grid, new_grid, strict=True)]
        rows, columns = (jnp.asarray(m, jnp.float32) for m in matrices)
        resized = jnp.einsum("hH,wW,HWD->hwD", rows, columns, places, precision="highest")
    return jnp.concatenate([embedding[:, :extra], resized.reshape(1, -1, D)], axis=1)


def relative_position_index(grid: Grid) -> np.ndarray:
    """Returns the index in a relative-position table of each pair of tokens (query, key).

    Entry (dr + h - 1) (2 w - 1) + dc + w - 1 is for a query dr rows and dc columns after its key;
    the last three are for class to patch, patch to class, class to class.

    Args:
        grid: rows and columns h, w.

    Returns:
        int32 [1+h*w,1+h*w], class token first.

    Example:
        >>> relative_position_index((1, 2))
        array([[5, 3, 3],
               [4, 1, 0],
               [4, 2, 1]], dtype=int32)

    Reference:
        BEiT, https://github.com/microsoft/unilm/tree/master/beit, modeling_finetune.py.
    """
    h, w = grid
    places = np.indices(grid).reshape(2, -1)
    dr, dc = places[:, :, None] - places[:, None, :]
    index = np.empty((h * w + 1,) * 2, np.int32)
    index[1:, 1:] = (dr + h - 1) * (2 * w - 1) + dc + w - 1
    distances = table_length(grid) - EXTRA_DISTANCES
    index[0, :], index[:, 0], index[0, 0] = distances, distances + 1, distances + 2
    return index


def table_length(grid: Grid) -> int:
    """Returns the length of a relative-position table: (2 h - 1) (2 w - 1) + 3."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + EXTRA_DISTANCES


def geometric_ratio(old: int, new: int) -> float:
    """Solves 1 + q + ... + q^(old//2 - 1) = new // 2 for q in [1.01, 1.5], by bisection.

    Example:
        >>> round(geometric_ratio(27, 47), 6)
        1.090307
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if sum(q**i for i in range(old // 2)) > new // 2:
            high = q
        else:
            low = q
    return q


def resize_relative_table(table: Array, *, grid: Grid, new_grid: Grid) -> Array:
    """Resizes a relative-position table to another grid, by BEiT's geometric rule.

    The old distances are mapped to 0, 1, 1 + q, 1 + q + q^2, ... in the new grid: near neighbours
    keep their bias, and the largest distances coincide. A bicubic spline interpolates.

    Args:
        table: float [(2h-1)(2w-1)+3,heads].
        grid: h, w of the table.
        new_grid: h', w' of the result.

    Returns:
        float32 [(2h'-1)(2w'-1)+3,heads]; the last three entries are kept. The table itself if the
        grids are equal.

    Raises:
        ValueError: the table does not match `grid`.
        UserError: a side of `grid` is below 3, too few for a cubic.

    Example:
        >>> flat = jnp.ones((5 * 5 + 3, 1))
        >>> resized = resize_relative_table(flat, grid=(3, 3), new_grid=(4, 4))
        >>> resized.shape, bool(jnp.allclose(resized, 1.0))
        ((52, 1), True)

    Reference:
        https://github.com/microsoft/unilm/tree/master/beit, run_class_finetuning.py.
    """
    if table.shape[0] != table_length(grid):
        raise ValueError(
            f"A table for {grid} has {table_length(grid)} entries, found {table.shape}."
        )
    if grid == new_grid:
        return jnp.asarray(table, jnp.float32)
    if min(grid) < 3:
        raise UserError(
            f"Resizing a relative-position table of {grid} patches fits a cubic to its distances: "
            "expected 3 patches or more along each side."
        )
    old, new = ([2 * n - 1 for n in g] for g in (grid, new_grid))
    sources = [_geometric_places(a, b) for a, b in zip(old, new, strict=True)]
    with unchanged():  # slow to import
        from scipy.interpolate import RectBivariateSpline

    targets = [np.arange(-(n // 2), n // 2 + 1.0) for n in new]
    values = np.asarray(table, np.float64)
    grids = values[:-EXTRA_DISTANCES].reshape(*old, -1)
    planes = [RectBivariateSpline(*sources, z)(*targets) for z in np.moveaxis(grids, -1, 0)]
    resized = np.stack(planes, axis=-1).reshape(-1, values.shape[1])
    return jnp.asarray(np.concatenate([resized, values[-EXTRA_DISTANCES:]]), jnp.float32)


def _geometric_places(old: int, new: int) -> np.ndarray:
    q = geometric_ratio(old, new)
    positive = np.cumsum([q**i for i in range(old // 2)])
    return np.concatenate([-positive[::-1], [0.0], positive])


def at_resolution(
    params: PyTree, *, grid: Grid, new_grid: Grid, method: str = "official"
) -> dict[str, Any]:
    """Resizes the position embedding and relative-position tables of a ViT's parameters.

    Args:
        params: of a `ViT`.
        grid: rows and columns of patches in training.
        new_grid: rows and columns of patches of the result.
        method: see `resize_position_embedding`.

    Returns:
        The tree with these leaves replaced.

    Example:
        >>> params = {'pos_embed': jnp.zeros((1, 5, 8)), 'norm': {'scale': jnp.ones(8)}}
        >>> at_resolution(params, grid=(2, 2), new_grid=(3, 3))['pos_embed'].shape
        (1, 10, 8)
    """

    def resize(path: tuple[Any, ...], leaf: Array) -> Array:
        if path[-1].key == "pos_embed":
            return resize_position_embedding(leaf, grid=grid, new_grid=new_grid, method=method)
        if path[-1].key == "relative_table":
            return resize_relative_table(leaf, grid=grid, new_grid=new_grid)
        return leaf

    return jax.tree_util.tree_map_with_path(resize, params)


def expand_shared_table(params: PyTree) -> dict[str, Any]:
    """Copies the shared relative-position table of a ViT's parameters to every block.

    BEiT is trained with relative_bias='shared' and fine-tuned with 'own'.

    Args:
        params: of a `ViT` with the shared table.

    Returns:
        The parameters of a `ViT` with a table for each block.

    Raises:
        UserError: no shared table.

    Example:
        >>> tree = {'relative_table': jnp.ones((4, 1)), 'block0': {}, 'block1': {}}
        >>> sorted(expand_shared_table(tree)), list(expand_shared_table(tree)['block1'])
        (['block0', 'block1'], ['relative_table'])
    """
    if "relative_table" not in params:
        raise UserError("These parameters have no shared 'relative_table' to expand.")
    table = params["relative_table"]
    return {
        name: {**part, "relative_table": table} if name.startswith("block") else part
        for name, part in params.items()
        if name != "relative_table"
    }
