"""Splits a data set into a labelled and an unlabelled part, and pairs both for a student.

The labels of the unlabelled part are never read. A student's example is a labelled image and r
unlabelled ones with their pseudo-labels, drawn with replacement by the example's generator, which
is keyed by (seed, epoch, index): the same for any number of processes, workers and restarts.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jssl import data
from jssl.data import pseudo_labels
from jssl.data.decode import Picture
from jssl.data.fetch import NOTES, fetch
from jssl.data.pseudo_labels import PseudoLabels
from jssl.data.subset import Part, label_subset, labels_of
from jssl.errors import UserError


class Halves(NamedTuple):
    """A partly labelled data set.

    Attributes:
        labelled: the labelled examples, as a source.
        unlabelled: the source of the unlabelled examples.
        rows: int64 [M], their rows in it.
    """

    labelled: Part
    unlabelled: Any
    rows: np.ndarray


def split(config: ConfigDict, source: Any) -> Halves:
    """Splits the train split into a labelled and an unlabelled part by the config.

    Args:
        config: the whole config; `config.noisy_student.label_fraction` is the share of every class
            that keeps its labels. The unlabelled part is the rest, or with `unlabeled_name` all of
            another data set.
        source: the train split.

    Raises:
        UserError: the parts overlap; no labels.
    """
    settings = config.noisy_student
    rows = np.arange(len(source))
    if settings.label_fraction != 1:
        rows = label_subset(labels_of(source), fraction=settings.label_fraction, seed=config.seed)
    labelled = Part(source, rows)
    if not settings.unlabeled_name:
        return Halves(labelled, source, np.setdiff1d(np.arange(len(source)), rows))
    other = unlabelled_data(config)
    unlabelled = data.make_source(other, "train")
    halves = Halves(labelled, unlabelled, np.arange(len(unlabelled)))
    check_disjoint(labelled, unlabelled, halves.rows)
    return halves


def labelled_half(config: ConfigDict, source: Any) -> Part:
    """Returns the labelled part of the train split, for a student with its unlabelled pool."""
    halves, settings = split(config, source), config.noisy_student
    if not settings.unlabeled_ratio:
        return halves.labelled
    labels = pseudo_labels.load(
        settings.pseudo_labels or "(none given)",
        expected={"fingerprint": halves.unlabelled.fingerprint()},
    )
    return with_labels(halves, labels, num_classes=source.num_classes)


def paired(config: ConfigDict, source: Part, inner: Callable | None) -> Callable | None:
    """Returns a transform that adds unlabelled images for a student; `inner` for a teacher."""
    ratio = config.noisy_student.unlabeled_ratio
    return Paired(inner, source.pool, ratio) if ratio else inner


def unlabelled_data(config: ConfigDict) -> ConfigDict:
    """Returns the `data` section of the unlabelled part."""
    settings, other = config.noisy_student, ConfigDict(config.data.to_dict())
    if settings.unlabeled_name:
        other.name, other.train_split = settings.unlabeled_name, settings.unlabeled_split
        other.data_dir = settings.unlabeled_dir or config.data.data_dir
    return other


def check_disjoint(labelled: Part, unlabelled: Any, rows: np.ndarray) -> None:
    """Checks that no example is both labelled and unlabelled.

    Args:
        labelled: the labelled part.
        unlabelled: the source of the unlabelled part.
        rows: int [M], its rows in use.

    Raises:
        UserError: they overlap (names the first rows).
    """
    if labelled.source.fingerprint() != unlabelled.fingerprint():
        _check_splits(labelled, unlabelled)
        return
    both = np.intersect1d(labelled.rows, rows)
    if len(both):
        raise UserError(
            f"{len(both)} examples of '{labelled.name}' are labelled and unlabelled at once, the "
            f"first at index {', '.join(map(str, both[:10]))}: expected sets that do not overlap. "
            "A student would be trained on its teacher's training images as if they were new. "
            "Type another --config.noisy_student.unlabeled_split, or the label_fraction and seed "
            "that the pseudo-labels were made with."
        )


def _check_splits(labelled: Part, unlabelled: Any) -> None:
    """Checks two TFDS splits, such as train[:10%] and train[5%:], for shared records."""
    theirs: dict[str, list[tuple[int, int]]] = {}
    for file, first, end in getattr(unlabelled, "ranges", ()):
        theirs.setdefault(file, []).append((first, end))
    shared = [
        (file, max(first, a), min(end, b))
        for file, first, end in getattr(labelled.source, "ranges", ())
        for a, b in theirs.get(file, ())
        if max(first, a) < min(end, b)
    ]
    if shared and labelled.name == unlabelled.name:
        count = sum(end - first for _, first, end in shared)
        raise UserError(
            f"{count} examples of '{labelled.name}' are in the labelled split and in the "
            f"unlabelled one, first record {shared[0][1]} of {shared[0][0]}: expected splits "
            "that do not overlap. Type for example --config.data.train_split='train[:10%]' "
            "--config.noisy_student.unlabeled_split='train[10%:]'."
        )


def with_labels(halves: Halves, labels: PseudoLabels, *, num_classes: int) -> Part:
    """Returns the labelled part with the pool of pseudo-labelled images to draw from.

    Raises:
        UserError: pseudo-labels of other classes, of missing rows, or of labelled examples.
    """
    found, count = labels.probs.shape[1], len(halves.unlabelled)
    if found != num_classes:
        raise UserError(
            f"The pseudo-labels are of {found} classes, data set '{halves.labelled.name}' has "
            f"{num_classes}. Label again with a teacher of this data set."
        )
    if len(labels.indices) and not 0 <= labels.indices.min() <= labels.indices.max() < count:
        raise UserError(
            f"The pseudo-labels are of examples {labels.indices.min()} to {labels.indices.max()}, "
            f"but '{halves.unlabelled.name}' has {count}. Label again."
        )
    names = json.loads(labels.provenance.get("classes", "null"))
    data.check_same(
        names,
        data.class_names(halves.labelled),
        what=f"The pseudo-labels and data set '{halves.labelled.name}'",
        advice="Label again with a teacher of this data set.",
    )
    check_disjoint(halves.labelled, halves.unlabelled, labels.indices)
    places = np.repeat(np.arange(len(labels.indices)), labels.copies)
    pool = Pool(Part(halves.unlabelled, labels.indices[places]), labels.probs, places)
    part = halves.labelled
    return Part(part.source, part.rows, pool=pool, tag=f" and pseudo-labels {labels.digest()}")


class Pool(NamedTuple):
    """Unlabelled images to draw from, each with its number of copies.

    Attributes:
        source: the images.
        probs: float32 [M,K], the teacher's probabilities.
        places: int64 [len(source)], the row of `probs` of each image.
    """

    source: Part
    probs: np.ndarray
    places: np.ndarray


class Paired:
    """A host transform that adds `ratio` unlabelled images and their pseudo-labels to an example.

    Args:
        inner: transform of every image, labelled or not; None decodes only.
        pool: of unlabelled images.
        ratio: r.

    Returns:
        From a call with (example, rng): the example with `unlabeled_image` uint8 [r,...],
        `unlabeled_probs` float32 [r,K] and `unlabeled_index` int32 [r], the row of the data set.

    Raises:
        UserError: from a call: labelled and unlabelled images differ in shape.
    """

    def __init__(self, inner: Callable | None, pool: Pool, ratio: int):
        self.inner, self.pool, self.ratio = inner, pool, ratio

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if self.inner is not None:
            example = self.inner(example, rng)
        elif isinstance(example["image"], Picture):
            example = {**example, "image": example["image"].pixels()}
        picks = rng.integers(len(self.pool.source), size=self.ratio)
        others = [fetch(self.pool.source, int(i), self.inner, lambda _: rng) for i in picks]
        shapes = {np.shape(other["image"]) for other in others} | {np.shape(example["image"])}
        if len(shapes) > 1:
            raise UserError(
                f"Labelled and unlabelled images differ in shape: found {sorted(shapes)}; expected "
                "one. Type --config.data.host_crop=tf or --config.data.image_size=N."
            )
        index = np.array([other["index"] for other in others])  # of the replacement, if replaced
        return {
            **{key: value for key, value in example.items() if key != NOTES},
            "unlabeled_image": np.stack([other["image"] for other in others]),
            "unlabeled_probs": self.pool.probs[self.pool.places[index]],
            "unlabeled_index": self.pool.source.rows[index].astype(np.int32),
        }
