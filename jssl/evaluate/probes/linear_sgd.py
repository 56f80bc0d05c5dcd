"""The papers' linear protocol: a classifier on a frozen network, trained on augmented images.

Only the head is trained. The network is in evaluation mode: it uses its running statistics and does
not update them. A hash of its parameters and statistics is compared before and after.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jssl import augment, data
from jssl.errors import UserError
from jssl.evaluate.embed import BACKBONE, embed_source, select_feature
from jssl.evaluate.probes import presets
from jssl.evaluate.probes.softmax_regression import LinearHead, count_right, sgd_step
from jssl.metrics._arrays import check_examples
from jssl.parallel.launcher import AXIS_NAME
from jssl.run.checksums import backbone_hash
from jssl.types import Array, PyTree

EVAL_BATCH = 256  # images per batch of the test set


class LinearResult(NamedTuple):
    """The result of `evaluate_linear`.

    Attributes:
        head: the classifier after the last epoch.
        record: JSON-serialisable: `top1` and `top5` after the LAST epoch, `correct`, `count`,
            `best_top1` and `best_epoch` (reported, never selected), `protocol`, `history` by epoch,
            `preset`, `epochs`, `batch_size`, `learning_rate`, `feature`, `dim`,
            `train_examples`, `backbone_sha256`.
    """

    head: LinearHead
    record: dict[str, Any]


def evaluate_linear(
    embed_fn: Callable[..., Any],
    state: Any,
    train_source: Any,
    test_source: Any,
    *,
    size: int,
    preset: str = "simclr",
    epochs: float | None = None,
    batch_size: int | None = None,
    feature: str = BACKBONE,
    seed: int = 0,
    channels: int = 3,
    host_crop: bool = False,
    train_transform: Callable | None = None,
    test_transform: Callable | None = None,
    workers: int = 0,
    devices: list[Any] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> LinearResult:
    """Trains a linear classifier on a frozen network by one paper's recipe, and evaluates it.

    Training images are randomly cropped and flipped on the device; test images are prepared by
    `test_transform` and embedded once. The result is that of the last epoch; the best epoch is
    reported too, but nothing is selected by the test set.

    Args:
        embed_fn: `Method.embed`, `(state, images [B,H,W,3]) -> (features [B,D], intermediates)`,
            pure and not compiled, in evaluation mode.
        state: with `params` and `batch_stats`; read only.
        train_source: labelled examples to train on.
        test_source: labelled examples to evaluate on.
        size: side of the network's input in pixels.
        preset: a key of `jssl.evaluate.PRESETS`.
        epochs: None or 0 for the preset's; may be a fraction.
        batch_size: by default the preset's, halved until an epoch has ten steps. The learning
            rate scales with it.
        feature: 'backbone' or the name of an intermediate.
        seed: of order, augmentation and head.
        channels: of the images.
        host_crop: `train_transform` makes the random crops, the device only flips.
        train_transform: on the host, see `jssl.data.train_transform` (views=1).
        test_transform: on the host, see `jssl.data.eval_transform`.
        workers: processes that read training images; 0 for threads.
        devices: that share each batch, the local ones by default; gcd(batch size, number of
            devices) of them are used.
        progress: called after each epoch with its entry of `history`.

    Returns:
        A `LinearResult`.

    Raises:
        UserError: unknown preset or feature, a data set without labels or with other classes, a
            non-finite loss, an example that was not evaluated exactly once.
        ValueError: an embedding that depends on the other images of its batch (BatchNorm is not
            in evaluation mode), or a network that was changed.

    Example (after a run):
        result = evaluate_linear(embed, state, train, test, size=32, preset='simclr_cifar')
        result.record['top1'], result.record['best_top1'], result.record['protocol']

    Reference: the papers and code named in `jssl.evaluate.probes.presets`; the check of the weights
        is that of MoCo's main_lincls.py, and here covers the running statistics too.
    """
    recipe = presets.find_preset(preset)
    classes = _classes(train_source, test_source)
    epochs = float(epochs or recipe.epochs)
    batch_size = batch_size or presets.fitting_batch(recipe, len(train_source))
    batches = data.train_batches(
        train_source,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        transform=train_transform,
    )
    before = backbone_hash(state)
    mesh = _mesh(batch_size, jax.local_devices() if devices is None else devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(AXIS_NAME))
    placed = jax.device_put(state, replicated)
    selected = select_feature(embed_fn, feature)
    compiled = jax.jit(selected)

    def place(x: np.ndarray) -> Array:
        return jax.device_put(x, replicated if len(x) % mesh.size else sharded)

    def embed(state: PyTree, images: np.ndarray) -> Array:
        return compiled(state, place(images))

    features, test_labels, _ = embed_source(
        embed, placed, test_source, batch_size=EVAL_BATCH, transform=test_transform
    )
    check_examples("The linear protocol", features, test_labels, classes)
    test_x, test_y = jnp.asarray(features), jnp.asarray(test_labels)
    _check_eval_mode(embed, placed, test_source, test_transform)

    views = augment.make_views(
        "crop_flip", size=size, host_crop=host_crop, channels=channels, **dict(recipe.crop)
    )
    tx = presets.direction(recipe)

    def step_fn(head, opt_state, state, batch, key, step, rate):
        key = jax.random.fold_in(key, step)
        images = augment.batch_views(views, key, batch["image"], jnp.int32(0))[0]
        return sgd_step(tx, head, opt_state, selected(state, images), batch["label"], rate)

    step_fn = jax.jit(step_fn, out_shardings=replicated)
    key = jax.random.key(seed)
    head = jax.device_put(presets.first_head(recipe, key, test_x.shape[1], classes), replicated)
    opt_state = jax.device_put(tx.init(head), replicated)
    per_epoch = batches.steps_per_epoch
    total = max(1, round(epochs * per_epoch))
    history: list[dict[str, Any]] = []
    losses: list[Array] = []
    try:
        for step in range(total):
            arrays = next(batches)
            rate = presets.preset_rate(
                recipe, step / per_epoch, epochs=total / per_epoch, batch_size=batch_size
            )
            batch = {name: place(arrays[name]) for name in ("image", "label")}
            head, opt_state, loss = step_fn(
                head, opt_state, placed, batch, key, np.int32(step), np.float32(rate)
            )
            losses.append(loss)
            if (step + 1) % per_epoch == 0 or step + 1 == total:
                history.append(_entry(head, losses, rate, (step + 1) / per_epoch, test_x, test_y))
                losses = []
                _check_finite(history[-1], preset)
                if progress is not None:
                    progress(history[-1])
    finally:
        batches.close()
    _check_frozen(before, given=state, used=placed)
    scores = count_right(head, test_x, test_y)
    best = max(history, key=lambda entry: entry["test_top1"])
    record = {
        **scores,
        "best_top1": best["test_top1"],
        "best_epoch": best["epoch"],
        "preset": preset,
        "epochs": total / per_epoch,
        "batch_size": batch_size,
        "learning_rate": presets.preset_rate(recipe, 0, epochs=epochs, batch_size=batch_size),
        "feature": feature,
        "dim": int(test_x.shape[1]),
        "train_examples": len(train_source),
        "backbone_sha256": before,
        "history": history,
    }
    record["protocol"] = presets.describe(recipe, record, train_source, test_source, size)
    return LinearResult(head, record)


def _check_frozen(before: str, **states: Any) -> None:
    for name, state in states.items():
        if (after := backbone_hash(state)) != before:
            raise ValueError(
                f"The frozen network was changed: SHA-256 of params and batch_stats was {before} "
                f"and that of the state {name} is {after} now. A linear evaluation must not "
                "train it, nor update running statistics: the result is not valid."
            )


def _classes(train_source: Any, test_source: Any) -> int:
    train, test = train_source.num_classes, test_source.num_classes
    if train < 2 or train != test:
        raise UserError(
            f"The linear protocol needs labels of the same two or more classes: found {train} "
            f"in the train split of '{train_source.name}' and {test} in the test split of "
            f"'{test_source.name}'. Type another --source."
        )
    return train


def _mesh(batch_size: int, devices: list[Any]) -> Mesh:
    """Returns a mesh of one axis, with gcd(batch size, number of devices) devices."""
    return Mesh(np.array(devices[: math.gcd(batch_size, len(devices))]), (AXIS_NAME,))


def _check_eval_mode(embed: Callable, state: Any, source: Any, transform: Callable | None) -> None:
    """Raises if the embedding of an image changes when the rest of its batch becomes black."""
    size = min(EVAL_BATCH, len(source))
    batches = iter(data.eval_batches(source, batch_size=size, transform=transform))
    with contextlib.closing(batches):
        images = next(batches)["image"]
    black = np.concatenate([images[:1], np.zeros_like(images[1:])])
    one, other = (np.asarray(embed(state, x)[0]) for x in (images, black))
    if not np.allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max()):
        raise ValueError(
            "The embedding of an image depends on the other images of its batch (largest "
            f"difference {np.abs(one - other).max():.3g}): BatchNorm is not in evaluation mode. "
            "`embed` must apply the network with train=False."
        )


def _entry(
    head: LinearHead, losses: list[Array], rate: float, epoch: float, x: Array, y: Array
) -> dict[str, Any]:
    return {
        "epoch": round(epoch, 4),
        "loss": float(np.mean([np.asarray(loss) for loss in losses])),
        "learning_rate": rate,
        "test_top1": count_right(head, x, y)["top1"],
    }


def _check_finite(entry: dict[str, Any], preset: str) -> None:
    if not math.isfinite(entry["loss"]):
        raise UserError(
            f"The linear classifier of preset '{preset}' diverged in epoch {entry['epoch']:g} at "
            f"a learning rate of {entry['learning_rate']:g}. Presets with lr 30 are for features "
            "of small scale: type --preset=simclr."
        )
