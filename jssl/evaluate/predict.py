"""`jssl predict`: what the classifier of a run says of pictures, as a table."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jssl import data, files
from jssl.data.walk import printable
from jssl.errors import UserError
from jssl.evaluate.embed import embed_source, select_feature
from jssl.evaluate.feature_files import write_csv
from jssl.evaluate.pictures import Recorded, crop, reading, say_failed
from jssl.methods._common import channels_of
from jssl.precision import narrow
from jssl.run import build, workdir
from jssl.run.writers import say
from jssl.third_party import same_handlers

TOP_K = 5  # classes of each picture, if there are so many


@narrow
@same_handlers()
def predict_run(
    folder: str | Path,
    inputs: Iterable[str | Path],
    *,
    output: str | Path,
    top_k: int | None = None,
    step: int | None = None,
) -> None:
    """Writes the most probable classes of pictures to a CSV file.

    A row for each picture: `path`, then `class_1`, `probability_1`, `class_2`, ..., the most
    probable first, and `error`: empty, or why the picture could not be read; its other cells are
    then empty. The data that the run was trained on are not read.

    Args:
        folder: the workdir of a run with a classifier.
        inputs: files, folders and patterns, see `jssl.data.find_pictures`.
        output: the file; ends with .csv.
        top_k: classes of each picture; 5 by default, or all if there are fewer.
        step: of the checkpoint; the newest by default.

    Raises:
        UserError: a run without a classifier, no pictures, or none that can be read.
    """
    config = workdir.read_config(folder)
    files.check_output(output, ending=".csv")
    if top_k is not None and top_k < 1:
        raise UserError(f"--top_k expects 1 or more, found {top_k}.")
    paths = data.find_pictures(inputs)
    if not paths:
        raise UserError("Found no pictures: expected files. Type --input=FILE_OR_FOLDER.")
    names = workdir.read_classes(folder)
    embed, state = build.load_encoder(folder, step=step)
    count = _num_classes(embed, state, config, folder)
    if top_k is not None and top_k > count:
        raise UserError(f"--top_k={top_k}, but the run has {count} classes. Type --top_k={count}.")
    size = config.augment.size
    how = reading(config.data)
    source = Recorded(
        data.FileSource(paths, **how), crop(config), side=size, channels=how["channels"]
    )
    lines: list[str] = []
    with tqdm(total=len(paths), unit="image", disable=None) as bar:
        logits, _, _ = embed_source(
            jax.jit(select_feature(embed, "logits")),
            state,
            source,
            batch_size=256,
            transform=source.transform,
            progress=lambda done, total: bar.update(done - bar.n),
            tell=lines.append,
        )
    if len(source.failed) == len(paths):
        raise UserError(
            f"None of the {len(paths)} pictures can be read, the first: {source.failed[0]}"
        )
    top = min(TOP_K if top_k is None else top_k, count)
    header = ["path"]
    for place in range(1, top + 1):
        header += [f"class_{place}", f"probability_{place}"]
    write_csv(output, [*header, "error"], _rows(paths, logits, names or (), top, source.failed))
    for line in lines:  # below the bar
        say(line)
    if names is None:
        say(f"NOTE the classes of {folder} have no names: they are given by number")
    say_failed(paths, source.failed, "their rows have no class, and the column `error` says why")
    print(f"{output}: the {top} most probable of {count} classes for {len(paths)} pictures.")


def _num_classes(embed: Any, state: Any, config: Any, folder: str | Path) -> int:
    size, channels = config.augment.size, channels_of(config)
    image = jax.ShapeDtypeStruct((1, size, size, channels), "uint8")
    outputs = jax.eval_shape(embed, state, image)[1]
    if "logits" not in outputs:
        raise UserError(
            f"The run in '{folder}' of method '{config.method}' has no classifier: expected one of "
            "supervised, noisy_student or deit. Fine-tune it: jssl train "
            f"--config=supervised_photos:init={folder} --workdir=DIR."
        )
    return outputs["logits"].shape[-1]


def top_classes(logits: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most probable classes, int [M,k], and their probabilities, float64 [M,k].

    Args:
        logits: float [M,K].
        top_k: number k of classes, at most K.

    Example:
        >>> classes, probabilities = top_classes(np.log([[0.2, 0.5, 0.3]]), 2)
        >>> classes.tolist(), probabilities.round(3).tolist()
        ([[1, 2]], [[0.5, 0.3]])
    """
    logits = np.asarray(logits, np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return classes, np.take_along_axis(probabilities, classes, axis=1)


def _rows(
    paths: list[str],
    logits: np.ndarray,
    names: tuple[str, ...],
    top_k: int,
    failed: dict[int, str],
) -> Iterable[list[str]]:
    classes, probabilities = top_classes(logits, top_k)
    for i, path in enumerate(paths):
        row = [printable(path)]
        for label, probability in zip(classes[i].tolist(), probabilities[i], strict=True):
            name = names[label] if label < len(names) else str(label)
            row += ["", ""] if i in failed else [name, f"{probability:.6f}"]
        yield [*row, failed.get(i, "")]
