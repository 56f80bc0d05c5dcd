"""A step in microbatches is the step of the whole batch, of each method that has them."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import batch_of, shallow_config

from jssl import methods
from jssl.models.norm import BatchNorm
from jssl.parallel.launcher import make_launcher
from jssl.run import build
from jssl.types import RunLengths

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
