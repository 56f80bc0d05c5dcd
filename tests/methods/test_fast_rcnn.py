"""Fast R-CNN: which parameters a step changes, and by how much; padding; proposals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import batch_of, small_config, start

from jssl import config as config_lib
from jssl import models
from jssl.errors import UserError
from jssl.methods import fast_rcnn
from jssl.models.fast_rcnn import fast_rcnn_loss
from jssl.optim.masks import parameter_names
from jssl.run import dense

LR, DECAY = 0.5, 0.25
WIDE = {"name": "alexnet", "width": 1 / 32, "sobel": True}


def small(trained="all"):
    config = small_config("fast_rcnn", batch_size=2)
    config.optim.update(
        {"lr": LR, "weight_decay": DECAY, "schedule": "constant", "momentum": 0.0, "boundaries": ()}
    )
    config.fast_rcnn.update({"trained": trained, "num_classes": 6})
    return config


@pytest.mark.parametrize("trained", ["all", "fc6-8"])
def test_a_step_by_hand(trained):
    """p - lr (g + wd p) for kernels and scales, p - 2 lr g for biases; AlexNet's first is fixed."""
    config = small(trained)
    launcher, _, state, step = start(config, "jit")
    before = jax.tree.map(np.asarray, (state.params, state.batch_stats))
    batch = batch_of(config, 2)
    key = jax.random.fold_in(jax.random.wrap_key_data(jax.random.key_data(state.key)), 0)
    net = fast_rcnn.make_net(config, None)

    def loss_of(params):
        both = ({**{k: v for k, v in tree.items() if k != "encoder"}, **tree["encoder"]}
                for tree in (params, before[1]))  # fmt: skip
        variables = dict(zip(("params", "batch_stats"), both, strict=True))
        return fast_rcnn_loss(net, variables, batch, key, count=16, positives=4, low=0.1)[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(before[0])
    new, metrics = step(state, launcher.put_batch(batch), np.int32(0))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    fixed = r"encoder/(conv|bn)1/" if trained == "all" else r"encoder/(conv|bn)\d/"
    leaves = [jax.tree.leaves(tree) for tree in (before[0], grads, new.params)]
    moved = 0
    for name, p, g, q in zip(parameter_names(grads), *leaves, strict=True):
        if re.match(fixed, name):
            np.testing.assert_array_equal(q, p, err_msg=name)
            continue
        twice = name.endswith("bias") and "/bn" not in name
        change = 2 * g if twice else g if name.endswith("bias") else g + DECAY * p
        limit = 1e-5 * max(1.0, float(np.abs(p - LR * change).max()))
        np.testing.assert_allclose(q, p - LR * change, atol=limit, err_msg=name)
        moved += bool(np.any(g))
    assert moved == (24 if trained == "all" else 8)
    jax.tree.map(np.testing.assert_array_equal, new.batch_stats, before[1])


@pytest.mark.parametrize(("net", "numbers"), [("alexnet", [1]), ("vgg16", [1, 2, 3, 4])])
def test_the_first_convolutions_are_fixed(net, numbers, monkeypatch):
    found = []
    monkeypatch.setattr(fast_rcnn, "unchanged_part", lambda tx, pattern: found.append(pattern))
    config = small()
    config.model.name = net
    start_lengths = fast_rcnn.RunLengths(64, 8, 8)
    fast_rcnn.make(config, fast_rcnn.optax.identity(), start_lengths)
    layers = [f"{kind}{i}" for i in range(1, 14) for kind in ("conv", "bn")]
    fixed = [name for name in layers if re.search(found[0], f"encoder/{name}/bias")]
    assert fixed == [f"{kind}{i}" for i in numbers for kind in ("conv", "bn")]


@pytest.mark.parametrize("method", ["fast_rcnn", "fcn32s"])
def test_the_encoder_is_that_of_pre_training(method):
    """At 224 px every parameter and statistic has the name and the shape of the `PlainNet`."""
    config = small_config(method)
    config.model.update(WIDE)
    plain = jax.eval_shape(
        lambda x: models.build(config.model).init(jax.random.key(0), x, False),
        jnp.zeros((1, 224, 224, 3)),
    )
    _, _, state, _ = start(config, "jit")
    for kind in ("params", "batch_stats"):
        shapes = jax.tree.map(lambda x: x.shape, (plain[kind], getattr(state, kind)["encoder"]))
        assert shapes[0] == shapes[1]


def test_what_lies_beside_a_picture_changes_nothing():
    config = small()
    launcher, method, state, _ = start(config, "jit")
    batch = batch_of(config, 2)
    batch["size"][:] = 40
    batch["proposals"] = np.minimum(batch["proposals"], 40)
    predict = launcher.compile_embed(method.predict)
    names = ("image", "size", "proposals", "live")
    found = []
    for colour in (0, 255):
        batch["image"][:, 40:], batch["image"][:, :, 40:] = colour, colour
        found.append(predict(state, {name: batch[name] for name in names}))
    jax.tree.map(np.testing.assert_array_equal, *found)
    batch["image"][:, 30:40, 30:40] = 0
    other = predict(state, {name: batch[name] for name in names})
    assert np.any(other.scores != found[0].scores) and np.any(other.valid)
    none = predict(state, {**{name: batch[name] for name in names}, "live": batch["live"] & False})
    assert not np.any(none.valid)


def test_other_networks_and_missing_proposals_are_refused():
    config = small_config("fast_rcnn")
    config.fast_rcnn.proposals = ""
    with pytest.raises(UserError, match="needs proposals, .*=FOLDER.* or .*=anchors"):
        dense.sources(config)
    config.model.update({"name": "resnet8", "sobel": False, "dropout": 0.0})
    with pytest.raises(UserError, match=r"found model.name='resnet8'.*method faster_rcnn"):
        fast_rcnn.make_net(config, None)


def test_the_published_numbers():
    """https://github.com/rbgirshick/py-faster-rcnn: solver.prototxt, config.py."""
    config = config_lib.base("fast_rcnn", preset="voc")
    s = config.fast_rcnn
    assert (s.regions, s.background, s.suppression, s.difficult) == (64, 0.1, 0.3, False)
    assert (s.sides, s.test_side, config.augment.size) == ((600,), 600, 1000)
    updates = config.epochs * 5_011 / config.batch_size
    boundary = config.optim.boundaries[0] * 5_011 / config.batch_size
    assert (int(updates), round(boundary)) == (40_000, 30_000)
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (1e-3, 0.9, 5e-4)
