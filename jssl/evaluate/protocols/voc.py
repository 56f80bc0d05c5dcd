"""The protocols on PASCAL VOC 2007, whatever data set a run was trained on.

`voc` is a fast evaluation of frozen features; `voc_fc68`, `voc_fc68_affine` and `voc_all` are
DeepCluster's, for AlexNet and VGG-16, and take hours at full length: `--protocol=all` leaves them
out.
"""

import functools
from typing import Any

import jax

from jssl import augment, data, methods, models
from jssl.errors import UserError
from jssl.evaluate.context import BATCH, KINDS, RAW, Context
from jssl.evaluate.embed import BACKBONE, embed_source, select_feature
from jssl.evaluate.probes import voc_finetune
from jssl.evaluate.probes.logistic_table import small_pixels
from jssl.evaluate.probes.multilabel import average_precision_row, multilabel_rows
from jssl.evaluate.protocol import Protocol, Row
from jssl.models.plain import PlainNet
from jssl.run.writers import say
from jssl.types import PyTree, TrainState

TRAINVAL = "train+validation"


def needs(context: Context) -> str:
    """Returns what a run lacks for `voc`; '' if nothing."""
    return data.voc_missing(context.settings.data_dir or "")


def needs_finetuned(context: Context) -> str:
    """Returns what a run lacks for DeepCluster's protocols; '' if nothing."""
    if not isinstance(_encoder(context), PlainNet):
        return "AlexNet or VGG-16: a run with --config.model.name=alexnet or vgg16"
    return needs(context) or "hours: ask for it by name"


def describe(context: Context) -> dict[str, Any]:
    """Describes the examples for the record."""
    train, test = source_of(context, TRAINVAL), source_of(context, "test")
    return {
        "name": test.name,
        "split": "test",
        "examples": len(test),
        "fingerprint": test.fingerprint(),
        "train_examples": len(train),
    }


def run(context: Context) -> list[Row]:
    """Fits logistic regression on features: checkpoint, untrained network, raw pixels."""
    sources = [source_of(context, split) for split in ("train", "validation", "test")]
    owners = {"trained": context.state, "untrained": context.untrained, RAW: None}
    feature = context.settings.feature
    network = context.compile(feature)
    pixels = jax.jit(select_feature(small_pixels, BACKBONE))
    sets = {
        kind: [
            embed_source(
                pixels if kind == RAW else network,
                owners[kind],
                source,
                batch_size=BATCH,
                transform=context.transform(source),
                tell=say if kind == "trained" else None,
            )[:2]
            for source in sources
        ]
        for kind in KINDS
    }
    return multilabel_rows(
        sets, name=full_name(sources), feature=feature, seed=context.settings.seed
    )


def _tell(what: str, step: int, loss: float) -> None:
    say(f"{what} {step:,} loss {loss:.4g}")


def finetuned(name: str) -> Protocol:
    """Returns the protocol of a preset of `jssl.evaluate.probes.voc_finetune`."""
    run = functools.partial(_finetuned, voc_finetune.VOC_PRESETS[name], name)
    return Protocol(
        name, run, needs_finetuned, ("data_dir", "epochs", "seed"), data=describe, colours=True
    )


def _finetuned(preset: voc_finetune.VocPreset, name: str, context: Context) -> list[Row]:
    encoder, settings = _encoder(context), context.settings
    if not isinstance(encoder, PlainNet):
        raise UserError(
            f"Protocol '{name}' fine-tunes AlexNet or VGG-16; found model.name "
            f"'{context.config.model.name}'. Type --protocol=voc."
        )
    train, test = source_of(context, TRAINVAL), source_of(context, "test")
    batch = min(voc_finetune.BATCH, len(train))
    steps = preset.steps
    if settings.epochs:
        steps = max(1, round(settings.epochs * len(train) / batch))
    training = voc_finetune.make_training(
        encoder,
        lambda x: augment.normalize(x, augment.statistics_of(context.config.augment)),
        preset,
        num_classes=test.num_classes,
        steps=steps,
    )
    protocol = (
        f"{preset.words}, {steps:,} steps of batch {batch}"
        + (f" in place of {preset.steps:,}" if steps != preset.steps else "")
        + f", rate {preset.rate:g} halved {_halvings(preset)} times, square crops of 10-50 % "
        f"to {context.size} px, sum over {voc_finetune.CROPS} crops, positives last among equals, "
        f"difficult ones left out, {len(train):,} train, {len(test):,} test images of "
        f"{full_name([train, test])}"
    )
    rows: dict[str, Row] = {}
    for kind, owner in {"trained": context.state, "untrained": context.untrained}.items():
        scores, labels = voc_finetune.finetune_voc(
            training,
            *network_of(context, owner),
            train,
            test,
            size=context.size,
            steps=steps,
            seed=settings.seed,
            progress=functools.partial(_tell, f"{name} {kind}"),
        )
        row, each = average_precision_row(
            name,
            scores - 1e-5 * (labels == 1),
            labels,
            definition="step",
            metric="mAP",
            feature=f"{kind} convolutions",
            protocol=protocol,
            kind=kind,
            seed=settings.seed,
        )
        row["numbers"][kind]["average_precision"] = each
        rows.setdefault("mAP", row)["numbers"].update(row["numbers"])
    return list(rows.values())


def _halvings(preset: voc_finetune.VocPreset) -> int:
    """Returns how often a preset's learning rate is halved before its last step."""
    return (preset.steps - 1) // preset.period


def _encoder(context: Context) -> Any:
    """Returns the network of the run's config, with the official dropout."""
    section = {**context.config.model.to_dict()}
    if section["name"] in ("alexnet", "vgg16"):
        section["dropout"] = 0.5
    return models.build(section)


def network_of(context: Context, state: TrainState) -> tuple[PyTree, PyTree]:
    """Returns parameters and running statistics of the encoder."""
    if "encoder" not in state.params:
        raise UserError(
            f"The run is of method '{context.config.method}', whose parameters "
            f"{sorted(state.params)} have no 'encoder'. Type --protocol=voc."
        )
    params, batch_stats = methods.get(context.config.method).judged(state)
    return params["encoder"], batch_stats.get("encoder", {})


def source_of(context: Context, split: str) -> Any:
    """Returns a split of VOC 2007, as `--limit` leaves it."""
    return context.limited(data.VocSource(split, data_dir=context.settings.data_dir or ""))


def full_name(sources: list[Any]) -> str:
    """Returns the name of a data set, and where some are left out, that it is not the whole."""
    name = sources[0].name
    full_sources = [s.source if isinstance(s, data.Limited) else s for s in sources]
    lengths = [(len(s), full.whole) for s, full in zip(sources, full_sources, strict=True)]
    if all(length == full for length, full in lengths):
        return name
    return f"{name}, NOT the whole set of {' + '.join(f'{full:,}' for _, full in lengths)} images"


PROTOCOL = Protocol(
    "voc",
    run,
    needs,
    ("data_dir", "feature", "seed"),
    data=describe,
    selects="the regulariser, on the validation split",
    colours=True,
)
