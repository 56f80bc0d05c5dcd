"""The papers' linear evaluations: whose is whose, and their numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config

from jssl import augment, data, evaluate, methods, models
from jssl.evaluate import PRESETS, pool_map, pooled_maps
from jssl.evaluate.probes.presets import direction, first_head, own_preset, preset_rate
from jssl.evaluate.probes.softmax_regression import LinearHead
from jssl.evaluate.protocols import layers as layers_protocol
from jssl.evaluate.protocols import linear as linear_protocol


def test_every_method_has_its_papers_preset_or_none():
    for method in methods.names():
        spec = methods.get(method)
        own = {spec.linear_preset, *spec.linear_variants.values()} - {""}
        assert own <= set(PRESETS), method
    for name, arg, expected in (
        ("simclr_imagenet", "", "simclr"),
        ("simclr_cifar", "", "simclr_cifar"),
        ("moco_imagenet", "preset=v1", "moco"),
        ("moco_imagenet", "preset=v3", "moco_v3"),
        ("moco_imagenet", "preset=v3_vit", "moco_v3_vit"),
        ("byol_imagenet", "", "byol"),
        ("cmc_imagenet", "preset=v2", "cmc"),
        ("cmc_imagenet", "preset=v3", "cmc_wide"),
        ("cmc_imagenet", "preset=alexnet", "cmc_alexnet"),
        ("deepcluster_imagenet", "", "deepcluster"),
        ("deepcluster_v2_imagenet", "", "swav"),
        ("vicreg_imagenet", "", "vicreg"),
        ("beit_imagenet", "", "beit"),
        ("cpc_imagenet", "", ""),
    ):
        assert own_preset(get_config(name, arg)) == expected, name


@pytest.mark.parametrize(
    ("name", "epoch", "batch", "rate"),
    [
        ("cmc", 29.9, 256, 30.0),
        ("cmc_wide", 30, 256, 10.0),
        ("cmc_alexnet", 50, 256, 0.1 * 0.2**3),
        ("beit", 0.9, 1024, 0.004),  # between epochs only
        ("beit", 50, 1024, 0.002),
        ("swav", 50, 256, 0.15),
        ("deepcluster", 0, 256, 0.01),
        # 45 epochs of 5005 steps: .01 / sqrt(1 + .01 1e-7 225225)
        ("deepcluster", 45, 256, 0.01 / np.sqrt(1.000225225)),
    ],
)
def test_learning_rates_by_hand(name, epoch, batch, rate):
    preset = PRESETS[name]
    found = preset_rate(preset, epoch, epochs=preset.epochs, batch_size=batch)
    assert found == pytest.approx(rate, rel=1e-9)
    # In half the epochs the course is the same.
    found = preset_rate(preset, epoch / 2, epochs=preset.epochs / 2, batch_size=batch)
    if not preset.per_epoch:
        assert found == pytest.approx(rate, rel=1e-9)


def test_two_steps_of_adamw_are_those_of_torch():
    """torch.optim.AdamW(lr=.1, weight_decay=1e-4) on w = 1 with the gradients 2 and then -1."""
    tx = direction(PRESETS["beit"])
    w, found = jnp.array([1.0]), []
    state = tx.init(w)
    for g in (2.0, -1.0):
        step, state = tx.update(jnp.array([g]), state, w)
        w = w - 0.1 * step
        found.append(float(w[0]))
    # m = .2, v = .004; corrected 2 and 4: the step is 1. Then m = .08, v = .004996.
    first = 1 - 0.1 * (1 + 1e-4 * 1)
    second = first - 0.1 * (0.08 / 0.19 / np.sqrt(0.004996 / 0.001999) + 1e-4 * first)
    np.testing.assert_allclose(found, [first, second], rtol=1e-5)  # 1 - .999^2 in float32


def test_the_first_head_of_deepcluster_is_torchs_default():
    head = first_head(PRESETS["deepcluster"], jax.random.key(0), 64, 500)
    assert isinstance(head, LinearHead) and head.kernel.shape == (64, 500)
    both = np.concatenate([np.ravel(head.kernel), head.bias])
    assert 0.1249 < np.abs(both).max() <= 0.125  # 1 / sqrt(64)
    np.testing.assert_allclose(both.std(), 0.125 / np.sqrt(3), rtol=0.02)
    assert np.abs(head.bias).max() > 0.12


def test_deepclusters_crop_is_a_window_of_seven_eighths():
    """Of 32 pixels 28 in a row, as they are, perhaps mirrored: a pixel's value is its place."""
    grid = np.arange(32)
    image = np.stack(np.broadcast_arrays(8 * grid[:, None], 8 * grid[None, :], 0), axis=-1)
    views = augment.make_views("crop_flip", size=28, **dict(PRESETS["deepcluster"].crop))
    crops = jax.jit(jax.vmap(views, in_axes=(0, None)))(
        jax.random.split(jax.random.key(0), 40), image.astype(np.uint8)
    )
    corners = set()
    for crop in np.rint(np.asarray(crops)[:, 0] * 255).astype(int):
        if crop[0, 0, 1] > crop[0, -1, 1]:
            crop = crop[:, ::-1]
        top, left = crop[0, 0, 0] // 8, crop[0, 0, 1] // 8
        np.testing.assert_array_equal(crop, image[top : top + 28, left : left + 28])
        corners.add((top, left))
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(5))


def test_alexnets_maps_have_the_papers_sizes_when_pooled():
    """The numbers of inputs in the official eval_linear.py, at 224 pixels."""
    net = models.build({"name": "alexnet", "sobel": True, "dropout": 0.5})
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    state = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), image)
    embed = pooled_maps(lambda variables, x: net.apply(variables, x, False))
    shapes = jax.eval_shape(embed, state, image)[1]
    sizes = [shapes[f"conv{i}"].shape for i in range(1, 6)]
    assert sizes == [(2, 9600), (2, 9216), (2, 9600), (2, 9600), (2, 9216)]
    assert shapes["fc6"].shape == (2, 4096)  # as it was


@pytest.mark.parametrize(("name", "side", "zeros"), [("conv1", 6, 3), ("conv3", 3, 1)])
def test_zero_padding_counts_in_the_average(name, side, zeros):
    x = np.random.default_rng(0).normal(size=(1, 13, 13, 2)).astype(np.float32)
    padded = np.zeros((13 + 2 * zeros, 13 + 2 * zeros, 2))
    padded[zeros : 13 + zeros, zeros : 13 + zeros] = x[0]
    places = range(0, len(padded) - side + 1, side)
    expected = [padded[i : i + side, j : j + side].sum(axis=(0, 1)) / side**2
                for i in places for j in places]  # fmt: skip
    np.testing.assert_allclose(pool_map(name, x)[0], np.ravel(expected), atol=1e-6)
    assert pool_map("conv5", x[:, :1, :1]).shape == (1, 2)  # smaller than the window: as it is


@pytest.fixture
def context(monkeypatch, tmp_path):
    """Of a run that is not there: makes one of a config, and notes what the probes are given."""
    monkeypatch.setattr(evaluate.context.workdir, "read_config", lambda folder: folder)
    seen = {}

    def linear(*args, **kwargs):
        seen.update(kwargs, embed=args[0])
        scores = {"top1": 0.5, "correct": 1, "count": 2, "best_top1": 0.5, "best_epoch": 1}
        words = {"protocol": "words", "feature": kwargs["feature"], "dim": 3}
        return evaluate.LinearResult(None, scores | words)

    def layers(*args, **kwargs):
        seen.update(kwargs, embed=args[0])
        return []

    monkeypatch.setattr(linear_protocol, "evaluate_linear", linear)
    monkeypatch.setattr(layers_protocol, "layer_rows", layers)
    photos = data.photos_source("test")

    def make(config, **settings):
        monkeypatch.setattr(evaluate.context, "Path", lambda folder: tmp_path)
        made = evaluate.Context.load(config, evaluate.Settings(**settings))
        embed = lambda state, images: (images, {"conv2": jnp.ones((1, 27, 27, 8))})  # noqa: E731
        made.__dict__.update({"_loaded": (embed, None), "sources": (photos, photos)})
        return made, seen

    return make


def test_the_linear_protocol_defaults_to_the_methods_own_preset(context):
    cmc, seen = context(get_config("cmc_imagenet", "preset=alexnet"))
    cmc.data.host_crop = "torchvision"
    (row,) = linear_protocol.run(cmc)
    assert seen["preset"] == "cmc_alexnet" and row["protocol"] == "words; that of cmc's authors"
    assert seen["train_transform"].area == (0.2, 1.0)  # the host's crops are the preset's
    told, seen = context(get_config("cmc_imagenet"), preset="byol")
    (row,) = linear_protocol.run(told)
    assert seen["preset"] == "byol" and row["protocol"].endswith("; the preset of cmc is cmc")
    none, seen = context(get_config("cpc_photos"))
    (row,) = linear_protocol.run(none)
    assert seen["preset"] == "simclr" and row["protocol"].endswith("; cpc has none of its own")


def test_probes_of_alexnets_layers_use_pooled_maps(context):
    alexnet, seen = context(get_config("deepcluster_imagenet"))
    layers_protocol.run(alexnet)
    assert seen["embed"](None, 0)[1]["conv2"].shape == (1, 6 * 6 * 8)
    assert "DeepCluster's windows" in seen["pooling"]
    linear_protocol.run(alexnet)
    assert seen["embed"](None, 0)[1]["conv2"].shape == (1, 6 * 6 * 8)
    other, seen = context(get_config("simclr_imagenet"))
    seen.clear()
    layers_protocol.run(other)
    assert seen["embed"] is other.embed and "pooling" not in seen
