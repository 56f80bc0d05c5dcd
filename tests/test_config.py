"""Configs: strict about keys, presets and switches, equal to their golden texts."""

import os
import re

import pytest
from helpers import ROOT, get_config

from jssl import config, methods
from jssl.errors import UserError

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "configs"


def text_of(c):
    return "".join(f"{k} = {v!r}\n" for k, v in config.flatten(c).items())


@pytest.mark.parametrize("name", NAMES)
def test_golden_config(name):
    """A changed number in a config is a changed experiment.

    When the change is meant, run `JSSL_UPDATE_GOLDEN=1 pytest tests/test_config.py`, look at the
    difference and commit it together with the change.
    """
    path, text = GOLDEN / f"{name}.txt", text_of(get_config(name))
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_of_configs(name):
    source = (ROOT / "configs" / f"{name}.py").read_text()
    for word in ("Paper:", "Data:", "Hardware:", "Command:", "Switches:"):
        assert word in source, f"{name} lacks '{word}'"
    assert "Target:" in source or "Numbers:" in source
    if "Target:" in source:
        assert "Not run here." in source
    assert f"--config=configs/{name}.py" in source
    small = get_config(name, "smoke")
    assert small.max_steps <= 6


@pytest.mark.parametrize("method", methods.names())
def test_every_method_has_a_photos_config_and_every_preset_applies(method):
    assert f"{method}_photos" in NAMES
    for preset in config.presets(method):
        assert config.base(method, preset=preset).preset == preset


def test_every_key_is_read_by_some_code():
    """A key that no code reads is a promise that nobody keeps."""
    code = "\n".join(
        path.read_text()
        for path in (ROOT / "jssl").rglob("*.py")
        if path.name not in ("config.py",)
    )
    # All words that are read, found once: a search for every key of every method takes a minute.
    forms = (r"\.(\w+)", r"[\[(]\"(\w+)\"", r"\b(\w+):", r"}(\w+)\"")
    read = {word for form in forms for word in re.findall(form, code)}
    for method in methods.names():
        flat = config.flatten(config.base(method, preset=next(iter(config.presets(method)))))
        for key in flat:
            leaf = re.sub(r"^(train|probe|test)_split$", "_split", key.split(".")[-1])
            if leaf in ("preset",) or key.startswith("augment.options"):
                continue
            assert leaf in read, f"no code reads config.{key}"


def test_unknown_method_preset_and_key_name_the_nearest():
    with pytest.raises(UserError, match="Unknown method 'simlcr': did you mean 'simclr'"):
        config.base("simlcr", preset="v1")
    with pytest.raises(UserError, match="no preset 'v3': did you mean 'v"):
        config.base("simclr", preset="v3")
    c = config.base("simclr", preset="v1")
    with pytest.raises(UserError, match="'config.optim.lrr': did you mean 'lr'"):
        config.apply(c, {"optim": {"lrr": 1.0}})
    with pytest.raises((AttributeError, KeyError)):
        c.simclr.temprature = 0.1


def test_switches_are_typed():
    s = config.switches("smoke,epochs=2.5,data=cifar10", smoke=False, epochs=1.0, data="x", n=3)
    assert (s.smoke, s.epochs, s.data, s.n) == (True, 2.5, "cifar10", 3)
    with pytest.raises(UserError, match="Unknown switch ':epoch': did you mean 'epochs'"):
        config.switches("epoch=3", epochs=1.0)
    with pytest.raises(UserError, match="':n' expects int, found 'two'. Type for example :n=3"):
        config.switches("n=two", n=3)


def test_the_paper_settings_are_the_papers():
    v1 = config.base("simclr", preset="v1")
    assert (v1.batch_size, v1.optim.lr, v1.optim.weight_decay) == (4096, 0.3, 1e-6)
    assert (v1.simclr.temperature, v1.simclr.proj_layers, v1.simclr.proj_dim) == (0.1, 2, 128)
    v2 = config.base("simclr", preset="v2")
    assert (v2.optim.lr, v2.optim.lr_scaling, v2.optim.weight_decay) == (0.1, "sqrt", 1e-4)
    assert v2.simclr.proj_layers == 3
    assert v2.optim.warmup_epochs == 0.05 * v2.epochs


def test_diff_names_each_key():
    a, b = config.base("simclr", preset="v1"), config.base("simclr", preset="v1")
    assert config.config_hash(a) == config.config_hash(b)
    b.optim.lr = 0.5
    assert config.diff(config.flatten(a), config.flatten(b)) == ["optim.lr: 0.3 -> 0.5"]
    assert config.config_hash(a) != config.config_hash(b)
