"""Exports a trained network for other libraries, with a card that says what it is."""

from collections.abc import Callable
from pathlib import Path

from jssl.convert.detectron2 import write_detectron2
from jssl.convert.export.hf_folder import export_hf
from jssl.convert.export.onnx_file import export_onnx
from jssl.convert.export.timm_folder import export_timm
from jssl.convert.export.torch_names import export_safetensors, export_torch
from jssl.convert.network import Network, read_network
from jssl.errors import UserError, nearest

FORMATS: dict[str, Callable[..., list[Path]]] = {
    "safetensors": export_safetensors,
    "timm": export_timm,
    "torch": export_torch,
    "hf": export_hf,
    "onnx": export_onnx,
    "detectron2": write_detectron2,
}
# An example of --output for each.
OUTPUTS = {
    "safetensors": "net.safetensors",
    "timm": "FOLDER",
    "torch": "net.pth",
    "hf": "FOLDER",
    "onnx": "net.onnx",
    "detectron2": "resnet.pkl",
}


def export_run(
    folder: str | Path,
    output: str | Path,
    form: str,
    *,
    which: str | None = None,
    step: int | None = None,
    pixels: str | None = None,
) -> tuple[Network, list[Path]]:
    """Writes a run's network in the format of another library, with its card.

    Args:
        folder: the workdir.
        output: the file or folder.
        form: a key of `FORMATS`.
        which: 'online' or 'averaged'; by default those that the run's own evaluation uses.
        step: of the checkpoint; the newest by default.
        pixels: of 'onnx', the type of its input: 'uint8', the default, or 'float32'.

    Returns:
        What was read, and the paths that were written.

    Raises:
        UserError: as `read_network`; a network that the format does not take; an output that cannot
            be written.
    """
    if form not in FORMATS:
        raise UserError(f"Unknown format '{form}': {nearest(form, FORMATS)}.")
    if pixels is not None and form != "onnx":
        raise UserError(f"--pixels={pixels} is the input of --format=onnx; found --format={form}.")
    network = read_network(folder, which=which, step=step)
    options = {} if pixels is None else {"pixels": pixels}
    return network, FORMATS[form](network, output, **options)
