"""`jssl embed`: writes the features of a data set to a file."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from jssl import config as config_lib
from jssl import data
from jssl.data.fetch import fetch, in_words
from jssl.errors import UserError
from jssl.evaluate.context import data_config, other_classes
from jssl.evaluate.embed import check_finite, select_feature
from jssl.evaluate.embed_parts import (
    Parts,
    all_parts,
    batches_per_part,
    check_parts,
    embed_to_parts,
    fitting_batch,
    sharded,
    together,
)
from jssl.evaluate.feature_files import Table, check_features_output, save_parts
from jssl.evaluate.pictures import Recorded
from jssl.precision import narrow
from jssl.run import build, workdir
from jssl.run.checksums import backbone_hash
from jssl.run.writers import say
from jssl.third_party import same_handlers
from jssl.types import TrainState


@narrow
@same_handlers()
def embed_run(
    folder: str | Path,
    *,
    output: str | Path,
    feature: str,
    step: int | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    split: str | None = None,
    on_error: str | None = None,
    limit: int | None = None,
) -> None:
    """Writes the features of a data set to a file, with labels, and paths and sizes of pictures.

    All devices of this process share each batch. The features are collected in parts, in the
    folder `OUTPUT.parts`, which is deleted when the file is written: if the process is killed, the
    same call goes on after the last part, and the file is the same. In a job of several processes
    (`jax.distributed`) each embeds its share of the parts, and process 0 writes the file; all read
    the same disk.

    Args:
        folder: the workdir of the run.
        output: the file; ends with .npz, .csv or .parquet.
        feature: 'backbone' or the name of an intermediate.
        step: of the checkpoint; the newest by default.
        source, data_dir: data set; the run's by default.
        split: 'train', 'probe' or 'test'; by default all pictures of a folder, and 'test' of
            another data set.
        on_error: 'stop' or 'skip': whether a picture that cannot be used is an error, or is left
            out and named; as in the run by default.
        limit: of a dry run: so many evenly spaced pictures; None for all.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit expects 1 or more, found {limit}.")
    config = workdir.read_config(folder)
    check_features_output(output)
    section = data_config(config, source, data_dir)
    if on_error is not None:
        section.on_error = on_error
    if split is None and section.name == "folder":
        examples, split = data.every_picture(section), "all"
    else:
        split = split or "test"
        examples = data.make_source(section, split)
    if limit is not None:
        examples = data.Limited(examples, limit)
    difference = other_classes(folder, config, section, examples) if feature == "logits" else ""
    if difference:
        raise UserError(
            f"The logits of the run in '{folder}' and the labels of '{examples.name}' have "
            f"different classes: found {difference}; expected the same names in the same order. "
            "Type --feature=backbone, or another --source."
        )
    say(f"{split} data: {data.describe(examples)}")
    embed, state = build.load_encoder(folder, step=step)
    check_finite(state)
    rows, dim = _write(output, config, section, examples, embed, state, feature)
    say(f"{output}: {feature} features {[rows, dim]} of {examples.name} ({split}).")


def _write(
    output: str | Path,
    config: ConfigDict,
    section: ConfigDict,
    examples: Any,
    embed: Callable[..., Any],
    state: TrainState,
    feature: str,
) -> tuple[int, int]:
    """Embeds examples in parts and writes the file; returns the shape of the features."""
    transform, recorded = data.eval_transform(section, examples, size=config.augment.size), None
    paths = getattr(examples, "paths", None)
    if paths is not None and transform is not None:
        recorded = Recorded(examples, transform)
    source, transform = recorded or examples, recorded.transform if recorded else transform
    program = jax.jit(select_feature(embed, feature))
    batch_size = fitting_batch(len(examples), jax.local_device_count())
    first = fetch(source, 0, transform, None)["image"]
    like = jax.ShapeDtypeStruct((batch_size, *first.shape), first.dtype)
    dim = jax.eval_shape(program, state, like).shape[1]
    sha256 = backbone_hash(state)
    parts = Parts(
        output,
        {
            "network": sha256,
            "step": int(state.step),
            "feature": feature,
            "config": config_lib.config_hash(config),
            "data": config_lib.config_hash(section),
            "source": [examples.name, examples.fingerprint(), len(examples)],
            "files": _files_digest(paths),
            "batch": [batch_size, *first.shape, str(first.dtype), dim],
            "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
            "jax": jax.__version__,
        },
        batches=-(-len(examples) // batch_size),
        per_part=batches_per_part(batch_size, dim),
    )
    parts.open()
    with tqdm(
        total=len(examples), unit="image", disable=True if jax.process_index() else None
    ) as bar:
        embed_to_parts(
            sharded(program, state),
            source,
            parts,
            batch_size=batch_size,
            transform=transform,
            sizes=None if recorded is None else recorded.sizes,
            progress=bar.update,
        )
    together("all parts are there")
    rows = 0
    if jax.process_index() == 0:
        rows, problems = check_parts(parts, examples)
        if problems:
            say(f"{examples.name}: pictures that were skipped or converted: {in_words(problems)}")
        tables = (
            Table(
                part.features,
                part.labels,
                part.indices,
                examples,
                paths=None if paths is None else [paths[i] for i in part.indices],
                sizes=None if recorded is None else part.sizes,
                feature=feature,
                step=int(state.step),
                backbone_sha256=sha256,
            )
            for part in all_parts(parts)
        )
        save_parts(output, tables, shape=(rows, dim))
        parts.remove()
    together("the file is written")
    return rows, dim


def _files_digest(paths: Sequence[str] | None) -> str:
    """Returns a hash of the sizes and times of files, as a fingerprint has their names only."""
    digest = hashlib.sha256()
    for path in paths or ():
        try:
            status = os.stat(path)
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:  # the embedding says what is wrong with it
            digest.update(b"-\n")
    return digest.hexdigest()[:16]
