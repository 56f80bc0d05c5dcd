"""DeiT's soft and hard distillation losses."""

import jax
import jax.numpy as jnp

from jssl.errors import nearest
from jssl.losses._checks import not_positive
from jssl.losses.classification import cross_entropy
from jssl.types import Array

REDUCTIONS = ("batchmean", "official")


def soft_distillation(
    student_logits: Array,
    teacher_logits: Array,
    *,
    temperature: float = 1.0,
    reduction: str = "batchmean",
) -> Array:
    """Computes tau^2 KL(teacher || student), per example.

        loss = tau^2 sum over k of p(k) (log p(k) - log q(k)),
        p = softmax(Z_t / tau), q = softmax(Z_s / tau)

    The teacher gets no gradient. The official code divides the sum over a batch by B K, not by B:
    its term, and the effect of its lambda, is K times smaller.

    Args:
        student_logits: Z_s, float [B,K].
        teacher_logits: Z_t, float [B,K]; -inf masks a class.
        temperature: tau > 0.
        reduction: 'batchmean': this formula, whose mean over examples is the paper's; 'official':
            divided by K.

    Returns:
        float32 [B], in nats times tau^2; 0 for equal distributions.

    Raises:
        ValueError: other shapes or dtypes, temperature not above 0, unknown reduction.

    Example:
        >>> import jax.numpy as jnp
        >>> Z_s, Z_t = jnp.array([[0.0, 0.0]]), jnp.log(jnp.array([[3.0, 1.0]]))
        >>> round(float(soft_distillation(Z_s, Z_t)[0]), 4)  # .75 ln 1.5 + .25 ln .5
        0.1308

    Reference:
        Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877, equation 2; Hinton et al.
        2015, https://arxiv.org/abs/1503.02531; the divisor:
        https://github.com/facebookresearch/deit, losses.py.
    """
    _check("soft_distillation", student_logits, teacher_logits)
    if not_positive(temperature):
        raise ValueError(f"soft_distillation expects temperature > 0, found {temperature}.")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"Unknown reduction '{reduction}' of soft_distillation: "
            f"{nearest(reduction, REDUCTIONS)}."
        )
    teacher = jax.lax.stop_gradient(jnp.asarray(teacher_logits, jnp.float32))
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(jnp.asarray(student_logits, jnp.float32) / temperature)
    p = jnp.exp(log_p)  # 0 ln 0 = 0 for classes masked with -inf
    log_p, log_q = (jnp.where(p > 0, x, 0.0) for x in (log_p, log_q))
    loss = temperature**2 * jnp.sum(p * (log_p - log_q), axis=1)
    return loss / log_q.shape[1] if reduction == "official" else loss


def hard_distillation(student_logits: Array, teacher_logits: Array) -> Array:
    """Computes the cross entropy with the teacher's label y_t = argmax Z_t, per example.

    Args:
        student_logits: Z_s, float [B,K].
        teacher_logits: Z_t, float [B,K]; ties take the first class.

    Returns:
        float32 [B], in nats; ln K at uniform student logits.

    Raises:
        ValueError: other shapes or dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> Z_s, Z_t = jnp.array([[0.0, 1.0]]), jnp.array([[2.0, 5.0]])
        >>> round(float(hard_distillation(Z_s, Z_t)[0]), 4)  # ln(1 + 1/e)
        0.3133

    Reference:
        Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877, equation 3, its second term.
    """
    _check("hard_distillation", student_logits, teacher_logits)
    return cross_entropy(student_logits, jnp.argmax(teacher_logits, axis=1))


def _check(name: str, student: Array, teacher: Array) -> None:
    shapes = jnp.shape(student), jnp.shape(teacher)
    dtypes = jnp.result_type(student), jnp.result_type(teacher)
    floats = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not floats:
        raise ValueError(
            f"{name} expects student_logits and teacher_logits float [B,K], found "
            f"{dtypes[0].name} {shapes[0]} and {dtypes[1].name} {shapes[1]}."
        )
