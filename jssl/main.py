"""The commands: `jssl train|evaluate|embed|export|report|compile`, also as `python -m jssl`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jssl.errors import UserError, WriteError, nearest

Flags = argparse.Namespace


def _train(flags: Flags) -> None:
    need(flags, "config", "configs/simclr_photos.py")
    folder = need(flags, "workdir", "runs/NAME")
    config = read_config(flags)
    _distribute(flags)
    from jssl import job, judge, stages, workdir

    run = stages.run if stages.stages_of(config) else judge.train_and_judge
    with job.together(folder), workdir.write_errors(Path(folder).absolute()):
        run(config, folder)


def _distribute(flags: Flags) -> None:
    """Joins the job, when the flags say that there is one."""
    import jax

    timeouts = {
        "initialization_timeout": flags.init_timeout,
        "heartbeat_timeout_seconds": flags.heartbeat_timeout,
        "shutdown_timeout_seconds": flags.shutdown_timeout,
    }
    if flags.coordinator is not None:
        jax.distributed.initialize(flags.coordinator, flags.processes, flags.process, **timeouts)
    elif flags.distributed:
        jax.distributed.initialize(**timeouts)


def _evaluate(flags: Flags) -> None:
    from jssl import protocols

    folder = need(flags, "workdir", "runs/NAME")
    given = {k: v for k, v in vars(flags).items() if k in protocols.Settings._fields}
    given = {k: v for k, v in given.items() if v is not None}
    names = [name.strip() for name in flags.protocol.split(",")]
    protocols.check_settings(names, given)
    protocols.evaluate_run(folder, protocols=names, settings=protocols.Settings(**given))


def _embed(flags: Flags) -> None:
    from jssl import protocols

    protocols.embed_run(
        need(flags, "workdir", "runs/NAME"),
        output=need(flags, "output", "features.npz"),
        feature=flags.feature,
        step=flags.step,
        source=flags.source,
        data_dir=flags.data_dir,
        split=flags.split,
    )


def _export(flags: Flags) -> None:
    from jssl import convert

    formats = {"detectron2": convert.export_detectron2}
    if flags.format not in formats:
        raise UserError(f"Unknown format '{flags.format}': {nearest(flags.format, formats)}.")
    output = need(flags, "output", "resnet.pkl")
    recipe = formats[flags.format](need(flags, "workdir", "runs/NAME"), output)
    print(f"{output}: the encoder for {flags.format}; how to fine-tune it: {recipe}")


def _report(flags: Flags) -> None:
    from jssl import report

    report.report(need(flags, "records", "configs/results"), readme=flags.readme)


def _compile(flags: Flags) -> None:
    need(flags, "config", "configs/simclr_imagenet.py")
    topology_text = need(flags, "topology", "v5e:16x16")
    from jssl.fit import command, devices

    topology = devices.prepare(topology_text)
    config = read_config(flags)
    name = flags.config.replace(".py", "").removeprefix("configs/")
    command.fit(
        config,
        name=" ".join([name, *(f"{key}={value}" for key, value in flags.settings)]),
        topology=topology,
        batch=flags.batch,
        examples=flags.examples,
        output=flags.output,
    )


class Command(NamedTuple):
    """A command: what it does, its flags as for `argparse`, and whether it takes `--config`."""

    run: Callable[[Flags], None]
    purpose: str
    flags: dict[str, dict[str, Any]]
    config: bool = False


_WORKDIR = {"workdir": {"metavar": "DIR", "help": "folder of the run"}}
_CHECKPOINT = {
    "step": {"type": int, "metavar": "N", "help": "checkpoint; the newest by default"},
    "source": {"metavar": "NAME", "help": "data set; that of the run by default"},
    "data_dir": {"metavar": "DIR", "help": "where the data set lies"},
}
COMMANDS: dict[str, Command] = {
    "train": Command(
        _train,
        "trains a config, or resumes its run",
        {
            **_WORKDIR,
            "distributed": {"type": bool, "help": "join the job that the cluster describes"},
            "coordinator": {"metavar": "HOST:PORT", "help": "process 0, for a job by hand"},
            "processes": {"type": int, "metavar": "N", "help": "number of processes of that job"},
            "process": {"type": int, "metavar": "N", "help": "which of them this is"},
            "init_timeout": {
                "type": int,
                "default": 300,
                "metavar": "SECONDS",
                "help": "wait so long for the others to start",
            },
            "heartbeat_timeout": {
                "type": int,
                "default": 30,
                "metavar": "SECONDS",
                "help": "a process that is silent so long is dead",
            },
            "shutdown_timeout": {
                "type": int,
                "default": 60,
                "metavar": "SECONDS",
                "help": "wait so long for the others to end",
            },
        },
        config=True,
    ),
    "evaluate": Command(
        _evaluate,
        "judges a run by protocols",
        {
            **_WORKDIR,
            "protocol": {"default": "knn,linear", "help": "names with commas, or all"},
            "k": {"type": int, "metavar": "N", "help": "neighbours of kNN"},
            "temperature": {"type": float, "help": "of kNN's weights exp(similarity/temperature)"},
            "feature": {"metavar": "NAME", "help": "backbone or an intermediate"},
            "preset": {"metavar": "NAME", "help": "of the linear protocol; the method's own"},
            "epochs": {"type": float, "help": "of linear and voc_*; the preset's by default"},
            "seed": {"type": int, "help": "of what a protocol draws; the run's own stays"},
            **_CHECKPOINT,
        },
    ),
    "embed": Command(
        _embed,
        "writes the features of a data set",
        {
            **_WORKDIR,
            "output": {"metavar": "FILE.npz", "help": "the file to write"},
            "feature": {"default": "backbone", "metavar": "NAME", "help": "or an intermediate"},
            "split": {"default": "test", "help": "train or test"},
            **_CHECKPOINT,
        },
    ),
    "export": Command(
        _export,
        "writes a trained encoder for another library",
        {
            **_WORKDIR,
            "output": {"metavar": "FILE.pkl", "help": "the file to write"},
            "format": {"default": "detectron2", "help": "whose file; a recipe lies beside it"},
        },
    ),
    "report": Command(
        _report,
        "makes the table of results",
        {
            "records": {"metavar": "DIR", "help": "folder of result.json files"},
            "readme": {"metavar": "FILE", "help": "file whose results table is replaced"},
        },
    ),
    "compile": Command(
        _compile,
        "compiles a config for hardware that is not there: memory, time, traffic",
        {
            "topology": {"metavar": "CHIP:SHAPE", "help": "v5e:16x16, v5p:4x4x4, h100:8"},
            "batch": {"default": "", "help": "examples a device, or auto; the config's"},
            "examples": {
                "type": int,
                "default": 0,
                "metavar": "N",
                "help": "in the train split, where the data are not here",
            },
            "output": {"metavar": "FILE.json", "help": "the record to write"},
        },
        config=True,
    ),
}
ALIASES = {"fit": "compile"}  # older names


def usage() -> str:
    """The text of `jssl --help`."""
    rows = "\n".join(f"  jssl {name:<10}{c.purpose}" for name, c in COMMANDS.items())
    return f"""jssl: self-supervised vision training in JAX

{rows}

  jssl train --config=configs/NAME.py[:switches] --workdir=DIR [--config.KEY=VALUE ...]

Every run leaves its config, versions, parameter table, metrics and checkpoints in the workdir;
the same command resumes it. `jssl COMMAND --help` lists the flags of a command."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` lists the flags.")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, found '{text}'")
    return text.lower() in ("true", "1")


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command's own flags."""
    command = COMMANDS[name]
    made = _Parser(
        prog=f"jssl {name}",
        description=f"{command.purpose.capitalize()}.",
        allow_abbrev=False,
        epilog="Any key of the config: --config.KEY=VALUE." if command.config else None,
    )
    if command.config:
        made.add_argument("--config", metavar="FILE.py[:switches]", help="the config file")
    for flag, options in command.flags.items():
        if options.get("type") is bool:
            options = {**options, "type": _boolean, "nargs": "?", "const": True, "default": False}
            made.add_argument(f"--{flag}", **options, metavar="BOOL")
            made.add_argument(
                f"--no{flag}", dest=flag, action="store_false", help=argparse.SUPPRESS
            )
        else:
            made.add_argument(f"--{flag}", **options)
    made.add_argument(
        "--verbosity", type=int, default=-1, metavar="N", help="0: what libraries tell as well"
    )
    return made


def parse(name: str, words: Sequence[str]) -> Flags:
    """Reads the flags of a command.

    Args:
        name: of the command.
        words: what follows it on the command line.

    Returns:
        A value for each flag; `settings` holds the (key, value) of each `--config.KEY=VALUE`.

    Raises:
        UserError: a flag that this command does not have, saying what to type.
    """
    own, settings, words = [], [], _double_dashes(words)
    while words:
        word = words.pop(0)
        if word.startswith(("--config.", "--noconfig.")):
            key, given, value = word.partition("=")
            if word.startswith("--noconfig."):  # as absl's flags had it
                key, given, value = key.replace("--noconfig.", "--config.", 1), "=", "False"
            elif not given:
                given, value = ("=", words.pop(0)) if words and words[0][:2] != "--" else ("", "")
            if not given:  # a bool may stand alone
                value = "True"
            settings.append((key.removeprefix("--config."), value))
        else:
            own.append(word)
    if settings and not COMMANDS[name].config:
        raise UserError(
            f"jssl {name} takes no --config.{settings[0][0]}: a run keeps the settings that it was "
            "trained with."
        )
    flags, rest = parser(name).parse_known_args(own)
    if rest:
        raise UserError("\n".join(_unknown(name, word) for word in rest))
    flags.settings = settings
    return flags


def _double_dashes(words: Sequence[str]) -> list[str]:
    """Flags with one dash, as absl takes them, get two."""
    one = [w.startswith("-") and w[1:2].isalpha() and len(w.partition("=")[0]) > 2 for w in words]
    return [f"-{w}" if single else w for w, single in zip(words, one, strict=True)]


def _unknown(name: str, word: str) -> str:
    """What to type instead of a flag that a command does not have."""
    if not word.startswith("-"):
        return f"Unexpected word '{word}' after 'jssl {name}'. Flags begin with --."
    flag = word.lstrip("-").partition("=")[0]
    value = word.partition("=")[2] or "VALUE"
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


def need(flags: Flags, name: str, example: str) -> str:
    """The value of a flag that must be given."""
    value = getattr(flags, name)
    if not value:
        raise UserError(f"--{name} is missing. Type --{name}={example}.")
    return value


def read_config(flags: Flags) -> Any:
    """The config of `--config` with every `--config.KEY=VALUE` set."""
    from jssl import checks, config_file

    config = config_file.load(flags.config)
    for key, value in flags.settings:
        config_file.override(config, key, value)
    checks.check(config)
    return config


def version() -> str:
    """`jssl VERSION (commit COMMIT)`."""
    from jssl import versions

    return f"jssl {versions.jssl_version()} (commit {versions.jssl_commit()})"


def main(words: Sequence[str]) -> None:
    """Runs the command named by the first word.

    Raises:
        UserError: a mistake on the command line or in what it names.
    """
    words = list(words)
    if not words or words[0] in ("--help", "-h", "--helpfull", "-help", "help"):
        print(usage())
        return
    if words[0] in ("--version", "-version"):
        print(version())
        return
    if words[0].startswith("-"):  # flags before the command, as absl allowed
        place = next((i for i, w in enumerate(words) if w in {*COMMANDS, *ALIASES}), None)
        if place is None:
            raise UserError(
                f"Found '{words[0]}' where a command is expected: {nearest('', COMMANDS)}."
            )
        words.insert(0, words.pop(place))
    name = ALIASES.get(words[0], words[0])
    if name not in COMMANDS:
        raise UserError(f"Unknown command '{name}': {nearest(name, COMMANDS)}.")
    flags = parse(name, ["--help" if w in ("-help", "--helpfull") else w for w in words[1:]])
    _quiet(flags.verbosity)
    COMMANDS[name].run(flags)


def _quiet(verbosity: int) -> None:
    """Orbax and grain tell every step of theirs at INFO; --verbosity=0 brings it back."""
    from absl import logging

    logging.use_absl_handler()
    logging.get_absl_handler().python_handler.stream = sys.stderr
    logging.set_verbosity(verbosity)


def run() -> None:
    """Entry point of the console script: user errors end with a message and status 2."""
    from jssl import terminal

    terminal.guard_streams()
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"jssl: {error}", file=sys.stderr)
        if isinstance(error, WriteError):
            os._exit(2)  # at exit libraries would try to write the same again, and bury the message
        sys.exit(2)
