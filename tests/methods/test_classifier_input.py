"""AlexNet and VGG end before a ReLU: every classifier on top of them comes after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config, tiles

from jssl.methods import supervised
from jssl.models import DEFAULTS, build
from jssl.models.heads import Linear
from jssl.run import build as experiment

SMALL = {"alexnet": (64, 0.02), "vgg16": (32, 0.02)}


def made(method, name, **model):
    config = small_config(method, batch_size=4)
    size, width = SMALL[name]
    for key in config.model:
        with config.ignore_type():
            config.model[key] = DEFAULTS[key]
    config.model.update({"name": name, "width": width, **model})
    config.augment.size = size
    return config, *experiment.make_method(config, axis_name=None)[:1]


CASES = [("supervised", "alexnet"), ("supervised", "vgg16"), ("noisy_student", "vgg16"),
         ("byol", "alexnet")]  # fmt: skip


@pytest.mark.parametrize(("method", "name"), CASES)
def test_the_classifier_sees_fc7_after_its_relu(method, name):
    config, made_method = made(method, name)
    images = tiles(4)["image"].repeat(config.augment.size // 32, 1)
    images = images.repeat(config.augment.size // 32, 2)

    def run(key):
        state = made_method.init(key, {**tiles(4), "image": images})
        h, named = made_method.embed(state, images)
        return state, h, named["logits"]

    state, h, logits = jax.jit(run)(jax.random.key(0))
    params = getattr(state, "average", state.params)["classifier"]
    params = jax.tree.map(np.asarray, params.get("dense", params))
    h = np.asarray(h)
    expected = np.maximum(h, 0) @ params["kernel"] + params["bias"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * scale)
    assert np.min(h) < 0
    before = h @ params["kernel"] + params["bias"]
    assert np.abs(logits - before).max() > 0.1 * scale


@pytest.mark.parametrize(("name", "drops"), [("alexnet", 2), ("vgg16", 2)])
def test_supervised_training_drops_the_inputs_of_two_dense_layers(name, drops, monkeypatch):
    """AlexNet those of fc6 and fc7, VGG those of fc7 and the classifier."""
    from jssl.models import plain

    seen = []

    def remembered(key, x, *, rate, rows):
        seen.append((x.shape, rate))
        return x

    monkeypatch.setattr(plain, "dropout", remembered)
    monkeypatch.setattr(supervised, "dropout", remembered)
    size, width = SMALL[name]
    encoder = build({"name": name, "width": width, "dropout": 0.5})
    net = supervised.Net(encoder, Linear(16))
    x = jnp.zeros((2, size, size, 3))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))
    rngs = {"dropout": jax.random.key(1)}
    apply = lambda v: net.apply(v, x, train=True, rngs=rngs, mutable=["batch_stats"])  # noqa: E731
    jax.eval_shape(apply, variables)
    fc = round(4096 * width)
    last = round(256 * width) if name == "alexnet" else round(512 * width)
    expected = {"alexnet": [(2, last), (2, fc)], "vgg16": [(2, fc), (2, fc)]}[name]
    assert [shape for shape, _ in seen] == expected and len(seen) == drops
    assert {rate for _, rate in seen} == {0.5}


def test_a_run_with_dropout_trains():
    config, method = made("supervised", "alexnet", dropout=0.5)
    config.augment.size = 64
    batch = {**tiles(4), "image": tiles(4)["image"].repeat(2, 1).repeat(2, 2)}
    state = jax.jit(method.init)(jax.random.key(0), batch)
    step = jax.jit(method.train_step)
    after, metrics = step(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    other, others = step(state.replace(key=jax.random.key(0), step=jnp.int32(5)), batch)
    assert int(after.step) == 1 and float(others["loss"]) != float(metrics["loss"])
