"""PCA whitening from moments accumulated over batches."""

import flax.struct
import jax
import jax.numpy as jnp

from jssl.parallel import collectives
from jssl.types import Array


@flax.struct.dataclass
class Moments:
    """Count, mean and scatter of the features so far, in O(D^2) memory.

    Attributes:
        count: int32 [].
        mean: float32 [D].
        scatter: float32 [D,D], sum of (x - mean)(x - mean)^T.
    """

    count: Array
    mean: Array
    scatter: Array


@flax.struct.dataclass
class PCA:
    """An affine map onto the leading principal directions.

    Attributes:
        mean: float32 [D].
        components: float32 [D,dim], one direction a column; if whitened, divided by the standard
            deviation along it.
        variances: float32 [dim], of the features along the directions, in decreasing order.
    """

    mean: Array
    components: Array
    variances: Array


def init_moments(dim: int) -> Moments:
    """Returns the moments of no features.

    Example:
        >>> init_moments(3).scatter.shape
        (3, 3)
    """
    return Moments(jnp.int32(0), jnp.zeros(dim), jnp.zeros((dim, dim)))


def add(
    moments: Moments, features: Array, mask: Array | None = None, *, axis_name: str | None = None
) -> Moments:
    """Adds a batch to the moments.

    The batch is centred by its own mean, and the difference of the two means is corrected
    afterwards: plain sums of x x^T would lose precision for a large mean.

    Args:
        moments: of the features before, equal on every device.
        features: float [B,D], this device's.
        mask: bool [B], False for rows to ignore, or None.
        axis_name: the batch axis, or None on one device.

    Returns:
        The moments, equal on every device.

    Raises:
        ValueError: other shapes.

    Example:
        >>> moments = add(init_moments(1), jnp.array([[1.0], [3.0]]))
        >>> moments = add(moments, jnp.array([[8.0], [0.0]]), jnp.array([True, False]))
        >>> print(moments.count, moments.mean, moments.scatter)
        3 [4.] [[26.]]

    Reference:
        Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, 1979, equation 2.1.
    """
    shapes = jnp.shape(features), jnp.shape(moments.mean)
    if len(shapes[0]) != 2 or shapes[0][1:] != shapes[1]:
        raise ValueError(f"add expects features [B,D] and a mean [D], found {shapes}.")
    if mask is not None and jnp.shape(mask) != shapes[0][:1]:
        raise ValueError(f"add expects a mask {shapes[0][:1]}, found {jnp.shape(mask)}.")
    x = features.astype(jnp.float32)
    keep = jnp.ones(x.shape[0], bool) if mask is None else mask
    x = jnp.where(keep[:, None], x, 0.0)
    count, total = collectives.psum((jnp.sum(keep), jnp.sum(x, axis=0)), axis_name)
    mean = total / jnp.maximum(count, 1)
    x = jnp.where(keep[:, None], x - mean[None], 0.0)
    scatter = jnp.dot(x.T, x, precision=jax.lax.Precision.HIGHEST)
    scatter = collectives.psum(scatter, axis_name)
    new_count = moments.count + count
    share = count / jnp.maximum(new_count, 1)
    shift = mean - moments.mean
    return Moments(
        new_count,
        moments.mean + share * shift,
        moments.scatter + scatter + moments.count * share * jnp.outer(shift, shift),
    )


def fit_pca(moments: Moments, *, dim: int, whiten: bool = True) -> PCA:
    """Computes the leading principal directions from the moments.

    The largest coordinate of a direction is positive. When whitening, directions with variance
    below rounding error become zero, to avoid a division by zero.

    Args:
        moments: of at least two features.
        dim: number of directions to keep, at most D.
        whiten: divide by the standard deviations.

    Returns:
        A `PCA`. With whitening, the mapped features have covariance I.

    Raises:
        ValueError: dim outside 1 ... D.

    Example:
        >>> features = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
        >>> pca = fit_pca(add(init_moments(2), features), dim=1, whiten=False)
        >>> print(pca.components.ravel(), pca.variances)
        [0. 1.] [6.]

    Reference:
        DeepCluster, https://arxiv.org/abs/1807.05520, section 3.3; its official code calls
        faiss's `PCAMatrix` with `eigen_power=-0.5`.
    """
    D = moments.mean.shape[0]
    if not 1 <= dim <= D:
        raise ValueError(f"fit_pca expects dim between 1 and {D}, found {dim}.")
    covariance = moments.scatter / jnp.maximum(moments.count - 1, 1)
    variances, directions = jnp.linalg.eigh(covariance)
    variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
    largest = jnp.take_along_axis(directions, jnp.argmax(jnp.abs(directions), axis=0)[None], axis=0)
    directions = jnp.where(largest < 0, -directions, directions)
    variances = jnp.maximum(variances, 0.0)
    if whiten:
        varies = variances > D * jnp.finfo(jnp.float32).eps * variances[0]
        scale = jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, variances, 1.0)), 0.0)
        directions = directions * scale[None]
    return PCA(moments.mean, directions, variances)


def apply_pca(pca: PCA, x: Array) -> Array:
    """Maps features float [B,D] -> float32 [B,dim]; DeepCluster then applies `unit_rows`.

    Example:
        >>> pca = PCA(jnp.array([1.0, 1.0]), jnp.array([[0.0], [2.0]]), jnp.array([0.25]))
        >>> print(apply_pca(pca, jnp.array([[5.0, 2.0]])))
        [[2.]]
    """
    centred = x.astype(jnp.float32) - pca.mean[None]
    return jnp.dot(centred, pca.components, precision=jax.lax.Precision.HIGHEST)
