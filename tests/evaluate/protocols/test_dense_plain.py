"""What detection and segmentation train on which network."""

from types import SimpleNamespace

import pytest
from helpers import get_config

from jssl.errors import UserError
from jssl.evaluate.context import Settings
from jssl.evaluate.probes.dense_training import dense_config
from jssl.evaluate.protocols import dense


def context(name, *, size=224, method="supervised"):
    config = get_config(f"{method}_photos")
    config.model.name, config.augment.size = name, size
    config.model.stage_sizes, config.model.stem = (), "imagenet"
    return SimpleNamespace(config=config, settings=Settings())


@pytest.mark.parametrize(("chosen", "net", "expected"), [
    (dense.DETECTION, "resnet50", [("faster_rcnn", "")]),
    (dense.DETECTION, "alexnet", [("fast_rcnn", "fc6-8"), ("fast_rcnn", "all")]),
    (dense.DETECTION, "vgg16", [("fast_rcnn", "fc6-8"), ("fast_rcnn", "all")]),
    (dense.SEGMENTATION, "resnet50", [("fcn", "")]),
    (dense.SEGMENTATION, "alexnet", [("fcn32s", "fc6-8"), ("fcn32s", "all")]),
])  # fmt: skip
def test_each_network_has_its_trainings(chosen, net, expected):
    own = context(net)
    assert dense.needs(chosen, own) == "hours on VOC: ask for it by name"
    found = dense._trainings(chosen, own)
    assert [(each.method, each.name) for each in found] == expected
    assert all(each.updates.get("trained", "") == each.name for each in found)


@pytest.mark.parametrize(("chosen", "net", "size", "message"), [
    (dense.SEGMENTATION, "vgg16", 224, "found vgg16, whose layers FCN-32s does not have here"),
    (dense.DETECTION, "alexnet", 64, "alexnet on pictures of 224 px, .* found 64 px"),
    (dense.DETECTION, "vit_tiny", 224, "a ResNet or alexnet or vgg16, found model.name 'vit_tiny'"),
])  # fmt: skip
def test_other_networks_are_refused(chosen, net, size, message):
    with pytest.raises(UserError, match=f"'{chosen.name}' needs .*{message}"):
        dense.run(chosen, context(net, size=size))


def test_runs_of_the_methods_are_judged():
    own = context("alexnet", method="fast_rcnn")
    assert dense.needs(dense.DETECTION, own) == ""
    assert dense.needs(dense.SEGMENTATION, own) == "a run of fcn or fcn32s"
    with pytest.raises(UserError, match="judges a run of fcn or fcn32s, .*a run of fast_rcnn"):
        dense.run(dense.SEGMENTATION, own)


def test_proposals_lie_where_their_archive_unpacks(monkeypatch, tmp_path):
    own = context("alexnet")
    own.folder, own.state = tmp_path, SimpleNamespace(step=3)
    monkeypatch.setattr("jssl.run.pretrained.as_trained", lambda config, name: None)

    def made(method, preset, **settings):
        own.settings = Settings(**settings)
        return dense_config(own, method, preset, kind="trained", seed=0)

    config = made("fast_rcnn", "voc", data_dir="/data")
    assert config.fast_rcnn.proposals == "/data/selective_search_data"
    assert (config.data.train_split, config.data.test_split) == ("2007/trainval", "2007/test")
    config = made("fast_rcnn", "voc", source="folder", data_dir="/data")
    assert (config.data.train_split, config.data.test_split) == ("", "")
    assert made("fast_rcnn", "voc", source="cutouts").fast_rcnn.proposals == "anchors"
