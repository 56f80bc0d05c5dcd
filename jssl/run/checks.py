"""Checks every value of a config once, before anything is built.

`RULES` has the rule of each flat key, and the `settings` of a method's SPEC those of the method's
own keys. Keys of `augment.options` and choices of `model` are checked where they are used, in
`jssl.augment` and `jssl.models`.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import methods, optim
from jssl.errors import UserError
from jssl.settings import (
    BELOW_ONE,
    BOOL,
    COUNT,
    FRACTION,
    NATURAL,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    complaint,
    each,
    either,
    number,
    one_of,
    whole,
)

MAPS = ("pca", "umap")  # of a report's features
LAUNCH = Rule(
    "pmap, shard_map, fsdp, jit or vmap:N",
    lambda value: (
        value in ("pmap", "shard_map", "fsdp", "jit")
        or isinstance(value, str)
        and value[:5] == "vmap:"
        and value[5:].isdecimal()
        and int(value[5:]) > 0
    ),
)

RANGE = Rule(
    "() or two levels in brackets, such as (0, 4095), each a number in 0..65535",
    lambda value: value in ((), []) or each(number(0, 65535), count=2).holds(value),
)

RULES: dict[str, Rule] = {
    "seed": whole(0, 2**31 - 1),
    "epochs": POSITIVE,
    "updates": one_of(*optim.UPDATES),
    "max_steps": NATURAL,
    "batch_size": COUNT,
    "accumulate": COUNT,
    "init_from": TEXT,
    "launch": LAUNCH,
    "dtype": one_of("float32", "bfloat16"),
    "method": TEXT,
    "preset": TEXT,
    "augment.name": TEXT,
    "augment.size": COUNT,
    "augment.normalize": TEXT,
    "augment.mean": each(FRACTION),
    "augment.std": each(SHARE),
    "checkpoint.every_steps": COUNT,
    "checkpoint.keep": either(-1, COUNT),
    "checkpoint.keep_every_steps": NATURAL,
    "log.every_steps": COUNT,
    "log.tensorboard": BOOL,
    "log.wandb_project": TEXT,
    "log.wandb_mode": one_of("online", "offline", "disabled"),
    "log.mlflow_uri": TEXT,
    "log.mlflow_experiment": TEXT,
    "monitor.every_epochs": number(0),
    "monitor.knn_k": COUNT,
    "monitor.knn_temperature": POSITIVE,
    "monitor.knn_feature": TEXT,
    "monitor.max_examples": whole(2),
    "monitor.std_threshold": number(0),
    "monitor.rank_threshold": number(0),
    "final.enabled": BOOL,
    "final.linear_epochs": COUNT,
    "report.enabled": BOOL,
    "report.map": one_of(*MAPS),
    "run.num_examples": NATURAL,
    "run.steps_per_epoch": NATURAL,
    "run.total_steps": NATURAL,
    "data.name": TEXT,
    "data.data_dir": TEXT,
    "data.train_split": TEXT,
    "data.probe_split": TEXT,
    "data.test_split": TEXT,
    "data.image_column": TEXT,
    "data.label_column": TEXT,
    "data.tile": whole(1),
    "data.num_examples": COUNT,
    "data.image_size": NATURAL,
    "data.host_crop": one_of("", "device", "torchvision", "tf"),
    "data.workers": NATURAL,
    "data.threads": NATURAL,
    "data.bits": either(0, whole(9, 16)),
    "data.max_megabytes": COUNT,
    "data.channels": COUNT,
    "data.range": RANGE,
    "data.eval_crop": SHARE,
    "data.eval_interpolation": one_of("bicubic", "bilinear"),
    "data.exif_orientation": one_of("", "apply", "ignore"),
    "data.on_error": one_of("stop", "skip"),
    "data.held_out": NATURAL,
    "data.layout": one_of("auto", "splits", "classes", "flat", "nested"),
    "optim.lr": number(0),
    "optim.warmup_epochs": number(0),
    "optim.start_lr": number(0),
    "optim.end_lr": number(0),
    "optim.boundaries": each(number(0)),
    "optim.step_factor": POSITIVE,
    "optim.decay_epochs": POSITIVE,
    "optim.momentum": BELOW_ONE,
    "optim.nesterov": BOOL,
    "optim.weight_decay": number(0),
    "optim.trust_coefficient": POSITIVE,
    "optim.betas": each(BELOW_ONE, count=2),
    "optim.rms_decay": BELOW_ONE,
    "optim.eps": either(None, number(0)),
    "optim.clip_norm": number(0),
    "model.stage_sizes": each(COUNT),
    "model.width": POSITIVE,
    "model.bn_groups": COUNT,
    "model.bn_momentum": BELOW_ONE,
    "model.bn_epsilon": POSITIVE,
    "model.stochastic_depth": BELOW_ONE,
    "model.dropout": BELOW_ONE,
    "model.patch_size": COUNT,
    "model.depth": NATURAL,
    "model.heads": NATURAL,
    "model.layer_scale": number(0),
}
# Checked where they are used: choices that depend on other keys.
ELSEWHERE = ("augment.options.", "model.", "optim.name", "optim.lr_scaling", "optim.schedule",
             "optim.rules", "optim.order")  # fmt: skip


def rule_of(key: str, method: str) -> Rule | None:
    """Returns the rule of a flat key; None if it is checked elsewhere or unknown."""
    if key in RULES:
        return RULES[key]
    section, _, name = key.partition(".")
    if section != method:
        return None
    setting = methods.get(method).settings.get(name)
    return None if setting is None else setting.rule


def check(config: ConfigDict) -> None:
    """Checks every value of a config.

    Args:
        config: from a config file, with the flags of the command line.

    Raises:
        UserError: unknown method, missing section, or wrong values, a line for each.
    """
    method = config.get("method")
    methods.get(method)
    if method not in config:
        raise UserError(
            f"The config has no section '{method}': it is for another method. Type "
            f"--config=NAME of method '{method}'."
        )
    lines = []
    for key, value in config_lib.flatten(config).items():
        rule = rule_of(key, method)
        if rule is None or rule.holds(value):
            continue
        lines.append(complaint(key, rule, value))
    if lines:
        raise UserError("\n".join(lines))


def unchecked(config: Mapping[str, Any], method: str) -> list[str]:
    """Returns the keys of a config without a rule, here or elsewhere; a test expects none."""
    keys = config_lib.flatten(config)
    return [k for k in keys if not k.startswith(ELSEWHERE) and rule_of(k, method) is None]
