"""`--protocol=label_efficient`: CPC v2's classifier with few labels, frozen, then fine-tuned.

For each `--fraction`, and for the trained and the untrained encoder, see
`jssl.evaluate.probes.label_efficient`. On ImageNet it takes hours: `--protocol=all` leaves it out.
"""

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import data, methods
from jssl.errors import UserError
from jssl.evaluate.context import Context
from jssl.evaluate.own_classifier import classifier_rows
from jssl.evaluate.probes.label_efficient import (
    BLOCKS,
    EPOCHS,
    PHASES,
    RATES,
    EfficientTraining,
    efficient_batch,
    efficient_steps,
    fit_efficient,
    make_efficient,
)
from jssl.evaluate.protocol import DATA, Protocol, Row, need_labels
from jssl.run.writers import say

KINDS = ("trained", "untrained")
DEFAULT = (0.01, 0.1)  # of the paper's table
SIDE = 224  # of the pictures: the paper's map is 14x14; smaller ones keep the run's size
DRY_STEPS = 2
PATCHES = "an encoder that was trained on patches, for its map of whole pictures: a run of cpc"
# The public lists of SimCLR: all of their labels are used, and no other is drawn.
LISTS = {"imagenet_1pct": 0.01, "imagenet_10pct": 0.1}


def fractions_of(text: str, *, source: str = "") -> tuple[float, ...]:
    """Reads `--fraction`.

    Args:
        text: shares, separated by commas; '' for those of the paper's table, or all labels of a
            public list.
        source: name of the data set.

    Returns:
        Shares in (0, 1].

    Raises:
        UserError: anything else, or a share given twice.

    Example:
        >>> fractions_of('0.01,0.1'), fractions_of('', source='imagenet_1pct')
        ((0.01, 0.1), (1.0,))
    """
    if not text:
        return (1.0,) if source in LISTS else DEFAULT
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(
            "--fraction expects shares of the labels above 0 and up to 1, separated by commas, "
            f"found '{text}'. Type --fraction=0.01,0.1 for 1 % and 10 %."
        )
    if len(set(shares)) < len(shares):
        raise UserError(f"--fraction={text} has a share twice: type each once.")
    return shares


def needs(context: Context) -> str:
    """Returns what a run lacks; a training is asked for by name."""
    if methods.get(context.config.method).whole_map is None:
        return PATCHES
    return need_labels(context) or "trainings for each --fraction: ask for it by name"


def run(context: Context) -> list[Row]:
    """Trains for each fraction and each of `KINDS`; judges after both phases."""
    method, settings = context.config.method, context.settings
    if methods.get(method).whole_map is None:
        raise UserError(
            f"Protocol 'label_efficient' needs {PATCHES}; found '{method}'. For another method, "
            "`jssl train --config=configs/semi_imagenet.py:init=WORKDIR` fine-tunes with few "
            "labels; or type --protocol=linear."
        )
    if lacks := need_labels(context):
        raise UserError(f"Protocol 'label_efficient' needs {lacks}. Type another --source.")
    fractions = fractions_of(settings.fraction, source=context.data.name)
    train, test = context.sources
    labels = data.labels_of(train)
    drawn = {f: data.label_subset(labels, fraction=f, seed=settings.seed) for f in fractions}
    training, options = _prepare(context)
    _announce(context, drawn, training)
    rows: list[Row] = []
    for fraction, chosen in drawn.items():
        fits = {
            kind: fit_efficient(
                training,
                _encoder(context, kind),
                data.Rows(train, chosen),
                test,
                epochs=_epochs(context),
                most_steps=DRY_STEPS if settings.limit else None,
                seed=settings.seed,
                progress=functools.partial(_tell, f"{kind}, {_share(context, fraction)}"),
                **options,
            )
            for kind in KINDS
        }
        how = _text(context, fraction, len(chosen), training)
        for i, phase in enumerate(PHASES):
            judged = {kind: (fit.frozen, fit.finetuned)[i] for kind, fit in fits.items()}
            probe = f"label_efficient {100 * fraction:g} % {phase}"
            scores = classifier_rows(judged, name=test.name, how=how, probe=probe)
            for number in (n for row in scores for n in row["numbers"].values()):
                number |= {"fraction": fraction, "labels": len(chosen), "phase": phase}
            rows += scores
    return rows


def _size(context: Context) -> int:
    return min(SIDE, context.size)


def _epochs(context: Context) -> tuple[float, float]:
    first = float(context.settings.epochs) or EPOCHS[0]
    return first, first * EPOCHS[1] / EPOCHS[0]


def _encoder(context: Context, kind: str) -> Any:
    """Returns the encoder's parameters alone, for which `whole_map` asks: no predictors."""
    state = context.state if kind == "trained" else context.untrained
    return {"encoder": methods.get(context.config.method).judged(state)[0]["encoder"]}


def _prepare(context: Context) -> tuple[EfficientTraining, dict[str, Any]]:
    """Returns the compiled functions, and how the host reads the pictures."""
    whole_map = methods.get(context.config.method).whole_map
    assert whole_map is not None  # `run` has checked it
    (train, test), size = context.sources, _size(context)
    section = ConfigDict(context.data.to_dict())
    section.host_crop = data.resolve_crop(section, train)
    training = make_efficient(
        whole_map(context.config),
        _encoder(context, KINDS[0]),
        num_classes=context.num_classes,
        size=size,
        channels=context.channels,
        blocks=BLOCKS,
        host_crop=section.host_crop != "device",
    )
    return training, {
        "train_transform": data.train_transform(section, train, size=size, views=1),
        "test_transform": data.eval_transform(context.data, test, size=size),
        "workers": context.data.workers,
    }


def _steps(context: Context, count: int) -> tuple[int, int]:
    most = DRY_STEPS if context.settings.limit else None
    return efficient_steps(count, epochs=_epochs(context), most=most)


def _share(context: Context, fraction: float) -> str:
    return f"{100 * fraction:g} % of the labels of {context.data.name}"


def _announce(context: Context, drawn: dict[float, np.ndarray], training: EfficientTraining):
    """Says what the protocol costs, before anything is computed."""
    encoder = _encoder(context, KINDS[0])
    count = sum(p.size for p in jax.tree.leaves(encoder))
    h, w, D = training.map_shape
    size, test = _size(context), context.sources[1]
    say(
        f"label_efficient: encoder of {count:,} parameters on pictures of {size} px, map "
        f"{h}x{w}x{D}, and {BLOCKS} blocks; the trained and the untrained encoder, each judged "
        f"twice on {len(test):,} pictures. A stop loses the trainings of this command."
    )
    for fraction, rows in drawn.items():
        frozen, all_ = _steps(context, len(rows))
        say(
            f"  {_share(context, fraction)} ({len(rows):,}): {len(KINDS)} x ({frozen:,} updates "
            f"with the encoder frozen + {all_:,} of everything) of "
            f"{efficient_batch(len(rows))} pictures"
        )
        if context.data.name == "imagenet2012" and fraction in LISTS.values():
            name = next(n for n, share in LISTS.items() if share == fraction)
            say(f"  NOTE these are drawn here; the public list is --source={name}.")


def _tell(what: str, phase: str, step: int, steps: int, loss: float) -> None:
    say(f"label_efficient {what}, {phase}: update {step:,} of {steps:,}, loss {loss:.4g}")


def _text(context: Context, fraction: float, count: int, training: EfficientTraining) -> str:
    """Returns the protocol text: the paper's parts, then ours."""
    h, w, D = training.map_shape
    name, seed = context.data.name, context.settings.seed
    which = f"{100 * fraction:g} % of each class's labels, {count:,} drawn with seed {seed}"
    if fraction == 1:
        which = f"all {count:,} labels of {name}"
    if name in LISTS:
        which += f" (the public list of {100 * LISTS[name]:g} %; the paper's is not published)"
    steps, epochs = _steps(context, count), _epochs(context)
    phases = [
        f"{n:,} updates ({e:g} epochs) at {rate:g}"
        for n, e, rate in zip(steps, epochs, RATES, strict=True)
    ]
    return (
        f"{which}; pictures of {_size(context)} px, map {h}x{w}x{D}. As published: {BLOCKS} "
        f"residual blocks of bottleneck {training.bottleneck} (a quarter of the map's channels), "
        "mean, linear; encoder frozen, then all fine-tuned. Ours, fixed beforehand (the paper "
        f"tunes them for each fraction): GroupNorm in the blocks, Adam, {phases[0]} frozen, "
        f"{phases[1]} fine-tuned, cosine to 0, batch {efficient_batch(count)}, crops of "
        f"8-100 % of the area and flips, last update of each phase, seed {seed}"
    )


PROTOCOL = Protocol("label_efficient", run, needs, (*DATA, "fraction", "epochs", "seed"))
