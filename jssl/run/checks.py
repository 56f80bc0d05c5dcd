"""Checks every value of a config once, before anything is built.

`RULES` says for each flat key what its value may be. Keys of `augment.options` and words of
`model` are checked where their meaning is, in `jssl.augment` and `jssl.models`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import methods, optim
from jssl.errors import UserError, nearest


class Rule(NamedTuple):
    """What a value may be: in words, and as a function."""

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: Any, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def number(low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False,
           whole: bool = False) -> Rule:  # fmt: skip
    """A finite number in a range; `open_low` and `open_high` leave its ends out."""
    kind = "a whole number" if whole else "a number"
    least = f"above {low}" if open_low else f"of at least {low}"
    most = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high}"

    def holds(value: Any) -> bool:
        if not _is_number(value, whole):
            return False
        above = value > low if open_low else value >= low
        return above and (value < high if open_high else value <= high)

    return Rule(f"{kind} {least}{most}", holds)


def word(*choices: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(repr(c) for c in choices)}", lambda value: value in choices)


def each(rule: Rule, *, count: int = 0, least: int = 0) -> Rule:
    """A tuple of values that all follow a rule; `count` of them, or `least` and more."""
    size = f"{count} values" if count else f"{least} or more values"

    def holds(value: Any) -> bool:
        fits = isinstance(value, (tuple, list)) and all(map(rule.holds, value))
        return fits and (len(value) == count if count else len(value) >= least)

    return Rule(f"{size} in brackets, each {rule.expected}", holds)


def either(value: Any, rule: Rule) -> Rule:
    """One special value, or what a rule says."""
    return Rule(f"{value!r} or {rule.expected}", lambda v: v == value or rule.holds(v))


def whole(low: int, high: float = math.inf) -> Rule:
    """A whole number in a closed range."""
    return number(low, high, whole=True)


BOOL = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str))
POSITIVE = number(0, open_low=True)
FRACTION = number(0, 1)
SHARE = number(0, 1, open_low=True)
MOMENTUM = number(0, 1, open_high=True)
COUNT = whole(1)
NATURAL = whole(0)
LAUNCH = Rule(
    "pmap, shard_map, jit or vmap:N",
    lambda value: (
        value in ("pmap", "shard_map", "jit")
        or isinstance(value, str)
        and value[:5] == "vmap:"
        and value[5:].isdecimal()
        and int(value[5:]) > 0
    ),
)

RULES: dict[str, Rule] = {
    "seed": whole(0, 2**31 - 1),
    "epochs": POSITIVE,
    "updates": word(*optim.UPDATES),
    "max_steps": NATURAL,
    "batch_size": COUNT,
    "init_from": TEXT,
    "launch": LAUNCH,
    "dtype": word("float32", "bfloat16"),
    "method": TEXT,
    "preset": TEXT,
    "augment.name": TEXT,
    "augment.size": COUNT,
    "augment.normalize": TEXT,
    "checkpoint.every_steps": COUNT,
    "checkpoint.keep": either(-1, COUNT),
    "checkpoint.keep_every_steps": NATURAL,
    "log.every_steps": COUNT,
    "log.tensorboard": BOOL,
    "log.wandb_project": TEXT,
    "log.wandb_mode": word("online", "offline", "disabled"),
    "monitor.every_epochs": number(0),
    "monitor.knn_k": COUNT,
    "monitor.knn_temperature": POSITIVE,
    "monitor.knn_feature": TEXT,
    "monitor.max_examples": whole(2),
    "monitor.std_threshold": number(0),
    "monitor.rank_threshold": number(0),
    "final.enabled": BOOL,
    "final.linear_epochs": COUNT,
    "run.num_examples": NATURAL,
    "run.steps_per_epoch": NATURAL,
    "run.total_steps": NATURAL,
    "data.name": TEXT,
    "data.data_dir": TEXT,
    "data.train_split": TEXT,
    "data.probe_split": TEXT,
    "data.test_split": TEXT,
    "data.tile": whole(1),
    "data.num_examples": COUNT,
    "data.image_size": NATURAL,
    "data.host_crop": word("", "torchvision", "tf"),
    "data.workers": NATURAL,
    "data.threads": NATURAL,
    "data.bits": either(0, whole(9, 16)),
    "data.max_megabytes": COUNT,
    "data.on_error": word("stop", "skip"),
    "data.layout": word("auto", "splits", "classes", "flat"),
    "optim.lr": number(0),
    "optim.warmup_epochs": number(0),
    "optim.start_lr": number(0),
    "optim.end_lr": number(0),
    "optim.boundaries": each(number(0)),
    "optim.step_factor": POSITIVE,
    "optim.decay_epochs": POSITIVE,
    "optim.momentum": MOMENTUM,
    "optim.nesterov": BOOL,
    "optim.weight_decay": number(0),
    "optim.trust_coefficient": POSITIVE,
    "optim.betas": each(MOMENTUM, count=2),
    "optim.rms_decay": MOMENTUM,
    "optim.eps": either(None, number(0)),
    "optim.clip_norm": number(0),
    "model.stage_sizes": each(COUNT),
    "model.width": POSITIVE,
    "model.bn_groups": COUNT,
    "model.bn_momentum": MOMENTUM,
    "model.bn_epsilon": POSITIVE,
    "model.stochastic_depth": MOMENTUM,
    "model.dropout": MOMENTUM,
    "model.patch_size": COUNT,
    "model.depth": NATURAL,
    "model.heads": NATURAL,
    "model.layer_scale": number(0),
}
# Of several methods. A key that is not here is `<method>.<key>` below.
SHARED: dict[str, Rule] = {
    "num_classes": NATURAL,
    "temperature": POSITIVE,
    "ema_momentum": FRACTION,
    "ema_decay": MOMENTUM,
    "proj_dim": COUNT,
    "proj_hidden": COUNT,
    "proj_layers": COUNT,
    "kmeans_iterations": COUNT,
    "label_smoothing": MOMENTUM,
    "mixup_alpha": number(0),
    "cutmix_alpha": number(0),
    "mix_groups": COUNT,
    "erasing_p": FRACTION,
    "jitter_p": FRACTION,
    "gray_p": FRACTION,
    "drop_p": FRACTION,
    "warp_p": FRACTION,
    "label_fraction": SHARE,
    "vocabulary": whole(2),
    "hidden": COUNT,
    "initial": COUNT,
    "groups": COUNT,
    "blocks": COUNT,
    "dropout": MOMENTUM,
    "teacher": TEXT,
    "teacher_config": TEXT,
    "init_from": TEXT,
    "start_from": TEXT,
    "untrained_teacher": BOOL,
}
METHODS: dict[str, Rule] = {
    "simclr.loss_form": word("official", "paper"),
    "simclr.proj_hidden": NATURAL,
    "byol.num_classes": either(-1, NATURAL),
    "byol.predictor": BOOL,
    "moco.queue_size": COUNT,
    "moco.shuffle": BOOL,
    "moco.head": word("linear", "mlp"),
    "moco_v3.pred_last_bn": word("none", "plain"),
    "cmc.views": each(TEXT, least=2),
    "cmc.graph": word("core", "full"),
    "cmc.contrast": word("nce", "softmax", "in_batch"),
    "cmc.num_negatives": COUNT,
    "cmc.bank_momentum": FRACTION,
    "cmc.segments": NATURAL,
    "cmc.flow_frames": NATURAL,
    "cpc.patch": COUNT,
    "cpc.stride": COUNT,
    "cpc.offsets": each(COUNT),
    "cpc.directions": each(TEXT, least=1),
    "cpc.context_blocks": NATURAL,
    "cpc.context_hidden": COUNT,
    "cpc.target_dim": COUNT,
    "cpc.scale": POSITIVE,
    "cpc.negative_groups": COUNT,
    "cpc.average_momentum": MOMENTUM,
    "cpc.operations": NATURAL,
    "deepcluster.num_clusters": whole(2),
    "deepcluster.pca_dim": COUNT,
    "deepcluster.empty_clusters": word("donor", "perturb", "keep"),
    "deepcluster.top_lr": POSITIVE,
    "deepcluster.top_momentum": MOMENTUM,
    "deepcluster_v2.num_clusters": each(whole(2), least=1),
    "deepcluster_v2.small_crops": NATURAL,
    "deepcluster_v2.small_size": COUNT,
    "deepcluster_v2.small_scale": each(SHARE, count=2),
    "noisy_student.stages": Rule("stages in brackets", lambda v: isinstance(v, (tuple, list))),
    "noisy_student.generation": NATURAL,
    "noisy_student.pseudo_labels": TEXT,
    "noisy_student.allow_smaller_student": BOOL,
    "noisy_student.unlabeled_name": TEXT,
    "noisy_student.unlabeled_split": TEXT,
    "noisy_student.unlabeled_dir": TEXT,
    "noisy_student.images_per_class": NATURAL,
    "noisy_student.min_confidence": FRACTION,
    "noisy_student.upsample": BOOL,
    "noisy_student.empty_classes": word("stop", "allow"),
    "noisy_student.unlabeled_ratio": NATURAL,
    "noisy_student.weighting": word("lecture", "ratio"),
    "noisy_student.targets": word("soft", "hard"),
    "noisy_student.frozen_blocks": either(-1, NATURAL),
    "deit.distillation": word("none", "soft", "hard"),
    "deit.weight": FRACTION,
    "deit.reduction": word("batchmean", "official"),
    "deit.repeated_augmentation": COUNT,
    "dvae.likelihood": word("logit_laplace", "squared_error"),
    "dvae.temperature": each(POSITIVE, count=2),
    "dvae.temperature_share": FRACTION,
    "dvae.beta": number(0),
    "dvae.beta_share": FRACTION,
    "dvae.min_perplexity": number(0),
    "beit.tokenizer": TEXT,
    "beit.mask": word("official", "lecture"),
    "beit.masked": COUNT,
    "beit.min_block": COUNT,
    "beit.exact": BOOL,
    "supervised.head_lr": POSITIVE,
    "supervised.held_out": NATURAL,
    "supervised.layer_decay": SHARE,
    "vicreg.invariance": number(0),
    "vicreg.variance": number(0),
    "vicreg.covariance": number(0),
}
# Checked where they are used: words whose choices depend on other keys.
ELSEWHERE = ("augment.options.", "model.", "optim.name", "optim.lr_scaling", "optim.schedule",
             "optim.rules", "optim.order")  # fmt: skip


def rule_of(key: str, method: str) -> Rule | None:
    """The rule of a flat key; None for one that is checked elsewhere or is not known."""
    if key in RULES:
        return RULES[key]
    section, _, name = key.partition(".")
    if section != method:
        return None
    return METHODS.get(key) or SHARED.get(name)


def check(config: ConfigDict) -> None:
    """Checks a whole config, value by value.

    Args:
        config: from a config file, with the flags of the command line.

    Raises:
        UserError: an unknown method, a section that the config lacks, or a value that cannot be;
            every wrong value has a line.
    """
    method = config.get("method")
    methods.get(method)
    if method not in config:
        raise UserError(
            f"The config has no section '{method}': it was made for another method. Type "
            f"--config=configs/NAME.py of method '{method}'."
        )
    lines = []
    for key, value in config_lib.flatten(config).items():
        rule = rule_of(key, method)
        if rule is None or rule.holds(value):
            continue
        advice = ""
        if isinstance(value, str) and rule.expected.startswith("one of"):
            choices = [c.strip("'") for c in rule.expected.removeprefix("one of ").split(", ")]
            near = nearest(value, choices)
            advice = f" ({near.partition('?')[0]}?)" if near.startswith("did") else ""
        lines.append(f"--config.{key} expects {rule.expected}, found {value!r}{advice}.")
    if lines:
        raise UserError("\n".join(lines))


def unchecked(config: Mapping[str, Any], method: str) -> list[str]:
    """The keys of a config that have no rule, here or elsewhere; a test holds this empty."""
    keys = config_lib.flatten(config)
    return [k for k in keys if not k.startswith(ELSEWHERE) and rule_of(k, method) is None]
