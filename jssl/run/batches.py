"""The batches of a run: crops on the host, order, and the sweep over the train split."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import augment, data, methods
from jssl.data import semi_supervised
from jssl.data.pipeline import repeated
from jssl.errors import UserError
from jssl.methods._common import crops_on_host
from jssl.run import dense
from jssl.types import Batch


def batches_of(parts: Any) -> Any:
    """Returns the training batches of this process, from the first."""
    config = parts.config
    return data.train_batches(
        parts.train_source,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
        threads=config.data.threads,
        transform=host_transform(parts),
        order=data_order(config),
    )


def check_labels(batch: Batch, num_classes: int, *, name: str) -> None:
    """Refuses a batch whose labels are not one number in [0, K) per example.

    Raises:
        UserError: several labels per picture, or the -1 of an unlabelled one, with its index.
    """
    labels = np.asarray(batch["label"])
    if labels.ndim != 1:
        raise UserError(
            f"Data set '{name}' has labels of shape {list(labels.shape[1:])} for each picture; "
            "expected one number. Several labels per picture are supported by --protocol=voc "
            "and voc2007_finetune only, not by any method."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f"Data set '{name}', example {int(batch['index'][wrong[0]])}: label "
            f"{int(labels[wrong[0]])}, expected 0 to {num_classes - 1}. Leave unlabelled examples "
            "out, or train with a method that needs no labels."
        )


def host_transform(parts: Any) -> Any:
    """Returns the transform of training examples on the host, before the device, or None."""
    config, spec = parts.config, methods.get(parts.config.method)
    if spec.data.dense:
        return dense.train_transform(config, parts.train_source)
    transform = data.train_transform(
        config.data,
        parts.train_source,
        size=config.augment.size,
        views=spec.num_crops,
        **_crop_of(config),
    )
    if not spec.data.pseudo_labels:
        return transform
    return semi_supervised.paired(config, parts.train_source, transform)


def data_order(config: ConfigDict) -> Any:
    """Returns the order of the examples in an epoch, as `jssl.data.train_batches` takes it."""
    order = methods.get(config.method).data.order(config)
    if order is None:
        return data.shuffled
    return repeated(order.repeats, batch_size=config.batch_size, groups=order.groups)


def sweep(parts: Any) -> Iterator[Batch]:
    """Iterates once over the train split for `Method.refresh`, without augmentation.

    Every process reads its part of each batch, and all must take every batch, in lockstep.

    Yields:
        `{'image': uint8 [N,size,size,3], 'label': int32 [N], 'index': int32 [N], 'valid': bool
        [N]}` in the order of the data set, N = config.batch_size, split over the devices. The
        images are cropped as for evaluation. `valid` is False for the padding of the last batch,
        and for a picture that cannot be used.
    """
    config, source = parts.config, parts.train_source
    batches = data.eval_batches(
        source,
        batch_size=config.batch_size,
        transform=data.eval_transform(config.data, source, size=config.augment.size),
        threads=config.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(iter(batches)) as running:
        for batch in running:
            arrays = {key: batch[key] for key in ("image", "label", "index")}
            yield parts.launcher.split({**arrays, "valid": batch["mask"]})


def random_crops(config: ConfigDict) -> bool:
    """Whether the crops of a config are random resized ones that the host can make."""
    device_only = methods.get(config.method).data.device_crops(config)
    return _augmentation(config)["crop"] == "random" and not device_only


def _augmentation(config: ConfigDict) -> dict[str, Any]:
    """Returns the options of a config's augmentation."""
    recipe = augment.RECIPES.get(config.augment.name, {})
    given = {k: v for k, v in config.augment.options.items() if v is not None}
    return {**augment.OPTIONS, **recipe, **given}


def _crop_of(config: ConfigDict) -> dict[str, tuple[float, float]]:
    """Returns the recipe's areas and ratios for crops on the host, if crops are made there."""
    if not crops_on_host(config):
        return {}
    settings = _augmentation(config)
    return {"area": tuple(settings["scale"]), "ratio": tuple(settings["ratio"])}
