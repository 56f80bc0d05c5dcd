"""NT-Xent against the paper's loop, lightly's recorded values, closed forms, and when sharded."""

import functools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jssl import losses
from jssl.parallel.collectives import mean_value_and_grad

TESTS = Path(__file__).parents[1]
naive = runpy.run_path(str(TESTS / "reference" / "naive_losses.py"))
AXIS = "some_axis"

# One compilation a shape and temperature; the checks of arguments run at tracing all the same.
OPTIONS = ("temperature", "normalize", "form", "axis_name")
nt_xent = jax.jit(losses.nt_xent, static_argnames=OPTIONS)
nt_xent_with_top1 = jax.jit(losses.nt_xent_with_top1, static_argnames=OPTIONS)


@functools.partial(jax.jit, static_argnames=OPTIONS)
def value_and_grads(z_a, z_b, **options):
    """Mean loss and its gradients in both views."""

    def mean_loss(z):
        return jnp.mean(losses.nt_xent(*z, **options))

    return jax.value_and_grad(mean_loss)((z_a, z_b))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(TESTS / "golden" / "losses_torch.npz"))


def embeddings(size, dim=16, noise=0.7, seed=0):
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(size, dim))
    return z_a, z_a + noise * rng.normal(size=(size, dim))


def as_jax(*arrays):
    return tuple(np.asarray(array, np.float32) for array in arrays)


# Reference values -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "temperature"), [(1, 0.5), (2, 0.1), (7, 0.05), (7, 1.0)])
def test_equals_the_loop_of_the_paper_per_example(size, temperature):
    z_a, z_b = embeddings(size)
    loss = nt_xent(*as_jax(z_a, z_b), temperature=temperature)
    assert loss.shape == (size,) and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, naive["nt_xent"](z_a, z_b, temperature), rtol=1e-5, atol=5e-6)


def test_without_normalisation_equals_the_loop():
    z_a, z_b = embeddings(6)
    loss = nt_xent(*as_jax(z_a, z_b), temperature=2.0, normalize=False)
    expected = naive["nt_xent"](z_a, z_b, 2.0, normalize=False)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected - naive["nt_xent"](z_a, z_b, 2.0)).max() > 0.1


@pytest.mark.parametrize("i", range(4))
def test_value_and_gradients_equal_lightly(golden, i):
    temperature = float(golden["nt_xent_temperature"][i])
    z = as_jax(golden["nt_xent_z_a"], golden["nt_xent_z_b"])
    value, (grad_a, grad_b) = value_and_grads(*z, temperature=temperature)
    np.testing.assert_allclose(value, golden[f"nt_xent_loss_{i}"], rtol=1e-5)
    np.testing.assert_allclose(grad_a, golden[f"nt_xent_grad_a_{i}"], atol=2e-6)
    np.testing.assert_allclose(grad_b, golden[f"nt_xent_grad_b_{i}"], atol=2e-6)
    assert np.abs(golden[f"nt_xent_grad_a_{i}"]).max() > 1e-3


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_official_form_equals_the_official_objective(temperature):
    z_a, z_b = embeddings(32)
    expected = naive["official_simclr"](np.concatenate([z_a, z_b]), temperature)
    z = as_jax(z_a, z_b)
    official = nt_xent(*z, temperature=temperature, form="official")
    np.testing.assert_allclose(jnp.mean(official), expected, rtol=1e-5)
    paper = nt_xent(*z, temperature=temperature, form="paper")
    np.testing.assert_allclose(2.0 * paper, official, rtol=1e-6)


@pytest.mark.parametrize(("temperature", "published"), [(0.5, 13.89), (0.1, 14.55)])
def test_official_loss_of_random_features(temperature, published):
    """Independent unit vectors, N=512, D=128: published for one draw, and in closed form.

    Similarities are close to normal with variance 1/D, so that the expected loss is
    2 (ln(2N-2) + 1 / (2 D T^2)), and the mean of 512 positives spreads by `spread` a draw.
    """
    N, D = 512, 128
    rng = np.random.default_rng(3)
    spread = 2 / (temperature * math.sqrt(D * N))  # .016 and .078
    draws = []
    for _ in range(16):
        z_a, z_b = as_jax(*rng.normal(size=(2, N, D)))
        draws.append(np.mean(nt_xent(z_a, z_b, temperature=temperature, form="official")))
    expected = 2 * (math.log(2 * N - 2) + 1 / (2 * D * temperature**2))
    assert abs(np.mean(draws) - expected) < 3 * spread / math.sqrt(16)
    assert abs(np.mean(draws) - published) < 3 * spread
    assert 0.5 * spread < np.std(draws) < 2 * spread


@pytest.mark.parametrize("size", [2, 5, 64])
def test_value_at_uniform_logits(size):
    z = np.ones((size, 8), np.float32)
    uniform = math.log(2 * size - 1)
    for form, expected in (("paper", uniform), ("official", 2 * uniform)):
        loss = nt_xent(z, z, temperature=0.1, form=form)
        np.testing.assert_allclose(loss, np.full(size, expected), rtol=1e-5)


# Properties -------------------------------------------------------------------------------------


def test_permuting_the_batch_permutes_the_losses():
    z_a, z_b = as_jax(*embeddings(9))
    order = np.random.default_rng(1).permutation(9)
    loss, top1 = nt_xent_with_top1(z_a, z_b, temperature=0.1)
    moved, moved_top1 = nt_xent_with_top1(z_a[order], z_b[order], temperature=0.1)
    np.testing.assert_allclose(moved, loss[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved_top1, top1[order])
    assert np.std(loss) > 0.01  # else the order could not be told


def test_swapping_the_views_changes_nothing():
    z_a, z_b = as_jax(*embeddings(9))
    loss = nt_xent(z_a, z_b, temperature=0.1)
    np.testing.assert_allclose(nt_xent(z_b, z_a, temperature=0.1), loss, rtol=1e-5, atol=1e-6)


def test_norm_has_no_effect_if_normalised():
    z_a, z_b = as_jax(*embeddings(6))
    scales = np.array([0.01, 0.5, 1.0, 3.0, 40.0, 1000.0], np.float32)[:, None]
    loss = nt_xent(z_a, z_b, temperature=0.5)
    scaled = nt_xent(z_a * scales, z_b, temperature=0.5)
    np.testing.assert_allclose(scaled, loss, rtol=1e-5)
    plain = functools.partial(nt_xent, temperature=0.5, normalize=False)
    assert np.abs(plain(z_a * 2.0, z_b) - plain(z_a, z_b)).max() > 0.1


@pytest.mark.parametrize("collapsed", [1.0, 0.0])
def test_identical_and_zero_vectors_have_finite_loss_and_gradient(collapsed):
    z = np.full((8, 16), collapsed, np.float32)
    value, grads = value_and_grads(z, z, temperature=0.05)
    np.testing.assert_allclose(value, math.log(15), rtol=1e-5)
    assert np.isfinite(grads).all()


def test_bfloat16_is_computed_in_float32():
    z_a, z_b = (z.astype(jnp.bfloat16) for z in as_jax(*embeddings(16)))
    value, (grad, _) = value_and_grads(z_a, z_b, temperature=0.05)
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(grad, np.float32)).all()
    # The inputs are rounded, the arithmetic is not: equal to the loop on the rounded inputs.
    rounded = (np.asarray(z, np.float64) for z in (z_a, z_b))
    np.testing.assert_allclose(value, naive["nt_xent"](*rounded, 0.05).mean(), rtol=1e-5)


def test_top1_is_the_nearest_of_the_other_view():
    z_a, z_b = embeddings(40, dim=4, noise=1.0)
    expected = naive["contrastive_top1"](z_a, z_b)
    _, top1 = nt_xent_with_top1(*as_jax(z_a, z_b), temperature=0.1)
    np.testing.assert_array_equal(top1, expected)
    assert set(expected) == {0.0, 0.5, 1.0}  # each case occurs
    same = np.ones((4, 3), np.float32)
    _, collapsed = nt_xent_with_top1(same, same, temperature=0.1)
    np.testing.assert_array_equal(collapsed, np.zeros(4))


# Sharded == whole -------------------------------------------------------------------------------

SIZE, INPUT, DIM = 16, 12, 8


def objective(params, batch, form="official", axis_name=None):
    """Mean loss of a linear encoder on two views [2,B,INPUT], with its per-example values."""
    z = jnp.einsum("vbi,id->vbd", batch, params["kernel"]) + params["bias"][None, None, :]
    loss, top1 = losses.nt_xent_with_top1(
        z[0], z[1], temperature=0.2, form=form, axis_name=axis_name
    )
    return jnp.mean(loss), (loss, top1)


def encoder_and_batch():
    rng = np.random.default_rng(5)
    params = {"kernel": rng.normal(size=(INPUT, DIM)), "bias": rng.normal(size=DIM)}
    views = np.stack(embeddings(SIZE, dim=INPUT, noise=1.0, seed=6))
    return jax.tree.map(lambda x: np.asarray(x, np.float32), (params, views))


def step(params, batch, axis_name, loss_axis="same"):
    """((loss, (per example, top1)), grads) on one device."""
    loss_axis = axis_name if loss_axis == "same" else loss_axis
    loss_fn = functools.partial(objective, batch=batch, axis_name=loss_axis)
    return mean_value_and_grad(loss_fn, params, axis_name)


@functools.cache
def run_unsharded():
    """The step on one device with the whole batch."""
    return jax.jit(functools.partial(step, axis_name=None))(*encoder_and_batch())


def run_sharded(mode, devices, params, views, **options):
    """The step with [2,SIZE,INPUT] split over `devices` along the second axis."""
    local = functools.partial(step, axis_name=AXIS, **options)
    if mode == "shard_map":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), (AXIS,))
        out = ((P(), (P(AXIS), P(AXIS))), P())
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P(None, AXIS)), out_specs=out, check_vma=False
        )
        return jax.jit(mapped)(params, views)
    pieces = np.stack(np.split(views, devices, axis=1))
    if mode == "pmap":
        mapped = jax.pmap(local, AXIS, in_axes=(None, 0), devices=jax.devices()[:devices])
    else:
        mapped = jax.jit(jax.vmap(local, in_axes=(None, 0), axis_name=AXIS))
    (loss, per_example), grads = mapped(params, pieces)
    for replica in range(1, devices):  # every replica holds the same loss and gradients
        jax.tree.map(lambda x, r=replica: np.testing.assert_array_equal(x[r], x[0]), (loss, grads))
    per_example = jax.tree.map(lambda x: x.reshape(SIZE), per_example)
    return (loss[0], per_example), jax.tree.map(lambda x: x[0], grads)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("mode", ["pmap", "shard_map", "vmap"])
def test_sharded_equals_whole_through_an_encoder(mode, devices):
    params, views = encoder_and_batch()
    full = run_unsharded()
    sharded = run_sharded(mode, devices, params, views)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), sharded, full)
    kernel_grad = np.abs(full[1]["kernel"])
    assert kernel_grad.max() > 0.01 and kernel_grad.min() > 1e-5  # far above the tolerance


def test_local_negatives_would_differ():
    """With local negatives only, loss and gradients differ from those of the whole batch."""
    params, views = encoder_and_batch()
    (full, _), grads = run_unsharded()
    (loss, _), local = run_sharded("pmap", 4, params, views, loss_axis=None)
    assert abs(float(loss - full)) > 0.1
    assert np.abs(local["kernel"] - grads["kernel"]).max() > 0.01


@pytest.mark.parametrize("form", ["paper", "official"])
def test_sharded_gradient_of_the_embeddings_themselves(form):
    """Without parameters: each device's rows get the gradients of all devices' losses."""
    z_a, z_b = as_jax(*embeddings(8))

    def full(z_a, z_b):
        return jnp.mean(losses.nt_xent(z_a, z_b, temperature=0.1, form=form))

    def total(z_a, z_b):
        local = functools.partial(losses.nt_xent, temperature=0.1, form=form, axis_name=AXIS)
        return jnp.mean(jax.vmap(local, axis_name=AXIS)(z_a, z_b))

    expected = jax.jit(jax.grad(full, argnums=(0, 1)))(z_a, z_b)
    pieces = z_a.reshape(4, 2, -1), z_b.reshape(4, 2, -1)
    sharded = jax.jit(jax.grad(total, argnums=(0, 1)))(*pieces)
    for got, want in zip(sharded, expected, strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-6)


# Misuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "options", "message"),
    [
        ((4, 8), (5, 8), {}, r"one shape \[B,D\], found z_a \(4, 8\) and z_b \(5, 8\)"),
        ((4, 8), (4, 7), {}, r"z_a \(4, 8\) and z_b \(4, 7\)"),
        ((8,), (8,), {}, r"z_a \(8,\) and z_b \(8,\)"),
        ((2, 4, 8), (2, 4, 8), {}, r"z_a \(2, 4, 8\)"),
        ((0, 8), (0, 8), {}, r"z_a \(0, 8\)"),
        ((4, 8), (4, 8), {"temperature": 0.0}, r"temperature > 0, found 0.0 .*\(4, 8\)"),
        ((4, 8), (4, 8), {"temperature": -1.0}, "temperature > 0, found -1.0"),
        ((4, 8), (4, 8), {"temperature": math.nan}, "temperature > 0, found nan"),
        ((4, 8), (4, 8), {"form": "half"}, "'paper' or 'official', found 'half'"),
    ],
)
def test_misuse_raises_with_the_shapes(shape_a, shape_b, options, message):
    with pytest.raises(ValueError, match=message):
        losses.nt_xent(jnp.ones(shape_a), jnp.ones(shape_b), **{"temperature": 0.5, **options})


def test_integers_are_refused():
    with pytest.raises(ValueError, match="float embeddings, found int32 and float32"):
        losses.nt_xent(jnp.ones((4, 8), jnp.int32), jnp.ones((4, 8)), temperature=0.5)
