"""The numbers of a detector and of a segmentation network, on the test split of its run."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data, methods
from jssl.dense.regions import Detected
from jssl.evaluate.dense_pictures import MOST_PICTURES, detection_sheet, segmentation_sheet
from jssl.evaluate.table import metric_row
from jssl.metrics import coco
from jssl.metrics.detection import (
    Detections,
    Objects,
    confusion,
    detection_average_precision,
    mean_iou,
)
from jssl.metrics.resampled import (
    GROUPS,
    average_precision_intervals,
    coco_interval,
    mean_iou_interval,
)
from jssl.run import batches as batching
from jssl.run import dense
from jssl.run.build import Experiment
from jssl.run.writers import say
from jssl.types import PyTree, TrainState

Row = dict[str, Any]
READ = ("image", "size", "proposals", "live")  # arrays of a batch that a prediction needs


class Judged(NamedTuple):
    """What a network says of the test pictures.

    Attributes:
        detections, objects: of each picture, in pixels of its file; () of segmentation.
        counts: int64 [K+1,K+1] of each picture, see `confusion`; () of detection.
        masks: true and predicted masks of the first `MOST_PICTURES`; () of detection.
        indices: of the pictures in their source; one that cannot be used is not among them.
    """

    detections: tuple[Detections, ...] = ()
    objects: tuple[Objects, ...] = ()
    counts: tuple[np.ndarray, ...] = ()
    masks: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    indices: tuple[int, ...] = ()


def precise_statistics(parts: Experiment, state: TrainState) -> TrainState:
    """Estimates the running statistics anew, from `precise_batches` training batches.

    The mean is that of the batches' means; the variance is the mean of their variances and squared
    means, less its square. A method without `statistics` keeps its own.

    Args:
        parts: of the run.
        state: global, after training.

    Returns:
        The state with other `batch_stats`.

    Reference: https://github.com/facebookresearch/fvcore, nn/precise_bn.py; PRECISE_BN of MoCo's
        detection.
    """
    section = parts.config[parts.config.method]
    if parts.method.statistics is None or not section.precise_batches:
        return state
    statistics = jax.jit(parts.method.statistics)
    batches = batching.batches_of(parts)
    total: PyTree = None
    with contextlib.closing(batches):
        for _ in range(section.precise_batches):
            moments = _moments(statistics(state, parts.launcher.split(_arrays(next(batches)))))
            total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    mean = jax.tree.map(lambda x: x / section.precise_batches, total)
    return state.replace(batch_stats=_from_moments(mean))


def statistics_text(parts: Experiment) -> str:
    """Returns what a protocol says of the running statistics; '' if they are those of training."""
    batches = parts.config[parts.config.method].get("precise_batches", 0)
    return f"running statistics of {batches} batches, " if batches else ""


def _moments(stats: PyTree) -> PyTree:
    """{'mean', 'var'} -> {'mean', 'var': the mean square}, in every layer."""
    return _every_layer(stats, lambda mean, var: var + jnp.square(mean))


def _from_moments(stats: PyTree) -> PyTree:
    return _every_layer(stats, lambda mean, square: jnp.maximum(square - jnp.square(mean), 0.0))


def _every_layer(stats: PyTree, change: Any) -> PyTree:
    if "mean" in stats and not isinstance(stats["mean"], dict):
        return {**stats, "var": change(stats["mean"], stats["var"])}
    return {name: _every_layer(layer, change) for name, layer in stats.items()}


def _arrays(batch: Any) -> dict[str, np.ndarray]:
    return {key: value for key, value in batch.items() if isinstance(value, np.ndarray)}


def judge(parts: Experiment, state: TrainState, *, source: Any = None) -> Judged:
    """Runs a network on test pictures.

    Args:
        parts: of its run.
        state: global.
        source: pictures with boxes or masks; those of the run by default.
    """
    source = parts.test_source if source is None else source
    predict = parts.launcher.compile_embed(parts.method.predict)
    boxes = methods.get(parts.config.method).data.dense == "boxes"
    detections, objects, counts = [], [], []
    masks: list[tuple[np.ndarray, np.ndarray]] = []
    indices: list[int] = []
    for batch in test_batches(parts, source):
        outputs = jax.tree.map(
            np.asarray, predict(state, {key: batch[key] for key in READ if key in batch})
        )
        for row in np.flatnonzero(batch["mask"]).tolist():
            indices.append(int(batch["index"][row]))
            if boxes:
                detections.append(_detections(outputs, batch, row))
                objects.append(Objects(**_objects(source.objects(indices[-1]))))
            else:
                height, width = batch["size"][row]
                label, said = (x[row, :height, :width] for x in (batch["label"], outputs))
                classes = parts.config[parts.config.method].num_classes + 1
                counts.append(confusion(label, said, classes))
                if len(masks) < MOST_PICTURES:
                    masks.append((label, said))
    return Judged(tuple(detections), tuple(objects), tuple(counts), tuple(masks), tuple(indices))


def sheet_of(parts: Experiment, judged: Judged) -> np.ndarray:
    """Draws the first test pictures with what a network says of them, uint8 [h,w,3]."""
    source = parts.test_source
    names = data.class_names(source) or ()
    pictures = [source[i]["image"] for i in judged.indices[:MOST_PICTURES]]
    count = len(pictures)
    if judged.masks:
        labels, said = zip(*judged.masks[:count], strict=True)
        return segmentation_sheet(pictures, labels, said, class_names=names)
    found, objects = judged.detections[:count], judged.objects[:count]
    return detection_sheet(pictures, objects, found, class_names=names)


def test_batches(parts: Experiment, source: Any) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over test pictures once, in batches of the run's size."""
    batches = data.eval_batches(
        source,
        batch_size=parts.config.batch_size,
        transform=dense.test_transform(parts.config),
        threads=parts.config.data.threads,
    )
    with contextlib.closing(iter(batches)) as running:
        yield from running


def _detections(outputs: Detected, batch: dict[str, np.ndarray], row: int) -> Detections:
    """The detections of a picture, in pixels of its file."""
    valid = outputs.valid[row]
    height, width = batch["original"][row] / batch["size"][row]
    boxes = np.asarray(outputs.boxes[row])[valid] * np.array([width, height, width, height])
    scores, classes = (np.asarray(x[row])[valid] for x in (outputs.scores, outputs.classes))
    return Detections(boxes, scores, classes)


def _objects(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "boxes": example["boxes"],
        "classes": example["label"],
        "difficult": example["difficult"],
    }


def rows_of(
    parts: Experiment,
    judged: Judged,
    *,
    kind: str = "trained",
    how: str = "",
    seed: int = 0,
    feature: str = "",
) -> list[Row]:
    """Returns the rows of the table: AP50, AP and AP75, or the mean IoU.

    Args:
        parts: of the run.
        judged: from `judge`.
        kind: of the network.
        how: text of the training, for the protocol.
        seed: of the bootstrap.
        feature: what was trained; '' for the kind.
    """
    config, source = parts.config, parts.test_source
    section, feature = config[config.method], f"{feature or kind} {config.model.name}"
    names = data.class_names(source) or ()
    proposals = dense.proposals_text(config)
    how += f"{proposals}, " if proposals else ""
    pictures = f"{len(judged.objects or judged.counts):,} test pictures of {source.name}"
    if judged.counts:
        value, each = mean_iou(np.sum(judged.counts, axis=0))
        row = metric_row(
            "segmentation",
            metric="mIoU",
            value=value,
            ci95=mean_iou_interval(judged.counts, seed=seed),
            count=len(judged.counts),
            feature=feature,
            protocol=f"{how}one scale, whole pictures, background counts, {pictures}",
            kind=kind,
        )
        row["numbers"][kind]["per_class"] = _per_class(("background", *names), each)
        return [row]
    arguments = {"num_classes": section.num_classes, "definition": "voc2007"}
    table = detection_average_precision(judged.detections, judged.objects, **arguments)
    intervals = average_precision_intervals(
        judged.detections, judged.objects, groups=list(GROUPS.values()), seed=seed, **arguments
    )
    rows = []
    thresholds = list(GROUPS["AP"])
    for (metric, group), interval in zip(GROUPS.items(), intervals, strict=True):
        chosen = table[[thresholds.index(t) for t in group]]
        each = np.mean(chosen, axis=0)
        overlap = "over 0.50 to 0.95" if len(group) > 1 else f"at {group[0]:g}"
        row = metric_row(
            "detection",
            metric=metric,
            value=float(np.nanmean(each)),
            ci95=interval,
            count=len(judged.objects),
            feature=feature,
            protocol=f"{how}VOC's 11-point AP {overlap}, difficult objects left out, {pictures}",
            kind=kind,
        )
        row["numbers"][kind]["per_class"] = _per_class(names, each)
        rows.append(row)
    return [
        *rows,
        *_coco_rows(
            judged,
            feature,
            f"{how}difficult objects as crowds, {pictures}",
            kind=kind,
            num_classes=section.num_classes,
            seed=seed,
        ),
    ]


def _coco_rows(
    judged: Judged, feature: str, protocol: str, *, kind: str, num_classes: int, seed: int
) -> list[Row]:
    """The row of COCO's AP, another definition; without pycocotools none, which is said."""
    if not coco.is_installed():
        say("COCO's AP is left out: it needs pycocotools. Type pip install 'jssl[coco]'.")
        return []
    score = coco.coco_average_precision(judged.detections, judged.objects, num_classes=num_classes)
    row = metric_row(
        "detection",
        metric="COCO AP",
        value=score.ap,
        ci95=coco_interval(judged.detections, judged.objects, num_classes=num_classes, seed=seed),
        count=len(judged.objects),
        feature=feature,
        protocol=f"COCO's AP of 101 points, {protocol}",
        kind=kind,
    )
    row["numbers"][kind] |= {"coco_ap50": score.ap50, "coco_ap75": score.ap75}
    return [row]


def _per_class(names: Any, values: np.ndarray) -> dict[str, float | None]:
    return {
        str(name): None if np.isnan(value) else float(value)
        for name, value in zip(names, values, strict=True)
    }


def final(parts: Experiment, state: TrainState) -> tuple[list[Row], np.ndarray]:
    """Computes the table and the sheet at the end of a run of boxes or masks."""
    config, updates = parts.config, int(state.step)
    judged = judge(parts, precise_statistics(parts, state))
    how = (
        f"{config.method}, {updates:,} updates of {config.batch_size}, {statistics_text(parts)}"
        f"{len(parts.train_source):,} train pictures, "
    )
    return rows_of(parts, judged, how=how), sheet_of(parts, judged)
