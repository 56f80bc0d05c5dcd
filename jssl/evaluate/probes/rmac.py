"""R-MAC: one vector per image, from the maximal activations in regions of several sizes."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jssl.state import pca as pca_lib
from jssl.types import Array


def rmac_regions(height: int, width: int, *, levels: int = 3) -> np.ndarray:
    """Returns the square regions of a map: at level l the side is floor(2 min(H,W) / (l+1)).

    The number of extra regions along the longer side makes the overlap of two neighbours at the
    first level closest to 40 %.

    Args:
        height, width: of the map of activations.
        levels: number of scales.

    Returns:
        int [R,4]: top, left, height, width, inside the map.

    Raises:
        ValueError: the map is too small: regions of the last level have no pixel.

    Example:
        >>> print(rmac_regions(4, 4, levels=2))
        [[0 0 4 4]
         [0 0 2 2]
         [0 2 2 2]
         [2 0 2 2]
         [2 2 2 2]]
        >>> len(rmac_regions(32, 48))
        20

    Reference:
        Tolias, Sicre and Jegou, Particular object retrieval with integral max-pooling of CNN
        activations, ICLR 2016, https://arxiv.org/abs/1511.05879, section 3.2; DeepCluster's
        eval_retrieval.py. cnnimageretrieval-pytorch also adds the vector of the whole map.
    """
    short, long = min(height, width), max(height, width)
    if levels < 1 or 2 * short < levels + 1:
        raise ValueError(
            f"rmac_regions expects levels of at least one pixel, found {levels} levels of a map "
            f"of {height} x {width}."
        )
    # With n regions along the longer side, neighbours are (long - short) / (n - 1) apart.
    distance = (long - short) / np.arange(1, 7)
    extra = int(np.argmin(np.abs(1 - distance / short - 0.4))) + 1 if long > short else 0
    regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        offset = side // 2 - 1  # the centre of the first, from which the others are rounded
        starts = []
        for length in (height, width):
            gaps = level - 1 + (extra if length > short else 0)
            gap = (length - side) / gaps if gaps else 0.0
            start = np.floor(offset + gap * np.arange(gaps + 1)).astype(int) - offset
            starts.append(np.minimum(start, length - side))
        regions += [(top, left, side, side) for top in starts[0] for left in starts[1]]
    return np.array(regions)


def region_max(features: Array, *, levels: int = 3) -> Array:
    """Computes the maximal activation of each channel in each region, as unit vectors.

    Args:
        features: float [B,H,W,C], the last convolution's map.
        levels: see `rmac_regions`.

    Returns:
        float32 [B,R,C]; zeros where a region's activations are all zero.

    Raises:
        ValueError: not [B,H,W,C], or a map that is too small.

    Example:
        >>> print(region_max(jnp.array([[[[3.0, 4.0]]]]), levels=1))
        [[[0.6 0.8]]]

    Reference:
        as `rmac_regions`.
    """
    if jnp.ndim(features) != 4:
        raise ValueError(f"region_max expects features [B,H,W,C], found {jnp.shape(features)}.")
    return _pool(features, levels)


def fit_whitening(
    regions: Iterable[Array | np.ndarray], *, dim: int, floor: float = 1e-5
) -> pca_lib.PCA:
    """Fits PCA whitening on the regions of another set: Paris for Oxford, and Oxford for Paris.

    Variances are at least `floor` times the largest, so that noise is not amplified.

    Args:
        regions: float arrays [B,R,C] of `region_max`, one for each batch of images; B and R may
            differ.
        dim: directions to keep, at most C; 512 in DeepCluster's evaluation.
        floor: fraction of the largest variance.

    Returns:
        A `PCA` for `rmac_vectors`.

    Raises:
        ValueError: fewer than two regions, wrong shapes, or dim outside 1 ... C.

    Example:
        >>> regions = np.array([[[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> whitening = fit_whitening([regions], dim=2)
        >>> print(whitening.variances, abs(regions[0] @ whitening.components).max(axis=0))
        [2.6666667 0.6666667] [1.2247449 1.2247449]

    Reference:
        DeepCluster's eval_retrieval.py, which does not divide by M - 1: the normalisation after
        it removes the difference.
    """
    moments = RegionMoments()
    for batch in regions:
        moments.add(batch)
    return moments.whitening(dim=dim, floor=floor)


class RegionMoments:
    """The moments that `fit_whitening` needs, accumulated in batches.

    Example:
        >>> moments = RegionMoments()
        >>> moments.add(np.array([[[2.0, 0.0], [-2.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]]))
        >>> moments.whitening(dim=1).variances.shape, moments.count
        ((1,), 4)
    """

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, np.zeros(0), np.zeros((0, 0))

    def add(self, regions: Array | np.ndarray) -> None:
        """Adds regions [B,R,C] of `region_max`."""
        if np.ndim(regions) != 3 or (self.count and regions.shape[2] != len(self.total)):
            raise ValueError(f"fit_whitening expects regions [B,R,C], found {np.shape(regions)}.")
        x = np.asarray(regions, np.float64).reshape(-1, regions.shape[2])
        if not self.count:
            channels = regions.shape[2]
            self.total, self.squares = np.zeros(channels), np.zeros((channels, channels))
        self.count, self.total = self.count + len(x), self.total + x.sum(axis=0)
        self.squares = self.squares + x.T @ x

    def whitening(self, *, dim: int, floor: float = 1e-5) -> pca_lib.PCA:
        """Returns the whitening, see `fit_whitening`."""
        count, total, squares = self.count, self.total, self.squares
        if count < 2:
            raise ValueError(f"fit_whitening expects at least two regions, found {count}.")
        if not 1 <= dim <= len(total):
            raise ValueError(f"fit_whitening expects dim between 1 and {len(total)}, found {dim}.")
        mean = total / count
        # Unit vectors in float64: subtracting the mean loses no precision that matters.
        covariance = (squares - count * np.outer(mean, mean)) / (count - 1)
        variances, directions = np.linalg.eigh(covariance)
        variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
        raised = np.maximum(variances, floor * variances[0])
        arrays = mean, directions / np.sqrt(raised), raised
        return pca_lib.PCA(*(jnp.asarray(array, jnp.float32) for array in arrays))


def rmac_vectors(
    features: Array, whitening: pca_lib.PCA | None = None, *, levels: int = 3
) -> Array:
    """Computes one unit vector per image: the sum of its regions' whitened unit vectors.

    Args:
        features: float [B,H,W,C], the last convolution's map.
        whitening: from `fit_whitening` on another set, or None for the sum of `region_max`.
        levels: see `rmac_regions`.

    Returns:
        float32 [B,dim]. Images are compared by the dot product.

    Raises:
        ValueError: wrong shapes, or a map that is too small.

    Example:
        >>> print(rmac_vectors(jnp.array([[[[3.0, 4.0]]]]), levels=1))
        [[0.6 0.8]]

    Reference:
        as `rmac_regions`.
    """
    if jnp.ndim(features) != 4:
        raise ValueError(f"rmac_vectors expects features [B,H,W,C], found {jnp.shape(features)}.")
    if whitening is not None and whitening.mean.shape != features.shape[3:]:
        raise ValueError(
            f"rmac_vectors expects a whitening of {features.shape[3]} channels, found one of "
            f"{whitening.mean.shape}."
        )
    return _describe(features, whitening, levels)


@functools.partial(jax.jit, static_argnums=1)
def _pool(features: Array, levels: int) -> Array:
    pooled = [
        jnp.max(features[:, top : top + height, left : left + width], axis=(1, 2))
        for top, left, height, width in rmac_regions(*features.shape[1:3], levels=levels).tolist()
    ]
    return _unit(jnp.stack(pooled, axis=1))


@functools.partial(jax.jit, static_argnums=2)
def _describe(features: Array, whitening: pca_lib.PCA | None, levels: int) -> Array:
    regions = _pool(features, levels)
    if whitening is not None:
        B, R, C = regions.shape
        mapped = pca_lib.apply_pca(whitening, jnp.reshape(regions, (B * R, C)))
        regions = _unit(jnp.reshape(mapped, (B, R, -1)))
    return _unit(jnp.sum(regions, axis=1))


def _unit(x: Array) -> Array:
    """Scales vectors along the last axis to unit norm, float32; zeros stay zeros."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)
