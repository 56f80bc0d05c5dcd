"""The sections of a report that need the network: at the end of a run, or of a workdir."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jssl import files, methods
from jssl.errors import UserError, nearest
from jssl.precision import narrow
from jssl.report.document import KEPT, warn, write_report
from jssl.report.feature_map import check_map, feature_map
from jssl.report.heat import heat_maps
from jssl.report.look import BANK, QUERIES, network_of, see
from jssl.report.sections import confusion, neighbours, views
from jssl.run import build, workdir
from jssl.run.build import Experiment
from jssl.run.checks import MAPS
from jssl.run.writers import say
from jssl.third_party import same_handlers
from jssl.types import TrainState


def network_sections(
    parts: Experiment, state: TrainState, compiled: Callable[..., Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Computes the sections of a network, see `jssl.report.sections`.

    Args:
        parts: of the run.
        state: global.
        compiled: `(state, images) -> (features, intermediates)`.

    Returns:
        The sections; and a sentence for each that could not be made, with the error.

    Raises:
        UserError: pictures or the network cannot be read.
    """
    network = network_of(parts, state, compiled)
    bank = see(network, parts.probe_source, BANK)
    queries = bank
    if network.tested:
        queries = see(network, parts.test_source, QUERIES)
    made: dict[str, Callable[[], dict[str, Any] | None]] = {
        "The views": lambda: views(network),
        "The neighbours": lambda: neighbours(network, bank, queries),
        "The map of the features": lambda: feature_map(network, queries),
        "The picture of where the network looks": lambda: heat_maps(network, queries),
        "The confusion matrix": lambda: confusion(network, bank, queries),
    }
    sections, notes = [], []
    for what, make in made.items():
        try:
            section = make()
        except Exception as error:  # the others are still shown, and the page says it
            notes.append(f"{what} could not be made: {type(error).__name__}: {error}")
            continue
        sections += [section] if section is not None else []
    return sections, notes


def at_the_end(
    parts: Experiment, folder: str | Path, state: TrainState, compiled: Callable[..., Any]
) -> list[dict[str, Any]]:
    """Writes the whole report of a run that has ended; it ends no run, but warns.

    Args:
        parts: of the run; its `config.report.enabled` decides.
        folder: the workdir.
        state: the last one.
        compiled: see `network_sections`.

    Returns:
        The sections of the network; none if they could not be made.
    """
    sections: list[dict[str, Any]] = []
    if not parts.config.report.enabled:
        return sections
    started, missing = time.monotonic(), ""
    try:
        if jax.process_count() > 1:
            missing = "the run had several processes. Type jssl report --workdir=DIR."
        elif not methods.get(parts.config.method).data.dense:
            try:
                sections, notes = network_sections(parts, state, compiled)
                _keep(Path(folder), int(state.step), sections, notes)
            except UserError as error:
                missing = str(error)
        if jax.process_index() == 0:
            path = write_report(folder, state="finished", missing=missing)
            say(f"report: {path} ({time.monotonic() - started:.1f} s)")
    except Exception as error:
        warn(error)
    return sections


def _keep(folder: Path, step: int, sections: list[dict[str, Any]], notes: list[str]) -> None:
    for line in notes:
        say(f"WARNING {line}")
    files.write_json(folder / KEPT, {"step": step, "sections": sections, "notes": notes})


@narrow
@same_handlers()
def report_run(folder: str | Path, *, map: str = "") -> Path:
    """Writes the report of a workdir: of a run that has ended, that was stopped, or that runs.

    Args:
        folder: the workdir; an older version of jssl may have written it.
        map: of the features, 'pca' or 'umap'; '' is the `report.map` of its config.

    Returns:
        The path of the page. Where the network or the data cannot be read, it says why.

    Raises:
        UserError: a folder without a config.json, or one that cannot be written; an unknown map,
            or one whose package is not installed.
    """
    folder, missing = Path(folder), ""
    config = workdir.read_config(folder)
    if map and map not in MAPS:
        raise UserError(f"Unknown --map={map}: {nearest(map, MAPS)}.")
    with config.unlocked():
        config.report.update(enabled=True, map=map or config.report.map)
    check_map(config.report)
    try:
        files.check_folder(folder)
    except OSError as error:
        raise UserError(
            f"The report goes to {folder}, which cannot be written ({error.strerror}). Copy the "
            "workdir to a disk with room, and type its --workdir."
        ) from None
    if not methods.get(config.method).data.dense:
        try:
            embed, state = build.load_encoder(folder)
            config.launch = "jit"  # of one device, wherever the run was trained
            parts = build.build(config)
            _keep(folder, int(state.step), *network_sections(parts, state, jax.jit(embed)))
        except UserError as error:
            missing = str(error)
    path = write_report(folder, missing=missing)
    say(f"{path}{f' (without the pictures of the network: {missing})' if missing else ''}")
    return path
