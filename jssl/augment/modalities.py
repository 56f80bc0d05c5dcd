"""Modalities as views: channels of a picture, and further arrays such as depth.

A view is the input of one encoder of contrastive multiview coding. Some are channels of the picture
(luminance and chrominance), others need their own arrays in the batch: depth, surface normals,
semantic labels; a later frame and optical flow. All arrays of an example are cropped by one box and
flipped together.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jssl.augment import _colorspaces, _geometry, _pixels
from jssl.augment.views import Views, batch_views
from jssl.errors import UserError, nearest
from jssl.numerics import unit_rows
from jssl.types import Array

IMAGE = "image"


class View(NamedTuple):
    """Source and shape of a view.

    Attributes:
        field: the array of the batch.
        channels: of the encoder's input; None if the config decides.
        expects: format of the array, for error messages.
    """

    field: str
    channels: int | None
    expects: str


_RGB = "uint8 [B,H,W,3]"
VIEWS: dict[str, View] = {
    "l": View(IMAGE, 1, _RGB),
    "ab": View(IMAGE, 2, _RGB),
    "y": View(IMAGE, 1, _RGB),
    "cbcr": View(IMAGE, 2, _RGB),
    "frame": View(IMAGE, 3, _RGB),
    "later": View("later", 3, "uint8 [B,H,W,3], the frame some time after 'image'"),
    "depth": View("depth", 1, "float32 [B,H,W,1], metres"),
    "normals": View("normals", 3, "float32 [B,H,W,3], unit vectors (right, up, to the camera)"),
    "segmentation": View("segmentation", None, "int32 [B,H,W], labels 0, 1, ...; others: none"),
    "flow": View("flow", None, "float32 [B,H,W,2F], pixels right and down in turn, of F steps"),
}
# (min + max) / 2 and half the range of sRGB's gamut in Lab; for YCbCr the official code's numbers.
_LAB = ((50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675))
_YCBCR = ((116.151, 121.080, 132.342), (109.5, 111.855, 111.964))
_DEPTH_METRES = 5.0  # centre and half-range: rooms lie within ten metres
_FLOW_PIXELS = 20.0  # bound at which two-stream networks clip the flow


def fields(views: Iterable[str], *, segments: int, flow_frames: int) -> dict[str, Any]:
    """Returns the arrays that views need besides the picture.

    Args:
        views: names of `VIEWS`.
        segments: number of semantic labels.
        flow_frames: number of fields of flow.

    Returns:
        `{field: (trailing shape after [B,H,W], dtype)}`.

    Raises:
        UserError: an unknown or repeated view, or a missing number of labels or frames.

    Example:
        >>> fields(['l', 'ab', 'depth'], segments=0, flow_frames=0)
        {'depth': ((1,), 'float32')}
    """
    views = list(views)
    for name in views:
        if name not in VIEWS:
            raise UserError(f"Unknown view '{name}': {nearest(name, VIEWS)}.")
        if views.count(name) > 1:
            raise UserError(f"View '{name}' is named twice in {views}: expected each once.")
    if "segmentation" in views and segments < 2:
        raise UserError(f"View 'segmentation' needs 2 labels or more, found segments={segments}.")
    if "flow" in views and flow_frames < 1:
        raise UserError(f"View 'flow' needs 1 frame or more, found flow_frames={flow_frames}.")
    known = {
        "later": ((3,), "uint8"),
        "depth": ((1,), "float32"),
        "normals": ((3,), "float32"),
        "segmentation": ((), "int32"),
        "flow": ((2 * flow_frames,), "float32"),
    }
    return {f: known[f] for f in dict.fromkeys(VIEWS[v].field for v in views) if f != IMAGE}


def missing(found: Iterable[str], views: Iterable[str]) -> dict[str, str]:
    """Returns `{field: expected format}` for each array that views need and that is not `found`.

    Example:
        >>> missing(['image'], ['l', 'depth'])
        {'depth': 'float32 [B,H,W,1], metres'}
    """
    found = set(found)
    return {VIEWS[v].field: VIEWS[v].expects for v in views if VIEWS[v].field not in found}


def batch_modalities(
    fn: Views, key: Array, arrays: Mapping[str, Array], first: Array
) -> dict[str, Array]:
    """Augments every array of a batch, with the same box and flip for all arrays of an example.

    A flip negates the horizontal component of normals and flow; flow is scaled to pixels of the
    view. Labels take the nearest pixel, all else is interpolated.

    Args:
        fn: from `make_views`, of one view.
        key: typed PRNG key [], of this step.
        arrays: 'image' uint8 or float [B,H,W,3] and any fields of `VIEWS`, with the same H and W.
        first: int32 [], index in the global batch of the first example.

    Returns:
        `{field: [B,size,size,C]}` float32, labels int32 [B,size,size]; pictures in [0, 1].

    Raises:
        ValueError: arrays of another height and width than the picture.

    Example:
        >>> from jssl.augment.views import make_views
        >>> fn = make_views('crop_flip', size=4)
        >>> arrays = {'image': jnp.zeros((2, 8, 8, 3)), 'depth': jnp.ones((2, 8, 8, 1))}
        >>> batch_modalities(fn, jax.random.key(0), arrays, jnp.int32(0))['depth'].shape
        (2, 4, 4, 1)
    """
    arrays = {name: jnp.asarray(x) for name, x in arrays.items()}
    image = arrays[IMAGE]
    for name, x in arrays.items():
        if x.shape[:3] != image.shape[:3]:
            raise ValueError(
                f"Array '{name}' {x.shape} must have the picture's [B,H,W]; image {image.shape}."
            )
    out = {}
    indices = jnp.asarray(first, jnp.uint32) + jnp.arange(len(image), dtype=jnp.uint32)
    for name, x in arrays.items():
        if name in (IMAGE, "later"):  # the same draws: the keys depend on the examples only
            out[name] = batch_views(fn, key, x, first)[0]
            continue

        def one(index: Array, x: Array, name: str = name) -> Array:
            draw = fn.draw(jax.random.fold_in(key, index), *x.shape[:2])
            draw = jax.tree.map(lambda d: d[0], draw)
            return _crop(name, x, draw.box, draw.flip, fn.size)

        out[name] = jax.vmap(one)(indices, x)
    return out


def _crop(name: str, x: Array, box: Any, flip: Array, size: int) -> Array:
    if name == "segmentation":
        i = jnp.arange(size)
        column = jnp.where(flip, size - 1 - i, i)
        rows = box.top + ((i + 0.5) * box.height / size).astype(jnp.int32)
        columns = box.left + ((column + 0.5) * box.width / size).astype(jnp.int32)
        return x[rows[:, None], columns[None, :]]
    out = _geometry.crop_resize(x, box, size=size, method="bilinear", flip=flip)
    sign = jnp.where(flip, -1.0, 1.0)
    if name == "normals":
        out = out * jnp.stack([sign, jnp.ones(()), jnp.ones(())]).reshape(1, 1, 3)
        return unit_rows(out)
    if name == "flow":
        scale = jnp.stack([sign * size / box.width, size / box.height])
        return out * jnp.tile(scale, x.shape[-1] // 2).reshape(1, 1, -1)
    return out


def split_views(
    arrays: Mapping[str, Array],
    views: Iterable[str],
    *,
    segments: int = 0,
    normalize: str | _pixels.Statistics = "none",
) -> dict[str, Array]:
    """Converts the arrays of a batch to the encoders' inputs, normalised to about [-1, 1].

    Args:
        arrays: 'image' uint8 or float in [0, 1] [B,H,W,3], and the fields that the views need.
        views: names of `VIEWS`.
        segments: number of semantic labels.
        normalize: of the views 'frame' and 'later', see `jssl.augment.normalize`.

    Returns:
        `{view: float32 [B,H,W,C]}`. 'l' and 'ab': (Lab - mean) / half-range, sRGB's gamut being
        [-1, 1] in each channel; 'y' and 'cbcr' with the official constants; 'depth' 1 at ten
        metres; 'normals' as they are; 'segmentation' one-hot, 0 for other labels; 'flow' clipped
        at 20 pixels.

    Raises:
        UserError: an unknown view, or a missing array.

    Example:
        >>> white = jnp.full((1, 1, 1, 3), 255, jnp.uint8)
        >>> x = split_views({'image': white}, ['l', 'ab'])
        >>> print(x['l'].shape, x['ab'].shape, x['l'].ravel().round(4))
        (1, 1, 1, 1) (1, 1, 1, 2) [1.]

    Reference: https://github.com/HobbitLong/CMC, train_CMC.py (constants); depth, normals and
        flow have no official code.
    """
    views = tuple(views)
    fields(views, segments=max(segments, 2), flow_frames=1)
    if absent := missing(arrays, views):
        raise UserError(
            f"The views {', '.join(views)} need arrays that the batch does not hold: found "
            f"{', '.join(sorted(arrays))}; expected "
            + "; ".join(f"'{name}' {expects}" for name, expects in absent.items())
            + ". Put them into the batch beside 'image'."
        )
    spaces: dict[str, Array] = {}  # cache of colour spaces

    def space(name: str, convert: Callable[[Array], Array], constants: Any) -> Array:
        if name not in spaces:
            x = convert(_pixels.to_float(arrays[IMAGE]))
            mean, half = (jnp.array(c).reshape((1,) * (x.ndim - 1) + (3,)) for c in constants)
            spaces[name] = (x - mean) / half
        return spaces[name]

    def make(view: str) -> Array:
        x = arrays[VIEWS[view].field]
        if view in ("l", "ab"):
            lab = space("lab", _colorspaces.rgb_to_lab, _LAB)
            return lab[..., :1] if view == "l" else lab[..., 1:]
        if view in ("y", "cbcr"):
            ycbcr = space("ycbcr", _colorspaces.rgb_to_ycbcr, _YCBCR)
            return ycbcr[..., :1] if view == "y" else ycbcr[..., 1:]
        if view in ("frame", "later"):
            return _pixels.normalize(_pixels.to_float(x), normalize)
        if view == "depth":
            return x / _DEPTH_METRES - 1
        if view == "segmentation":
            return jax.nn.one_hot(x, segments)
        if view == "flow":
            return jnp.clip(x / _FLOW_PIXELS, -1.0, 1.0)
        return x

    return {view: make(view).astype(jnp.float32) for view in views}
