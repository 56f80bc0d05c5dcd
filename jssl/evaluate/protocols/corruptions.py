"""The protocols on a run's own classifier: how it fares on corrupted and changed images."""

from typing import Any

from jssl.errors import UserError
from jssl.evaluate.context import Subject
from jssl.evaluate.protocols.corruptions_table import (
    format_robustness,
    robustness_record,
    robustness_rows,
)


def robustness(subject: Subject) -> list[dict[str, Any]]:
    """Top-1 errors along the severities of corruptions that are regenerated on the device."""
    _, test = subject.halves
    if "logits" in subject.outputs and (words := subject.other_classes(test)):
        raise UserError(
            f"The run's own classifier and data set '{test.name}' have other classes: found "
            f"{words}; expected the same names in the same order. Type another --source."
        )
    found = robustness_record(
        subject.embed,
        subject.state,
        test,
        size=subject.size,
        transform=subject.transform(test),
        seed=subject.settings.seed,
    )
    print(format_robustness(found))
    return robustness_rows(found)
