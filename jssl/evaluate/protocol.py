"""The interface of the protocols: each file of `jssl.evaluate.protocols` exports one `PROTOCOL`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jssl.data.landmarks import SETS
from jssl.evaluate.context import Context

Row = dict[str, Any]


def labelled_data(context: Context) -> dict[str, Any]:
    """What a record says of the run's own data, or of another --source."""
    train, test = context.sources
    return {
        "name": test.name,
        "split": "test",
        "examples": len(test),
        "fingerprint": test.fingerprint(),
        "train_examples": len(train),
    }


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to evaluate a run.

    Attributes:
        name: of `--protocol`.
        run: `(context) -> rows` of the table; each number says its whole protocol.
        needs: `(context) -> str`: what the run or its data lack for it, in words; '' where they
            lack nothing. `all` runs the protocols that lack nothing, and the card names the others.
        uses: the settings that it reads, besides `step`; another one is refused.
        baseline: whether kNN of the untrained net and of raw pixels is shown beside it.
        data: `(context) -> dict`, what the record says of the examples.
        selects: what is chosen by labels, and of which examples, in words; '' where nothing is. It
            is never the test split: a test poisons its labels, and nothing else may change.
    """

    name: str
    run: Callable[[Context], list[Row]]
    needs: Callable[[Context], str]
    uses: tuple[str, ...] = ()
    baseline: bool = False
    data: Callable[[Context], dict[str, Any]] = labelled_data
    selects: str = ""


DATA = ("source", "data_dir")
KNN = ("k", "temperature")  # with a baseline too: it is kNN of the untrained net


def need_labels(context: Context) -> str:
    """What the data lack for a probe that is fitted on labels."""
    if context.settings.source in SETS:  # Oxford and Paris have queries and no classes
        return "a labelled data set: another --source"
    train, test = context.sources
    if min(train.num_classes, test.num_classes) < 2:
        return f"labels in both splits of '{test.name}'"
    return ""


def need_classifier(context: Context) -> str:
    """What a run lacks whose own classifier is to be judged on labelled data."""
    if "logits" not in context.outputs:
        return "a classifier of its own: a run of supervised, noisy_student or deit"
    if lacking := need_labels(context):
        return lacking
    other = context.other_classes(context.sources[1])
    return f"a data set of the classifier's own classes, found {other}" if other else ""
