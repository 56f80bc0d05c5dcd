"""DeiT's losses against torch (tests/reference/record_distillation_torch.py) and by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "distillation_torch.npz")
STUDENT, TEACHER = GOLDEN["student"], GOLDEN["teacher"]


@pytest.mark.parametrize("reduction", ["official", "batchmean"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_equals_torch(reduction, temperature):
    result = losses.soft_distillation(
        STUDENT, TEACHER, temperature=temperature, reduction=reduction
    ).mean()
    np.testing.assert_allclose(result, GOLDEN[f"{reduction}_{temperature:g}"], rtol=2e-6)


def test_official_reduction_divides_by_k():
    full, small = (
        losses.soft_distillation(STUDENT, TEACHER, reduction=r) for r in ("batchmean", "official")
    )
    np.testing.assert_allclose(full / small, 10, rtol=1e-6)


def test_hard_distillation_and_cross_entropy_equal_torch():
    hard = losses.hard_distillation(STUDENT, TEACHER)
    np.testing.assert_allclose(hard.mean(), GOLDEN["hard"], rtol=2e-6)
    one_hot = np.eye(10, dtype=np.float32)[:6]
    base = losses.cross_entropy(STUDENT, one_hot * 0.9 + 0.01)
    np.testing.assert_allclose(base.mean(), GOLDEN["base"], rtol=2e-6)


def test_no_gradient_reaches_the_teacher():
    for loss in (losses.soft_distillation, losses.hard_distillation):
        grads = jax.grad(lambda s, t, f=loss: f(s, t).sum(), argnums=(0, 1))(STUDENT, TEACHER)
        assert float(jnp.abs(grads[0]).max()) > 0
        assert float(jnp.abs(grads[1]).max()) == 0


def test_gradient_of_soft_by_hand():
    """d/dZ_s of tau^2 KL = tau (q - p): at tau = 2, two classes."""
    Z_s, Z_t = np.array([[0.0, 0.0]], np.float32), np.array([[2 * np.log(3), 0]], np.float32)
    grad = jax.grad(lambda s: losses.soft_distillation(s, Z_t, temperature=2.0).sum())(Z_s)
    np.testing.assert_allclose(grad, [[2 * (0.5 - 0.75), 2 * (0.5 - 0.25)]], atol=1e-6)


def test_invalid_arguments():
    with pytest.raises(ValueError, match=r"float \[B,K\]"):
        losses.hard_distillation(STUDENT, TEACHER[:3])
    with pytest.raises(ValueError, match="temperature > 0"):
        losses.soft_distillation(STUDENT, TEACHER, temperature=0.0)
    with pytest.raises(ValueError, match="official"):
        losses.soft_distillation(STUDENT, TEACHER, reduction="offical")
