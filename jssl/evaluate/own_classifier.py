"""The rows of a network's own classifier: top-1, top-5 and the mean over classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jssl.evaluate.table import OWN, classifier_row, metric_row
from jssl.metrics.intervals import binomial_interval, mean_per_class_interval


def classifier_rows(
    sets: Mapping[str, tuple[Any, Any]], *, name: str, how: str = "", probe: str = OWN
) -> list[dict[str, Any]]:
    """Returns three rows for a network's own classifier, or for one that was trained on it.

    Args:
        sets: kind -> (logits float [M,K], labels int [M]); kinds are 'trained' and 'untrained'.
        name: of the data set.
        how: more protocol text, such as the crop.
        probe: name of the classifier.

    Returns:
        Rows of top-1, top-5 and the mean over classes of the accuracy within each; of five or fewer
        classes there is no top-5. The number of top-1 has all three. Of equal logits the first
        counts, so that top-5 is never below top-1.

    Example:
        >>> logits = np.eye(6)[[0, 1, 2, 3]]
        >>> rows = classifier_rows({'trained': (logits, np.array([0, 1, 3, 5]))}, name='toy')
        >>> [(row.get('metric', 'top-1'), row['numbers']['trained'].get('value')) for row in rows]
        [('top-1', None), ('top-5', 0.75), ('mean per class', 0.5)]
    """
    numbers: dict[str, dict[str, Any]] = {"top-1": {}, "top-5": {}, "mean per class": {}}
    for kind, (logits, labels) in sets.items():
        row = classifier_row(logits, labels, name=name, how=how, kind=kind, probe=probe)
        number, count = row["numbers"][kind], len(labels)
        numbers["top-1"][kind] = number
        values = {"mean per class": number["mean_per_class"]}
        right = np.argmax(logits, axis=1) == labels
        intervals = {"mean per class": mean_per_class_interval(right, labels)}
        if "top5" in number:
            values["top-5"] = number["top5"]
            intervals["top-5"] = binomial_interval(round(number["top5"] * count), count)
        for metric, value in values.items():
            numbers[metric][kind] = metric_row(
                row["probe"],
                metric=metric,
                value=value,
                ci95=intervals[metric],
                count=count,
                feature=number["feature"],
                protocol=number["protocol"],
                kind=kind,
            )["numbers"][kind] | {"dim": number["dim"]}
    top1 = {kind: number["top1"] for kind, number in numbers["top-1"].items()}
    first = {**row, "top1": top1, "numbers": numbers.pop("top-1")}
    others = [
        {"probe": row["probe"], "metric": metric, "protocol": row["protocol"], "numbers": found}
        for metric, found in numbers.items()
        if found
    ]
    return [first, *others]
