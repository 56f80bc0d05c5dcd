"""`jssl config`: every setting of a run with its value and its source."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from jssl import augment
from jssl import config as config_lib

OPTIONS = "augment.options."


def origins(config: ConfigDict, typed: Sequence[str] = ()) -> dict[str, str]:
    """Returns the source of the value of each setting.

    Args:
        config: of a config file, with the flags of the command line.
        typed: flat keys that were set on the command line.

    Returns:
        {flat key: 'default', 'preset NAME', 'config file' or 'command line'}, sorted by key; for
        an augmentation option that is None, the value of its recipe.

    Example:
        >>> c = config_lib.base('simclr', preset='cifar')
        >>> c.seed = 3
        >>> [origins(c, ['epochs'])[key] for key in ('seed', 'epochs', 'batch_size', 'dtype')]
        ['config file', 'command line', 'preset cifar', 'default']
    """
    preset = config_lib.base(config.method, preset=config.preset)
    values, given = config_lib.flatten(preset), config_lib.presets(config.method)[config.preset]
    from_preset = set(config_lib.flatten(given))
    sources = {}
    for key, value in config_lib.flatten(config).items():
        if key in typed:
            sources[key] = "command line"
        elif key not in values or value != values[key]:
            sources[key] = "config file"
        elif value is None and key.startswith(OPTIONS):
            name = key.removeprefix(OPTIONS)
            own = augment.RECIPES[config.augment.name].get(name, augment.OPTIONS[name])
            sources[key] = f"recipe {config.augment.name}: {own!r}"
        else:
            sources[key] = f"preset {config.preset}" if key in from_preset else "default"
    return sources


def show(config: ConfigDict, typed: Sequence[str] = ()) -> str:
    """Formats one line for each setting: `key = value  # source`."""
    values = config_lib.flatten(config)
    lines = {key: f"{key} = {value!r}" for key, value in values.items()}
    width = min(60, max(map(len, lines.values())))
    sources = origins(config, typed)
    return "\n".join(f"{line:<{width}}  # {sources[key]}" for key, line in lines.items())
