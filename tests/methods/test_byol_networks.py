"""BYOL's networks, optimiser and numbers against the official ones."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import get_config

from jssl import config, models, optim
from jssl.methods import byol
from jssl.run import checkpoint
from jssl.state import cosine_momentum

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "byol_official.npz")


def flat(tree):
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(tree).items()}


def shapes_of(preset, num_classes):
    c = config.base("byol", preset=preset)
    c.byol.num_classes = num_classes
    net = byol.make_net(c, None)
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)["params"]


def test_lars_leaves_batch_normalisation_and_biases_alone():
    """ResNet-50 with a shortcut in each of 4 groups: 1 + 16 x 3 + 4 convolutions, each with a BN.

    And two dense kernels in projector and predictor each, one in the classifier; beside the BN's
    gammas and betas, also of the two heads, the biases of three dense layers stay out.
    """
    params = shapes_of("imagenet", 1000)
    claimed = optim.groups(params, rules=config.base("byol", preset="imagenet").optim.rules)
    counted = list(claimed.values())
    assert counted.count("decay+adapt") == 53 + 4 + 1
    assert counted.count("none") == 2 * 53 + 2 * 2 + 3
    assert len(counted) == 171


def test_lars_is_the_official_one():
    """Six updates with a learning rate that changes, as recorded from the official optimiser."""
    names = {
        ("conv", "w"): ("conv", "kernel"),
        ("batchnorm", "scale"): ("bn", "scale"),
        ("batchnorm", "offset"): ("bn", "bias"),
        ("linear", "w"): ("dense", "kernel"),
        ("linear", "b"): ("dense", "bias"),
    }

    def tree(step, suffix=""):
        found = {}
        for (module, name), (ours, leaf) in names.items():
            found.setdefault(ours, {})[leaf] = GOLDEN[f"lars_{module}_{name}_{step}{suffix}"]
        return found

    c = config.base("byol", preset="imagenet_300").optim
    assert (c.name, c.order, c.momentum, c.trust_coefficient) == ("lars", "lr_outside", 0.9, 1e-3)
    c.update({"warmup_epochs": 1.0, "weight_decay": 0.05, "trust_coefficient": 0.01})
    tx, _ = optim.build(c, batch_size=512, steps_per_epoch=4, total_steps=20)
    params = tree(0)
    state = tx.init(params)
    for step in range(6):
        updates, state = jax.jit(tx.update)(tree(step, "_grad"), state, params)
        params = optax.apply_updates(params, updates)
        expected = flat(tree(step + 1))
        for name, value in flat(params).items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)
    assert np.abs(params["conv"]["kernel"] - tree(0)["conv"]["kernel"]).max() > 0.05


def test_heads_are_the_official_ones():
    params = shapes_of("imagenet", 1000)
    for head, width in (("projector", 2048), ("predictor", 256)):
        shapes = {k: v.shape for k, v in checkpoint.flat_leaves(params[head]).items()}
        assert shapes == {
            "dense0.kernel": (width, 4096),
            "dense0.bias": (4096,),
            "bn0.scale": (4096,),
            "bn0.bias": (4096,),
            "dense1.kernel": (4096, 256),
        }
    assert params["classifier"]["kernel"].shape == (2048, 1000)


def test_padding_is_same_everywhere():
    """A pixel of the stem: SAME sees rows 0-8, torch's symmetric padding 0-5.

    Pooling SAME takes rows 0-2 of the convolution, symmetric -1 to 1; row r of the convolution
    takes 2r-2 to 2r+4 of the image, symmetric 2r-3 to 2r+3.
    """
    seen = {}
    for padding in ("same", "symmetric"):
        c = config.base("byol", preset="imagenet").model
        assert (c.padding, c.pool_padding) == ("same", "same")
        c.update({"padding": padding, "pool_padding": padding, "name": "resnet8", "width": 0.25})
        net = models.build(c)
        x = jax.random.normal(jax.random.key(1), (4, 64, 64, 3))

        def corner(x, net=net):
            out, _ = net.init_with_output(jax.random.key(0), x, train=False)
            return jnp.sum(out[1]["stem"][:, 0, 0])

        rows = np.flatnonzero(np.abs(jax.jit(jax.grad(corner))(x)).sum(axis=(0, 2, 3)))
        seen[padding] = (int(rows.min()), int(rows.max()))
    assert seen == {"same": (0, 8), "symmetric": (0, 5)}


def test_initial_weights_are_haikus():
    """A normal of 1/sqrt(fan_in) cut at two deviations keeps .8796 of it; gammas are 1."""
    c = config.base("byol", preset="imagenet")
    c.model.update({"name": "resnet50", "width": 0.25, "stage_sizes": (1, 1, 1, 1)})
    c.byol.num_classes = 16
    net = byol.make_net(c, None)
    x = jnp.zeros((1, 32, 32, 3))
    params = flat(jax.jit(lambda k: net.init(k, x, train=True))(jax.random.key(0))["params"])
    for name, value in params.items():
        if name.endswith("kernel"):
            fan_in = np.prod(value.shape[:-1])
            deviation = np.std(value) * math.sqrt(fan_in)
            assert deviation == pytest.approx(0.8796, abs=4 * 0.8796 / math.sqrt(value.size)), name
            assert np.abs(value).max() * math.sqrt(fan_in) <= 2.0001, name
        else:
            np.testing.assert_array_equal(value, float(name.endswith("scale")), err_msg=name)


def test_presets_are_the_official_numbers():
    rows = {
        "imagenet": (1000, 0.2, 1.5e-6, 0.996),
        "imagenet_300": (300, 0.3, 1e-6, 0.99),
        "imagenet_100": (100, 0.45, 1e-6, 0.99),
        "imagenet_40": (40, 0.45, 1e-6, 0.97),
    }
    for preset, row in rows.items():
        c = config.base("byol", preset=preset)
        assert (c.epochs, c.optim.lr, c.optim.weight_decay, c.byol.ema_momentum) == row
        assert (c.batch_size, c.optim.warmup_epochs, c.optim.lr_scaling) == (4096, 10.0, "linear")
        assert (c.augment.name, c.augment.normalize, c.augment.size) == ("byol", "imagenet", 224)
        assert not c.model.zero_init_last_gamma
        assert (c.model.bn_momentum, c.model.bn_epsilon) == (0.9, 1e-5)
    c = get_config("byol_imagenette")
    assert (c.batch_size, c.augment.size, c.model.name) == (256, 128, "resnet18")
    assert (c.optim.lr, c.optim.weight_decay, c.byol.ema_momentum) == (2.0, 1e-6, 0.996)


def test_a_smaller_batch_has_its_own_tau():
    """A target that forgets per step as with 4096 forgets eight times faster per image at 512."""
    c = get_config("byol_imagenet", "batch=512")
    assert c.byol.ema_momentum == pytest.approx(0.9995, abs=5e-6)
    assert c.optim.lr == 0.4
    c = get_config("byol_imagenet", "epochs=300,batch=256")
    assert c.byol.ema_momentum**16 == pytest.approx(0.99)
    with pytest.raises(ValueError, match="found :epochs=200"):
        get_config("byol_imagenet", "epochs=200")


def test_tau_and_learning_rate_are_the_official_ones():
    tau = [float(cosine_momentum(jnp.int32(k), base=0.97, total_steps=20)) for k in range(21)]
    np.testing.assert_allclose(tau, GOLDEN["target_ema"], rtol=1e-6)
    c = config.base("byol", preset="imagenet_300").optim
    c.warmup_epochs = 1.0
    _, schedule = optim.build(c, batch_size=512, steps_per_epoch=4, total_steps=20)
    rates = [float(schedule(k)) for k in range(21)]
    np.testing.assert_allclose(rates, GOLDEN["learning_rate"], rtol=1e-5, atol=1e-7)
