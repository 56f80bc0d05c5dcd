"""The table at the end of a run: each number with its interval and its full protocol."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jssl.evaluate.embed import BACKBONE
from jssl.evaluate.probes.knn import knn_accuracy
from jssl.evaluate.probes.softmax_regression import fit_linear, linear_accuracy
from jssl.metrics.intervals import binomial_interval
from jssl.run.plain_table import plain_table
from jssl.third_party import unchanged

LINEAR_BATCH = 256
TOP = 5  # the network's own classifier has a top-5 of more classes than these
# On cached features. `linear` is the papers' protocol: augmented images, SGD by a preset.
SOFTMAX_REGRESSION = "softmax_regression"
OWN = "own classifier"


def metric_row(
    probe: str,
    *,
    metric: str,
    value: float,
    ci95: Sequence[float],
    count: int,
    feature: str,
    protocol: str,
    kind: str = "trained",
) -> dict[str, Any]:
    """Returns a row of the table for a metric other than top-1 accuracy.

    Args:
        probe: name of the probe, as 'retrieval'.
        metric: name of the metric, as 'mAP'.
        value: in [0, 1]; a normalised error such as mCE may be above 1.
        ci95: (low, high) of the same kind.
        count: number of examples, queries or sequences.
        feature: text that names the feature.
        protocol: text with everything else.
        kind: of the network.

    Returns:
        A JSON-serialisable row: `probe`, `metric`, `protocol` and `numbers` {kind: {`value`,
        `ci95`, `count`, `feature`, `protocol`}}.

    Example:
        >>> row = metric_row('retrieval', metric='mAP', value=0.5, ci95=(0.4, 0.6), count=55,
        ...                  feature='trained map', protocol='toy')
        >>> print(format_table([row]))
        probe      features     metric     %  95 % interval
        retrieval  trained map  mAP     50.0    40.0 - 60.0  [1]
        <BLANKLINE>
        [1] toy
    """
    entry = {"value": float(value), "ci95": [float(edge) for edge in ci95], "count": int(count)}
    entry |= {"feature": feature, "protocol": protocol}
    return {"probe": probe, "metric": metric, "protocol": protocol, "numbers": {kind: entry}}


def knn_protocol(*, k: int, temperature: float, bank: int, queries: int, name: str) -> str:
    """Returns the protocol text of kNN, without the feature.

    Example:
        >>> knn_protocol(k=20, temperature=0.1, bank=3200, queries=1200, name='photos')
        'k=20, cosine, weights exp(s/0.1), bank 3,200 train, 1,200 test examples of photos'
    """
    return (
        f"k={k}, cosine, weights exp(s/{temperature:g}), bank {bank:,} train, {queries:,} test "
        f"examples of {name}"
    )


def linear_protocol(*, epochs: int, bank: int, queries: int, name: str) -> str:
    """Returns the protocol text of `fit_linear` with its defaults, without feature and rate.

    Example:
        >>> linear_protocol(epochs=100, bank=3200, queries=1200, name='photos').split(', ')[-3:]
        ['last epoch', '3,200 train', '1,200 test examples of photos']
    """
    return (
        "softmax regression on cached features, standardised by train statistics, no "
        "augmentation, zero init, SGD Nesterov 0.9, lr 1/L cosine, weight decay 0, "
        f"{epochs} epochs of batch {min(LINEAR_BATCH, bank)}, last epoch, {bank:,} train, "
        f"{queries:,} test examples of {name}"
    )


def probe_rows(
    sets: Mapping[str, tuple[Any, Any, Any, Any]],
    *,
    num_classes: int,
    name: str,
    feature: str = BACKBONE,
    k: int = 20,
    temperature: float = 0.1,
    linear_epochs: int = 100,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Runs two probes, kNN and linear, on several feature sets of the same examples.

    Args:
        sets: kind -> (train features [M,D], train labels [M], test features [Q,D], test labels
            [Q]); kinds are usually 'trained', 'untrained' and 'raw pixels'.
        num_classes: K.
        name: of the data set.
        feature: name of the feature, for every kind but 'raw pixels'.
        k: neighbours of kNN.
        temperature: of kNN's weights.
        linear_epochs: of `fit_linear`.
        seed: of `fit_linear`.

    Returns:
        Two JSON-serialisable rows. Each has `probe` ('kNN' or 'softmax_regression'), `protocol`
        (the part common to its numbers), `top1` {kind: in [0, 1]} and `numbers` {kind: {`top1`,
        `top5` if K >= 5, `correct`, `count`, `ci95` [low, high], `feature`, `dim`,
        `protocol`}}, where that `protocol` is complete.

    Raises:
        UserError, ValueError: as `knn_accuracy` and `fit_linear`.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(4).repeat(5, axis=0), np.arange(4).repeat(5)
        >>> rows = probe_rows({'trained': (x, y, x, y)}, num_classes=4, name='mine', k=5)
        >>> [(row['probe'], row['top1']) for row in rows]
        [('kNN', {'trained': 1.0}), ('softmax_regression', {'trained': 1.0})]
    """
    knn: dict[str, Any] = {}
    for kind, arrays in sets.items():
        row = knn_row(
            *arrays,
            num_classes=num_classes,
            name=name,
            feature=feature,
            k=k,
            temperature=temperature,
            kind=kind,
        )
        knn[kind], common = row["numbers"][kind], row["protocol"]
    softmax = softmax_row(
        sets,
        num_classes=num_classes,
        name=name,
        feature=feature,
        linear_epochs=linear_epochs,
        seed=seed,
    )
    return [_row("kNN", common, knn), softmax]


def softmax_row(
    sets: Mapping[str, tuple[Any, Any, Any, Any]],
    *,
    num_classes: int,
    name: str,
    feature: str = BACKBONE,
    linear_epochs: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs softmax regression on several feature sets of the same examples, see `probe_rows`."""
    numbers: dict[str, Any] = {}
    for kind, (train_x, train_y, test_x, test_y) in sets.items():
        common = linear_protocol(
            epochs=linear_epochs, bank=len(train_x), queries=len(test_x), name=name
        )
        fit = fit_linear(
            train_x,
            train_y,
            num_classes=num_classes,
            epochs=linear_epochs,
            batch_size=LINEAR_BATCH,
            seed=seed,
        )
        scores = linear_accuracy(fit.head, test_x, test_y)
        rate = common.replace("lr 1/L", f"lr 1/L = {fit.learning_rate:.3g}")
        numbers[kind] = number(scores, _feature_text(kind, feature), train_x.shape[1], rate)
    return _row(SOFTMAX_REGRESSION, common, numbers)


def knn_row(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    *,
    num_classes: int,
    name: str,
    feature: str = BACKBONE,
    k: int = 20,
    temperature: float = 0.1,
    kind: str = "trained",
) -> dict[str, Any]:
    """Runs kNN on one feature set; returns a row as `probe_rows` describes."""
    protocol = knn_protocol(
        k=k, temperature=temperature, bank=len(train_x), queries=len(test_x), name=name
    )
    scores = knn_accuracy(
        train_x, train_y, test_x, test_y, num_classes=num_classes, k=k, temperature=temperature
    )
    entry = number(scores, _feature_text(kind, feature), train_x.shape[1], protocol)
    return _row("kNN", protocol, {kind: entry})


def number(scores: Mapping[str, Any], feature: str, dim: int, protocol: str) -> dict[str, Any]:
    """Returns one number of a row: scores, interval, and the complete protocol."""
    low, high = binomial_interval(scores["correct"], scores["count"])
    return {
        **scores,
        "ci95": [low, high],
        "feature": feature,
        "dim": int(dim),
        "protocol": f"{feature} ({dim}-d), {protocol}",
    }


def linear_row(record: Mapping[str, Any], *, kind: str = "trained") -> dict[str, Any]:
    """Returns a row as `probe_rows` describes, from the record of `evaluate_linear`.

    Args:
        record: `LinearResult.record`.
        kind: of the network.

    Returns:
        A row; its number also has `best_top1` and `best_epoch`.
    """
    scores = {key: record[key] for key in ("top1", "top5", "correct", "count") if key in record}
    entry = number(scores, _feature_text(kind, record["feature"]), record["dim"], "")
    entry |= {"protocol": record["protocol"]}
    entry |= {"best_top1": record["best_top1"], "best_epoch": record["best_epoch"]}
    return _row("linear", record["protocol"], {kind: entry})


def classifier_row(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    name: str,
    how: str = "",
    kind: str = "trained",
    probe: str = OWN,
) -> dict[str, Any]:
    """Returns the row of top-1 for the network's own classifier, or another's logits.

    Args:
        logits: float [M,K] of the test split.
        labels: int [M].
        name: of the data set.
        how: more protocol text, such as the crop.
        kind: of the network.
        probe: name of the classifier.

    Returns:
        A row as of `probe_rows`; its number has the scores of `classifier_scores`.

    Example:
        >>> row = classifier_row(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), name='toy')
        >>> row['top1'], row['numbers']['trained']['protocol']
        ({'trained': 0.5}, 'trained logits (2-d), own classifier, 2 test examples of toy')
    """
    protocol = f"{probe}, {len(labels):,} test examples of {name}"
    protocol += f", {how}" if how else ""
    scores = classifier_scores(logits, labels)
    entry = number(scores, f"{kind} logits", logits.shape[1], protocol)
    return _row(probe, protocol, {kind: entry})


def classifier_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Computes the scores of a classifier's logits [M,K] for labels [M].

    Returns:
        `top1`, `correct`, `count`, `mean_per_class`, and `top5` of more than five classes. Of equal
        logits the first counts.

    Example:
        >>> classifier_scores(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
        {'top1': 0.5, 'correct': 1, 'count': 2, 'mean_per_class': 0.5}
    """
    predicted = np.argmax(logits, axis=1)
    correct = int(np.sum(predicted == labels))
    scores = {"top1": correct / len(labels), "correct": correct, "count": len(labels)}
    scores["mean_per_class"] = mean_per_class(predicted, labels)
    if logits.shape[1] > TOP:
        best = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
        scores["top5"] = float((best == np.asarray(labels)[:, None]).any(axis=1).mean())
    return scores


def mean_per_class(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Computes the mean over classes of the accuracy within each class.

    Example:
        >>> mean_per_class(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
        0.5
    """
    with unchanged():  # takes half a second: only when needed
        from sklearn.metrics import recall_score

    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def _feature_text(kind: str, feature: str) -> str:
    return "raw pixels" if kind == "raw pixels" else f"{kind} {feature}"


def _row(probe: str, protocol: str, numbers: dict[str, Any]) -> dict[str, Any]:
    top1 = {kind: entry["top1"] for kind, entry in numbers.items()}
    return {"probe": probe, "protocol": protocol, "top1": top1, "numbers": numbers}


def format_table(rows: Sequence[Mapping[str, Any]], *, width: int = 100) -> str:
    """Formats rows as aligned plain text, a line per number, with its protocol as a footnote.

    Args:
        rows: from `probe_rows`, `linear_row` or `metric_row`.
        width: of the text, in columns.

    Returns:
        Lines without a final newline. Numbers of one protocol share a footnote; it also has the
        best epoch of a number that has one.

    Example:
        >>> row = _row('kNN', 'k=1', {'raw pixels': number(
        ...     {'top1': 0.8, 'correct': 8, 'count': 10}, 'raw pixels', 3, 'k=1')})
        >>> print(format_table([row]))
        probe  features          metric     %  95 % interval
        kNN    raw pixels (3-d)  top-1   80.0    49.0 - 94.3  [1]
        <BLANKLINE>
        [1] k=1
    """
    columns = {name: "left" for name in ("probe", "features", "metric")}
    columns |= {"%": "right", "95 % interval": "right", "": "left"}
    notes: dict[str, int] = {}
    cells = []
    for row in rows:
        for line, entry in zip(table_lines(row), row["numbers"].values(), strict=True):
            probe, feature, metric, value, interval, protocol = line
            sized = f"{feature} ({entry['dim']}-d)" if "dim" in entry else feature
            note = protocol.removeprefix(f"{sized}, ")
            mark = f"[{notes.setdefault(note, len(notes) + 1)}]"
            shown = sized if note != protocol else feature
            cells.append((probe, shown, metric, value, interval, mark))
    return plain_table(columns, cells, notes=list(notes), width=width)


def table_lines(row: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """Returns the cells of a row's numbers: probe, features, metric, %, interval, protocol."""
    lines = []
    for entry in row["numbers"].values():
        low, high = (100 * edge for edge in entry["ci95"])
        value, protocol = entry.get("value", entry.get("top1")), entry["protocol"]
        if "best_top1" in entry:
            protocol += (
                f" (best: {100 * entry['best_top1']:.1f} after epoch "
                f"{entry['best_epoch']:g}, not chosen)"
            )
        metric = row.get("metric", "top-1")
        lines.append(
            (
                row["probe"],
                entry["feature"],
                metric,
                f"{100 * value:.1f}",
                f"{low:.1f} - {high:.1f}",
                protocol,
            )
        )
    return lines


def table_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the numbers of rows by name: probe, features and metric; each as in the record.

    Numbers of one name, by different protocols, are numbered.

    Example:
        >>> row = _row('kNN', 'k=1', {'trained': number(
        ...     {'top1': 0.8, 'correct': 8, 'count': 10}, 'trained backbone', 3, 'k=1')})
        >>> table_values([row, row])
        {'kNN/trained backbone/top-1': 0.8, 'kNN/trained backbone/top-1 (2)': 0.8}
    """
    values: dict[str, float] = {}
    for row in rows:
        for entry in row["numbers"].values():
            name = f"{row['probe']}/{entry['feature']}/{row.get('metric', 'top-1')}"
            count = sum(known.partition(" (")[0] == name for known in values)
            name += f" ({count + 1})" if count else ""
            values[name] = float(entry.get("value", entry.get("top1")))
    return values
