"""The parts of a report that need the network: views, neighbours, a map, and the confusions.

A section is a dictionary of plain values, so that it can be kept in a JSON file:

    title     of the section
    notes     sentences below the title
    groups    of pictures: {text, pictures: [{src, text, mark: '' | 'right' | 'wrong'}]}
    legend    [colour, text] of each class
    figure    one large picture, as a data URI, and `alt`, what it shows
    table     {head: [...], rows: [[...]]}
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data
from jssl.augment._pixels import in_words
from jssl.data.subset import Subset
from jssl.evaluate.confusion import MOST_CLASSES, confusion_counts, confusion_picture
from jssl.evaluate.gallery import shown
from jssl.evaluate.neighbors import nearest_rows
from jssl.evaluate.probes.knn import knn_predict
from jssl.report.look import DOZEN, Network, Seen, class_name, uri
from jssl.run.batches import host_transform

Section = dict[str, Any]
NEIGHBOURS = 6
MOST_VIEWS = 8
SHOWN_CLASSES = 20  # rows of a table of classes
SIDE = 96  # of a picture on the page, in pixels


def views(network: Network) -> Section:
    """Returns training pictures beside the views that the network is trained on."""
    parts = network.parts
    config = parts.config
    part = Subset(parts.train_source, DOZEN)
    batches = data.train_batches(
        part, batch_size=len(part), seed=config.seed, transform=host_transform(parts)
    )
    with contextlib.closing(batches):
        batch = next(batches)
    made = np.asarray(
        jax.jit(parts.method.views)(jax.random.key(config.seed), batch["image"], jnp.int32(0))
    )
    originals = _originals(network, part, batch["index"])
    groups = []
    for i, original in enumerate(originals):
        label = class_name(network, int(batch["label"][i]))
        crops = [_floats(view[i]) for view in made[:MOST_VIEWS]]
        pictures = [{"src": uri(original, side=SIDE), "text": label or "picture", "mark": ""}]
        pictures += [
            {"src": uri(crop, side=SIDE), "text": f"view {v + 1}", "mark": ""}
            for v, crop in enumerate(crops)
        ]
        groups.append({"text": "", "pictures": pictures})
    notes = [
        f"{len(groups)} training pictures, each followed by the views of one step "
        f"({config.augment.name}, {config.augment.size} px)."
    ]
    if config.augment.normalize != "none":
        notes.append(f"They are normalised afterwards, by {in_words(config.augment)}.")
    if len(made) > MOST_VIEWS:
        notes.append(f"{MOST_VIEWS} of {len(made)} views are shown.")
    return {
        "title": "Views that the network sees",
        "notes": notes,
        "groups": groups,
        "beside": len(made) < 4,
    }


def _originals(network: Network, part: Any, order: np.ndarray) -> list[np.ndarray]:
    """Returns the pictures of a source as in evaluation, in the order of a batch."""
    config = network.parts.config
    transform = data.eval_transform(config.data, part, size=config.augment.size)
    batches = data.eval_batches(part, batch_size=len(part), transform=transform)
    with contextlib.closing(iter(batches)) as running:
        batch = next(running)
    place = {int(index): i for i, index in enumerate(batch["index"])}
    pictures = [batch["image"][place[int(index)]] for index in order if int(index) in place]
    return [shown(x[0] if x.ndim == 4 else x) for x in pictures]


def _floats(view: np.ndarray) -> np.ndarray:
    """Returns a view, float [h,w,C] in [0, 1], as uint8 [h,w,3]."""
    return shown(np.rint(255 * np.clip(view, 0, 1)).astype(np.uint8))


def neighbours(network: Network, bank: Seen, queries: Seen) -> Section:
    """Returns pictures beside the training pictures with the most similar features."""
    rows = queries.places
    own = queries is bank
    count = min(NEIGHBOURS + own, len(bank.features))
    nearest, similarity = nearest_rows(bank.features, queries.features[rows], count)
    groups, right, total = [], 0, 0
    for row, places, values in zip(rows, nearest, similarity, strict=True):
        label = int(queries.labels[row])
        name = class_name(network, label)
        pictures = [
            {"src": uri(queries.thumbs[row], side=SIDE), "text": name or "query", "mark": "query"}
        ]
        pairs = [p for p in zip(places, values, strict=True) if not (own and p[0] == row)]
        for place, value in pairs[:NEIGHBOURS]:
            other = int(bank.labels[place])
            mark = ""
            if network.labelled and label >= 0:
                mark = "right" if other == label else "wrong"
                right, total = right + (other == label), total + 1
            text = f"{value:.3f} {class_name(network, other)}".strip()
            pictures.append({"src": uri(bank.thumbs[place], side=SIDE), "text": text, "mark": mark})
        groups.append({"text": "", "pictures": pictures})
    what = "test" if network.tested else "training"
    notes = [
        f"{len(groups)} {what} pictures, each followed by the {NEIGHBOURS} nearest of "
        f"{len(bank.features):,} training pictures, with the cosine of the backbone features."
    ]
    if total:
        notes.append(f"A green frame: the same class; red: another. {right} of {total} are right.")
    return {"title": "Neighbours", "notes": notes, "groups": groups}


def confusion(network: Network, bank: Seen, queries: Seen) -> Section | None:
    """Returns the confusion matrix and the accuracy of each class; None without labels."""
    source = network.parts.probe_source
    classes, monitor = source.num_classes, network.parts.config.monitor
    if not network.labelled or not network.tested or classes > MOST_CLASSES:
        return None
    keep = queries.labels >= 0
    labels = queries.labels[keep]
    if not len(labels):
        return None
    if queries.logits is not None:
        predicted = np.argmax(queries.logits[keep], axis=1)
        classes = max(classes, queries.logits.shape[1])
        by = "the run's own classifier"
    else:
        k = min(monitor.knn_k, len(bank.features))
        predicted, _ = knn_predict(
            jnp.asarray(bank.features),
            jnp.asarray(bank.labels),
            jnp.asarray(queries.features[keep]),
            num_classes=classes,
            k=k,
            temperature=monitor.knn_temperature,
        )
        by = (
            f"kNN of backbone features (k={k}, weights exp(s/{monitor.knn_temperature:g}), "
            f"{len(bank.features):,} training pictures)"
        )
    names = [class_name(network, label) for label in range(classes)]
    counts = confusion_counts(np.asarray(predicted), labels, classes)
    right = int(np.trace(counts))
    notes = [
        f"By {by}, on {len(labels):,} test pictures of {queries.source}: {right:,} right, "
        f"{100 * right / len(labels):.1f} %. These are evenly spaced pictures; the numbers of the "
        "table above are of whole splits."
    ]
    picture = np.asarray(confusion_picture(counts, names))
    table, cut = _per_class(counts, names)
    return {
        "title": "Confusion matrix",
        "notes": notes + cut,
        "figure": uri(picture, kind="PNG"),
        "alt": "Confusion matrix: rows are true classes, columns predicted ones",
        "table": table,
    }


def _per_class(counts: np.ndarray, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    sizes = counts.sum(axis=1)
    accuracy = np.diag(counts) / np.maximum(sizes, 1)
    present = [k for k in np.argsort(accuracy, kind="stable") if sizes[k]]
    wrong = counts - np.diag(np.diag(counts))
    rows = []
    for k in present[:SHOWN_CLASSES]:
        most = int(np.argmax(wrong[k]))
        mistaken = f"{names[most]} ({wrong[k, most]})" if wrong[k, most] else ""
        rows.append([names[k], f"{100 * accuracy[k]:.1f}", str(sizes[k]), mistaken])
    head = ["class", "accuracy, %", "pictures", "most often taken for"]
    cut = []
    if len(present) > SHOWN_CLASSES:
        cut = [
            f"The {SHOWN_CLASSES} classes with the lowest accuracy of {len(present)} are listed."
        ]
    return {"head": head, "rows": rows}, cut
