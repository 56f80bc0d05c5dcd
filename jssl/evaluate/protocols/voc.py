"""The protocols on PASCAL VOC 2007, whatever data set a run was trained on.

`voc` is the quick check on frozen features; `voc_fc68` and `voc_all` are DeepCluster's, for AlexNet
and VGG-16, and take hours at full length: `--protocol=all` leaves them out.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jssl import augment, data, methods, models
from jssl.errors import UserError
from jssl.evaluate.context import BATCH, KINDS, RAW, Subject
from jssl.evaluate.embed import BACKBONE, embed_source, select_feature
from jssl.evaluate.probes import voc_finetune
from jssl.evaluate.probes.logistic_table import small_pixels
from jssl.evaluate.probes.multilabel import average_precision_row, multilabel_rows
from jssl.models.plain import PlainNet
from jssl.run.writers import say
from jssl.types import PyTree, TrainState

LEARNT = "train+validation"
Row = dict[str, Any]


def lacking(subject: Subject) -> str:
    """What a subject lacks for `voc`, in words; '' where it lacks nothing."""
    return data.voc_missing(subject.settings.data_dir or "")


def lacking_finetuned(subject: Subject) -> str:
    """Likewise of the protocols that fine-tune."""
    if not isinstance(_encoder(subject), PlainNet):
        return "AlexNet or VGG-16: a run with --config.model.name=alexnet or vgg16"
    return lacking(subject) or "hours: ask for it by name"


def described(subject: Subject) -> dict[str, Any]:
    """What the record says of the examples."""
    learnt, test = _source(subject, LEARNT), _source(subject, "test")
    return {
        "name": test.name,
        "split": "test",
        "examples": len(test),
        "fingerprint": test.fingerprint(),
        "train_examples": len(learnt),
    }


def frozen(subject: Subject) -> list[Row]:
    """Logistic regression on frozen features: the checkpoint's, the untrained net's, raw pixels."""
    sources = [_source(subject, split) for split in ("train", "validation", "test")]
    owners = {"trained": subject.state, "untrained": subject.untrained, RAW: None}
    feature = subject.settings.feature
    network = jax.jit(select_feature(subject.embed, feature))
    pixels = jax.jit(select_feature(small_pixels, BACKBONE))
    sets = {
        kind: [
            embed_source(
                pixels if kind == RAW else network,
                owners[kind],
                source,
                batch_size=BATCH,
                transform=subject.transform(source),
                tell=say if kind == "trained" else None,
            )[:2]
            for source in sources
        ]
        for kind in KINDS
    }
    return multilabel_rows(sets, name=_name(sources), feature=feature, seed=subject.settings.seed)


def _tell(what: str, step: int, loss: float) -> None:
    say(f"{what} {step:,} loss {loss:.4g}")


def finetuned(preset: str) -> Callable[[Subject], list[Row]]:
    """Makes the protocol of a preset of `jssl.evaluate.probes.voc_finetune`."""
    return functools.partial(_finetuned, voc_finetune.VOC_PRESETS[preset], preset)


def _finetuned(preset: voc_finetune.VocPreset, name: str, subject: Subject) -> list[Row]:
    encoder, settings = _encoder(subject), subject.settings
    if not isinstance(encoder, PlainNet):
        raise UserError(
            f"Protocol '{name}' draws fc6 to fc8 of AlexNet or VGG-16 anew; found model.name "
            f"'{subject.config.model.name}'. Type --protocol=voc."
        )
    learnt, test = _source(subject, LEARNT), _source(subject, "test")
    batch = min(voc_finetune.BATCH, len(learnt))
    steps = preset.steps
    if settings.epochs:
        steps = max(1, round(settings.epochs * len(learnt) / batch))
    training = voc_finetune.make_training(
        encoder,
        lambda x: augment.normalize(x, subject.config.augment.normalize),
        preset,
        num_classes=test.num_classes,
        steps=steps,
    )
    words = (
        f"{preset.words}, {steps:,} steps of batch {batch}"
        + (f" in place of {preset.steps:,}" if steps != preset.steps else "")
        + f", rate {preset.rate:g} halved {_halvings(preset)} times, square crops of 10-50 % "
        f"to {subject.size} px, sum over {voc_finetune.CROPS} crops, positives last among equals, "
        f"difficult ones left out, {len(learnt):,} train, {len(test):,} test images of "
        f"{_name([learnt, test])}"
    )
    rows: dict[str, Row] = {}
    for kind, owner in {"trained": subject.state, "untrained": subject.untrained}.items():
        scores, labels = voc_finetune.finetune_voc(
            training,
            *_network(subject, owner),
            learnt,
            test,
            size=subject.size,
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
            protocol=words,
            kind=kind,
            seed=settings.seed,
        )
        row["numbers"][kind]["average_precision"] = each
        rows.setdefault("mAP", row)["numbers"].update(row["numbers"])
    return list(rows.values())


def _halvings(preset: voc_finetune.VocPreset) -> int:
    """How often a preset's learning rate is halved before its last step."""
    return (preset.steps - 1) // preset.period


def _encoder(subject: Subject) -> Any:
    """The network of the run's config, with the dropout of the official one."""
    section = {**subject.config.model.to_dict()}
    if section["name"] in ("alexnet", "vgg16"):
        section["dropout"] = 0.5
    return models.build(section)


def _network(subject: Subject, state: TrainState) -> tuple[PyTree, PyTree]:
    """Parameters and running statistics of the encoder."""
    if "encoder" not in state.params:
        raise UserError(
            f"The run is of method '{subject.config.method}', whose parameters "
            f"{sorted(state.params)} have no 'encoder'. Type --protocol=voc."
        )
    params, batch_stats = methods.get(subject.config.method).judged(state)
    return params["encoder"], batch_stats.get("encoder", {})


def _source(subject: Subject, split: str) -> data.VocSource:
    return data.VocSource(split, data_dir=subject.settings.data_dir or "")


def _name(sources: list[data.VocSource]) -> str:
    name = sources[0].name
    lengths = [(len(source), source.whole) for source in sources]
    if all(found == whole for found, whole in lengths):
        return name
    return f"{name}, NOT the whole set of {' + '.join(f'{whole:,}' for _, whole in lengths)} images"
