"""The prepare command, without TensorFlow and without a network."""

import importlib.util
import subprocess
import sys
from unittest import mock

import pytest

from jssl.data.prepare import main, prepare
from jssl.data.tfds_source import make_builder
from jssl.errors import UserError


@pytest.fixture
def with_tensorflow(monkeypatch):
    result = importlib.util.find_spec
    stub = lambda name, *a: object() if name == "tensorflow" else result(name, *a)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", stub)


def fake_download(name, folder):
    """Replaces the one method that would use the network."""
    kind = type(make_builder(name, str(folder)))
    return mock.patch.object(kind, "download_and_prepare", autospec=True)


def test_downloads_into_the_data_dir_as_array_record(tmp_path, with_tensorflow, capsys):
    with fake_download("cifar10", tmp_path) as download:
        assert main(["cifar10", f"--data_dir={tmp_path}"]) == 0
    (((builder,), _),) = download.call_args_list
    assert builder.name == "cifar10" and str(builder.data_dir).startswith(str(tmp_path))
    assert builder.info.file_format.value == "array_record"
    out = capsys.readouterr().out
    assert f"--config.data.name=cifar10 --config.data.data_dir={tmp_path}" in out


def test_catalogue_names_have_their_variant(tmp_path, with_tensorflow):
    with fake_download("imagenette", tmp_path):
        assert prepare("imagenette", str(tmp_path)).endswith("imagenette/160px-v2/1.0.0")


def test_prepared_data_sets_are_not_changed(tmp_path, monkeypatch):
    builder = make_builder("cifar10", str(tmp_path))
    monkeypatch.setattr(type(builder), "is_prepared", lambda self: True)
    with fake_download("cifar10", tmp_path) as download:
        assert prepare("cifar10", str(tmp_path)) == str(builder.data_dir)
    download.assert_not_called()


def test_missing_tensorflow_is_explained(tmp_path, monkeypatch, capsys):
    result = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "tensorflow" else result(name, *a),
    )
    assert main(["cifar10", f"--data_dir={tmp_path}"]) == 2
    assert "Type pip install 'jssl[prepare]'" in capsys.readouterr().err


def test_unknown_names(capsys):
    assert main(["cifar11"]) == 2
    error = capsys.readouterr().err
    assert "Unknown data set 'cifar11': did you mean 'cifar10" in error
    assert "Traceback" not in error
    assert main([]) == 2
    assert "No data set was named" in capsys.readouterr().err
    assert main(["imagenette/170px"]) == 2
    assert "did you mean 'imagenette/160px" in capsys.readouterr().err


def test_embedded_data_sets_need_no_preparing():
    for name in ("photos", "digits", "synthetic", "folder"):
        with pytest.raises(UserError, match=f"'{name}' needs no preparing"):
            prepare(name)


def test_manual_downloads_are_explained(tmp_path, with_tensorflow):
    with fake_download("imagenet2012", tmp_path) as download:
        download.side_effect = AssertionError(
            "Manual directory ... does not exist: put files there"
        )
        with pytest.raises(
            UserError, match="'imagenet2012' cannot be downloaded by a program. Man"
        ):
            prepare("imagenet2012", str(tmp_path))
        download.side_effect = AssertionError("a bug")
        with pytest.raises(AssertionError, match="a bug"):
            prepare("imagenet2012", str(tmp_path))


def test_list(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out.split()
    assert {"cifar10", "stl10", "imagenet2012", "food101", "svhn_cropped"} <= set(out)


def test_it_runs_as_a_module_without_a_warning():
    command = [sys.executable, "-W", "error", "-m", "jssl.data.prepare", "photos"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("Type --config.data.name=photos to use it.")
    assert len(done.stderr.strip().splitlines()) == 1
