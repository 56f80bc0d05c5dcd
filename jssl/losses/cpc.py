"""CPC's loss: InfoNCE between predictions from the context above and the patches below."""

import jax
import jax.numpy as jnp

from jssl.losses.classification import cross_entropy, top_k_correct
from jssl.parallel.collectives import all_gather, axis_size, global_index
from jssl.types import Array


def patch_labels(first: Array, *, batch: int, rows: int, columns: int, offset: int) -> Array:
    """Returns the index of each prediction's target among the flattened targets.

    The prediction of image b at (r, c) has the patch at (r + offset, c) as target, with flat index
    b rows columns + (r + offset) columns + c.

    Args:
        first: int32 [], index of the first image.
        batch: B, images.
        rows, columns: of the grid.
        offset: rows ahead, in [1, rows - 1].

    Returns:
        int32 [B,rows-offset,columns].

    Raises:
        ValueError: an offset without targets.

    Example:
        >>> print(patch_labels(0, batch=1, rows=3, columns=2, offset=2)[0])
        [[4 5]]

    Reference:
        Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272, appendix.
    """
    if not 1 <= offset < rows:
        raise ValueError(f"An offset of {offset} has no target in a grid of {rows} rows.")
    b = jnp.asarray(first, jnp.int32) + jnp.arange(batch, dtype=jnp.int32)
    r = jnp.arange(offset, rows, dtype=jnp.int32)
    c = jnp.arange(columns, dtype=jnp.int32)
    return (b * rows * columns)[:, None, None] + (r * columns)[None, :, None] + c[None, None, :]


def patch_info_nce(
    predictions: Array,
    targets: Array,
    *,
    offset: int,
    scale: float = 0.1,
    groups: int = 1,
    axis_name: str | None = None,
) -> Array:
    """Computes CPC's cross entropy for one offset, per image.

    With p the prediction at row r, column c of image b, and t_k the targets at every position of
    every image:  -log softmax_k(scale p . t_k) at the k of (b, r + offset, c).

    Args:
        predictions: float [B,h-offset,w,d], of the rows that have a target.
        targets: float [B,h,w,d], a projection of the LATENTS, never of the context.
        offset: rows ahead.
        scale: of the predictions, 0.1; nothing is normalised.
        groups: number of groups of consecutive images in the global batch; negatives come from
            the same group. 1: all positions of the global batch. For a paper's 'per device' use
            its number of devices.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [B], in nats: the mean over the predicted positions; ln(N h w) if all logits are
        equal.

    Raises:
        ValueError: inconsistent shapes, or groups that do not divide the batch or are not a
            multiple of the devices.

    Example:
        >>> p, t = jnp.zeros((2, 1, 3, 4)), jnp.ones((2, 3, 3, 4))
        >>> print(patch_info_nce(p, t, offset=2).round(4))  # ln 18
        [2.8904 2.8904]

    Reference:
        Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272, equation 2 and appendix.
    """
    return patch_info_nce_with_top1(
        predictions, targets, offset=offset, scale=scale, groups=groups, axis_name=axis_name
    )[0]


def patch_info_nce_with_top1(
    predictions: Array,
    targets: Array,
    *,
    offset: int,
    scale: float = 0.1,
    groups: int = 1,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Computes `patch_info_nce` and the top-1 accuracy.

    Args:
        predictions: float [B,h-offset,w,d].
        targets: float [B,h,w,d].
        offset: rows ahead.
        scale: of the predictions.
        groups: see `patch_info_nce`.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [B] loss in nats, float32 [B] top-1 in [0, 1].

    Raises:
        ValueError: as `patch_info_nce`.

    Example:
        >>> p, t = jnp.zeros((2, 1, 3, 4)), jnp.ones((2, 3, 3, 4))
        >>> print(patch_info_nce_with_top1(p, t, offset=2)[1])  # ties count against
        [0. 0.]

    Reference:
        https://arxiv.org/abs/1905.09272
    """
    expected = (*targets.shape[:1], targets.shape[1] - offset, *targets.shape[2:])
    if targets.ndim != 4 or predictions.shape != expected:
        raise ValueError(
            "Predictions are [B,h-offset,w,d] of targets [B,h,w,d]; found "
            f"{list(predictions.shape)} and {list(targets.shape)} with offset {offset}."
        )
    B, h, w, d = targets.shape
    devices = axis_size(axis_name)
    if groups < 1 or (B * devices) % groups or (groups > 1 and groups % devices):
        raise ValueError(
            f"{groups} groups of negatives do not fit {B} images on each of {devices} devices: "
            "expected 1, or a multiple of the devices that divides the global batch."
        )
    if groups > 1:
        local = groups // devices
        p = predictions.reshape(local, B // local, h - offset, w, d)
        t = targets.reshape(local, B // local, h, w, d)
        one = lambda p, t: patch_info_nce_with_top1(p, t, offset=offset, scale=scale)  # noqa: E731
        loss, top1 = jax.vmap(one)(p, t)
        return loss.reshape(B), top1.reshape(B)
    candidates = all_gather(targets.astype(jnp.float32), axis_name).reshape(-1, d)
    p = scale * predictions.astype(jnp.float32).reshape(-1, d)
    logits = p @ candidates.T
    labels = patch_labels(
        global_index(B, axis_name), batch=B, rows=h, columns=w, offset=offset
    ).reshape(-1)
    loss = cross_entropy(logits, labels).reshape(B, -1)
    top1 = top_k_correct(logits, labels, k=1).astype(jnp.float32).reshape(B, -1)
    return jnp.mean(loss, axis=1), jnp.mean(top1, axis=1)


def directions_info_nce(
    found: dict[str, tuple[dict[int, Array], Array]],
    *,
    scale: float = 0.1,
    groups: int = 1,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Computes CPC's loss: the sum over offsets, averaged over directions.

    The paper's listing is one direction: it sums the cross entropies of the offsets (each the mean
    of its predictions, which the listing leaves open), and a range from `steps_to_ignore` to
    `steps_to_predict` means the offsets one larger. The paper does not give weights of the
    directions; here they are equal, so that the loss at chance is ln(N h w) for each offset, for
    any number of directions.

    Args:
        found: for each direction {offset: predictions [B,h-offset,w,d]} and targets [B,h,w,d],
            rotated so that the direction is down.
        scale: of the predictions.
        groups: see `patch_info_nce`.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [] loss in nats, float32 [] top-1 in [0, 1]: means over this device's images.

    Raises:
        ValueError: as `patch_info_nce`, or no direction.

    Example:
        >>> p, t = {1: jnp.zeros((2, 2, 3, 4)), 2: jnp.zeros((2, 1, 3, 4))}, jnp.ones((2, 3, 3, 4))
        >>> loss, _ = directions_info_nce({'down': (p, t), 'up': (p, t)})
        >>> print(f'{loss:.4f}')  # 2 ln 18
        5.7807

    Reference:
        Hénaff et al., ICML 2020, https://arxiv.org/abs/1905.09272, appendix.
    """
    if not found:
        raise ValueError("CPC's loss expects at least one direction, found none.")
    scores = [
        patch_info_nce_with_top1(
            p, targets, offset=offset, scale=scale, groups=groups, axis_name=axis_name
        )
        for predictions, targets in found.values()
        for offset, p in predictions.items()
    ]
    losses, top1s = ([jnp.mean(x) for x in column] for column in zip(*scores, strict=True))
    loss = sum(losses[1:], losses[0]) / len(found)
    return loss, sum(top1s[1:], top1s[0]) / len(scores)
