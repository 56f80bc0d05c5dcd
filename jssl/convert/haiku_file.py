"""Reads BYOL's checkpoints, a pickle of Haiku's dicts that dill wrote, without their classes.

The restricted reader of `jssl.data.plain_pickle` makes the arrays. Here are the other names that
such a pickle has: dicts of Haiku become dicts, named tuples become dicts by field, and objects of
the optimiser are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jssl.data.plain_pickle import make_array, read_plain_pickle

MAX_BYTES = 2**33  # of a file, which is read at once: ResNet-200 2x has 4.6 GB
_STATE = ("online_params", "target_params", "online_state", "target_state", "opt_state")
_PREFIXES = ("byol.", "haiku.", "optax.", "jax.", "jaxlib.")
_MAPPINGS = ("FlatMapping", "FlatMap", "frozendict")


def _record(fields: tuple[str, ...]) -> type:
    """A class whose objects are dicts of the fields' values."""

    class Record:
        def __new__(cls, *values: Any) -> Any:
            return dict(zip(fields, values, strict=False))

    return Record


class _LeftOut:
    """Stand-in for a class or function of which nothing is read."""

    def __new__(cls, *values: Any) -> Any:
        return {}


def _named_tuple(name: Any, fields: Any, *_: Any) -> type:
    """Stand-in for dill's function that makes a class of a named tuple."""
    return _record(tuple(fields) if isinstance(fields, (tuple, list)) else ())


def _mapping(items: Any = (), *_: Any) -> dict:
    return dict(items) if isinstance(items, Mapping) else {}


def _names(module: str, name: str) -> Any:
    if module == "dill._dill" and name in ("_create_namedtuple", "_create_array"):
        made: Any = _named_tuple if name == "_create_namedtuple" else make_array
        return lambda *values: made(*values)
    if not module.startswith(_PREFIXES):
        return None
    if name in _MAPPINGS:
        return lambda *values: _mapping(*values)
    return _record(_STATE) if name == "_ByolExperimentState" else _LeftOut


def read_haiku(path: Path) -> dict[str, np.ndarray]:
    """Reads the networks of a checkpoint of BYOL.

    Args:
        path: of the file.

    Returns:
        'FIELD/MODULE/NAME' -> array, of the four fields of parameters and states; {} for a pickle
        of something else.

    Raises:
        UserError: as `read_plain_pickle`.

    Reference: https://github.com/google-deepmind/deepmind-research, byol/utils/checkpointing.py.
    """
    loaded = read_plain_pickle(path, _names, MAX_BYTES)
    state = loaded.get("experiment_state") if isinstance(loaded, dict) else None
    arrays: dict[str, np.ndarray] = {}
    if not isinstance(state, dict):
        return arrays
    for field in _STATE[:-1]:
        modules = state.get(field)
        for module, leaves in modules.items() if isinstance(modules, dict) else ():
            for name, value in leaves.items() if isinstance(leaves, dict) else ():
                if isinstance(value, np.ndarray):
                    arrays[f"{field}/{module}/{name}"] = value
    return arrays
