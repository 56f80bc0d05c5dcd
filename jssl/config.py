"""The tree of settings: every key with its default, and how a config file sets them.

A config file is Python with `get_config(arg)`; it starts from `base(method, preset=...)`, whose
tree is locked, so that a key which no code reads cannot be set by mistake:

    from jssl import config

    def get_config(arg=""):
        s = config.switches(arg, smoke=False, size=32)
        c = config.base("simclr", preset="cifar")
        c.data.name = "photos"
        return c
"""

import functools
import hashlib
import json
import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jssl import augment, data, methods, models, optim
from jssl.errors import UserError, nearest
from jssl.shipped import CONFIGS as CONFIGS


def common() -> dict[str, Any]:
    """Returns the settings that every method has, with their defaults."""
    return {
        "seed": 0,
        "epochs": 100.0,  # may be a fraction
        "updates": "whole_epochs",  # how updates are counted, see jssl.optim.count_updates
        "max_steps": 0,  # stop after this many updates; 0: `epochs` decides
        "batch_size": 256,  # global, over all devices of all processes
        "accumulate": 1,  # microbatches of a device's part, see jssl.parallel.microbatches
        "init_from": "",  # WORKDIR[:step] of a run with the same encoder, to start from
        "launch": "pmap",  # pmap | shard_map | fsdp | jit | vmap:N
        "dtype": "float32",  # compute; parameters, statistics and losses stay float32
        "model": {},  # jssl.models.DEFAULTS
        "data": {},  # jssl.data.DEFAULTS
        "augment": {
            "name": "simclr",
            "size": 224,
            "normalize": "none",  # the name of a mean and deviation; own: the two below
            "mean": (),  # of each channel, for pixels in [0, 1]
            "std": (),
            "options": {},  # each of jssl.augment.OPTIONS; None: the recipe's own
        },
        "optim": {},  # jssl.optim.DEFAULTS
        "checkpoint": {
            "every_steps": 1000,
            "keep": 2,  # number of newest checkpoints
            "keep_every_steps": 0,  # also keep every N-th step permanently; 0: none
        },
        "log": {
            "every_steps": 10,
            "tensorboard": True,
            "wandb_project": "",  # needs the extra `wandb`
            "wandb_mode": "online",
            "mlflow_uri": "",  # sqlite:///FILE.db, http://..., needs the extra `mlflow`; '': off
            "mlflow_experiment": "jssl",
        },
        "monitor": {
            "every_epochs": 1.0,  # kNN and collapse; 0: never
            "knn_k": 20,
            "knn_temperature": 0.1,
            "knn_feature": "backbone",
            "max_examples": 5000,  # of each split; the protocol text has the number used
            "std_threshold": 0.1,
            "rank_threshold": 2.0,
        },
        "final": {  # the table at the end of a run
            "enabled": True,
            "linear_epochs": 100,
        },
        "report": {  # WORKDIR/report.html, see jssl.report
            "enabled": True,
            "map": "pca",  # of the features; 'umap' needs the extra `umap`
        },
        # Set from the data when a run is built, for schedules and for state of the size of the
        # data set; stored in the workdir, so that its state can be restored.
        "run": {"num_examples": 0, "steps_per_epoch": 0, "total_steps": 0},
    }


def base(method: str, *, preset: str) -> ConfigDict:
    """Returns the complete, locked config of a method, with one of its presets applied.

    Args:
        method: name of a file in jssl/methods.
        preset: key of `presets(method)`.

    Returns:
        ConfigDict; assigning an unknown key raises.

    Raises:
        UserError: unknown method or preset, naming the nearest.

    Example:
        >>> c = base('simclr', preset='v1')
        >>> c.simclr.temperature, c.optim.name
        (0.1, 'lars')
    """
    spec, known = methods.get(method), presets(method)
    if preset not in known:
        raise UserError(f"Method '{method}' has no preset '{preset}': {nearest(preset, known)}.")
    config = ConfigDict(common())
    config.method = method
    config.preset = preset
    config.model = ConfigDict(models.DEFAULTS)
    config.data = ConfigDict(data.DEFAULTS)
    config.optim = ConfigDict(optim.DEFAULTS)
    config.optim.eps = placeholder(float)
    for name, value in augment.OPTIONS.items():
        # A probability is one number, or one for each view.
        kind = object if name.endswith("_p") else int if value is None else type(value)
        config.augment.options[name] = placeholder(kind)
    config[method] = ConfigDict(spec.defaults)
    config.lock()
    apply(config, known[preset])
    return config


@functools.cache
def presets(method: str) -> Mapping[str, Mapping[str, Any]]:
    """Returns the presets of a method: named updates of its config, from configs/bases/METHOD.py.

    Args:
        method: name of a file in jssl/methods.

    Raises:
        UserError: unknown method, naming the nearest.

    Example:
        >>> sorted(presets('simclr'))
        ['cifar', 'v1', 'v2']
    """
    methods.get(method)
    return runpy.run_path(str(CONFIGS / "bases" / f"{method}.py"))["PRESETS"]


def optional(key: str) -> bool:
    """Whether a flat key may be None, for the default of the recipe or the optimiser."""
    return key == "optim.eps" or key.startswith("augment.options.")


def keys_named(name: str) -> list[str]:
    """Returns flat keys whose last part is `name` or starts with it: suggestions for a wrong flag.

    Example:
        >>> keys_named('lr'), keys_named('batch'), keys_named('nothing')
        (['optim.lr'], ['batch_size'], [])
    """
    keys = flatten(base("simclr", preset="v1"))
    exact = [key for key in keys if key.rpartition(".")[2] == name]
    return exact or [key for key in keys if key.rpartition(".")[2].startswith(f"{name}_")][:3]


def apply(config: ConfigDict, updates: Mapping[str, Any], path: str = "config") -> None:
    """Sets nested values in place; an unknown key is refused with the nearest known one.

    Raises:
        UserError: naming the full path of the key.
    """
    for key, value in updates.items():
        if key not in config:
            raise UserError(f"Unknown key '{path}.{key}': {nearest(key, config.keys())}.")
        if isinstance(config[key], ConfigDict) and isinstance(value, Mapping):
            apply(config[key], value, f"{path}.{key}")
        else:
            with config.ignore_type(), config.unlocked():
                config[key] = ConfigDict(value) if isinstance(value, Mapping) else value


def smoke(config: ConfigDict) -> None:
    """Shrinks a config in place to a run of seconds that still covers every part of the loop."""
    net = {"name": "resnet8", "stage_sizes": (1, 1), "width": 0.25}
    if config.model.name.startswith("vit"):
        net = {"depth": 2, "width": 0.25, "patch_size": 8}
    if config.model.name == "dvae":  # its network is the method's own
        net = {}
    updates = {
        "max_steps": 4,
        "batch_size": 16,
        "dtype": "float32",
        "model": net,
        "augment": {"size": 32},
        "data": {"workers": 0},
        "checkpoint": {"every_steps": 2},
        "log": {"every_steps": 1},
        # Four steps are too few to detect a collapse: no warning.
        "monitor": {
            "max_examples": 32,
            "every_epochs": 1e-6,
            "std_threshold": 0.0,
            "rank_threshold": 0.0,
        },
        "final": {"linear_epochs": 2},
        "report": {"enabled": False},  # it would take a fifth of a run of seconds
    }
    apply(config, updates)


def switches(arg: str | None, **defaults: Any) -> Any:
    """Parses the quick switches after a config file's colon: `file.py:smoke,size=64`.

    Args:
        arg: comma separated `name` (for a true bool) or `name=value`; None or '' for none.
        **defaults: the switches a file has; a value is read with the type of its default.

    Returns:
        ConfigDict of the values, read as attributes.

    Raises:
        UserError: unknown switch, or a value of another type.

    Example:
        >>> s = switches('smoke,size=64', smoke=False, size=32)
        >>> s.smoke, s.size
        (True, 64)
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise UserError(f"Unknown switch ':{name}': {nearest(name, defaults)}.")
        kind = type(defaults[name])
        try:
            values[name] = _parse(text if given else "true", kind)
        except ValueError:
            raise UserError(
                f"Switch ':{name}' expects {kind.__name__}, found '{text or name}'. "
                f"Type for example :{name}={defaults[name]}."
            ) from None
    return ConfigDict(values)


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() not in known:
            raise ValueError(text)
        return known[text.lower()]
    return kind(text)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a config to `{'optim.lr': 0.3, ...}`, sorted by key."""
    flat: dict[str, Any] = {}
    for key in sorted(config.keys()):
        value = config[key]
        if isinstance(value, (ConfigDict, Mapping)) and len(value):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = dict(value) if isinstance(value, (ConfigDict, Mapping)) else value
    return flat


def to_json(config: Mapping[str, Any]) -> str:
    """Returns the resolved config as JSON, one flat key per line."""
    return json.dumps(flatten(config), indent=1, default=list)


def config_hash(config: Mapping[str, Any]) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 of the resolved config."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line `key: old -> new` for each flat key in which two configs differ.

    Example:
        >>> diff({'a': 1, 'b': 2}, {'a': 1, 'b': 3})
        ['b: 2 -> 3']
    """
    missing = "(absent)"
    return [
        f"{key}: {old.get(key, missing)} -> {new.get(key, missing)}"
        for key in sorted({*old, *new})
        if old.get(key, missing) != new.get(key, missing)
    ]
