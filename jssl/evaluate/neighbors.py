"""`jssl neighbors`: the most similar pictures of a folder, and groups of near duplicates."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jssl import data, files
from jssl.data.walk import printable
from jssl.errors import NotWrittenError, UserError
from jssl.evaluate.embed import BACKBONE, embed_source, select_feature
from jssl.evaluate.feature_files import write_csv
from jssl.evaluate.gallery import Row, check_gallery, write_gallery
from jssl.evaluate.pictures import Recorded, crop, reading, say_failed
from jssl.precision import narrow
from jssl.run import build, workdir
from jssl.run.writers import say
from jssl.third_party import same_handlers

CHUNK_BYTES = 2**26  # of one block of similarities
ROUNDING = 1e-6  # of a cosine in float32: equal pictures have 1 - 1e-7 or so


def nearest_rows(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows with the largest cosine similarity, exactly, in blocks of bounded memory.

    Args:
        bank: float [M,D].
        queries: float [Q,D].
        k: number of rows, at most M.

    Returns:
        Rows int [Q,k] and similarities float32 [Q,k], the most similar first; equal ones in the
        order of the rows.

    Example:
        >>> rows, similarity = nearest_rows(np.eye(3), np.array([[3.0, 4.0, 0.0]]), 2)
        >>> rows.tolist(), similarity.round(3).tolist()
        ([[1, 0]], [[0.800000011920929, 0.6000000238418579]])
    """
    bank, queries = _unit(bank), _unit(queries)
    rows, values = [], []
    for start, end in _blocks(len(queries), len(bank)):
        similarity = queries[start:end] @ bank.T
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        rows.append(best)
        values.append(np.take_along_axis(similarity, best, axis=1))
    return np.concatenate(rows), np.concatenate(values)


def duplicate_groups(features: np.ndarray, threshold: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Groups rows whose cosine similarity reaches a threshold, exactly, in bounded memory.

    Args:
        features: float [M,D].
        threshold: two rows that are at least so similar, but for 1e-6, are in one group; so are
            two that are both similar to a third.

    Returns:
        The groups of two rows or more, each sorted, in the order of their first rows; and for
        every row the similarity to the most similar other row, float32 [M].

    Example:
        >>> groups, _ = duplicate_groups(np.array([[1, 0], [0, 1], [2, 0.1], [1, 1]]), 0.99)
        >>> [group.tolist() for group in groups]
        [[0, 2]]
    """
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import connected_components

    unit, count = _unit(features), len(features)
    group, largest = np.arange(count), np.full(count, -1, np.float32)
    for start, end in _blocks(count, count):
        similarity = unit[start:end] @ unit.T
        similarity[np.arange(end - start), np.arange(start, end)] = -1  # of a row to itself
        largest[start:end] = similarity.max(axis=1)
        one, other = np.nonzero(similarity >= threshold - ROUNDING)
        edges = np.ones(len(one), bool), (group[one + start], group[other])
        labels = connected_components(coo_array(edges, shape=(count, count)), directed=False)[1]
        group = labels[group]
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    groups = sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))
    return groups, largest


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    size = max(1, CHUNK_BYTES // (4 * columns))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


@narrow
@same_handlers()
def neighbors_run(
    folder: str | Path,
    pictures: str | Path,
    *,
    output: str | Path,
    gallery: str | Path | None = None,
    queries: Sequence[str | Path] = (),
    k: int = 9,
    near_duplicates: float | None = None,
    feature: str = BACKBONE,
    step: int | None = None,
) -> None:
    """Writes the most similar pictures of a folder, or its near duplicates: a CSV and a gallery.

    For queries a row for each neighbour: `query`, `rank` from 1, `path`, `similarity`; the file of
    the query itself is no neighbour. For near duplicates a row for each picture that has one:
    `group` from 1, `path`, `similarity` to the most similar other picture. Similarities are the
    cosine of the features. Pictures that cannot be read are named and left out.

    Args:
        folder: the workdir of a run.
        pictures: a folder, searched to any depth.
        output: the table; ends with .csv.
        gallery: the pictures of the table with their paths and similarities; ends with .html or
            .png. By default an HTML page beside the table.
        queries: files, folders and patterns, see `jssl.data.find_pictures`.
        k: neighbours of each query.
        near_duplicates: smallest similarity of near duplicates, such as 0.98.
        feature: 'backbone' or the name of an intermediate.
        step: of the checkpoint; the newest by default.

    Raises:
        UserError: neither or both of queries and near duplicates, no pictures, or a query that
            cannot be read.
    """
    config = workdir.read_config(folder)
    files.check_output(output, ending=".csv")
    gallery = check_gallery(output, gallery)
    _check(queries, k, near_duplicates)
    if not os.path.isdir(os.path.expanduser(pictures)):
        raise UserError(f"--data expects a folder of pictures, found '{pictures}'.")
    paths = data.find_pictures([pictures])
    asked = data.find_pictures(queries)
    embed, state = build.load_encoder(folder, step=step)
    program = jax.jit(select_feature(embed, feature))
    read, of_queries = _features(config, program, state, feature, asked)
    if len(read) < len(asked):
        raise UserError("Expected queries that can be read: leave those out that are named above.")
    readable, features = _features(config, program, state, feature, paths)
    if near_duplicates is not None:
        rows = _write_groups(output, readable, features, near_duplicates)
    else:
        rows = _write_neighbors(output, readable, features, read, of_queries, k)
    _write_gallery(gallery, rows, folder, feature, reading(config.data))


def _check(queries: Sequence[str | Path], k: int, near_duplicates: float | None) -> None:
    if bool(queries) == (near_duplicates is not None):
        raise UserError(
            f"Found {'both' if queries else 'neither'} of --query and --near-duplicates: expected "
            "one of them. Type --query=FILE or --near-duplicates=0.98."
        )
    if k < 1:
        raise UserError(f"--k expects 1 or more, found {k}.")
    if near_duplicates is not None and not -1 < near_duplicates <= 1:
        raise UserError(
            f"--near-duplicates expects a cosine above -1 and at most 1, found {near_duplicates}."
        )


def _features(
    config: Any, program: Any, state: Any, feature: str, paths: list[str]
) -> tuple[list[str], np.ndarray]:
    """Returns the pictures that can be read, and their features; says which cannot."""
    if not paths:
        return [], np.zeros((0, 0), np.float32)
    side = config.augment.size
    how = reading(config.data)
    source = Recorded(
        data.FileSource(paths, **how), crop(config), side=side, channels=how["channels"]
    )
    lines: list[str] = []
    with tqdm(total=len(paths), unit="image", disable=None) as bar:
        features, _, _ = embed_source(
            program,
            state,
            source,
            batch_size=256,
            feature=feature,
            transform=source.transform,
            progress=lambda done, total: bar.update(done - bar.n),
            tell=lines.append,
        )
    for line in lines:  # below the bar
        say(line)
    say_failed(paths, source.failed, "they are left out")
    keep = [i for i in range(len(paths)) if i not in source.failed]
    if not keep:
        raise UserError(
            f"None of the {len(paths)} pictures can be read, the first: {source.failed[0]}"
        )
    return [paths[i] for i in keep], features[keep]


def _write_gallery(
    path: Path, rows: list[Row], folder: str | Path, feature: str, reading: dict[str, Any]
) -> None:
    title = f"Cosine similarity of the {feature} of {folder}"
    try:
        shown, pictures = write_gallery(path, rows, title=title, **reading)
    except OSError as error:
        raise NotWrittenError([f"{path} ({error.strerror})"]) from error
    total = sum(len(row.pictures) for row in rows)
    part = f", the first {pictures:,} of {total:,} pictures" if pictures < total else ""
    print(f"{path}: a gallery of {shown} of {len(rows)} rows{part}.")


def _write_groups(
    output: str | Path, paths: list[str], features: np.ndarray, threshold: float
) -> list[Row]:
    groups, similarity = duplicate_groups(features, threshold)
    rows = [
        [number, printable(paths[i]), f"{similarity[i]:.6f}"]
        for number, group in enumerate(groups, 1)
        for i in group
    ]
    write_csv(output, ["group", "path", "similarity"], rows)
    print(
        f"{output}: groups of near duplicates: {len(groups)}, with {len(rows)} of {len(paths)} "
        "pictures."
    )
    return [
        Row(f"group {number}", [(paths[i], f"{similarity[i]:.4f}") for i in group])
        for number, group in enumerate(groups, 1)
    ]


def _write_neighbors(
    output: str | Path,
    paths: list[str],
    features: np.ndarray,
    queries: list[str],
    of_queries: np.ndarray,
    k: int,
) -> list[Row]:
    real = [os.path.realpath(path) for path in paths]
    nearest, similarity = nearest_rows(features, of_queries, min(k + 1, len(paths)))
    rows, shown = [], []
    for query, row, values in zip(queries, nearest, similarity, strict=True):
        own = os.path.realpath(query)
        others = [(i, x) for i, x in zip(row, values, strict=True) if real[i] != own][:k]
        rows += [
            [printable(query), rank, printable(paths[i]), f"{x:.6f}"]
            for rank, (i, x) in enumerate(others, 1)
        ]
        texts = [(paths[i], f"{rank}: {x:.4f}") for rank, (i, x) in enumerate(others, 1)]
        shown.append(Row(query, [(query, "query"), *texts]))
    write_csv(output, ["query", "rank", "path", "similarity"], rows)
    print(f"{output}: {len(rows)} neighbours of {len(queries)} pictures among {len(paths)}.")
    return shown
