"""The recipes: what makes the views of one image, each number an option."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl.augment import _blur, _color, _geometry, _pixels
from jssl.errors import UserError, nearest
from jssl.types import Array

# Every option, with its value in SimCLR. A chance (`..._p`) is one number, or one for each view.
OPTIONS: dict[str, Any] = {
    "views": 2,
    "crop": "random",  # random | center | none (resized whole)
    "sampler": "tf",  # tf | torchvision | byol, see sample_box
    "scale": (0.08, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "proportion": 0.875,  # of crop 'center'
    "resize": "bicubic",  # see crop_resize
    "antialias": False,
    "clip_crop": False,  # clip the overshoot of the resize at once, and not only at the end
    "flip_p": 0.5,
    "color": "tf",  # tf | torchvision
    "jitter_p": 0.8,
    "jitter": (0.8, 0.8, 0.8, 0.2),  # of brightness, contrast, saturation, hue, times strength
    "strength": 1.0,
    "brightness": "multiplicative",  # multiplicative | additive
    "gray_p": 0.2,
    "gray_first": False,  # gray before jitter
    "blur_p": 0.5,
    "blur_sigma": (0.1, 2.0),
    "blur_radius": None,  # taps on each side; None: (size // 10) // 2
    "blur_padding": "zero",  # zero | symmetric | reflect
    "solarize_p": 0.0,
    "solarize_threshold": 0.5,
}
_NO_COLOR = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
_BYOL_COLOR = {
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "blur_p": (1.0, 0.1),
    "solarize_p": (0.0, 0.2),
}
# PIL under torchvision: bilinear, always antialiased; its blur has no zeros outside and no radius,
# so eight taps on each side: four of the largest sigma.
_TORCHVISION = {
    "sampler": "torchvision",
    "resize": "bilinear",
    "antialias": True,
    "color": "torchvision",
    "blur_radius": 8,
    "blur_padding": "symmetric",
}
RECIPES: dict[str, dict[str, Any]] = {
    "simclr": {},
    "simclr_cifar": {"strength": 0.5, "blur_p": 0.0},
    "byol": {**_BYOL_COLOR, "sampler": "byol", "clip_crop": True, "brightness": "additive"},
    "moco_v1": {
        **_TORCHVISION,
        "scale": (0.2, 1.0),
        "jitter": (0.4, 0.4, 0.4, 0.4),
        "jitter_p": 1.0,
        "gray_first": True,
        "blur_p": 0.0,
    },
    "moco_v2": {**_TORCHVISION, "scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1)},
    # scale is the ResNet's; the ViT's is (0.08, 1)
    "moco_v3": {
        **_TORCHVISION,
        **_BYOL_COLOR,
        "scale": (0.2, 1.0),
        "solarize_threshold": 128 / 255,
    },
    "moco_cifar": {**_TORCHVISION, "jitter": (0.4, 0.4, 0.4, 0.1), "blur_p": 0.0},
    "crop_flip": {**_NO_COLOR, "views": 1},
    "center_crop": {**_NO_COLOR, "views": 1, "crop": "center", "flip_p": 0.0},
    "none": {**_NO_COLOR, "views": 1, "crop": "none", "flip_p": 0.0},
}
_CHANCES = tuple(name for name in OPTIONS if name.endswith("_p"))
_WORDS = {
    "crop": ("random", "center", "none"),
    "sampler": _geometry.SAMPLERS,
    "resize": tuple(_geometry.RESIZES),
    "color": _color.SEMANTICS,
    "brightness": _color.BRIGHTNESS,
    "blur_padding": tuple(_blur.PADDINGS),
}


class Draw(NamedTuple):
    """All that is random about one view."""

    box: _geometry.Box
    flip: Array
    jitter: _color.Jitter
    gray: Array
    blur: Array
    sigma: Array
    solarize: Array


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of one image, as a function `(key, image) -> float32 [V,size,size,3]`.

    It is made of two, so that a batch can draw all its random numbers at once and then treat its
    images one by one: `draw(key, height, width)` gives a `Draw` with a leading axis V, and
    `render(image [H,3,W], draw)` the view [size,size,3] of one of them.
    """

    size: int
    host_crop: bool
    options: dict[str, Any]

    def __call__(self, key: Array, image: Array) -> Array:
        draws = self.draw(key, *self.check(image.shape))
        return jax.vmap(self.render, (0 if self.host_crop else None, 0))(
            image.swapaxes(-1, -2), draws
        )

    def check(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(H, W) of an image of this shape; ValueError if it is not what `host_crop` says."""
        V = self.options["views"]
        expected = f"[{V},H,W,3] (host_crop)" if self.host_crop else "[H,W,3]"
        good = len(shape) == (4 if self.host_crop else 3) and shape[-1] == 3
        if not good or (self.host_crop and shape[0] != V):
            raise ValueError(f"An image is {expected}; found {list(shape)}.")
        return shape[-3], shape[-2]

    def draw(self, key: Array, height: int, width: int) -> Draw:
        """The random numbers of the V views, each from its own key."""
        o = self.options
        chances = {name: jnp.array(o[name], jnp.float32) for name in _CHANCES}
        amplitudes = tuple(a * o["strength"] for a in o["jitter"])

        def one(key: Array, chance: dict[str, Array]) -> Draw:
            box_key, jitter_key, key = jax.random.split(key, 3)
            u = jax.random.uniform(key, (5,))
            return Draw(
                box=self._box(box_key, height, width),
                flip=u[0] < chance["flip_p"],
                jitter=_color.draw_jitter(
                    jitter_key,
                    p=chance["jitter_p"],
                    amplitudes=amplitudes,
                    brightness=o["brightness"],
                ),
                gray=u[1] < chance["gray_p"],
                blur=u[2] < chance["blur_p"],
                sigma=o["blur_sigma"][0] + u[3] * (o["blur_sigma"][1] - o["blur_sigma"][0]),
                solarize=u[4] < chance["solarize_p"],
            )

        return jax.vmap(one)(jax.random.split(key, o["views"]), chances)

    def _box(self, key: Array, height: int, width: int) -> _geometry.Box:
        o = self.options
        if o["crop"] == "random" and not self.host_crop:
            return _geometry.sample_box(
                key,
                height=height,
                width=width,
                sampler=o["sampler"],
                scale=o["scale"],
                ratio=o["ratio"],
            )
        if o["crop"] == "center" and not self.host_crop:
            return _geometry.center_box(height, width, o["proportion"])
        return _geometry.Box(*(jnp.int32(v) for v in (0, 0, height, width)))

    def render(self, image: Array, draw: Draw) -> Array:
        """One view [size,size,3] of an image [H,3,W]: crop, flip, colour, blur, solarize."""
        o = self.options
        x = self._crop(image, draw)
        if o["clip_crop"]:
            x = jnp.clip(x, 0.0, 1.0)
        planes = x[:, 0], x[:, 1], x[:, 2]
        steps = [self._gray, self._jitter] if o["gray_first"] else [self._jitter, self._gray]
        for step in steps:
            planes = step(planes, draw)
        x = self._blur([jnp.clip(plane, 0.0, 1.0) for plane in planes], draw)
        if any(o["solarize_p"]):
            inverted = _color.solarize(x, threshold=o["solarize_threshold"])
            x = jnp.where(draw.solarize, inverted, x)
        return x

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
        """Planes in [0, 1] to the image [size,size,3], perhaps blurred, which keeps to [0, 1]."""
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
        """The crop, resized and perhaps mirrored: [size,3,size]."""
        o, (H, _, W) = self.options, image.shape
        if (self.host_crop or o["crop"] == "none") and H == W == self.size:
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


def make_views(name: str, *, size: int, host_crop: bool = False, **options: Any) -> Views:
    """Makes the function that turns one image into its augmented views.

    Recipes: 'simclr', 'simclr_cifar', 'byol', 'moco_v1', 'moco_v2', 'moco_v3', 'moco_cifar' give
    two views; 'crop_flip' (supervised and linear training), 'center_crop' and 'none' (evaluation)
    give one. In BYOL and MoCo v3 the two views differ: the first is always blurred, the second
    with chance .1, and only the second is solarized.

    Args:
        name: a recipe, one of `RECIPES`.
        size: of the views in pixels.
        host_crop: the images are [V,H,W,3], one crop made on the host for each view; they are
            flipped and coloured, and resized only where their size differs.
        **options: any of `OPTIONS`, in place of the recipe's. A chance is one number, or a tuple
            with one for each view.

    Returns:
        `fn(key, image) -> float32 [V,size,size,3]` in [0, 1]; image is uint8 or float in [0, 1],
        [H,W,3] ([V,H,W,3] with host_crop). fn raises ValueError for other shapes.

    Raises:
        UserError: unknown recipe, option or word, or a number out of its range.

    Example:
        >>> fn = make_views('simclr', size=32, strength=0.5, blur_p=0.0)
        >>> fn(jax.random.key(0), jnp.zeros((40, 48, 3), jnp.uint8)).shape
        (2, 32, 32, 3)

    Reference: SimCLR https://arxiv.org/abs/2002.05709, appendix A; BYOL
        https://arxiv.org/abs/2006.07733, appendix B, table 6; MoCo https://arxiv.org/abs/1911.05722,
        https://arxiv.org/abs/2003.04297, https://arxiv.org/abs/2104.02057 and their official code.
        Where SimCLR's code draws one blur sigma for a batch, each image has its own; SimCLR's
        resize is that of its TF 2 code ('bicubic_tf1' is the other).
    """
    if name not in RECIPES:
        raise UserError(f"Unknown augmentation recipe '{name}': {nearest(name, RECIPES)}.")
    for option in options:
        if option not in OPTIONS:
            raise UserError(
                f"Unknown option '{option}' of augmentation '{name}': {nearest(option, OPTIONS)}."
            )
    return Views(
        size, bool(host_crop), _checked(name, size, {**OPTIONS, **RECIPES[name], **options})
    )


def _checked(name: str, size: int, o: dict[str, Any]) -> dict[str, Any]:
    def refuse(option: str, expected: str) -> None:
        raise UserError(
            f"Option {option}={o[option]!r} of augmentation '{name}': expected {expected}."
        )

    if not isinstance(size, int) or size < 1:
        raise UserError(
            f"Augmentation '{name}' has size={size!r}: expected whole pixels, 1 or more."
        )
    if not isinstance(o["views"], int) or o["views"] < 1:
        refuse("views", "a whole number, 1 or more")
    for option, words in _WORDS.items():
        if o[option] not in words:
            refuse(option, nearest(o[option], words))
    for option in ("scale", "ratio", "blur_sigma", "jitter"):
        o[option] = tuple(float(v) for v in o[option])
        n = 4 if option == "jitter" else 2
        if len(o[option]) != n or (n == 2 and not 0 < o[option][0] <= o[option][1]):
            refuse(option, "four amplitudes" if n == 4 else "(low, high) with 0 < low <= high")
    if o["scale"][1] > 1:
        refuse("scale", "shares of the area, at most 1")
    if min(o["jitter"]) * o["strength"] < 0 or o["jitter"][3] * o["strength"] > 0.5:
        refuse("jitter", "amplitudes of at least 0, and times strength a hue of at most 0.5")
    if not 0 < o["proportion"] <= 1:
        refuse("proportion", "a share of the shorter side, above 0 and at most 1")
    for option in _CHANCES:
        chances = o[option] if isinstance(o[option], tuple | list) else [o[option]] * o["views"]
        if len(chances) != o["views"] or not all(0 <= p <= 1 for p in chances):
            refuse(option, f"a chance in [0, 1], or one for each of the {o['views']} views")
        o[option] = tuple(float(p) for p in chances)
    return o


def batch_views(
    fn: Callable[[Array, Array], Array], key: Array, images: Array, first: Array
) -> Array:
    """The views of a batch, the same however the batch is spread over devices.

    Example i is augmented with `fold_in(key, first + i)`, its index in the global batch.

    Args:
        fn: from `make_views`.
        key: typed PRNG key [], of this step.
        images: uint8 or float [B,H,W,3] ([B,V,H,W,3] with host_crop), on this device.
        first: int32 [], index of `images[0]` in the global batch.

    Returns:
        float32 [V,B,size,size,3] in [0, 1].

    Example:
        >>> fn, key = make_views('simclr_cifar', size=8), jax.random.key(0)
        >>> images = jnp.zeros((4, 8, 8, 3), jnp.uint8)
        >>> batch_views(fn, key, images, jnp.int32(0)).shape
        (2, 4, 8, 8, 3)
    """
    indices = jnp.asarray(first, jnp.uint32) + jnp.arange(images.shape[0], dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
    if not isinstance(fn, Views):
        return jax.vmap(fn, out_axes=1)(keys, images)
    height, width = fn.check(images.shape[1:])
    draws = jax.vmap(lambda key: fn.draw(key, height, width), out_axes=1)(keys)  # [V,B]
    # On an accelerator one batched program. On the CPU one view after another: it stays in the
    # cache, and what was not drawn (blur, an operation of the jitter) is not computed.
    return jax.lax.platform_dependent(
        images.swapaxes(-1, -2),  # [B,H,3,W], once for all views
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
