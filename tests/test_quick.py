"""`jssl train --data=DIR --method=NAME` and `jssl.train(data=...)`: no config file."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import jssl
from jssl import main, methods
from jssl.data.photos import load
from jssl.errors import UserError
from jssl.run import build, chosen, quick, timed

CPU = chosen.Device("cpu", "cpu", 1, 0.0, 2)
GPU = chosen.Device("gpu", "NVIDIA A100", 1, 40.0, 16)
TRAINED = [
    name
    for name in methods.names()
    if name not in chosen.REFUSED and not methods.get(name).data.dense
]


def write(folder, tiles):
    folder.mkdir(parents=True)
    for i, tile in enumerate(tiles):
        Image.fromarray(tile).save(folder / f"{i}.jpg", quality=95)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes of 20 pictures of 96 px."""
    images, labels = load("train", 96)
    root = tmp_path_factory.mktemp("pictures") / "mine"
    for number in range(2):
        write(root / f"class {number}", images[labels == number][:20])
    return root


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """24 pictures without classes: loose, in a folder, and in a folder in that."""
    images, root = load("train", 32)[0], tmp_path_factory.mktemp("pictures") / "loose"
    for number, folder in enumerate((root, root / "a", root / "a" / "b")):
        tiles = images[8 * number : 8 * number + 8]
        if number:
            write(folder, tiles)
        else:
            write(root, tiles)
    return root


def refused(*words):
    with pytest.raises(UserError) as error:
        main.main(["train", *words])
    return str(error.value)


@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("method", TRAINED)
def test_the_choice_for_every_method_is_a_run(method, device, pictures):
    config, lines = quick.choose(quick.Asked(str(pictures), method), device)
    config.launch = "jit"
    parts = build.build(config)
    sizes = build.blank_batch(config, config.batch_size)
    state = jax.eval_shape(lambda: build.first_state(config, parts.method, config.batch_size))
    assert len(lines) == 5
    if device is CPU:
        new, values = jax.eval_shape(parts.method.train_step, state, sizes)
        assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, state)
        assert "loss" in values
    assert (config.dtype, config.data.workers) == (
        ("float32", 0) if device is CPU else ("bfloat16", 8)
    )
    assert parts.steps_per_epoch >= 4 and parts.train_source.num_classes == 2


@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b0", "vit_tiny", "regnety_400mf"])
@pytest.mark.parametrize("size", [32, 128])
def test_a_network_of_ones_own(model, size, pictures):
    if model not in {*chosen.DEPTHS, *chosen.SIZES, *chosen.VIT_SIZES}:
        with pytest.raises(UserError, match="Unknown --model"):
            quick.choose(quick.Asked(str(pictures), "simclr", model), CPU)
        return
    config, _ = quick.choose(quick.Asked(str(pictures), "simclr", model, size), CPU)
    parts = build.build(config)
    images = jax.ShapeDtypeStruct((2, size, size, 3), np.uint8)
    state = jax.eval_shape(lambda: build.first_state(config, parts.method, 8))
    features, _ = jax.eval_shape(parts.method.embed, state, images)
    assert features.shape[0] == 2 and config.model.name == model


def test_the_lines_say_what_why_and_how_to_change_it(pictures):
    config, lines = quick.choose(quick.Asked(str(pictures), "byol"), CPU)
    data, model, views, length, reading = lines
    assert "mine: 40 pictures, 2 classes, 4 held out for the numbers" in data
    assert "--labels=none" in data
    assert "resnet8, width 0.5, float32, for 1 x cpu, 2 cores (--model=NAME)" in model
    assert "64 px, random crops of the original" in views and "short sides of 96 to 96 px" in views
    assert f"{config.epochs:g} epochs of 4 steps of 8 pictures" in length and "--minutes" in length
    assert "threads" in reading and "byol_photos" in reading
    config, lines = quick.choose(quick.Asked(str(pictures), "byol"), GPU)
    assert "resnet18, bfloat16, for 1 x NVIDIA A100" in lines[1] and config.augment.size == 96


@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("first", "model"), [("simclr", None), ("moco", "resnet18"), ("byol", "vit_tiny")]
)
def test_a_run_that_starts_from_another_has_its_network(first, model, device, pictures, tmp_path):
    """Every parameter of the encoder fits, and what only the first method adds is left out."""
    source, _ = quick.choose(quick.Asked(str(pictures), first, model, 32), CPU)
    (tmp_path / "config.json").write_text(source.to_json())
    start = ("init_from", str(tmp_path))
    asked = quick.Asked(str(pictures), "supervised", size=32, settings=[start])
    config, lines = quick.choose(asked, device)
    assert f"to start from {tmp_path} (--model=NAME)" in lines[1]
    shapes = []
    for each in (source, config):
        parts = build.build(each)
        state = jax.eval_shape(lambda c=each, p=parts: build.first_state(c, p.method, 8))
        params, _ = methods.get(each.method).networks(state)["params"]
        shapes.append(jax.tree.map(lambda x: x.shape, params["encoder"]))
    assert shapes[0] == shapes[1] and config.model.bn_groups == 1
    asked = quick.Asked(str(pictures), "supervised", "resnet50", 32, settings=[start])
    assert quick.choose(asked, device)[0].model.name == "resnet50"


def test_a_large_folder_on_an_accelerator():
    many = chosen.Pictures("many", 1_000_000, 0, 500, "")
    assert (chosen.side(many, GPU), chosen.batch_of(many, GPU)) == (224, 256)
    assert chosen.batch_of(many, GPU._replace(gigabytes=16.0, number=3)) == 192
    assert chosen.epochs_of(3906, GPU) == 100


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data=p"], "--method is missing. Type --method=simclr."),
        (["--method=simclr"], "--data is missing. Type --data=pictures."),
        (["--data=p", "--method=simclr"], "--workdir is missing"),
        (["--data=p", "--method=simcl", "--workdir=w"], "did you mean 'simclr'?"),
        (["--data=p", "--method=simclr", "--workdir=w"], "Type --data=FOLDER."),
        (["--data=p", "--method=simclr", "--workdir=w", "--labels=no"], "did you mean 'none'?"),
        (["--data=p", "--method=deit", "--workdir=w", "--labels=none"], "learns from labels"),
        (["--data=p", "--method=beit", "--workdir=w"], "--data=p --method=dvae"),
        (["--data=p", "--method=fcn", "--workdir=w"], "--config=fcn_photos --config.data.name=f"),
        (["--data=p", "--method=noisy_student", "--workdir=w"], "several stages"),
        (["--data=p", "--method=simclr", "--workdir=w", "--size=50"], "--size=48"),
        (["--data=p", "--method=simclr", "--workdir=w", "--epochs=0"], "above 0, found 0"),
        (
            ["--data=p", "--method=simclr", "--workdir=w", "--epochs=2", "--minutes=1"],
            "expected one of them",
        ),
        (
            ["--data=p", "--method=simclr", "--workdir=w", "--config.epochs=3"],
            "--config.epochs has a flag of its own with --data: type --epochs=VALUE.",
        ),
        (["--config=simclr_photos", "--data=p"], "type --config.data.name=folder --config.data."),
        (["--config=simclr_photos", "--model=vit_tiny"], "type --config.model.name=vit_tiny."),
        (["--config=simclr_photos", "--size=64"], "type --config.augment.size=64."),
        (["--config=simclr_photos", "--epochs=5"], "type --config.epochs=5."),
        (["--config=simclr_photos", "--minutes=5"], "type --config.epochs=N."),
        (["--config=simclr_photos", "--labels=none"], "type --config.data.layout=nested."),
        (["--config=simclr_photos", "--method=byol"], "type --config=byol_photos, or another"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else "",
)
def test_mistakes_are_refused_and_nothing_is_written(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*words)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_a_method_cannot_use(unlabelled, pictures, tmp_path):
    run = [f"--workdir={tmp_path / 'w'}"]
    loose = f"--data={unlabelled}"
    assert "can be read in two ways" in refused(loose, "--method=simclr", *run)
    words = [f"--data={unlabelled / 'a' / 'b'}", *run]
    assert "learns from labels, but the pictures" in refused("--method=supervised", *words)
    assert "its own network" in refused(
        f"--data={pictures}", "--method=dvae", "--model=resnet18", *run
    )
    assert "trains a ViT" in refused(f"--data={pictures}", "--method=deit", "--model=vgg16", *run)
    write(tmp_path / "few", load("train", 32)[0][:3])
    few = refused(f"--data={tmp_path / 'few'}", "--method=simclr", *run)
    assert "holds 3 pictures: expected 8 or more" in few
    assert not (tmp_path / "w").exists()


def test_a_run_without_labels_and_its_resume(unlabelled, tmp_path, capsys):
    """Nested and loose pictures; then the same command goes on, another one is refused."""
    folder = tmp_path / "w"
    words = [f"--data={unlabelled}", "--method=simclr", "--labels=none", "--size=32",
             f"--workdir={folder}", "--config.log.tensorboard=False",
             "--config.final.enabled=False", "--config.model.stage_sizes=(1,)"]  # fmt: skip
    main.main(["train", *words, "--epochs=1"])
    assert "24 pictures, no classes" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["layout"] == "nested" and config["run"]["num_examples"] == 24
    assert json.loads((folder / "chosen.json").read_text())["lines"][0].startswith("data ")
    main.main(["train", *words, "--epochs=1"])
    assert f"resumes the run in {folder}" in capsys.readouterr().out
    assert "found --size=64" in refused(*words[:3], "--size=64", *words[4:])
    assert "found --method=byol" in refused(words[0], "--method=byol", *words[2:])
    assert "found --minutes=3" in refused(*words, "--minutes=3")
    assert "epochs: 1.0 -> 2.0" in refused(*words, "--epochs=2")
    assert "Type --epochs=N with N above 1" in refused(*words, "--epochs=1", "--extend")
    main.main(["train", *words, "--epochs=2", "--extend"])
    assert json.loads((folder / "config.json").read_text())["epochs"] == 2.0


def test_minutes_decide_the_length_once(pictures, tmp_path, monkeypatch, capsys):
    measured = []

    def measure(parts):
        measured.append(parts)
        return timed.Speed(1.0, 0.1, 0.5, 7)

    monkeypatch.setattr(timed, "measure", measure)
    asked = quick.Asked(str(pictures), "simclr", size=32, minutes=1.0)
    config = quick.resolve(asked, tmp_path / "w")
    steps = config.run.steps_per_epoch
    # 51 seconds without those to look at the folder and to compile; an epoch takes 1 second
    assert steps == 4 and 45 <= config.epochs <= 62 and config.epochs.is_integer()
    record = json.loads((tmp_path / "w" / "chosen.json").read_text())
    assert record["minutes"] == 1.0 and record["epochs"] == config.epochs
    assert "--minutes=1: 0.1 s a step, measured over 7" in capsys.readouterr().out
    build.workdir.open_workdir(tmp_path / "w", build.build(config).config)
    again = quick.resolve(asked, tmp_path / "w")
    assert again.epochs == config.epochs and len(measured) == 1
    slow = timed.Speed(50.0, 1.0, 0.0, 3)
    monkeypatch.setattr(timed, "measure", lambda parts: slow)
    with pytest.raises(UserError, match=r"leaves no time to train.*--minutes=1\.2"):
        quick.resolve(asked, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_speed_is_measured_with_a_refresh(pictures, monkeypatch):
    monkeypatch.setattr(timed, "TIMED", (3, 4))
    settings = (("model.name", "resnet8"), ("model.stage_sizes", "(1,)"))
    asked = quick.Asked(str(pictures), "deepcluster", size=32, epochs=1)
    config, _ = quick.choose(asked, CPU)
    chosen.set_all(config, settings)
    speed = timed.measure(build.build(config))
    assert speed.steps in (3, 4) and min(speed.compiling, speed.step, speed.refresh) > 0


def test_train_in_python(pictures, tmp_path):
    """Twice in a process, with a result to go on with."""
    for epochs in (1, 2):
        folder = tmp_path / str(epochs)
        run = jssl.train(
            data=pictures,
            method="supervised",
            workdir=folder,
            size=32,
            epochs=epochs,
            settings={"seed": 7, "log.tensorboard": False, "model.stage_sizes": (1,)},
        )
        assert run.workdir == folder and run.config.method == "supervised"
        assert run.config.seed == 7 and run.config.log.tensorboard is False
        assert run.steps == epochs * run.config.run.steps_per_epoch
        assert np.isfinite(run.metrics["loss"])
    embed, state = jssl.load_encoder(run.workdir)
    features, named = embed(state, np.zeros((2, 32, 32, 3), np.uint8))
    assert features.shape[0] == 2 and named["logits"].shape == (2, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "jssl.train lacks data, method, workdir"),
        ({"data": "p", "method": "simclr"}, "lacks workdir"),
        ({"config": 1, "folder": "w", "data": "p"}, "found data"),
        ({"config": 1}, "one of config and folder"),
        ({"data": "p", "method": "simclr", "workdir": "w", "judged": True}, "judged is for a"),
        ({"data": "p", "method": "sim", "workdir": "w"}, "Unknown method 'sim'"),
    ],
)
def test_a_call_that_mixes_two_forms_is_refused(given, expected):
    with pytest.raises(UserError, match=expected):
        jssl.train(**given)
