"""`--protocol=robustness`: the run's own classifier on corruptions made on the device."""

from typing import Any

from jssl.errors import UserError
from jssl.evaluate.context import Context
from jssl.evaluate.protocol import DATA, Protocol, need_classifier
from jssl.evaluate.protocols.robustness_table import (
    format_robustness,
    robustness_record,
    robustness_rows,
)


def run(context: Context) -> list[dict[str, Any]]:
    """Computes top-1 errors per severity of corruptions that are regenerated on the device."""
    _, test = context.sources
    if "logits" in context.outputs and (difference := context.other_classes(test)):
        raise UserError(
            f"The run's own classifier and data set '{test.name}' have different classes: found "
            f"{difference}; expected the same names in the same order. Type another --source."
        )
    record = robustness_record(
        context.embed,
        context.state,
        test,
        size=context.size,
        transform=context.transform(test),
        seed=context.settings.seed,
    )
    print(format_robustness(record))
    return robustness_rows(record)


PROTOCOL = Protocol("robustness", run, need_classifier, (*DATA, "seed"), colours=True)
