"""The recipes: against the naive pipeline, by rates, and the same over any number of devices."""

import re
import runpy
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jssl import augment
from jssl.augment import views as views_lib
from jssl.augment._numbers import uniform_numbers
from jssl.errors import UserError

TESTS = Path(__file__).parents[1]
naive = runpy.run_path(str(TESTS / "reference" / "naive_augment.py"))
PICTURE = np.load(TESTS / "golden" / "augment_tf.npz")["picture"]  # 37 x 29
resize_16 = jax.jit(lambda image: jnp.clip(augment.resize(image, size=16), 0, 1))
TRAINING = [
    "simclr", "simclr_cifar", "byol", "moco_v1", "moco_v2", "moco_v3", "moco_cifar", "crop_flip",
]  # fmt: skip
EVALUATION = ["center_crop", "none"]


def described(draws, v):
    """The draw of view v in plain numbers, as the naive pipeline takes it."""
    draw = jax.tree.map(lambda x: np.asarray(x)[v], draws)
    return {
        "box": tuple(int(side) for side in draw.box),
        "order": [int(i) for i in draw.jitter.order],
        "amounts": [float(a) for a in draw.jitter.amounts],
        "sigma": float(draw.sigma),
        **{name: bool(getattr(draw, name)) for name in ("flip", "gray", "blur", "solarize")},
    }


@pytest.mark.parametrize("name", TRAINING + EVALUATION)
def test_views_equal_the_naive_pipeline(name):
    """Every recipe, 20 px so that blur has a radius; several keys so that every gate opens."""
    fn = augment.make_views(name, size=20)
    count = 12
    keys = jax.random.split(jax.random.key(8), count)
    draws = jax.jit(jax.vmap(lambda key: fn.draw(key, *PICTURE.shape[:2])))(keys)
    result = np.asarray(jax.jit(jax.vmap(lambda key: fn(key, jnp.asarray(PICTURE))))(keys))
    assert result.shape == (count, fn.options["views"], 20, 20, 3)
    assert result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1
    opened = set()
    for i in range(count):
        one = jax.tree.map(lambda x, i=i: x[i], draws)
        for v in range(fn.options["views"]):
            draw = described(one, v)
            opened |= {g for g in ("flip", "gray", "blur", "solarize") if draw[g]}
            opened |= {"jitter"} if draw["order"][0] < 4 else set()
            expected = naive["view"](PICTURE / 255.0, draw, 20, fn.options)
            # A solarized value at the threshold may fall on either side of it.
            close = np.isclose(result[i, v], expected, atol=2e-5)
            assert close.mean() > (0.999 if draw["solarize"] else 0.9999999), draw
    possible = {
        g for g in ("flip", "jitter", "gray", "blur", "solarize") if any(fn.options[g + "_p"])
    }
    assert opened == possible


def test_an_operation_does_not_change_the_random_numbers_of_another():
    """Each has its own key: more numbers of one do not change the draws of the others."""
    key = jax.random.key(9)
    plain = augment.make_views("crop_flip", size=20).draw(key, 40, 48)
    options = {"policy_form": "timm", "policy_ops": 3, "cutout_pad": 2, "jitter_p": 0.5}
    other = augment.make_views("crop_flip", size=20, **options).draw(key, 40, 48)
    for name in ("box", "flip", "gray", "blur", "sigma", "solarize", "shift"):
        chex.assert_trees_all_equal(getattr(other, name), getattr(plain, name))
    fewer = augment.make_views("crop_flip", size=20, **{**options, "policy_ops": 1})
    np.testing.assert_array_equal(fewer.draw(key, 40, 48).policy, other.policy[:, :1])
    # Numbers of different operations are different ones.
    numbers = uniform_numbers(key, {"a": 3, "b": 3, "c": 9}, views=2)
    assert len(np.unique(np.concatenate([x.ravel() for x in numbers.values()]))) == 2 * 15


@pytest.fixture(scope="module")
def many():
    """For each recipe 3000 draws [3000,V,...] for an image of 40 x 48."""
    keys = jax.random.split(jax.random.key(21), 3000)
    out = {}
    for name in ("simclr", "byol", "moco_v1", "moco_v2", "moco_v3"):
        fn = augment.make_views(name, size=32)
        draw = jax.jit(jax.vmap(lambda key, fn=fn: fn.draw(key, 40, 48)))
        out[name] = jax.tree.map(np.asarray, draw(keys))
    return out


# chances of flip, jitter, gray, blur, solarize for the first and for the second view
CHANCES = {
    "simclr": [(0.5, 0.8, 0.2, 0.5, 0.0)] * 2,
    "byol": [(0.5, 0.8, 0.2, 1.0, 0.0), (0.5, 0.8, 0.2, 0.1, 0.2)],
    "moco_v1": [(0.5, 1.0, 0.2, 0.0, 0.0)] * 2,
    "moco_v2": [(0.5, 0.8, 0.2, 0.5, 0.0)] * 2,
    "moco_v3": [(0.5, 0.8, 0.2, 1.0, 0.0), (0.5, 0.8, 0.2, 0.1, 0.2)],
}


@pytest.mark.parametrize("name", CHANCES)
def test_probabilities_of_each_view(many, name):
    draws = many[name]
    gates = [draws.flip, draws.jitter.order[..., 0] < 4, draws.gray, draws.blur, draws.solarize]
    for v, chances in enumerate(CHANCES[name]):
        for gate, p in zip(gates, chances, strict=True):
            count = int(gate[:, v].sum())
            assert (
                count == p * 3000 if p in (0, 1) else stats.binomtest(count, 3000, p).pvalue > 1e-3
            )


# half-widths of brightness, contrast, saturation, hue
AMPLITUDES = {
    "simclr": (0.8, 0.8, 0.8, 0.2),
    "byol": (0.4, 0.4, 0.2, 0.1),
    "moco_v1": (0.4, 0.4, 0.4, 0.4),
    "moco_v2": (0.4, 0.4, 0.4, 0.1),
    "moco_v3": (0.4, 0.4, 0.2, 0.1),
}


@pytest.mark.parametrize("name", AMPLITUDES)
def test_amounts_and_sigmas_of_each_recipe(many, name):
    draws = many[name]
    for i, half in enumerate(AMPLITUDES[name]):
        middle = 0.0 if i == 3 or (i == 0 and name == "byol") else 1.0  # BYOL adds brightness
        amount = draws.jitter.amounts[..., i].ravel()
        uniform = stats.uniform(middle - half, 2 * half)
        assert stats.kstest(amount, uniform.cdf).pvalue > 1e-3
    assert stats.kstest(draws.sigma.ravel(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    share = draws.box.height * draws.box.width / (40 * 48)
    least = {"simclr": 0.1, "byol": 0.08}.get(name, 0.2)
    assert least * 0.97 < share.min() < least * 1.06  # whole pixels may round an area down


@pytest.mark.parametrize("name", CHANCES)
def test_views_and_images_are_independent(many, name):
    """Random numbers of different views and images are independent."""
    d = many[name]
    columns = [d.box.top, d.box.left, d.box.height, d.flip, d.gray, d.sigma]
    columns += [d.jitter.amounts[..., i] for i in range(4)]
    columns = np.stack(columns, axis=-1).astype(float)  # [3000,2,10]
    first, second = columns[:, 0], columns[:, 1]
    for a, b in [(first, second), (first[:-1], first[1:])]:
        across = np.corrcoef(a.T, b.T)[:10, 10:]
        assert np.abs(across).max() < 0.085  # 100 correlations of 3000 pairs: 4.6 deviations
    sigma_and_gray = np.corrcoef(first[:, 4:].T)
    assert np.abs(sigma_and_gray - np.eye(6)).max() < 0.085


def batch(count, seed=0, size=16):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (count, size, size + 4, 3), dtype=np.uint8))


def jitted_views(fn, key, images):
    return jax.jit(lambda key, images: augment.batch_views(fn, key, images, jnp.int32(0)))(
        key, images
    )


@pytest.fixture(scope="module")
def case():
    """A recipe with every operation, its step, a batch of 8, and its views from index 40 on."""
    fn = augment.make_views("moco_v3", size=16, blur_radius=2)
    step = jax.jit(lambda key, images, first: augment.batch_views(fn, key, images, first))
    key, images = jax.random.key(3), batch(8)
    return fn, step, images, np.asarray(step(key, images, jnp.int32(40)))


def test_views_of_four_parts_equal_those_of_the_batch(case):
    fn, step, images, views = case
    key = jax.random.key(3)
    assert views.shape == (2, 8, 16, 16, 3)
    parts = [step(key, images[i : i + 2], jnp.int32(40 + i)) for i in range(0, 8, 2)]
    # Up to rounding, as another batch size is another program.
    np.testing.assert_allclose(views, np.concatenate(parts, axis=1), atol=2e-6)
    # and the offset and the key do matter
    assert not np.allclose(views, step(key, images, jnp.int32(41)), atol=0.1)
    assert not np.allclose(views, step(jax.random.key(4), images, jnp.int32(40)), atol=0.1)
    # example i is that of its key, alone
    single = jax.jit(fn)(jax.random.fold_in(key, 43), images[3])
    np.testing.assert_allclose(views[:, 3], single, atol=2e-6)


def test_views_on_four_devices_equal_those_on_one(case):
    fn, _, images, views = case
    spread = jax.pmap(
        lambda key, images, first: augment.batch_views(fn, key, images, first),
        in_axes=(None, 0, 0),
        devices=jax.devices()[:4],
    )(jax.random.key(3), images.reshape(4, 2, *images.shape[1:]), jnp.arange(40, 48, 2))
    spread = np.asarray(spread).swapaxes(0, 1).reshape(views.shape)
    np.testing.assert_allclose(spread, views, atol=2e-6)  # two programs: equal up to rounding


def test_accelerator_code_equals_cpu_code():
    fn, images = augment.make_views("byol", size=32), batch(4, size=40)
    keys = jax.random.split(jax.random.key(6), 4)
    draws = jax.vmap(lambda key: fn.draw(key, 40, 44), out_axes=1)(keys)
    rows = images.swapaxes(-1, -2)
    one_by_one = jax.jit(lambda x, d: views_lib._one_by_one(fn, x, d))(rows, draws)
    batched = jax.jit(lambda x, d: views_lib._batched(fn, x, d))(rows, draws)
    np.testing.assert_allclose(one_by_one, batched, atol=2e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_run_one_batched_program(platform):
    fn = augment.make_views("simclr", size=64)

    def step(key, images):
        return augment.batch_views(fn, key, images, jnp.int32(0))

    traced = jax.jit(step).trace(jax.random.key(0), jnp.zeros((4, 64, 64, 3), jnp.uint8))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "tensor<2x4x64x64x3xf32>" in text
    # a branch ends in its results' types; a loop begins with those of what it carries
    pixels = re.compile(r"^ *\}\) : \(tensor<i32>\) -> .*64x64xf32|stablehlo\.while.*64x64")
    assert not [line for line in text.splitlines() if pixels.search(line)]
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert (
        len([line for line in text.splitlines() if pixels.search(line)]) >= 6
    )  # jitter 4, gray, blur


def test_float_images_are_treated_as_uint8():
    fn, key = augment.make_views("crop_flip", size=16), jax.random.key(1)
    picture = jnp.asarray(PICTURE)
    result = jax.jit(fn)(key, picture)
    np.testing.assert_allclose(result, jax.jit(fn)(key, augment.to_float(picture)), atol=5e-6)


def test_evaluation_draws_nothing():
    image = jnp.asarray(PICTURE)
    center = jax.jit(augment.make_views("center_crop", size=16))
    result = [center(jax.random.key(i), image)[0] for i in range(2)]
    np.testing.assert_array_equal(result[0], result[1])
    expected = jax.jit(lambda image: augment.center_crop(image, size=16))(image)
    np.testing.assert_allclose(result[0], expected, atol=1e-6)
    square = image[:29, :29]
    none = jax.jit(augment.make_views("none", size=29))
    np.testing.assert_array_equal(none(jax.random.key(0), square)[0], augment.to_float(square))
    none = jax.jit(augment.make_views("none", size=16))
    np.testing.assert_allclose(none(jax.random.key(0), image)[0], resize_16(image), atol=1e-6)


def test_host_crops_are_not_cropped_again():
    crops = jnp.stack([jnp.asarray(PICTURE[:24, :24]), jnp.asarray(PICTURE[10:34, 3:27])])
    plain = {"jitter_p": 0, "gray_p": 0, "blur_p": 0}
    fn = augment.make_views("simclr", size=24, host_crop=True, flip_p=(0, 1), **plain)
    result = jax.jit(fn)(jax.random.key(0), crops)
    expected = jnp.stack([crops[0], crops[1, :, ::-1]]) / 255
    np.testing.assert_allclose(result, expected, atol=1e-6)
    batched = jitted_views(fn, jax.random.key(0), jnp.stack([crops] * 3))
    np.testing.assert_allclose(batched, jnp.stack([expected] * 3, axis=1), atol=1e-6)
    # another size is resized whole
    fn = augment.make_views("simclr", size=16, host_crop=True, flip_p=0, **plain)
    result = jax.jit(fn)(jax.random.key(0), crops)
    expected = jnp.stack([resize_16(crop) for crop in crops])
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_any_function_of_key_and_image_can_be_batched():
    def fn(key, image):
        return (augment.to_float(image) * jax.random.uniform(key))[None]

    images = batch(4)
    result = augment.batch_views(fn, jax.random.key(0), images, jnp.int32(7))
    expected = fn(jax.random.fold_in(jax.random.key(0), 9), images[2])
    np.testing.assert_allclose(result[:, 2], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simlcr", {}, r"Unknown augmentation recipe 'simlcr': did you mean 'simclr'\?"),
        ("simclr", {"blurp": 0.1}, r"Unknown option 'blurp' .*'simclr': did you mean 'blur_p'\?"),
        ("simclr", {"sampler": "tensorflow"}, r"sampler='tensorflow' .* Choices: byol, tf"),
        ("simclr", {"resize": "bicubik"}, r"resize='bicubik' .*did you mean 'bicubic'\?"),
        ("simclr", {"scale": (0.5, 1.2)}, r"scale=\(0.5, 1.2\) .*at most 1"),
        ("simclr", {"scale": (0.5, 0.2)}, r"scale=\(0.5, 0.2\) .*0 < low <= high"),
        ("simclr", {"ratio": (0, 1)}, r"ratio=\(0.0, 1.0\) .*0 < low <= high"),
        ("simclr", {"blur_p": 1.5}, r"blur_p=1.5 .*a chance in \[0, 1\]"),
        ("byol", {"blur_p": (1, 0.1, 0)}, r"blur_p=\(1, 0.1, 0\) .*each of the 2 views"),
        ("simclr", {"jitter": (0.8, 0.8)}, r"jitter=\(0.8, 0.8\) .*four amplitudes"),
        ("simclr", {"strength": 3.0}, r"jitter=.* a hue of at most 0.5"),
        ("simclr", {"views": 0}, r"views=0 .*1 or more"),
        ("center_crop", {"proportion": 0.0}, r"proportion=0.0 .*above 0"),
        ("simclr", {"size": 0}, r"size=0: expected whole pixels"),
        ("simclr", {"blur_radius": -1}, r"blur_radius=-1 .*0 or more"),
        ("simclr", {"scale": 0.2}, r"scale=0.2 .*\(low, high\)"),
        ("simclr", {"flip_p": "often"}, r"flip_p='often' .*a chance in \[0, 1\]"),
    ],
)
def test_invalid_arguments(name, options, message):
    with pytest.raises(UserError, match=message):
        augment.make_views(name, **{"size": 32, **options})


def test_images_of_another_shape_are_refused():
    key = jax.random.key(0)
    fn = augment.make_views("simclr", size=8)
    with pytest.raises(ValueError, match=r"An image is \[H,W,3\]; found \[8, 8, 1\]"):
        fn(key, jnp.zeros((8, 8, 1), jnp.uint8))
    with pytest.raises(ValueError, match=r"found \[2, 8, 8, 3\]"):
        augment.batch_views(fn, key, jnp.zeros((4, 2, 8, 8, 3), jnp.uint8), jnp.int32(0))
    fn = augment.make_views("simclr", size=8, host_crop=True)
    with pytest.raises(ValueError, match=r"\[2,H,W,3\] \(host_crop\); found \[3, 8, 8, 3\]"):
        fn(key, jnp.zeros((3, 8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="uint8, or float in .*; found int32"):
        augment.make_views("simclr", size=8)(key, jnp.zeros((8, 8, 3), jnp.int32))


@pytest.mark.quick
@pytest.mark.parametrize("channels", [1, 5])
def test_each_channel_is_augmented_alone(channels):
    options = {"size": 8, "jitter_p": 0.0, "gray_p": 0.0, "solarize_p": 1.0}
    image = jax.random.randint(jax.random.key(3), (12, 10, 5), 0, 256).astype(jnp.uint8)
    key = jax.random.key(5)
    three = augment.make_views("byol", **options)(key, image[..., :3])
    found = augment.make_views("byol", channels=channels, **options)(key, image[..., :channels])
    assert found.shape == (2, 8, 8, channels)
    shared = min(3, channels)
    np.testing.assert_allclose(found[..., :shared], three[..., :shared], atol=1e-6)
    last = augment.make_views("byol", channels=1, **options)(
        key, image[..., channels - 1 :][..., :1]
    )
    np.testing.assert_allclose(found[..., -1:], last, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("simclr", {}, r"colour jitter and conversion to grey.*data.channels=5. Type "
         r"--config.augment.options.jitter_p=0 --config.augment.options.gray_p=0\."),
        ("simclr", {"gray_p": 0.0}, r"has colour jitter, .* Type [^ ]*jitter_p=0\."),
        ("byol", {"jitter_p": (0.0, 0.5), "gray_p": 0}, r"Type [^ ]*jitter_p=0\."),
        ("noisy_student", {}, r"RandAugment or AutoAugment, .*policy_ops=0\."),
        ("crop_flip", {"cutout_pad": 2}, r"a square of grey, .*cutout_pad=0\."),
    ],
)  # fmt: skip
def test_operations_on_colours_are_refused_by_name_for_other_channels(name, options, expected):
    with pytest.raises(UserError, match=expected):
        augment.make_views(name, size=8, channels=5, **options)
    with pytest.raises(ValueError, match=r"An image is \[H,W,5\]; found \[8, 8, 3\]"):
        augment.make_views("crop_flip", size=8, channels=5)(jax.random.key(0), np.zeros((8, 8, 3)))
