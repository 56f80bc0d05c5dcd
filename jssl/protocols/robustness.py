"""The protocols on a run's own classifier: how it fares on corrupted and changed images."""

from typing import Any

from jssl import evaluate
from jssl.protocols.subject import Subject


def robustness(subject: Subject) -> list[dict[str, Any]]:
    """Top-1 errors along the severities of corruptions that are regenerated on the device."""
    _, test = subject.halves
    found = evaluate.robustness_record(
        subject.embed,
        subject.state,
        test,
        size=subject.size,
        transform=subject.transform(test),
        seed=subject.settings.seed,
    )
    print(evaluate.format_robustness(found))
    return evaluate.robustness_rows(found)
