"""EfficientNets: published sizes, torchvision's recorded outputs, and noise that is per example."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from jssl import models
from jssl.errors import UserError
from jssl.models import efficientnet as eff
from jssl.models.depthwise import DepthwiseConv, depthwise_conv2d
from jssl.models.heads import Linear
from jssl.models.noise import dropout, stochastic_depth

spec = importlib.util.spec_from_file_location(
    "record_efficientnet_plain", ROOT / "tests/reference/record_efficientnet_plain.py"
)
recorder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorder)
GOLDEN = ROOT / "tests/golden/efficientnet_plain_torch.npz"
NAMES = ["stem", *(f"stage{i}" for i in range(1, 8)), "head"]
TINY = {"width": 0.1, "stages": (eff.Stage(1, 3, 1, 1, 16), eff.Stage(2, 5, 2, 6, 24))}


def shapes_of(net, size=64):
    x = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))


@functools.partial(jax.jit, static_argnums=0)
def evaluate(net, variables, x):
    return net.apply(variables, x, train=False)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "published"),  # the recipe's table, with the classifier of 1000 classes
    [
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("efficientnet_b4", 19_341_616),
        ("efficientnet_b5", 30_389_784),
        ("efficientnet_b6", 43_040_704),
        ("efficientnet_b7", 66_347_960),
        ("efficientnet_l2", 480_309_308),
    ],
)
def test_parameter_counts_are_the_published_ones(name, published):
    params = shapes_of(models.build({"name": name}))["params"]
    features = params["head_conv"]["kernel"].shape[-1]
    assert count(params) + features * 1000 + 1000 == published


def test_squeeze_is_a_quarter_of_the_blocks_input():
    params = shapes_of(models.build({"name": "efficientnet_b0"}))["params"]
    # B0's blocks 1 and 2 see 16 and 24 channels and expand them to 96 and 144.
    assert params["block0_se_reduce"]["kernel"].shape == (1, 1, 32, 8)
    assert params["block1_se_reduce"]["kernel"].shape == (1, 1, 96, 4)
    assert params["block2_se_reduce"]["kernel"].shape == (1, 1, 144, 6)
    assert params["block2_se_expand"]["bias"].shape == (144,)


@pytest.mark.parametrize(
    ("small", "sides"),
    [(False, [16, 16, 8, 4, 2, 2, 1, 1, 1]), (True, [16, 16, 16, 16, 8, 8, 4, 4, 4])],
)
def test_small_images_keep_their_size_in_stages_2_and_3(small, sides):
    """By the official strides: 32 px halve in the stem, then by 2 2 2 1 2 or by 1 1 2 1 2."""
    net = models.build({"name": "efficientnet_b0", "small_images": small})
    x = jnp.zeros((1, 32, 32, 3))
    features, named = jax.eval_shape(
        lambda: net.init_with_output(jax.random.key(0), x, train=False)[0]
    )
    assert set(named) == set(NAMES)
    assert [named[name].shape[1] for name in NAMES] == sides
    channels = [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    assert [named[name].shape[3] for name in NAMES] == channels
    assert features.shape == (1, 1280) and features.dtype == jnp.float32


def torch_name(module, leaf, plan):
    """('block1_expand_bn', 'mean') -> 'efficientnet.features.2.0.block.0.1.running_mean'."""
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    if not module.startswith("block"):
        place, part = module.split("_")
        return f"efficientnet.features.{8 * (place == 'head')}.{int(part == 'bn')}.{leaf}"
    block, part = module.removeprefix("block").split("_", 1)
    stage, repeat, expands = plan[int(block)]
    names = ["depthwise", "se", "project"]
    names = ["expand", *names] if expands else names
    kind = part.removesuffix("_bn")
    if kind.startswith("se_"):
        inner = {"se_reduce": "fc1", "se_expand": "fc2"}[kind]
        return (
            f"efficientnet.features.{stage + 1}.{repeat}.block.{names.index('se')}.{inner}.{leaf}"
        )
    place = names.index(kind)
    is_bn = int(part.endswith("_bn"))
    return f"efficientnet.features.{stage + 1}.{repeat}.block.{place}.{is_bn}.{leaf}"


def b0_variables(net):
    repeats = (1, 2, 2, 3, 3, 4, 1)
    plan = [(stage, i, stage > 0) for stage, n in enumerate(repeats) for i in range(n)]

    def fill(path, leaf):
        _, module, kind = (p.key for p in path)
        name = torch_name(module, kind, plan)
        if kind != "kernel":
            return recorder.weights_of(name, leaf.shape)
        h, w, i, o = leaf.shape  # depthwise: [h,w,1,C] is torch's [C,1,h,w] as well
        return recorder.weights_of(name, (o, i, h, w)).transpose(2, 3, 1, 0)

    return jax.tree_util.tree_map_with_path(fill, shapes_of(net))


@pytest.fixture(scope="module")
def b0():
    net = models.build({"name": "efficientnet_b0", "stochastic_depth": 0.0})
    return net, b0_variables(net)


@pytest.mark.parametrize("case", ["odd", "even"])
def test_forward_passes_equal_torchvision(case, b0):
    """33 px: where every strided input is odd both paddings agree, and torchvision is untouched.

    32 px: torchvision with TensorFlow's padding, see the recorder.
    """
    net, variables = b0
    golden = np.load(GOLDEN)
    images = recorder.images_of({"odd": 33, "even": 32}[case]).transpose(0, 2, 3, 1)
    features, named = evaluate(net, variables, images)
    for i, name in enumerate(NAMES):
        expected = golden[f"efficientnet_{case}_{i}"]
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(named[name].sum((1, 2)), expected, atol=tolerance)
    expected = golden[f"efficientnet_{case}"]
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())


def test_training_statistics_equal_torchvision(b0):
    net, variables = b0
    golden = np.load(GOLDEN)
    images = recorder.images_of(33).transpose(0, 2, 3, 1)
    (features, _), moved = jax.jit(
        lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, images)
    stem = moved["batch_stats"]["stem_bn"]
    np.testing.assert_allclose(stem["mean"], golden["efficientnet_stem_mean"], atol=1e-6)
    n, before = 2 * 17 * 17, variables["batch_stats"]["stem_bn"]["var"]
    unbiased = before * 0.99 + (stem["var"] - before * 0.99) * n / (n - 1)  # torch's
    np.testing.assert_allclose(unbiased, golden["efficientnet_stem_var"], rtol=1e-5)
    # Two images of 2x2 places leave 8 values for the last statistics: they amplify rounding.
    expected = golden["efficientnet_train"]
    np.testing.assert_allclose(features, expected, atol=1e-3 * np.abs(expected).max())


def test_rounding_equals_the_official_one():
    """By hand: 32 * 1.1 = 35.2 -> 32; 16 * 1.1 = 17.6 -> 16; 24 * 1.2 = 28.8 -> 32; 10 -> 8 is
    below nine tenths -> 16."""
    result = [eff.round_filters(*a) for a in ((32, 1.1), (16, 1.1), (24, 1.2), (10, 1.0), (3, 1.0))]
    assert result == [32, 16, 32, 16, 8]
    assert [eff.round_repeats(n, 1.1) for n in (1, 2, 3, 4)] == [2, 3, 4, 5]


def test_drop_rates_are_linear_in_the_block():
    """The first block is never dropped, the last below the whole rate: 0.2 * 15 / 16."""
    rates = eff.drop_rates(0.2, 16)
    np.testing.assert_allclose(rates, np.linspace(0, 0.2, 17)[:-1], atol=1e-12)
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.1875)


@pytest.mark.parametrize("drop", [stochastic_depth, dropout])
def test_survival_statistics_and_expectation(drop):
    """20,000 draws at rate 0.3: 0.7 +- 4 standard errors survive, each as x / 0.7."""
    rows, x = jnp.arange(5000), jnp.full((5000, 2, 2), 3.0)
    y = np.asarray(drop(jax.random.key(0), x, rate=0.3, rows=rows))
    assert set(np.unique(y.astype(np.float32)).tolist()) == {0.0, np.float32(3.0 / 0.7)}
    kept = y != 0
    full = kept.reshape(5000, 4)
    if drop is stochastic_depth:
        assert np.all(full == full[:, :1])
        draws = 5000
    else:
        assert len(np.unique(full.sum(1))) == 5
        draws = 20_000
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / draws)
    assert abs(y.mean() - 3.0) < 4 * 3.0 * np.sqrt(0.3 / 0.7 / draws)
    again = drop(jax.random.key(0), x[10:14], rate=0.3, rows=rows[10:14])
    np.testing.assert_array_equal(again, y[10:14])  # the row's number decides, not its place
    with pytest.raises(ValueError, match=r"drop rate in \[0, 1\), found 1"):
        drop(jax.random.key(0), x, rate=1.0, rows=rows)


@pytest.fixture(scope="module")
def tiny():
    # Three blocks of rates 0, 0.3 and 0.6; the first and the last have a residual.
    net = eff.EfficientNet(**TINY, stochastic_depth=0.9)
    x = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    variables = jax.jit(lambda: net.init(jax.random.key(0), x, train=True))()
    return net, variables, jnp.repeat(x, 8, axis=0)


def test_equal_images_of_one_batch_are_dropped_differently(tiny):
    net, variables, x = tiny

    def run(key, rows):
        rngs = {"stochastic_depth": key}
        outputs, _ = net.apply(variables, x, True, rows, rngs=rngs, mutable=["batch_stats"])
        return outputs[0]

    run = jax.jit(run)
    first = np.asarray(run(jax.random.key(0), jnp.arange(8)))
    assert len(np.unique(first.round(4), axis=0)) > 1
    np.testing.assert_array_equal(first, run(jax.random.key(0), jnp.arange(8)))
    assert not np.allclose(first, run(jax.random.key(5), jnp.arange(8)))
    backwards = run(jax.random.key(0), jnp.arange(8)[::-1])
    np.testing.assert_allclose(backwards[::-1], first, atol=1e-5)


def test_evaluation_draws_nothing(tiny):
    net, variables, x = tiny
    without = evaluate(net.clone(stochastic_depth=0.0), variables, x)[0]
    np.testing.assert_array_equal(evaluate(net, variables, x)[0], without)
    # Equal images give equal rows up to rounding: threads may split the rows of a batch unevenly,
    # and then sums are taken in another order.
    np.testing.assert_allclose(without, np.broadcast_to(without[:1], without.shape), rtol=1e-5)
    with pytest.raises(UserError, match=r"rngs=\{'stochastic_depth': key\}"):
        net.apply(variables, x, True, mutable=["batch_stats"])


def test_four_devices_equal_one_device(tiny):
    """Features, statistics, gradients with stochastic depth on: each example keeps its draw."""
    net, variables, _ = tiny
    x = jax.random.normal(jax.random.key(2), (8, 16, 16, 3))
    four = net.clone(axis_name="d")

    def run(net, x, mean):
        def loss(params):
            given = {**variables, "params": params}
            rngs = {"stochastic_depth": jax.random.key(4)}
            (h, _), moved = net.apply(given, x, True, rngs=rngs, mutable=["batch_stats"])
            return mean(jnp.mean(jnp.sin(h))), (h, moved["batch_stats"])

        grads, (h, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return h, stats, jax.tree.map(mean, grads)

    one = jax.jit(lambda x: run(net, x, lambda v: v))(x)
    several = jax.jit(
        jax.vmap(
            lambda x: run(four, x, lambda v: jax.lax.pmean(v, "d")),
            axis_name="d",
            out_axes=(0, None, None),
        )
    )(x.reshape(4, 2, 16, 16, 3))
    several = (several[0].reshape(8, -1), *several[1:])
    np.testing.assert_allclose(several[0], one[0], atol=1e-5 * float(jnp.abs(one[0]).max()))
    for result, expected in zip(several[1:], one[1:], strict=True):
        largest = max(float(jnp.abs(v).max()) for v in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5 * largest)


def test_frozen_blocks_are_as_in_evaluation_and_get_no_gradient(tiny):
    """FixRes's last stage: of the stem and block 0, neither statistics nor parameters move."""
    net, variables, x = tiny
    frozen = net.clone(frozen_blocks=1, stochastic_depth=0.0)

    def loss(params):
        (h, named), moved = frozen.apply(
            {**variables, "params": params}, x, True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(h)), (named["stage1"], moved["batch_stats"])

    grads, (stage, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    expected = evaluate(net, variables, x)[1]["stage1"]
    np.testing.assert_allclose(stage, expected, atol=1e-6)
    for module, leaves in grads.items():
        shallow = module.startswith(("stem", "block0"))
        assert any(bool(jnp.any(v)) for v in leaves.values()) != shallow, module
        if module in stats:
            before = variables["batch_stats"][module]["mean"]
            assert bool(jnp.all(stats[module]["mean"] == before)) == shallow, module


def test_initial_values():
    net = eff.EfficientNet(width=0.5, stages=(eff.STAGES[0], eff.STAGES[5]))
    x = jnp.zeros((1, 4, 4, 3))
    params = jax.jit(lambda: net.init(jax.random.key(0), x, train=False))()["params"]
    for name, fan_out in (("head_conv", 640), ("block2_expand", 576), ("stem_conv", 9 * 16)):
        kernel = params[name]["kernel"]
        error = 4 / np.sqrt(2 * kernel.size)
        np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / fan_out), rtol=error)
    depthwise = params["block2_depthwise"]["kernel"]  # [5,5,1,C]: the fan out is 25, not 25 C
    assert depthwise.shape[:3] == (5, 5, 1)
    np.testing.assert_allclose(np.std(depthwise), np.sqrt(2 / 25), rtol=0.03)
    dense = Linear(100, kernel_init=eff.classifier_init).init(
        jax.random.key(0), jnp.zeros((1, 640))
    )["params"]
    assert 0.0999 < np.abs(dense["kernel"]).max() <= 0.1  # 1 / sqrt(100 classes)
    assert not np.any(dense["bias"]) and not np.any(params["block3_se_reduce"]["bias"])


def test_bfloat16_keeps_float32_parameters_and_features(tiny):
    net, variables, _ = tiny
    x = jax.random.normal(jax.random.key(6), (4, 16, 16, 3))
    low = net.clone(dtype=jnp.bfloat16)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    rngs = {"stochastic_depth": jax.random.key(0)}

    def loss(params, net):
        given = {**variables, "params": params}
        (h, named), _ = net.apply(given, x, True, rngs=rngs, mutable=["batch_stats"])
        return jnp.sum(h), (h, named)

    grads, (h, named) = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(
        variables["params"], low
    )
    assert h.dtype == jnp.float32 and {v.dtype for v in named.values()} == {jnp.dtype("bfloat16")}
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    exact, result = (evaluate(n, variables, x[:2])[0] for n in (net, low))
    np.testing.assert_allclose(result, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_convolution_and_gradients_equal_the_grouped_ones(kernel, stride):
    """Against a loop in numpy, and the gradients against XLA's convolution of C groups."""
    rng = np.random.default_rng(kernel + stride)
    x = rng.standard_normal((2, 6, 7, 3)).astype(np.float32)
    k = rng.standard_normal((kernel, kernel, 1, 3)).astype(np.float32)
    pads = jax.lax.padtype_to_pads((6, 7), (kernel, kernel), (stride, stride), "SAME")
    pads = tuple((int(a), int(b)) for a, b in pads)
    result = depthwise_conv2d(x, k, stride, pads)
    padded = np.pad(np.float64(x), ((0, 0), *pads, (0, 0)))
    for h in range(result.shape[1]):
        for w in range(result.shape[2]):
            window = padded[:, stride * h : stride * h + kernel, stride * w : stride * w + kernel]
            expected = (window * k[None, :, :, 0]).sum((1, 2))
            np.testing.assert_allclose(result[:, h, w], expected, atol=1e-5)
    dy = rng.standard_normal(result.shape).astype(np.float32)

    def grouped(x, k):
        return jax.lax.conv_general_dilated(
            x,
            k,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    expected = jax.vjp(grouped, x, k)[1](dy)
    gradients = jax.vjp(lambda x, k: depthwise_conv2d(x, k, stride, pads), x, k)[1](dy)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_the_grouped_convolution(platform):
    conv, x = DepthwiseConv((3, 3)), jnp.ones((2, 8, 8, 16))
    variables = conv.init(jax.random.key(0), x)
    f = jax.jit(jax.grad(lambda v, x: jnp.sum(jnp.sin(conv.apply(v, x))), (0, 1)))
    text = f.trace(variables, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3


def test_keys_that_the_network_does_not_read_are_refused():
    full = {**models.DEFAULTS, "name": "efficientnet_b0", **eff.OFFICIAL}
    net = models.build(full)
    assert (net.bn_momentum, net.bn_epsilon, net.stochastic_depth) == (0.99, 1e-3, 0.2)
    assert models.build({"name": "efficientnet_b0"}) == net
    for name, key, value in (
        ("efficientnet_b0", "stem", "cifar"),
        ("efficientnet_b0", "sobel", True),
        ("resnet50", "stochastic_depth", 0.2),
        ("vgg16", "small_images", True),
        ("alexnet_half", "width", 2.0),
    ):
        with pytest.raises(UserError, match=rf"model.{key}={value!r} has no effect on '{name}'"):
            models.build({**models.DEFAULTS, "name": name, key: value})
    with pytest.raises(UserError, match="'efficientnet_b9': did you mean 'efficientnet_b"):
        models.build({"name": "efficientnet_b9"})
