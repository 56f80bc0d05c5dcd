"""Detection and segmentation, whatever data set a run was trained on: trained anew, then judged.

`voc_detection` and `voc_segmentation` train a network on the run's, and the same on an untrained
one. They take hours on VOC: `--protocol=all` leaves them out. `--source=cutouts` takes minutes.
Each training has a workdir below `evaluation/NAME/`: the same command resumes it.
"""

import functools
import io
from typing import Any, NamedTuple

import numpy as np
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


class DenseProtocol(NamedTuple):
    """A protocol on dense labels.

    Attributes:
        name: of the protocol.
        method: of `jssl.methods` that is trained.
        preset: of it, for VOC.
        text: of the protocol.
    """

    name: str
    method: str
    preset: str
    text: str


DETECTION = DenseProtocol(
    "voc_detection", "faster_rcnn", "c4", "Faster R-CNN C4, all layers trained"
)
SEGMENTATION = DenseProtocol("voc_segmentation", "fcn", "voc", "dilated FCN, all layers trained")


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
    own = methods.get(context.config.method).data.dense
    if own:
        return "" if context.config.method == chosen.method else f"a run of {chosen.method}"
    name = context.config.model.name
    if not isinstance(_encoder(context), ResNet):
        return f"a ResNet, found model.name '{name}'"
    return "hours on VOC: ask for it by name"


def run(chosen: DenseProtocol, context: Context) -> list[Row]:
    """Trains and judges for each kind and seed; of a detector's own run, judges it."""
    own = context.config.method
    if methods.get(own).data.dense:
        return _own(chosen, context)
    if not isinstance(_encoder(context), ResNet):
        raise UserError(f"Protocol '{chosen.name}' needs {needs(chosen, context)}.")
    _announce(chosen, context)
    settings, rows = context.settings, []
    for kind in KINDS:
        each = [
            _one(chosen, context, kind=kind, seed=settings.seed + i) for i in range(settings.seeds)
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
    config = dense_config(
        context, chosen.method, chosen.preset, kind=KINDS[0], seed=context.settings.seed
    )
    return experiment(config, limit=context.settings.limit)


def _announce(chosen: DenseProtocol, context: Context) -> None:
    """Says what the protocol costs, before anything is computed."""
    parts = _parts(chosen, context)
    config, count = parts.config, len(KINDS) * context.settings.seeds
    updates = min(parts.total_steps, config.max_steps or parts.total_steps)
    say(
        f"{chosen.name}: {count} trainings (seeds x {' and '.join(KINDS)}) of {updates:,} updates "
        f"of {config.batch_size} pictures of up to {config.augment.size} px, each judged on "
        f"{len(parts.test_source):,} pictures. To resume after a stop, type the same command."
    )


def _one(chosen: DenseProtocol, context: Context, *, kind: str, seed: int) -> list[Row]:
    """Trains and judges one network."""
    settings = context.settings
    config = dense_config(context, chosen.method, chosen.preset, kind=kind, seed=seed)
    parts = experiment(config, limit=settings.limit)
    place = context.folder / "evaluation" / ("dry_run" if settings.limit else "") / chosen.name
    limited = f"_limit_{settings.limit}" if settings.limit else ""
    folder = place / f"{data_name(config)}_{kind}_seed{seed}{limited}"
    say(f"{chosen.name}, {kind} network, seed {seed}: {folder}")
    state = dense.precise_statistics(parts, train_dense(parts, folder))
    updates = int(state.step)
    how = (
        f"{chosen.text}, {updates:,} updates of {config.batch_size} at {config.optim.lr:g}, "
        f"{len(parts.train_source):,} train pictures, "
    )
    judged = dense.judge(parts, state)
    context.sheets[f"{chosen.name}_{kind}.png"] = dense.sheet_of(parts, judged)
    return dense.rows_of(parts, judged, kind=kind, how=how, seed=seed)


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
    if context.config.method != chosen.method:
        raise UserError(
            f"Protocol '{chosen.name}' judges runs of {chosen.method}, or trains it on another "
            f"run's network: found a run of {context.config.method}."
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
