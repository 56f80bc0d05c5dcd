"""A step in microbatches is the step of the whole batch, of each method that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import batch_of, shallow_config, small_config

from jssl import losses, methods, models
from jssl.compile import step as compile_step
from jssl.errors import UserError
from jssl.models import noise
from jssl.models.efficientnet import EfficientNet
from jssl.models.norm import BatchNorm
from jssl.parallel.collectives import mean_value_and_grad
from jssl.parallel.launcher import make_launcher
from jssl.parallel.microbatches import (
    accumulated_value_and_grad,
    check_groups,
    in_microbatches,
    join,
    split,
)
from jssl.run import build, checks
from jssl.types import RunLengths, TrainState

METHODS = ["beit", "byol", "deit", "dvae", "moco", "moco_v3", "noisy_student", "simclr",
           "supervised", "vicreg"]  # fmt: skip
# One of each way: GradCache, the mean with a queue, without one, with dropout, with drawn codes.
# The others are left to `pytest -m proof`.
IN_EVERY_RUN = ("simclr", "moco", "supervised", "noisy_student", "dvae")
OTHERS = ["cmc", "cpc", "deepcluster", "deepcluster_v2", "fast_rcnn", "faster_rcnn", "fcn",
          "fcn32s", "predictive"]  # fmt: skip

# Of which methods the random numbers of a network are tested too, and which.
DROPS = {
    "beit": {"stochastic_depth"},
    "deit": {"stochastic_depth"},
    "noisy_student": {"stochastic_depth", "dropout"},
    "supervised": {"stochastic_depth", "dropout"},
}
# Each takes seconds to compile, and is a function of one example like the crop.
NO_COLOURS = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, "solarize_p": 0.0, "policy_ops": 0}


@pytest.fixture
def no_batch_statistics(monkeypatch):
    """Batch normalisation with its running statistics, which stay, and smooth activations."""
    with_batch = BatchNorm.__call__

    def apply(self, x, train):
        return with_batch(self, x, train and self.is_initializing())

    monkeypatch.setattr(BatchNorm, "__call__", apply)
    monkeypatch.setattr(nn, "relu", nn.silu)
    monkeypatch.setattr(nn, "max_pool", nn.avg_pool)


@pytest.fixture
def three_blocks(monkeypatch):
    """EfficientNets of three blocks, of which the last is one with stochastic depth."""
    plan = EfficientNet._plan
    monkeypatch.setattr(EfficientNet, "_plan", lambda self: plan(self)[:3])


@pytest.fixture
def drops(monkeypatch):
    """The kinds of random numbers that a network really drew."""
    found, drop = set(), noise._drop

    def noted(key, x, rate, rows, shape):
        if rate:
            found.add("stochastic_depth" if set(shape) == {1} else "dropout")
        return drop(key, x, rate, rows, shape)

    monkeypatch.setattr(noise, "_drop", noted)
    return found


def config_of(method, **updates):
    """A small config without colours, and with all that a network of the method can drop."""
    config = shallow_config(method, batch_size=8)
    with config.unlocked():
        config.augment.options.update(NO_COLOURS)
    if method == "supervised":
        config.model = small_config("deit").model
        config.model.distillation_token = False
    if method == "noisy_student":
        default = {key: value for key, value in models.DEFAULTS.items() if key != "name"}
        config.model.update({**default, "name": "efficientnet_b0", "width": 0.25})
    for name in DROPS.get(method, ()):
        if name == "stochastic_depth" or method == "supervised":
            config.model[name] = 0.5 if name == "stochastic_depth" else 0.2
    config.update(updates)
    return config


def made_up_state(config, method):
    """A first state of random numbers: `init` takes as long to compile as the step."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        where = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if "opt_state" in where or not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros(x.shape, x.dtype)
        draw = rng.normal(size=x.shape)
        if "kernel" in where:
            draw /= np.sqrt(np.prod(x.shape[:-1]))
        elif "var" in where or "scale" in where:
            draw = 1 + 0.1 * np.abs(draw)
        else:
            draw *= 0.1
        return jnp.asarray(draw, x.dtype)

    shapes = jax.eval_shape(lambda: build.first_state(config, method, config.batch_size))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def stepper(config):
    """A compiled step, whose optimiser only remembers the gradients, and its first state."""
    launcher = make_launcher("jit")
    lengths = RunLengths(4096, 100, 100)
    config.run.update(lengths._asdict())
    method = methods.get(config.method).make(config, optax.trace(decay=0.0), lengths)
    step = launcher.compile_step(method.train_step)

    def run(state, batch):
        state = jax.tree.map(jnp.copy, state)  # the step takes its own
        state, metrics = step(state, launcher.put_batch(batch), np.int32(0))
        return jax.device_get((metrics, state.replace(key=0)))

    return run, made_up_state(config, method)


def stepped(config):
    """Metrics and state after one step, and the most examples that a layer saw at once."""
    seen = []

    def note(call, arguments, keywords, context):
        seen.extend(len(x) for x in arguments[:1] if getattr(x, "ndim", 0) > 1)
        return call(*arguments, **keywords)

    run, state = stepper(config)
    with nn.intercept_methods(note):
        found = run(state, batch_of(config, config.batch_size))
    return found, max(seen)


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


@pytest.mark.parametrize(
    "method",
    [m if m in IN_EVERY_RUN else pytest.param(m, marks=pytest.mark.proof) for m in METHODS],
)
def test_a_step_in_microbatches_is_that_of_the_whole_batch(
    method, no_batch_statistics, three_blocks, drops
):
    whole, most = stepped(config_of(method))
    assert drops == DROPS.get(method, set())
    drops.clear()
    found, seen = stepped(config_of(method, accumulate=4))
    assert drops == DROPS.get(method, set())
    assert seen == most / 4  # a method that only accepts the key would compute the batch at once
    assert_same(found, whole)


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
    """MoCo shuffles its keys between microbatches as between groups."""
    monkeypatch.setattr(nn, "relu", nn.silu)
    one = {"bn_groups": 1}
    groups = {"bn_groups": 4, "bn_interleaved": True}  # of examples i with one i mod 4
    found, _ = stepped(config_of("moco", accumulate=4, model=one))
    whole, _ = stepped(config_of("moco", model=groups))
    assert_same(found, whole)


def test_running_statistics_of_byol_are_the_mean_of_its_microbatches():
    still = {"crop": "none", "flip_p": 0.0}  # what an example becomes does not depend on its number
    augment = {"options": still}
    run, state = stepper(config_of("byol", accumulate=2, augment=augment))
    alone, _ = stepper(config_of("byol", batch_size=4, augment=augment))
    batch = batch_of(config_of("byol"), 8)
    _, found = run(state, batch)
    parts = [alone(state, {k: v[j::2] for k, v in batch.items()})[1] for j in (0, 1)]
    for name in ("batch_stats", "target_batch_stats"):
        leaves = zip(*(jax.tree.leaves(getattr(part, name)) for part in parts), strict=True)
        first = jax.tree.leaves(getattr(state, name))
        for value, both, old in zip(
            jax.tree.leaves(getattr(found, name)), leaves, first, strict=True
        ):
            np.testing.assert_allclose(value, np.mean(both, axis=0), rtol=2e-5, atol=1e-5)
            assert np.max(np.abs(value - old)) > 1e-4
            assert np.max(np.abs(both[0] - both[1])) > 1e-4


def test_memory_falls_with_the_number_of_microbatches():
    def temporary(accumulate):
        config = config_of("simclr", batch_size=128, accumulate=accumulate)
        _, step, arguments = compile_step.make(config, jax.devices()[:1])
        return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.5 * temporary(1)


def test_every_method_says_whether_it_has_microbatches():
    """A new method is listed here: it has them, and the test of equality, or it refuses them."""
    assert sorted([*METHODS, *OTHERS]) == sorted(methods.names())
    for name in methods.names():
        assert methods.get(name).accumulates == (name in METHODS), name


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


@pytest.mark.parametrize(
    ("groups", "accumulate", "devices", "near"),
    [(8, 64, 1, 1), (3, 4, 1, 1), (24, 2, 1, 8), (12, 2, 4, 4), (64, 8, 2, 8)],
)
def test_groups_that_do_not_divide_a_microbatch_are_refused(groups, accumulate, devices, near):
    parts = {"accumulate": accumulate, "batch_size": 256, "devices": devices}
    with pytest.raises(
        UserError, match=rf"bn_groups={groups} .* type --config.*bn_groups={near}\."
    ):
        check_groups(groups, **parts)
    check_groups(near, **parts)


def test_groups_are_refused_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *a, **k: pytest.fail("compiled"))
    config = small_config("moco", accumulate=8, launch="jit")  # of 16 examples: microbatches of 2
    with pytest.raises(UserError, match=r"bn_groups=4 .*has 2 examples .* type .*bn_groups=1"):
        build.build(config)


def test_moco_takes_a_microbatch_for_a_group():
    build.build(small_config("moco", accumulate=8, launch="jit", model={"bn_groups": 1}))
    with pytest.raises(UserError, match=r"bn_groups is 1.* or --config.accumulate=2 or more"):
        build.build(small_config("moco", launch="jit", model={"bn_groups": 1}))


def test_noisy_student_drops_by_example_in_an_efficientnet_alone():
    model = {**small_config("deit").model, "distillation_token": False, "stochastic_depth": 0.1}
    build.make_method(small_config("noisy_student", model=model), axis_name=None)
    with pytest.raises(UserError, match=r"expected 0. Type --config.model.stochastic_depth=0,"):
        build.make_method(small_config("noisy_student", model=model, accumulate=4), axis_name=None)


def test_split_and_join():
    x = {"a": jnp.arange(12).reshape(6, 2)}
    assert split(x, 3)["a"].shape == (3, 2, 2)
    np.testing.assert_array_equal(join(split(x, 3))["a"], x["a"])
    np.testing.assert_array_equal(split(x, 3)["a"][1], x["a"][1::3])
