"""Exports tensors under torchvision's or timm's names: a safetensors file, or one of torch."""

import json
from pathlib import Path

from jssl import files
from jssl.convert.containers import METADATA
from jssl.convert.export import writing
from jssl.convert.export.card import card, pretrained_cfg
from jssl.convert.export.checks import check_network
from jssl.convert.export.names import family_name, named_tensors
from jssl.convert.network import Network
from jssl.errors import UserError

_PEERS = {
    "resnet": "torchvision's ResNets, also of timm",
    "efficientnet_timm": "timm's tf_efficientnet_*",
    "regnet_timm": "timm's RegNetY",
    "deit": "timm's Vision Transformers",
    "beit": "timm's BEiT",
}


def export_safetensors(network: Network, output: str | Path) -> list[Path]:
    """Writes a safetensors file with torchvision's or timm's names, and its card.

    Args:
        network: of the run.
        output: ends with .safetensors.

    Returns:
        The paths of the file and of the card.

    Raises:
        UserError: another ending, an unwritable folder, or a network that the names do not show.
    """
    path = files.check_output(output, ending=".safetensors")
    check_network(network.config, network.params, "safetensors")
    tensors, left_out = named_tensors(network)
    use = f"""
import safetensors.torch
net.load_state_dict(safetensors.torch.load_file("{path.name}"))  # of torch

embed, state = jssl.load_pretrained("{path.name}")  # of jssl
"""
    text = card(network, path.name, tensors, left_out=left_out, use=use, notes=_notes(network))
    pixels = json.dumps({"pretrained_cfg": pretrained_cfg(network.config)})
    content = writing.safetensors_bytes(tensors, {METADATA: pixels})
    return writing.write_file(path, content, text)


def export_torch(network: Network, output: str | Path) -> list[Path]:
    """Writes a state dict of torch with torchvision's or timm's names, and its card.

    Args:
        network: of the run.
        output: ends with .pth.

    Returns:
        The paths of the file and of the card.

    Raises:
        UserError: torch is not installed; as `export_safetensors`.
    """
    path = files.check_output(output, ending=".pth")
    check_network(network.config, network.params, "torch")
    try:
        import torch
    except ImportError:
        raise UserError(
            "A .pth file is written with torch, which is not installed. Install torch, or type "
            f"--format=safetensors --output={path.with_suffix('.safetensors')}: torch reads it too."
        ) from None
    tensors, left_out = named_tensors(network)
    use = f"""
from torch import load
net.load_state_dict(load("{path.name}", weights_only=True))

embed, state = jssl.load_pretrained("{path.name}")  # of jssl
"""
    text = card(network, path.name, tensors, left_out=left_out, use=use, notes=_notes(network))
    content = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    return writing.write_file(path, lambda file: torch.save(content, file), text)


def _notes(network: Network) -> list[str]:
    return [f"names and layout of {_PEERS[family_name(network.config)]}"]
