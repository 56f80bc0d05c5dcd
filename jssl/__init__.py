"""jssl: self-supervised, semi-supervised and data-efficient vision training in JAX.

from jssl import losses                                  # a loss as a pure function
from jssl.methods import simclr                          # a method as pure functions
run = jssl.train(data='pictures', method='simclr', workdir='runs/pictures')  # on a folder
embed, state = jssl.load_encoder('runs/simclr_photos')   # a trained network
embed, state = jssl.load_pretrained('resnet50.pth')      # a published one
features = jssl.Encoder('runs/simclr_photos')(['a.jpg'])  # of pictures
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from jssl.convert.pretrained import load_pretrained as load_pretrained
    from jssl.encoder import Encoder as Encoder
    from jssl.errors import UserError as UserError
    from jssl.run.build import load_encoder as load_encoder
    from jssl.run.call import Trained as Trained
    from jssl.run.call import train as train
    from jssl.types import Method as Method
    from jssl.types import RunLengths as RunLengths
    from jssl.types import TrainState as TrainState

# Imported on first use: `from jssl import losses` loads only jax and the losses.
_HOMES = {
    "Encoder": "encoder",
    "UserError": "errors",
    "load_encoder": "run.build",
    "load_pretrained": "convert.pretrained",
    "Method": "types",
    "RunLengths": "types",
    "TrainState": "types",
    "train": "run.call",
    "Trained": "run.call",
}
_MODULES = ("augment", "config", "data", "dense", "evaluate", "losses", "methods", "models",
            "optim", "state")  # fmt: skip
_RENAMED = {"protocols": "evaluate"}  # old name: new name, for one release
__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("jssl.run.versions").jssl_version()
    if name in _RENAMED:
        text = f"jssl.{name} is now jssl.{_RENAMED[name]}; the old name goes with the next release."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name in _MODULES:
        return importlib.import_module(f"jssl.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'jssl' has no attribute '{name}'")
    return getattr(importlib.import_module(f"jssl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
