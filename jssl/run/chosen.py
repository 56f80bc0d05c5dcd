"""Chooses the settings of `jssl train --data=DIR --method=NAME`, which has no config file.

They start from the method's config of the embedded photographs, `NAME_photos`, whose optimiser is
for small batches and few steps. The folder decides the labels and the length of the run, the
pictures the size of the views, the device the network, the batch and the readers.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import data, methods
from jssl.data.walk import printable
from jssl.errors import UserError, nearest
from jssl.models import DEFAULTS as MODEL_DEFAULTS
from jssl.models import DEPTHS, SIZES, VIT_SIZES, registered
from jssl.models.own import variables_of
from jssl.optim import TRANSFORMER
from jssl.optim.masks import parameter_names
from jssl.run import config_file

LABELS = ("auto", "none")
SAMPLE = 64  # pictures whose size is read
SIDES = (32, 64, 96, 128, 160, 192, 224)  # of a view
CPU_SIDE, CPU_BATCH, CPU_STEPS, CPU_EPOCHS = 64, 32, 500, (1, 100)
# Of an accelerator: the batch by its memory in GB, updates of a run, least and most epochs.
BATCHES, STEPS, EPOCHS = ((40, 256), (20, 128), (0, 64)), 10_000, (100, 400)
LARGE = 10_000  # pictures from which a larger network is trained
LEAST = 8  # pictures in a batch
LEAST_OF_CLASS = 4  # pictures of the smallest class, of which one may be held out
# Of the config of a method: what it has for `photos` alone.
SWITCHES = {"deit": ":distill=none", "simclr": ":jitter=paper"}
# Methods that need what a folder of pictures does not have, and what to type instead.
REFUSED = {
    "beit": (
        "predicts the tokens of a trained dVAE. Train one first: type jssl train --data={data} "
        "--method=dvae --workdir=runs/dvae, then --config=beit_photos:tokenizer=runs/dvae "
        "--config.data.name=folder --config.data.data_dir={data}"
    ),
    "noisy_student": (
        "trains in several stages, from a labelled part of the pictures and an unlabelled one, and "
        "needs a config that lists them: type --config=noisy_student_photos "
        "--config.data.name=folder --config.data.data_dir={data}"
    ),
}


class Device(NamedTuple):
    """The accelerator, or the CPU, that is there: platform, kind, number, memory, CPU cores."""

    platform: str
    kind: str
    number: int
    gigabytes: float
    cores: int


class Pictures(NamedTuple):
    """What a folder holds.

    Attributes:
        name: of the folder.
        total: number of pictures to train with.
        classes: their number; 0 without labels.
        short: median short side in pixels.
        sizes: text on the sizes.
        held_out: number of pictures that are held out for the numbers.
    """

    name: str
    total: int
    classes: int
    short: int
    sizes: str
    held_out: int = 0


def this_device() -> Device:
    """Returns the device of this process."""
    first = jax.devices()[0]
    limit = (first.memory_stats() or {}).get("bytes_limit", 0) if first.platform != "cpu" else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device(first.platform, first.device_kind, jax.device_count(), limit / 1e9, cores or 1)


def check(method: str, folder: str, labels: str) -> None:
    """Checks what can be checked without reading the folder.

    Raises:
        UserError: an unknown method, one that needs more than a folder, or another choice of
            labels.
    """
    spec = methods.get(method)
    if labels not in LABELS:
        raise UserError(f"Unknown --labels={labels}: {nearest(labels, LABELS)}.")
    if method in REFUSED:
        raise UserError(f"--method={method} {REFUSED[method].format(data=folder)}.")
    if spec.data.dense:
        raise UserError(
            f"--method={method} learns from {spec.data.dense} of pictures, which a folder of "
            f"pictures does not have. With a folder in the layout of VOC or COCO type "
            f"--config={method}_photos --config.data.name=folder --config.data.data_dir={folder}."
        )
    if labels == "none" and spec.labels == "required":
        raise UserError(
            f"--method={method} learns from labels, but --labels=none reads none. Leave it out, "
            f"or type a method without labels, such as --method=simclr."
        )


def base(method: str, folder: str, labels: str, size: int, name: str = "folder") -> ConfigDict:
    """Returns the config of `METHOD_photos` with the data set and the size of the views."""
    config = config_file.load(f"{method}_photos{SWITCHES.get(method, '')}")
    config.updates = "whole_epochs"
    config.data.update(name=name, data_dir=folder, threads=0)
    config.data.layout = "nested" if labels == "none" else "auto"
    if method == "deepcluster_v2":  # its crops of two sizes are made on the device
        config.data.image_size = 2 * size
        config.deepcluster_v2.small_size = size // 2
    config.augment.size = size
    if size >= 96:  # there the blur of the ImageNet recipes can be seen
        if config.augment.name == "simclr_cifar":
            config.augment.name = "simclr"
        elif config.augment.name == "byol":
            config.augment.options.blur_p = None
    if method == "cpc":
        config.cpc.update(patch=size // 4, stride=size // 8)  # a grid of 7 x 7
    return config


def look(config: ConfigDict, *, held_out: int | None = None) -> Pictures:
    """Reads what the data of a config hold, and the sizes of a sample of the pictures.

    Args:
        config: with the folder.
        held_out: number of pictures to hold out; None chooses it.

    Raises:
        UserError: no such folder, no pictures, an ambiguous layout; no readable picture.
    """
    source = data.make_source(config.data, "train")
    if not len(source):
        raise UserError(f"Data set '{source.name}' is empty: found 0 pictures.")
    read = getattr(source, "encoded", source.__getitem__)
    sizes, problem = [], None
    for row in data.evenly_spaced(len(source), SAMPLE):
        try:
            image = read(int(row))["image"]
            sizes.append(image.size() if isinstance(image, data.Picture) else image.shape[:2])
        except data.PictureError as error:
            problem = error  # the run names it, or replaces it, see data.on_error
    if not sizes:
        assert problem is not None
        raise problem
    short = np.sort([min(size) for size in sizes])
    text = f"{len(sizes)} looked at: short sides of {short[0]} to {short[-1]} px"
    name = source.name
    if config.data.name == "folder":
        name = printable(Path(config.data.data_dir).expanduser().resolve().name)
    held_out = held_out_of(config, source) if held_out is None else held_out
    total, classes = len(source) - held_out, source.num_classes
    return Pictures(name, total, classes, int(np.median(short)), text, held_out)


def held_out_of(config: ConfigDict, source: data.Source) -> int:
    """Returns how many pictures are held out: a tenth, at most 1,000, where labels allow it.

    None are where the folder has a test split, or a class has fewer than `LEAST_OF_CLASS`.
    """
    if source.num_classes < 2 or data.has_split(config.data, "test"):
        return 0
    counts = np.bincount(data.labels_of(source), minlength=source.num_classes)
    if counts.min() < LEAST_OF_CLASS:
        return 0
    return max(source.num_classes, min(1000, round(len(source) / 10)))


def side(pictures: Pictures, device: Device) -> int:
    """Returns the side of a view: the largest of `SIDES` that most pictures and the device allow.

    Example:
        >>> cpu = Device('cpu', 'cpu', 1, 0.0, 2)
        >>> side(Pictures('a', 9, 0, 3024, ''), cpu), side(Pictures('a', 9, 0, 40, ''), cpu)
        (64, 32)
    """
    largest = CPU_SIDE if device.platform == "cpu" else SIDES[-1]
    return max([s for s in SIDES if s <= min(largest, pictures.short)], default=SIDES[0])


def set_model(config: ConfigDict, name: str, size: int) -> None:
    """Sets a network in place, with the stem or the patches for the size of the views.

    Args:
        config: of the run; what its method needs of a ResNet is kept.
        name: of the network.
        size: of the views.

    Raises:
        UserError: an unknown name, or a network that the method does not train.
    """
    own = name in registered()
    known = {*DEPTHS, *SIZES, *VIT_SIZES, "alexnet", "vgg16", *registered()}
    if name not in known:
        raise UserError(f"Unknown --model={name}: {nearest(name, known)}.")
    if config.model.name == "dvae":
        raise UserError("--method=dvae has its own network: leave --model out.")
    needs_vit = config.model.name.startswith("vit")
    if needs_vit and name not in VIT_SIZES and config.method in ("deit", "beit"):
        raise UserError(
            f"--method={config.method} trains a ViT: {nearest(name, VIT_SIZES)}. Type for example "
            "--model=vit_tiny."
        )
    if config.method == "cpc" and name not in DEPTHS:
        raise UserError(
            f"--method=cpc needs a network without batch normalisation: {nearest(name, DEPTHS)}. "
            "Type for example --model=resnet18."
        )
    old = dict(config.model)
    new: dict[str, Any] = {"name": name}
    if name in DEPTHS:
        kept = {"name", "stage_sizes", "width", "stem"}
        new |= {key: value for key, value in old.items() if key not in kept}
        new["stem"] = "imagenet" if size >= 96 and config.method != "cpc" else "cifar"
    elif name in VIT_SIZES:
        kept = {"distillation_token", "mask_token", "stochastic_depth"}
        new |= {key: old[key] for key in kept if needs_vit}
        if not needs_vit:  # its tokens and positions are parameters that a ResNet does not have
            config.optim.rules = TRANSFORMER
        if config.method == "moco":  # without batch normalisation nothing is to be shuffled
            config.moco.shuffle = False
    elif own:
        if config.method == "moco":
            if "batch_stats" in variables_of(name):
                raise UserError(
                    "--method=moco shuffles pictures between groups of batch normalisation, which "
                    f"'{name}' normalises as one batch: expected a network without it. Type for "
                    "example --method=byol."
                )
            config.moco.shuffle = False
        config.optim.rules = rules_of(
            config.optim.rules, parameter_names(variables_of(name)["params"])
        )
    else:
        new["bn_groups"] = old["bn_groups"]
        if name in SIZES:
            new["small_images"] = size < 96
    config.model.update({**MODEL_DEFAULTS, **new})


def rules_of(rules: Sequence[tuple[str, str]], names: Sequence[str]) -> tuple[Any, ...]:
    """Returns rules of `optim.rules` that cover the parameters of a network of another kind.

    Args:
        rules: for another network.
        names: of the parameters, see `jssl.optim.masks`.

    Returns:
        The rules that match a parameter. The remaining parameters decay.

    Example:
        >>> rules_of([('scale$', 'none'), ('kernel$', 'decay')], ['a/kernel', 'embedding'])
        (('kernel$', 'decay'), ('', 'decay'))
    """
    fitting = [rule for rule in rules if any(re.search(rule[0], name) for name in names)]
    if all(any(re.search(regex, name) for regex, _ in fitting) for name in names):
        return tuple(fitting)
    group = fitting[-1][1] if fitting else "decay+adapt"
    return (*fitting, ("", group))


def set_patches(config: ConfigDict, size: int) -> None:
    """Sets the patches of a ViT: 16 px, or an eighth of small views."""
    if config.model.name.startswith("vit"):
        config.model.patch_size = 16 if size >= 128 else size // 8


def network_of(config: ConfigDict, pictures: Pictures, device: Device) -> str:
    """Returns the name of the network for an accelerator; '' for the small one of the config."""
    if device.platform == "cpu" or config.model.name == "dvae":
        return ""
    if config.model.name.startswith("vit"):
        return "vit_small" if pictures.total >= LARGE else "vit_tiny"
    return "resnet50" if pictures.total >= LARGE else "resnet18"


def batch_of(pictures: Pictures, device: Device) -> int:
    """Returns the batch: a power of two times the devices, a fourth of the pictures at most.

    Raises:
        UserError: too few pictures.

    Example:
        >>> cpu = Device('cpu', 'cpu', 1, 0.0, 2)
        >>> [batch_of(Pictures('a', n, 0, 64, ''), cpu) for n in (20, 100, 1000)]
        [8, 16, 32]
    """
    most = CPU_BATCH
    if device.platform != "cpu":
        most = device.number * next(batch for least, batch in BATCHES if device.gigabytes >= least)
    batch = device.number
    while batch < LEAST or 2 * batch <= min(most, pictures.total // 4):
        batch *= 2
    if pictures.total < batch:
        raise UserError(
            f"'{pictures.name}' holds {pictures.total} pictures: expected {batch} or more, a batch "
            f"for {device.number} device(s). Bring more pictures."
        )
    return batch


def workers_of(device: Device) -> int:
    """Returns the number of processes that read pictures; 0: threads of this process do.

    Example:
        >>> workers_of(Device('cpu', 'cpu', 1, 0.0, 32)), workers_of(Device('gpu', '', 1, 40.0, 32))
        (0, 16)
    """
    return 0 if device.platform == "cpu" or device.cores < 8 else min(16, device.cores // 2)


def epochs_of(steps_per_epoch: int, device: Device) -> float:
    """Returns the number of epochs: some updates, within the bounds for the device.

    Example:
        >>> epochs_of(10, Device('cpu', 'cpu', 1, 0.0, 2))
        50.0
    """
    steps, (least, most) = CPU_STEPS, CPU_EPOCHS
    if device.platform != "cpu":
        steps, (least, most) = STEPS, EPOCHS
    return float(min(max(round(steps / steps_per_epoch), least), most))


def fit_method(config: ConfigDict, count: int) -> None:
    """Fits, in place, the state of a method whose size depends on the data to few pictures.

    Args:
        config: of the run, with its batch.
        count: of the pictures.
    """
    method, batch = config.method, config.batch_size
    if config.model.norm == "bn" and config.model.bn_groups > 1:
        config.model.bn_groups = min(config.model.bn_groups, batch // 2)
    clusters = max(2, min(count // 8, max(100, count // 400)))
    if method == "deepcluster":
        config.deepcluster.update(num_clusters=clusters, pca_dim=max(1, min(64, count // 8)))
    if method == "deepcluster_v2":
        heads = len(config.deepcluster_v2.num_clusters)
        config.deepcluster_v2.num_clusters = (clusters,) * heads
    if method == "moco":
        most = min(config.moco.queue_size if count < LARGE else 16384, count)
        config.moco.queue_size = batch * max(1, most // batch)
    if method == "cmc":
        config.cmc.num_negatives = min(config.cmc.num_negatives, count // 2)
    config.monitor.knn_k = max(1, min(config.monitor.knn_k, count // 10))


def set_length(config: ConfigDict, epochs: float, steps_per_epoch: int) -> None:
    """Sets, in place, the epochs of a run and how often it warms up, saves, logs and monitors."""
    steps = max(1, round(epochs * steps_per_epoch))
    config.epochs = float(epochs)
    config.optim.warmup_epochs = min(config.optim.warmup_epochs, epochs / 10)
    config.monitor.every_epochs = max(1.0, epochs // 10)
    config.checkpoint.every_steps = max(100, steps // 20)
    config.log.every_steps = max(1, min(config.log.every_steps, steps // 10))


def set_all(config: ConfigDict, settings: Sequence[tuple[str, str]]) -> None:
    """Sets, in place, the keys that were typed as `--config.KEY=VALUE`."""
    for key, value in settings:
        config_file.override(config, key, value)
