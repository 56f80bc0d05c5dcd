"""LARS, layer-wise adaptive rate scaling, in two orders."""

from collections.abc import Callable

import optax

from jssl.errors import UserError, nearest
from jssl.types import PyTree

ORDERS = ("lr_inside", "lr_outside")


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    order: str = "lr_inside",
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
    decay_mask: Callable[[PyTree], PyTree] | PyTree = True,
    adapt_mask: Callable[[PyTree], PyTree] | PyTree = True,
) -> optax.GradientTransformation:
    """LARS with the learning rate inside or outside the momentum.

    With the trust ratio r(u) = trust_coefficient |p| / (|u| + eps) of each parameter array, and
    u = g + weight_decay p:

        'lr_inside'    v <- momentum v + lr r(u) u,   p <- p - v        SimCLR
        'lr_outside'   v <- momentum v + r(u) u,      p <- p - lr v     BYOL, MoCo v3

    The two differ while the learning rate changes. r is 1 if either norm is 0 or `adapt_mask` is
    False; weight_decay is 0 where `decay_mask` is False.

    Args:
        learning_rate: lr, a number or a function of the step.
        order: 'lr_inside' or 'lr_outside'.
        momentum: in [0,1).
        nesterov: Nesterov momentum; not used by any of these papers.
        weight_decay: added to the gradient before the ratio.
        trust_coefficient: SimCLR, BYOL and MoCo v3: 0.001.
        eps: added to the norm of u.
        decay_mask: tree of bools, a prefix of one, or a function from parameters to it.
        adapt_mask: the same, for the ratio.

    Returns:
        The optax transformation; its state holds v, and the step when lr is a schedule.

    Raises:
        UserError: unknown order.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = lars(0.1, momentum=0.9, trust_coefficient=0.01)
        >>> params, grads = {'w': jnp.array([3.0, 4.0])}, {'w': jnp.array([0.0, 2.0])}
        >>> updates, _ = tx.update(grads, tx.init(params), params)  # r = .01 * 5 / 2
        >>> round(float(updates['w'][1]), 6)
        -0.005

    Reference:
        You et al. 2017, https://arxiv.org/abs/1708.03888, Algorithm 1 ('lr_inside'). SimCLR:
        https://github.com/google-research/simclr, lars_optimizer.py. BYOL:
        https://github.com/google-deepmind/deepmind-research/tree/master/byol, optimizers.py;
        MoCo v3: https://github.com/facebookresearch/moco-v3, moco/optimizer.py.
    """
    if order not in ORDERS:
        raise UserError(f"Unknown LARS optim.order '{order}': {nearest(order, ORDERS)}.")
    lr = optax.scale_by_learning_rate(learning_rate)
    trace = optax.trace(momentum, nesterov)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.masked(optax.scale_by_trust_ratio(0.0, trust_coefficient, eps), adapt_mask),
        *((lr, trace) if order == "lr_inside" else (trace, lr)),
    )
