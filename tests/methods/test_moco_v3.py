"""MoCo v3: the order of a step, its passes, and the published settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles

from jssl import config as config_lib
from jssl import optim
from jssl.methods import moco_v3
from jssl.run import build

N = 16


def tiny():
    """One block of 8 channels, crops and flips; EMA momentum 0.5 at the start, 4 steps in all."""
    config = small_config("moco_v3")
    config.model.update({"name": "resnet8", "stage_sizes": (1,), "width": 0.125})
    config.augment.name = "crop_flip"
    config.augment.options.views = 2
    config.moco_v3.update({"proj_dim": 8, "proj_hidden": 16, "ema_momentum": 0.5})
    config.optim.warmup_epochs = 0.0
    config.optim.lr = 1e-2
    return config


def host(state):
    """The state in numpy: a step donates the arrays themselves."""
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def trained():
    """The states before and after each of four steps, and the metrics."""
    config = tiny()
    launcher, _, state, step = start(config, "jit", steps=4)
    states, history = [host(state)], []
    for i in range(4):
        state, metrics = step(state, launcher.put_batch(tiles(N, 31 * i)), np.int32(i))
        states.append(host(state))
        history.append({k: float(v) for k, v in metrics.items()})
    return config, states, history


def test_the_key_net_has_no_predictor_and_follows_along_a_cosine(trained):
    """Of four steps: m = 0.5, 0.5732, 0.75, 0.9268, with the parameters of before each update."""
    _, states, history = trained
    expected = [1 - 0.5 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(4)]
    np.testing.assert_allclose([h["ema_momentum"] for h in history], expected, rtol=1e-6)
    assert set(states[0].target) == {"encoder", "projector"}
    assert set(states[0].params) == {"encoder", "projector", "predictor"}
    moved = 0.0
    for i in range(4):
        own = {k: states[i].params[k] for k in ("encoder", "projector")}
        for a, old, new in zip(
            *(jax.tree.leaves(t) for t in (states[i + 1].target, states[i].target, own)),
            strict=True,
        ):
            np.testing.assert_allclose(
                a, expected[i] * old + (1 - expected[i]) * new, rtol=1e-5, atol=1e-7
            )
            moved = max(moved, float(np.abs(a - old).max()))
        if i == 0:  # the copy is exact, and half of it twice is it
            jax.tree.map(np.testing.assert_array_equal, states[1].target, own)
    assert moved > 1e-3


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_a_step_by_hand(trained):
    """Two passes for each net, queries of one view against the keys of the other, times 2 T."""
    config, states, history = trained
    at = 2
    state, new = states[at], states[at + 1]
    net = moco_v3.make_net(config, None)
    method, _ = build.make_method(config, axis_name=None)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), at)
    x = jax.jit(method.views)(key, tiles(N, 31 * at)["image"], jnp.int32(0))
    forward = jax.jit(
        lambda params, stats, x: net.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
    )
    q, stats = [], state.batch_stats
    for view in x:
        (output, _, _), updated = forward(state.params, stats, view)
        stats = updated["batch_stats"]
        q.append(output)
    k, key_stats = [], {**state.target_batch_stats, "predictor": state.batch_stats["predictor"]}
    with_any_predictor = {**new.target, "predictor": state.params["predictor"]}
    for view in x:
        (_, _, named), updated = forward(with_any_predictor, key_stats, view)
        key_stats = updated["batch_stats"]
        k.append(named["projection"])
    q, k = ([np.asarray(z, np.float64) for z in pair] for pair in (q, k))
    q, k = ([z / np.linalg.norm(z, axis=1, keepdims=True) for z in pair] for pair in (q, k))
    T = config.moco_v3.temperature
    loss = sum(
        -2 * T * np.mean(np.diag(log_softmax(a @ b.T / T)))
        for a, b in (q[:1] + k[1:], q[1:] + k[:1])
    )
    np.testing.assert_allclose(history[at]["loss"], loss, rtol=1e-4)
    del key_stats["predictor"]
    for found, expected in ((new.batch_stats, stats), (new.target_batch_stats, key_stats)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_heads_are_the_papers():
    config = get_config("moco_imagenet", "preset=v3,depth=50,width=0.125")
    config.run.update({"num_examples": 1_281_167, "steps_per_epoch": 312, "total_steps": 31_200})
    config.augment.size = 32
    method, _ = build.make_method(config, axis_name=None)
    state = jax.eval_shape(lambda: build.first_state(config, method, 8))
    shapes = {
        part: {f"{m}/{k}": v.shape for m, p in state.params[part].items() for k, v in p.items()}
        for part in ("projector", "predictor")
    }
    assert shapes["projector"] == {
        "dense0/kernel": (256, 4096),
        "bn0/scale": (4096,),
        "bn0/bias": (4096,),
        "dense1/kernel": (4096, 256),
    }
    assert shapes["predictor"] == {
        "dense0/kernel": (256, 4096),
        "bn0/scale": (4096,),
        "bn0/bias": (4096,),
        "dense1/kernel": (4096, 256),
    }
    statistics = {part: set(state.batch_stats[part]) for part in shapes}
    assert statistics == {"projector": {"bn0", "bn1"}, "predictor": {"bn0"}}  # bn1: no parameters
    groups = optim.groups(state.params, rules=config.optim.rules)
    assert {groups[k] for k in groups if not k.endswith("kernel")} == {"none"}
    assert {groups[k] for k in groups if k.endswith("kernel")} == {"decay+adapt"}


def test_the_numbers_of_the_paper():
    c = config_lib.base("moco_v3", preset="v3")
    assert (c.batch_size, c.epochs, c.augment.name) == (4096, 100.0, "moco_v3")
    assert (c.moco_v3.temperature, c.moco_v3.ema_momentum) == (1.0, 0.99)
    assert (c.optim.name, c.optim.order, c.optim.lr) == ("lars", "lr_outside", 0.6)
    assert (c.optim.weight_decay, c.optim.warmup_epochs, c.optim.schedule) == (1e-6, 10.0, "cosine")
    assert c.model.bn_groups == 1  # global statistics
    assert c.model.zero_init_last_gamma
    for epochs, lr, decay, momentum in ((300, 0.3, 1e-6, 0.99), (1000, 0.3, 1.5e-6, 0.996)):
        long = get_config("moco_imagenet", f"preset=v3,epochs={epochs}")
        assert (long.optim.lr, long.optim.weight_decay) == (lr, decay)
        assert long.moco_v3.ema_momentum == momentum
