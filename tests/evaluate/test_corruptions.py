"""Corruptions against numpy, scipy, scikit-image and PIL, after the official make_imagenet_c.py."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import skimage.filters
from PIL import Image

from jssl import evaluate
from jssl.augment.corruptions import CONSTANTS
from jssl.errors import UserError

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    """Blobs of colour with noise, from black to white, two images of 26 x 30."""
    rng = np.random.default_rng(0)
    blobs = scipy.ndimage.gaussian_filter(rng.normal(size=(2, 26, 30, 3)), (0, 3, 3, 0)) * 900
    x = np.clip(blobs + rng.normal(size=blobs.shape) * 20 + 128, 0, 255).astype(np.uint8)
    assert x.min() == 0 and x.max() == 255
    return x


def corrupted(images, name, severity=3, constants="imagenet", **options):
    out = evaluate.regenerate(
        KEY, jnp.asarray(images), name=name, severity=severity, constants=constants, **options
    )
    assert out.shape == images.shape and out.dtype == jnp.uint8
    return np.asarray(out).astype(int)


def cut(x):
    """Cut to integers; what is below one by a rounding error is one, as in the library.

    Integers are common: with the weights of a small disk, one value in 29 is one.
    """
    return np.floor(np.clip(x, 0, 1) * 255 + 1e-4).astype(int)


def assert_same_but_for_the_cut(found, expected):
    """float32 against float64: a value on the edge of an integer may fall to either side."""
    assert np.max(np.abs(found - expected)) <= 1
    assert np.mean(found != expected) < 0.002


def draws(sample, count=2):
    """The random numbers of each image, by the rule that the docstring promises."""
    return np.array([sample(jax.random.fold_in(KEY, i), (26, 30, 3)) for i in range(count)])


@pytest.mark.parametrize(
    ("constants", "name"),
    [(t, n) for t in CONSTANTS for n in ("contrast", "brightness", "gaussian_noise")],
)
def test_pointwise_by_numpy(images, constants, name):
    x = images / 255.0
    for severity in (1, 5):
        c = CONSTANTS[constants][name][severity - 1]
        if name == "contrast":
            mean = x.mean(axis=(1, 2), keepdims=True)
            expected = (x - mean) * c + mean
        elif name == "brightness":
            hsv = skimage.color.rgb2hsv(x)
            hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
            expected = skimage.color.hsv2rgb(hsv)
        else:
            expected = x + c * draws(jax.random.normal)
        found = corrupted(images, name, severity, constants)
        assert_same_but_for_the_cut(found, cut(expected))


def test_other_noises_by_numpy(images):
    x = images / 255.0
    normal, uniform = draws(jax.random.normal), draws(jax.random.uniform)
    assert_same_but_for_the_cut(corrupted(images, "speckle_noise"), cut(x + 0.35 * x * normal))
    expected = np.where(uniform < 0.045, 0.0, np.where(uniform < 0.09, 1.0, x))
    assert_same_but_for_the_cut(corrupted(images, "impulse_noise"), cut(expected))


def test_noise_has_the_moments_of_its_constants():
    """On flat grey: poisson(60 x) / 60 has variance x / 60; 3 % of salt and pepper, half each.

    Bounds of five standard errors of 30,000 numbers.
    """
    grey = np.full((4, 50, 50, 3), 51, np.uint8)  # .2: 5.3 standard deviations of shot from 1
    shot = corrupted(grey, "shot_noise", 1) / 255
    assert abs(shot.mean() - 0.2 + 0.5 / 255) < 0.5 / 255 + 5 * np.sqrt(0.2 / 60 / 30000)
    assert shot.var() == pytest.approx(0.2 / 60, rel=5 * np.sqrt((2 + 1 / 12) / 30000))
    assert np.all(np.abs(shot * 60 - np.round(shot * 60 + 0.12)) < 0.25)  # multiples of 1/60
    impulse = corrupted(grey, "impulse_noise", 1)
    for value in (0, 255):
        assert abs(np.mean(impulse == value) - 0.015) < 5 * np.sqrt(0.015 / 30000)
    assert np.mean(impulse == 51) > 0.96


def test_constants_are_the_authors():
    """Severity 1 and 5 as make_imagenet_c.py and make_cifar_c.py have them, read once more."""
    ends = {
        "imagenet": {
            "gaussian_noise": (0.08, 0.38),
            "shot_noise": (60, 3),
            "impulse_noise": (0.03, 0.27),
            "speckle_noise": (0.15, 0.6),
            "defocus_blur": ((3, 0.1), (10, 0.5)),
            "gaussian_blur": (1, 6),
            "brightness": (0.1, 0.5),
            "contrast": (0.4, 0.05),
            "pixelate": (0.6, 0.25),
            "jpeg_compression": (25, 7),
        },
        "cifar": {
            "gaussian_noise": (0.04, 0.1),
            "shot_noise": (500, 50),
            "impulse_noise": (0.01, 0.07),
            "speckle_noise": (0.06, 0.2),
            "defocus_blur": ((0.3, 0.4), (1.5, 0.1)),
            "gaussian_blur": (0.4, 1),
            "brightness": (0.05, 0.3),
            "contrast": (0.75, 0.15),
            "pixelate": (0.95, 0.65),
            "jpeg_compression": (80, 40),
        },
    }
    found = {t: {n: (c[0], c[4]) for n, c in names.items()} for t, names in CONSTANTS.items()}
    assert found == ends


def test_results_do_not_depend_on_the_batch_size(images):
    whole = corrupted(images, "gaussian_noise")
    second = corrupted(images[1:], "gaussian_noise", first=1)
    # Another batch size is another program: a value may round to the level beside it.
    np.testing.assert_allclose(whole[1:].astype(int), second.astype(int), atol=1)
    assert np.mean(whole[1:] != second) < 1e-3
    assert np.mean(corrupted(images[1:], "gaussian_noise") != second) > 0.5


@pytest.mark.parametrize("severity", [1, 3])
def test_gaussian_blur_by_scikit_image(images, severity):
    sigma = CONSTANTS["imagenet"]["gaussian_blur"][severity - 1]
    expected = [skimage.filters.gaussian(x / 255.0, sigma=sigma, channel_axis=-1) for x in images]
    found = corrupted(images, "gaussian_blur", severity)
    assert_same_but_for_the_cut(found, cut(np.array(expected)))


@pytest.mark.parametrize(
    ("constants", "severity", "radius", "sigma"),
    [("imagenet", 1, 3, 0.1), ("imagenet", 5, 10, 0.5), ("cifar", 5, 1.5, 0.1)],
)
def test_defocus_by_scipy(images, constants, severity, radius, sigma):
    """A disk blurred by a Gaussian of 3 x 3 (5 x 5 above radius 8), as OpenCV's borders reflect."""
    line = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
    across, down = np.meshgrid(line, line)
    disk = (across**2 + down**2 <= radius**2) / np.sum(across**2 + down**2 <= radius**2)
    reach = 1 if radius <= 8 else 2
    soft = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        disk = scipy.ndimage.correlate1d(disk, soft / soft.sum(), axis=axis, mode="mirror")
    expected = scipy.ndimage.correlate(images / 255.0, disk[None, :, :, None], mode="mirror")
    found = corrupted(images, "defocus_blur", severity, constants)
    assert_same_but_for_the_cut(found, cut(expected))


@pytest.mark.parametrize(
    ("constants", "severity"), [("imagenet", 1), ("imagenet", 5), ("cifar", 3)]
)
def test_pixelate_by_pil(images, constants, severity):
    """PIL's weights are fixed-point numbers: at half an integer its rounding may go either way."""
    c = CONSTANTS[constants]["pixelate"][severity - 1]
    found = corrupted(images, "pixelate", severity, constants)
    for one, image in zip(found, images, strict=True):
        small = Image.fromarray(image).resize((int(30 * c), int(26 * c)), Image.Resampling.BOX)
        expected = np.asarray(small.resize((30, 26), Image.Resampling.BOX)).astype(int)
        assert np.max(np.abs(one - expected)) <= 1
        assert np.mean(one != expected) < 0.02


def test_jpeg_by_pil(images):
    file = io.BytesIO()
    Image.fromarray(images[1]).save(file, "JPEG", quality=15)
    found = corrupted(images, "jpeg_compression", 3)
    np.testing.assert_array_equal(found[1], np.asarray(Image.open(file)))


@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("name", ["contrast", "jpeg_compression", "impulse_noise"])
def test_every_severity_is_worse_than_the_one_before(images, constants, name):
    one = images[:1].astype(int)
    apart = [np.mean((corrupted(images[:1], name, s, constants) - one) ** 2) for s in range(1, 6)]
    assert np.all(np.diff([0, *apart]) > 0)


def test_errors_of_a_net_by_a_loop(images):
    """A net that looks at the mean: contrast keeps it, brightness moves it over the edge."""
    labels = np.array([0, 1])
    dim = np.stack([images[0] // 4, images[1] // 4 + 190])

    def predict(x):
        return (np.asarray(x).mean(axis=(1, 2, 3)) > 60).astype(int)

    options = {"key": KEY, "constants": "imagenet"}
    names = ["brightness", "contrast"]
    found = evaluate.regenerated_errors(predict, dim, labels, names=names, **options)
    assert list(found) == ["clean", "regenerated/brightness", "regenerated/contrast"]
    expected = [
        np.mean(predict(corrupted(dim, "brightness", severity)) != labels)
        for severity in range(1, 6)
    ]
    assert 0 == expected[0] < expected[4]
    np.testing.assert_array_equal(found["regenerated/brightness"], expected)
    np.testing.assert_array_equal(found["regenerated/contrast"], np.zeros(5))
    small = evaluate.regenerated_errors(predict, dim, labels, names=names, batch_size=1, **options)
    np.testing.assert_array_equal(found["regenerated/brightness"], small["regenerated/brightness"])
    with pytest.raises(UserError, match="does not know 'regenerated/brightness'"):
        evaluate.mce({"regenerated/brightness": expected})
    with pytest.raises(ValueError, match="predict gave"):
        evaluate.regenerated_errors(lambda x: np.zeros(7), dim, labels, names=names, **options)


def test_misuse_is_refused(images):
    with pytest.raises(UserError, match="did you mean 'contrast'"):
        corrupted(images, "contrst")
    with pytest.raises(UserError, match="cifar has no corruption 'fog'"):
        corrupted(images, "fog", 1, "cifar")
    with pytest.raises(UserError, match="Choices: cifar, imagenet"):
        corrupted(images, "contrast", 1, "mnist")
    with pytest.raises(UserError, match="severity 1 to 5, found 6"):
        corrupted(images, "contrast", 6)
    with pytest.raises(ValueError, match="float32"):
        corrupted(images.astype(np.float32), "contrast")
