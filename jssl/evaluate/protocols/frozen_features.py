"""The protocols on frozen features: kNN, linear, logistic regression, every layer, the grid."""

from typing import Any

import jax
from ml_collections import ConfigDict

from jssl import augment, data
from jssl.errors import UserError
from jssl.evaluate.context import KINDS, RAW, Subject, check_preset
from jssl.evaluate.embed import embed_source, select_feature
from jssl.evaluate.probes.layers import layer_rows
from jssl.evaluate.probes.linear_sgd import evaluate_linear
from jssl.evaluate.probes.logistic_table import logistic_row
from jssl.evaluate.probes.patch_grid import grid_row, raw_grid
from jssl.evaluate.probes.pooling import POOLED
from jssl.evaluate.probes.presets import PRESETS, crop_ranges, own_preset
from jssl.evaluate.table import knn_row, linear_row
from jssl.run.writers import say
from jssl.types import TrainState

Row = dict[str, Any]


def knn(subject: Subject, kinds: tuple[str, ...] = KINDS) -> list[Row]:
    """Weighted kNN with cosine similarity, of the checkpoint, the untrained net and raw pixels."""
    settings = subject.settings
    numbers: dict[str, Any] = {}
    for kind in kinds:
        row = knn_row(
            *subject.features(kind),
            num_classes=subject.num_classes,
            name=subject.halves[1].name,
            feature=settings.feature,
            k=settings.k,
            temperature=settings.temperature,
            kind=kind,
        )
        numbers |= row["numbers"]
    top1 = {kind: found["top1"] for kind, found in numbers.items()}
    return [{**row, "top1": top1, "numbers": numbers}]


def baselines(subject: Subject) -> list[Row]:
    """What a table of other probes is held against: kNN without any training."""
    return knn(subject, ("untrained", RAW))


def linear(subject: Subject) -> list[Row]:
    """The papers' linear protocol: a frozen network, augmented images, SGD by a preset."""
    settings = subject.settings
    check_preset(settings.preset)
    own = own_preset(subject.config)
    preset = settings.preset or own or "simclr"
    crop = crop_ranges(PRESETS[preset])
    host_crop = bool(subject.data.host_crop)
    train, test = subject.halves
    result = evaluate_linear(
        subject.probed,
        subject.state,
        train,
        test,
        size=subject.size,
        preset=preset,
        epochs=settings.epochs,
        feature=settings.feature,
        seed=settings.seed,
        host_crop=host_crop,
        train_transform=data.train_transform(
            subject.data, train, size=subject.size, views=1, **(crop if host_crop else {})
        ),
        test_transform=subject.transform(test),
        workers=subject.data.workers,
        progress=lambda entry: say(
            f"linear epoch {entry['epoch']:g} loss {entry['loss']:.4g} "
            f"test top-1 {100 * entry['test_top1']:.1f} %"
        ),
    )
    whose = f"the preset of {subject.config.method} is {own}"
    if preset == own:
        whose = f"that of {subject.config.method}'s authors"
    elif not own:
        whose = f"{subject.config.method} has none of its own"
    words = f"{result.record['protocol']}; {whose}"
    return [linear_row({**result.record, "protocol": words})]


def logistic(subject: Subject) -> list[Row]:
    """L-BFGS along 45 regularisers, of which held-out training examples choose one."""
    row = logistic_row(
        {kind: subject.features(kind) for kind in KINDS},
        num_classes=subject.num_classes,
        name=subject.halves[1].name,
        feature=subject.settings.feature,
        seed=subject.settings.seed,
    )
    return [row]


def layers(subject: Subject) -> list[Row]:
    """A linear classifier on the cached features of every layer."""
    train, test = subject.halves
    pooled = subject.probed is not subject.embed
    options: dict[str, Any] = {"pooling": POOLED} if pooled else {}
    return layer_rows(
        subject.probed,
        subject.state,
        train,
        test,
        size=subject.size,
        train_transform=subject.transform(train),
        test_transform=subject.transform(test),
        epochs=_cached_epochs(subject),
        seed=subject.settings.seed,
        **options,
    )


def grid(subject: Subject) -> list[Row]:
    """The linear probe on CPC's grid of patches."""
    if subject.grid_feature is None:
        raise UserError(
            f"Method '{subject.config.method}' has no grid of features; found --protocol with "
            "'grid'. Type --protocol=knn,linear."
        )
    return [
        grid_probe(
            subject.config,
            subject.data,
            subject.embed,
            {"trained": subject.state},
            subject.halves,
            subject.grid_feature,
            _cached_epochs(subject),
        )
    ]


def _cached_epochs(subject: Subject) -> int:
    return int(subject.settings.epochs) or subject.config.final.linear_epochs


def grid_probe(
    config: ConfigDict,
    data_config: ConfigDict,
    embed: Any,
    owners: dict[str, TrainState | None],
    halves: tuple[Any, Any],
    feature: str,
    epochs: int,
) -> Row:
    """The linear probe on the grid; the owner of raw pixels is None."""
    section = config[config.method]
    pixels = raw_grid(patch=section.patch, stride=section.stride)
    side = augment.patch_grid(config.augment.size, section.patch, section.stride)
    sets = {}
    for kind, owner in owners.items():
        compiled = jax.jit(pixels if owner is None else select_feature(embed, feature))
        arrays: list[Any] = []
        for source in halves:
            flat, labels, _ = embed_source(
                compiled,
                owner,
                source,
                batch_size=256,
                transform=data.eval_transform(data_config, source, size=config.augment.size),
            )
            arrays += [flat.reshape(len(flat), side, side, -1), labels]
        x, y, test_x, test_y = arrays
        sets[kind] = x, y, test_x, test_y
    return grid_row(
        sets,
        num_classes=halves[0].num_classes,
        name=halves[1].name,
        epochs=epochs,
    )
