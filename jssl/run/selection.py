"""Selects the best of several finished runs by validation: python -m jssl.run.selection RUNS.

A run that was evaluated on the test split is refused: selecting by the test split would bias it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jssl import config as config_lib
from jssl.errors import UserError
from jssl.evaluate.protocols.transfer_sets import PER_CLASS, TRANSFER_SETS
from jssl.run import workdir

ROW = "own classifier"
CHOSEN = ("optim.", "epochs", "seed")  # keys in which runs may differ


def validation_score(folder: str | Path) -> float:
    """Returns the score of a finished run's classifier on validation examples, in [0, 1].

    The mean per class if that is the metric of a transfer data set, else top-1.

    Args:
        folder: workdir of a run of `supervised`.

    Raises:
        UserError: not finished, without a classifier, or evaluated on the test split.
    """
    config = workdir.read_config(folder)
    known = TRANSFER_SETS.get(config.data.name)
    own = known is not None and known.validation and config.data.test_split == known.validation
    section = config.get(config.method, {})
    if not own and not section.get("held_out", 0):
        raise UserError(
            f"The run in '{folder}' was evaluated on the test split of '{config.data.name}': "
            "selecting by it would bias the test. Train with --config.supervised.held_out=N, or on "
            "a data set's own validation split as configs/finetune_transfer.py does."
        )
    path = Path(folder) / "result.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    scores = [row["numbers"]["trained"] for row in rows if row["probe"] == ROW]
    if not scores:
        raise UserError(
            f"The run in '{folder}' has no result of its own classifier in result.json: expected a "
            "finished run of supervised. To finish it, type its command again."
        )
    metric = "mean_per_class" if known is not None and known.metric == PER_CLASS else "top1"
    return float(scores[0][metric])


def best_run(folders: Sequence[str | Path]) -> tuple[str, dict[str, float]]:
    """Returns the run with the best validation score; of equal ones the first.

    Args:
        folders: workdirs of finished runs that differ only in optimiser, length or seed.

    Returns:
        Its folder, and the score of each.

    Raises:
        UserError: no folders, runs that differ in more, or as `validation_score`.
    """
    if not folders:
        raise UserError("No run was named. Type python -m jssl.run.selection runs/pets_*")
    first = _fixed(folders[0])
    for folder in folders[1:]:
        differences = config_lib.diff(first, _fixed(folder))
        if differences:
            raise UserError(
                f"The runs in '{folders[0]}' and '{folder}' differ in more than optimiser, length "
                f"and seed: {'; '.join(differences[:5])}. Type the runs of one grid."
            )
    scores = {str(folder): validation_score(folder) for folder in folders}
    return max(scores, key=scores.__getitem__), scores


def _fixed(folder: str | Path) -> dict[str, Any]:
    flat = config_lib.flatten(workdir.read_config(folder))
    left_out = (*CHOSEN, *workdir.FREE, "run.")
    return {key: value for key, value in flat.items() if not key.startswith(left_out)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 after a user error."""
    parser = argparse.ArgumentParser(prog="python -m jssl.run.selection", description=__doc__)
    parser.add_argument("runs", nargs="*", help="workdirs of finished runs")
    try:
        best, scores = best_run(parser.parse_args(arguments).runs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for folder, score in sorted(scores.items(), key=lambda item: -item[1]):
        optim = workdir.read_config(folder).optim
        print(f"{100 * score:5.1f}  lr {optim.lr:g}, weight decay {optim.weight_decay:g}  {folder}")
    print(f"Best on validation examples: {best}. Train it again with the switch final.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
