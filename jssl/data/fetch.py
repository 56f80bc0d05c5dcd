"""Decodes and transforms one example, and counts pictures that were skipped or converted."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from absl import logging

from jssl.data.decode import KINDS, Picture, PictureError
from jssl.errors import UserError

NOTES = "notes"  # key of an example's notes for `Problems`: tuples (kind, index, text)
MAX_REPLACEMENTS = 1000  # bad pictures in a row before the data set is refused
NAMED = 10  # pictures of a kind listed by name
_logged: set[tuple[str, str, str]] = set()  # (data set, kind, skipped picture) of past warnings


def fetch(
    source: Any, index: int, transform: Callable | None, generator: Callable | None
) -> dict[str, Any]:
    """Returns example `index`, or under 'skip' the next good one with its own label and index.

    Args:
        source: see `jssl.data.sources.Source`; its `encoded` is used if it has one.
        index: of the example.
        transform: `(example, rng) -> example`, or None to decode only.
        generator: `index -> numpy Generator` for the transform, or None.

    Returns:
        The example, plus `notes`: the skipped and converted pictures.

    Raises:
        PictureError: under 'stop', the picture cannot be used.
        UserError: under 'skip', no good example among the next ones.
    """
    read = getattr(source, "encoded", source.__getitem__)
    notes: list[tuple[str, int, str]] = []
    for offset in range(min(len(source), MAX_REPLACEMENTS)):
        current = (index + offset) % len(source)
        try:
            example = read(current)
            picture = example["image"]
            if transform is not None:
                example = transform(example, generator(current) if generator else None)
            elif isinstance(picture, Picture):
                example = {**example, "image": picture.pixels()}
        except PictureError as error:
            if source.on_error == "stop":
                raise PictureError(
                    f"{error} To go on without such pictures type --config.data.on_error=skip."
                ) from error
            notes.append(("skipped", current, str(error)))
            continue
        if isinstance(picture, Picture):
            notes += [(kind, current, picture.name) for kind in picture.kinds]
        return {**example, NOTES: notes}
    raise UserError(
        f"Data set '{source.name}' has no usable picture among {len(notes)} in a row; the first: "
        f"{notes[0][2]}"
    )


def stack(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks examples into one batch of numpy arrays; the notes are joined.

    Raises:
        UserError: pictures of different shapes.
    """
    shapes = sorted({example["image"].shape for example in examples})
    if len(shapes) > 1:
        raise UserError(
            f"Pictures of one batch differ in shape: found {shapes[0]} and {shapes[-1]}; expected "
            "one shape. Type --config.data.host_crop=torchvision or --config.data.image_size=N."
        )
    keys = [key for key in examples[0] if key != NOTES]  # image, label, index, other modalities
    batch = {key: np.stack([e[key] for e in examples]) for key in keys}
    return {**batch, NOTES: [note for example in examples for note in example[NOTES]]}


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Context that rewrites the errors of grain for the user.

    Raises:
        UserError: the original one, without the traceback note that grain appends; or one that
            says how a worker process died.
    """
    try:
        yield
    except UserError as error:
        error.__notes__ = []
        raise
    except RuntimeError as error:
        gone = re.search(r"Worker process was terminated .*exit code (-?\d+)", str(error))
        if gone is None:
            raise
        code = int(gone[1])
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise UserError(
            f"A worker process that reads data {how}. SIGKILL mostly means that the machine ran "
            "out of memory: try a smaller --config.data.workers. The same command resumes from "
            "the last checkpoint."
        ) from None


class Problems:
    """Counts pictures that were skipped, or converted by a rule of `jssl.data.decode`.

    A picture counts once over all epochs. The first of a kind, and the first few skipped ones,
    are logged as warnings, once in a process.

    Example:
        >>> problems = Problems('mine', 10)
        >>> problems.add([('grey', 3, 'c.png'), ('grey', 3, 'c.png')])
        >>> problems.report()
        {'grey': {'count': 1, 'first': ['c.png']}}
    """

    def __init__(self, name: str, num_examples: int):
        self._name, self._num_examples = name, num_examples
        self._seen: dict[str, np.ndarray] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, notes: Iterable[tuple[str, int, str]]) -> None:
        """Adds the notes of a batch."""
        for kind, index, text in notes:
            seen = self._seen.setdefault(kind, np.zeros(self._num_examples, bool))
            if seen[index]:
                continue
            seen[index] = True
            first = self._first.setdefault(kind, [])
            if len(first) >= NAMED:
                continue
            first.append(text)
            # Every evaluation meets the same pictures again: each process warns once.
            warning = (self._name, kind, text if kind == "skipped" else "")
            if warning in _logged:
                continue
            _logged.add(warning)
            if kind == "skipped":
                logging.warning("Data set '%s': skipped and replaced: %s", self._name, text)
            else:
                label = KINDS.get(kind, kind)
                logging.warning("Data set '%s': converted, %s: '%s'", self._name, label, text)

    def report(self) -> dict[str, dict[str, Any]]:
        """Returns `{kind: {'count': pictures, 'first': names or messages}}`; {} if none."""
        return {
            kind: {"count": int(seen.sum()), "first": list(self._first[kind])}
            for kind, seen in self._seen.items()
        }


def in_words(report: dict[str, dict[str, Any]]) -> str:
    """Formats the report of `Problems` in one line: a count and one name for each kind.

    Example:
        >>> in_words({'grey': {'count': 1200, 'first': ['c.png', 'd.png']}})
        "1,200: grey became three equal channels (the first: 'c.png')"
    """
    lines = []
    for kind, entry in report.items():
        label, first = KINDS.get(kind, "skipped and replaced"), entry["first"][0]
        first = first if kind == "skipped" else f"'{first}'"  # a skipped one is a full sentence
        lines.append(f"{entry['count']:,}: {label} (the first: {first})")
    return "; ".join(lines)
