"""The interface of the protocols: each file of `jssl.evaluate.protocols` exports one `PROTOCOL`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jssl.data.landmarks import SETS
from jssl.evaluate.context import Context

Row = dict[str, Any]


def labelled_data(context: Context) -> dict[str, Any]:
    """Describes the data of the run, or of another --source, for the record."""
    train, test = context.sources
    return {
        "name": test.name,
        "split": "test",
        "examples": len(test),
        "fingerprint": test.fingerprint(),
        "train_examples": len(train),
    }


def no_files(context: Context) -> dict[str, bytes]:
    """Returns no files beside the record."""
    return {}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to evaluate a run.

    Attributes:
        name: value of `--protocol`.
        run: `(context) -> rows` of the table; each number has its full protocol.
        needs: `(context) -> str`: text of what the run or its data lack; '' if nothing. `all` runs
            the protocols that lack nothing, and the model card lists the others.
        uses: the settings that it reads, besides `step`; others are refused.
        baseline: whether to add kNN of the untrained network and of raw pixels.
        data: `(context) -> dict`, the description of the examples for the record.
        selects: text of what is chosen by labels, and on which examples; '' if nothing is. Never
            the test split: a test changes its labels, and only the scores may change.
        files: `(context) -> {name: content}`, written beside the record after `run`.
        colours: whether its pictures are of three channels, whatever the run's are.
    """

    name: str
    run: Callable[[Context], list[Row]]
    needs: Callable[[Context], str]
    uses: tuple[str, ...] = ()
    baseline: bool = False
    data: Callable[[Context], dict[str, Any]] = labelled_data
    selects: str = ""
    files: Callable[[Context], dict[str, bytes]] = no_files
    colours: bool = False

    def lacks(self, context: Context) -> str:
        """Returns what `needs` does; and where the run has other channels, that it needs three."""
        return (
            need_colours(context) if self.colours and context.channels != 3 else self.needs(context)
        )


DATA = ("source", "data_dir")
KNN = ("k", "temperature")  # also for a baseline, which is kNN of the untrained network


def need_colours(context: Context) -> str:
    """Returns what a run of other channels lacks for pictures in colour."""
    return f"a run on pictures in colour: data.channels=3, found {context.channels}"


def need_labels(context: Context) -> str:
    """Returns what the data lack for a probe that is fitted on labels; '' if nothing."""
    if context.settings.source in SETS:  # Oxford and Paris have queries and no classes
        return "a labelled data set: another --source"
    train, test = context.sources
    if min(train.num_classes, test.num_classes) < 2:
        return f"labels in both splits of '{test.name}'"
    return ""


def need_classifier(context: Context) -> str:
    """Returns what a run lacks to evaluate its own classifier on labels; '' if nothing."""
    if "logits" not in context.outputs:
        return "a classifier of its own: a run of supervised, noisy_student or deit"
    if missing := need_labels(context):
        return missing
    other = context.other_classes(context.sources[1])
    return f"a data set of the classifier's own classes, found {other}" if other else ""
