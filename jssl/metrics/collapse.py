"""Metrics that show a collapse of the representation during training.

Total collapse maps every image to one point; dimensional collapse uses few of many directions.
Std, alignment and uniformity depend only on the directions of the embeddings, as contrastive losses
do; effective rank and alpha-ReQ describe the spectrum of the embeddings as they are.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jssl.metrics._arrays import unit
from jssl.types import Array

STD_THRESHOLD = 0.1
RANK_THRESHOLD = 2.0
FIRST_RANK, LAST_RANK = 4, 100  # of the eigenvalues that alpha-ReQ fits


def std_of_normalized(z: Array) -> Array:
    """Computes sqrt(D) times the mean over dimensions of the standard deviation of z / |z|.

    0 if all embeddings have one direction, about 1 if they are uniform on the sphere; at most 1.
    With mean cosine c over all pairs (including each with itself) it is at most sqrt(1 - c), with
    equality if every dimension varies equally.

    Args:
        z: float [M,D].

    Returns:
        float32 [] in [0, 1].

    Example:
        >>> print(std_of_normalized(jnp.array([[1.0, 0.0], [2.0, 0.0]])))
        0.0
        >>> square = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> print(round(float(std_of_normalized(square)), 6))
        1.0

    Reference: the collapse monitor of SimSiam, Chen and He, CVPR 2021,
        https://arxiv.org/abs/2011.10566, figure 2, scaled by sqrt(D).
    """
    _check(z)
    return jnp.sqrt(jnp.float32(z.shape[1])) * jnp.mean(jnp.std(unit(z), axis=0))


def effective_rank(z: Array, *, eps: float = 1e-7) -> Array:
    """Computes RankMe: exp of the entropy of the singular values of z, which is not centred.

        p_k = sigma_k / sum_j sigma_j + eps,    rank = exp(-sum_k p_k ln p_k)

    Args:
        z: float [M,D]; for a rank of up to D, M >= D is needed.
        eps: as in the paper, for float32.

    Returns:
        float32 [], 1 if only one singular value is not 0, min(M,D) if all are equal.

    Example:
        >>> print(round(float(effective_rank(jnp.eye(4))), 3))
        4.0

    Reference: Garrido et al., ICML 2023, https://arxiv.org/abs/2210.02885, equation 1.
    """
    _check(z)
    z = jnp.asarray(z, jnp.float32)
    largest = jnp.max(jnp.abs(z))
    sigma = jnp.linalg.svd(z / jnp.where(largest > 0, largest, 1.0), compute_uv=False)
    total = jnp.sum(sigma)
    p = sigma / jnp.where(total > 0, total, 1.0) + eps
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def alpha_req(z: Array) -> Array:
    """Computes alpha-ReQ: the exponent of the power law lambda_i ~ i^-alpha of the eigenspectrum.

    lambda_i are the eigenvalues of the covariance of z, the largest first. The line of ln lambda_i
    against ln i is fitted by least squares with weights 1 / i, over the ranks 4 to 100 (users of
    the paper's code take these and other ranges), or over those of them whose lambda_i is not 0: at
    most min(D, M - 1) ranks, so that the fit of a narrower network ends at rank D.

    Args:
        z: float [M,D]; a fit up to rank 100 needs D >= 100 and M > 100.

    Returns:
        float32 []: 0 if all directions vary equally, large if few dominate; the paper finds the
        best representations near 1. NaN if fewer than two eigenvalues are left: D < 5, M < 6, or
        embeddings in fewer than five directions.

    Example:
        >>> z = jnp.diag(jnp.arange(1.0, 129.0) ** -0.5)  # variance 1 / i along axis i
        >>> print(round(float(alpha_req(jnp.concatenate([z, -z]))), 3))
        1.0

    Reference: Agrawal et al., NeurIPS 2022, https://arxiv.org/abs/2202.05808; the fit is that of
        Stringer et al., Nature 2019, https://doi.org/10.1038/s41586-019-1346-5.
    """
    _check(z)
    z = jnp.asarray(z, jnp.float32)
    largest = jnp.max(jnp.abs(z))
    z = z / jnp.where(largest > 0, largest, 1.0)
    sigma = jnp.linalg.svd(z - jnp.mean(z, axis=0)[None, :], compute_uv=False)
    # Below this, numpy.linalg.matrix_rank's tolerance, a singular value is rounding.
    rounding = sigma[0] * max(z.shape) * jnp.finfo(jnp.float32).eps
    rank = jnp.arange(1, len(sigma) + 1)
    used = (rank >= FIRST_RANK) & (rank <= LAST_RANK) & ~(sigma <= rounding)
    x = jnp.log(rank.astype(jnp.float32))
    y = 2.0 * jnp.log(jnp.where(used, sigma, 1.0))
    weight = jnp.where(used, 1.0 / rank, 0.0)
    weight /= jnp.sum(weight)
    x, y = x - jnp.sum(weight * x), y - jnp.sum(weight * y)
    slope = jnp.sum(weight * x * y) / jnp.sum(weight * x * x)
    return jnp.where(jnp.sum(used) < 2, jnp.nan, -slope)


def alignment(z_a: Array, z_b: Array) -> Array:
    """Computes the mean squared distance of normalised positive pairs: E |z_a/|z_a| - z_b/|z_b||^2.

    Args:
        z_a, z_b: float [M,D], embeddings of two views of the same M images.

    Returns:
        float32 [] in [0, 4]; 0 if both views always agree, about 2 for unrelated directions.

    Example:
        >>> print(alignment(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 3.0]])))
        2.0

    Reference: Wang and Isola, ICML 2020, https://arxiv.org/abs/2005.10242, section 4.1, alpha = 2.
    """
    _check(z_a, z_b)
    return jnp.mean(jnp.sum((unit(z_a) - unit(z_b)) ** 2, axis=1))


def uniformity(z: Array) -> Array:
    """Computes ln of the mean over i < j of exp(-2 d_ij^2), d the distance of unit embeddings.

    Args:
        z: float [M,D], M >= 2.

    Returns:
        float32 [] in [-8, 0]; 0 if all embeddings have one direction, about -4 if many are uniform
        on a sphere of many dimensions (every pair at d^2 = 2).

    Example:
        >>> print(uniformity(jnp.array([[1.0, 0.0], [0.0, 5.0]])))  # one pair, d^2 = 2
        -4.0

    Reference: Wang and Isola, ICML 2020, https://arxiv.org/abs/2005.10242, section 4.1, t = 2.
    """
    _check(z)
    u, M = unit(z), z.shape[0]
    cosine = jnp.matmul(u, u.T, precision=jax.lax.Precision.HIGHEST)
    norm = jnp.sum(u * u, axis=1)  # 1, but 0 for an embedding of zeros
    squared = jnp.maximum(norm[:, None] + norm[None, :] - 2.0 * cosine, 0.0)  # |u_i - u_j|^2
    pairs = jnp.triu(jnp.ones((M, M), bool), k=1)
    total = jax.nn.logsumexp(jnp.where(pairs, -2.0 * squared, -jnp.inf))
    return total - jnp.log(M * (M - 1) / 2.0)


@jax.jit
def _measure(z_a: Array, z_b: Array) -> dict[str, Array]:
    def both(measure):
        return (measure(z_a) + measure(z_b)) / 2

    return {
        "std": both(std_of_normalized),
        "effective_rank": both(effective_rank),
        "alpha_req": both(alpha_req),
        "alignment": alignment(z_a, z_b),
        "uniformity": both(uniformity),
    }


def collapse_report(z_a: Array, z_b: Array) -> dict[str, float]:
    """Computes the five metrics for embeddings of two views of the same images.

    Args:
        z_a, z_b: float [M,D], M >= 2.

    Returns:
        `std` (see `std_of_normalized`), `effective_rank`, `alpha_req`, `uniformity`: each the mean
        of both views' values; and `alignment`. NaN if an embedding is NaN. Without `alpha_req` if
        finite embeddings have too few directions for its fit.

    Raises:
        ValueError: shapes that are not [M,D] and equal, or fewer than two images.

    Example:
        >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> {k: round(v, 3) for k, v in collapse_report(z, z).items()}
        {'alignment': 0.0, 'effective_rank': 2.0, 'std': 0.707, 'uniformity': -4.0}
    """
    z_a, z_b = jnp.asarray(z_a), jnp.asarray(z_b)
    _check(z_a, z_b)
    report = {name: float(value) for name, value in sorted(_measure(z_a, z_b).items())}
    if np.isnan(report["alpha_req"]) and np.isfinite(report["std"]):
        del report["alpha_req"]
    return report


def collapse_warnings(
    report: Mapping[str, float],
    *,
    std_threshold: float = STD_THRESHOLD,
    rank_threshold: float = RANK_THRESHOLD,
) -> list[str]:
    """Returns a line for each sign of collapse in a report: value, threshold, and what to check.

    A `std` below 0.1 corresponds to a mean cosine of .99 between different images (sqrt(1 - c)),
    or variation along a hundredth of the dimensions (sqrt(1 / 100)). With an `effective_rank`
    below 2 the embeddings use fewer than two directions: not even two classes can be orthogonal.

    Args:
        report: from `collapse_report`.
        std_threshold: warn if `std` is below; 0 for never.
        rank_threshold: warn if `effective_rank` is below; 0 for never.

    Returns:
        The lines, [] if there are none.

    Example:
        >>> z = jnp.ones((8, 4))
        >>> for line in collapse_warnings(collapse_report(z, z)):
        ...     print(line[:66])
        collapse: std of normalised embeddings is 0, below the threshold 0
        collapse: effective rank (RankMe) is 1, below the threshold 2: few
    """
    lines = []
    lost = [name for name, value in report.items() if value != value]
    if lost:
        lines.append(
            f"collapse: {', '.join(lost)} is not a number, expected finite embeddings: check "
            "the loss, the learning rate and the dtype."
        )
    if report["std"] < std_threshold:
        lines.append(
            f"collapse: std of normalised embeddings is {report['std']:.3g}, below the threshold "
            f"{std_threshold:g} (1 is uniform, 0 one point): different images have nearly the same "
            "embedding. Check the learning rate and warm-up, BN statistics, stop-gradient and "
            "EMA momentum, and the temperature."
        )
    if report["effective_rank"] < rank_threshold:
        lines.append(
            f"collapse: effective rank (RankMe) is {report['effective_rank']:.3g}, below the "
            f"threshold {rank_threshold:g}: few directions are used by the embeddings. Check the "
            "strength of the augmentation, weight decay, the projection head and the batch size."
        )
    return lines


def _check(*arrays: Array) -> None:
    shapes = [jnp.shape(z) for z in arrays]
    if len({*shapes}) > 1 or len(shapes[0]) != 2 or shapes[0][0] < (2 if len(arrays) == 1 else 1):
        found = " and ".join(str(shape) for shape in shapes)
        raise ValueError(
            f"Collapse is measured on embeddings [M,D] of one shape with M >= 2, found {found}."
        )
