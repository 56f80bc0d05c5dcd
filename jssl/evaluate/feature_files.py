"""Features as a file: .npz, .csv or .parquet, with the path, class and size of each picture."""

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl import data, files
from jssl.data.walk import printable
from jssl.errors import UserError
from jssl.evaluate.feature_npz import save_npz_parts

Shape = tuple[int, int]  # (M, D)


class Table(NamedTuple):
    """The features of a data set, and what belongs to each row.

    Attributes:
        features: float32 [M,D].
        labels: int32 [M], -1 without labels.
        indices: int32 [M], the examples in the source.
        source: the data set.
        paths: of the rows; None if the source is none of files.
        sizes: int32 [M,2], height and width of the picture in its file; None likewise.
        feature, step, backbone_sha256: as `save_npz`.
    """

    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    source: Any
    paths: Sequence[str] | None = None
    sizes: np.ndarray | None = None
    feature: str = "backbone"
    step: int = -1
    backbone_sha256: str = ""

    def columns(self) -> dict[str, list[Any]]:
        """Returns the columns before the features.

        Example:
            >>> source = data.photos_source('test')
            >>> table = Table(np.zeros((1, 2)), np.array([1]), np.array([75]), source)
            >>> table.columns()
            {'index': [75], 'label': [1], 'class': ['chelsea']}
        """
        names = data.class_names(self.source) or ()
        labels = self.labels.tolist()
        columns: dict[str, list[Any]] = {}
        if self.paths is not None:
            columns["path"] = [printable(path) for path in self.paths]
        columns["index"], columns["label"] = self.indices.tolist(), labels
        columns["class"] = [names[i] if 0 <= i < len(names) else "" for i in labels]
        if self.sizes is not None:
            columns["height"], columns["width"] = self.sizes.T.tolist()
        return columns


def check_features_output(output: str | Path) -> Path:
    """Checks that features can be written to a file, before they are computed.

    Raises:
        UserError: another ending than those of `WRITERS`, a missing library, or as
            `jssl.files.check_output`.
    """
    path = Path(output)
    if path.suffix not in WRITERS:
        *others, last = WRITERS
        raise UserError(
            f"--output must end with {', '.join(others)} or {last}, found '{path}'. Type "
            f"--output={path}.npz."
        )
    if path.suffix == ".parquet":
        _pyarrow()
    return files.check_output(path, ending=path.suffix)


def save_features(path: str | Path, table: Table) -> None:
    """Writes features with what belongs to them; the ending of the path says in which format.

    Args:
        path: ends with .npz, .csv or .parquet.
        table: the features.

    Raises:
        UserError: as `save_parts`.
    """
    save_parts(path, [table], shape=np.shape(table.features))


def save_parts(path: str | Path, parts: Iterable[Table], *, shape: tuple[int, ...]) -> None:
    """Writes the features of several tables as one; they are read once, one after the other.

    Args:
        path: ends with .npz, .csv or .parquet.
        parts: the tables in order, at least one; of the same source, feature and network.
        shape: (M, D) of all features together.

    Raises:
        UserError: as `check_features_output`, or a file that cannot be written.

    Reading it:
        pandas.read_csv('features.csv')          # path, index, label, class, height, width, f0, ...
        pandas.read_parquet('features.parquet')  # the same, with `features` as one column of lists
    """
    path = Path(path)
    try:
        WRITERS[path.suffix](path, iter(parts), (shape[0], shape[1]))
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written ({error.strerror}): expected a folder that exists and a "
            "disk with room. Type another --output."
        ) from error


def _save_npz(path: Path, parts: Iterator[Table], shape: Shape) -> None:
    save_npz_parts(path, parts, shape)


def _save_csv(path: Path, parts: Iterator[Table], shape: Shape) -> None:
    first = next(parts)
    names = [*first.columns(), *(f"f{i}" for i in range(shape[1]))]
    # The shortest digits that give the same float32.
    rows = (
        (*row, *map(str, x))
        for table in itertools.chain([first], parts)
        for row, x in zip(zip(*table.columns().values(), strict=True), table.features, strict=True)
    )
    write_csv(path, names, rows)


def write_csv(path: str | Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as CSV in UTF-8, whole or not at all.

    Args:
        path: of the file.
        names: of the columns, the first line.
        rows: the other lines.
    """

    def write(file: Any) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
        text.detach()  # the file stays open, to be put on the disk

    files.replace(path, write)


def _save_parquet(path: Path, parts: Iterator[Table], shape: Shape) -> None:
    pyarrow, parquet = _pyarrow()

    def columns(table: Table) -> Any:
        values = pyarrow.array(np.ascontiguousarray(table.features, np.float32).reshape(-1))
        features = pyarrow.FixedSizeListArray.from_arrays(values, shape[1])
        return pyarrow.table({**table.columns(), "features": features})

    def write(file: Any) -> None:
        first = columns(next(parts))
        with parquet.ParquetWriter(file, first.schema) as writer:
            writer.write_table(first)
            for table in parts:
                writer.write_table(columns(table))

    files.replace(path, write)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "A .parquet file needs pyarrow, which is not installed: type pip install "
            "'jssl[parquet]', or --output=FILE.csv."
        ) from None
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[Path, Iterator[Table], Shape], None]] = {
    ".npz": _save_npz,
    ".csv": _save_csv,
    ".parquet": _save_parquet,
}
