"""CPC v2's linear probe on the grid: BN without scale, a 1x1 convolution, the mean of the logits.

    logits = mean over r, c of ( W^T (z_rc - m) / s + b ),     m, s of each channel over all z

It is fitted on cached features by `fit_linear`: the probe is linear for fixed m and s, so the mean
of the logits is the logits of the mean. The paper trains by Adam with augmented patches and m, s of
each batch; here there is no augmentation, and m, s are over the whole train split.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment
from jssl.evaluate.probes.softmax_regression import (
    LinearFit,
    LinearHead,
    fit_linear,
    linear_accuracy,
)
from jssl.evaluate.table import LINEAR_BATCH, SOFTMAX_REGRESSION, number
from jssl.types import Array


def fit_grid(
    grids: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    num_classes: int,
    epochs: int = 100,
    seed: int = 0,
) -> LinearFit:
    """Fits the linear probe on the grid.

    Args:
        grids: float [M,h,w,D] of the train split.
        labels: int [M].
        num_classes: K.
        epochs: of `fit_linear`.
        seed: of `fit_linear`.

    Returns:
        A `LinearFit`; its head has m and s folded in, so that `grid_logits` takes plain grids.

    Raises:
        UserError: as `fit_linear`.
        ValueError: not [M,h,w,D].

    Example:
        >>> x = np.array([0.0, 1.0, 9.0, 10.0]).reshape(4, 1, 1, 1) + np.zeros((1, 2, 2, 1))
        >>> fit = fit_grid(x, np.array([0, 0, 1, 1]), num_classes=2)
        >>> print(grid_logits(fit.head, x).argmax(axis=1))
        [0 0 1 1]

    Reference: Hénaff et al., https://arxiv.org/abs/1905.09272, section 4.1.
    """
    if np.ndim(grids) != 4:
        raise ValueError(f"A grid probe expects [M,h,w,D], found {list(np.shape(grids))}.")
    x = np.asarray(grids, np.float32)
    mean = x.mean(axis=(0, 1, 2), dtype=np.float64)
    std = x.std(axis=(0, 1, 2), dtype=np.float64)
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # a constant's std is rounding
    pooled = (x.mean(axis=(1, 2)) - mean[None, :]) / std[None, :]
    fit = fit_linear(
        pooled.astype(np.float32),
        labels,
        num_classes=num_classes,
        epochs=epochs,
        batch_size=LINEAR_BATCH,
        standardize=False,
        seed=seed,
    )
    kernel = np.asarray(fit.head.kernel) / std[:, None]
    bias = np.asarray(fit.head.bias) - mean @ kernel
    head = LinearHead(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
    return fit._replace(head=head)


def grid_logits(head: LinearHead, grids: Array) -> Array:
    """Computes the mean over positions of a 1x1 convolution: float [M,h,w,D] -> float32 [M,K]."""
    logits = jnp.matmul(grids, head.kernel, precision=jax.lax.Precision.HIGHEST)
    return jnp.mean(logits, axis=(1, 2)) + head.bias[None, :]


def raw_grid(*, patch: int, stride: int) -> Callable[[Any, Array], Array]:
    """Returns `(state, images) -> [B,h,w,patch patch 3]`, the pixels of the patches as a grid."""

    def embed(state: Any, images: Array) -> Array:
        x = augment.extract_patches(augment.to_float(images), patch=patch, stride=stride)
        return x.reshape(*x.shape[:3], -1)

    return embed


def grid_protocol(*, epochs: int, bank: int, queries: int, grid: str, name: str) -> str:
    """Returns the protocol text of the grid probe, without the feature."""
    return (
        f"softmax regression on the cached {grid} grid: BN without scale (train statistics), 1x1 "
        "convolution, mean of the logits, no augmentation, zero init, SGD Nesterov 0.9, lr 1/L "
        f"cosine, weight decay 0, {epochs} epochs of batch {min(LINEAR_BATCH, bank)}, last epoch, "
        f"{bank:,} train, {queries:,} test examples of {name}"
    )


def grid_row(
    sets: Mapping[str, tuple[Any, Any, Any, Any]],
    *,
    num_classes: int,
    name: str,
    epochs: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs the grid probe on several networks; returns a row as `probe_rows` describes.

    Args:
        sets: kind -> (train grids [M,h,w,D], train labels [M], test grids [Q,h,w,D], test labels).
        num_classes: K.
        name: of the data set.
        epochs: of `fit_grid`.
        seed: of `fit_grid`.

    Returns:
        A row with `probe` 'softmax_regression on grid'.

    Raises:
        UserError, ValueError: as `fit_grid`.

    Example:
        >>> x, y = np.eye(4).repeat(5, axis=0).reshape(20, 1, 1, 4), np.arange(4).repeat(5)
        >>> grid_row({'trained': (x, y, x, y)}, num_classes=4, name='mine')['top1']
        {'trained': 1.0}
    """
    numbers = {}
    for kind, (train_x, train_y, test_x, test_y) in sets.items():
        protocol = grid_protocol(
            epochs=epochs,
            bank=len(train_x),
            queries=len(test_x),
            grid=f"{train_x.shape[1]}x{train_x.shape[2]}",
            name=name,
        )
        fit = fit_grid(train_x, train_y, num_classes=num_classes, epochs=epochs, seed=seed)
        # The mean of the logits is the logits of the mean.
        scores = linear_accuracy(fit.head, np.mean(test_x, axis=(1, 2)), test_y)
        feature = "raw pixels" if kind == "raw pixels" else f"{kind} grid"
        rate = protocol.replace("lr 1/L", f"lr 1/L = {fit.learning_rate:.3g}")
        numbers[kind] = number(scores, feature, train_x.shape[-1], rate)
    top1 = {kind: entry["top1"] for kind, entry in numbers.items()}
    return {
        "probe": f"{SOFTMAX_REGRESSION} on grid",
        "protocol": protocol,
        "top1": top1,
        "numbers": numbers,
    }
