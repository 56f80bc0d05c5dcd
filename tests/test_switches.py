"""Every switch of every config, and what it changes: equal to their golden text."""

import os

import pytest
from helpers import ROOT, get_config

from jssl import config

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
RUN = ROOT / "tests" / "golden" / "workdir_8795ffb"  # some run, where a config looks into one
GOLDEN = ROOT / "tests" / "golden" / "switches"
# Values of the switches that are words. Every other switch is tried with one value of its type.
WORDS = {
    "arch": {
        "deepcluster_imagenet": ["vgg16"],
        "moco_imagenet": ["preset=v3_vit,arch=vit_base", "preset=v3_vit,arch=vit_large"],
    },
    "contrast": ["softmax", "in_batch", "nce"],
    "crops": ["2x224+6x96"],
    "data": {
        "cmc_five_views": ["FOLDER"],
        "cmc_video": ["FOLDER"],
        "beit_cifar": ["cifar10"],
        "beit_finetune_cifar": ["cifar10"],
        "simclr_imagenette": ["stl10"],
        "": ["cifar100"],
    },
    "distill": {
        "deit_imagenet": ["soft,teacher=RUN", "hard,teacher=RUN"],
        "deit_photos": ["none", "soft,teacher=RUN"],
    },
    "form": ["raw"],
    "graph": ["core", "full"],
    "init": ["RUN"],
    "jitter": ["paper"],
    "likelihood": ["squared_error"],
    "method": ["simclr", "deepcluster"],
    "model": {
        "deit_imagenet": ["tiny", "base"],
        "deit_cifar": ["small"],
        "supervised_imagenet": ["alexnet", "vgg16"],
        "": ["vit_large"],
    },
    "norm": ["l1"],
    "optim": ["sgd"],
    "preset": {
        "cmc_imagenet": ["v1", "v3", "alexnet"],
        "moco_imagenet": ["v1", "v3", "v3_vit"],
        "semi_imagenet": ["byol", "swav", "simclr,labels=10", "byol,labels=10", "swav,labels=10"],
        "simclr_imagenet": ["v2"],
    },
    "rand": ["tf", "autoaugment", "none"],
    "schedule": ["paper"],
    "shards": ["yfcc/*.tar"],
    "source": {
        "moco_v3_finetune": ["cifar10", "cifar100"],
        "": ["food101", "cifar10", "dtd"],
    },
    "start_from": ["RUN"],
    "student": ["b1", "b2", "b3", "b4", "b5", "b6", "b7", "l2"],
    "teacher": ["RUN"],
    "tokenizer": ["RUN"],
    "unlabeled": ["FOLDER"],
    "view": ["YCbCr"],
    "views": {"cmc_five_views": ["2", "3", "4"]},
    "epochs": {"byol_imagenet": ["300", "100", "40"]},
    "depth": {"": ["18"], "cpc_imagenet": ["50"], "byol_imagenet": ["200"]},
    "k": ["500"],
    "labels": {"semi_imagenet": ["10"], "": ["0.5"]},
}


def switches_of(name):
    """The switches of a config file and their defaults, as it gives them to `config.switches`."""
    seen = {}

    def remembered(arg, **defaults):
        seen.update(defaults)
        return original(arg, **defaults)

    original = config.switches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "switches", remembered)
        get_config(name)
    return seen


def arguments(name):
    """What is typed after the colon, for each switch."""
    for switch, default in switches_of(name).items():
        words = WORDS.get(switch)
        if isinstance(words, dict):
            words = words.get(name, words.get(""))
        if words is None:
            words = ["false" if default else "true"] if isinstance(default, bool) else None
        if words is None:
            words = [type(default)(default * 2 or 8)]
        for value in words:
            if str(value) == str(default):
                continue
            yield value if str(value).startswith("preset=v3_vit,arch") else f"{switch}={value}"


@pytest.mark.parametrize("name", NAMES)
def test_golden_switches(name):
    """What each switch changes of a config. When a change is meant, update as test_config says."""
    plain = config.flatten(get_config(name))
    lines = []
    for arg in arguments(name):
        changed = config.flatten(get_config(name, arg.replace("=RUN", f"={RUN}")))
        rows = [
            f"  {key} = {changed.get(key)!r}\n".replace(str(RUN), "RUN")
            for key in sorted({*plain, *changed})
            if plain.get(key) != changed.get(key)
        ]
        assert rows, f"{name}:{arg} changes nothing"
        lines += [f"{name}:{arg}\n", *rows]
    path, text = GOLDEN / f"{name}.txt", "".join(lines)
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
