"""LARS in both orders against recurrences written out in numpy, and against optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jssl import optim
from jssl.errors import UserError

STEPS = 6
LEARNING_RATES = [0.0, 0.4, 0.8, 0.7, 0.3, 0.05]  # changes at every step
MOMENTUM, DECAY, TRUST = 0.9, 0.05, 0.01
MASK = {"conv": {"kernel": True}, "bn": {"scale": False, "bias": False}}


def problem():
    """Start and STEPS gradients of a kernel and a BN."""
    rng = np.random.default_rng(2)
    shapes = {"conv": {"kernel": (3, 3, 2, 4)}, "bn": {"scale": (4,), "bias": (4,)}}

    def draw(shape):
        return rng.normal(size=shape).astype(np.float32)

    is_shape = {"is_leaf": lambda x: isinstance(x, tuple)}
    start = jax.tree.map(draw, shapes, **is_shape)
    return start, [jax.tree.map(draw, shapes, **is_shape) for _ in range(STEPS)]


def naive_lars(p, grads, *, order, masked):
    """Returns one parameter array in float64 after every step of the recurrence."""
    p, v, trajectory = p.astype(np.float64), np.zeros(p.shape), []
    for lr, g in zip(LEARNING_RATES, grads, strict=True):
        if masked:
            u = g.astype(np.float64)
        else:
            u = g + DECAY * p
            u = u * TRUST * np.sqrt((p**2).sum()) / np.sqrt((u**2).sum())
        if order == "lr_inside":
            v = MOMENTUM * v + lr * u
            p = p - v
        else:
            v = MOMENTUM * v + u
            p = p - lr * v
        trajectory.append(p)
    return trajectory


def schedule(step):
    return jnp.asarray(LEARNING_RATES, jnp.float32)[step]


def run(tx, start, grads):
    """The parameters after every step, jitted."""

    @jax.jit
    def step(params, state, grad):
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    params, state, trajectory = start, tx.init(start), []
    for grad in grads:
        params, state = step(params, state, grad)
        trajectory.append(jax.device_get(params))
    return trajectory


def make(order, learning_rate=schedule):
    return optim.lars(
        learning_rate,
        order=order,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        trust_coefficient=TRUST,
        decay_mask=MASK,
        adapt_mask=MASK,
    )


@pytest.mark.parametrize("order", ["lr_inside", "lr_outside"])
def test_equals_the_recurrence_while_the_learning_rate_changes(order):
    start, grads = problem()
    trajectory = run(make(order), start, grads)
    for path in (("conv", "kernel"), ("bn", "scale"), ("bn", "bias")):
        own = [grad[path[0]][path[1]] for grad in grads]
        first = start[path[0]][path[1]]
        expected = naive_lars(first, own, order=order, masked=path[0] == "bn")
        for params, want in zip(trajectory, expected, strict=True):
            np.testing.assert_allclose(params[path[0]][path[1]], want, rtol=2e-6, atol=2e-6)
        assert np.abs(expected[-1] - first).max() > 1e-2


def test_the_orders_differ_only_while_the_learning_rate_changes():
    start, grads = problem()
    inside, outside = (run(make(order), start, grads)[-1] for order in ("lr_inside", "lr_outside"))
    assert np.abs(inside["conv"]["kernel"] - outside["conv"]["kernel"]).max() > 1e-3
    constant = [
        run(make(order, 0.3), start, grads)[-1]["conv"]["kernel"]
        for order in ("lr_inside", "lr_outside")
    ]
    np.testing.assert_allclose(*constant, rtol=1e-5, atol=1e-6)


def test_lr_inside_is_optax_lars_bit_for_bit():
    start, grads = problem()
    theirs = optax.lars(
        schedule,
        weight_decay=DECAY,
        weight_decay_mask=MASK,
        trust_coefficient=TRUST,
        trust_ratio_mask=MASK,
        momentum=MOMENTUM,
    )
    ours = run(make("lr_inside"), start, grads)
    jax.tree.map(np.testing.assert_array_equal, ours, run(theirs, start, grads))


@pytest.mark.parametrize("order", ["lr_inside", "lr_outside"])
def test_a_zero_norm_gives_ratio_one(order):
    tx = optim.lars(0.5, order=order, trust_coefficient=0.001)
    params = {"zero": jnp.zeros(3), "still": jnp.ones(3)}
    grads = {"zero": jnp.array([1.0, -2.0, 4.0]), "still": jnp.zeros(3)}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["zero"], [-0.5, 1.0, -2.0])  # plain SGD, no 0 or NaN
    np.testing.assert_array_equal(updates["still"], np.zeros(3))


def test_unknown_order():
    with pytest.raises(UserError, match="'inside': did you mean 'lr_inside'"):
        optim.lars(0.1, order="inside")
