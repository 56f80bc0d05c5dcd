"""`jssl compile` end to end, on virtual CPU devices of this process."""

import json
from functools import partial

import pytest
from helpers import small_config

from jssl import flags
from jssl.compile import command, devices, lengths, roofline, step
from jssl.errors import UserError

KEYS = {"config", "devices", "batch", "memory", "flops", "bytes_accessed", "intensity",
        "collectives", "roofline", "compile_seconds", "least", "launch", "dtype"}  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fit.json"
    topology = devices.prepare("cpu:4")
    result = command.fit(small_config("simclr"), name="simclr", topology=topology, output=path)
    return result, json.loads(path.read_text()), command.report(result)


def test_record(fitted):
    result, written, _ = fitted
    assert written == json.loads(json.dumps(result))
    assert written.keys() >= KEYS
    assert written["devices"] == 4
    assert written["batch"] == {"per_device": 4, "global": 16}
    assert written["config"] == "simclr" and written["launch"] == "pmap"
    memory = written["memory"]
    assert memory["fits"] and memory["spare"] == memory["usable"] - memory["total"]
    parts = memory["arguments"] + memory["temporaries"] + memory["outputs"] - memory["alias"]
    assert memory["total"] == parts + memory["code"]
    # The donated state comes out where it went in: parameters and momenta once.
    assert memory["alias"] >= 2 * written["least"]["gradient_bytes"]
    assert written["intensity"] == written["flops"] / written["bytes_accessed"]
    assert written["roofline"]["run_steps"] == 1000  # 3,200 tiles in batches of 16, 5 epochs


def test_collectives_of_the_step(fitted):
    result = fitted[1]["collectives"]
    # Both views' embeddings of 16 examples, [16,2,128] float32, and their gradients back.
    assert result["all-gather"]["bytes"] == 16 * 2 * 128 * 4
    assert result["reduce-scatter"]["bytes"] == 16 * 2 * 128 * 4
    least = fitted[1]["least"]["gradient_bytes"]
    assert least <= result["all-reduce"]["bytes"] < 1.1 * least


def test_report(fitted):
    _, written, text = fitted
    assert "4 a device, 16 in all" in text
    assert "FITS" in text and "GiB to spare" in text
    roof = written["roofline"]
    assert f"{roof['images_per_second']:,.0f} images/s on each of 1 host(s)" in text
    assert "ESTIMATE" in text and "assumed" in text
    assert "all-reduce" in text and "compile time" in text
    tight = {**written, "memory": {**written["memory"], "fits": False, "spare": -(2**30)}}
    assert "DOES NOT FIT, 1.00 GiB too much" in command.report(tight)


def test_auto_finds_the_largest_batch(tmp_path, monkeypatch):
    def compile_step(config, topology, devices, *, effort):
        size = config.batch_size // len(devices)
        total = int(1e8 + 3e8 * size)
        return step.Compiled(roofline.judge("cpu", total, {}), 1.0, 1.0, {}, 0.0, "")

    monkeypatch.setattr(step, "compile_step", compile_step)
    result = command.fit(
        small_config("simclr"),
        name="simclr",
        topology=devices.prepare("cpu:4"),
        batch="auto",
        output=tmp_path / "auto.json",
    )
    # 4 GiB hold 1e8 + 3e8 b up to b = 13
    assert result["batch"] == {"per_device": 13, "global": 52, "auto": True}
    assert result["memory"]["total"] == int(1e8 + 3e8 * 13)


@pytest.fixture
def no_compiling(monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled; expected a refusal before")

    monkeypatch.setattr(step, "compile_step", refuse)


def refused(tmp_path, *, topology="cpu:4", batch="", examples=0, effort=0.0, **updates):
    with pytest.raises(UserError) as error:
        command.fit(
            small_config("simclr", **updates),
            name="simclr",
            topology=devices.prepare(topology),
            batch=batch,
            examples=examples,
            effort=effort,
            output=tmp_path / "fit.json",
        )
    assert not list(tmp_path.iterdir())
    return str(error.value)


def test_indivisible_batches_are_refused_before_compiling(tmp_path, no_compiling):
    message = refused(tmp_path, batch_size=18)
    assert "Global batch size 18 cannot be split over 4 devices" in message
    assert "Launch mode 'jit' uses one device, the topology has 4" in refused(
        tmp_path, launch="jit"
    )
    assert "expected a number of examples a device, or auto" in refused(tmp_path, batch="many")
    assert "larger than the 8 training examples" in refused(tmp_path, examples=8)
    assert "has 4 CPU device(s)" in refused(tmp_path, topology="cpu:64")
    assert "Leave out --effort." in refused(tmp_path, effort=-1.0)
    assert "from -1 to 0, found -1.5" in refused(tmp_path, effort=-1.5)


def test_a_compiler_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    for text, extra in (("v5e:4x8", "fit-tpu"), ("h100:8", "fit-gpu")):
        with pytest.raises(UserError) as error:
            devices.prepare(text)
        assert f"Type pip install 'jssl[{extra}]'" in str(error.value)


def test_effort_and_its_record_reach_the_compiler(tmp_path, monkeypatch):
    given = []

    def compile_step(config, topology, devices, *, effort):
        given.append(effort)
        return step.Compiled(roofline.judge("cpu", 1, {}), 1.0, 1.0, {}, 2.0, "")

    monkeypatch.setattr(step, "compile_step", compile_step)
    monkeypatch.setattr(devices, "check_effort", lambda *_: None)  # a CPU stands for the TPU
    run = partial(command.fit, small_config("simclr"), name="simclr")
    run = partial(run, topology=devices.prepare("cpu:4"), output=tmp_path / "fit.json")
    quick, usual = run(effort=-1.0), run()
    assert given == [-1.0, 0.0]
    assert quick["effort"] == -1.0 and "effort" not in usual
    assert "2 s with effort -1; a run has 0" in command.report(quick)
    assert "effort" not in command.report(usual)


def test_the_command_is_listed():
    assert "jssl compile" in flags.usage()
    assert flags.ALIASES["fit"] == "compile"


def test_imagenet_is_known_without_its_data():
    config = small_config("supervised")
    config.data.name = "imagenet2012"
    config.data.data_dir = "/nowhere"
    config.supervised.num_classes = 0
    lengths.set_lengths(config, 0)
    assert config.run.num_examples == 1_281_167
    assert config.supervised.num_classes == 1000
