"""CMC's losses against the authors' code (recorded), closed forms and loops of the equations."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.errors import UserError
from jssl.state import lookup, update_bank
from jssl.state.rows import write

TESTS = Path(__file__).parents[1]
AXIS = "some_axis"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(TESTS / "golden" / "cmc_official.npz"))


def unit(*shape, seed=0):
    z = np.random.default_rng(seed).normal(size=shape)
    return np.float32(z / np.linalg.norm(z, axis=-1, keepdims=True))


# The authors' code ------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("form",))
def both_directions(features, bank, index, normalizers, *, form):
    """Returns ((sum of the directions' means, (means, Z)), gradient of the features)."""

    def total(features):
        scores = losses.multiview_scores(features, lookup(bank, index), graph="core")
        fresh = losses.nce_normalizer(scores, temperature=0.07, num_examples=bank.shape[1])
        z = jnp.where(normalizers < 0, fresh, normalizers)
        if form == "nce":
            loss = losses.nce(scores, z, temperature=0.07, num_examples=bank.shape[1])
        else:
            loss = losses.nce_softmax(scores, temperature=0.07)
        loss = jnp.mean(loss, axis=-1)[0]
        return jnp.sum(loss), (loss, z)

    return jax.value_and_grad(total, has_aux=True)(features)


@pytest.mark.parametrize("form", ["nce", "softmax"])
def test_two_steps_equal_the_official_code(golden, form):
    """Losses, gradients, a Z fixed after the first batch, and the updated bank."""
    bank, z = jnp.float32(golden["memory"]), jnp.full((1, 2), -1.0)
    for step in range(2):
        features = jnp.float32(golden["features"][step])
        index, name = golden["index"][step].astype(np.int32), f"{form}_{step}"
        (_, (loss, z)), grad = both_directions(features, bank, index, z, form=form)
        np.testing.assert_allclose(loss, golden[f"{name}_loss"], rtol=1e-5)
        np.testing.assert_allclose(grad, golden[f"{name}_grad"], rtol=1e-4, atol=1e-5)
        if form == "nce":
            np.testing.assert_allclose(z[0], golden[f"{name}_z"], rtol=1e-5)
        update = update_bank(bank, features, index[:, 0], momentum=0.5)
        bank = write(update)
        np.testing.assert_allclose(bank, golden[f"{name}_memory"], atol=1e-6)
    assert np.abs(golden["nce_0_loss"] - golden["nce_1_loss"]).max() > 0.1
    np.testing.assert_array_equal(golden["nce_0_z"], golden["nce_1_z"])


def test_z_differs_between_batches(golden):
    """Otherwise the test above could not distinguish a fixed Z from a changing one."""
    bank = jnp.float32(golden["nce_0_memory"])
    index = golden["index"][1].astype(np.int32)
    features = jnp.float32(golden["features"][1])
    (_, (_, z)), _ = both_directions(features, bank, index, jnp.full((1, 2), -1.0), form="nce")
    assert np.abs(z[0] / golden["nce_1_z"] - 1).min() > 0.02


# Closed forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("negatives", "published"), [(4096, 9.32), (16384, 10.70)])
def test_nce_at_uniform_scores(negatives, published):
    scores = jnp.full((3, negatives + 1), 0.3)
    z = losses.nce_normalizer(scores, temperature=0.07, num_examples=1000)
    loss = losses.nce(scores, z, temperature=0.07, num_examples=1000)
    m = negatives
    np.testing.assert_allclose(loss, math.log(m + 1) + m * math.log(1 + 1 / m), rtol=1e-3)
    np.testing.assert_allclose(loss, published, atol=0.01)
    softmax = losses.nce_softmax(scores, temperature=0.07)
    np.testing.assert_allclose(softmax, math.log(m + 1), rtol=1e-5)


@pytest.mark.parametrize(("negatives", "published"), [(4096, 10.16), (16384, 11.51)])
def test_nce_of_random_features(negatives, published):
    """Independent unit vectors of 128 dimensions: the published values, for 48 anchors."""
    scores = np.einsum("bd,kd->bk", unit(48, 128), unit(negatives, 128, seed=1))
    positive = np.einsum("bd,bd->b", unit(48, 128), unit(48, 128, seed=2))
    scores = jnp.concatenate([positive[:, None], scores], axis=1)
    z = losses.nce_normalizer(scores, temperature=0.07, num_examples=10_000)
    loss = losses.nce(scores, z, temperature=0.07, num_examples=10_000)
    spread = 1 / (0.07 * math.sqrt(128 * 48))  # of the mean positive score over T: 0.18
    assert abs(float(jnp.mean(loss)) - published) < 3 * spread


def test_bound_is_log_k_minus_the_loss_and_never_above_log_k():
    assert float(losses.mutual_information_bound(0.0, num_negatives=100)) == pytest.approx(
        math.log(100)
    )
    uniform = losses.nce_softmax(jnp.zeros((1, 101)), temperature=1.0)
    bound = losses.mutual_information_bound(uniform, num_negatives=100)
    np.testing.assert_allclose(bound, math.log(100 / 101), atol=1e-6)


def test_bound_is_below_a_known_mutual_information():
    """Ten equally likely symbols seen alike in both views, scored by the optimal critic.

    I is ln 10. With drawn negatives -E log(h0 / (h0 + sum h)) has the bound below it.
    """
    rng = np.random.default_rng(0)
    symbols, k = rng.integers(0, 10, 4000), 63
    others = rng.integers(0, 10, (4000, k))
    same = np.concatenate([np.ones((4000, 1)), others == symbols[:, None]], axis=1)
    scores = jnp.where(jnp.asarray(same) > 0, 0.0, -100.0)  # log p(z1|z2) / p(z1), up to a constant
    loss = jnp.mean(losses.nce_softmax(scores, temperature=1.0))
    bound = float(losses.mutual_information_bound(loss, num_negatives=k))
    assert math.log(10) - 0.2 < bound < math.log(10)


# More views -------------------------------------------------------------------------------------


def test_pairs_of_the_lecture():
    assert losses.view_pairs(5, graph="core") == ((0, 1), (0, 2), (0, 3), (0, 4))
    assert len(losses.view_pairs(5, graph="full")) == 10
    assert losses.view_pairs(2, graph="core") == losses.view_pairs(2, graph="full") == ((0, 1),)


@pytest.mark.parametrize("graph", ["core", "full"])
def test_more_views_equal_the_loop_over_pairs_and_directions(graph):
    V, B, K, D, T = 4, 3, 5, 8, 0.1
    f, rows = unit(V, B, D), unit(V, B, K + 1, D, seed=1)
    total = np.zeros(B)
    for i in range(V):
        for j in range(V):
            if i == j or (graph == "core" and 0 not in (i, j)):
                continue
            for b in range(B):  # anchor i, candidates of view j
                logits = [float(f[i, b] @ rows[j, b, k]) / T for k in range(K + 1)]
                total[b] += math.log(sum(map(math.exp, logits))) - logits[0]
    scores = losses.multiview_scores(f, rows, graph=graph)
    loss = jnp.sum(losses.nce_softmax(scores, temperature=T), axis=(0, 1))
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_anchors_are_scored_with_the_other_views_bank():
    """out_ab = memory_l . f_ab: by derivatives, of either direction in either argument."""
    f, rows = unit(2, 1, 4), unit(2, 1, 3, 4, seed=1)
    of_f, of_rows = jax.jacobian(
        lambda f, r: losses.multiview_scores(f, r, graph="core")[0, :, 0], argnums=(0, 1)
    )(f, rows)
    for anchor, other in ((0, 1), (1, 0)):
        assert np.abs(of_f[anchor, :, anchor]).max() > 0.1
        np.testing.assert_array_equal(of_f[anchor, :, other], 0.0)
        assert np.abs(of_rows[anchor, :, other]).max() > 0.1
        np.testing.assert_array_equal(of_rows[anchor, :, anchor], 0.0)


# In-batch negatives -----------------------------------------------------------------------------


def test_in_batch_equals_the_loop_and_has_n_minus_1_negatives():
    f, T = unit(2, 6, 8), 0.2
    scores = losses.in_batch_scores(f, graph="core")
    loss = losses.nce_softmax(scores, temperature=T)[0]
    for direction, (i, j) in enumerate(((0, 1), (1, 0))):
        logits = np.float64(f[i]) @ np.float64(f[j]).T / T
        expected = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
        np.testing.assert_allclose(loss[direction], expected, rtol=1e-5)
    same = losses.in_batch_scores(jnp.ones((2, 6, 1)), graph="core")
    np.testing.assert_allclose(losses.nce_softmax(same, temperature=T), math.log(6), rtol=1e-5)


def test_in_batch_on_four_devices_equals_one():
    f = unit(3, 8, 4)

    def mean_loss(f, axis_name=None):
        scores = losses.in_batch_scores(f, graph="full", axis_name=axis_name)
        return jnp.mean(losses.nce_softmax(scores, temperature=0.1))

    def total(f):
        pieces = f.reshape(3, 4, 2, 4)
        return jnp.mean(jax.vmap(lambda x: mean_loss(x, AXIS), 1, axis_name=AXIS)(pieces))

    one, one_grad = jax.jit(jax.value_and_grad(mean_loss))(f)
    four, four_grad = jax.jit(jax.value_and_grad(total))(f)
    np.testing.assert_allclose(four, one, rtol=1e-6)
    np.testing.assert_allclose(four_grad, one_grad, atol=1e-6)
    assert np.isfinite(one_grad).all() and np.abs(one_grad).max() > 1e-3
    local = np.mean([mean_loss(f[:, i : i + 2]) for i in range(0, 8, 2)])
    assert abs(local - one) > 0.1


# Misuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.view_pairs(1, graph="core"), "two or more, found 1"),
        (lambda: losses.nce_softmax(jnp.zeros((3, 1)), temperature=1.0), r"found \(3, 1\)"),
        (lambda: losses.nce_softmax(jnp.zeros((3, 4)), temperature=0.0), "temperature > 0"),
        (
            lambda: losses.nce(jnp.zeros((2, 3, 4)), jnp.ones(3), temperature=1.0, num_examples=9),
            r"leading axes \(2,\), found \(3,\)",
        ),
        (
            lambda: losses.multiview_scores(jnp.ones((2, 3, 4)), jnp.ones((2, 3, 5)), graph="core"),
            r"found \(2, 3, 4\) and \(2, 3, 5\)",
        ),
        (lambda: losses.in_batch_scores(jnp.ones((3, 4)), graph="core"), r"found \(3, 4\)"),
        (lambda: losses.mutual_information_bound(0.0, num_negatives=0), "num_negatives=0"),
    ],
)
def test_invalid_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_graph_names_the_nearest():
    with pytest.raises(UserError, match="'ful': did you mean 'full'"):
        losses.view_pairs(3, graph="ful")
