"""The commands that judge a finished run by a named protocol, or write its features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from jssl import augment, data, evaluate, experiment, methods, workdir
from jssl.errors import UserError, nearest
from jssl.metrics import say
from jssl.types import TrainState

PROTOCOLS = ("knn", "linear", "grid", "layers", "robustness")


def grid_probe(
    config: ConfigDict,
    data_config: ConfigDict,
    embed: Any,
    owners: dict[str, TrainState | None],
    halves: tuple[Any, Any],
    feature: str,
    epochs: int,
) -> dict[str, Any]:
    """The linear probe on the grid; the owner of raw pixels is None."""
    section = config[config.method]
    pixels = evaluate.raw_grid(patch=section.patch, stride=section.stride)
    side = augment.patch_grid(config.augment.size, section.patch, section.stride)
    sets = {}
    for kind, owner in owners.items():
        compiled = jax.jit(pixels if owner is None else evaluate.select_feature(embed, feature))
        sets[kind] = ()
        for source in halves:
            flat, labels, _ = evaluate.embed_source(
                compiled,
                owner,
                source,
                batch_size=256,
                transform=data.eval_transform(data_config, source, size=config.augment.size),
            )
            sets[kind] += (flat.reshape(len(flat), side, side, -1), labels)
    return evaluate.grid_row(
        sets,
        num_classes=halves[0].num_classes,
        name=halves[1].name,
        epochs=epochs,
    )


def _sources(config: ConfigDict, source: str | None, data_dir: str | None, split: str) -> Any:
    chosen = ConfigDict(config.data.to_dict())
    if source is not None and source != config.data.name:
        chosen = ConfigDict(data.DEFAULTS)
        chosen.name = source
    if data_dir is not None:
        chosen.data_dir = data_dir
    found = data.make_source(chosen, split)
    return chosen, found


def evaluate_run(
    folder: str | Path,
    *,
    protocols: Sequence[str],
    k: int,
    temperature: float,
    feature: str,
    preset: str,
    epochs: float,
    step: int | None = None,
    source: str | None = None,
    data_dir: str | None = None,
) -> list[dict[str, Any]]:
    """Judges a checkpoint by kNN on frozen features, the papers' linear protocol, or both.

    Args:
        folder: the workdir of the run.
        protocols: of 'knn', 'linear', 'grid' (a linear probe on the grid of CPC) and 'layers' (one
            at every layer, on cached features), and 'robustness' (the run's own classifier on
            corrupted test images).
        k, temperature: of kNN.
        feature: 'backbone' or the name of an intermediate.
        preset: of the linear protocol, a key of `jssl.evaluate.PRESETS`.
        epochs: of the linear protocols; 0 takes the preset's, and those of grid and layers the
            final table's.
        step: which checkpoint, the newest by default.
        source, data_dir: another data set than the run's.

    Returns:
        The rows that were printed and written to `evaluation.json` in the workdir.

    Raises:
        UserError: unknown protocol, preset or feature, no labels, no checkpoint.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            raise UserError(f"Unknown protocol '{name}': {nearest(name, PROTOCOLS)}.")
    if "linear" in protocols and preset not in evaluate.PRESETS:
        raise UserError(f"Unknown linear preset '{preset}': {nearest(preset, evaluate.PRESETS)}.")
    config = workdir.read_config(folder)
    grid = getattr(methods.load(config.method), "GRID_FEATURE", None)
    if "grid" in protocols and grid is None:
        raise UserError(
            f"Method '{config.method}' has no grid of features; found --protocol with 'grid'. "
            "Type --protocol=knn,linear."
        )
    chosen, train_source = _sources(config, source, data_dir, "probe")
    _, test_source = _sources(config, source, data_dir, "test")
    embed, state = experiment.load_encoder(folder, step=step)
    size = config.augment.size
    rows = []
    if "knn" in protocols:
        halves = []
        for part in (train_source, test_source):
            features, labels, _ = evaluate.embed_source(
                jax.jit(evaluate.select_feature(embed, feature)),
                state,
                part,
                batch_size=256,
                transform=data.eval_transform(chosen, part, size=size),
            )
            halves += [features, labels]
        rows.append(
            evaluate.knn_row(
                *halves,
                num_classes=train_source.num_classes,
                name=test_source.name,
                feature=feature,
                k=k,
                temperature=temperature,
            )
        )
    if "linear" in protocols:
        result = evaluate.evaluate_linear(
            embed,
            state,
            train_source,
            test_source,
            size=size,
            preset=preset,
            epochs=epochs,
            feature=feature,
            host_crop=bool(chosen.host_crop),
            train_transform=data.train_transform(chosen, train_source, size=size, views=1),
            test_transform=data.eval_transform(chosen, test_source, size=size),
            workers=chosen.workers,
            progress=lambda entry: say(
                f"linear epoch {entry['epoch']:g} loss {entry['loss']:.4g} "
                f"test top-1 {100 * entry['test_top1']:.1f} %"
            ),
        )
        rows.append(evaluate.linear_row(result.record))
    count = int(epochs) or config.final.linear_epochs
    if "layers" in protocols:
        rows += evaluate.layer_rows(
            embed,
            state,
            train_source,
            test_source,
            size=size,
            train_transform=data.eval_transform(chosen, train_source, size=size),
            test_transform=data.eval_transform(chosen, test_source, size=size),
            epochs=count,
        )
    if "grid" in protocols:
        halves = (train_source, test_source)
        rows.append(grid_probe(config, chosen, embed, {"trained": state}, halves, grid, count))
    record = {
        "step": int(state.step),
        "backbone_sha256": evaluate.backbone_hash(state),
        "rows": rows,
        "versions": workdir.versions(),
    }
    if rows:
        print(evaluate.format_table(rows))
    if "robustness" in protocols:
        record["robustness"] = evaluate.robustness_record(
            embed,
            state,
            test_source,
            size=size,
            transform=data.eval_transform(chosen, test_source, size=size),
        )
        print(evaluate.format_robustness(record["robustness"]))
    workdir.write_json(Path(folder) / "evaluation.json", record)
    return rows


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
    chosen, found = _sources(config, source, data_dir, split)
    embed, state = experiment.load_encoder(folder, step=step)
    with tqdm(total=len(found), unit="image", disable=None) as bar:
        features, labels, indices = evaluate.embed_source(
            jax.jit(evaluate.select_feature(embed, feature)),
            state,
            found,
            batch_size=256,
            transform=data.eval_transform(chosen, found, size=config.augment.size),
            progress=lambda done, total: bar.update(done - bar.n),
        )
    evaluate.save_npz(
        output,
        features,
        labels,
        indices,
        source=found,
        feature=feature,
        step=int(state.step),
        backbone_sha256=evaluate.backbone_hash(state),
    )
    print(f"{output}: {feature} features {list(features.shape)} of {found.name} ({split}).")
