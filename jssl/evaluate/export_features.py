"""`jssl embed`: the features of a data set as a file."""

from pathlib import Path

import jax
from tqdm import tqdm

from jssl import data, files
from jssl.errors import UserError
from jssl.evaluate.context import data_config, other_classes
from jssl.evaluate.embed import embed_source, save_npz, select_feature
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
    split: str = "test",
) -> None:
    """Writes the features and labels of a data set to an .npz file.

    Args:
        folder: the workdir of the run.
        output: the file; ends with .npz.
        feature: 'backbone' or the name of an intermediate.
        step: which checkpoint, the newest by default.
        source, data_dir: another data set than the run's.
        split: 'train' or 'test'.
    """
    config = workdir.read_config(folder)
    files.check_output(output, ending=".npz")
    chosen = data_config(config, source, data_dir)
    found = data.make_source(chosen, split)
    words = other_classes(folder, config, chosen, found) if feature == "logits" else ""
    if words:
        raise UserError(
            f"The logits of the run in '{folder}' and the labels of '{found.name}' are of other "
            f"classes: found {words}; expected the same names in the same order. Type "
            "--feature=backbone, or another --source."
        )
    say(f"{split} data: {data.describe(found)}")
    embed, state = build.load_encoder(folder, step=step)
    lines: list[str] = []
    with tqdm(total=len(found), unit="image", disable=None) as bar:
        features, labels, indices = embed_source(
            jax.jit(select_feature(embed, feature)),
            state,
            found,
            batch_size=256,
            transform=data.eval_transform(chosen, found, size=config.augment.size),
            progress=lambda done, total: bar.update(done - bar.n),
            tell=lines.append,
        )
    for line in lines:  # below the bar
        say(line)
    save_npz(
        output,
        features,
        labels,
        indices,
        source=found,
        feature=feature,
        step=int(state.step),
        backbone_sha256=backbone_hash(state),
    )
    print(f"{output}: {feature} features {list(features.shape)} of {found.name} ({split}).")
