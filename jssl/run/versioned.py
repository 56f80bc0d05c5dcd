"""Reads workdirs of other versions of jssl, whose config keys may differ."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jssl import augment, data, methods, models, optim
from jssl import config as config_lib
from jssl.errors import UserError
from jssl.run.writers import say

# Of a workdir, in its versions.json; 1 if absent. Increased when older versions would misread newer
# workdirs, but not for added config keys.
# 2: the row `linear` of result.json was renamed to `softmax_regression`.
# 3: each operation of an augmentation draws from its own key.
SCHEMA = 3

_told: set[str] = set()


# Old names of keys. Config files may still set them; `move_old_keys` clears them.
OLD_KEYS = {"supervised.init_from": "init_from", "deit.start_from": "init_from"}


def move_old_keys(config: Any) -> None:
    """Moves, in place, the values of old key names to the new names.

    Args:
        config: the complete config, a ConfigDict or the dict of its JSON.

    Raises:
        UserError: both names are set, with different values.

    Example:
        >>> c = {'supervised': {'init_from': 'runs/a'}, 'init_from': ''}
        >>> move_old_keys(c)
        >>> c
        {'supervised': {'init_from': ''}, 'init_from': 'runs/a'}
    """
    for old, key in OLD_KEYS.items():
        section, name = old.split(".")
        value = config[section].get(name) if section in config else None
        if not value:
            continue
        if config[key] not in ("", value):
            raise UserError(
                f"config.{old}='{value}' is the older name of config.{key}, which is "
                f"'{config[key]}'. Set only config.{key}."
            )
        config[key], config[section][name] = value, ""


def defaults(method: str) -> dict[str, Any]:
    """Returns the complete config of a method as JSON data, without a preset.

    The default of a new key must reproduce the behaviour of older runs, whose configs lack it. A
    preset may set another value for new runs.

    Raises:
        UserError: unknown method.
    """
    tree = {
        **config_lib.common(),
        "method": method,
        "preset": "",
        "model": models.DEFAULTS,
        "data": data.DEFAULTS,
        "optim": optim.DEFAULTS,
        method: methods.get(method).defaults,
    }
    tree["augment"] = {**tree["augment"], "options": dict.fromkeys(augment.OPTIONS)}
    return json.loads(json.dumps(tree))


def complete(stored: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Converts the config of a workdir to the keys of this version.

    Args:
        stored: as it was written.
        where: its file, for messages.

    Returns:
        The same values; missing keys get their defaults, old names become new ones. Keys that this
        version does not have are left out, with a warning on the terminal.

    Raises:
        UserError: no method in it, or one that this version does not have.
    """
    method = stored.get("method")
    if not isinstance(method, str):
        raise UserError(
            f"{where} is damaged (it names no method): expected the config of a run. Restore it "
            "from a copy, or type another --workdir."
        )
    unknown: list[str] = []
    merged = _merged(stored, defaults(method), "", unknown)
    move_old_keys(merged)
    section = stored.get("data", {})
    if "exif_orientation" not in section and section.get("host_crop") == "":
        merged["data"]["host_crop"] = "device"  # what '' meant before it depended on the data
    if unknown:
        text = f"{where} has keys that this version does not have: {', '.join(unknown)}"
        if text not in _told:
            _told.add(text)
            say(f"WARNING {text}; they are ignored")
    return merged


def _merged(
    stored: Mapping[str, Any], default: Mapping[str, Any], path: str, unknown: list[str]
) -> dict[str, Any]:
    merged = {}
    for key, value in default.items():
        if key not in stored:
            merged[key] = copy.deepcopy(value)
        elif isinstance(value, Mapping) and value and isinstance(stored[key], Mapping):
            merged[key] = _merged(stored[key], value, f"{path}{key}.", unknown)
        else:
            merged[key] = stored[key]
    unknown += [f"{path}{key}={stored[key]}" for key in stored if key not in default]
    return merged


def check_schema(folder: Path) -> int | None:
    """Refuses a workdir of a newer version with another schema.

    Returns:
        Its schema; None if unknown.

    Raises:
        UserError: a schema above `SCHEMA`.
    """
    try:
        stored = json.loads((folder / "versions.json").read_bytes())
        number = stored.get("schema", 1)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # absent or damaged: only the schema is read from it
    if not isinstance(number, int):
        return None
    if number > SCHEMA:
        raise UserError(
            f"The workdir {folder} has schema {number}, this version of jssl reads up to {SCHEMA}: "
            f"it was written by version {stored.get('libraries', {}).get('jssl', 'unknown')}. "
            "Install that version, or type another --workdir."
        )
    return number
