"""`--protocol=voc2007_finetune`: VOC 2007 as a transfer set, all layers of a ResNet fine-tuned.

SimCLR's transfer table: see `jssl.evaluate.probes.multilabel_finetune`. The other eleven sets have
one label for each image, and are trained with configs/finetune_transfer.py. Rate and weight decay
are selected on the validation split; the network is then trained on train and validation together
and evaluated once on test. --lr and --wd take the place of the grid: with both, there is one
training for each network.
"""

import functools
from typing import Any

import jax.numpy as jnp

from jssl import augment, files, models
from jssl.data.voc import CLASSES
from jssl.errors import UserError
from jssl.evaluate.context import Context
from jssl.evaluate.probes import multilabel_finetune as finetuning
from jssl.evaluate.probes.multilabel import average_precision_row
from jssl.evaluate.protocol import Protocol, Row
from jssl.evaluate.protocols import voc
from jssl.evaluate.protocols.transfer_sets import MAP11
from jssl.models.resnet import ResNet
from jssl.run import workdir
from jssl.run.writers import say

NAME = "voc2007_finetune"
SPLITS = ("train", "validation", voc.TRAINVAL, "test")


def needs(context: Context) -> str:
    """Returns what a run lacks; a training is asked for by name."""
    return _unfit(context) or voc.needs(context) or "hours: ask for it by name"


def _unfit(context: Context) -> str:
    if isinstance(models.build(context.config.model), ResNet):
        return ""
    return f"a ResNet, found model.name '{context.config.model.name}'"


def run(context: Context) -> list[Row]:
    """Fine-tunes the checkpoint and the untrained network; each has its own grid."""
    if lacks := _unfit(context):
        raise UserError(f"Protocol '{NAME}' needs {lacks}.")
    sources = {split: voc.source_of(context, split) for split in SPLITS}
    tuning = _tuning(context, len(sources[voc.TRAINVAL]))
    first, second = (
        _row(context, kind, _asked(context, kind, len(sources[voc.TRAINVAL])), tuning, sources)
        for kind in finetuning.GRIDS
    )
    first["numbers"].update(second["numbers"])
    return [first]


def _asked(context: Context, kind: str, count: int) -> finetuning.Grid:
    """Returns the grid, or what --lr, --wd and --epochs set in its place.

    A dry run has two points and two steps unless they are typed.
    """
    settings, grid = context.settings, finetuning.GRIDS[kind]
    longer = grid.steps / finetuning.GRIDS["trained"].steps
    if settings.limit:
        grid = finetuning.Grid(grid.rates[:2], grid.decays[:1], round(2 * longer))
    if settings.lr is not None:
        grid = grid._replace(rates=(settings.lr,))
    if settings.wd is not None:
        grid = grid._replace(decays=(settings.wd,))
    if settings.epochs:  # of the trained network; the other is trained twice as long
        steps = settings.epochs * count / min(finetuning.BATCH, count)
        grid = grid._replace(steps=max(1, round(longer * steps)))
    points = len(grid.rates) * len(grid.decays)
    trainings = points + 1 if points > 1 else 1
    say(f"{NAME}, {kind} network: trainings: {trainings}, each of {grid.steps:,} steps")
    return grid


def _row(
    context: Context,
    kind: str,
    grid: finetuning.Grid,
    tuning: finetuning.Tuning,
    sources: dict[str, Any],
) -> Row:
    """Selects rate and decay, trains on train and validation, evaluates on test."""
    state = context.state if kind == "trained" else context.untrained
    network, seed = voc.network_of(context, state), context.settings.seed

    def trained(split: str, other: str, rate: float, decay: float):
        """Trains on one split and scores another; None if the training diverged."""
        tuned = finetuning.finetune(
            tuning,
            *network,
            sources[split],
            size=context.size,
            rate=rate,
            decay=decay,
            steps=grid.steps,
            seed=seed,
            progress=functools.partial(_tell, f"{kind}, lr {rate:.3g}, wd {decay:.3g}"),
        )
        judged = sources[other]
        return tuned and finetuning.scores_of(tuning, tuned, judged, context.transform(judged))

    def validated(rate: float, decay: float) -> float | None:
        path = _place(context, kind, rate, decay, grid.steps)
        if path.exists() and (old := workdir.read_json(path))["sha256"] == context.sha256:
            return old["validation_map"]
        outputs = trained("train", "validation", rate, decay)
        value = finetuning.eleven_point_map(*outputs) if outputs else None
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"validation_map": value, "sha256": context.sha256})
        return value

    rate, decay, value = finetuning.select(validated, grid.rates, grid.decays)
    outputs = trained(voc.TRAINVAL, "test", rate, decay)
    if outputs is None:
        raise UserError(f"Fine-tuning of the {kind} network diverged. Type --lr below {rate:.3g}.")
    row, each = average_precision_row(
        "fine-tuned",
        *outputs,
        definition="voc2007",
        metric=MAP11,
        feature=f"{kind}, all layers",
        protocol=_words(context, grid, (rate, decay, value), sources),
        kind=kind,
        seed=seed,
    )
    selected = {} if value is None else {"validation_map": value}
    row["numbers"][kind] |= {"average_precision": each, "lr": rate, "wd": decay, **selected}
    return row


def _tuning(context: Context, count: int) -> finetuning.Tuning:
    """Makes the training; `count` images are an epoch, which sets the momentum of BN."""
    section = {**context.config.model.to_dict(), "bn_groups": 1}
    section["bn_momentum"] = max(1 - 10 / max(1, count // finetuning.BATCH), 0.9)
    return finetuning.make_tuning(
        models.build(section, dtype=jnp.dtype(context.config.dtype)),
        lambda x: augment.normalize(x, augment.statistics_of(context.config.augment)),
        num_classes=len(CLASSES),
        size=context.size,
    )


def _words(
    context: Context,
    grid: finetuning.Grid,
    selected: tuple[float, float, float | None],
    sources: dict[str, Any],
) -> str:
    rate, decay, value = selected
    train, test = sources[voc.TRAINVAL], sources["test"]
    points = len(grid.rates) * len(grid.decays)
    chosen = (
        "as typed, not selected"
        if value is None
        else f"selected from {points} by {100 * value:.1f} % 11-point mAP on "
        f"{len(sources['validation']):,} validation images after training on "
        f"{len(sources['train']):,}"
    )
    return (
        f"all layers trained, {grid.steps:,} steps of batch {min(finetuning.BATCH, len(train))}, "
        f"SGD with Nesterov momentum, cosine, learning rate {rate:.3g} and weight decay "
        f"{decay:.3g} (divided by the rate) {chosen}, random crops and flips, sum of the classes' "
        f"logistic losses, batch statistics, central crop of {context.size} px, difficult ones "
        f"left out, {len(train):,} train, {len(test):,} test images of "
        f"{voc.full_name([train, test])}"
    )


def _tell(what: str, step: int, loss: float) -> None:
    say(f"{NAME} {what}: step {step:,} loss {loss:.4g}")


def _place(context: Context, kind: str, rate: float, decay: float, steps: int) -> Any:
    """Returns the file of a validation score, so that a stopped grid goes on where it was."""
    settings = context.settings
    limit = f"_limit_{settings.limit}" if settings.limit else ""
    name = f"{kind}_lr_{rate:.3g}_wd_{decay:.3g}_{steps}_steps_seed{settings.seed}{limit}.json"
    return context.folder / "evaluation" / ("dry_run" if settings.limit else "") / NAME / name


PROTOCOL = Protocol(
    NAME,
    run,
    needs,
    ("data_dir", "epochs", "seed", "lr", "wd"),
    data=voc.describe,
    selects="learning rate and weight decay, on the validation split, unless typed",
    colours=True,
)
