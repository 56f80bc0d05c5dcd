"""The commands, `jssl train|evaluate|...`, also as `python -m jssl`."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jssl.errors import UserError, WriteError, nearest
from jssl.flags import (
    ALIASES,
    COMMANDS,
    FORM_KEYS,
    Flags,
    advice_for,
    has_form,
    need,
    parse,
    usage,
)


def _train(flags: Flags) -> None:
    if from_folder := has_form(flags):
        need(flags, "data", "pictures")
        need(flags, "method", "simclr")
    elif flags.config is None:
        raise UserError(
            "--config is missing. Type --config=simclr_photos, or for your own pictures "
            "--data=DIR --method=simclr."
        )
    folder = need(flags, "workdir", "runs/NAME")
    from jssl import convert
    from jssl.run import host_memory, pretrained

    host_memory.keep_freed()

    # Each process of a pod would write into the same folder.
    alone = flags.coordinator is None and not flags.distributed
    with pretrained.run_in(folder, convert.import_if_weights if alone else None):
        if from_folder:
            _distribute(flags)
            _train_on_folder(flags, folder)
            return
        config = read_config(flags)
        _distribute(flags)
        _run(config, folder, flags)


def _train_on_folder(flags: Flags, folder: str) -> None:
    """Chooses the config of a run on a folder of pictures, and trains it."""
    from jssl.run import quick

    given = {k: v for k, v in vars(flags).items() if k in FORM_KEYS and v is not None}
    asked = quick.Asked(**given, settings=tuple(flags.settings))
    config = quick.resolve(asked, folder)
    with quick.own_flags():
        _run(config, folder, flags)


def _run(config: Any, folder: str, flags: Flags) -> None:
    from jssl.parallel import job
    from jssl.run import extend, judge, stages, stopping, workdir

    run: Callable[..., Any] = functools.partial(judge.train_and_judge, longer=flags.extend)
    if stages.stages_of(config):
        if flags.extend:
            extend.refuse_stages()
        run = stages.run
    together = job.together(folder, flags.heartbeat_timeout)
    with stopping.signals(), together, workdir.write_errors(Path(folder).absolute()):
        run(config, folder)


def _distribute(flags: Flags) -> None:
    from jssl.parallel import job

    job.initialize(flags)


def _sweep(flags: Flags) -> None:
    need(flags, "config", "simclr_photos")
    folder = need(flags, "workdir", "runs/NAME")
    seeds = flags.seeds.split(",")
    if not all(seed.strip().isdecimal() for seed in seeds) or len({*seeds}) < len(seeds):
        raise UserError(f"Found --seeds={flags.seeds}: expected whole numbers, such as 0,1,2.")
    config = read_config(flags)
    from jssl.run import stopping, sweep, workdir

    with stopping.signals(), workdir.write_errors(Path(folder).absolute()):
        sweep.sweep(config, folder, flags.over or (), [int(seed) for seed in seeds])


def _runs(flags: Flags) -> None:
    from jssl.run import runs

    if len(flags.folders) > 2:
        raise UserError(
            f"Found {len(flags.folders)} folders: type jssl runs DIR, or jssl runs WORKDIR WORKDIR."
        )
    listed = len(flags.folders) == 1
    print(runs.runs_table(*flags.folders) if listed else runs.compare(*flags.folders))


def _config(flags: Flags) -> None:
    need(flags, "config", "simclr_photos")
    from jssl.run import show_config, versioned

    config = read_config(flags)
    typed = [versioned.OLD_KEYS.get(key, key) for key, _ in flags.settings]
    print(show_config.show(config, typed))


def _configs(flags: Flags) -> None:
    from jssl import shipped

    width = max(map(len, shipped.names()))
    print("\n".join(f"{name:<{width}}  {shipped.purpose(name)}" for name in shipped.names()))
    print("\nType jssl train --config=NAME --workdir=DIR, or jssl config --config=NAME.")


def _import(flags: Flags) -> None:
    need(flags, "weights", "resnet50.pth")
    _run_folder(flags)


def _run_folder(flags: Flags) -> str:
    """Returns the workdir; the file of `--weights` is imported into it first."""
    folder = need(flags, "workdir", "runs/NAME")
    if flags.family is not None and flags.weights is None:
        raise UserError("--family is the kind of a weights file: type --weights=FILE too.")
    if flags.weights is not None:
        from jssl import convert

        convert.import_weights(flags.weights, folder, flags.family)
    return folder


def _evaluate(flags: Flags) -> None:
    from jssl import evaluate

    folder = _run_folder(flags)
    given = {k: v for k, v in vars(flags).items() if k in evaluate.Settings._fields}
    given = {k: v for k, v in given.items() if v is not None}
    names = [name.strip() for name in flags.protocol.split(",")]
    evaluate.check_settings(names, given)
    from jssl.run import stopping

    message = "Stopped while evaluating: the run is unchanged, and records are those before."
    with stopping.signals(), stopping.ends_at_once(message):
        evaluate.evaluate_run(folder, protocols=names, settings=evaluate.Settings(**given))


def _embed(flags: Flags) -> None:
    from jssl import evaluate

    if flags.data is not None and (flags.source is not None or flags.data_dir is not None):
        raise UserError(
            "--data=FOLDER is short for --source=folder --data_dir=FOLDER: type one of the two."
        )
    output = evaluate.check_features_output(need(flags, "output", "features.npz"))
    if flags.weights is not None and (flags.distributed or flags.coordinator is not None):
        raise UserError(
            "--weights is for one process, as each would write the same --workdir: type jssl "
            f"import --weights={flags.weights} --workdir=DIR first, then leave --weights out."
        )
    folder = _run_folder(flags)
    _distribute(flags)
    from jssl.parallel import job

    with job.together(folder, flags.heartbeat_timeout):
        evaluate.embed_run(
            folder,
            output=output,
            feature=flags.feature,
            step=flags.step,
            source=flags.source if flags.data is None else "folder",
            data_dir=flags.data_dir if flags.data is None else flags.data,
            split=flags.split,
            on_error=flags.on_error,
            limit=flags.limit,
        )


def _predict(flags: Flags) -> None:
    need(flags, "input", "FILE_OR_FOLDER")
    from jssl import evaluate, files

    # Checked before a file of --weights is read.
    output = files.check_output(need(flags, "output", "predictions.csv"), ending=".csv")
    evaluate.predict_run(
        _run_folder(flags), flags.input, output=output, top_k=flags.top_k, step=flags.step
    )


def _neighbors(flags: Flags) -> None:
    need(flags, "data", "FOLDER")
    from jssl import evaluate, files

    # Checked before a file of --weights is read.
    output = files.check_output(need(flags, "output", "neighbors.csv"), ending=".csv")
    gallery = evaluate.check_gallery(output, flags.gallery)
    evaluate.neighbors_run(
        _run_folder(flags),
        flags.data,
        output=output,
        gallery=gallery,
        queries=flags.query or (),
        k=flags.k,
        near_duplicates=flags.near_duplicates,
        feature=flags.feature,
        step=flags.step,
    )


def _export(flags: Flags) -> None:
    from jssl import convert

    if flags.format not in convert.FORMATS:
        raise UserError(
            f"Unknown format '{flags.format}': {nearest(flags.format, convert.FORMATS)}."
        )
    output = need(flags, "output", convert.OUTPUTS[flags.format])
    folder = need(flags, "workdir", "runs/NAME")
    network, paths = convert.export_run(
        folder, output, flags.format, which=flags.which, step=flags.step, pixels=flags.pixels
    )
    print(f"{', '.join(map(str, paths))}: {network.config.model.name}, {network.about}")


def _report(flags: Flags) -> None:
    if flags.workdir is None and flags.map is not None:
        raise UserError("--map is of the report of one run: type its --workdir.")
    if flags.workdir is not None:
        if any(x is not None for x in (flags.records, flags.readme, flags.output)):
            raise UserError(
                "--workdir is for the report of one run, --records, --readme and --output for the "
                "table of many: type one of the two."
            )
        from jssl import report
        from jssl.run import stopping

        with stopping.signals(), stopping.ends_at_once("Stopped: the old report is unchanged."):
            report.report_run(flags.workdir, map=flags.map or "")
        return
    from jssl import files
    from jssl.run import results

    if flags.output is not None:
        if flags.readme is not None:
            raise UserError("--output writes a page, --readme a table: type one of the two.")
        output = files.check_output(flags.output, ending=".html")
        from jssl import report

        print(report.compare_runs(need(flags, "records", "runs/A,runs/B"), output))
        return
    records = need(flags, "records", "configs/results")
    if not Path(records).is_dir() and ("," in records or Path(records).is_file()):
        raise UserError(
            f"The table is made of the records below one folder, found --records={records}. Type "
            "that folder, or add --output=runs.html for a page that compares files and folders."
        )
    results.report(records, readme=flags.readme)


def _doctor(flags: Flags) -> None:
    _distribute(flags)
    from jssl.run import doctor

    doctor.exit_status(doctor.run(flags.workdir))


def _compile(flags: Flags) -> None:
    need(flags, "config", "simclr_imagenet")
    topology_text = need(flags, "topology", "v5e:16x16")
    from jssl.compile import command, devices
    from jssl.run import config_file, versions

    topology = devices.prepare(topology_text)
    config = read_config(flags)
    teacher = config_file.load(flags.teacher) if flags.teacher else None
    name = flags.config.replace(".py", "").removeprefix("configs/")
    name = " ".join([name, *(f"{key}={value}" for key, value in flags.settings)])
    command.fit(
        config,
        name=versions.without_folders(name),
        topology=topology,
        batch=flags.batch,
        examples=flags.examples,
        teacher=teacher,
        effort=flags.effort,
        output=flags.output,
    )


RUN: dict[str, Callable[[Flags], None]] = {
    "train": _train,
    "sweep": _sweep,
    "runs": _runs,
    "config": _config,
    "configs": _configs,
    "import": _import,
    "evaluate": _evaluate,
    "embed": _embed,
    "predict": _predict,
    "neighbors": _neighbors,
    "export": _export,
    "report": _report,
    "doctor": _doctor,
    "compile": _compile,
}


def read_config(flags: Flags) -> Any:
    """Reads the config of `--config` and sets every `--config.KEY=VALUE`."""
    from jssl.run import checks, config_file

    config = config_file.load(flags.config)
    for key, value in flags.settings:
        config_file.override(config, key, value)
    checks.check(config)
    return config


def version() -> str:
    """Returns `jssl VERSION (commit COMMIT)`."""
    from jssl.run import versions

    return f"jssl {versions.jssl_version()} (commit {versions.jssl_commit()})"


def main(args: Sequence[str]) -> None:
    """Runs the command named by the first argument.

    Raises:
        UserError: a mistake on the command line or in what it names.
    """
    args = list(args)
    if not args or args[0] in ("--help", "-h", "--helpfull", "-help", "help"):
        print(usage())
        return
    if args[0] in ("--version", "-version"):
        print(version())
        return
    if args[0].startswith("-"):  # flags before the command, as absl allowed
        place = next((i for i, w in enumerate(args) if w in {*COMMANDS, *ALIASES}), None)
        if place is None:
            raise UserError(
                f"Found '{args[0]}' where a command is expected: {nearest('', COMMANDS)}."
            )
        args.insert(0, args.pop(place))
    name = ALIASES.get(args[0], args[0])
    if name not in COMMANDS:
        raise UserError(f"Unknown command '{name}': {nearest(name, COMMANDS)}.")
    flags = parse(name, ["--help" if w in ("-help", "--helpfull") else w for w in args[1:]])
    _quiet(flags.verbosity)
    if "://" not in str(getattr(flags, "workdir", "")):
        RUN[name](flags)
        return
    from jssl.run import stores

    several = any(getattr(flags, key, None) for key in ("coordinator", "distributed"))
    with stores.opened(flags.workdir, several=several) as flags.workdir:
        RUN[name](flags)


def _quiet(verbosity: int) -> None:
    """Hides the INFO logs of Orbax and grain; --verbosity=0 shows them."""
    from absl import flags, logging

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.get_absl_handler().python_handler.stream = sys.stderr
    logging.set_verbosity(verbosity)


def run() -> None:
    """Entry point of the console script: user errors end with a message and status 2."""
    from jssl.run import terminal

    terminal.guard_streams()
    try:
        main(sys.argv[1:])
    except UserError as error:
        args = [ALIASES.get(word, word) for word in sys.argv[1:]]
        name = next((word for word in args if word in COMMANDS), None)
        print(f"jssl: {advice_for(name, str(error)) if name else error}", file=sys.stderr)
        if isinstance(error, WriteError):
            os._exit(2)  # at exit libraries would retry the write, and hide the message
        sys.exit(2)
    except KeyboardInterrupt:
        print("jssl: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
