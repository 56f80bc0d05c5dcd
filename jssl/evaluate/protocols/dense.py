"""Detection and segmentation, whatever data set a run was trained on: trained anew, then judged.

`voc_detection` and `voc_segmentation` train a network on the run's, and the same on an untrained
one. They take hours on VOC: `--protocol=all` leaves them out. `--source=cutouts` takes minutes.
Each training has a workdir below `evaluation/NAME/`: the same command resumes it.
"""

import functools
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jssl import methods, models
from jssl.errors import UserError
from jssl.evaluate import dense
from jssl.evaluate.context import Context
from jssl.evaluate.probes.dense_training import dense_config, experiment, train_dense
from jssl.evaluate.protocol import Protocol, Row
from jssl.metrics.intervals import seed_interval
from jssl.models.resnet import ResNet
from jssl.run import build
from jssl.run.writers import say

KINDS = ("trained", "untrained")


class Training(NamedTuple):
    """A method that is trained on a run's network.

    Attributes:
        method: of `jssl.methods`.
        preset: of it, for VOC.
        text: for the protocol.
        updates: of the method's section of the config.
        name: of its folder and its feature; '' where a network has one training.
    """

    method: str
    preset: str
    text: str
    updates: Mapping[str, Any] = MappingProxyType({})
    name: str = ""


class DenseProtocol(NamedTuple):
    """A protocol on dense labels.

    Attributes:
        name: of the protocol.
        residual: what is trained on a ResNet.
        plain: what is trained on the networks of `nets`.
        nets: of them, other than ResNets.
    """

    name: str
    residual: Training
    plain: tuple[Training, ...]
    nets: tuple[str, ...]


def _plain(method: str, text: str, everything: str) -> tuple[Training, ...]:
    """DeepCluster's two: of the dense layers alone, and of all."""
    what = {"fc6-8": "the dense layers trained alone", "all": f"{everything} trained"}
    created = "re-created: DeepCluster's was never published"
    return tuple(
        Training(method, "voc", f"{text}, {words}, {created}", {"trained": trained}, trained)
        for trained, words in what.items()
    )


DETECTION = DenseProtocol(
    "voc_detection",
    Training("faster_rcnn", "c4", "Faster R-CNN C4, all layers trained"),
    _plain("fast_rcnn", "Fast R-CNN", "all layers but the first convolutions"),
    ("alexnet", "vgg16"),
)
SEGMENTATION = DenseProtocol(
    "voc_segmentation",
    Training("fcn", "voc", "dilated FCN, all layers trained"),
    _plain("fcn32s", "FCN-32s", "all layers"),
    ("alexnet",),
)
SIDE = 224  # of the pictures that fix the dense layers of AlexNet and VGG-16


def make_protocol(chosen: DenseProtocol) -> Protocol:
    """Returns the `Protocol` of a `DenseProtocol`."""
    return Protocol(
        chosen.name,
        functools.partial(run, chosen),
        functools.partial(needs, chosen),
        ("source", "data_dir", "epochs", "seed", "seeds"),
        data=functools.partial(describe, chosen),
        files=pictures,
        colours=True,
    )


def needs(chosen: DenseProtocol, context: Context) -> str:
    """Returns what a run lacks; a training is asked for by name."""
    own = context.config.method
    if methods.get(own).data.dense:
        known = sorted({chosen.residual.method, *(each.method for each in chosen.plain)})
        return "" if own in known else f"a run of {' or '.join(known)}"
    return _unfit(chosen, context) or "hours on VOC: ask for it by name"


def _unfit(chosen: DenseProtocol, context: Context) -> str:
    """Returns which network a protocol needs; '' if the run has one."""
    name, side = context.config.model.name, context.config.augment.size
    nets = f"a ResNet or {' or '.join(chosen.nets)}"
    if name == "vgg16" and name not in chosen.nets:
        return f"{nets}, found vgg16, whose layers FCN-32s does not have here"
    if not isinstance(_encoder(context), ResNet) and name not in chosen.nets:
        return f"{nets}, found model.name '{name}'"
    if name in chosen.nets and side != SIDE:
        return f"{name} on pictures of {SIDE} px, which fix its dense layers, found {side} px"
    return ""


def _trainings(chosen: DenseProtocol, context: Context) -> tuple[Training, ...]:
    return chosen.plain if context.config.model.name in chosen.nets else (chosen.residual,)


def run(chosen: DenseProtocol, context: Context) -> list[Row]:
    """Trains and judges for each kind and seed; of a detector's own run, judges it."""
    if methods.get(context.config.method).data.dense:
        return _own(chosen, context)
    if lacks := _unfit(chosen, context):
        raise UserError(f"Protocol '{chosen.name}' needs {lacks}.")
    _announce(chosen, context)
    return [
        row
        for training in _trainings(chosen, context)
        for row in _rows(chosen.name, training, context)
    ]


def _rows(name: str, training: Training, context: Context) -> list[Row]:
    """Returns the rows of one training, of all kinds and seeds."""
    settings, rows = context.settings, []
    for kind in KINDS:
        each = [
            _one(name, training, context, kind=kind, seed=settings.seed + i)
            for i in range(settings.seeds)
        ]
        rows.append(each[0] if len(each) == 1 else _over_seeds(each, kind, settings.seed))
    for row, other in zip(*rows, strict=True):
        row["numbers"].update(other["numbers"])
    return rows[0]


def describe(chosen: DenseProtocol, context: Context) -> dict[str, Any]:
    """Describes the examples for the record."""
    parts = _parts(chosen, context)
    test = parts.test_source
    return {
        "name": test.name,
        "split": parts.config.data.test_split or "test",
        "examples": len(test),
        "fingerprint": test.fingerprint(),
        "train_examples": len(parts.train_source),
    }


def _encoder(context: Context) -> Any:
    return models.build(context.config.model)


def _parts(chosen: DenseProtocol, context: Context) -> build.Experiment:
    if methods.get(context.config.method).data.dense:
        own = context.config.copy_and_resolve_references()
        own.launch = "jit"  # a state that was loaded is on one device
        return experiment(own, limit=context.settings.limit)
    training = _trainings(chosen, context)[0]
    return experiment(
        _config(training, context, kind=KINDS[0], seed=context.settings.seed),
        limit=context.settings.limit,
    )


def _config(training: Training, context: Context, *, kind: str, seed: int) -> ConfigDict:
    config = dense_config(context, training.method, training.preset, kind=kind, seed=seed)
    config[training.method].update(training.updates)
    return config


def _announce(chosen: DenseProtocol, context: Context) -> None:
    """Says what the protocol costs, before anything is computed."""
    parts = _parts(chosen, context)
    trainings = _trainings(chosen, context)
    config, count = parts.config, len(KINDS) * context.settings.seeds * len(trainings)
    which = " and ".join(each.name for each in trainings if each.name)
    what = f"{' and '.join(KINDS)}{' x ' + which if which else ''}"
    updates = min(parts.total_steps, config.max_steps or parts.total_steps)
    say(
        f"{chosen.name}: {count} trainings (seeds x {what}) of {updates:,} updates "
        f"of {config.batch_size} pictures of up to {config.augment.size} px, each judged on "
        f"{len(parts.test_source):,} pictures. To resume after a stop, type the same command."
    )


def _one(name: str, training: Training, context: Context, *, kind: str, seed: int) -> list[Row]:
    """Trains and judges one network."""
    settings = context.settings
    config = _config(training, context, kind=kind, seed=seed)
    parts = experiment(config, limit=settings.limit)
    place = context.folder / "evaluation" / ("dry_run" if settings.limit else "") / name
    length = f"_{settings.epochs:g}_epochs" if settings.epochs else ""
    length += f"_limit_{settings.limit}" if settings.limit else ""
    own = f"{training.name}_" if training.name else ""
    folder = place / f"{data_name(config)}_{own}{kind}_seed{seed}{length}"
    say(f"{name}, {kind} network, seed {seed}: {folder}")
    state = dense.precise_statistics(parts, train_dense(parts, folder))
    updates = int(state.step)
    how = (
        f"{training.text}, {updates:,} updates of {config.batch_size} at {config.optim.lr:g}, "
        f"{dense.statistics_text(parts)}{len(parts.train_source):,} train pictures, "
    )
    judged = dense.judge(parts, state)
    context.sheets[f"{name}_{own}{kind}.png"] = dense.sheet_of(parts, judged)
    feature = f"{kind} {training.name}".strip()
    return dense.rows_of(parts, judged, kind=kind, how=how, seed=seed, feature=feature)


def data_name(config: Any) -> str:
    """Returns the name of a data set for a folder."""
    return "".join(c if c.isalnum() else "_" for c in config.data.name)


def _over_seeds(each: list[list[Row]], kind: str, first: int) -> list[Row]:
    """Joins the rows of several seeds: mean, and Student's interval over seeds."""
    rows = []
    for same in zip(*each, strict=True):
        entries = [row["numbers"][kind] for row in same]
        values = [entry["value"] for entry in entries]
        seeds = f"mean of seeds {first} to {first + len(values) - 1}, interval over seeds"
        entry = {
            **entries[0],
            "value": float(np.mean(values)),
            "ci95": list(seed_interval(values)),
            "by_seed": values,
            "protocol": f"{entries[0]['protocol']}, {seeds}",
        }
        rows.append({**same[0], "protocol": entry["protocol"], "numbers": {kind: entry}})
    return rows


def _own(chosen: DenseProtocol, context: Context) -> list[Row]:
    """Judges the network of a run of the protocol's method."""
    if lacks := needs(chosen, context):
        raise UserError(
            f"Protocol '{chosen.name}' judges {lacks}, or trains one on another run's network: "
            f"found a run of {context.config.method}."
        )
    rows, sheet = dense.final(_parts(chosen, context), context.state)
    context.sheets[f"{chosen.name}.png"] = sheet
    return rows


def pictures(context: Context) -> dict[str, bytes]:
    """Returns the sheets of the last seed, as PNG."""
    encoded = {}
    for name, sheet in context.sheets.items():
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "PNG")
        encoded[name] = buffer.getvalue()
    context.sheets.clear()
    return encoded
