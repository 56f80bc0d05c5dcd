"""Weights of DALL-E's discrete VAE, https://github.com/openai/DALL-E: encoder.pkl, decoder.pkl.

Each file is a whole torch module, pickled; `torch_file.module_tensors` walks it.
"""

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl.convert.containers import Weights
from jssl.convert.family import Family, fill_run

_BLOCK = re.compile(r"(group_\d+)_(block_\d+)\.(\w+)")


def _config(weights: Weights) -> ConfigDict:
    tensors = weights.tensors
    config = config_lib.base("dvae", preset="imagenet")
    own = config.dvae
    own.vocabulary = tensors["encoder.blocks.output.conv.w"].shape[0]
    own.hidden = tensors["encoder.blocks.input.w"].shape[0]
    own.initial = tensors["decoder.blocks.input.w"].shape[0]
    blocks = {
        (int(m[1]), int(m[2]))
        for name in tensors
        if (m := re.match(r"encoder\.blocks\.group_(\d+)\.block_(\d+)\.", name))
    }
    own.groups = max(group for group, _ in blocks)
    own.blocks = max(block for _, block in blocks)
    return fill_run(config)


def _source(leaf: str, config: ConfigDict) -> str | None:
    match = re.fullmatch(r"params\.(encoder|decoder)\.(.+)\.(kernel|bias)", leaf)
    if match is None:
        return None
    net, module, last = match.groups()
    name = {"kernel": "w", "bias": "b"}[last]
    if block := _BLOCK.fullmatch(module):
        group, number, conv = block.groups()
        path = "id_path" if conv == "skip" else f"res_path.{conv}"
        return f"{net}.blocks.{group}.{number}.{path}.{name}"
    return f"{net}.blocks.{module}{'.conv' if module == 'output' else ''}.{name}"


FAMILIES: Iterable[Family] = (
    Family(
        "dalle",
        "DALL-E's discrete VAE, BEiT's tokenizer, https://github.com/openai/DALL-E",
        lambda names: {"encoder.blocks.input.w", "decoder.blocks.input.w"} <= names,
        _config,
        _source,
        licence="Modified MIT",
    ),
)
