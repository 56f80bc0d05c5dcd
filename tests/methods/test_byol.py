"""BYOL's step against its equations, one after the other, and each known mistake."""

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles
from PIL import Image

from jssl import losses
from jssl.evaluate.online import make_monitor
from jssl.methods import byol
from jssl.run import build, checkpoint


def tiny(**updates):
    """A net of seconds, trained by SGD."""
    c = small_config("byol")
    c.model.update({"name": "resnet8", "stage_sizes": (1, 1)})
    c.byol.update({"proj_hidden": 32, "proj_dim": 32, "ema_momentum": 0.9, **updates})
    c.optim.update({"name": "sgd", "lr": 0.1, "lr_scaling": "none", "warmup_epochs": 0.0})
    return c


@functools.cache
def compiled(mode, collapsing):
    """Config, method, first state and a function (state, data) -> (state, metrics).

    `collapsing`: without a predictor, and with tau 0 at the start of 100 steps.
    """
    c = tiny(num_classes=16)
    if collapsing:
        c.byol.update({"predictor": False, "ema_momentum": 0.0})
    launcher, method, state, step = start(c, mode)

    def run(state, data):
        # A copy, since it is donated; placed as the first, or it would be compiled again.
        given = jax.tree.map(lambda x: jax.device_put(x.copy(), launcher.sharding), state)
        after, metrics = step(given, launcher.put_batch(data), np.int32(state.step))
        return after, {k: float(v) for k, v in metrics.items()}

    return c, method, state, run


def flat(tree):
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(tree).items()}


def assert_equal(a, b, **tolerance):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys() and a
    for name in a:
        np.testing.assert_allclose(a[name], b[name], err_msg=name, **tolerance)


@pytest.fixture(scope="module")
def first():
    """Config, method, state before and after the first step, its metrics, and its data."""
    c, method, state, run = compiled("jit", False)
    data = tiles(c.batch_size)
    return c, method, state, *run(state, data), data


def inputs(c, method, state, data):
    """The two views as the nets see them."""
    key = jax.random.fold_in(state.key, state.step)
    x = jax.jit(method.views)(key, data["image"], jnp.int32(0))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return [(np.asarray(v) - mean) / std for v in x]


# The target ---------------------------------------------------------------------------------------


def test_the_target_is_the_new_online_net_when_tau_is_zero():
    """Moved from the parameters BEFORE the update it would be the old ones."""
    c, _, before, run = compiled("jit", True)
    after, metrics = run(before, tiles(c.batch_size))
    assert metrics["ema_momentum"] == 0.0
    assert_equal(after.target, byol.target_part(after.params), rtol=0)
    old = np.asarray(before.params["encoder"]["conv_init"]["kernel"])
    assert np.abs(old - after.target["encoder"]["conv_init"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize(("step", "tau"), [(0, 0.9), (50, 0.95), (100, 1.0)])
def test_the_target_moves_by_tau_and_stops_at_the_end(step, tau):
    c, _, state, run = compiled("jit", False)
    before = state.replace(step=jnp.int32(step))
    after, metrics = run(before, tiles(c.batch_size))
    assert metrics["ema_momentum"] == pytest.approx(tau, abs=1e-6)
    expected = jax.tree.map(
        lambda xi, theta: tau * xi + (1 - tau) * theta,
        before.target,
        byol.target_part(after.params),
    )
    assert_equal(after.target, expected, rtol=1e-5, atol=1e-6)
    assert metrics["grad_norm"] > 0.01  # the online net goes on


def test_the_target_starts_from_a_draw_of_its_own(first):
    _, _, before, _, _, _ = first
    online, target = flat(byol.target_part(before.params)), flat(before.target)
    assert online.keys() == target.keys()
    kernels = [name for name in online if name.endswith("kernel")]
    assert len(kernels) > 5
    for name in kernels:
        cosine = np.sum(online[name] * target[name]) / (
            np.linalg.norm(online[name]) * np.linalg.norm(target[name])
        )
        assert abs(cosine) < 5 / math.sqrt(online[name].size), name


def test_the_predictor_is_the_online_nets_alone(first):
    _, _, before, after, _, _ = first
    assert set(after.params) == {"encoder", "projector", "predictor", "classifier"}
    assert set(after.target) == set(after.target_batch_stats) == {"encoder", "projector"}
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after.target))


# Two passes ---------------------------------------------------------------------------------------


@functools.cache
def applied(target):
    net = byol.make_net(tiny(num_classes=16), None)
    options = {"train": True, "mutable": ["batch_stats"]}
    method = byol.Net.project if target else None
    return jax.jit(lambda variables, x: net.apply(variables, x, method=method, **options))


def forward(c, variables, x, target=False):
    out, updated = applied(target)(variables, np.asarray(x, np.float32))
    return out, updated["batch_stats"]


def losses_of(c, state, x_a, x_b, joined):
    """BYOL's loss, composed here; `joined`: both views in one pass, the known mistake."""
    online = {"params": state.params, "batch_stats": state.batch_stats}
    target = {"params": state.target, "batch_stats": state.target_batch_stats}
    if joined:
        x = np.concatenate([x_a, x_b])
        q_a, q_b = np.split(np.asarray(forward(c, online, x)[0][0]), 2)
        z_a, z_b = np.split(np.asarray(forward(c, target, x, target=True)[0]), 2)
    else:
        q_a, q_b = (forward(c, online, x)[0][0] for x in (x_a, x_b))
        z_a, z_b = (forward(c, target, x, target=True)[0] for x in (x_a, x_b))
    q_a, q_b, z_a, z_b = (
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in (q_a, q_b, z_a, z_b)
    )
    return float(np.mean(np.sum((q_a - z_b) ** 2, 1) + np.sum((q_b - z_a) ** 2, 1)))


def test_each_view_is_normalised_by_its_own_batch(first):
    c, method, before, _, metrics, data = first
    x_a, x_b = inputs(c, method, before, data)
    separate = losses_of(c, before, x_a, x_b, joined=False)
    assert metrics["loss"] == pytest.approx(separate, rel=1e-4)
    joined = losses_of(c, before, x_a, x_b, joined=True)
    assert abs(joined - separate) > 1e-2


def test_running_statistics_hear_first_one_view_and_then_the_other(first):
    """running <- .9 (.9 running + .1 view a) + .1 view b, by hand, for the first BN of both."""
    c, method, before, after, _, data = first
    views = inputs(c, method, before, data)
    for params, stats in (
        (before.params, after.batch_stats),
        (before.target, after.target_batch_stats),
    ):
        kernel = params["encoder"]["conv_init"]["kernel"]
        mean, var = np.zeros(kernel.shape[-1]), np.ones(kernel.shape[-1])
        for x in views:
            y = np.asarray(
                jax.lax.conv_general_dilated(
                    jnp.asarray(x, jnp.float32),
                    kernel,
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            ).reshape(-1, kernel.shape[-1])
            mean, var = 0.9 * mean + 0.1 * y.mean(0), 0.9 * var + 0.1 * y.var(0)
        found = stats["encoder"]["bn_init"]
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["var"], var, rtol=1e-3, atol=1e-5)


def test_statistics_are_global_on_devices_that_see_different_pictures():
    """A dark quarter and three bright ones: their own statistics would hide the difference."""
    c, _, state, run = compiled("jit", False)
    data = tiles(c.batch_size)
    scale = np.repeat([0.1, 0.9, 0.9, 0.9], c.batch_size // 4)[:, None, None, None]
    data["image"] = (data["image"] * scale).astype(np.uint8)
    whole, expected = run(state, data)
    split, metrics = compiled("vmap:4", False)[3](state, data)
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert_equal(split.batch_stats, whole.batch_stats, rtol=1e-4, atol=1e-5)
    assert_equal(split.target_batch_stats, whole.target_batch_stats, rtol=1e-4, atol=1e-5)


# The loss -----------------------------------------------------------------------------------------


def test_the_loss_at_the_start_is_about_four(first):
    """Outputs of two nets of independent draws: cosines of deviation 1 / sqrt(32) about 0.

    All examples of an untrained net lie in one cone, so that the mean over them spreads as one
    cosine does: of 4 (1 - cos), twice 4 / sqrt(2) / sqrt(32) for the two directions' mean.
    """
    assert abs(first[4]["loss"] - 4) < 3 * 4 / math.sqrt(32)
    assert 0 <= first[4]["loss"] <= 8


def test_the_classifier_learns_and_the_encoder_does_not_hear_of_it(first):
    c, _, before, with_labels, metrics, data = first
    assert metrics["classifier_loss"] == pytest.approx(math.log(16), abs=1.0)
    unlabelled = {**data, "label": np.full_like(data["label"], -1)}
    without, other = compiled("jit", False)[3](before, unlabelled)
    assert other["loss"] == metrics["loss"] and other["classifier_loss"] == 0.0
    a, b = with_labels.params, without.params
    assert np.abs(a["classifier"]["kernel"] - b["classifier"]["kernel"]).max() > 1e-4
    for part in ("encoder", "projector", "predictor"):
        assert_equal(a[part], b[part], rtol=0, atol=0)


def test_the_classifiers_score_is_of_the_augmented_first_view(first):
    c, method, before, _, metrics, data = first
    x_a, _ = inputs(c, method, before, data)
    online = {"params": before.params, "batch_stats": before.batch_stats}
    logits = np.asarray(forward(c, online, x_a)[0][2]["logits"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -np.mean(log_p[np.arange(len(log_p)), data["label"]])
    assert metrics["classifier_loss"] == pytest.approx(expected, rel=1e-4)
    top1 = np.mean(logits.argmax(1) == data["label"])
    assert metrics["augmented_train_top1"] == pytest.approx(top1)


@pytest.mark.parametrize("mode", ["jit", "vmap:4"])
def test_examples_without_a_label_take_no_part_in_the_classifier(first, mode):
    """Labelled ones lie unequally on the devices; the mean is over those alone."""
    c, method, before, *_ = first
    data = tiles(c.batch_size)
    x_a, _ = inputs(c, method, before, data)
    online = {"params": before.params, "batch_stats": before.batch_stats}
    logits = forward(c, online, x_a)[0][2]["logits"][:5]
    expected = float(jnp.mean(losses.cross_entropy(logits, data["label"][:5])))
    data["label"] = np.where(np.arange(c.batch_size) < 5, data["label"], -1).astype(np.int32)
    run = compiled(mode, False)[3]
    _, metrics = run(before, data)
    assert metrics["classifier_loss"] == pytest.approx(expected, rel=1e-4)

    data["label"][:] = -1
    after, metrics = run(before, data)
    assert metrics["classifier_loss"] == 0.0 and metrics["ok"] and int(after.step) == 1
    np.testing.assert_array_equal(
        after.params["classifier"]["bias"], before.params["classifier"]["bias"]
    )
    data["label"][:] = 16  # no such class: a mistake, not an unlabelled example
    _, metrics = run(before, data)
    assert np.isnan(metrics["classifier_loss"]) and np.isfinite(metrics["loss"])


def test_a_folder_without_labels_is_trained_on_without_a_classifier(tmp_path):
    for i, image in enumerate(tiles(20)["image"]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    c = get_config("byol_photos", "smoke")
    c.launch = "jit"
    c.data.update({"name": "folder", "data_dir": str(tmp_path), "image_size": 32})
    parts = build.build(c)
    assert parts.train_source[0]["label"] == -1 and c.byol.num_classes == 0
    state = build.abstract_state(parts)
    assert set(state.params) == {"encoder", "projector", "predictor"}
    batch = build.blank_batch(c, c.batch_size)
    _, metrics = jax.eval_shape(parts.method.train_step, state, batch)
    assert set(metrics) == {"loss", "ema_momentum", "grad_norm"}


# Collapse -----------------------------------------------------------------------------------------


def watched(collapsing, steps=50):
    """What the run's own monitor says before the first step and after the last, and the loss."""
    c, _, state, run = compiled("jit", collapsing)
    c = copy.deepcopy(c)
    c.launch, c.monitor.max_examples = "jit", 128
    c.monitor.update({"std_threshold": 0.1, "rank_threshold": 2.0})  # a smoke run has none
    watch = make_monitor(build.build(c))
    before = None if collapsing else watch(state)
    for i in range(steps):
        state, metrics = run(state, tiles(c.batch_size, start=31 * i))
    return before, watch(state), metrics["loss"]


def test_the_monitor_catches_a_run_without_predictor_and_average():
    _, (scalars, warnings), loss = watched(collapsing=True)
    assert loss < 0.05  # the two views agree, as all pictures do
    assert scalars["collapse/projection_std"] < 0.1
    assert any("projection: collapse: std" in line for line in warnings)


def test_the_monitor_is_silent_on_a_good_run():
    (untrained, nothing), (scalars, warnings), loss = watched(collapsing=False)
    assert nothing == warnings == []
    # An untrained net's pictures lie in a cone, above the threshold by less than a trained one's.
    assert 0.1 < untrained["collapse/projection_std"] < 0.4 < scalars["collapse/projection_std"]
    assert loss > 0.5
