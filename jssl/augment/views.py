"""Augmented views of one image, and of a batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl.augment import _blur, _boxes, _color, _geometry, _operations, _pixels, _policy
from jssl.augment._numbers import uniform_numbers
from jssl.augment.recipes import CHANCES, check_channels, resolve
from jssl.types import Array


class Draw(NamedTuple):
    """The random numbers of one view."""

    box: _boxes.Box
    flip: Array
    jitter: _color.Jitter
    gray: Array
    blur: Array
    sigma: Array
    solarize: Array
    policy: Array  # [N,4], see `_policy.apply_policy`
    cutout: Array  # [2], row and column of the square
    shift: Array  # [2], rows and columns


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, like a function
class Views:
    """The views of one image, as a function `(key, image) -> float32 [V,size,size,C]`.

    It has two parts, so that a batch can draw all its random numbers at once and then process its
    images one by one: `draw(key, height, width)` returns a `Draw` with a leading axis V, and
    `render(image [H,C,W], draw)` the view [size,size,C] of one of them.
    """

    size: int
    host_crop: bool
    options: dict[str, Any]
    channels: int = 3

    def __call__(self, key: Array, image: Array) -> Array:
        draws = self.draw(key, *self.check(image))
        in_axes = (0 if self.host_crop else None, 0)
        return jax.vmap(self.render, in_axes)(image.swapaxes(-1, -2), draws)

    def check(self, image: Array) -> tuple[int, int]:
        """Returns (H, W) of the image; ValueError if its shape does not match `host_crop`."""
        V, shape = self.options["views"], image.shape
        one = f"H,W,{self.channels}"
        expected = f"[{V},{one}] (host_crop)" if self.host_crop else f"[{one}]"
        good = len(shape) == (4 if self.host_crop else 3) and shape[-1] == self.channels
        if not good or (self.host_crop and shape[0] != V):
            raise ValueError(f"An image is {expected}; found {list(shape)}.")
        _pixels.check_dtype(image)
        return shape[-3], shape[-2]

    def draw(self, key: Array, height: int, width: int) -> Draw:
        """Draws the random numbers of the V views of one image."""
        o = self.options
        chances = {name: jnp.array(o[name], jnp.float32) for name in CHANCES}
        amplitudes = tuple(a * o["strength"] for a in o["jitter"])
        random_crop = o["crop"] == "random" and not self.host_crop
        attempts = _boxes.SAMPLERS[o["sampler"]] if random_crop else 0
        counts = {  # append new operations, so that the others keep their numbers
            "box": 4 * attempts,
            "flip": 1,
            "jitter": _color.JITTER_NUMBERS,
            "gray": 1,
            "blur": 2,
            "solarize": 1,
            "policy": _policy.NUMBERS * o["policy_ops"],
            "cutout": 2,
            "shift": 2,
        }

        def one(u: dict[str, Array], chance: dict[str, Array]) -> Draw:
            blur, sigma = u["blur"]
            return Draw(
                box=self._box(u["box"].reshape(4, attempts), height, width),
                flip=u["flip"][0] < chance["flip_p"],
                jitter=_color.jitter_from(
                    u["jitter"],
                    p=chance["jitter_p"],
                    amplitudes=amplitudes,
                    brightness=o["brightness"],
                ),
                gray=u["gray"][0] < chance["gray_p"],
                blur=blur < chance["blur_p"],
                sigma=o["blur_sigma"][0] + sigma * (o["blur_sigma"][1] - o["blur_sigma"][0]),
                solarize=u["solarize"][0] < chance["solarize_p"],
                policy=u["policy"].reshape(o["policy_ops"], _policy.NUMBERS),
                cutout=u["cutout"],
                shift=u["shift"],
            )

        return jax.vmap(one)(uniform_numbers(key, counts, o["views"]), chances)

    def _box(self, u: Array, height: int, width: int) -> _boxes.Box:
        o = self.options
        if u.size:
            return _boxes.box_from(
                u,
                height=height,
                width=width,
                sampler=o["sampler"],
                scale=o["scale"],
                ratio=o["ratio"],
            )
        if o["crop"] == "center" and not self.host_crop:
            return _boxes.center_box(height, width, o["proportion"])
        return _boxes.Box(*(jnp.int32(v) for v in (0, 0, height, width)))

    def render(self, image: Array, draw: Draw) -> Array:
        """Renders one view [size,size,C] of an image [H,C,W]."""
        o = self.options
        x = self._crop(image, draw)
        if o["clip_crop"]:
            x = jnp.clip(x, 0.0, 1.0)
        x = self._policy(x, draw)
        planes = [x[:, c] for c in range(self.channels)]
        steps = [self._gray, self._jitter] if o["gray_first"] else [self._jitter, self._gray]
        for step in steps if self.channels == 3 else []:
            red, green, blue = planes
            planes = list(step((red, green, blue), draw))
        x = self._blur([jnp.clip(plane, 0.0, 1.0) for plane in planes], draw)
        if any(o["solarize_p"]):
            inverted = _color.solarize(x, threshold=o["solarize_threshold"])
            x = jnp.where(draw.solarize, inverted, x)
        return x

    def _policy(self, x: Array, draw: Draw) -> Array:
        """Applies RandAugment or AutoAugment, and cutout, to a picture [size,3,size]."""
        o = self.options
        if not o["policy_ops"] and not o["cutout_pad"]:
            return x
        settings = [o[f"policy_{name}"] for name in _policy.Policy._fields]
        x = x.swapaxes(0, 1)
        x = _policy.apply_policy(x, draw.policy, _policy.Policy(*settings))
        if o["cutout_pad"]:
            fill = tuple(level / 255 for level in o["policy_fill"])
            x = _operations.cut_square(x, draw.cutout, pad=o["cutout_pad"], fill=fill)
        return x.swapaxes(0, 1)

    def _jitter(self, planes: _color.Planes, draw: Draw) -> _color.Planes:
        o = self.options
        if not any(o["jitter_p"]):
            return planes
        return _color.jitter_planes(
            planes, draw.jitter, semantics=o["color"], brightness=o["brightness"]
        )

    def _gray(self, planes: _color.Planes, draw: Draw) -> _color.Planes:
        o = self.options
        if not any(o["gray_p"]):
            return planes
        gray = functools.partial(_color.gray_planes, semantics=o["color"])
        return jax.lax.cond(draw.gray, gray, lambda planes: planes, planes)

    def _blur(self, planes: list[Array], draw: Draw) -> Array:
        """Stacks planes in [0, 1] to an image [size,size,C] in [0, 1], optionally blurred."""
        o = self.options
        radius = o["blur_radius"]
        radius = _blur.blur_radius(self.size) if radius is None else radius

        def sharp(planes: list[Array]) -> Array:
            return jnp.stack(planes, axis=-1)

        def blurred(planes: list[Array]) -> Array:
            x = jnp.stack(planes, axis=1)
            x = _blur.blur_rows_and_columns(x, draw.sigma, radius=radius, padding=o["blur_padding"])
            return jnp.clip(x, 0.0, 1.0).transpose(0, 2, 1)

        if not any(o["blur_p"]):
            return sharp(planes)
        return jax.lax.cond(draw.blur, blurred, sharp, planes)

    def _crop(self, image: Array, draw: Draw) -> Array:
        """Returns the crop, resized and optionally flipped: [size,C,size]."""
        o, (H, _, W) = self.options, image.shape
        if o["crop"] == "pad" and not self.host_crop:
            image = _geometry.shift_reflected(image, draw.shift, pad=o["crop_pad"])
        if (self.host_crop or o["crop"] in ("none", "pad")) and H == W == self.size:
            x = _pixels.to_float(image)
            return jnp.where(draw.flip, x[:, :, ::-1], x)
        return _geometry.crop_resize_rows(
            image,
            draw.box,
            size=self.size,
            method=o["resize"],
            antialias=o["antialias"],
            flip=draw.flip,
        )


def make_views(
    name: str, *, size: int, host_crop: bool = False, channels: int = 3, **options: Any
) -> Views:
    """Returns the function from one image to its augmented views.

    Recipes: 'simclr', 'simclr_cifar', 'byol', 'moco_v1', 'moco_v2', 'moco_v3', 'moco_cifar' have
    two views; 'crop_flip' (supervised and linear training), 'center_crop' and 'none' (evaluation)
    have one. In BYOL and MoCo v3 the two views differ: the first is always blurred, the second
    with probability .1, and only the second is solarized.

    Args:
        name: a recipe, one of `RECIPES`.
        size: of the views in pixels.
        host_crop: the images are [V,H,W,3], one host crop for each view; they are flipped and
            coloured, and resized only if their size differs.
        channels: number C of the images. Operations on colours, and those of RandAugment and
            AutoAugment, need three.
        **options: any of `OPTIONS`, replacing the recipe's. A probability is one number, or a
            tuple with one for each view.

    Returns:
        `fn(key, image) -> float32 [V,size,size,C]` in [0, 1]; image is uint8 or float in [0, 1],
        [H,W,C] ([V,H,W,C] with host_crop). fn raises ValueError for other shapes.

    Raises:
        UserError: unknown recipe, option or value, a number out of range, or an operation that
            these channels do not have.

    Example:
        >>> fn = make_views('simclr', size=32, strength=0.5, blur_p=0.0)
        >>> fn(jax.random.key(0), jnp.zeros((40, 48, 3), jnp.uint8)).shape
        (2, 32, 32, 3)

    Reference: SimCLR https://arxiv.org/abs/2002.05709, appendix A; BYOL
        https://arxiv.org/abs/2006.07733, appendix B, table 6; MoCo https://arxiv.org/abs/1911.05722,
        https://arxiv.org/abs/2003.04297, https://arxiv.org/abs/2104.02057 and their official code.
        SimCLR's code draws one blur sigma for a batch; here each image has its own. SimCLR's
        resize is that of its TF 2 code (of its TF 1 code: 'bicubic_tf1').
    """
    resolved = resolve(name, size, options)
    check_channels(name, resolved, channels)
    return Views(size, bool(host_crop), resolved, channels)


def batch_views(
    fn: Callable[[Array, Array], Array], key: Array, images: Array, first: Array
) -> Array:
    """Computes the views of a batch, independent of its distribution over devices.

    Example i is augmented with `fold_in(key, first + i)`, its index in the global batch.

    Args:
        fn: from `make_views`.
        key: typed PRNG key [], of this step.
        images: uint8 or float [B,H,W,C] ([B,V,H,W,C] with host_crop), on this device.
        first: int32 [], index of `images[0]` in the global batch; or [B], the index of each image,
            if they are not contiguous.

    Returns:
        float32 [V,B,size,size,C] in [0, 1].

    Example:
        >>> fn, key = make_views('simclr_cifar', size=8), jax.random.key(0)
        >>> images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
        >>> batch_views(fn, key, images, jnp.int32(0)).shape
        (2, 4, 8, 8, 3)
    """
    indices = jnp.asarray(first, jnp.uint32)
    if indices.ndim == 0:
        indices = indices + jnp.arange(images.shape[0], dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
    if not isinstance(fn, Views):
        return jax.vmap(fn, out_axes=1)(keys, images)
    height, width = fn.check(images[0])
    draws = jax.vmap(lambda key: fn.draw(key, height, width), out_axes=1)(keys)  # [V,B]
    # On an accelerator one batched program. On the CPU one view at a time: it stays in the cache,
    # and operations that were not drawn (blur, jitter) are skipped.
    return jax.lax.platform_dependent(
        images.swapaxes(-1, -2),  # [B,H,C,W], once for all views
        draws,
        cpu=functools.partial(_one_by_one, fn),
        default=functools.partial(_batched, fn),
    )


def _batched(fn: Views, images: Array, draws: Draw) -> Array:
    over_batch = jax.vmap(fn.render)
    return jax.vmap(over_batch, (1 if fn.host_crop else None, 0))(images, draws)


def _one_by_one(fn: Views, images: Array, draws: Draw) -> Array:
    V, B = draws.flip.shape
    flat = jax.tree.map(lambda x: x.reshape(V * B, *x.shape[2:]), draws)

    def one(i_and_draw: tuple[Array, Draw]) -> Array:
        i, draw = i_and_draw
        image = images[i % B, i // B] if fn.host_crop else images[i % B]
        return fn.render(image, draw)

    views = jax.lax.map(one, (jnp.arange(V * B), flat))
    return views.reshape(V, B, *views.shape[1:])
