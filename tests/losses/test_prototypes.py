"""The loss of DeepCluster v2 against a naive loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses

V, B, D, K = 3, 8, 5, 7


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = np.array([0, 3, -1, 6, 3, -1, -1, 2], np.int32)
    return unit(rng, V, B, D), unit(rng, K, D), labels


def naive(z, prototypes, labels, temperature):
    total, right, count = 0.0, 0.0, 0
    for v in range(len(z)):
        for i in range(len(labels)):
            if labels[i] < 0:
                continue
            scores = [float(np.dot(z[v, i], p)) / temperature for p in prototypes]
            total += np.log(np.sum(np.exp(scores))) - scores[labels[i]]
            right += np.argmax(scores) == labels[i]
            count += 1
    return total / count, right / count


def test_mean_is_over_labelled_crops(case):
    loss, top1 = losses.prototype_cross_entropy_with_top1(*case, temperature=0.1)
    assert loss.shape == top1.shape == (V, B)
    expected = naive(*case, 0.1)
    np.testing.assert_allclose(jnp.mean(loss), expected[0], rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(top1), expected[1], rtol=1e-5)
    assert np.all(np.asarray(loss)[:, case[2] < 0] == 0)


def test_mean_over_devices_with_different_numbers_of_labels(case):
    z, prototypes, labels = case
    loss = functools.partial(losses.prototype_cross_entropy, temperature=0.1)
    shares = jax.vmap(
        lambda z, y: loss(z, prototypes, y, axis_name="i"), in_axes=(1, 0), axis_name="i"
    )(z.reshape(V, 4, 2, D), labels.reshape(4, 2))
    assert (labels.reshape(4, 2) >= 0).sum(1).tolist() == [2, 1, 1, 1]
    np.testing.assert_allclose(jnp.mean(shares), jnp.mean(loss(*case)), rtol=1e-6)


def test_prototypes_and_unlabelled_examples_have_no_gradient(case):
    def mean(z, prototypes):
        return jnp.mean(losses.prototype_cross_entropy(z, prototypes, case[2], temperature=0.1))

    of_z, of_prototypes = jax.grad(mean, argnums=(0, 1))(*case[:2])
    assert np.all(np.asarray(of_prototypes) == 0)
    without = np.all(np.asarray(of_z) == 0, axis=(0, 2))
    np.testing.assert_array_equal(without, case[2] < 0)


def test_chance_is_ln_k():
    """8.006 for 3000 prototypes; a batch without a single cluster loses nothing."""
    z, same = jnp.ones((1, 2, 4)) / 2, jnp.ones((3000, 4)) / 2
    loss = losses.prototype_cross_entropy(z, same, jnp.array([5, 2999]), temperature=0.1)
    np.testing.assert_allclose(loss, 8.006, atol=5e-4)
    none = losses.prototype_cross_entropy(z, same, jnp.array([-1, -1]), temperature=0.1)
    assert np.all(np.asarray(none) == 0)


def test_shapes_are_checked(case):
    z, prototypes, labels = case
    for wrong in ((z[0], prototypes, labels), (z, prototypes[:, :4], labels),
                  (z, prototypes, labels[:-1])):  # fmt: skip
        with pytest.raises(ValueError, match=r"features \[V,B,D\]"):
            losses.prototype_cross_entropy(*wrong, temperature=0.1)
    with pytest.raises(ValueError, match="positive temperature"):
        losses.prototype_cross_entropy(z, prototypes, labels, temperature=0.0)
