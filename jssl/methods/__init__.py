"""The methods, one file each; a config's `method` is the file's name.

Each file exports `SPEC`, see `jssl.methods.spec`, and is also a module of plain functions:
`from jssl.methods import simclr; simclr.make(config, tx, lengths)`.
"""

import importlib
import pkgutil
from types import ModuleType

from jssl import third_party as third_party  # before anything imports flax
from jssl.errors import UserError, nearest
from jssl.methods.spec import MethodSpec

_OTHERS = ("spec",)


def names() -> list[str]:
    """The names of all methods, sorted."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return sorted(name for name in modules if name not in _OTHERS)


def load(name: str) -> ModuleType:
    """Imports the file of a method.

    Raises:
        UserError: no such method, naming the nearest.
    """
    if name not in names():
        raise UserError(f"Unknown method '{name}': {nearest(name, names())}.")
    return importlib.import_module(f"{__name__}.{name}")


def get(name: str) -> MethodSpec:
    """Returns the SPEC of a method.

    Raises:
        UserError: no such method, naming the nearest.

    Example:
        >>> get('byol').target
        ('target', 'target_batch_stats')
    """
    return load(name).SPEC
