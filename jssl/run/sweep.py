"""`jssl sweep`: trains every combination of some settings, for some seeds, and chooses one.

    DIR/optim.lr=0.1,epochs=5/seed-0     the workdir of one run
    DIR/sweep.json                       the grid, the scores, and the choice

A combination is chosen by its mean accuracy over the seeds on held-out training examples
(`config.data.held_out`) after the last update. The test split takes no part; only the chosen runs
are judged on it, afterwards. The same command continues a sweep, and may have further values.
"""

import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import files
from jssl.errors import NotFiniteError, UserError
from jssl.run import build, checks, config_file, lock, runs, workdir
from jssl.run.judge import train_and_judge
from jssl.run.plain_table import plain_table
from jssl.run.writers import say

RECORD = "sweep.json"
SCORE = "held_out_top1"


class Combination(NamedTuple):
    """One value of each setting: their name in paths, and (key, value) as typed."""

    name: str
    settings: tuple[tuple[str, str], ...]


def split_values(text: str) -> list[str]:
    """Splits values at commas outside brackets and quotes.

    Example:
        >>> split_values("0.1,0.3"), split_values("(1,2),(3,4)"), split_values("'a,b',c")
        (['0.1', '0.3'], ['(1,2)', '(3,4)'], ["'a,b'", 'c'])
    """
    values, depth, quote = [""], 0, ""
    for mark in text:
        if mark in "'\"" and quote in ("", mark):
            quote = "" if quote else mark
        depth += (mark in "([{") - (mark in ")]}") if not quote else 0
        if mark == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += mark
    return values


def combinations(over: Sequence[str]) -> list[Combination]:
    """Returns the combinations of a grid.

    Args:
        over: of each setting 'KEY=VALUE,VALUE,...'.

    Raises:
        UserError: no key, no value, or one of them twice.

    Example:
        >>> [c.name for c in combinations(['optim.lr=0.1,0.3', 'epochs=5'])]
        ['optim.lr=0.1,epochs=5', 'optim.lr=0.3,epochs=5']
    """
    grid: dict[str, list[str]] = {}
    for entry in over:
        key, given, text = entry.removeprefix("config.").partition("=")
        values = [value.strip() for value in split_values(text)]
        if not given or not key or not all(values):
            raise UserError(
                f"Found --over={entry}: expected a key and its values. Type for example "
                "--over=optim.lr=0.1,0.3."
            )
        if key in grid or len({*values}) < len(values):
            raise UserError(f"Found --over={entry}: expected each key and each value once.")
        if key == "seed":
            raise UserError("The seeds of a sweep have a flag: type --seeds=0,1,2.")
        grid[key] = values
    if not grid:
        raise UserError("--over is missing. Type for example --over=optim.lr=0.1,0.3.")
    settings = [tuple(zip(grid, row, strict=True)) for row in itertools.product(*grid.values())]
    return [Combination(",".join(f"{k}={_safe(v)}" for k, v in row), row) for row in settings]


def _safe(value: str) -> str:
    return re.sub(r"[^\w.+-]", "_", value)


def sweep(
    config: ConfigDict, folder: str | Path, over: Sequence[str], seeds: Sequence[int]
) -> None:
    """Trains every combination for every seed, prints their table, and judges the chosen one.

    Args:
        config: of the runs.
        folder: of the sweep.
        over: see `combinations`.
        seeds: of the runs.

    Raises:
        UserError: a wrong grid or setting, no held-out examples, or a folder of a sweep with other
            settings; before anything is trained.
    """
    grid = combinations(over)
    if len({c.name for c in grid}) < len(grid):
        raise UserError("Two combinations have one name: expected values that differ in letters.")
    _check(config, grid, seeds)
    place = workdir.make_folder(folder)
    with lock.held(place):
        _begin(place, config, grid)
        for number, (combination, seed) in enumerate(itertools.product(grid, seeds), 1):
            _train(place, config, combination, seed, f"{number}/{len(grid) * len(seeds)}")
        _choose(place, config, grid, seeds)


def _check(config: ConfigDict, grid: Sequence[Combination], seeds: Sequence[int]) -> None:
    """Checks every combination before any is trained."""
    if jax.process_count() > 1:
        raise UserError("A sweep runs in one process: leave --distributed out.")
    if not config.data.held_out or not config.monitor.every_epochs:
        raise UserError(
            "A sweep chooses by held-out training examples, never by the test split; found "
            f"data.held_out={config.data.held_out} and monitor.every_epochs="
            f"{config.monitor.every_epochs:g}. Type for example --config.data.held_out=500."
        )
    if config.get(config.method, {}).get("stages"):
        raise UserError("A sweep trains runs of one stage; this config has several.")
    for combination in grid:
        for seed in seeds:
            one = configured(config, combination, seed)
            checks.check(one)
        build.build(configured(config, combination, seeds[0]))


def configured(config: ConfigDict, combination: Combination, seed: int) -> ConfigDict:
    """Returns the config of one run of a sweep."""
    one = config.copy_and_resolve_references()
    one.lock()
    for key, value in combination.settings:
        config_file.override(one, key, value)
    one.seed = seed
    one.final.enabled = False
    return one


def _begin(place: Path, config: ConfigDict, grid: Sequence[Combination]) -> None:
    """Writes what the runs have in common; refuses a folder whose runs have something else."""
    swept = {key for key, _ in grid[0].settings}
    flat = config_lib.flatten(json.loads(config.to_json()))
    common = {k: v for k, v in flat.items() if k not in (*swept, "seed")}
    path = place / RECORD
    if path.exists():
        record = workdir.read_json(path)
        old_keys, old = set(record.get("over", ())), record.get("common", {})
        rows = config_lib.diff(old, common)
        if old_keys != swept or rows:
            listed = "\n".join(f"  {row}" for row in rows[:10])
            raise UserError(
                f"{place} holds a sweep over {', '.join(sorted(old_keys))} of another config:\n"
                f"{listed}\nType another --workdir, or the settings of that sweep."
            )
        return
    files.write_json(path, {"over": sorted(swept), "common": common})


def _train(place: Path, config: ConfigDict, combination: Combination, seed: int, at: str) -> None:
    folder = place / combination.name / f"seed-{seed}"
    state = runs.read_run(folder).state if (folder / "config.json").exists() else ""
    say(f"sweep {at}: {combination.name}, seed {seed}{f' ({state})' if state else ''}")
    if state in ("finished", "not finite"):
        return
    try:
        train_and_judge(configured(config, combination, seed), folder)
    except NotFiniteError as error:
        say(f"WARNING {error}\nThe sweep goes on without this combination.")
    jax.clear_caches()


def score_of(folder: Path) -> float | None:
    """Returns the accuracy of a finished run on its held-out examples, in [0, 1]; else None."""
    run = runs.read_run(folder)
    return run.metrics.get(SCORE) if run.state == "finished" else None


def _choose(
    place: Path, config: ConfigDict, grid: Sequence[Combination], seeds: Sequence[int]
) -> None:
    scores: dict[str, list[float]] = {}
    for combination in grid:
        found = [score_of(place / combination.name / f"seed-{seed}") for seed in seeds]
        scores[combination.name] = [score for score in found if score is not None]
    whole = [c for c in grid if len(scores[c.name]) == len(seeds)]
    say("\n" + table(scores, len(seeds), config.data.held_out))
    if not whole:
        raise UserError(f"No combination of the sweep in {place} has a result for every seed.")
    chosen = max(whole, key=lambda c: statistics.mean(scores[c.name]))
    say(f"Chosen on held-out training examples: {chosen.name}")
    record = workdir.read_json(place / RECORD)
    record |= {"seeds": list(seeds), "scores": scores, "chosen": chosen.name}
    files.write_json(place / RECORD, record)
    _judge(place, config, chosen, seeds)


def _judge(place: Path, config: ConfigDict, chosen: Combination, seeds: Sequence[int]) -> None:
    """Evaluates the chosen runs on the test split."""
    parts = build.build(configured(config, chosen, seeds[0]))
    if parts.test_source is parts.held_out:
        say("The data have no test split: the number above is optimistic, as it was chosen by it.")
        return
    for seed in seeds:
        one = configured(config, chosen, seed)
        one.final.enabled = True
        say(f"The chosen combination on the test split, seed {seed}:")
        train_and_judge(one, place / chosen.name / f"seed-{seed}")


def table(scores: Mapping[str, Sequence[float]], seeds: int, examples: int) -> str:
    """Returns the table of a sweep, the best first.

    Args:
        scores: of each combination, of its finished seeds, in [0, 1].
        seeds: their number.
        examples: number of held-out examples.

    Example:
        >>> print(table({'epochs=1': [0.5], 'epochs=2': [0.75, 0.65]}, 2, 100))
        combination  held-out top-1 % [1]  seeds
        epochs=2               70.0 ± 7.1    2/2
        epochs=1                     50.0    1/2
        <BLANKLINE>
        [1] on 100 held-out examples after the last update; mean ± standard deviation over the seeds
    """
    rows = []
    for name, values in sorted(scores.items(), key=lambda item: -statistics.mean(item[1] or [-1])):
        percent = [100 * value for value in values]
        text = f"{statistics.mean(percent):.1f}" if percent else "-"
        text += f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
        rows.append((name, text, f"{len(values)}/{seeds}"))
    columns = {"combination": "left", "held-out top-1 % [1]": "right", "seeds": "right"}
    note = (
        f"on {examples:,} held-out examples after the last update; mean ± standard deviation over "
        "the seeds"
    )
    return plain_table(columns, rows, notes=[note])
