"""`jssl.train(data=OBJECT)`: runs on a Python object."""

import jax
import numpy as np
import pytest

import jssl
from jssl import data, main
from jssl.data.photos import load
from jssl.errors import UserError


class Items(list):
    """Like a torch Dataset."""


def tiles(count):
    """Pictures of two classes by turns, with their labels."""
    images, labels = load("train", 32)
    rows = [np.flatnonzero(labels == i % 2)[5 * i] for i in range(count)]
    return [(images[row], int(labels[row])) for row in rows]


def options(tmp_path, **settings):
    network = {"model.width": 0.25, "model.stage_sizes": (1, 1), "batch_size": 8,
               "checkpoint.every_steps": 2, "log.every_steps": 1, "final.enabled": False,
               "monitor.every_epochs": 0.0}  # fmt: skip
    return {"method": "supervised", "workdir": tmp_path / "run", "size": 32, "epochs": 2,
            "settings": {**network, **settings}}  # fmt: skip


def test_a_run_trains_resumes_exactly_and_is_evaluated(tmp_path, capsys):
    items = Items(tiles(16))
    given = {"train": items, "test": Items(tiles(8))}
    whole = jssl.train(data=given, **options(tmp_path / "whole"))
    assert whole.steps == 4 and whole.config.data.name == "python"
    assert "data     python:Items: 16 pictures, 2 classes; labels of the items" in (
        capsys.readouterr().out
    )
    part = jssl.train(data=given, **options(tmp_path / "part", max_steps=2))
    assert part.steps == 2
    rest = jssl.train(data=given, **options(tmp_path / "part", max_steps=0))
    assert rest.steps == 4 and rest.metrics["loss"] == whole.metrics["loss"]
    _, one = jssl.load_encoder(whole.workdir)
    _, two = jssl.load_encoder(rest.workdir)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    other = Items([(255 - image, label) for image, label in items])
    with pytest.raises(UserError, match="another data set's fingerprint"):
        jssl.train(data=other, **options(tmp_path / "part", max_steps=0))
    for command in (["evaluate", "--protocol=knn"], ["embed", f"--output={tmp_path / 'f.npz'}"]):
        with pytest.raises(UserError, match="'python' is a Python object.*--source=folder"):
            main.main([*command, f"--workdir={whole.workdir}"])
    with pytest.raises(UserError, match="holds a run on a Python object, found a folder"):
        main.main(["train", f"--data={tmp_path}", "--method=supervised",
                   f"--workdir={whole.workdir}"])  # fmt: skip
    with data.provided(given):
        jssl.evaluate.embed_run(
            whole.workdir, output=tmp_path / "f.npz", feature="backbone", split="train"
        )
    assert len(np.load(tmp_path / "f.npz")["labels"]) == 16


def test_mistakes_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="method='supervised' learns from labels, .* has 0 classes"):
        jssl.train(data=[x for x, _ in tiles(16)], **options(tmp_path))
    with pytest.raises(UserError, match="'python:list' is empty"):
        jssl.train(data=[], **options(tmp_path))
    with pytest.raises(UserError, match="holds 3 pictures: expected 8 or more"):
        jssl.train(data=tiles(3), **options(tmp_path))
    with pytest.raises(UserError, match="Found int as data"):
        jssl.train(data=7, **options(tmp_path))
    assert not (tmp_path / "run").exists()
