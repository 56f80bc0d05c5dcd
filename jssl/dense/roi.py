"""Features of regions: RoIAlign and RoI max-pooling on a map.

RoIAlign is separable: a region's rows and columns are each a matrix of weights over those of the
map, and the result is A_y F A_x^T.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jssl.types import Array


def _weights(
    start: Array, length: Array, bins: int, cells: int, size: Array, ratio: int, most: int
) -> Array:
    """Weights of the cells of one axis for each bin of a region, [bins,cells].

    Each bin is the mean of samples, and each sample the interpolation of two of the first `size`
    cells.
    """
    step = length / bins
    number = jnp.float32(ratio) if ratio > 0 else jnp.maximum(jnp.ceil(step), 1.0)
    i = jnp.arange(most, dtype=jnp.float32)
    offsets = jnp.arange(bins, dtype=jnp.float32)[:, None] * step
    places = start + offsets + ((i[None] + 0.5) / number) * step  # [bins,most]
    counted = (i < number)[None] & (places >= -1.0) & (places <= size)
    places = jnp.clip(places, 0.0, size - 1.0)
    each = jnp.arange(cells, dtype=jnp.float32)
    near = jnp.maximum(1.0 - jnp.abs(places[..., None] - each[None, None]), 0.0)
    weights = jnp.sum(near * counted[..., None], axis=1) / number
    return jnp.where(number <= most, weights, jnp.nan)


def roi_align(
    features: Array,
    boxes: Array,
    *,
    output: int,
    scale: float,
    ratio: int = 0,
    aligned: bool = True,
    max_samples: int = 0,
    extent: Array | None = None,
) -> Array:
    """Averages a map over the bins of each region, interpolated, without rounding.

    Args:
        features: [H,W,C] float, of one picture.
        boxes: [N,4] float, in pixels of the picture.
        output: bins of a side.
        scale: cells of the map per pixel, 1/16 for a stride of 16.
        ratio: samples a side of a bin; 0: as many as the bin has cells, rounded up.
        aligned: cells lie at half pixels; False: as in the first publication, and a region has a
            side of one cell at least.
        max_samples: a side of a bin, which bounds `ratio=0`; 0: enough for a region that lies in
            the picture.
        extent: int [2], rows and columns of the map that are no padding; None: all.

    Returns:
        [N,output,output,C], of the dtype of `features`. NaN for a region that needs more samples.

    Example:
        >>> x = jnp.arange(30.0).reshape(5, 6, 1)
        >>> box = jnp.array([[4.0, 4.0, 60.0, 44.0]])
        >>> print(roi_align(x, box, output=2, scale=1 / 16).ravel())
        [ 2.875  4.625 10.375 12.125]
        >>> print(roi_align(x, box, output=2, scale=1 / 16, aligned=False).ravel())
        [ 6.375  8.125 13.875 15.625]

    Reference: He et al., ICCV 2017, https://arxiv.org/abs/1703.06870; torchvision.ops.roi_align.
    """
    H, W, _ = features.shape
    boxes = boxes.astype(jnp.float32) * scale - (0.5 if aligned else 0.0)
    length = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        length = jnp.maximum(length, 1.0)
    most = ratio or max_samples or -(-max(H, W) // output)

    rows_and_columns = jnp.array([H, W]) if extent is None else extent
    h, w = rows_and_columns.astype(jnp.float32)

    def one(start: Array, length: Array) -> Array:
        x = _weights(start[0], length[0], output, W, w, ratio, most)
        y = _weights(start[1], length[1], output, H, h, ratio, most)
        rows = jnp.einsum("yh,hwc->ywc", y.astype(features.dtype), features)
        return jnp.einsum("xw,ywc->yxc", x.astype(features.dtype), rows)

    return jax.vmap(one)(boxes[:, :2], length)


def roi_max_pool(features: Array, boxes: Array, *, output: int, scale: float) -> Array:
    """Takes the maximum of a map over the bins of each region, at whole cells.

    Args:
        features: [H,W,C] float, of one picture.
        boxes: [N,4] float, in pixels of the picture.
        output: bins of a side.
        scale: cells of the map per pixel.

    Returns:
        [N,output,output,C]; 0 in a bin without cells, NaN for a region of more than twice the map's
        cells a side.

    Example:
        >>> x = jnp.arange(30.0).reshape(5, 6, 1)
        >>> print(roi_max_pool(x, jnp.array([[4.0, 4, 60, 44]]), output=2, scale=1 / 16).ravel())
        [ 8. 10. 20. 22.]

    Reference: Girshick, ICCV 2015, https://arxiv.org/abs/1504.08083, section 2.1;
        torchvision.ops.roi_pool.
    """
    H, W, _ = features.shape
    # Half a cell rounds away from zero in C, to the even one in numpy.
    scaled = boxes.astype(jnp.float32) * scale
    corners = jnp.sign(scaled) * jnp.floor(jnp.abs(scaled) + 0.5)
    size = jnp.maximum(corners[:, 2:] - corners[:, :2] + 1, 1.0)

    # Rounding decides on a cell, and XLA divides otherwise than torch: a table for each length.
    longest = 2 * max(H, W)
    steps = np.arange(longest + 1, dtype=np.float32)[:, None] / np.float32(output)
    bins = np.arange(output, dtype=np.float32)[None]
    lows, highs = jnp.floor(bins * steps), jnp.ceil((bins + 1) * steps)

    def inside(start: Array, length: Array, cells: int) -> Array:
        """Which cells lie in each bin, bool [output,cells]."""
        row = jnp.minimum(length, longest).astype(jnp.int32)
        low, high = (jnp.clip(x[row] + start, 0, cells) for x in (lows, highs))
        cell = jnp.arange(cells, dtype=jnp.float32)[None]
        return (cell >= low[:, None]) & (cell < high[:, None])

    def one(corner: Array, size: Array) -> Array:
        x, y = inside(corner[0], size[0], W), inside(corner[1], size[1], H)
        lowest = jnp.finfo(features.dtype).min
        rows = jnp.max(jnp.where(x[:, None, :, None], features[None], lowest), axis=2)  # [x,H,C]
        pooled = jnp.max(jnp.where(y[:, None, :, None], rows[None], lowest), axis=2)  # [y,x,C]
        empty = ~(jnp.any(y, axis=1)[:, None] & jnp.any(x, axis=1)[None])
        pooled = jnp.where(empty[..., None], 0, pooled)
        return jnp.where(jnp.max(size) <= longest, pooled, jnp.nan)

    return jax.vmap(one)(corners[:, :2], size)
