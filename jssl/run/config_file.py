"""Reads a config file and the settings of the command line: `--config=FILE.py:switches`.

`--config=NAME:switches` reads a config that comes with jssl, see `jssl.shipped`.

Every key of the config can be set with `--config.KEY=VALUE`. A value is read with the type that the
key has in the config.
"""

import ast
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import shipped
from jssl.errors import UserError, nearest
from jssl.run import versioned

# Keys that are set by the config file or the library, not by flags.
FIXED = {
    "method": "it belongs to the config file. Type --config=NAME of that method",
    "preset": "its values are set already. Call base(method, preset=...) in a config file",
    "run": "it is computed from the data when a run is built",
}


def load(text: str) -> ConfigDict:
    """Runs a config file.

    Args:
        text: `FILE.py` or `FILE.py:switches`; `NAME` or `NAME:switches` of `jssl.shipped`. A file
            can import modules of its folder, and `bases` of jssl's configs.

    Returns:
        The config that its `get_config` returns.

    Raises:
        UserError: no such file; an error in it, with its line; `get_config` is missing or does not
            return a config.
    """
    path, switches = _split(text)
    if not path.is_file():
        raise UserError(f"There is no config file '{path}' here ({Path.cwd()}). {_choices(path)}")
    try:
        config = _call(_import(path), path, switches)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise UserError(_cause(error, path)) from error
    if not isinstance(config, ConfigDict) or "method" not in config:
        raise UserError(
            f"get_config of '{path}' returned {type(config).__name__}. Expected the config that "
            "jssl.config.base(method, preset=...) returns: end it with `return c`."
        )
    versioned.move_old_keys(config)
    return config


def _choices(path: Path) -> str:
    if path.stem in shipped.names():
        return f"Type --config={path.stem}, which comes with jssl."
    files = [str(file) for file in Path("configs").glob("*.py")]
    return (
        f"{nearest(str(path), files)}.".capitalize()
        if files
        else "Type --config=FILE.py, or a name that `jssl configs` lists."
    )


def _split(text: str) -> tuple[Path, str]:
    """`FILE.py:switches` or `NAME:switches` -> the file and its switches."""
    file, mark, switches = text.rpartition(".py:")
    if mark:
        return Path(file + ".py"), switches
    if text.endswith(".py") or os.sep in text.partition(":")[0]:
        return Path(text), ""
    name, _, switches = text.partition(":")
    return shipped.find(name), switches


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jssl_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' is not a Python file. Type --config=FILE.py.")
    module = importlib.util.module_from_spec(spec)
    # Its own folder first, then jssl's configs, so that a copied config works elsewhere.
    folders, before = [str(path.resolve().parent), str(config_lib.CONFIGS)], set(sys.modules)
    sys.path[:0] = folders
    try:
        spec.loader.exec_module(module)
    finally:
        for folder in folders:
            sys.path.remove(folder)
        # Another folder may have another module of the same name.
        for name in set(sys.modules) - before:
            if any(_is_in(sys.modules[name], folder) for folder in folders):
                del sys.modules[name]
    return module


def _is_in(module: ModuleType, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder)


def _call(module: ModuleType, path: Path, switches: str) -> Any:
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"'{path}' has no function get_config(arg).")
    if inspect.signature(get_config).parameters:
        return get_config(switches)
    if switches:
        raise UserError(f"get_config of '{path}' takes no switches; found ':{switches}'.")
    return get_config()


def _cause(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"'{error.filename}' line {error.lineno} is not Python: {error.msg}."
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).resolve().parent == path.resolve().parent]
    line = f" line {own[-1].lineno} ({own[-1].line})" if own else ""
    # ml_collections prints the whole config into its message, and the suggestion at the end.
    lines = str(error).strip('"').replace("\\n", "\n").splitlines() or [""]
    text = next((line for line in lines if line.startswith("Did you mean")), lines[0][:300])
    return f"'{path}'{line} raises {type(error).__name__}: {text}"


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets one key of a config from a flag, in place.

    Args:
        config: the complete config.
        key: its path, as `optim.lr`.
        text: the value as typed. Read as the type of the key; tuples as `(1,2)`, `1,2` or `1`;
            None if the key may be None.

    Raises:
        UserError: unknown key, naming the nearest; a section; a value of another type; a key of
            `FIXED`.

    Example:
        >>> from jssl import config
        >>> c = config.base('simclr', preset='cifar')
        >>> override(c, 'optim.lr', '0.5')
        >>> c.optim.lr
        0.5
    """
    if key.partition(".")[0] in config:
        key = versioned.OLD_KEYS.get(key, key)
    if (fixed := key.partition(".")[0]) in FIXED:
        raise UserError(f"--config.{key} cannot be set: {FIXED[fixed]}.")
    *sections, name = key.split(".")
    node = config
    for depth, section in enumerate(sections):
        _check_key(config, node, section, ".".join(sections[:depth]))
        node = node[section]
        if not isinstance(node, ConfigDict):
            raise UserError(f"--config.{key}: '{'.'.join(sections[: depth + 1])}' has no keys.")
    _check_key(config, node, name, ".".join(sections))
    if isinstance(node[name], ConfigDict):
        raise UserError(
            f"--config.{key} names a section: type one of its keys, "
            f"{', '.join(f'--config.{key}.{k}' for k in list(node[name])[:4])}..."
        )
    value = parse(text, node.get_type(name), optional=config_lib.optional(key), key=key)
    with node.ignore_type():
        node[name] = value


def _check_key(config: ConfigDict, node: ConfigDict, name: str, path: str) -> None:
    if name in node:
        return
    where = f"{path}." if path else ""
    flat = config_lib.flatten(config)
    same = [k for k in flat if k.rpartition(".")[2] == name.replace("-", "_")]
    advice = nearest(name.replace("-", "_"), node.keys())
    if len(same) == 1:
        advice = f"did you mean --config.{same[0]}?"
    raise UserError(f"Unknown key --config.{where}{name}: {advice}.".replace("?.", "?"))


def parse(text: str, kind: type, *, optional: bool = False, key: str = "KEY") -> Any:
    """Parses a value of the command line.

    Args:
        text: as typed.
        kind: the expected type: bool, int, float, str, tuple or object (any Python literal).
        optional: whether 'None' means None.
        key: for the message.

    Raises:
        UserError: a value of another type.

    Example:
        >>> parse('0.1,0.9', tuple), parse('3', tuple), parse('1e-3', float), parse('None', str)
        ((0.1, 0.9), (3,), 0.001, 'None')
    """
    if optional and text == "None":
        return None
    try:
        return _PARSERS.get(kind, _literal)(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        expected = _EXPECTED.get(kind, "a Python value")
        raise UserError(f"--config.{key} expects {expected}, found '{text}'.") from None


def _bool(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    return known[text.lower()] if text.lower() in known else _literal("not a bool")


def _tuple(text: str) -> tuple[Any, ...]:
    try:
        value = _literal(text)
    except (ValueError, SyntaxError):  # words: l,ab
        items = [item.strip() for item in text.split(",")]
        if not all(item.replace("_", "").replace("-", "").isalnum() for item in items):
            raise
        value = items
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _literal(text: str) -> Any:
    return ast.literal_eval(text.strip())


_PARSERS: dict[type, Callable[[str], Any]] = {
    bool: _bool,
    int: int,
    float: float,
    str: str,
    tuple: _tuple,
    list: _tuple,
}
_EXPECTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    tuple: "values such as (1,2)",
    list: "values such as (1,2)",
}
