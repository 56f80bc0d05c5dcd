"""Supervised AlexNet and VGG-16, and random ones, on VOC and in retrieval."""

import json

import jax
import numpy as np
import pytest
from helpers import get_config
from runs import finished_run
from voc_files import write_voc_2007

from jssl import evaluate, optim
from jssl.config import to_json
from jssl.errors import UserError
from jssl.evaluate.probes import multilabel, voc_finetune
from jssl.evaluate.protocols import dense, retrieval


def small(name):
    """The config's network with a few channels, on classes that need no data."""
    config = get_config("supervised_imagenet", f"model={name}")
    config.model.width, config.augment.size = {"alexnet": 3 / 64, "vgg16": 1 / 32}[name], 64
    config.data.name, config.data.host_crop, config.data.workers = "photos", "", 0
    config.supervised.num_classes, config.batch_size, config.dtype = 16, 16, "float32"
    return config


def test_the_settings_are_torchvisions():
    for name in ("alexnet", "vgg16"):
        config = get_config("supervised_imagenet", f"model={name}")
        _, schedule = optim.build(config.optim, batch_size=256, steps_per_epoch=10, total_steps=900)
        found = [float(schedule(step)) for step in (0, 299, 301, 601)]
        np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
        assert (config.batch_size, config.optim.weight_decay) == (256, 1e-4)
        assert (config.model.name, config.model.sobel, config.model.dropout) == (name, False, 0.5)
    before = get_config("supervised_imagenet", "batch=1024")
    assert to_json(before) == to_json(get_config("supervised_imagenet"))
    with pytest.raises(UserError, match="':model=vgg'"):
        get_config("supervised_imagenet", "model=vgg")


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_the_protocols_of_the_rows_take_the_run(name, tmp_path, monkeypatch):
    config = small(name)
    run = finished_run(config, tmp_path / "run")
    context = evaluate.Context.load(run, evaluate.Settings())
    last = retrieval.map_name(context)
    assert last == {"alexnet": "conv5", "vgg16": "conv13"}[name]
    image = jax.ShapeDtypeStruct((1, 96, 160, 3), np.float32)  # not square, as in retrieval
    maps = jax.eval_shape(retrieval.conv_map(context.embed, last), context.state, image)
    assert maps.shape[1] < maps.shape[2] and maps.shape[3] == config.model.width * 512 // (
        2 if name == "alexnet" else 1
    )
    full = config.copy_and_resolve_references()
    full.augment.size = 224
    context.config.update(full)
    assert dense._unfit(dense.DETECTION, context) == ""
    if name == "vgg16":
        return
    monkeypatch.setattr(voc_finetune, "CROPS", 1)
    monkeypatch.setattr(multilabel, "RESAMPLES", 5)
    place = tmp_path / "voc"
    place.mkdir()
    settings = evaluate.Settings(data_dir=write_voc_2007(place), limit=3, epochs=1)
    (row,) = evaluate.evaluate_run(run, protocols=["voc_fc68"], settings=settings)
    assert list(row["numbers"]) == ["trained", "untrained"]
    assert all(len(number["average_precision"]) == 20 for number in row["numbers"].values())
    record = json.loads((run / "evaluation/dry_run/voc_fc68_limit_3.json").read_text())
    assert record["method"] == "supervised"
