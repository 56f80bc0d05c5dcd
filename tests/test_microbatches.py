"""A step in microbatches is the step of the whole batch, of each method that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import batch_of, shallow_config, small_config

from jssl import losses, methods
from jssl.compile import step as compile_step
from jssl.errors import UserError
from jssl.models.norm import BatchNorm
from jssl.parallel.collectives import mean_value_and_grad
from jssl.parallel.launcher import make_launcher
from jssl.parallel.microbatches import accumulated_value_and_grad, in_microbatches, join, split
from jssl.run import build, checks
from jssl.types import RunLengths, TrainState

METHODS = [name for name in methods.names() if methods.get(name).accumulates]
OTHERS = [name for name in methods.names() if not methods.get(name).accumulates]


@pytest.fixture
def no_batch_statistics(monkeypatch):
    """Batch normalisation with its running statistics, which stay, and smooth activations."""
    with_batch = BatchNorm.__call__

    def apply(self, x, train):
        return with_batch(self, x, train and self.is_initializing())

    monkeypatch.setattr(BatchNorm, "__call__", apply)
    monkeypatch.setattr(nn, "relu", nn.silu)
    monkeypatch.setattr(nn, "max_pool", nn.avg_pool)


def config_of(method, **updates):
    config = shallow_config(method, batch_size=8, **updates)
    if method in ("supervised", "deit", "noisy_student") and "vit" in config.model.name:
        config.model.stochastic_depth = 0.5  # what is dropped does not depend on k
    return config


def stepped(config, mode="jit"):
    """Metrics and state after one step, whose optimiser only remembers the gradients."""
    launcher = make_launcher(mode)
    lengths = RunLengths(4096, 100, 100)
    config.run.update(lengths._asdict())
    method = methods.get(config.method).make(
        config, optax.trace(decay=0.0), lengths, axis_name=launcher.axis_name
    )
    size = config.batch_size // launcher.size
    state = launcher.init(lambda: build.first_state(config, method, size))
    step = launcher.compile_step(method.train_step)
    batch = launcher.put_batch(batch_of(config, config.batch_size))
    state, metrics = step(state, batch, np.int32(0))
    return jax.device_get((metrics, state.replace(key=0)))


def assert_same(found, expected):
    """Metrics and states, gradients too, as a share of the largest number of a leaf."""
    (metrics, state), (other_metrics, other) = found, expected
    assert metrics.keys() == other_metrics.keys()
    for name, value in other_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    largest = float(max(np.abs(x).max(initial=0) for x in jax.tree.leaves(other.opt_state)))
    assert largest > 1e-4  # there is a gradient
    for (path, leaf), value in zip(
        jax.tree.leaves_with_path(other), jax.tree.leaves(state), strict=True
    ):
        error = 1e-5 * max(np.abs(leaf).max(initial=0), largest if "opt" in str(path[0]) else 1)
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(value, leaf, rtol=0, atol=error, err_msg=where)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_microbatches_is_that_of_the_whole_batch(method, no_batch_statistics):
    whole = stepped(config_of(method))
    for accumulate in (2, 4) if method in ("simclr", "supervised") else (4,):
        assert_same(stepped(config_of(method, accumulate=accumulate)), whole)


class Toy(nn.Module):
    """A network with batch normalisation, and its function of microbatches."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x):
        x = BatchNorm(axis_name=self.axis_name)(nn.Dense(5)(x), True)
        return nn.Dense(4)(jnp.tanh(x))


def toy_step(axis_name, accumulate, averaged):
    """A step with NT-Xent by GradCache, or with a mean over examples; it keeps the gradients."""
    net = Toy(axis_name)

    def forward(stats):
        def one(params, x, numbers):
            variables = {"params": params, "batch_stats": stats}
            z, updated = net.apply(variables, x + 0.01 * numbers_of(numbers, x), mutable=True)
            return z, updated["batch_stats"]

        return one

    def numbers_of(numbers, x):
        return (numbers if numbers.ndim else numbers + jnp.arange(len(x)))[:, None]

    def contrast(z):
        return jnp.mean(losses.nt_xent(z[:, :2], z[:, 2:], temperature=0.5, axis_name=axis_name))

    def step(state, batch):
        one = forward(state.batch_stats)

        def mean_loss(params, x, numbers):
            z, stats = one(params, x, numbers)
            return jnp.mean(jnp.square(z - 1)), stats

        def batch_loss(params):
            z, stats = in_microbatches(
                one, params, batch["image"], accumulate=accumulate, axis_name=axis_name
            )
            return contrast(z), stats

        if averaged:
            (loss, stats), grads = accumulated_value_and_grad(
                mean_loss, state.params, batch["image"], accumulate=accumulate, axis_name=axis_name
            )
        else:
            (loss, stats), grads = mean_value_and_grad(batch_loss, state.params, axis_name)
        new = state.replace(step=state.step + 1, opt_state=grads, batch_stats=stats)
        return new, {"loss": loss}

    return step


def toy_state():
    net = Toy(None)
    variables = net.init(jax.random.key(0), jnp.zeros((2, 3)))
    params = variables["params"]
    return TrainState(jnp.int32(0), jax.random.key(3), params, variables["batch_stats"], params)


def toy_run(mode, accumulate, averaged):
    launcher = make_launcher(mode)
    step = launcher.compile_step(toy_step(launcher.axis_name, accumulate, averaged))
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    state, metrics = step(launcher.init(toy_state), launcher.put_batch({"image": x}), np.int32(0))
    return jax.device_get((metrics, state.replace(key=0)))


@pytest.mark.parametrize("averaged", [True, False], ids=["mean", "nt_xent"])
def test_every_launch_mode_has_the_same_microbatches(averaged):
    expected = toy_run("jit", 2, averaged)
    for mode in ("pmap", "shard_map", "fsdp", "vmap:4"):
        assert_same(toy_run(mode, 2, averaged), expected)


@pytest.mark.parametrize("averaged", [True, False], ids=["mean", "nt_xent"])
def test_running_statistics_move_once_by_the_mean_over_microbatches(averaged):
    _, state = toy_run("jit", 4, averaged)
    first = toy_state()
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    x = x + 0.01 * np.arange(16)[:, None]
    h = x @ np.asarray(first.params["Dense_0"]["kernel"])
    parts = [h[j::4] for j in range(4)]
    found = state.batch_stats["BatchNorm_0"]
    mean, var = (np.mean([f(part, axis=0) for part in parts], axis=0) for f in (np.mean, np.var))
    np.testing.assert_allclose(found["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_the_mean_of_microbatches_is_no_gradient_of_a_contrastive_loss():
    x = jax.random.normal(jax.random.key(1), (8, 3))
    w = jax.random.normal(jax.random.key(2), (3, 4))

    def loss_of(z):
        return jnp.mean(losses.nt_xent(z[:, :2], z[:, 2:], temperature=0.5))

    def cached(w):
        z, _ = in_microbatches(lambda w, x, _: (x @ w, 0.0), w, x, accumulate=4, axis_name=None)
        return loss_of(z)

    whole = jax.grad(lambda w: loss_of(x @ w))(w)
    np.testing.assert_allclose(jax.grad(cached)(w), whole, rtol=1e-5, atol=1e-6)
    _, averaged = accumulated_value_and_grad(
        lambda w, x, _: (loss_of(x @ w), None), w, x, accumulate=4, axis_name=None
    )
    assert np.max(np.abs(averaged - whole)) > 0.1 * np.max(np.abs(whole))


def test_batch_normalisation_in_microbatches_is_that_of_groups(monkeypatch):
    monkeypatch.setattr(nn, "relu", nn.silu)
    groups = {"bn_groups": 2, "bn_interleaved": True}  # of examples i with one i mod 2
    assert_same(
        stepped(config_of("supervised", accumulate=2)),
        stepped(config_of("supervised", model=groups)),
    )


def test_memory_falls_with_the_number_of_microbatches():
    def temporary(accumulate):
        config = shallow_config("simclr", batch_size=128, accumulate=accumulate)
        _, step, arguments = compile_step.make(config, jax.devices()[:1])
        return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.5 * temporary(1)


def test_a_method_without_microbatches_refuses_them():
    for name in METHODS:
        checks.check(small_config(name, accumulate=4))
    for name in OTHERS:
        checks.check(small_config(name))
        with pytest.raises(UserError, match=r"accumulate=4, expected 1. Type --config.accumulate="):
            build.build(small_config(name, accumulate=4))
        config = small_config(name, accumulate=2)
        with pytest.raises(UserError, match="computes a batch at once"):
            methods.get(name).make(config, optax.sgd(0.1), RunLengths(4096, 100, 100))


@pytest.mark.parametrize("value", [0, -2, 1.5])
def test_a_number_that_is_none_is_refused(value):
    config = small_config("simclr")
    with config.ignore_type():
        config.accumulate = value
    with pytest.raises(UserError, match=rf"--config.accumulate expects .*, found {value}"):
        checks.check(config)


def test_unequal_microbatches_are_refused():
    with pytest.raises(UserError, match=r"one of 1, 2, 4, 8, 16. Type --config.accumulate=2."):
        build.build(small_config("simclr", accumulate=3, launch="jit"))
    with pytest.raises(UserError, match=r"the 4 examples of a device .*one of 1, 2, 4. "):
        build.build(small_config("simclr", accumulate=8, launch="vmap:4"))


def test_split_and_join():
    x = {"a": jnp.arange(12).reshape(6, 2)}
    assert split(x, 3)["a"].shape == (3, 2, 2)
    np.testing.assert_array_equal(join(split(x, 3))["a"], x["a"])
    np.testing.assert_array_equal(split(x, 3)["a"][1], x["a"][1::3])
