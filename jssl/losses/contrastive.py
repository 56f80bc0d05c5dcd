"""Contrastive losses with in-batch negatives."""

import jax
import jax.numpy as jnp

from jssl.losses import _streamed
from jssl.losses._checks import not_positive
from jssl.losses.classification import top_k_correct
from jssl.numerics import unit_rows
from jssl.parallel.collectives import all_gather, global_index
from jssl.types import Array

_HELD = 2**26  # largest number of logits in memory, 256 MiB; more are computed in blocks
_BLOCK = 2**24  # logits of a block
_FORMS = {"paper": 1.0, "official": 2.0}  # the factor on the mean of both directions


def nt_xent(
    z_a: Array,
    z_b: Array,
    *,
    temperature: float,
    normalize: bool = True,
    form: str = "paper",
    axis_name: str | None = None,
) -> Array:
    """Computes the NT-Xent loss (SimCLR's normalised temperature-scaled cross entropy).

    Per example. With sim(u, v) = u.v / |u||v| over the 2N embeddings of N examples in two views,
    the loss of the positive pair (i, j), the two views of one example, is

        l(i, j) = -log( exp(sim(z_i, z_j) / T) / sum over k != i of exp(sim(z_i, z_k) / T) )

    and an example's loss is the mean of l(i, j) and l(j, i). The caller takes the mean over
    examples, which is the paper's L, the mean over all 2N. Under `axis_name` the negatives are the
    examples of all devices, gathered with their gradients, so that the mean over devices has the
    value and the gradients of one device with the whole batch. Above 2^26 logits on a device, they
    are computed in blocks: the same values, in memory linear in N.

    Args:
        z_a: [B,D] float, the first view's embeddings on this device.
        z_b: [B,D] float, the second view's; `z_b[i]` is the positive of `z_a[i]`.
        temperature: T > 0; SimCLR: 0.1 on ImageNet, 0.5 on CIFAR.
        normalize: divide each embedding by its norm; otherwise sim is the inner product.
        form: 'paper', or 'official' for the sum of the two directions, as in the official code:
            twice the paper's, which matters for parameters without LARS adaptation.
        axis_name: the batch axis, or None on one device.

    Returns:
        float32 [B], in nats. If all similarities are equal, ln(2N-1) in the paper's form and
        2 ln(2N-1) in the official one.

    Raises:
        ValueError: embeddings that are not of one shape [B,D] or not float, temperature not
            above 0, unknown form.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.ones((4, 8))  # every pair is equally similar: ln 7
        >>> [round(float(loss), 4) for loss in nt_xent(z, z, temperature=0.5)]
        [1.9459, 1.9459, 1.9459, 1.9459]

    Reference:
        Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, equation 1 and Algorithm 1.
        Official code: https://github.com/google-research/simclr, objective.py, which returns
        loss_a + loss_b and masks with -1e9; Algorithm 1 takes the mean over 2N, half of it.
    """
    return nt_xent_with_top1(
        z_a,
        z_b,
        temperature=temperature,
        normalize=normalize,
        form=form,
        axis_name=axis_name,
    )[0]


def nt_xent_with_top1(
    z_a: Array,
    z_b: Array,
    *,
    temperature: float,
    normalize: bool = True,
    form: str = "paper",
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Computes `nt_xent` and the contrastive top-1 accuracy from the same logits.

    The contrastive top-1 is SimCLR's `contrast_acc`: whether the positive is the most similar of
    the N embeddings of the OTHER view. The official code uses the first view only; here it is the
    mean of both directions: the same expectation with less noise. Ties count as wrong, so that
    collapsed embeddings score 0.

    Args:
        z_a: [B,D] float, the first view's embeddings on this device.
        z_b: [B,D] float, the second view's.
        temperature: T > 0.
        normalize: divide each embedding by its norm.
        form: 'paper' or 'official', see `nt_xent`.
        axis_name: the batch axis, or None on one device.

    Returns:
        loss: float32 [B], as in `nt_xent`.
        top1: float32 [B], 0, 0.5 or 1; 1/N by chance. Without gradient.

    Raises:
        ValueError: as `nt_xent`.

    Example:
        >>> import jax.numpy as jnp
        >>> loss, top1 = nt_xent_with_top1(jnp.eye(3), jnp.eye(3), temperature=0.5)
        >>> print(top1)
        [1. 1. 1.]

    Reference:
        Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, equation 1. Official code:
        https://github.com/google-research/simclr, objective.py and metrics.py.
    """
    _check(z_a, z_b, temperature, form)
    z = jnp.stack([z_a, z_b]).astype(jnp.float32)  # [2,B,D]
    if normalize:
        z = unit_rows(z)
    B = z.shape[1]
    everyone = jnp.swapaxes(all_gather(jnp.swapaxes(z, 0, 1), axis_name), 0, 1)  # [2,N,D]
    N = everyone.shape[1]
    example = global_index(B, axis_name) + jnp.arange(B)  # [B], indices among N
    if 4 * B * N > _HELD:
        block = max(1, _BLOCK // (4 * B))
        total, positive, rival = _streamed.sums(z / temperature, everyone, example, block)
        correct = (positive > rival).astype(jnp.float32)
        return _FORMS[form] * jnp.mean(total - positive, axis=0), jnp.mean(correct, axis=0)
    # [view, example, view of candidate, candidate]; 'highest': TPUs would multiply in bfloat16.
    logits = jnp.einsum("vbd,wnd->vbwn", z, everyone, precision="highest") / temperature

    same = jax.nn.one_hot(example, N, dtype=jnp.bool)[None, :, None, :]
    same_view = jnp.eye(2, dtype=jnp.bool)[:, None, :, None]
    itself = jnp.logical_and(same, same_view)  # k = i, excluded from the sum
    is_positive = jnp.logical_and(same, ~same_view)
    positive = jnp.sum(jnp.where(is_positive, logits, 0.0), axis=(2, 3))  # [2,B]
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=(2, 3))
    loss = _FORMS[form] * jnp.mean(total - positive, axis=0)

    cross = jax.lax.stop_gradient(jnp.stack([logits[0, :, 1], logits[1, :, 0]]))  # [2,B,N]
    correct = jax.vmap(lambda direction: top_k_correct(direction, example, k=1))(cross)
    return loss, jnp.mean(correct, axis=0)


def _check(z_a: Array, z_b: Array, temperature: float, form: str) -> None:
    shapes = f"z_a {jnp.shape(z_a)} and z_b {jnp.shape(z_b)}"
    if jnp.ndim(z_a) != 2 or jnp.shape(z_a) != jnp.shape(z_b) or 0 in jnp.shape(z_a):
        raise ValueError(f"nt_xent expects two embeddings of one shape [B,D], found {shapes}.")
    dtypes = jnp.result_type(z_a), jnp.result_type(z_b)
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        found = " and ".join(dtype.name for dtype in dtypes)
        raise ValueError(f"nt_xent expects float embeddings, found {found} of {shapes}.")
    if not_positive(temperature):
        raise ValueError(f"nt_xent expects temperature > 0, found {temperature} with {shapes}.")
    if form not in _FORMS:
        raise ValueError(f"nt_xent expects form 'paper' or 'official', found '{form}'.")
