"""One example, decoded and transformed; and the account of pictures that gave trouble."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from absl import logging

from jssl.data.decode import KINDS, Picture, PictureError
from jssl.errors import UserError

NOTES = "notes"  # key of an example's trouble on its way to `Problems`: tuples (kind, index, text)
MAX_REPLACEMENTS = 1000  # bad pictures in a row before the data set itself is held to be bad
NAMED = 10  # pictures of a kind that are named
_said: set[tuple[str, str, str]] = set()  # (data set, kind, what was skipped) of past warnings


def fetch(
    source: Any, index: int, transform: Callable | None, generator: Callable | None
) -> dict[str, Any]:
    """Example `index`, or under 'skip' the next good one, with label and index of what it shows.

    Args:
        source: see `jssl.data.sources.Source`; its `encoded` is used where it has one.
        index: of the example.
        transform: `(example, rng) -> example`, or None to decode only.
        generator: `index -> numpy Generator` for the transform, or None.

    Returns:
        The example, plus `notes`: what to report of the pictures that were met.

    Raises:
        PictureError: under 'stop', the picture cannot be used.
        UserError: under 'skip', there is no good example within reach.
    """
    read = getattr(source, "encoded", source.__getitem__)
    notes: list[tuple[str, int, str]] = []
    for place in range(min(len(source), MAX_REPLACEMENTS)):
        current = (index + place) % len(source)
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
    """Examples to one batch of numpy arrays; the notes are joined.

    Raises:
        UserError: pictures of different shapes, which no transform has made equal.
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
    """Within it, errors are said as a user can read them.

    Raises:
        UserError: as it was, without the note about tracebacks that grain appends; or in place of
            grain's error, a worker process that is gone.
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
    """Which pictures were skipped, and which converted by a rule of `jssl.data.decode`.

    A picture counts once however many epochs meet it. The first of a kind, and the first few that
    were skipped, are logged as warnings when they are met, once in a process.

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
        """Takes in the notes of a batch."""
        for kind, index, text in notes:
            seen = self._seen.setdefault(kind, np.zeros(self._num_examples, bool))
            if seen[index]:
                continue
            seen[index] = True
            first = self._first.setdefault(kind, [])
            if len(first) >= NAMED:
                continue
            first.append(text)
            # Every evaluation goes through the same pictures again: a process says it once.
            word = (self._name, kind, text if kind == "skipped" else "")
            if word in _said:
                continue
            _said.add(word)
            if kind == "skipped":
                logging.warning("Data set '%s': skipped and replaced: %s", self._name, text)
            else:
                said = KINDS.get(kind, kind)
                logging.warning("Data set '%s': converted, %s: '%s'", self._name, said, text)

    def report(self) -> dict[str, dict[str, Any]]:
        """`{kind: {'count': pictures, 'first': names or messages}}`; {} when all was well."""
        return {
            kind: {"count": int(seen.sum()), "first": list(self._first[kind])}
            for kind, seen in self._seen.items()
        }


def in_words(report: dict[str, dict[str, Any]]) -> str:
    """What `Problems.report` found, in one line: a number and one name for each kind.

    Example:
        >>> in_words({'grey': {'count': 1200, 'first': ['c.png', 'd.png']}})
        "1,200: grey became three equal channels (the first: 'c.png')"
    """
    lines = []
    for kind, found in report.items():
        said, first = KINDS.get(kind, "skipped and replaced"), found["first"][0]
        first = first if kind == "skipped" else f"'{first}'"  # there it is a whole sentence
        lines.append(f"{found['count']:,}: {said} (the first: {first})")
    return "; ".join(lines)
