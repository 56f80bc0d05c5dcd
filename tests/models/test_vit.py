"""The ViT: published sizes and initial values, timm's recorded outputs, and its switches."""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from jax.extend.core import jaxprs_in_params

from jssl import models, optim
from jssl.errors import UserError
from jssl.models import vit, vit_init

spec = importlib.util.spec_from_file_location(
    "record_vit_timm", ROOT / "tests/reference/record_vit_timm.py"
)
recorder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorder)
GOLDEN = ROOT / "tests/golden/vit_timm.npz"
TINY = vit.ViT(dim=16, depth=2, heads=2, patch_size=4)


def shapes_of(net, size=32):
    x = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))["params"]


def random_params(net, size=32):
    """Of any values, without compiling `init`."""
    rng = np.random.default_rng(0)
    fill = lambda v: jnp.asarray(0.3 * rng.standard_normal(v.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(fill, shapes_of(net, size))


def first_params(net, size=32, seed=0):
    x = jnp.zeros((1, size, size, 3))
    return jax.jit(lambda: net.init(jax.random.key(seed), x, train=False))()["params"]


@functools.partial(jax.jit, static_argnums=0)
def evaluate(net, params, x):
    return net.apply({"params": params}, x, train=False)


def images(count, size=32, seed=1):
    return jax.random.normal(jax.random.key(seed), (count, size, size, 3))


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "recipe", "size", "heads", "classes", "published"),
    [
        ("vit_tiny", "deit", 224, 1, 1000, 5_717_416),
        ("vit_small", "deit", 224, 1, 1000, 22_050_664),
        ("vit_base", "deit", 224, 1, 1000, 86_567_656),
        ("vit_base", "deit", 384, 1, 1000, 86_859_496),
        ("vit_tiny", "deit_distilled", 224, 2, 1000, 5_910_800),
        ("vit_small", "deit_distilled", 224, 2, 1000, 22_436_432),
        ("vit_base", "deit_distilled", 224, 2, 1000, 87_338_192),
        ("vit_base", "deit_distilled", 384, 2, 1000, 87_630_032),
        ("vit_base", "beit", 224, 1, 8192, 91_965_776),
        ("vit_base", "beit_finetune", 224, 1, 1000, 86_530_984),
        ("vit_large", "beit_finetune", 224, 1, 1000, 304_430_568),
    ],
)
def test_parameter_counts_are_the_published_ones(name, recipe, size, heads, classes, published):
    net = models.build({"name": name, **vit.OFFICIAL[recipe]})
    assert count(shapes_of(net, size)) + heads * (net.dim + 1) * classes == published


@pytest.mark.parametrize("patch", [4, 8])
def test_small_image_variants(patch):
    net = models.build({"name": "vit_tiny", "patch_size": patch, "depth": 1})
    (features, named), _ = jax.eval_shape(
        lambda: net.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 24, 3)), train=False)
    )
    assert named["tokens"].shape == (2, 32 * 24 // patch**2, 192)
    assert features.shape == (2, 192) and features.dtype == jnp.float32


def timm_name(path, prefix):
    """('block1', 'qkv', 'kernel') -> 'deit.blocks.1.attn.qkv.weight'."""
    leaf = {"kernel": "weight", "scale": "weight", "relative_table": "relative_position_bias_table"}
    *modules, last = path
    last = leaf.get(last, last)
    if not modules:
        shared = "rel_pos_bias." if last == "relative_position_bias_table" else ""
        return f"{prefix}.{shared}{last}"
    if modules == ["patch_embed"]:
        return f"{prefix}.patch_embed.proj.{last}"
    if not modules[0].startswith("block"):
        return f"{prefix}.{modules[0]}.{last}"
    block = f"{prefix}.blocks.{modules[0].removeprefix('block')}"
    if len(modules) == 1:
        last = re.sub(r"gamma(\d)", r"gamma_\1", last)
        return f"{block}.{last}" if "gamma" in last else f"{block}.attn.{last}"
    part = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    return f"{block}.{part.get(modules[1], modules[1])}.{last}"


def timm_params(net, prefix):
    """A dense kernel is torch's transposed; a patch kernel [p,p,C,D] is torch's [D,C,p,p]."""

    def fill(path, leaf):
        path = [p.key for p in path]
        name, shape = timm_name(path, prefix), leaf.shape
        if path[-1] != "kernel":
            return recorder.weights_of(name, shape)
        if len(shape) == 2:
            return recorder.weights_of(name, shape[::-1]).T
        p, _, C, D = shape
        return recorder.weights_of(name, (D, C, p, p)).transpose(2, 3, 1, 0)

    return jax.tree_util.tree_map_with_path(fill, shapes_of(net, recorder.SIDE))


def head(x, name, classes=10):
    weight = recorder.weights_of(f"{name}.weight", (classes, x.shape[1]))
    return np.asarray(x) @ weight.T + recorder.weights_of(f"{name}.bias", (classes,))


@pytest.mark.parametrize(
    ("case", "name", "switches"),
    [
        ("deit", "vit_tiny", vit.OFFICIAL["deit_distilled"]),
        ("beit", "vit_base", vit.OFFICIAL["beit_finetune"]),
        (
            "beit_shared",
            "vit_base",
            {**vit.OFFICIAL["beit_finetune"], "relative_bias": "shared", "depth": 2},
        ),
    ],
)
def test_forward_passes_equal_timm(case, name, switches):
    """Every block's tokens and the logits, of DeiT-Ti distilled and BEiT-B, whole, at 224 px."""
    net, golden = models.build({"name": name, **switches}), np.load(GOLDEN)
    prefix = case.split("_")[0]
    expected = golden[f"{case}_blocks"]
    x = recorder.images_of(expected.shape[1]).transpose(0, 2, 3, 1)
    features, named = evaluate(net, timm_params(net, prefix), x)
    assert len(expected) == net.depth
    for i, tokens in enumerate(expected):
        result = np.asarray(named[f"block{i}"])[:, recorder.TOKENS]
        np.testing.assert_allclose(result, tokens, atol=1e-5 * np.abs(tokens).max())
    total = golden[f"{case}_sum"]
    result = np.asarray(named[f"block{net.depth - 1}"]).sum(1)
    np.testing.assert_allclose(result, total, atol=1e-5 * np.abs(total).max())
    logits = head(features, f"{prefix}.head")
    if case == "deit":
        np.testing.assert_array_equal(features, named["class_token"])
        logits = (logits + head(named["distillation_token"], "deit.head_dist")) / 2
    np.testing.assert_allclose(logits, golden[f"{case}_logits"], atol=3e-5)


def test_norms_have_epsilon_1e_6():
    """By hand: tokens of +-1e-3 have variance 1e-6, and come out as +-1 / sqrt(2)."""
    net = TINY.clone(depth=1, position="none", pool="mean")
    params = jax.tree.map(jnp.zeros_like, random_params(net))
    params["patch_embed"]["bias"] = 1e-3 * jnp.tile(jnp.array([1.0, -1.0]), 8)
    params["fc_norm"]["scale"] = jnp.ones(16)
    features, _ = evaluate(net, params, images(1))
    np.testing.assert_allclose(np.abs(features), np.sqrt(0.5), rtol=1e-4)


def measured(recipe, **switches):
    net = vit.ViT(dim=192, depth=2, heads=3, vit_init=recipe, **switches)
    return first_params(net, 224)


def test_initial_values_of_deit():
    params = measured("deit", distillation_token=True)
    np.testing.assert_allclose(np.std(params["pos_embed"]), 0.02, atol=2e-4)  # not 0.0176
    for layer in ("qkv", "proj", "fc1", "fc2"):
        np.testing.assert_allclose(np.std(params["block1"][layer]["kernel"]), 0.02, rtol=0.015)
        assert not np.any(params["block1"][layer]["bias"])
    assert np.abs(params["block1"]["fc1"]["kernel"]).max() > 0.07  # nothing is cut off
    for token in ("cls_token", "dist_token"):
        np.testing.assert_allclose(np.std(params[token]), 0.02, rtol=0.2)
    bound = 1 / np.sqrt(768)  # torch's convolution, of its bias too
    for leaf in params["patch_embed"].values():
        assert 0.97 * bound < np.abs(leaf).max() <= bound
        np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.1)


def test_initial_values_of_beit():
    """Cut at one standard deviation: 0.0108; residual ends over sqrt(2), sqrt(4), ..., sqrt(24)."""
    params = measured("beit", mask_token=True, layer_scale=0.1, relative_bias="shared")
    kernels = [params["patch_embed"], *(params["block1"][k] for k in ("qkv", "fc1"))]
    for part in kernels:
        np.testing.assert_allclose(np.std(part["kernel"]), 0.0108, rtol=0.01)
        assert np.abs(part["kernel"]).max() <= 0.02 and not np.any(part["bias"])
    for token in ("cls_token", "mask_token"):
        np.testing.assert_allclose(np.std(params[token]), 0.0108, rtol=0.2)
    for block, std in ((0, 0.00763), (1, 0.0108 / 2)):
        for layer in ("proj", "fc2"):
            kernel = params[f"block{block}"][layer]["kernel"]
            np.testing.assert_allclose(np.std(kernel), std, rtol=0.015)
    last = vit_init.kernel_init("beit", "fc2", 11)(jax.random.key(0), (300, 300))
    np.testing.assert_allclose(np.std(last), 0.00220, rtol=0.01)
    assert np.all(params["block0"]["gamma1"] == np.float32(0.1))
    assert not np.any(params["relative_table"])


def test_initial_values_of_beits_fine_tuning():
    params = measured("beit_finetune")
    np.testing.assert_allclose(np.std(params["block0"]["qkv"]["kernel"]), 0.02, rtol=0.01)
    np.testing.assert_allclose(np.std(params["block1"]["fc2"]["kernel"]), 0.01, rtol=0.01)
    assert np.abs(params["patch_embed"]["kernel"]).max() > 0.97 / np.sqrt(768)


def test_initial_values_of_moco_v3():
    """Xavier uniform of each matrix, with q, k and v as three; the patches' of fan 3 p p and D."""
    params = measured("moco_v3", position="sincos")
    D, block = 192, params["block0"]
    fans = {"qkv": (D, D), "proj": (D, D), "fc1": (D, 4 * D), "fc2": (4 * D, D)}
    for part, fan in ((block[k], v) for k, v in fans.items()):
        bound = np.sqrt(6 / sum(fan))
        assert 0.99 * bound < np.abs(part["kernel"]).max() <= bound
        np.testing.assert_allclose(np.std(part["kernel"]), bound / np.sqrt(3), rtol=0.01)
        assert not np.any(part["bias"])
    kernel, bias = (params["patch_embed"][k] for k in ("kernel", "bias"))
    bound = np.sqrt(6 / (3 * 16 * 16 + D))
    assert 0.99 * bound < np.abs(kernel).max() <= bound and not np.any(bias)
    np.testing.assert_allclose(np.std(params["cls_token"]), 1e-6, rtol=0.2)
    assert "pos_embed" not in params


def test_beit_has_no_key_bias():
    params = shapes_of(TINY.clone(qkv_bias="no_key"))["block0"]
    assert set(params["qkv"]) == {"kernel"}
    assert params["q_bias"].shape == params["v_bias"].shape == (16,)


def test_masked_patches_become_the_mask_token():
    """Replaced patches do not matter, the others do; the token stands where the mask says."""
    net = TINY.clone(mask_token=True, position="none", pool="mean", depth=1)
    params = random_params(net, 8)
    x, other = images(2, 8)[:1], images(2, 8)[1:]
    mask = jnp.array([[True, False, False, True]])
    mixed = x.at[:, :4, :4].set(other[:, :4, :4])  # the first patch
    run = jax.jit(lambda x, mask: net.apply({"params": params}, x, False, mask=mask)[0])
    np.testing.assert_allclose(run(x, mask), run(mixed, mask), atol=1e-6)
    assert not np.allclose(run(x, None), run(mixed, None), atol=1e-4)
    np.testing.assert_allclose(run(x, mask), run(x, mask.reshape(1, 2, 2)), atol=1e-6)
    all_masked = run(x, jnp.ones((1, 4), bool))
    np.testing.assert_allclose(all_masked, run(other, jnp.ones((1, 4), bool)), atol=1e-6)
    with pytest.raises(UserError, match="model.mask_token=True"):
        TINY.apply({"params": params}, x, False, mask=mask)


def test_frozen_patches_get_no_gradient():
    def grads(net):
        loss = lambda p: jnp.sum(jnp.sin(net.apply({"params": p}, images(2), True)[0]))  # noqa: E731
        return jax.jit(jax.grad(loss))(random_params(net))

    for frozen in (False, True):
        result = grads(TINY.clone(freeze_patches=frozen, depth=1))
        moves = [bool(jnp.any(g)) for g in jax.tree.leaves(result["patch_embed"])]
        assert moves == [not frozen] * 2
        assert np.any(result["cls_token"]) and np.any(result["block0"]["qkv"]["kernel"])


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_features_and_intermediates(pool):
    net = TINY.clone(pool=pool, distillation_token=True)
    params = random_params(net)
    features, named = evaluate(net, params, images(3))
    scale = np.asarray(params["norm" if pool == "class" else "fc_norm"]["scale"])
    shift = np.asarray(params["norm" if pool == "class" else "fc_norm"]["bias"])
    names = {"block0", "block1", "tokens", "class_token", "distillation_token"}
    assert set(named) == names and all(len(v) == 3 for v in named.values())
    last = np.asarray(named["block1"], np.float64)

    def norm(v):
        centred = v - v.mean(-1, keepdims=True)
        return centred / np.sqrt(v.var(-1, keepdims=True) + 1e-6) * scale + shift

    expected = norm(last[:, 0]) if pool == "class" else norm(last[:, 2:].mean(1))
    np.testing.assert_allclose(features, expected, atol=1e-5)
    tokens = norm(last) if pool == "class" else last
    np.testing.assert_allclose(named["tokens"], tokens[:, 2:], atol=1e-5)
    np.testing.assert_allclose(named["class_token"], tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(named["distillation_token"], tokens[:, 1], atol=1e-5)


def branches_that_add_one(net, size):
    """Parameters with which each branch adds 1 to its tokens, whatever they are."""
    params = jax.tree.map(jnp.zeros_like, random_params(net, size))
    for i in range(net.depth):
        for layer in ("proj", "fc2"):
            params[f"block{i}"][layer]["bias"] = jnp.ones(net.dim)
    return params


def test_stochastic_depth_is_per_image_and_branch_and_linear_in_the_block():
    """Rates 0, 0.3, 0.6 over 2000 images: survivors within 4 standard errors, each as 1 / keep."""
    net = vit.ViT(dim=4, depth=3, heads=1, patch_size=4, stochastic_depth=0.6, position="none")
    params = branches_that_add_one(net, 4)
    n, rngs = 2000, {"stochastic_depth": jax.random.key(3)}
    run = jax.jit(lambda x: net.apply({"params": params}, x, True, rngs=rngs)[1])
    named, before = run(jnp.zeros((n, 4, 4, 3))), 0.0
    for i, rate in enumerate((0.0, 0.3, 0.6)):
        after = np.asarray(named[f"block{i}"])
        added = (after - before) * (1 - rate)
        assert np.all(added == added[:, :1, :1])  # a whole image
        kept = added[:, 0, 0].round(4)
        assert set(np.unique(kept)) == ({2.0} if rate == 0 else {0.0, 1.0, 2.0})
        for value, chance in ((2, (1 - rate) ** 2), (0, rate**2)):  # the branches are independent
            error = 4 * np.sqrt(chance * (1 - chance) / n)
            assert abs((kept == value).mean() - chance) <= error
        before = after
    still = evaluate(net, params, jnp.zeros((3, 4, 4, 3)))[1]["block2"]
    np.testing.assert_array_equal(still, np.full((3, 2, 4), 6.0, np.float32))
    with pytest.raises(UserError, match=r"rngs=\{'stochastic_depth': key\}"):
        net.apply({"params": params}, jnp.zeros((3, 4, 4, 3)), True)


def test_dropout_positions_equal_timm(monkeypatch):
    """After the positions, each attention and both layers of each perceptron, all drawn apart."""
    seen = []

    def remembered(key, x, *, rate, rows):
        seen.append((x.shape, rate, tuple(jax.random.key_data(key).tolist()), rows.tolist()))
        return x

    monkeypatch.setattr(vit, "dropout", remembered)
    net, x = TINY.clone(dropout=0.1, position="none"), images(2, 8)
    params = {"params": random_params(net, 8)}
    trained, _ = net.apply(params, x, True, rngs={"stochastic_depth": jax.random.key(0)})
    tokens, wide = (2, 5, 16), (2, 5, 64)
    assert [shape for shape, *_ in seen] == [tokens, *[tokens, wide, tokens] * 2]
    assert {rate for _, rate, *_ in seen} == {0.1}
    assert len({key for _, _, key, _ in seen}) == 7 and seen[0][3] == [0, 1]
    judged, _ = net.apply(params, x, False)
    assert len(seen) == 7  # not in evaluation
    np.testing.assert_array_equal(trained, judged)
    monkeypatch.undo()
    trained, _ = net.apply(params, x, True, rngs={"stochastic_depth": jax.random.key(0)})
    assert not np.allclose(trained, judged, atol=1e-3)
    with pytest.raises(UserError, match="--config.model.dropout=0"):
        net.apply(params, x, True)


def test_four_devices_equal_one_device():
    net = TINY.clone(stochastic_depth=0.5)
    four, params, x = net.clone(axis_name="d"), random_params(net), images(8)
    rngs = {"stochastic_depth": jax.random.key(4)}
    one = jax.jit(lambda x: net.apply({"params": params}, x, True, rngs=rngs)[0])(x)
    several = jax.jit(
        jax.vmap(lambda x: four.apply({"params": params}, x, True, rngs=rngs)[0], axis_name="d")
    )(x.reshape(4, 2, 32, 32, 3))
    np.testing.assert_allclose(several.reshape(8, -1), one, atol=1e-5)
    rows = jax.jit(lambda x, rows: net.apply({"params": params}, x, True, rows, rngs=rngs)[0])(
        x[::-1], jnp.arange(8)[::-1]
    )
    np.testing.assert_allclose(rows[::-1], one, atol=1e-5)


def test_remat_needs_less_memory_for_the_same_gradients():
    """Both compiled for the backward pass of 3 blocks: temporaries, and the gradients.

    XLA's CPU backend takes out, before it schedules, the barriers that hold a recomputation back
    until it is needed; the TPU and GPU backends keep them. Here they are kept too.
    """
    plain = TINY.clone(depth=3, stochastic_depth=0.3, relative_bias="own")
    params, x = random_params(plain), images(8)
    keep_barriers = {"xla_disable_hlo_passes": "cse_barrier_expander"}

    def compiled(net):
        def loss(params):
            rngs = {"stochastic_depth": jax.random.key(4)}
            return jnp.sum(jnp.sin(net.apply({"params": params}, x, True, rngs=rngs)[0]))

        return jax.jit(jax.grad(loss)).lower(params).compile(keep_barriers)

    kept, again = compiled(plain), compiled(plain.clone(remat=True))
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (kept, again)]
    assert sizes[1] < 0.6 * sizes[0], sizes
    for a, b in zip(*(jax.tree.leaves(c(params)) for c in (kept, again)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(a).max()))


def test_bfloat16_has_a_float32_softmax_and_float32_parameters():
    net = TINY.clone(dtype=jnp.bfloat16, relative_bias="own")
    params, x = random_params(net), images(4)
    assert {v.dtype for v in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    features, named = evaluate(net, params, x)
    assert features.dtype == jnp.float32 and named["block1"].dtype == jnp.bfloat16
    exact = evaluate(net.clone(dtype=jnp.float32), params, x)[0]
    np.testing.assert_allclose(features, exact, atol=0.05 * np.abs(exact).max())

    def exponentials(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "exp":
                yield eqn.invars[0].aval
            for inner in jaxprs_in_params(eqn.params):
                yield from exponentials(inner)

    made = jax.make_jaxpr(lambda p: net.apply({"params": p}, x, False)[0])(params)
    result = list(exponentials(made.jaxpr))
    assert [v.shape[-4:] for v in result] == [(4, 2, 65, 65)] * 2  # a softmax a block
    assert {v.dtype for v in result} == {jnp.dtype("float32")}


def test_decayed_parameters_equal_the_official_code():
    """Not 1-D tensors, biases, the class token and positions; but the distillation and the mask
    token and relative tables do."""
    spared = {"scale", "bias", "q_bias", "v_bias", "gamma1", "gamma2", "cls_token", "pos_embed"}
    for recipe in ("deit_distilled", "beit", "beit_finetune"):
        params = shapes_of(models.build({"name": "vit_tiny", **vit.OFFICIAL[recipe], "depth": 2}))
        groups = optim.groups(params, rules=optim.TRANSFORMER)
        result = {k.split("/")[-1] for k, v in groups.items() if v == "none"}
        others = {k.split("/")[-1] for k, v in groups.items() if v == "decay+adapt"}
        assert result <= spared and not others & spared
        assert others <= {"kernel", "dist_token", "mask_token", "relative_table"}
        assert ("dist_token" in others) == (recipe == "deit_distilled")
        assert ("mask_token" in others) == (recipe == "beit")


def test_error_messages_say_what_to_type():
    cases = [
        ({"name": "vit_tiny", "relative_bias": "shard"}, "did you mean 'shared'"),
        ({"name": "vit_tiny", "vit_init": "beitt"}, "did you mean 'beit'"),
        ({"name": "vit_tiny", "heads": 5}, "192 with 5 heads.*model.heads"),
        ({"name": "vit_tiny", "patch_size": 5}, "32x32 .* patches of 5.*model.patch_size"),
        (
            {"name": "vit_tiny", "relative_bias": "own", "distillation_token": True},
            "relative_bias='none'",
        ),
    ]
    for config, message in cases:
        with pytest.raises(UserError, match=message):
            shapes_of(models.build(config))
    with pytest.raises(UserError, match="'vit_tny': did you mean 'vit_tiny'"):
        models.build({"name": "vit_tny"})
    with pytest.raises(UserError, match="model.patch_size=8 has no effect on 'resnet18'"):
        models.build({"name": "resnet18", "patch_size": 8})
    with pytest.raises(UserError, match="model.zero_init_last_gamma=True has no effect"):
        models.build({"name": "vit_tiny", "zero_init_last_gamma": True})
