"""Networks of the user's own, by name: any flax module from images to features.

    jssl.models.register("tiny", lambda axis_name, dtype: Tiny(dtype=dtype))
    config.model.name = "tiny"

A checkpoint holds parameters, not code: another process that reads the run registers the same name
first.
"""

import inspect
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.types import Array

Make = Callable[[str | None, Any], nn.Module]
_REGISTERED: dict[str, Make] = {}
_WITHOUT_AXIS: set[str] = set()  # modules whose batch normalisation knows no axis
COLLECTIONS = {"params", "batch_stats"}  # of variables that a state holds
# Names of the argument that switches between training and inference, and its value in training.
SWITCHES = {"train": True, "training": True, "is_training": True, "deterministic": False}
SIDE = 64  # of the image with which a network is checked, in pixels


class OwnNet(nn.Module):
    """A network of the user's, in the form of jssl's: `(images, train) -> (features, {})`.

    Feature maps [B,h,w,D] are averaged over positions.

    Attributes:
        net: `(images [B,H,W,C], train=...)` to features [B,D] or [B,h,w,D]. In place of `train` its
            argument may be one of `SWITCHES`, or absent.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, images: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        features: Any = self.net(images, **_switch(self.net, train))
        if getattr(features, "ndim", 0) not in (2, 4):
            raise UserError(
                f"The network {type(self.net).__name__} returned {_describe(features)} for images "
                f"{list(images.shape)}: expected one array of features [B,D] or [B,h,w,D]."
            )
        if features.ndim == 4:
            features = jnp.mean(features, axis=(1, 2))
        return features.astype(jnp.float32), {}


def register(name: str, make: Make | nn.Module) -> None:
    """Registers a network, so that `config.model.name` may be its name.

    Args:
        name: of the network, in letters, digits and `_`.
        make: `(axis_name, dtype) -> module`: `axis_name` is the axis over which batch statistics
            are averaged, None on one device. A module itself is for one device, as its batch
            normalisation does not know that axis.

    Raises:
        UserError: the name of another network; a module that cannot be trained: it returns
            something else than features, draws random numbers, or has other variables than
            parameters and running statistics.

    Example:
        >>> register('flat', nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(8)]))
        >>> sorted(registered())
        ['flat']
        >>> unregister('flat')
    """
    from jssl import models  # it imports this file

    if not name.isidentifier():
        raise UserError(f"Found '{name}' as the name of a network: expected letters and digits.")
    if name in models.names():
        raise UserError(
            f"'{name}' is a network of jssl: register yours under another name, such as"
            f" 'my_{name}'."
        )
    function = (lambda axis_name, dtype: make) if isinstance(make, nn.Module) else make
    _check(name, function)
    _REGISTERED[name] = function
    _WITHOUT_AXIS.discard(name)
    if isinstance(make, nn.Module) and "batch_stats" in variables_of(name):
        _WITHOUT_AXIS.add(name)


def check_devices(name: str, count: int) -> None:
    """Refuses a module with batch normalisation of its own on several devices.

    Raises:
        UserError: its statistics would differ between the devices.
    """
    if name in _WITHOUT_AXIS and count > 1:
        raise UserError(
            f"Network '{name}' normalises over a batch, and was given as a module, which does not "
            f"average over the {count} devices: register a function (axis_name, dtype) that "
            "passes axis_name to its BatchNorm, jssl.models.register(name, function)."
        )


def unregister(name: str) -> None:
    """Removes a registered network."""
    del _REGISTERED[name]


def registered() -> dict[str, Make]:
    """Returns the registered networks by name."""
    return dict(_REGISTERED)


def make_own(name: str, axis_name: str | None, dtype: Any) -> OwnNet:
    """Makes a registered network."""
    return OwnNet(_REGISTERED[name](axis_name, dtype).clone())  # else two would share parameters


def variables_of(name: str) -> Any:
    """Returns the shapes of a registered network's variables."""
    return _shapes(OwnNet(_REGISTERED[name](None, jnp.float32)))


def _shapes(net: OwnNet) -> Any:
    images = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.float32)

    def both(key: Array, images: Array) -> Any:
        variables = net.init(key, images, train=True)
        return variables, net.apply(variables, images, train=True, mutable=["batch_stats"])

    return jax.eval_shape(both, jax.random.key(0), images)[0]


def _check(name: str, make: Make) -> None:
    module = make(None, jnp.float32) if callable(make) else make
    if not isinstance(module, nn.Module):
        raise UserError(
            f"Network '{name}' is a {type(module).__name__}: expected a flax.linen.Module, or a "
            "function (axis_name, dtype) that returns one."
        )
    try:
        variables = _shapes(OwnNet(module))
    except flax.errors.InvalidRngError as error:
        raise UserError(
            f"Network '{name}' draws random numbers while it trains, such as those of dropout: no "
            "method passes any to it. Train it without."
        ) from error
    except (UserError, flax.errors.FlaxError):
        raise
    except Exception as error:
        raise UserError(
            f"Network '{name}' cannot be applied to images float32 [2,{SIDE},{SIDE},3]: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if other := sorted(set(variables) - COLLECTIONS):
        raise UserError(
            f"Network '{name}' has the variables {', '.join(other)}: expected only "
            f"{' and '.join(sorted(COLLECTIONS))}, which a checkpoint holds."
        )
    if "batch_stats" in variables and not _switch(module, True):
        raise UserError(
            f"Network '{name}' has running statistics, but its __call__ has no argument that "
            f"switches to them for evaluation: expected one of {', '.join(SWITCHES)}."
        )


def _switch(net: nn.Module, train: bool) -> dict[str, bool]:
    parameters = inspect.signature(type(net).__call__).parameters
    return {name: train is value for name, value in SWITCHES.items() if name in parameters}


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an array {list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
