"""Mixup, CutMix and random erasing, as DeiT applies them to a normalised batch.

Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877, appendix A.3; the numbers are those of
its official code, which uses timm 0.3.2: data/mixup.py (mode 'batch') and data/random_erasing.py.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jssl.augment._boxes import inside
from jssl.errors import UserError
from jssl.types import Array

ATTEMPTS = 10  # to find a rectangle that fits


class Mix(NamedTuple):
    """Random numbers of Mixup or CutMix for a group of images.

    Attributes:
        weight: float32 [], lambda, the share of the image itself in the target.
        box: float32 [4]: top, bottom, left, right of CutMix in whole pixels; empty for Mixup.
        cut: bool [], whether it is CutMix.
    """

    weight: Array
    box: Array
    cut: Array


def cutmix_box(weight: Array, u: Array, *, height: int, width: int) -> tuple[Array, Array]:
    """Returns the rectangle that covers 1 - lambda of a picture, and lambda after clipping.

    Args:
        weight: float32 [], the drawn lambda.
        u: float32 [2] uniform in [0, 1), row and column of its centre.
        height, width: of the picture.

    Returns:
        (top, bottom, left, right) float32 [4] in whole pixels, clipped to the picture, and
        float32 [], one minus the share of the picture that it covers.

    Example:
        >>> box, weight = cutmix_box(jnp.float32(0.75), jnp.array([0.0, 0.5]), height=8, width=8)
        >>> box.tolist(), float(weight)  # 4 x 4 about (0, 4), of which 2 x 4 are inside
        ([0.0, 2.0, 2.0, 6.0], 0.875)

    Reference: Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899, equation 2.
    """
    side = jnp.sqrt(1 - weight)
    sizes = jnp.array([height, width], jnp.float32)
    half = jnp.floor(jnp.floor(sizes * side) / 2)
    centre = jnp.minimum(jnp.floor(u * sizes), sizes - 1)
    low = jnp.clip(centre - half, 0, sizes)
    high = jnp.clip(centre + half, 0, sizes)
    covered = (high[0] - low[0]) * (high[1] - low[1])
    return jnp.stack([low[0], high[0], low[1], high[1]]), 1 - covered / (height * width)


def draw_mix(
    key: Array,
    *,
    height: int,
    width: int,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    p: float = 1.0,
    switch_p: float = 0.5,
) -> Mix:
    """Draws Mixup or CutMix and its lambda for one group of images.

    Args:
        key: typed PRNG key [].
        height, width: of the pictures.
        mixup_alpha, cutmix_alpha: lambda is Beta(alpha, alpha); 0 disables Mixup or CutMix.
        p: probability that the group is mixed.
        switch_p: probability of CutMix if both are enabled.

    Returns:
        A `Mix`; weight 1 if nothing is mixed.

    Example:
        >>> mix = draw_mix(jax.random.key(0), height=8, width=8, cutmix_alpha=0.0)
        >>> bool(mix.cut), bool(0 <= mix.weight <= 1)
        (False, True)
    """
    u_key, beta_key = jax.random.split(key)
    u = jax.random.uniform(u_key, (4,))
    if not mixup_alpha and not cutmix_alpha:
        return Mix(jnp.float32(1), jnp.zeros(4), jnp.bool_(False))
    both = bool(mixup_alpha and cutmix_alpha)
    cut = u[0] < switch_p if both else jnp.bool_(bool(cutmix_alpha))
    alpha = jnp.where(cut, cutmix_alpha, mixup_alpha).astype(jnp.float32)
    weight = jnp.where(u[1] < p, jax.random.beta(beta_key, alpha, alpha), 1.0)
    box, kept = cutmix_box(weight, u[2:], height=height, width=width)
    return Mix(jnp.where(cut, kept, weight), jnp.where(cut, box, jnp.zeros(4)), cut)


def mix_batch(
    key: Array,
    images: Array,
    targets: Array,
    *,
    group_size: int,
    first: int | Array = 0,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    p: float = 1.0,
    switch_p: float = 0.5,
) -> tuple[Array, Array]:
    """Mixes every image with its partner, and the targets with the same weights.

    The batch is divided into groups of `group_size` in order. A group has one lambda and one choice
    between Mixup and CutMix, and its image i is mixed with image `group_size - 1 - i`. In the
    official code a group is the batch of one GPU. The draw depends on the index of the group in the
    global batch: it is the same for any number of devices, as long as each has whole groups.

    Args:
        key: typed PRNG key [], of this step.
        images: float [B,H,W,C], normalised.
        targets: float [B,K], distributions.
        group_size: divides B.
        first: index of `images[0]` in the global batch, a multiple of `group_size`.
        mixup_alpha, cutmix_alpha, p, switch_p: see `draw_mix`.

    Returns:
        Mixed images [B,H,W,C] and targets float32 [B,K].

    Raises:
        UserError: the groups do not divide the batch.

    Example:
        >>> images, targets = jnp.ones((4, 8, 8, 3)), jnp.eye(4)
        >>> _, mixed = mix_batch(jax.random.key(0), images, targets, group_size=4)
        >>> bool(jnp.allclose(mixed.sum(axis=1), 1.0)), mixed.shape
        (True, (4, 4))

    Reference:
        Mixup: Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412, equation 1. CutMix: Yun
        et al., ICCV 2019, https://arxiv.org/abs/1905.04899, equations 1 and 2.
    """
    B, H, W, _ = images.shape
    if group_size < 1 or B % group_size:
        raise UserError(
            f"Mixup and CutMix find their partners in groups of {group_size} images, but a device "
            f"has {B}: expected whole groups. Type --config.deit.mix_groups=N (supervised in place "
            "of deit where that is the method), the number of groups in the global batch, with a "
            "multiple of the devices that divides the batch."
        )
    numbers = jnp.asarray(first) // group_size + jnp.arange(B // group_size)

    def one(number: Array, x: Array, y: Array) -> tuple[Array, Array]:
        mix = draw_mix(
            jax.random.fold_in(key, number),
            height=H,
            width=W,
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            p=p,
            switch_p=switch_p,
        )
        top, bottom, left, right = mix.box
        cut = inside(top, left, bottom - top, right - left, grid=(H, W))
        own = jnp.where(mix.cut, 1.0 - cut, mix.weight)[None, :, :, None].astype(x.dtype)
        return own * x + (1 - own) * x[::-1], mix.weight * y + (1 - mix.weight) * y[::-1]

    grouped = (v.reshape(-1, group_size, *v.shape[1:]) for v in (images, targets))
    x, y = jax.vmap(one)(numbers, *grouped)
    return x.reshape(images.shape), y.reshape(targets.shape)


def random_erasing(
    key: Array,
    image: Array,
    *,
    p: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: float = 0.3,
) -> Array:
    """Fills one rectangle with independent N(0, 1) noise, with probability p.

    Args:
        key: typed PRNG key [].
        image: float [H,W,C], normalised like the noise.
        p: probability of erasing.
        area: range of the share of the picture.
        aspect: height / width is log-uniform in [aspect, 1 / aspect].

    Returns:
        [H,W,C]; the image unchanged if none of ten drawn rectangles is smaller than it along both
        sides.

    Example:
        >>> out = random_erasing(jax.random.key(0), jnp.zeros((16, 16, 3)), p=1.0)
        >>> 5 <= int(jnp.sum(out[..., 0] != 0)) <= 85  # of 256
        True

    Reference:
        Zhong et al., AAAI 2020, https://arxiv.org/abs/1708.04896, algorithm 1, with normal noise.
    """
    H, W, _ = image.shape
    u_key, noise_key = jax.random.split(key)
    u = jax.random.uniform(u_key, (4 * ATTEMPTS + 1,))
    top, left, height, width, found = erased_box(
        u[1:].reshape(4, ATTEMPTS), height=H, width=W, area=area, aspect=aspect
    )
    erased = inside(top, left, height, width, grid=(H, W)) & found & (u[0] < p)
    noise = jax.random.normal(noise_key, image.shape, image.dtype)
    return jnp.where(erased[..., None], noise, image)


def erased_box(
    u: Array, *, height: int, width: int, area: tuple[float, float], aspect: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Returns top, left, height, width of the first valid box of u [4,attempts], and if any is."""
    share = area[0] + u[0] * (area[1] - area[0])
    pixels, bound = share * (height * width), math.log(1 / aspect)
    ratio = jnp.exp((2 * u[1] - 1) * bound)
    h, w = jnp.rint(jnp.sqrt(pixels * ratio)), jnp.rint(jnp.sqrt(pixels / ratio))
    fits = (h < height) & (w < width)
    i = jnp.argmax(fits)
    top = jnp.floor(u[2, i] * (height - h[i] + 1))
    left = jnp.floor(u[3, i] * (width - w[i] + 1))
    return top, left, h[i], w[i], fits[i]
