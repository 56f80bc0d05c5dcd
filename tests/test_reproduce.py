"""docs/reproduce.md: every command is taken by the parser, every FLOP of its tables is counted."""

import re
import shlex

import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT

from jssl import evaluate, models
from jssl.compile import flops
from jssl.data.landmarks import SETS
from jssl.evaluate.protocols import retrieval
from jssl.flags import parse
from jssl.models.efficientnet import OFFICIAL
from jssl.models.vit import OFFICIAL as VIT
from jssl.run import config_file

PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = sorted(set(re.findall(r"`(jssl (?:evaluate|train|import|export) [^`]+)`", PAGE)))
# of the configs that do not train `supervised`
METHODS = {
    "cpc_imagenet": "cpc",
    "deit_cifar": "deit",
    "moco_v3_finetune": "deit",
    "beit_imagenet": "beit",
}
# workdirs that a command of the page trains
TRAINED = {w for c in COMMANDS if "jssl train" in c for w in re.findall(r"--workdir=(\S+)", c)}
SIMCLR = {"name": "resnet50", "shortcut": "always", "pool_padding": "same"}
CMC = {"name": "resnet50", "stem_width_fixed": True}
# name in the page -> model section, and the channels of each of the networks that see a picture
NETWORKS = {
    "resnet50": (SIMCLR, (3,)),
    "resnet50 2x": ({**SIMCLR, "width": 2.0}, (3,)),
    "resnet50 4x": ({**SIMCLR, "width": 4.0}, (3,)),
    "cmc resnet50": (CMC, (1, 2)),
    "cmc resnet50 2x": ({**CMC, "width": 2.0}, (1, 2)),
    "alexnet": ({"name": "alexnet", "sobel": True}, (3,)),
    "vgg16": ({"name": "vgg16", "sobel": True}, (3,)),
    "vgg16 colours": ({"name": "vgg16", "sobel": False}, (3,)),
    "vit_base": ({"name": "vit_base"}, (3,)),
    "vit_base distilled": ({"name": "vit_base", **VIT["deit_distilled"]}, (3,)),
    "beit_base": ({"name": "vit_base", **VIT["beit_finetune"]}, (3,)),
    "regnety_16gf": ({"name": "regnety_16gf"}, (3,)),
    "efficientnet_b0": ({"name": "efficientnet_b0", **OFFICIAL}, (3,)),
    "efficientnet_l2": ({"name": "efficientnet_l2", **OFFICIAL}, (3,)),
    "efficientnet_lite0": ({"name": "efficientnet_lite0", **OFFICIAL}, (3,)),
}
FOUND = re.findall(r"([\d.]+) \(`([\w ]+)`, (\d+)(?: x (\d+))? px\)", PAGE)
CELLS = sorted(set(FOUND))


def counted(name, height, width):
    """FLOPs of one picture; of one that is not square up to the last map, as retrieval uses it."""
    section, inputs = NETWORKS[name]
    net, total = models.build(section), 0
    for channels in inputs:
        side = 224 if width != height else height
        first = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), first)

        def embed(variables, x):
            return net.apply(variables, x, False)

        if height != width:
            named = jax.eval_shape(embed, variables, first)[1]
            last = max((n for n in named if retrieval.MAP.fullmatch(n)), key=lambda n: int(n[4:]))
            embed = retrieval.conv_map(embed, last)
        picture = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        total += flops.count(embed, variables, picture)
    return total


@pytest.mark.parametrize("value, name, height, width", CELLS)
def test_the_flops_of_the_page(value, name, height, width):
    found = counted(name, int(height), int(width or height)) / 1e9
    assert value == f"{found:.1f}"


def test_every_network_of_the_page_is_counted():
    assert {name for _, name, _, _ in CELLS} == set(NETWORKS)
    assert len(FOUND) == PAGE.count(" px)")  # none has another form


@pytest.mark.parametrize("text", COMMANDS)
def test_the_commands_of_the_page(text):
    _, command, *args = shlex.split(text)
    flags = parse(command, args)
    if command == "evaluate":
        given = {k: v for k, v in vars(flags).items() if k in evaluate.Settings._fields}
        given = {k: v for k, v in given.items() if v is not None}
        names = flags.protocol.split(",")
        evaluate.check_settings(names, given)
        assert flags.workdir.startswith("runs/")
        assert flags.weights or flags.workdir in TRAINED
        if "retrieval" in names:
            assert flags.source in SETS
        if "transfer" in names:
            assert flags.source == "all12" or flags.source in evaluate.TRANSFER_SETS
        assert flags.preset is None or flags.preset in evaluate.PRESETS
        assert (flags.preset is not None) == (names == ["linear"])
    if command == "train":  # the workdir that it starts from is not there
        path, _, switches = flags.config.partition(":")
        switches = re.sub("(init|start_from)=[^,]*", r"\1=", switches)
        config = config_file.load(f"{ROOT / path}:{switches}")
        for key, value in flags.settings:
            config_file.override(config, key, value)
        own = re.search(r"method=(\w+)", switches)
        assert config.method == (own[1] if own else METHODS.get(path[8:-3], "supervised"))


def test_a_family_that_a_command_names_is_one_of_the_importers():
    """The page may be ahead of the importer: what it lacks is listed here, and nowhere else."""
    from jssl import convert

    named = set(re.findall(r"--family=(\w+)", PAGE))
    assert named <= set(convert.FAMILIES)


def test_every_number_of_the_lecture_that_has_a_file_is_there():
    for number in ("88.4", "83.7", "28.3", "12.2", "72.0", "70.4", "73.7", "61.0", "60.6", "69.3",
                   "74.2", "76.5", "69.1", "76.6", "74.3", "68.4", "81.8", "83.1", "83.2", "76.9",
                   "75.5", "87.8", "85.8", "92.6", "81.5", "55.9", "62.6", "86.6", "86.5", "69.4",
                   "87.1", "90.8", "90.1", "91.8", "56.8", "67.3", "47.8", "39.7", "72.4", "6.9",
                   "22.0"):  # fmt: skip
        assert re.search(rf"\b{re.escape(number)}\b", PAGE), number
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and "`jssl " in line]
    assert len(rows) >= 25 and all("not run" in row for row in rows)
