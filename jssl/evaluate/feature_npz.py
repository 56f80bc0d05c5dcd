"""Features as .npz, as plain arrays that are read without pickle."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jssl import data, files
from jssl.data.walk import printable
from jssl.errors import UserError
from jssl.evaluate.embed import BACKBONE

ROWS = 4096  # paths that are converted at once


def save_npz(
    path: str | Path,
    features: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    *,
    source: Any,
    feature: str = BACKBONE,
    step: int = -1,
    backbone_sha256: str = "",
    paths: Sequence[str] | None = None,
    sizes: np.ndarray | None = None,
) -> None:
    """Writes features and their description, as plain arrays that are read without pickle.

    The write is atomic: to a temporary file, which is then renamed.

    Args:
        path: ends with .npz.
        features: float [M,D].
        labels: int [M].
        indices: int [M].
        source: the data set; its name, fingerprint and `class_names` (str [K], empty if unknown)
            are stored.
        feature: name of the feature.
        step: of the checkpoint.
        backbone_sha256: from `backbone_hash`.
        paths: of the files of the pictures, str [M]; stored if given.
        sizes: int [M,2], height and width of the pictures in their files; stored if given.

    Raises:
        UserError: another ending, or a folder that cannot be written.
        ValueError: arrays of different lengths.

    Reading it:
        saved = np.load('features.npz')      # allow_pickle stays False
        saved['features'], saved['labels'], str(saved['feature']), int(saved['step'])
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise UserError(f"Features are saved as .npz, found '{path}'. Type {path}.npz.")
    if not len(features) == len(labels) == len(indices):
        raise ValueError(
            f"features, labels and indices must have the same length, found {np.shape(features)}, "
            f"{np.shape(labels)} and {np.shape(indices)}."
        )
    table = SimpleNamespace(
        features=np.asarray(features, np.float32),
        labels=labels,
        indices=indices,
        source=source,
        paths=paths,
        sizes=sizes,
        feature=feature,
        step=step,
        backbone_sha256=backbone_sha256,
    )
    try:
        files.write_npz_blocks(path, _members(iter([table]), np.shape(features)))
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): expected a folder that exists and a "
            "disk with room. Type another --output."
        ) from error


def save_npz_parts(path: Path, parts: Iterator[Any], shape: tuple[int, int]) -> None:
    """Writes several tables of features as one .npz, without holding all features.

    Args:
        path: ends with .npz.
        parts: objects as `jssl.evaluate.Table`, read once, one after the other.
        shape: (M, D) of all features together.

    Raises:
        OSError: it cannot be written; an old file is unchanged.
    """
    files.write_npz_blocks(path, _members(parts, shape))


def _members(parts: Iterator[Any], shape: tuple[int, ...]) -> Iterator[tuple[str, files.Blocks]]:
    """Yields the arrays of the file; what follows the features is complete when they are read."""
    first = next(parts)
    rest: dict[str, list[Any]] = {"labels": [], "indices": [], "sizes": []}
    paths: list[str] = []  # the strings of the source, which are not copied

    def features() -> Iterator[np.ndarray]:
        for table in itertools.chain([first], parts):
            for name, blocks in rest.items():
                blocks.append(getattr(table, name))
            paths.extend(table.paths or ())
            yield table.features

    yield "features", files.Blocks(shape, np.dtype(np.float32), features())
    for name in ("labels", "indices"):
        yield name, files.Blocks(shape[:1], np.dtype(np.int32), rest[name])
    for name, value in {
        "class_names": np.array(data.class_names(first.source) or (), np.str_),
        "feature": np.array(str(first.feature)),
        "source": np.array(str(first.source.name)),
        "fingerprint": np.array(str(first.source.fingerprint())),
        "step": np.array(first.step, np.int64),
        "backbone_sha256": np.array(str(first.backbone_sha256)),
    }.items():
        yield name, files.Blocks(value.shape, value.dtype, [value])
    if first.paths is not None:
        # Numpy gives every string the width of the longest, 4 bytes a letter.
        dtype = np.dtype(f"<U{max(1, *(len(printable(path)) for path in paths))}")
        blocks = (
            np.array([printable(path) for path in paths[start : start + ROWS]], dtype)
            for start in range(0, len(paths), ROWS)
        )
        yield "paths", files.Blocks(shape[:1], dtype, blocks)
    if first.sizes is not None:
        yield "sizes", files.Blocks((shape[0], 2), np.dtype(np.int32), rest["sizes"])
