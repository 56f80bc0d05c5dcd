"""The methods, one file each; a config's `method` is the file's name.

Each file exports `State`, `VIEWS` (of one example in a step), `DEFAULTS` (its own section of the
config), `PRESETS` (named updates of the whole config) and
`make(config, tx, lengths, *, axis_name=None) -> Method`. One that needs more of a batch than
image, label and index exports `extra_fields(config)`, see `jssl.run.build.extra_fields`. One with
a setting `num_classes` needs labels, unless it exports `LABELS_OPTIONAL = True`. One whose features
lie on a grid names that intermediate in `GRID_FEATURE`: the final table has a linear probe on it as
well. One that learns from a part of the train split exports `train_part(config, source) -> source`,
and one whose examples need more on the host
`host_transform(config, source, transform) -> transform`.
"""

import importlib
import pkgutil
from types import ModuleType

from jssl import third_party as third_party  # before anything imports flax
from jssl.errors import UserError, nearest


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """Imports the file of a method.

    Raises:
        UserError: no such method, naming the nearest.
    """
    if name not in names():
        raise UserError(f"Unknown method '{name}': {nearest(name, names())}.")
    return importlib.import_module(f"{__name__}.{name}")
