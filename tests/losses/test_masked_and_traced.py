"""Classes masked with -inf give finite losses; a temperature may be a traced, learnt array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.losses import contrastive

RNG = np.random.default_rng(0)
Z, Y = RNG.normal(size=(5, 4)).astype(np.float32), np.array([0, 1, 3, 0, 1])
OTHER = RNG.normal(size=(5, 4)).astype(np.float32)
MASKED = np.array(Z)
MASKED[:, 2] = -np.inf
KEPT = [0, 1, 3]  # the classes that are not masked
PLACE = np.array([0, 1, 2, 0, 1])  # of the labels among these


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_classes_equal_removed_classes(smoothing):
    def masked(z):
        return losses.cross_entropy(z, Y, label_smoothing=smoothing)

    expected = losses.cross_entropy(Z[:, KEPT], PLACE, label_smoothing=smoothing)
    np.testing.assert_allclose(masked(MASKED), expected, rtol=1e-6)
    grad = jax.grad(lambda z: masked(z).sum())(jnp.asarray(MASKED))
    own = jax.grad(lambda z: losses.cross_entropy(z, PLACE, label_smoothing=smoothing).sum())(
        jnp.asarray(Z[:, KEPT])
    )
    np.testing.assert_allclose(grad[:, KEPT], own, atol=1e-6)
    np.testing.assert_array_equal(grad[:, 2], 0.0)
    soft = losses.cross_entropy(MASKED, np.eye(4, dtype=np.float32)[Y], label_smoothing=smoothing)
    np.testing.assert_allclose(soft, expected, rtol=1e-6)


def test_masked_labels_have_infinite_loss():
    assert np.isposinf(losses.cross_entropy(MASKED, np.full(5, 2))).all()


def test_distillation_of_masked_classes():
    other = np.array(OTHER)
    other[:, 2] = -np.inf
    expected = losses.soft_distillation(OTHER[:, KEPT], Z[:, KEPT], temperature=3.0)
    for student in (other, OTHER - 1e4 * (np.arange(4) == 2)):
        result = losses.soft_distillation(student.astype(np.float32), MASKED, temperature=3.0)
        np.testing.assert_allclose(result, expected, rtol=1e-5)
    grad = jax.grad(lambda z: losses.soft_distillation(z, MASKED).sum())(jnp.asarray(other))
    assert np.isfinite(grad).all()
    hard = losses.hard_distillation(other, MASKED)
    np.testing.assert_allclose(hard, losses.hard_distillation(OTHER[:, KEPT], Z[:, KEPT]), 1e-6)


def test_kl_to_uniform_of_masked_codes():
    """ln 4 minus the entropy: a masked code adds nothing to the entropy."""
    p = np.exp(Z[:, KEPT]) / np.exp(Z[:, KEPT]).sum(1, keepdims=True)
    expected = np.log(4) + (p * np.log(p)).sum(1)
    np.testing.assert_allclose(losses.kl_to_uniform(MASKED), expected, rtol=1e-5)
    grad = jax.grad(lambda z: losses.kl_to_uniform(z).sum())(jnp.asarray(MASKED))
    assert np.isfinite(grad).all()


SCORES = np.abs(RNG.normal(size=(2, 5, 4))).astype(np.float32)
WITH_TEMPERATURE = {
    "nt_xent": lambda t: losses.nt_xent(Z, OTHER, temperature=t),
    "nt_xent_with_top1": lambda t: losses.nt_xent_with_top1(Z, OTHER, temperature=t)[0],
    "info_nce": lambda t: losses.info_nce(Z, OTHER, Z[::-1], temperature=t),
    "symmetric_info_nce": lambda t: losses.symmetric_info_nce(Z, OTHER, Z, OTHER, temperature=t),
    "nce": lambda t: losses.nce(SCORES, jnp.ones(2), temperature=t, num_examples=9),
    "nce_normalizer": lambda t: losses.nce_normalizer(SCORES, temperature=t, num_examples=9),
    "nce_softmax": lambda t: losses.nce_softmax(SCORES, temperature=t),
    "soft_distillation": lambda t: losses.soft_distillation(Z, OTHER, temperature=t),
    "prototypes": lambda t: losses.prototype_cross_entropy(Z[None], OTHER, Y, temperature=t),
}


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_a_temperature_may_be_traced_and_learnt(name):
    loss = WITH_TEMPERATURE[name]
    np.testing.assert_allclose(jax.jit(loss)(0.5), loss(0.5), rtol=1e-5)
    slope = jax.grad(lambda t: loss(t).sum())(0.5)
    numeric = (loss(0.505).sum() - loss(0.495).sum()) / 0.01
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            loss(wrong)


def test_temperature_gradient_in_blocks(monkeypatch):
    full = jax.grad(lambda t: losses.nt_xent(Z, OTHER, temperature=t).sum())(0.5)
    monkeypatch.setattr(contrastive, "_HELD", 0)
    blocks = jax.grad(lambda t: losses.nt_xent(Z, OTHER, temperature=t).sum())(0.5)
    np.testing.assert_allclose(blocks, full, rtol=1e-5)


def test_label_smoothing_may_be_traced():
    result = jax.jit(lambda e: losses.cross_entropy(Z, Y, label_smoothing=e))(0.1)
    np.testing.assert_allclose(result, losses.cross_entropy(Z, Y, label_smoothing=0.1), rtol=1e-6)
