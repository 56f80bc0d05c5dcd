"""VICReg's loss: variance, invariance and covariance of a batch of embeddings."""

from typing import Any

import jax
import jax.numpy as jnp

from jssl.losses._checks import negative
from jssl.parallel.collectives import all_gather, axis_size
from jssl.types import Array

_NAME = "variance_invariance_covariance"
_EPS = 1e-4  # added to the variance: keeps the gradient of a constant dimension finite


def variance_invariance_covariance(
    z_a: Array,
    z_b: Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Computes VICReg's loss of a batch, and its three unweighted terms.

    With the embeddings z_i and z'_i of N examples in two views, each of D dimensions,

        s = mean over i and j of (z_ij - z'_ij)^2                          invariance
        v(Z) = mean over j of max(0, 1 - sqrt(Var_j(Z) + 1e-4))            variance
        C(Z) = sum over i of (z_i - mean) (z_i - mean)^T / (N - 1)
        c(Z) = sum over j != k of C(Z)_jk^2 / D                            covariance
        loss = invariance s + variance (v(Z) + v(Z')) / 2 + covariance (c(Z) + c(Z'))

    Var is unbiased, the diagonal of C. This is the official code's form. The paper's equation 6 has
    v(Z) + v(Z') without the half: use `variance=50` for it. Its equation 5 has s without the mean
    over D, its Algorithm 1 with it.

    Variance and covariance are of a batch, so this is the loss of the whole batch, not of an
    example. Under `axis_name` it is the batch of all devices, gathered with its gradients, and the
    value is the same on each.

    Args:
        z_a: [B,D] float, the first view's embeddings on this device.
        z_b: [B,D] float, the second view's; `z_b[i]` is of the same example as `z_a[i]`.
        invariance, variance, covariance: weights of the terms, at least 0.
        axis_name: the batch axis, or None on one device.

    Returns:
        loss: float32 [], at least 0. For collapsed embeddings, all equal, it is
            variance (1 - sqrt(1e-4)) = 24.75.
        terms: float32 [] each: `invariance` s, `variance` (v(Z) + v(Z')) / 2 in [0, 0.99] and
            `covariance` c(Z) + c(Z').

    Raises:
        ValueError: embeddings that are not of one shape [B,D] or not float, fewer than two
            examples over all devices, a weight below 0.

    Example:
        >>> import jax.numpy as jnp
        >>> loss, terms = variance_invariance_covariance(jnp.ones((4, 3)), jnp.ones((4, 3)))
        >>> print(loss, terms['variance'])
        24.75 0.99

    Reference:
        Bardes et al., ICLR 2022, https://arxiv.org/abs/2105.04906, equations 1 to 6. Official
        code: https://github.com/facebookresearch/vicreg, main_vicreg.py.
    """
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    _check(z_a, z_b, axis_size(axis_name), weights)
    z_a, z_b = (all_gather(z.astype(jnp.float32), axis_name) for z in (z_a, z_b))  # [N,D]
    variance_a, covariance_a = _spread(z_a)
    variance_b, covariance_b = _spread(z_b)
    terms = {
        "invariance": jnp.mean(jnp.square(z_a - z_b)),
        "variance": (variance_a + variance_b) / 2,
        "covariance": covariance_a + covariance_b,
    }
    loss = sum(weights[name] * term for name, term in terms.items())
    return jnp.asarray(loss, jnp.float32), terms


def _spread(z: Array) -> tuple[Array, Array]:
    """Computes v(Z) and c(Z) of the embeddings of one view, float32 [N,D]."""
    N, D = z.shape
    z = z - jnp.mean(z, axis=0, keepdims=True)
    # 'highest': TPUs would multiply in bfloat16.
    C = jnp.einsum("ij,ik->jk", z, z, precision="highest") / (N - 1)
    deviation = jnp.sqrt(jnp.sum(jnp.square(z), axis=0) / (N - 1) + _EPS)
    off_diagonal = jnp.where(jnp.eye(D, dtype=bool), 0.0, C)
    return jnp.mean(jax.nn.relu(1 - deviation)), jnp.sum(jnp.square(off_diagonal)) / D


def _check(z_a: Array, z_b: Array, devices: int, weights: dict[str, Any]) -> None:
    shapes = f"z_a {jnp.shape(z_a)} and z_b {jnp.shape(z_b)}"
    if jnp.ndim(z_a) != 2 or jnp.shape(z_a) != jnp.shape(z_b) or 0 in jnp.shape(z_a):
        raise ValueError(f"{_NAME} expects two embeddings of one shape [B,D], found {shapes}.")
    dtypes = jnp.result_type(z_a), jnp.result_type(z_b)
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        found = " and ".join(dtype.name for dtype in dtypes)
        raise ValueError(f"{_NAME} expects float embeddings, found {found} of {shapes}.")
    if len(z_a) * devices < 2:
        raise ValueError(f"{_NAME} expects 2 or more examples for a variance, found {shapes}.")
    for name, weight in weights.items():
        if negative(weight):
            raise ValueError(f"{_NAME} expects {name} >= 0, found {weight} with {shapes}.")
