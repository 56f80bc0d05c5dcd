"""Cross entropy and top-k against torch's recorded values, loops and closed forms."""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

TESTS = Path(__file__).parents[1]
cross_entropy = jax.jit(losses.cross_entropy, static_argnames="label_smoothing")
top_k_correct = jax.jit(losses.top_k_correct, static_argnames="k")
naive = runpy.run_path(str(TESTS / "reference" / "naive_losses.py"))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(TESTS / "golden" / "losses_torch.npz"))


@pytest.mark.parametrize("kind", ["int", "soft"])
@pytest.mark.parametrize("i", range(3))
def test_value_and_gradient_equal_torch(golden, kind, i):
    labels = jnp.asarray(golden["ce_labels" if kind == "int" else "ce_soft"])
    smoothing = float(golden["ce_smoothing"][i])

    def total(logits):
        loss = cross_entropy(logits, labels, label_smoothing=smoothing)
        return jnp.sum(loss), loss

    logits = jnp.asarray(golden["ce_logits"], jnp.float32)
    grad, loss = jax.jit(jax.grad(total, has_aux=True))(logits)
    np.testing.assert_allclose(loss, golden[f"ce_{kind}_loss_{i}"], rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(grad, golden[f"ce_{kind}_grad_{i}"], atol=1e-6)


def test_smoothing_equals_the_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, size=6)
    loss = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), label_smoothing=0.2)
    np.testing.assert_allclose(loss, naive["cross_entropy"](logits, labels, 0.2), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uniform_logits_give_ln_k(smoothing):
    loss = cross_entropy(jnp.zeros((3, 1000)), jnp.array([0, 7, 999]), label_smoothing=smoothing)
    np.testing.assert_allclose(loss, np.full(3, math.log(1000)), rtol=1e-6)


def test_one_hot_labels_equal_integer_labels():
    logits = jax.random.normal(jax.random.key(0), (5, 4))
    labels = jnp.array([3, 0, 2, 1, 1])
    for smoothing in (0.0, 0.3):
        hard = cross_entropy(logits, labels, label_smoothing=smoothing)
        soft = cross_entropy(logits, jax.nn.one_hot(labels, 4), label_smoothing=smoothing)
        np.testing.assert_array_equal(hard, soft)


def test_large_bfloat16_logits_are_finite_in_float32():
    logits = jnp.array([[1e4, -1e4, 0.0]], jnp.bfloat16)
    loss = cross_entropy(logits, jnp.array([1]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [float(logits[0, 0]) - float(logits[0, 1])], rtol=1e-6)


def test_labels_out_of_range_give_nan():
    logits, labels = jnp.zeros((4, 3)), jnp.array([-1, 0, 2, 3])
    loss = cross_entropy(logits, labels, label_smoothing=0.1)
    assert np.isnan(loss).tolist() == [True, False, False, True]
    correct = top_k_correct(jnp.tile(jnp.array([2.0, 1.0, 3.0]), (4, 1)), labels, k=1)
    assert correct.tolist() == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_equals_torch(golden, k):
    logits = jnp.asarray(golden["top_logits"], jnp.float32)
    correct = top_k_correct(logits, jnp.asarray(golden["top_labels"]), k=k)
    assert correct.dtype == jnp.float32
    np.testing.assert_array_equal(correct, golden[f"top_{k}"].astype(np.float32))
    assert 0 < golden[f"top_{k}"].mean() < 1


def test_ties_and_nan_count_as_wrong():
    logits = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [math.nan, 1.0, 0.0], [math.nan] * 3])
    labels = jnp.array([0, 1, 1, 0])
    assert top_k_correct(logits, labels, k=1).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert top_k_correct(logits, labels, k=2).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert top_k_correct(logits, labels, k=3).tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        ((4, 3), (5,), {}, r"logits float32 \(4, 3\) and labels int32 \(5,\)"),
        ((4,), (4,), {}, r"logits float32 \(4,\)"),
        ((4, 3, 2), (4,), {}, r"logits float32 \(4, 3, 2\)"),
        ((4, 3), (4, 3), {}, r"labels int32 \(4, 3\)"),  # soft labels are float
        ((4, 3), (), {}, r"labels int32 \(\)"),
        ((4, 3), (4,), {"label_smoothing": 1.0}, r"\[0,1\), found 1.0"),
        ((4, 3), (4,), {"label_smoothing": -0.1}, r"\[0,1\), found -0.1"),
    ],
)
def test_misuse_of_cross_entropy(logits, labels, options, message):
    with pytest.raises(ValueError, match=message):
        losses.cross_entropy(jnp.zeros(logits), jnp.zeros(labels, jnp.int32), **options)


def test_float_class_numbers_and_integer_logits_are_refused():
    with pytest.raises(ValueError, match=r"labels float32 \(4,\)"):
        losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"labels float32 \(4, 2\)"):
        losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"logits int32 \(4, 3\)"):
        losses.cross_entropy(jnp.zeros((4, 3), jnp.int32), jnp.zeros(4, jnp.int32))


@pytest.mark.parametrize("k", [0, 4])
def test_misuse_of_top_k(k):
    with pytest.raises(ValueError, match=f"from 1 to K=3, found {k}"):
        losses.top_k_correct(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), k=k)
    with pytest.raises(ValueError, match=r"labels float32 \(2, 3\)"):
        losses.top_k_correct(jnp.zeros((2, 3)), jnp.zeros((2, 3)), k=1)
