"""`jssl embed`: writes the features of a data set to a file."""

from pathlib import Path

import jax
from tqdm import tqdm

from jssl import data
from jssl.errors import UserError
from jssl.evaluate.context import data_config, other_classes
from jssl.evaluate.embed import embed_source, select_feature
from jssl.evaluate.feature_files import Table, check_features_output, save_features
from jssl.evaluate.pictures import Recorded
from jssl.precision import narrow
from jssl.run import build, workdir
from jssl.run.checksums import backbone_hash
from jssl.run.writers import say
from jssl.third_party import same_handlers


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
    transform, recorded = data.eval_transform(section, examples, size=config.augment.size), None
    paths = getattr(examples, "paths", None)
    if paths is not None and transform is not None:
        recorded = Recorded(examples, transform)
    lines: list[str] = []
    with tqdm(total=len(examples), unit="image", disable=None) as bar:
        features, labels, indices = embed_source(
            jax.jit(select_feature(embed, feature)),
            state,
            recorded or examples,
            batch_size=256,
            transform=recorded.transform if recorded else transform,
            progress=lambda done, total: bar.update(done - bar.n),
            tell=lines.append,
        )
    for line in lines:  # below the bar
        say(line)
    table = Table(
        features,
        labels,
        indices,
        examples,
        paths=None if paths is None else [paths[i] for i in indices],
        sizes=None if recorded is None else recorded.sizes[indices],
        feature=feature,
        step=int(state.step),
        backbone_sha256=backbone_hash(state),
    )
    save_features(output, table)
    print(f"{output}: {feature} features {list(features.shape)} of {examples.name} ({split}).")
