"""Terms of a discrete VAE's evidence lower bound: reconstruction and KL of the codes.

    maximise  E_{z ~ q(z|x)} [ln p(x|z)] - KL[q(z|x) || p(z)],   p(z) uniform over the vocabulary

Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092, section 2.1 and appendix A.
"""

import jax
import jax.numpy as jnp

from jssl.types import Array


def logit_laplace_nll(x: Array, mu: Array, log_scale: Array) -> Array:
    """Computes the negative log likelihood of pixels in (0, 1) under a logit-Laplace distribution.

        -ln p(x) = ln(2 b x (1 - x)) + |logit(x) - mu| / b,   b = exp(log_scale)

    Args:
        x: float [...] within (0, 1): pixels after `map_pixels`.
        mu: float [...], location of the logit.
        log_scale: float [...], ln b.

    Returns:
        float32 [...], nats a value; may be negative, as for any density.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> x, mu, b = jnp.array([0.7]), jnp.array([0.5]), jnp.array([0.3])
        >>> print(f'{logit_laplace_nll(x, mu, jnp.log(b))[0]:.5f}')
        -0.91381

    Reference: Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092, appendix A.3.
    """
    _same("logit_laplace_nll", x, mu, log_scale)
    x, mu, log_scale = (jnp.asarray(v, jnp.float32) for v in (x, mu, log_scale))
    logit = jnp.log(x) - jnp.log1p(-x)
    density = jnp.log(2.0) + log_scale + jnp.log(x) + jnp.log1p(-x)
    return density + jnp.abs(logit - mu) * jnp.exp(-log_scale)


def squared_error(x: Array, y: Array) -> Array:
    """Computes (x - y)^2 of every value.

    Args:
        x, y: float [...].

    Returns:
        float32 [...]; its mean is the mean squared error.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> print(squared_error(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.5])))
        [1.   0.25]

    Reference: up to constants -ln of a normal density with variance 1/2; the reconstruction of
        https://github.com/microsoft/unilm/tree/master/beit, modeling_discrete_vae.py.
    """
    _same("squared_error", x, y)
    return (jnp.asarray(x, jnp.float32) - jnp.asarray(y, jnp.float32)) ** 2


def kl_to_uniform(logits: Array) -> Array:
    """Computes the KL divergence of softmax(logits) from the uniform distribution, per token.

        KL = sum over k of q(k) ln(K q(k)) = ln K - entropy(q)

    The caller takes the mean over tokens and images. The paper sums over the tokens of an image and
    divides the whole bound by its number of values 3 H W, see `jssl.methods.dvae.kl_coefficient`.

    Args:
        logits: float [...,K] of the encoder; -inf masks a code.

    Returns:
        float32 [...], nats; 0 at uniform logits, ln K if one code has probability 1.

    Raises:
        ValueError: no axis of codes.

    Example:
        >>> logits = jnp.array([[0.0, 0.0], [100.0, 0.0]])
        >>> print(kl_to_uniform(logits).round(4))
        [0.     0.6931]

    Reference: Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092, section 2.1.
    """
    if jnp.ndim(logits) < 1:
        raise ValueError("kl_to_uniform expects logits [...,K], found a scalar.")
    log_q = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    q = jnp.exp(log_q)
    entropy = -jnp.sum(q * jnp.where(q > 0, log_q, 0.0), axis=-1)  # 0 ln 0 = 0
    return -entropy + jnp.log(jnp.float32(logits.shape[-1]))


def _same(name: str, *arrays: Array) -> None:
    shapes = [jnp.shape(a) for a in arrays]
    if len({*shapes}) > 1:
        raise ValueError(f"{name} expects arrays of one shape, found {shapes}.")
