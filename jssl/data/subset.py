"""Subsets of a source, as sources."""

import hashlib
from typing import Any

import numpy as np

from jssl.errors import UserError
from jssl.third_party import unchanged


class Rows:
    """Some rows of a source, as a source.

    Attributes:
        source: the full source.
        rows: int64 [M], the rows in it.

    Example:
        >>> from jssl.data.sources import synthetic_source
        >>> part = Rows(synthetic_source('test', size=8, num_examples=40), np.array([3, 1]))
        >>> len(part), int(part[0]['label']), int(part[0]['index'])
        (2, 3, 0)
    """

    def __init__(self, source: Any, rows: np.ndarray):
        self.source, self.rows = source, np.asarray(rows, np.int64)
        self.name, self.num_classes = source.name, source.num_classes
        self.class_names = getattr(source, "class_names", None)
        self.image_shape, self.on_error = source.image_shape, source.on_error

    @property
    def paths(self) -> tuple[str, ...] | None:
        """The files of the rows; None if the source is none of files."""
        paths = getattr(self.source, "paths", None)
        return None if paths is None else tuple(paths[row] for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[int(self.rows[index])], "index": np.int32(index)}

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns the example, with the picture not yet decoded if the source supports it."""
        read = getattr(self.source, "encoded", self.source.__getitem__)
        return {**read(int(self.rows[index])), "index": np.int32(index)}

    def objects(self, index: int) -> dict[str, np.ndarray]:
        """Returns the objects of a picture, of a source that has them."""
        return self.source.objects(int(self.rows[index]))

    @property
    def train_difficult(self) -> bool:
        """Whether difficult objects are trained on, of a source that has objects."""
        return self.source.train_difficult

    def fingerprint(self) -> str:
        """Returns the source's fingerprint with a hash of the rows."""
        rows = hashlib.sha256(self.rows.tobytes()).hexdigest()[:12]
        return f"{self.source.fingerprint()}[{len(self)} rows {rows}]"

    def description(self) -> str:
        """Returns the source's description with the number of rows."""
        return f"{len(self):,} of the examples of {describe(self.source)}"


def describe(source: Any) -> str:
    """Returns a one-line description of a source, its own if it has one.

    Example:
        >>> from jssl.data.sources import photos_source
        >>> describe(photos_source('test'))
        'photos: 1,200 pictures of 16 classes'
    """
    if hasattr(source, "description"):
        return source.description()
    labels = f"of {source.num_classes} classes" if source.num_classes else "without labels"
    return f"{source.name}: {len(source):,} pictures {labels}"


def label_subset(labels: Any, *, fraction: float, seed: int = 0) -> np.ndarray:
    """Draws the examples that keep their labels: the same share of every class, at least one.

    Args:
        labels: int [M].
        fraction: in (0, 1].
        seed: of the draw; smaller shares are subsets of larger ones.

    Returns:
        int64 [n], sorted rows.

    Raises:
        UserError: a fraction outside (0, 1].

    Example:
        >>> rows = label_subset(np.repeat([0, 1], 10), fraction=0.2)
        >>> len(rows), int((rows < 10).sum())
        (4, 2)
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"Expected a fraction of the labels in (0, 1], found {fraction}. Type 0.01 for 1 %."
        )
    labels, generator = np.asarray(labels), np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        kept.append(rows[: max(1, round(fraction * len(rows)))])
    return np.sort(np.concatenate(kept))


class Part(Rows):
    """Some rows of a source, with a pool of unlabelled images.

    Attributes:
        pool: for a student, the unlabelled images to draw from, else None.
        tag: appended to the fingerprint.
    """

    def __init__(self, source: Any, rows: np.ndarray, *, pool: Any = None, tag: str = ""):
        super().__init__(source, rows)
        self.pool, self.tag = pool, tag

    def fingerprint(self) -> str:
        """Returns the fingerprint of the rows with the tag."""
        return super().fingerprint() + self.tag


def labels_of(source: Any) -> np.ndarray:
    """Returns the labels of a source, int [M]; UserError if it has none."""
    if source.num_classes < 2:
        raise UserError(
            f"Labels are needed, but data set '{source.name}' has {source.num_classes} "
            "classes: expected a labelled data set. Type --config.data.name=NAME."
        )
    if hasattr(source, "labels"):
        return np.asarray(source.labels)
    read = getattr(source, "encoded", source.__getitem__)
    return np.array([int(read(i)["label"]) for i in range(len(source))])


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Returns at most `count` evenly spaced rows of `length`, sorted, int64.

    Example:
        >>> evenly_spaced(10, 3), evenly_spaced(2, 3)
        (array([0, 4, 9]), array([0, 1]))
    """
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))


class Subset(Rows):
    """Evenly spaced examples of a source, as a source.

    Evenly spaced, because a source may be sorted by class.
    """

    def __init__(self, source: Any, count: int):
        super().__init__(source, evenly_spaced(len(source), count))

    def fingerprint(self) -> str:
        """Returns the source's fingerprint with the number of rows."""
        return f"{self.source.fingerprint()}[{len(self)} evenly spaced]"


class Limited(Subset):
    """At most `count` evenly spaced examples of a source, for a dry run; its name says so.

    Example:
        >>> from jssl.data.sources import photos_source
        >>> Limited(photos_source('test'), 8).name
        'photos, dry run on 8 of 1,200'
    """

    def __init__(self, source: Any, count: int):
        super().__init__(source, count)
        self.name = f"{source.name}, dry run on {len(self):,} of {len(source):,}"


def split_validation(labels: np.ndarray, *, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Splits rows into training and validation rows, stratified by class.

    Args:
        labels: int [M].
        count: number of validation rows.
        seed: of the draw.

    Returns:
        Training and validation rows: sorted int arrays with every row once.

    Raises:
        UserError: a class of one example, or fewer validation rows than classes.

    Example:
        >>> train, validation = split_validation(np.arange(2).repeat(10), count=4)
        >>> len(train), (validation < 10).sum()
        (16, np.int64(2))

    Reference: BYOL, https://arxiv.org/abs/2006.07733, appendix D: where there is no official
        validation split it is drawn from the train split; which examples is not published.
    """
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() < 2 or min(count, len(labels) - count) < len(counts):
        raise UserError(
            f"{count} of {len(labels)} examples of {len(counts)} classes, the smallest of "
            f"{counts.min()}, cannot be a validation split: expected at least 2 examples of each "
            "class, and in both parts at least as many examples as classes."
        )
    with unchanged():
        from sklearn.model_selection import train_test_split
    rows = train_test_split(
        np.arange(len(labels)), test_size=count, stratify=labels, random_state=seed
    )
    return np.sort(rows[0]), np.sort(rows[1])


def held_out_part(source: Any, *, count: int) -> Part:
    """Returns the held-out validation examples.

    They do not depend on the run's seed, and equal those of `--protocol=transfer` with seed 0.
    """
    chosen = Part(source, split_validation(labels_of(source), count=count)[1])
    chosen.name = f"{source.name} (held out of train)"
    return chosen


def labelled_part(source: Any, *, fraction: float, held_out: int, seed: int) -> Any:
    """Returns the examples that keep their labels; the source itself if all do."""
    if fraction == 1 and not held_out:
        return source
    labels, rows = labels_of(source), np.arange(len(source))
    if held_out:
        rows = split_validation(labels, count=held_out)[0]
    if fraction != 1:
        rows = rows[label_subset(labels[rows], fraction=fraction, seed=seed)]
    return Part(source, rows)
