"""The configs that come with jssl: in the wheel, by name, from any folder."""

import pytest
from helpers import ROOT, get_config

from jssl import config as config_lib
from jssl import main, shipped
from jssl.errors import UserError
from jssl.run import config_file


def test_the_package_holds_every_config_of_the_checkout():
    """Where the tests run against an installed wheel, these are the files inside it."""
    expected = {p.relative_to(ROOT / "configs"): p for p in ROOT.glob("configs/**/*.py")}
    found = {p.relative_to(shipped.CONFIGS): p for p in shipped.CONFIGS.glob("**/*.py")}
    assert found.keys() == expected.keys() and len(found) > 40
    for name, path in expected.items():
        assert found[name].read_bytes() == path.read_bytes(), name


def test_the_configs_are_listed_with_their_purpose(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main.main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    purposes = dict(line.split(maxsplit=1) for line in lines if line)
    for name in shipped.names():
        assert purposes[name] == shipped.purpose(name)
        assert purposes[name][-1:] == ".", f"{name}: its first line is no sentence"
        assert len(purposes[name]) <= 100
    assert "--config=NAME" in lines[-1]


@pytest.mark.parametrize("switches", ["", ":smoke", ":smoke,size=64"])
def test_a_name_works_from_any_folder_and_so_does_a_path(switches, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simclr_photos").mkdir()  # the workdir of that run, perhaps
    found = config_lib.flatten(config_file.load(f"simclr_photos{switches}"))
    assert found == config_lib.flatten(get_config("simclr_photos", switches[1:]))


def test_the_commands_take_a_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main.main(["config", "--config=byol_photos:smoke", "--config.seed=3"])
    out = capsys.readouterr().out
    assert "method = 'byol'" in out and "seed = 3" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("simclr_foto", "Unknown config 'simclr_foto': did you mean 'simclr_photos'?"),
        ("simclr_foto:smoke", "`jssl configs` lists all; a config file of your own ends in .py"),
        ("configs/simclr_photos.py:smoke", "Type --config=simclr_photos, which comes with jssl."),
        ("./simclr_photos", "There is no config file 'simclr_photos' here"),
        ("simclr_photos:smok", "Unknown switch ':smok': did you mean 'smoke'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        config_file.load(text)
    assert expected in str(error.value)
