"""Corruptions as in ImageNet-C and CIFAR-10-C, regenerated for any images.

The published sets are files. The corruptions here use the same constants and equations, but other
random numbers, and without ImageNet-C's final JPEG compression. Their results are not comparable:
they are named `regenerated/...`, which `jssl.evaluate.mce` refuses. Weather, motion blur, glass,
zoom and elastic deformation are omitted: they need programs, photographs or slow loops.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jssl.errors import UserError, nearest
from jssl.types import Array

# The constants of severity 1 to 5, for images of about 224 pixels and of 32.
CONSTANTS: Mapping[str, Mapping[str, tuple]] = {
    "imagenet": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
    },
    "cifar": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
    },
}


def regenerate(
    key: Array, images: Array, *, name: str, severity: int, constants: str, first: int = 0
) -> Array:
    """Applies one corruption to images.

    Args:
        key: typed PRNG key; example i uses fold_in(key, first + i), so that the batch size does
            not change the result.
        images: uint8 [B,H,W,3].
        name: of the corruption, see `CONSTANTS`.
        severity: 1 to 5.
        constants: imagenet or cifar.
        first: index of `images[0]` in the data set.

    Returns:
        uint8 [B,H,W,3]; values are truncated to integers, as in the official code. Computed on the
        device, except JPEG, which uses PIL's codec on the host.

    Raises:
        UserError: an unknown name or table, or a severity outside 1 ... 5.
        ValueError: images that are not uint8 [B,H,W,3].

    Example:
        >>> images = jnp.full((1, 2, 2, 3), 51, jnp.uint8)  # .2, and .1 brighter
        >>> key = jax.random.key(0)
        >>> out = regenerate(key, images, name="brightness", severity=1, constants="imagenet")
        >>> print(out[0, 0, 0])
        [76 76 76]

    Reference:
        Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261, appendix B; the
        official make_imagenet_c.py and make_cifar_c.py.
    """
    if constants not in CONSTANTS:
        raise UserError(f"no constants {constants!r}: {nearest(constants, CONSTANTS)}")
    table = CONSTANTS[constants]
    if name not in table:
        raise UserError(f"{constants} has no corruption {name!r} here: {nearest(name, table)}")
    if severity not in range(1, 6):
        raise UserError(f"a corruption has severity 1 to 5, found {severity}.")
    if jnp.ndim(images) != 4 or images.shape[3] != 3 or images.dtype != jnp.uint8:
        raise ValueError(
            f"regenerate expects images uint8 [B,H,W,3], found {images.dtype} {jnp.shape(images)}."
        )
    c = table[name][severity - 1]
    if name == "jpeg_compression":
        return jnp.asarray(np.stack([_jpeg(image, c) for image in np.asarray(images)]))
    if name == "pixelate":
        return _pixelate(images, c)
    x = images.astype(jnp.float32) / 255.0
    if name in _NOISE:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(len(x)))
        x = _NOISE[name](keys, x, c)
    elif name == "brightness":
        x = _brighter(x, c)
    elif name == "contrast":
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)  # of each channel
        x = (x - mean) * c + mean
    elif name == "gaussian_blur":
        x = _filter(x, _gaussian(int(4 * c + 0.5), c), "edge")
    else:
        x = _filter(x, _disk(*c), "reflect")
    # A value a float32 rounding error below an integer counts as that integer.
    return jnp.floor(jnp.clip(x, 0.0, 1.0) * 255.0 + 1e-4).astype(jnp.uint8)


def regenerated_errors(
    predict: Callable[[Array], Array],
    images: Array,
    labels: Array,
    *,
    key: Array,
    constants: str,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """Computes a network's top-1 errors on each corruption and severity.

    Args:
        predict: uint8 [B,H,W,3] -> int [B], the predicted classes.
        images: uint8 [M,H,W,3].
        labels: int [M].
        key: use the same for all networks that are compared, so that they see the same images.
        constants: imagenet or cifar.
        names: of the corruptions, or None for all of the table.
        batch_size: images per batch.

    Returns:
        'clean' -> float64 [1] and 'regenerated/NAME' -> float64 [5], errors in [0, 1].

    Raises:
        UserError: as `regenerate`.
        ValueError: as `regenerate`, or not one label and one prediction an image.

    Example:
        >>> images = jnp.array([40, 200], jnp.uint8)[:, None, None, None] * jnp.ones(
        ...     (1, 4, 4, 3), jnp.uint8)
        >>> bright = lambda x: (x.mean(axis=(1, 2, 3)) > 127).astype(int)
        >>> errors = regenerated_errors(bright, images, jnp.array([0, 1]), key=jax.random.key(0),
        ...     constants="imagenet", names=["brightness"])
        >>> print(errors["clean"], errors["regenerated/brightness"])
        [0.] [0.  0.  0.  0.5 0.5]

    Reference:
        as `regenerate`.
    """
    wrong = regenerated_mistakes(
        predict,
        images,
        labels,
        key=key,
        constants=constants,
        names=names,
        batch_size=batch_size,
    )
    return {name: flags.mean(axis=1) for name, flags in wrong.items()}


def regenerated_mistakes(
    predict: Callable[[Array], Array],
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    key: Array,
    constants: str,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """Returns the errors of each image: 'clean' -> bool [1,M], 'regenerated/NAME' -> bool [5,M]."""
    images, labels = np.asarray(images), np.asarray(labels)
    if not len(images) or labels.shape != images.shape[:1]:
        raise ValueError(
            "regenerated_errors expects images [M,H,W,3] with M > 0 and labels [M], found "
            f"{images.shape} and {labels.shape}."
        )
    if constants not in CONSTANTS:
        raise UserError(f"no constants {constants!r}: {nearest(constants, CONSTANTS)}")

    def wrong(name: str | None, severity: int) -> np.ndarray:
        flags = []
        for start in range(0, len(images), batch_size):
            batch = jnp.asarray(images[start : start + batch_size])
            if name:
                batch = regenerate(
                    key, batch, name=name, severity=severity, constants=constants, first=start
                )
            truth, predicted = labels[start : start + batch_size], np.asarray(predict(batch))
            if predicted.shape != truth.shape:
                raise ValueError(f"predict gave {predicted.shape} for {len(truth)} images.")
            flags.append(predicted != truth)
        return np.concatenate(flags)

    mistakes = {"clean": wrong(None, 0)[None]}
    for name in CONSTANTS[constants] if names is None else names:
        mistakes[f"regenerated/{name}"] = np.stack([wrong(name, s) for s in range(1, 6)])
    return mistakes


def _gauss(keys: Array, x: Array, c: float) -> Array:
    return x + c * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)


def _shot(keys: Array, x: Array, c: float) -> Array:
    return jax.vmap(jax.random.poisson)(keys, x * c).astype(jnp.float32) / c


def _impulse(keys: Array, x: Array, c: float) -> Array:
    """Sets each channel of a pixel independently to 0 or 1, each with probability c / 2."""
    u = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:]))(keys)
    return jnp.where(u < c / 2, 0.0, jnp.where(u < c, 1.0, x))


def _speckle(keys: Array, x: Array, c: float) -> Array:
    return x + c * x * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)


_NOISE = {
    "gaussian_noise": _gauss,
    "shot_noise": _shot,
    "impulse_noise": _impulse,
    "speckle_noise": _speckle,
}


def _brighter(x: Array, c: float) -> Array:
    """Adds c to V of HSV: hue and saturation stay, so a pixel is scaled by V' / V."""
    value = jnp.max(x, axis=3, keepdims=True)
    raised = jnp.clip(value + c, 0.0, 1.0)
    return jnp.where(value > 0, x * (raised / jnp.where(value > 0, value, 1.0)), raised)


def _gaussian(radius: int, sigma: float) -> np.ndarray:
    """Returns a two-dimensional Gaussian [2 radius + 1, 2 radius + 1] of sum 1."""
    line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return np.outer(line, line) / line.sum() ** 2


def _disk(radius: float, sigma: float) -> np.ndarray:
    """Returns a disk with a blurred edge, 17 wide or fitted to the radius, as the official code."""
    reach = 8 if radius <= 8 else int(radius)
    soft = 1 if radius <= 8 else 2  # the softening Gaussian is 3 or 5 wide
    line = np.arange(-reach, reach + 1)
    disk = (line[None] ** 2 + line[:, None] ** 2 <= radius**2).astype(np.float64)
    disk = np.pad(disk / disk.sum(), soft, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(disk, (2 * soft + 1, 2 * soft + 1))
    return np.einsum("hwij,ij->hw", windows, _gaussian(soft, sigma))


def _filter(x: Array, kernel: np.ndarray, mode: str) -> Array:
    """Correlates every channel with the kernel, with jnp.pad's mode at the border."""
    B, H, W, C = x.shape
    reach = kernel.shape[0] // 2
    planes = jnp.pad(
        jnp.moveaxis(x, 3, 1).reshape(B * C, 1, H, W), (*[(0, 0)] * 2, *[(reach,) * 2] * 2), mode
    )
    out = jax.lax.conv(
        planes,
        jnp.asarray(kernel, jnp.float32)[None, None],
        (1, 1),
        "VALID",
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(out.reshape(B, C, H, W), 1, 3)


def _box(size: int, new: int) -> np.ndarray:
    """Returns PIL's box filter as a matrix [new,size]: means of pixels, or the nearest one."""
    scale = size / new
    reach = max(scale, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * scale
    at = (np.arange(size)[None] + 0.5 - centre) / reach
    weights = ((at > -0.5) & (at <= 0.5)).astype(np.float64)
    return weights / weights.sum(axis=1, keepdims=True)


def _pixelate(images: Array, c: float) -> Array:
    """Resizes to the share c and back, columns first, rounding after every pass."""
    x = images.astype(jnp.float32)
    H, W = images.shape[1:3]
    h, w = max(int(H * c), 1), max(int(W * c), 1)
    for axis, size, new in ((2, W, w), (1, H, h), (2, w, W), (1, h, H)):
        matrix = jnp.asarray(_box(size, new), jnp.float32)
        x = jnp.tensordot(matrix, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
        x = jnp.floor(jnp.moveaxis(x, 0, axis) + 0.5)
    return x.astype(jnp.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
