"""Reads the tensors of a weights file by name, whatever wrote the file.

    safetensors            model.safetensors, or a folder with one (timm, Hugging Face)
    torch                  .pth, .pt, .bin, .tar of torch.save, zip or older, see `torch_file`
    tensorflow             NAME.index and NAME.data-*, or a folder with one, see `tf_checkpoint`
    haiku                  BYOL's pickle of Haiku's dicts, see `haiku_file`
    npz                    arrays by name

DALL-E's dVAE is a folder of two torch files. Nothing of a file is run, and nothing is read before
its size is known.
"""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from jssl.convert import haiku_file, tf_checkpoint, torch_file
from jssl.convert.torch_file import module_tensors, state_dict_key
from jssl.data import plain_npz
from jssl.errors import UserError
from jssl.regular import FileError, check_regular, read_file

MAX_BYTES = torch_file.MAX_BYTES
MAX_CONFIG = 2**20  # bytes of a folder's config.json
TENSORS = ("model.safetensors", "pytorch_model.bin")  # in a folder of timm or Hugging Face
DVAE = ("encoder.pkl", "decoder.pkl")  # in a folder of DALL-E's
_LEGACY = bytes.fromhex("8a0a6cfc9c46f920")  # within the first bytes of torch's older files
METADATA = "config"  # of a safetensors file that jssl wrote: `pretrained_cfg` as in config.json


class Weights(NamedTuple):
    """The content of a weights file.

    Attributes:
        path: as it was given.
        files: that hold the tensors.
        container: 'safetensors', 'torch', 'tensorflow', 'haiku' or 'npz'.
        tensors: name -> what `np.asarray` reads, with `shape` and `dtype`.
        other: epoch and arguments beside the tensors; a folder's config.json, or the same in the
            metadata of a safetensors file that jssl wrote.
        beside: names of what else the file holds, as the optimiser's state.
    """

    path: Path
    files: tuple[Path, ...]
    container: str
    tensors: dict[str, Any]
    other: dict[str, Any]
    beside: tuple[str, ...] = ()


class _Slice:
    """A tensor of a safetensors file, read when it is asked for."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: str):
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        with safe_open(self.path, framework="numpy") as file:
            return np.asarray(file.get_tensor(self.name), dtype)


def read_weights(path: str | Path) -> Weights:
    """Reads a weights file; the values of a tensor are read when they are asked for.

    Args:
        path: of the file; of a folder of timm, Hugging Face or DALL-E; or of a TensorFlow
            checkpoint, with or without its ending.

    Raises:
        UserError: no such file, another container, a damaged one, or one without tensors.
    """
    path = Path(path)
    if path.is_dir() and all((path / name).is_file() for name in DVAE):
        weights = _dvae(path)
    elif not any((path / name).is_file() for name in TENSORS) and tf_checkpoint.is_checkpoint(path):
        tensors, files = tf_checkpoint.read_checkpoint(path)
        weights = Weights(path, files, "tensorflow", dict(tensors), {})
    else:
        weights = _one_file(path)
    if not weights.tensors:
        raise UserError(
            f"'{path}' has no tensors by name: expected a state dict, alone or as 'state_dict', "
            "'model' or 'module' of a dict; or a module of torch, one of DALL-E's two files in a "
            "folder that also has the other."
        )
    return weights


def is_weights(path: str | Path) -> bool:
    """Whether a path is one that `read_weights` might read: a file, or a folder with such files."""
    path = Path(path)
    if path.is_dir():
        names = (*TENSORS, DVAE[0])
        return any((path / name).is_file() for name in names) or tf_checkpoint.is_checkpoint(path)
    return path.is_file() or tf_checkpoint.is_checkpoint(path)


def _one_file(path: Path) -> Weights:
    file = path
    if path.is_dir():
        file = next((path / name for name in TENSORS if (path / name).is_file()), path / TENSORS[0])
    try:
        check_regular(os.stat(file), MAX_BYTES)
        with open(file, "rb") as opened:
            first = opened.read(32)
    except FileError as error:
        raise UserError(f"'{file}' {error}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"'{file}' cannot be read: {reason}. Type --weights=FILE.") from error
    if first[8:9] == b"{":
        config = _folder_config(path) if path.is_dir() else _metadata(file)
        return Weights(path, (file,), "safetensors", _safetensors(file), config)
    if zipfile.is_zipfile(file):
        if _is_npz(file):
            return Weights(path, (file,), "npz", dict(plain_npz.read_npz(file)), {})
    elif first[:1] == b"\x80" and _LEGACY not in first:
        return Weights(path, (file,), "haiku", dict(haiku_file.read_haiku(file)), {})
    return _torch(path, file)


def _safetensors(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: _Slice(file, name, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"'{file}' is damaged: {error}. Fetch it again from where its authors publish it."
        ) from error


def _folder_config(path: Path) -> dict[str, Any]:
    """The config.json of a folder of timm or Hugging Face; {} without one.

    The preprocessor_config.json of transformers is its `preprocessor`.
    """
    config, preprocessor = map(_json, (path / "config.json", path / "preprocessor_config.json"))
    return {**config, "preprocessor": preprocessor} if preprocessor else config


def _json(file: Path) -> dict[str, Any]:
    return _config(lambda: read_file(file, MAX_CONFIG), file) if file.exists() else {}


def _metadata(file: Path) -> dict[str, Any]:
    """What stands under `METADATA` in a safetensors file; {} without it."""
    try:
        with safe_open(file, framework="numpy") as opened:
            text = (opened.metadata() or {}).get(METADATA, "{}")
    except (SafetensorError, OSError, ValueError):
        return {}  # `_safetensors` says why
    return _config(lambda: text[:MAX_CONFIG], file)


def _config(read: Callable[[], str | bytes], file: Path) -> dict[str, Any]:
    try:
        config = json.loads(read())
    except (FileError, ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is damaged: {error}. Fetch it again.") from error
    return config if isinstance(config, dict) else {}


def _is_npz(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _torch(path: Path, file: Path) -> Weights:
    loaded = torch_file.read_torch(file)
    tensors = {
        str(name): value
        for name, value in torch_file.state_dict(loaded).items()
        if isinstance(value, torch_file.Tensor)
    }
    other = dict(_folder_config(path))
    key, beside = state_dict_key(loaded), []
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if isinstance(value, (int, float, str, torch_file.Bag)):
            other[str(name)] = value
        elif name not in (key, *tensors):
            beside.append(str(name))
    return Weights(path, (file,), "torch", tensors, other, tuple(beside))


def _dvae(path: Path) -> Weights:
    """DALL-E's two files, whose tensors get the prefixes `encoder.` and `decoder.`."""
    files, tensors = tuple(path / name for name in DVAE), {}
    for file in files:
        tensors.update(module_tensors(torch_file.read_torch(file), f"{file.stem}."))
    return Weights(path, files, "torch", tensors, {})
