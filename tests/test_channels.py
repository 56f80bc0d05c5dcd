"""Runs on pictures of one channel and of five: training, evaluation, Encoder, exports."""

import csv
import json

import jax
import numpy as np
import onnxruntime
import pytest
from convert.export_runs import config_of, drawn_run
from helpers import begun, made_up_run, small_config
from PIL import Image

import jssl
from jssl import augment, convert, data
from jssl.errors import UserError
from jssl.evaluate.context import Settings
from jssl.evaluate.predict import predict_run
from jssl.evaluate.run import evaluate_run
from jssl.run import build, checks, train, workdir

RNG = np.random.default_rng(0)
COLOURLESS = {"jitter_p": 0.0, "gray_p": 0.0}
FIVE = {"normalize": "own", "mean": (0.1, 0.2, 0.3, 0.4, 0.5), "std": (0.5,) * 5}


def config_of_arrays(folder, method, channels, **updates):
    """A run of two steps on random levels of 16 bits, of two classes."""
    for split, count in (("train", 24), ("test", 8)):
        levels = RNG.integers(0, 5000, (count, 32, 32, channels), dtype=np.uint16)
        np.savez(folder / f"{split}.npz", image=levels, label=np.arange(count) % 2)
    config = small_config(method, launch="jit", max_steps=2, batch_size=8, **updates)
    config.data.update(name="arrays", data_dir=str(folder), channels=channels, range=(0, 4095))
    config.augment.options.update(COLOURLESS)
    config.monitor.update(knn_k=3, every_epochs=0.0)
    if method == "supervised":
        config.supervised.num_classes = 0
    return config


def test_simclr_with_five_channels(tmp_path, capsys):
    config = config_of_arrays(tmp_path, "simclr", 5)
    config.augment.update(FIVE)
    state = train.train(config, tmp_path / "run")
    assert state.params["encoder"]["conv_init"]["kernel"].shape[2] == 5
    rows = evaluate_run(tmp_path / "run", protocols=["knn"], settings=Settings(k=3))
    assert rows[0]["numbers"]["trained"]["count"] == 8
    assert "24: levels outside data.range were clipped" in "".join(capsys.readouterr())

    encoder = jssl.Encoder(tmp_path / "run")
    assert encoder.channels == 5
    assert "5 channels, levels of 16 bits from 0..4095" in encoder.card["preprocessing"]
    levels = RNG.integers(0, 4095, (40, 36, 5), dtype=np.uint16)
    np.save(tmp_path / "a.npy", levels)
    from_file, from_array = encoder(tmp_path / "a.npy"), encoder(levels)
    np.testing.assert_array_equal(from_file, from_array)
    with pytest.raises(UserError, match=r"uint8 \[8,8,3\]: expected 5 channels, \[H,W,5\]"):
        encoder(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="mode 'RGB': expected 5 channels"):
        encoder(Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match="'robustness' needs .*data.channels=3, found 5"):
        evaluate_run(tmp_path / "run", protocols=["robustness"])


def grey_folder(folder):
    """Pictures of two classes and two splits, half of them grey."""
    for split, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(RNG.integers(0, 256, (36 + i, 40, 3), dtype=np.uint8))
                picture = picture.convert("L") if i % 2 else picture
                picture.save(folder / split / name / f"{i}.png")
    return folder


def test_supervised_with_one_channel(tmp_path, capsys):
    folder = grey_folder(tmp_path / "pictures")
    config = small_config("supervised", launch="jit", max_steps=2, batch_size=8)
    config.supervised.num_classes = 0
    config.data.update(name="folder", data_dir=str(folder), channels=1)
    config.augment.update(normalize="own", mean=(0.5,), std=(0.25,))
    config.monitor.update(knn_k=3, every_epochs=0.0)
    state = train.train(config, tmp_path / "run")
    assert state.params["encoder"]["conv_init"]["kernel"].shape[2] == 1
    protocols = ["knn", "classifier", "logistic"]
    evaluate_run(tmp_path / "run", protocols=protocols, settings=Settings(k=3))
    assert "8: colours became one grey channel" in "".join(capsys.readouterr())

    # Every way to the network gives the same: a file, Pillow's picture, and an array of its luma.
    paths = [folder / "train" / "cat" / f"{i}.png" for i in range(2)]
    encoder = jssl.Encoder(tmp_path / "run", feature="logits")
    logits = encoder(paths)
    np.testing.assert_array_equal(encoder([Image.open(path) for path in paths]), logits)
    lumas = [np.asarray(Image.open(path).convert("L"))[..., None] for path in paths]
    np.testing.assert_array_equal(encoder(lumas), logits)
    predict_run(
        tmp_path / "run", [*paths, tmp_path / "run" / "config.json"], output=tmp_path / "p.csv"
    )
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row["class_1"] for row in rows[:2]] == [("cat", "dog")[i] for i in logits.argmax(1)]
    assert rows[2]["error"]

    # The mean and deviation of the run are those of the network: a second way to the features.
    embed, state = build.load_encoder(tmp_path / "run")
    square = data.CentreCrop(32, 36)({"image": lumas[0]})["image"][None]
    normalised = embed(state, square)[1]["logits"]
    np.testing.assert_allclose(normalised[0], logits[0], atol=1e-5)
    config.augment.update(mean=(0.0,), std=(1.0,))
    method, _ = build.make_method(config, axis_name=None)
    by_hand = (square / np.float32(255) - 0.5) / 0.25
    np.testing.assert_allclose(method.embed(state, by_hand)[1]["logits"], normalised, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("cmc", "splits a picture into the channels of Lab"),
        ("cpc", "changes the colours of its patches"),
        ("predictive", "splits a picture into the channels of Lab"),
        ("dvae", "reconstructs red, green and blue"),
        ("beit", "tokens of a dVAE"),
    ],
)
def test_methods_of_colours_refuse_other_channels(method, why):
    config = small_config(method)
    config.data.channels = 1
    expected = (
        rf"'{method}' takes pictures of three channels.*{why}.*: found data.channels=1\. Type"
    )
    with pytest.raises(UserError, match=expected):
        build.build(config)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["simclr", "byol", "moco", "moco_v3", "vicreg",
                                    "deepcluster_v2"])  # fmt: skip
def test_methods_with_colour_operations_name_the_options(method):
    config = small_config(method)
    config.data.channels = 1
    with pytest.raises(UserError, match=r"colour jitter.*--config.augment.options.jitter_p=0"):
        build.build(config)
    config.augment.options.update(COLOURLESS)
    config.augment.update(normalize="none")
    parts = build.build(config)
    shapes = jax.eval_shape(parts.method.init, jax.random.key(0), build.blank_batch(config, 4))
    assert shapes.step.shape == ()


@pytest.mark.quick
@pytest.mark.parametrize("method", ["supervised", "deepcluster", "deit", "noisy_student"])
def test_other_methods_take_any_channels(method):
    config = small_config(method)
    config.data.channels = 1
    config.augment.options.update(COLOURLESS, policy_ops=0, cutout_pad=0)
    config.augment.update(normalize="half")
    if method == "deit":
        config.deit.distillation = "none"
    make, _ = build.make_method(config, axis_name=None)
    batch = build.blank_batch(config, config.batch_size)
    assert batch["image"].shape[-1] == 1
    shapes = jax.eval_shape(make.init, jax.random.key(0), batch)
    jax.eval_shape(make.embed, shapes, batch["image"])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ({"augment": {"normalize": "imagenet"}, "data": {"channels": 1}}, "is for red, green"),
        ({"augment": {"mean": (0.5,) * 3}}, "has numbers of its own"),
        ({"augment": {"normalize": "own"}}, "found 0 numbers in augment.mean"),
        ({"augment": {"mean": (0.5, 2, 0)}}, "--config.augment.mean expects .*found"),
        ({"augment": {"std": (0.5, 0.0, 0.5)}}, "--config.augment.std expects .*above 0"),
        ({"data": {"channels": 0}}, "--config.data.channels expects .*at least 1, found 0"),
        ({"data": {"range": (1, 2, 3)}}, "--config.data.range expects .*two levels"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_data_are_read(updates, expected):
    config = small_config("supervised")
    for section, values in updates.items():
        config[section].update(values)
    config.data.update(name="folder", data_dir="no_such_folder")
    with pytest.raises(UserError, match=expected):
        build.build(config)


@pytest.mark.quick
def test_older_workdirs_lack_the_keys(tmp_path):
    config = small_config("simclr")
    made_up_run(config, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    stored = workdir.read_json(path)
    for section, key in (("augment", "mean"), ("augment", "std"), ("data", "channels"),
                         ("data", "range")):  # fmt: skip
        del stored[section][key]
    path.write_text(json.dumps(stored))
    read = workdir.read_config(tmp_path / "run")
    assert (read.data.channels, tuple(read.data.range)) == (3, ())
    assert (tuple(read.augment.mean), tuple(read.augment.std)) == ((), ())
    checks.check(read)
    assert jssl.Encoder(tmp_path / "run").channels == 3


def test_a_network_for_other_channels_is_not_taken_over(tmp_path):
    made_up_run(small_config("simclr"), tmp_path / "three")
    config = small_config("supervised", init_from=str(tmp_path / "three"))
    config.data.channels = 1
    with pytest.raises(UserError, match="for pictures of 3 channels, this run has data.channels=1"):
        begun(config, tmp_path / "run")


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A run of five channels with drawn weights, and its config."""
    config = config_of("encoder", width=1.0)
    config.data.channels = 5
    config.augment.update(FIVE)
    config.augment.options.update(COLOURLESS)
    folder = tmp_path_factory.mktemp("runs") / "five"
    drawn_run(config, folder)
    return folder, config


def test_exports_have_the_channels_and_the_statistics(five, tmp_path):
    folder, config = five
    convert.export_run(folder, tmp_path / "net.onnx", "onnx")
    images = RNG.integers(0, 256, (2, 64, 64, 5), dtype=np.uint8)
    net = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    found = net.run(["features"], {"images": images})[0]
    expected = jssl.Encoder(folder)(images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    card = (tmp_path / "net.md").read_text()
    assert "* 5 channels, pixels divided by 255" in card
    assert "minus the mean [0.1, 0.2, 0.3, 0.4, 0.5]" in card

    convert.export_run(folder, tmp_path / "timm", "timm")
    content = workdir.read_json(tmp_path / "timm" / "config.json")
    assert content["model_args"]["in_chans"] == 5
    about = content["pretrained_cfg"]
    assert (about["input_size"], about["first_conv"]) == ([5, 64, 64], None)
    assert about["mean"] == [0.1, 0.2, 0.3, 0.4, 0.5]
    with pytest.warns(UserWarning, match="untrained here: classifier"):
        again = jssl.Encoder(tmp_path / "timm")
    np.testing.assert_allclose(again(images), expected, rtol=1e-5)
    assert again.channels == 5


@pytest.mark.quick
@pytest.mark.parametrize("form", ["hf", "detectron2"])
def test_formats_for_three_channels_are_refused_by_name(five, tmp_path, form):
    with pytest.raises(UserError, match=f"--format={form} is for pictures of three .*channels=5"):
        convert.export_run(five[0], tmp_path / "out.pkl", form)


@pytest.mark.quick
def test_statistics_of_a_file_without_a_name_are_kept(five, tmp_path):
    config = config_of("resnet10")
    config.augment.update(normalize="own", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    drawn_run(config, tmp_path / "run")
    convert.export_run(tmp_path / "run", tmp_path / "timm", "timm")
    read = convert.read_pretrained(tmp_path / "timm").config
    assert augment.statistics_of(read.augment) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
