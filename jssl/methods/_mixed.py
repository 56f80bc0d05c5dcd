"""What a classifier with strong augmentation sees: erased and mixed images, and soft targets.

DeiT (Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877, appendix A.3) has it, and the
fine-tuning of BEiT with DeiT's code. The order is that code's: crop, flip and RandAugment
on levels, then normalisation, then random erasing, then Mixup or CutMix on the whole group.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jssl import augment
from jssl.errors import UserError
from jssl.methods._common import input_functions
from jssl.methods.spec import Repeated
from jssl.parallel.collectives import axis_size, global_index
from jssl.settings import Setting, below_one, count, fraction, non_negative
from jssl.types import Array, Batch

# What `settings` of `mixed_inputs` has; by default nothing of it.
SETTINGS: dict[str, Setting] = {
    "label_smoothing": below_one(0.0),
    "mixup_alpha": non_negative(0.0),  # 0: no Mixup
    "cutmix_alpha": non_negative(0.0),  # 0: no CutMix
    "mix_groups": count(8),  # of the global batch, each with its lambda: the official code's GPUs
    "erasing_p": fraction(0.0),  # 0: no random erasing
}
# timm's rand-m9-mstd0.5-inc1, as options of `augment`
RAND_AUGMENT: dict[str, Any] = {
    "policy_form": "timm",
    "policy_ops": 2,
    "policy_magnitude": 9.0,
    "policy_deviation": 0.5,
    "policy_chance": 0.5,
}
IMAGENET_FILL = (124, 116, 104)  # the mean of ImageNet in levels, where a picture has been moved
CROP: dict[str, Any] = {"sampler": "torchvision", "antialias": True}


def repeated(config: Any) -> Repeated | None:
    """Returns the repeated augmentation of a method's settings: N views of an Nth of the images."""
    settings = config[config.method]
    views = settings.get("repeated_augmentation", 1)  # a workdir of before may lack it
    return None if views == 1 else Repeated(views, settings.mix_groups)


Inputs = Callable[[Iterable[Array], Batch], tuple[Array, Array]]


def mixed_inputs(config: Any, settings: Any, axis_name: str | None) -> Inputs:
    """Makes the function from the keys and the batch of a step to input and targets.

    Args:
        config: the whole config; `augment` and `data.host_crop` are read.
        settings: with `num_classes` and the keys of `SETTINGS`.
        axis_name: the batch axis, None on one device.

    Returns:
        `inputs((crop_key, erase_key, mix_key), batch) -> (x, targets)`: the normalised images
        [B,h,w,3] and float32 [B,K], distributions; NaN, which stops a run, where a label is none of
        the K classes. It raises UserError unless each device has whole groups to mix.
    """
    views, prepare = input_functions(config)
    K, smoothing = settings.num_classes, settings.label_smoothing

    def inputs(keys: Iterable[Array], batch: Batch) -> tuple[Array, Array]:
        crop_key, erase_key, mix_key = keys
        B, labels = len(batch["image"]), batch["label"]
        first = global_index(B, axis_name)
        x = prepare(views(crop_key, batch["image"], first)[0])
        if settings.erasing_p:
            each = jax.vmap(lambda i: jax.random.fold_in(erase_key, i))(first + jnp.arange(B))
            x = jax.vmap(lambda k, v: augment.random_erasing(k, v, p=settings.erasing_p))(each, x)
        targets = (1 - smoothing) * jax.nn.one_hot(labels, K) + smoothing / K
        targets = jnp.where(((labels >= 0) & (labels < K))[:, None], targets, jnp.nan)
        if not settings.mixup_alpha and not settings.cutmix_alpha:
            return x, targets
        whole = B * axis_size(axis_name)
        if whole % settings.mix_groups:
            raise UserError(
                f"A batch of {whole} images does not fall into {settings.mix_groups} groups to "
                f"mix: expected a divisor. Type --config.{config.method}.mix_groups=N."
            )
        return augment.mix_batch(
            mix_key,
            x,
            targets,
            group_size=whole // settings.mix_groups,
            first=first,
            mixup_alpha=settings.mixup_alpha,
            cutmix_alpha=settings.cutmix_alpha,
        )

    return inputs
