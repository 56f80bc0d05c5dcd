"""Workdirs with drawn weights and statistics, for the tests of exports and for their recording."""

import zlib

import jax
import numpy as np
from helpers import small_config

from jssl import config as config_lib
from jssl import models
from jssl.models.vit import OFFICIAL
from jssl.run import build, checkpoint, workdir

_RESNET = {"stem": "imagenet", "shortcut": "when_needed", "padding": "symmetric",
           "pool_padding": "symmetric", "stage_sizes": (), "bn_epsilon": 1e-5}  # fmt: skip
_VIT = {"name": "vit_tiny", "patch_size": 16, "depth": 2, "stochastic_depth": 0.0, "heads": 0,
        "position": "learned"}  # fmt: skip
# kind -> method, size in pixels, statistics, settings of the network
KINDS = {
    "resnet10": ("supervised", 64, "imagenet", {**_RESNET, "name": "resnet10"}),
    "resnet50": (
        "supervised", 64, "imagenet",
        {**_RESNET, "name": "resnet50", "stage_sizes": (1, 2, 1, 1), "shortcut": "always"},
    ),
    "encoder": ("simclr", 64, "none", {**_RESNET, "name": "resnet10", "width": 0.25}),
    "cifar_stem": (
        "simclr", 32, "cifar10", {**_RESNET, "name": "resnet14", "width": 0.25, "stem": "cifar"},
    ),
    "efficientnet": (
        "supervised", 64, "imagenet", {"name": "efficientnet_b0", "bn_epsilon": 1e-3},
    ),
    "regnet": ("supervised", 64, "imagenet", {"name": "regnety_400mf"}),
    "deit": ("deit", 48, "imagenet", _VIT),
    "deit_distilled": ("deit", 48, "imagenet", {**_VIT, "distillation_token": True}),
    "vit_mean": ("supervised", 48, "half", {**_VIT, "patch_size": 8, "pool": "mean"}),
    "moco_v3": ("moco_v3", 48, "imagenet", {**_VIT, "position": "sincos", "heads": 12}),
    "beit": ("supervised", 48, "half", {**_VIT, **OFFICIAL["beit_finetune"]}),
    "beit_shared": ("supervised", 48, "half", {**_VIT, **OFFICIAL["beit"]}),
}  # fmt: skip


def config_of(kind, **changes):
    """The config of a kind; `changes` are of its network."""
    method, size, normalize, model = KINDS[kind]
    config = small_config(method, launch="jit")
    preset = {"supervised": "beit_imagenet", "moco_v3": "v3_vit"}.get(method)
    if preset and model["name"].startswith("vit"):
        config.optim = config_lib.base(method, preset=preset).optim
        config.optim.warmup_epochs = 0
    config.model.update({**models.DEFAULTS, **model, **changes})
    config.augment.size, config.augment.normalize = size, normalize
    if method == "deit":
        config.deit.distillation, config.deit.num_classes = "none", 10
        config.deit.ema_decay = 0.9 if kind == "deit_distilled" else 0.0
    if "num_classes" in config[method]:
        config[method].num_classes = 10
    return config


def drawn(path, shape):
    """The values of a leaf, by its path: weights, and statistics that are not those of a start."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    last = path.rpartition(".")[2]
    if last == "kernel":
        scale = 1 / np.sqrt(max(1, np.prod(shape[:-1])))
    else:
        scale = {"scale": 0.2, "var": 0.2, "gamma1": 0.2, "gamma2": 0.2}.get(last, 0.1)
    center = 1.0 if last in ("scale", "var") else 0.0
    return (center + scale * rng.uniform(-1.7, 1.7, shape)).astype(np.float32)


def drawn_run(config, folder):
    """A workdir with one checkpoint of drawn weights; averaged ones differ from the others."""
    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 4})
    method, _ = build.make_method(config, axis_name=None)
    workdir.open_workdir(folder, config)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, config.batch_size))
    leaves = {}
    for path, leaf in checkpoint.flat_leaves(shapes).items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[path] = jax.random.key_data(jax.random.key(0))
        elif np.issubdtype(leaf.dtype, np.floating):
            leaves[path] = drawn(path, leaf.shape)
        else:
            leaves[path] = np.zeros(leaf.shape, leaf.dtype)
    checkpoints = checkpoint.Checkpoints(folder, method=config.method)
    checkpoints.save(0, checkpoint.from_leaves(shapes, leaves), {})
    checkpoints.close()
    return folder


def pictures(size):
    """uint8 [2,size,size,3]."""
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
