"""VICReg: a step by hand, and the published settings."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, get_config, small_config, start, tiles

from jssl import optim
from jssl.augment import recipes
from jssl.methods import vicreg
from jssl.run import build

naive = runpy.run_path(str(ROOT / "tests" / "reference" / "naive_losses.py"))
N = 16
WEIGHTS = {"invariance": 2.0, "variance": 3.0, "covariance": 5.0}


def tiny():
    """One block of 8 channels, crops and flips, an expander of 8 and 4, weights that differ."""
    config = small_config("vicreg")
    config.model.update({"name": "resnet8", "stage_sizes": (1,), "width": 0.125})
    config.augment.name = "crop_flip"
    config.augment.options.views = 2
    config.vicreg.update({"proj_dim": 4, "proj_hidden": 8, **WEIGHTS})
    return config


def test_a_step_by_hand():
    """A pass for each view, the second with the statistics that the first has moved."""
    config = tiny()
    launcher, method, state, step = start(config, "jit")
    before = jax.tree.map(np.asarray, {"params": state.params, "batch_stats": state.batch_stats})
    key = jax.random.fold_in(jax.random.wrap_key_data(jax.random.key_data(state.key)), 0)
    batch = tiles(N)
    new, metrics = step(state, launcher.put_batch(batch), np.int32(0))
    net, (_, prepare) = vicreg.make_net(config, None), vicreg.input_functions(config)

    @jax.jit
    def forward(stats, x):
        variables = {"params": before["params"], "batch_stats": stats}
        (z, _, _), updated = net.apply(variables, prepare(x), True, mutable=["batch_stats"])
        return z, updated["batch_stats"]

    x_a, x_b = jax.jit(method.views)(key, batch["image"], jnp.int32(0))
    z_a, stats = forward(before["batch_stats"], x_a)
    z_b, stats = forward(stats, x_b)
    expected = naive["official_vicreg"](*(np.asarray(z, np.float64) for z in (z_a, z_b)), **WEIGHTS)
    found = [metrics[name] for name in ("loss", *WEIGHTS)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert min(expected) > 1e-3
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, new.batch_stats, stats)


@pytest.mark.parametrize(("arg", "peak"), [("", 1.6), ("batch=512", 0.4)])
def test_the_learning_rate_of_the_official_code(arg, peak):
    """0.2 B/256 after ten epochs of warm-up, and a thousandth of it at the end."""
    config = get_config("vicreg_imagenet", arg)
    assert config.optim.order == "lr_outside" and config.optim.weight_decay == 1e-6
    steps = 1_281_167 // config.batch_size
    total = 1000 * steps
    _, schedule = optim.build(
        config.optim, batch_size=config.batch_size, steps_per_epoch=steps, total_steps=total
    )
    at = [0, 5 * steps, 10 * steps, (10 * steps + total) // 2, total]
    middle = peak * (1 + 1e-3) / 2
    rates = [float(schedule(step)) for step in at]
    np.testing.assert_allclose(rates, [0.0, peak / 2, peak, middle, 1e-3 * peak], rtol=1e-4)


def test_the_expander_is_the_papers():
    """Three layers of 8192; BN and ReLU behind the first two, no bias anywhere in front of them."""
    config = get_config("vicreg_imagenet")
    config.run.update({"num_examples": 4096, "steps_per_epoch": 2, "total_steps": 2000})
    method, _ = build.make_method(config, axis_name=None)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, 2)).params["projector"]
    found = {name: {k: v.shape for k, v in layer.items()} for name, layer in shapes.items()}
    norm = {"scale": (8192,), "bias": (8192,)}
    assert found == {
        "dense0": {"kernel": (2048, 8192)},
        "bn0": norm,
        "dense1": {"kernel": (8192, 8192)},
        "bn1": norm,
        "dense2": {"kernel": (8192, 8192)},
    }


def test_the_views_are_those_of_the_official_code():
    config = get_config("vicreg_imagenet")
    given = {k: v for k, v in config.augment.options.items() if v is not None}
    found = recipes.resolve(config.augment.name, config.augment.size, given)
    expected = {
        "scale": (0.08, 1.0),
        "resize": "bicubic",
        "flip_p": (0.5, 0.5),
        "jitter_p": (0.8, 0.8),
        "jitter": (0.4, 0.4, 0.2, 0.1),
        "strength": 1.0,
        "gray_p": (0.2, 0.2),
        "blur_p": (1.0, 0.1),
        "blur_sigma": (0.1, 2.0),
        "solarize_p": (0.0, 0.2),
        "solarize_threshold": 128 / 255,
    }
    assert {name: found[name] for name in expected} == expected
    assert config.augment.normalize == "imagenet"
