"""Which patches of a picture are hidden: BEiT's masks of blocks, on the device with fixed shapes.

Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, Algorithm 1 and section 2.3; official code
https://github.com/microsoft/unilm/tree/master/beit, masking_generator.py. Blocks are drawn until
enough patches are masked; how many blocks that takes is the random part, so it is a while loop.
"""

import math

import jax
import jax.numpy as jnp

from jssl.augment._boxes import inside
from jssl.errors import UserError, nearest
from jssl.types import Array

GENERATORS = ("official", "lecture")
ATTEMPTS = 10  # of the official generator, for one block
ASPECT = 0.3  # aspects lie between it and its inverse
Grid = tuple[int, int]


def blockwise_mask(
    key: Array, *, grid: Grid, count: int, min_patches: int = 16, generator: str = "official"
) -> Array:
    """Draws a mask of blocks for one picture.

    'official': the area of a block is uniform between `min_patches` and what is still missing, its
    aspect log-uniform in (0.3, 1/0.3). It is taken when its sides are below the grid's and it adds
    at least one patch but no more than are missing. After ten blocks in a row that were refused the
    mask stays as it is: up to `count` patches, never more.

    'lecture', Algorithm 1 of the paper: the aspect is uniform in (0.3, 1/0.3), every block is
    taken, and it ends as soon as MORE than `count` patches are masked. Sides are rounded to whole
    patches and cut to the grid.

    Where fewer than `min_patches` are missing, both draw the area between the two numbers in the
    other order, as Python's `random.uniform` does.

    Args:
        key: typed PRNG key [].
        grid: h, w in patches.
        count: how many to mask; the paper's 40 % of 14 x 14 are 78, the code's are 75.
        min_patches: smallest area of a block, as long as as many are missing.
        generator: 'official' or 'lecture'.

    Returns:
        bool [h,w], True where masked.

    Raises:
        UserError: unknown generator; a count that is not within the grid.

    Example:
        >>> mask = blockwise_mask(jax.random.key(0), grid=(14, 14), count=75)
        >>> mask.shape, 50 < int(mask.sum()) <= 75
        ((14, 14), True)

    Reference: https://arxiv.org/abs/2106.08254, Algorithm 1; the official code, linked above.
    """
    if generator not in GENERATORS:
        raise UserError(f"Unknown mask generator '{generator}': {nearest(generator, GENERATORS)}.")
    h, w = grid
    if not 0 < count < h * w:
        raise UserError(
            f"Masking {count} of {h} x {w} patches: expected a number from 1 to {h * w - 1}. Type "
            f"--config.beit.masked={max(1, round(0.4 * h * w))}."
        )
    official = generator == "official"

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        mask, _, refused = state
        total = jnp.sum(mask)
        return (total < count) & (refused < ATTEMPTS) if official else total <= count

    def draw(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mask, number, refused = state
        u = jax.random.uniform(jax.random.fold_in(key, number), (4,))
        missing = count - jnp.sum(mask)
        area = min_patches + u[0] * (missing - min_patches)
        if official:
            aspect = jnp.exp((2 * u[1] - 1) * math.log(1 / ASPECT))
        else:
            aspect = ASPECT + u[1] * (1 / ASPECT - ASPECT)
        high, wide = jnp.rint(jnp.sqrt(area * aspect)), jnp.rint(jnp.sqrt(area / aspect))
        if not official:
            high, wide = jnp.clip(high, 1, h), jnp.clip(wide, 1, w)
        top = jnp.floor(u[2] * (h - high + 1))
        left = jnp.floor(u[3] * (w - wide + 1))
        block = inside(top, left, high, wide, grid=grid)
        new = jnp.sum(block & ~mask)
        good = jnp.bool_(True)
        if official:
            good = (high < h) & (wide < w) & (new > 0) & (new <= missing)
        return mask | (block & good), number + 1, jnp.where(good, 0, refused + 1)

    zero = jnp.int32(0)
    return jax.lax.while_loop(unfinished, draw, (jnp.zeros(grid, bool), zero, zero))[0]


def largest_mask(*, grid: Grid, count: int, min_patches: int, generator: str) -> int:
    """The most patches that `blockwise_mask` can mask, for arrays that must hold them all.

    The lecture's last block is drawn at `count` patches or fewer, with an area of up to
    `min_patches` or of what is missing, and each of its sides is rounded up by at most 1/2.

    Example:
        >>> how = {'grid': (14, 14), 'count': 78, 'min_patches': 16}
        >>> largest_mask(generator='official', **how), largest_mask(generator='lecture', **how)
        (78, 98)
    """
    if generator == "official":
        return count

    def rounding(area: float) -> float:
        sides = math.sqrt(area / ASPECT) + math.sqrt(area * ASPECT)
        return 0.5 * sides + 0.25

    # missing m of `count`: count - m + max(m, min_patches) + rounding, largest at either end
    most = count + max(min_patches + rounding(min_patches), rounding(count))
    return min(grid[0] * grid[1], math.floor(most))


def exact_mask(key: Array, mask: Array, *, count: int) -> Array:
    """A mask with exactly `count` patches: random ones are added or taken away.

    Args:
        key: typed PRNG key [].
        mask: bool [h,w].
        count: of the result.

    Returns:
        bool [h,w]; with too few patches all of `mask` and random others, with too many a random
        part of it.

    Example:
        >>> mask = jnp.zeros((4, 4), bool).at[0, 0].set(True)
        >>> found = exact_mask(jax.random.key(0), mask, count=5)
        >>> int(found.sum()), bool(found[0, 0])
        (5, True)

    Reference: https://github.com/microsoft/unilm/tree/master/beit2, masking_generator.py.
    """
    score = mask.reshape(-1) + jax.random.uniform(key, (mask.size,))
    _, picked = jax.lax.top_k(score, count)
    return jnp.zeros(mask.size, bool).at[picked].set(True).reshape(mask.shape)


def masked_places(mask: Array, *, size: int) -> tuple[Array, Array]:
    """Where a mask is True, as an index of fixed size.

    Args:
        mask: bool [h,w] with at most `size` patches.
        size: of the result.

    Returns:
        int32 [size], the places row by row, then places that are not masked; float32 [size], 1
        for the masked ones and 0 for those.

    Example:
        >>> index, weight = masked_places(jnp.array([[False, True], [False, True]]), size=3)
        >>> index.tolist(), weight.tolist()
        ([1, 3, 0], [1.0, 1.0, 0.0])
    """
    flat = mask.reshape(-1)
    index = jnp.argsort(~flat, stable=True)[:size].astype(jnp.int32)
    return index, flat[index].astype(jnp.float32)
