"""BEiT's block-wise masks of patches, on the device with fixed shapes.

Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, Algorithm 1 and section 2.3; official code
https://github.com/microsoft/unilm/tree/master/beit, masking_generator.py. Blocks are drawn in a
while loop until enough patches are masked, as their number is random.
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
    """Draws a block-wise mask for one picture.

    'official': the area of a block is uniform between `min_patches` and the number of missing
    patches, its aspect log-uniform in (0.3, 1/0.3). It is accepted if its sides are below the
    grid's and it adds at least one patch but no more than are missing. Stops after ten rejected
    blocks in a row: at most `count` patches are masked.

    'lecture', Algorithm 1 of the paper: the aspect is uniform in (0.3, 1/0.3), every block is
    accepted, and it stops as soon as MORE than `count` patches are masked. Sides are rounded to
    whole patches and clipped to the grid.

    If fewer than `min_patches` are missing, both draw the area between the two numbers in reverse
    order, as Python's `random.uniform` does.

    Args:
        key: typed PRNG key [].
        grid: h, w in patches.
        count: number of patches to mask; the paper's 40 % of 14 x 14 are 78, the code's are 75.
        min_patches: smallest area of a block, while at least as many are missing.
        generator: 'official' or 'lecture'.

    Returns:
        bool [h,w], True where masked.

    Raises:
        UserError: unknown generator; a count out of range.

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
    """Returns the largest number of patches that `blockwise_mask` can mask, to size arrays.

    The lecture's last block is drawn when at most `count` patches are masked, with an area of up to
    `min_patches` or the number missing, and each of its sides is rounded up by at most 1/2.

    Example:
        >>> options = {'grid': (14, 14), 'count': 78, 'min_patches': 16}
        >>> [largest_mask(generator=name, **options) for name in ('official', 'lecture')]
        [78, 98]
    """
    if generator == "official":
        return count

    def rounding(area: float) -> float:
        sides = math.sqrt(area / ASPECT) + math.sqrt(area * ASPECT)
        return 0.5 * sides + 0.25

    # With m missing: count - m + max(m, min_patches) + rounding, largest at either end of m.
    largest = count + max(min_patches + rounding(min_patches), rounding(count))
    return min(grid[0] * grid[1], math.floor(largest))


def exact_mask(key: Array, mask: Array, *, count: int) -> Array:
    """Adds or removes random patches so that a mask has exactly `count`.

    Args:
        key: typed PRNG key [].
        mask: bool [h,w].
        count: of the result.

    Returns:
        bool [h,w]: `mask` and random other patches, or a random subset of `mask`.

    Example:
        >>> mask = jnp.zeros((4, 4), bool).at[0, 0].set(True)
        >>> exact = exact_mask(jax.random.key(0), mask, count=5)
        >>> int(exact.sum()), bool(exact[0, 0])
        (5, True)

    Reference: https://github.com/microsoft/unilm/tree/master/beit2, masking_generator.py.
    """
    score = mask.reshape(-1) + jax.random.uniform(key, (mask.size,))
    _, picked = jax.lax.top_k(score, count)
    return jnp.zeros(mask.size, bool).at[picked].set(True).reshape(mask.shape)


def masked_places(mask: Array, *, size: int) -> tuple[Array, Array]:
    """Returns the indices of the masked patches, padded to a fixed size.

    Args:
        mask: bool [h,w] with at most `size` patches.
        size: of the result.

    Returns:
        int32 [size], the masked indices row by row, then unmasked ones; float32 [size], 1 for
        masked and 0 for unmasked.

    Example:
        >>> index, weight = masked_places(jnp.array([[False, True], [False, True]]), size=3)
        >>> index.tolist(), weight.tolist()
        ([1, 3, 0], [1.0, 1.0, 0.0])
    """
    flat = mask.reshape(-1)
    index = jnp.argsort(~flat, stable=True)[:size].astype(jnp.int32)
    return index, flat[index].astype(jnp.float32)
