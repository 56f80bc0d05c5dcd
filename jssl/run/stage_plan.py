"""Resolves the list of stages of a config, and refuses invalid lists."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import data, methods
from jssl.errors import UserError, nearest
from jssl.run import build, workdir
from jssl.types import RunLengths

KINDS = ("teacher", "label", "student", "fixres")
LABELS = "pseudo-labels.npz"


class Stage(NamedTuple):
    """One stage, resolved.

    Attributes:
        name: of its folder, '3_student'.
        kind: of `KINDS`.
        config: its complete config, with `stages` ().
        network: folder of the network that it labels with or continues from; None at the start.
    """

    name: str
    kind: str
    config: ConfigDict
    network: Path | None


def stages_of(config: ConfigDict) -> Sequence[Mapping[str, Any]]:
    """Returns the stages of a config; () for a single training."""
    return tuple(config[config.method].get("stages", ()))


def plan(config: ConfigDict, folder: str | Path) -> list[Stage]:
    """Resolves the settings of every stage, and refuses invalid lists.

    Args:
        config: the complete config.
        folder: the workdir of all stages.

    Raises:
        UserError: unknown stage or key; a label or fixres stage without a network before it; a
            student without labels; a student smaller than its teacher; a FixRes stage without a
            higher resolution.
    """
    folder, result = Path(folder).absolute(), []
    given = config[config.method].teacher
    network = Path(given).absolute() if given else None
    teacher = workdir.read_config(network) if network else None
    if teacher is not None:
        _check_classes(config, teacher)
    labels, generation, started = None, 0, False
    for number, changes in enumerate(stages_of(config), 1):
        kind = changes.get("stage")
        if kind not in KINDS:
            raise UserError(f"Unknown stage '{kind}' in stages: {nearest(str(kind), KINDS)}.")
        name = f"{number}_{'labels' if kind == 'label' else kind}"
        own = _resolved(config, {k: v for k, v in changes.items() if k != "stage"})
        section = own[own.method]
        if kind in ("label", "fixres") and network is None:
            raise UserError(
                f"Stage {name} has no teacher: expected a stage 'teacher' before it, or the "
                "workdir of one. Type --config.noisy_student.teacher=WORKDIR."
            )
        if kind == "student":
            if labels is None:
                raise UserError(f"Stage {name} has no labels: put {{'stage': 'label'}} before it.")
            _check_size(own, teacher, name)
            generation += 1
            section.pseudo_labels = str(labels)
        else:
            section.unlabeled_ratio = 0
        if kind == "fixres":
            _without_noise(own, teacher, name)
        section.generation = generation
        if kind not in ("teacher", "student") or started:
            own.init_from = ""  # it continues from earlier stages
        started = started or kind in ("teacher", "student")
        result.append(Stage(name, kind, own, network))
        if kind == "label":
            labels = folder / name / LABELS
        else:
            network, teacher = folder / name, own
    if config.init_from and not started:
        raise UserError(
            f"--config.init_from={config.init_from} is for a stage that trains from the start, and "
            "there is none: expected a stage 'teacher' or 'student'. Leave it out."
        )
    return result


def _check_classes(config: ConfigDict, teacher: ConfigDict) -> None:
    """Refuses a teacher, by its name, whose classes are not as many as those of the data."""
    train = data.make_source(config.data, "train")
    num_classes = teacher[teacher.method].get("num_classes", 0)
    if num_classes != train.num_classes:
        given = config[config.method].teacher
        raise UserError(
            f"The teacher '{given}' of method '{teacher.method}' has {num_classes:,} classes, "
            f"data set '{train.name}' has {train.num_classes:,}: expected a classifier of this "
            "data set. "
            "Type --config.noisy_student.teacher=WORKDIR of one; or let a stage 'teacher' "
            f"fine-tune it: --config.init_from={given}."
        )


def _resolved(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    own = copy.deepcopy(config)
    config_lib.apply(own, changes)
    config_lib.apply(own, {own.method: {"stages": ()}})
    return own


def _without_noise(config: ConfigDict, before: ConfigDict, name: str) -> None:
    """FixRes: objects look smaller at test time than in crops, so the last epochs use no crops."""
    if config.augment.size <= before.augment.size:
        raise UserError(
            f"Stage {name} fine-tunes at {config.augment.size} px a network trained at "
            f"{before.augment.size} px: expected a higher resolution, such as "
            f"{{'stage': 'fixres', 'augment': {{'size': {before.augment.size * 5 // 4}}}}}."
        )
    config.data.host_crop = "device"
    config.augment.name = "none"
    with config.ignore_type():
        for option in config.augment.options:
            config.augment.options[option] = None


def parameter_count(config: ConfigDict) -> int:
    """Returns the number of trainable parameters of a config's network, from shapes only."""
    method = methods.get(config.method).make(config, optax.identity(), RunLengths(1, 1, 1))
    shapes = jax.eval_shape(lambda: build.first_state(config, method, 1))
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes.params))


def _check_size(student: ConfigDict, teacher: ConfigDict | None, name: str) -> None:
    if teacher is None or student[student.method].allow_smaller_student:
        return
    sizes = []
    for config in (teacher, student):
        config = copy.deepcopy(config)
        # The same number of classes for both, to compare the networks only.
        config[config.method].num_classes = max(1, student[student.method].num_classes)
        sizes.append(parameter_count(config))
    if sizes[1] < sizes[0]:
        raise UserError(
            f"Stage {name}: its network '{student.model.name}' has {sizes[1]:,} parameters, its "
            f"teacher '{teacher.model.name}' {sizes[0]:,}: expected a student that is equal or "
            "larger, as it has more training data. To distil into a smaller one anyway, type "
            "--config.noisy_student.allow_smaller_student=True."
        )
