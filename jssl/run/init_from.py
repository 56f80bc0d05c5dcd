"""`config.init_from`: a run starts from the network of another run.

Weights, averages of weights (EMA and target networks) and running statistics are copied. A head
that the other run does not have, or has in another shape or for other classes, starts anew; so do
the optimiser's state, queues, banks and centroids. The other workdir is read once, before the first
step: `init_from.json` records what was copied, and a resume does not need the other workdir.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import data, files, methods
from jssl.errors import UserError
from jssl.methods._common import channels_of
from jssl.run import build, checkpoint, checksums, pretrained, stores, workdir
from jssl.run.checksums import tree_hash
from jssl.run.writers import say
from jssl.types import PyTree, TrainState

CLASS_HEADS = ("classifier", "classifier_dist", "head")  # modules whose outputs are classes
NOT_LEARNT = ("top_layer",)  # DeepCluster's, which is initialised after every clustering
COUNTERS = ("step", "key", "opt_state", "top_opt_state")  # fields without learnt values


class Source(NamedTuple):
    """A network of another run, on the host.

    Attributes:
        text: value of `init_from`.
        step: of its checkpoint.
        config: of its run.
        classes: names of its classes, by number; None if unknown.
        networks: {field of the parameters: (parameters, running statistics)}, numpy arrays.
        codes: {module of the parameters: the network of a third run whose codes it predicts}.
        sha256: of its parameters and running statistics.
        weights: the published file that was imported there; '' if it was trained.
    """

    text: str
    step: int
    config: ConfigDict
    classes: tuple[str, ...] | None
    networks: dict[str, tuple[PyTree, PyTree]]
    codes: dict[str, PyTree]
    sha256: str
    weights: str


def read(parts: build.Experiment, folder: str | Path) -> Source | None:
    """Reads the network from which a run starts, and refuses one that does not fit.

    Args:
        parts: of the run.
        folder: its workdir, which may not exist yet.

    Returns:
        None if `init_from` is empty or the run resumes: then nothing is read.

    Raises:
        UserError: no such workdir, step or undamaged checkpoint; the run's own workdir; an encoder
            of another architecture.
    """
    text = parts.config.init_from
    if not text:
        return None
    name, step = pretrained.split(text)
    if Path(name).resolve() == Path(folder).resolve():
        raise UserError(
            f"--config.init_from={text} is the workdir of this run itself. To resume it, leave "
            "--config.init_from out; to train it for more epochs, add --extend; to start another "
            "run from it, type another --workdir."
        )
    if has_checkpoint(folder):
        return None
    name = pretrained.workdir_of(name)
    step = _checked(name, step)
    old = workdir.read_config(name)
    _, state = build.load_encoder(name, step=step, sharding=parts.launcher.sharding)
    networks = jax.tree.map(np.array, methods.get(old.method).networks(state))
    params, batch_stats = networks["params"]
    sha256 = tree_hash({"params": params, "batch_stats": batch_stats})
    codes = jax.tree.map(np.array, _codes(old, state))
    weights = pretrained.weights_file(name)
    source = Source(text, step, old, workdir.read_classes(name), networks, codes, sha256, weights)
    _fit(parts, source, build.abstract_state(parts))
    _check_finite(source)
    return source


def has_checkpoint(folder: str | Path) -> bool:
    """Whether a workdir has a checkpoint, so that its run resumes."""
    return bool(steps_of(folder))


def steps_of(folder: str | Path) -> list[int]:
    """Returns the steps of the checkpoints in a workdir, sorted; empty folders do not count."""
    paths = stores.checkpoints(folder).glob("*")
    return sorted(int(p.name) for p in paths if p.name.isdecimal() and not checksums.is_empty(p))


def _checked(name: str, step: int | None) -> int:
    """Returns the step to read; refuses what is not a workdir or has no such good checkpoint."""
    place, typed = workdir.local(name), f"--config.init_from={name}"
    if os.path.exists(place / "stages.json"):
        stages = [p.parent.name for p in sorted(place.glob("*/checkpoints"))]
        raise UserError(
            f"{typed} is the workdir of several stages, each with its own network. Type for "
            f"example {typed}/{stages[-1] if stages else 'NAME'}."
        )
    if not os.path.exists(place / "config.json"):
        advice = "Type --config.init_from=WORKDIR[:step] of a run."
        if place.is_file():
            advice = pretrained.import_first(name)
        elif place.parent.name == "checkpoints" and place.name.isdecimal():
            advice = f"Type --config.init_from={place.parent.parent}:{place.name}."
        elif (before := name.rpartition(":")[0]) and Path(before).is_dir():
            advice = f"Type --config.init_from={before}:N, with the number of a step."
        raise UserError(
            f"{typed} is not the workdir of a run: there is no {place.absolute() / 'config.json'}. "
            f"{advice}"
        )
    steps = steps_of(place)
    if not steps:
        raise UserError(f"{typed} has no checkpoint yet: train it first, or name another run.")
    if step is not None and step not in steps:
        raise UserError(
            f"{typed}:{step} has no checkpoint of step {step}: there are "
            f"{', '.join(map(str, steps))}. Type {typed}:{steps[-1]}."
        )
    step = steps[-1] if step is None else step
    if damage := checksums.damage(place / "checkpoints" / str(step)):
        good = [s for s in steps if not checksums.damage(place / "checkpoints" / str(s))]
        advice = f"Type {typed}:{good[-1]}" if good else "Copy an undamaged one there"
        raise UserError(
            f"The checkpoint {place / 'checkpoints' / str(step)} is damaged: {damage[0]}. {advice}."
        )
    return step


def _check_finite(source: Source) -> None:
    for field, (params, _) in source.networks.items():
        for name, leaf in checkpoint.flat_leaves(params).items():
            if not np.all(np.isfinite(leaf)):
                raise UserError(
                    f"--config.init_from={source.text}: {field}.{name} of step {source.step} has "
                    "values that are not finite. Type an earlier step, "
                    f"--config.init_from={pretrained.split(source.text)[0]}:N."
                )


def put(parts: build.Experiment, source: Source, state: TrainState, folder: Path) -> Any:
    """Puts the network of another run into the first state of a run, and prints what was copied.

    Args:
        parts: of the run.
        source: from `read`.
        state: the first state; every leaf keeps its sharding.
        folder: the workdir, where `init_from.json` is written.

    Returns:
        The state.
    """
    fields, copied, anew = _fit(parts, source, state)

    def placed(new: Any, old: jax.Array) -> jax.Array:
        # Each leaf gets its own buffer, because the step donates the buffers of its state.
        return old if new is old else jax.device_put(np.array(new, old.dtype), old.sharding)

    filled = {name: jax.tree.map(placed, tree, vars(state)[name]) for name, tree in fields.items()}
    spec = methods.get(parts.config.method)
    pairs = [pair for pair in (spec.target, spec.averaged) if pair]
    known = {"params", "batch_stats", *COUNTERS, *(name for pair in pairs for name in pair)}
    known |= {other.field for other in spec.other_runs}
    others = [field.name for field in dataclasses.fields(state) if field.name not in known]
    say(
        f"init_from {source.text}: {', '.join(copied)} of step {source.step} of a run of "
        f"{source.config.method} (sha256 {source.sha256[:12]}); start anew: "
        f"{', '.join([*anew, 'optimiser state', *others])}"
    )
    unused = sorted(set(source.networks["params"][0]) - set(state.params))
    if unused:
        say(f"init_from: not used by this run: {', '.join(unused)}")
    for line in pretrained.other_settings(parts.config, source.config):
        say(f"WARNING init_from: {line}")
    if jax.process_index() == 0:
        record = {
            "init_from": source.text,
            "step": source.step,
            "method": source.config.method,
            "sha256": source.sha256,
            "taken": copied,
            "anew": anew,
            "model": source.config.model.to_dict(),
            **{key: source.config.augment[key] for key in ("normalize", "mean", "std")},
        }
        if source.weights:
            record["weights"] = source.weights
        files.write_json(folder / pretrained.RECORD, record)
    return state.replace(**filled)


def _fit(
    parts: build.Experiment, source: Source, like: TrainState
) -> tuple[dict[str, PyTree], list[str], list[str]]:
    """Replaces the modules of `like` that fit by those of another run; keeps the others.

    Args:
        like: the first state, or its shapes.

    Returns:
        {field: tree}; the modules that were copied; those that start anew, with the reason.
    """
    theirs, ours = channels_of(source.config), channels_of(parts.config)
    if theirs != ours:
        raise UserError(
            f"--config.init_from={source.text} is a network for pictures of {theirs} channels, "
            f"this run has data.channels={ours}: expected the same. Type "
            f"--config.data.channels={theirs}."
        )
    spec = methods.get(parts.config.method)
    own_networks = spec.networks(like)
    networks = _networks(source, own_networks)
    params, _ = networks["params"]
    reasons = {name: _reason(parts, source, name, params, like) for name in like.params}
    reasons = {name: reason for name, reason in reasons.items() if reason}
    fields: dict[str, PyTree] = {}
    names = dict(pair for pair in (("params", "batch_stats"), spec.target, spec.averaged) if pair)
    for field, network in networks.items():
        for name, values, own in zip(
            (field, names[field]), network, own_networks[field], strict=True
        ):
            if not own or name in fields:
                continue
            fields[name] = {
                module: tree
                if module in reasons
                else _module(parts.config, source, name, module, values, tree)
                for module, tree in own.items()
            }
    copied = [name for name in like.params if name not in reasons]
    return fields, copied, [f"{name} ({reason})" for name, reason in reasons.items()]


def _networks(
    source: Source, like: dict[str, tuple[PyTree, PyTree]]
) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns the other run's parameters and statistics for each network of this run's state.

    If only one of the runs keeps an average, the average is used as the weights (the other run's
    `embed` uses it), or the weights as the average.
    """
    weights = source.networks["params"]
    average = source.networks.get("average", weights)
    first = weights if "average" in like else average
    networks = {"params": first}
    if "average" in like:
        networks["average"] = average
    if "target" in like:
        target = source.networks.get("target", ({}, {}))
        networks["target"] = {**first[0], **target[0]}, {**first[1], **target[1]}
    return networks


def _reason(
    parts: build.Experiment, source: Source, name: str, params: PyTree, like: TrainState
) -> str:
    """Returns why a module starts anew; '' if it is copied."""
    if _is_encoder(name):
        return ""
    if name in NOT_LEARNT:
        return "initialised after every clustering"
    if name not in params:
        return "absent there"
    old, new = (checkpoint.flat_leaves(tree[name]) for tree in (params, like.params))
    for key in sorted({*old, *new}):
        shapes = [
            list(x.shape) if x is not None else "absent" for x in (old.get(key), new.get(key))
        ]
        if shapes[0] != shapes[1]:
            return f"{key}: {shapes[0]} there, {shapes[1]} here"
    codes = _codes(parts.config, like)
    if name in codes or name in source.codes:
        return _other_codes(source.codes.get(name), codes.get(name))
    if codes or source.codes:
        return ""
    return _other_classes(parts, source) if name in CLASS_HEADS else ""


def _is_encoder(name: str) -> bool:
    return name.startswith("encoder")  # CMC has one per view: encoders_l


def _other_classes(parts: build.Experiment, source: Source) -> str:
    """Describes how the classes of two classifiers differ; without names, compares data sets."""
    names = parts.class_names
    if names and source.classes:
        return data.difference(source.classes, names)
    old, new = source.config.data, parts.config.data
    if (old.name, old.data_dir) != (new.name, new.data_dir):
        return f"classes of '{old.name}' there, of '{new.name}' here"
    return ""


def _codes(config: ConfigDict, state: TrainState) -> dict[str, PyTree]:
    """Returns {module of the parameters: the network of another run whose codes it predicts}."""
    runs = methods.get(config.method).other_runs
    return {module: vars(state)[run.field] for run in runs for module in run.codes}


def _other_codes(source: PyTree | None, own: PyTree | None) -> str:
    if not source or not own:
        return "codes of a tokenizer on one side only"
    leaves = jax.tree.leaves(own)
    if isinstance(leaves[0], jax.ShapeDtypeStruct):
        return ""  # only the shapes are known
    pairs = zip(jax.tree.leaves(source), leaves, strict=True)
    same = all(np.array_equal(a, np.asarray(b)) for a, b in pairs)
    return "" if same else "codes of another tokenizer"


def _module(
    config: ConfigDict, source: Source, field: str, module: str, network: PyTree, like: PyTree
) -> PyTree:
    """Returns a module of one field in the structure of `like`."""
    if _is_encoder(module) and field in ("params", "target", "average"):
        return pretrained.encoder_for(
            config, source.config, network.get(module, {}), like, path=f"{module}."
        )
    old, new = checkpoint.describe(network.get(module, {})), checkpoint.describe(like)
    if _is_encoder(module):
        pretrained.check_same_leaves(old, new, config, source.config, f"{field}.{module}.")
    elif old != new:
        return like
    return network[module]
