"""Workdirs that another version of jssl wrote: config keys that one of the two does not know."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jssl import augment, data, methods, models, optim
from jssl import config as config_lib
from jssl.errors import UserError
from jssl.run.writers import say

# Of a workdir, in its versions.json. It grows when an older version would read a newer workdir
# wrongly; a config key that is only added does not count. Without one it is 1.
# 2: the row `linear` of result.json has become `softmax_regression`.
# 3: each operation of an augmentation draws from a key of its own.
SCHEMA = 3

_told: set[str] = set()


# Older names of keys. Config files may still set them; `move_old_keys` empties them.
OLD_KEYS = {"supervised.init_from": "init_from", "deit.start_from": "init_from"}


def move_old_keys(config: Any) -> None:
    """Moves, in place, what the older name of a key says to the key.

    Args:
        config: the whole config, a ConfigDict or what its JSON holds.

    Raises:
        UserError: both names are set, and say different things.

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
                f"config.{old}='{value}' is the older name of config.{key}, which says "
                f"'{config[key]}'. Set config.{key} alone."
            )
        config[key], config[section][name] = value, ""


def defaults(method: str) -> dict[str, Any]:
    """The whole tree of a method's config as JSON has it, with no preset applied.

    What a run does whose config lacks a key is what the key's default does: a later version that
    adds one makes it so. A preset may set it otherwise, for runs that begin then.

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
    """The config of a workdir with the keys of this version.

    Args:
        stored: as it was written.
        where: its file, for messages.

    Returns:
        The same values; keys that it lacks have their defaults, older names of keys are those of
        this version. Keys that this version does not
        have are left out, and named on the terminal.

    Raises:
        UserError: no method in it, or one that this version does not have.
    """
    method = stored.get("method")
    if not isinstance(method, str):
        raise UserError(
            f"{where} is damaged (it names no method): expected the config of a run. Copy it back "
            "to its place from where you have it, or type another --workdir."
        )
    unknown: list[str] = []
    found = _merged(stored, defaults(method), "", unknown)
    move_old_keys(found)
    if unknown:
        text = f"{where} has keys that this version does not have: {', '.join(unknown)}"
        if text not in _told:
            _told.add(text)
            say(f"WARNING {text}; they are passed over")
    return found


def _merged(
    stored: Mapping[str, Any], default: Mapping[str, Any], path: str, unknown: list[str]
) -> dict[str, Any]:
    found = {}
    for key, value in default.items():
        if key not in stored:
            found[key] = copy.deepcopy(value)
        elif isinstance(value, Mapping) and value and isinstance(stored[key], Mapping):
            found[key] = _merged(stored[key], value, f"{path}{key}.", unknown)
        else:
            found[key] = stored[key]
    unknown += [f"{path}{key}={stored[key]}" for key in stored if key not in default]
    return found


def check_schema(folder: Path) -> int | None:
    """Refuses a workdir of a version that is newer than this one and writes it otherwise.

    Returns:
        Its schema; None where it is not known.

    Raises:
        UserError: a schema above `SCHEMA`.
    """
    try:
        found = json.loads((folder / "versions.json").read_bytes())
        number = found.get("schema", 1)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # absent or damaged: nothing else is read of it
    if not isinstance(number, int):
        return None
    if number > SCHEMA:
        raise UserError(
            f"The workdir {folder} has schema {number}, this version of jssl reads up to {SCHEMA}: "
            f"it was written by version {found.get('libraries', {}).get('jssl', 'unknown')}. "
            "Install that one, or type another --workdir."
        )
    return number
