"""The parser of the command line; the flags of each command are in `jssl.commands`."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from jssl.commands import ALIASES as ALIASES
from jssl.commands import COMMANDS as COMMANDS
from jssl.commands import FORM_KEYS as FORM_KEYS
from jssl.errors import UserError, nearest

Flags = argparse.Namespace


def usage() -> str:
    """Returns the text of `jssl --help`."""
    rows = "\n".join(f"  jssl {name:<10}{c.purpose}" for name, c in COMMANDS.items())
    return f"""jssl: self-supervised vision training in JAX

{rows}

  jssl train --config=NAME[:switches] --workdir=DIR [--config.KEY=VALUE ...]
  jssl train --data=FOLDER --method=NAME --workdir=DIR    your own pictures, without a config

Every run writes its config, versions, parameter table, metrics and checkpoints to the workdir;
the same command resumes it. `jssl COMMAND --help` lists the flags of a command."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` lists the flags.")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, found '{text}'")
    return text.lower() in ("true", "1")


def parser(name: str) -> argparse.ArgumentParser:
    """Returns the parser of a command's flags."""
    command = COMMANDS[name]
    result = _Parser(
        prog=f"jssl {name}",
        description=f"{command.purpose.capitalize()}.",
        allow_abbrev=False,
        epilog="Any key of the config: --config.KEY=VALUE." if command.config else None,
    )
    if command.config:
        result.add_argument(
            "--config", metavar="NAME[:switches]", help="a name of `jssl configs`, or FILE.py"
        )
    for flag, options in command.flags.items():
        if options.get("positional"):
            own = {key: value for key, value in options.items() if key != "positional"}
            result.add_argument(flag, **own)
            continue
        if options.get("type") is bool:
            options = {**options, "type": _boolean, "nargs": "?", "const": True, "default": False}
            result.add_argument(f"--{flag}", **options, metavar="BOOL")
            result.add_argument(
                f"--no{flag}", dest=flag, action="store_false", help=argparse.SUPPRESS
            )
        else:
            result.add_argument(f"--{flag}", **options)
    result.add_argument(
        "--verbosity", type=int, default=-1, metavar="N", help="0: also the logs of libraries"
    )
    return result


def parse(name: str, args: Sequence[str]) -> Flags:
    """Reads the flags of a command.

    Args:
        name: of the command.
        args: the rest of the command line.

    Returns:
        A value for each flag; `settings` holds the (key, value) of each `--config.KEY=VALUE`.

    Raises:
        UserError: a flag that this command does not have, saying what to type.
    """
    own, settings, args = [], [], _double_dashes(args)
    while args:
        arg = args.pop(0)
        if arg.startswith(("--config.", "--noconfig.")):
            key, given, value = arg.partition("=")
            if arg.startswith("--noconfig."):  # as absl's flags had it
                key, given, value = key.replace("--noconfig.", "--config.", 1), "=", "False"
            elif not given:
                given, value = ("=", args.pop(0)) if args and args[0][:2] != "--" else ("", "")
            if not given:  # a bool may stand alone
                value = "True"
            settings.append((key.removeprefix("--config."), value))
        else:
            flag, given, value = arg.partition("=")
            several = COMMANDS[name].flags.get(flag.removeprefix("--"), {}).get("nargs")
            own += [flag, value] if several and given else [arg]  # else argparse takes one value
    if settings and not COMMANDS[name].config:
        raise UserError(
            f"jssl {name} takes no --config.{settings[0][0]}: a run keeps the settings that it was "
            "trained with."
        )
    flags, rest = parser(name).parse_known_args(own)
    if rest:
        raise UserError("\n".join(_unknown(name, arg) for arg in rest))
    flags.settings = settings
    return flags


def _double_dashes(args: Sequence[str]) -> list[str]:
    """Changes flags with one dash, which absl accepted, to two."""
    one = [w.startswith("-") and w[1:2].isalpha() and len(w.partition("=")[0]) > 2 for w in args]
    return [f"-{w}" if single else w for w, single in zip(args, one, strict=True)]


def _unknown(name: str, arg: str) -> str:
    """Returns the message for an unknown flag: what to type instead."""
    if not arg.startswith("-"):
        return f"Unexpected word '{arg}' after 'jssl {name}'. Flags begin with --."
    flag = arg.lstrip("-").partition("=")[0]
    value = arg.partition("=")[2] or "VALUE"
    command = COMMANDS[name]
    message = f"jssl {name} has no flag --{flag}"
    same = flag.replace("-", "_")
    if same in command.flags or command.config and same == "config":
        return f"{message}: type --{same}={value}."
    if command.config:
        from jssl import config

        keys = config.keys_named(same)
        if keys:
            return f"{message}: type {' or '.join(f'--config.{k}={value}' for k in keys)}."
    owners = [f"jssl {other}" for other, c in COMMANDS.items() if same in c.flags]
    if owners:
        message += f"; it belongs to {', '.join(owners)}"
    return f"{message}: {nearest(flag, command.flags)}."


# Flags in error messages of the library, and their names for the given commands.
_EVALUATING = {
    "--config.data.data_dir": "--data_dir",
    "--config.data.name": "--source",
    "--config.data.on_error": "--on_error",
}
_TRAINING = {
    "--feature": "--config.monitor.knn_feature",
    "--k": "--config.monitor.knn_k",
    "--temperature": "--config.monitor.knn_temperature",
    "--source": "--config.data.name",
    "--data_dir": "--config.data.data_dir",
}


def advice_for(name: str, message: str) -> str:
    """Translates the flags in an error message to those that the command takes.

    Args:
        name: of the command.
        message: of an error of the library, with flags of `jssl train` or of no command.

    Example:
        >>> advice_for('embed', 'There is no folder. Type --config.data.data_dir=DIR.')
        'There is no folder. Type --data_dir=DIR.'
        >>> advice_for('train', "No intermediate 'x'. Type --feature=backbone.")
        "No intermediate 'x'. Type --config.monitor.knn_feature=backbone."
    """
    command = COMMANDS[name]
    own = {f"--{flag}" for flag in command.flags}
    names = _TRAINING if command.config else _EVALUATING
    if not command.config:
        names = {old: new for old, new in names.items() if new in own}

    def translated(match: re.Match[str]) -> str:
        return match[0] if match[0] in own else names.get(match[0], match[0])

    message = re.sub(r"(?<![\w-])--[a-z_]+(?:\.[a-z_0-9]+)*", translated, message)
    if not command.config and "--config." in message:
        message += (
            f" (`jssl {name}` takes no --config flag: these are settings of the run, for `jssl "
            "train` in a new --workdir.)"
        )
    return message


def has_form(flags: Flags) -> bool:
    """Whether the flags are those of `jssl train --data=DIR`.

    Raises:
        UserError: they are mixed with --config; the message names the key to use.
    """
    given = {name: getattr(flags, name) for name in FORM_KEYS}
    given = {name: value for name, value in given.items() if value is not None}
    if not given or flags.config is None:
        return bool(given)
    name, value = next(iter(given.items()))
    shown = f"{value:g}" if isinstance(value, float) else value
    advice = f"--config.{FORM_KEYS[name]}={shown}"
    if name == "data":
        advice = f"--config.data.name=folder {advice}"
    if name == "method":
        advice = f"--config={value}_photos, or another config of that method, alone"
    if name == "minutes":
        advice = "--config.epochs=N"
    if name == "labels":
        advice = f"--config.data.layout={'nested' if value == 'none' else 'auto'}"
    raise UserError(
        f"--{name} is for `jssl train --data=DIR`, which has no config file; found it with "
        f"--config: type {advice}."
    )


def need(flags: Flags, name: str, example: str) -> str:
    """Returns the value of a required flag."""
    value = getattr(flags, name)
    if not value:
        raise UserError(f"--{name} is missing. Type --{name}={example}.")
    return value
