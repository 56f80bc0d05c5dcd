"""Each optimiser against torch's recorded trajectories or numbers worked out by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jssl import optim
from jssl.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "optim_torch.npz"
PLAIN = {"lr_scaling": "none", "warmup_epochs": 0.0, "schedule": "constant", "weight_decay": 0.0}
RUN = {"batch_size": 256, "steps_per_epoch": 1, "total_steps": 10}


def build(**changes):
    return optim.build({**PLAIN, **changes}, **RUN)


def trajectory(tx, params, grads):
    """Yields the parameters after every step, jitted."""

    @jax.jit
    def step(params, state, grad):
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state, result = jax.jit(tx.init)(params), []
    for grad in grads:
        params, state = step(params, state, grad)
        result.append(jax.device_get(params))
    return result


@pytest.mark.parametrize(
    ("recorded", "config"),
    [
        ("sgd_plain", {"name": "sgd", "lr": 0.5, "momentum": 0.0}),
        ("sgd_momentum", {"name": "sgd", "lr": 0.5}),
        ("sgd_nesterov", {"name": "sgd", "lr": 0.5, "nesterov": True}),
        ("adamw", {"name": "adamw", "lr": 0.02, "betas": (0.9, 0.95)}),
    ],
)
def test_equals_torch_over_five_steps_with_a_step_schedule(recorded, config):
    """A decayed kernel, a bias that the rules exclude, lr / 10 at epochs 2 and 4."""
    golden = {key: np.asarray(value, np.float32) for key, value in np.load(GOLDEN).items()}
    params = {"kernel": golden["kernel"], "bias": golden["bias"]}
    grads = [
        {"kernel": kernel, "bias": bias}
        for kernel, bias in zip(golden["kernel_grads"], golden["bias_grads"], strict=True)
    ]
    tx, schedule = build(weight_decay=0.1, schedule="step", boundaries=(2, 4), **config)
    np.testing.assert_allclose(
        [schedule(step) for step in range(5)], golden[f"{recorded}_lr"], rtol=1e-6
    )
    for i, after in enumerate(trajectory(tx, params, grads)):
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(
                after[leaf], golden[f"{recorded}_{leaf}"][i], rtol=2e-6, atol=2e-6
            )


def test_rmsprop_tf_by_hand():
    """Published parameters from 0 with gradients .5, -.2, .1.

    The first: -.1 * .5 / sqrt(.9 * 1 + .1 * .25 + .001) = -.0519594.
    """
    tx, _ = build(name="rmsprop_tf", lr=0.1)  # decay .9, momentum .9, eps 1e-3 by default
    grads = [{"kernel": jnp.array([g]), "bias": jnp.array([g])} for g in (0.5, -0.2, 0.1)]
    start = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
    points = [float(after["kernel"][0]) for after in trajectory(tx, start, grads)]
    np.testing.assert_allclose(points, [-0.0519594, -0.0768686, -0.1107967], atol=1e-7)


def test_rmsprop_tf_with_the_learning_rate_outside_would_differ():
    """The rate falls tenfold at step 1: inside, the momentum still holds the first step whole."""
    tx, _ = build(name="rmsprop_tf", lr=0.1, schedule="step", boundaries=(1.0,), warmup_epochs=0.0)
    grads = [{"kernel": jnp.array([g]), "bias": jnp.array([g])} for g in (0.5, -0.2)]
    start = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
    first, second = (float(after["kernel"][0]) for after in trajectory(tx, start, grads))
    square = 0.9 * (0.9 + 0.1 * 0.25) + 0.1 * 0.04
    step = -0.2 / np.sqrt(square + 1e-3)
    inside = 0.9 * 0.0519594 + 0.01 * step
    outside = 0.01 * (0.9 * 0.519594 + step)
    np.testing.assert_allclose(second - first, -inside, atol=1e-6)
    assert abs(inside - outside) > 0.03


def test_rmsprop_tf_has_lr_inside_and_l2_decay():
    tx, schedule = build(
        name="rmsprop_tf", lr=0.1, weight_decay=0.2, schedule="cosine", warmup_epochs=2.0
    )
    grads = [{"kernel": jnp.array([g]), "bias": jnp.array([g])} for g in (0.5, -0.2, 0.1, 0.4)]
    got = trajectory(tx, {"kernel": jnp.ones(1), "bias": jnp.ones(1)}, grads)
    for leaf, decay in (("kernel", 0.2), ("bias", 0.0)):
        p, square, moment = 1.0, 1.0, 0.0
        for i, grad in enumerate(grads):
            g = float(grad[leaf][0]) + decay * p
            square = 0.9 * square + 0.1 * g * g
            moment = 0.9 * moment + float(schedule(i)) * g / np.sqrt(square + 1e-3)
            p -= moment
            np.testing.assert_allclose(got[i][leaf], [p], rtol=1e-5)


def gradients(seed=4, steps=4):
    rng = np.random.default_rng(seed)
    tree = {"kernel": (3, 2), "bias": (2,)}
    draws = [
        {leaf: rng.normal(size=shape).astype(np.float32) for leaf, shape in tree.items()}
        for _ in range(steps + 1)
    ]
    return draws[0], draws[1:]


def test_lamb_equals_the_recurrence_with_exclusions():
    """Algorithm 2 of LAMB for the kernel; for the bias Adam alone: no decay and ratio one."""
    start, grads = gradients()
    tx, _ = build(name="lamb", lr=0.1, weight_decay=0.3)
    got = trajectory(tx, start, grads)
    for leaf, excluded in (("kernel", False), ("bias", True)):
        p = start[leaf].astype(np.float64)
        m, v = np.zeros_like(p), np.zeros_like(p)
        for t, grad in enumerate(grads, start=1):
            m = 0.9 * m + 0.1 * grad[leaf]
            v = 0.999 * v + 0.001 * grad[leaf].astype(np.float64) ** 2
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
            if not excluded:
                r = r + 0.3 * p
                r = r * np.linalg.norm(p) / np.linalg.norm(r)
            p = p - 0.1 * r
            # 1 - .999^t is exact to 6e-5 in float32, which moves a step of lr .1 by 3e-6.
            np.testing.assert_allclose(got[t - 1][leaf], p, rtol=1e-5, atol=5e-6)


def test_lamb_without_exclusions_is_optax_lamb_bit_for_bit():
    start, grads = gradients()
    tx, _ = build(name="lamb", lr=0.1, weight_decay=0.3, rules=optim.EVERYTHING)
    theirs = trajectory(optax.lamb(0.1, weight_decay=0.3), start, grads)
    jax.tree.map(np.testing.assert_array_equal, trajectory(tx, start, grads), theirs)


@pytest.mark.parametrize("order", ["lr_inside", "lr_outside"])
def test_lars_is_built_with_its_order_rules_and_schedule(order):
    start, grads = gradients()
    tx, schedule = build(
        name="lars", lr=2.0, order=order, weight_decay=0.1, schedule="cosine", warmup_epochs=2.0
    )
    mask = {"kernel": True, "bias": False}
    direct = optim.lars(schedule, order=order, weight_decay=0.1, decay_mask=mask, adapt_mask=mask)
    ours, theirs = trajectory(tx, start, grads), trajectory(direct, start, grads)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_gradients_are_clipped_to_a_global_norm():
    tx, _ = build(name="sgd", lr=0.1, momentum=0.0, clip_norm=1.0)
    params = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
    state = tx.init(params)
    large, _ = tx.update({"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])}, state, params)
    np.testing.assert_allclose(jnp.concatenate(jax.tree.leaves(large)), [-0.08, -0.06], rtol=1e-6)
    small, _ = tx.update({"kernel": jnp.array([0.3]), "bias": jnp.array([0.4])}, state, params)
    np.testing.assert_allclose(jnp.concatenate(jax.tree.leaves(small)), [-0.04, -0.03], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(optim.OPTIMISERS))
def test_the_state_is_a_plain_pytree_that_keeps_its_shape(name):
    start, grads = gradients()
    tx, _ = build(name=name, lr=0.1, weight_decay=0.1, schedule="cosine", warmup_epochs=1.0)
    abstract = jax.eval_shape(tx.init, start)
    state = jax.jit(tx.init)(start)
    updates, after = jax.jit(tx.update)(grads[0], state, start)

    def described(tree):
        return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]

    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(after))
    assert described(abstract) == described(state) == described(after)
    assert described(updates) == described(start)
    leaves, structure = jax.tree.flatten(after)  # as a checkpoint takes it apart and together
    again, _ = jax.jit(tx.update)(grads[1], jax.tree.unflatten(structure, leaves), start)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(again))


def test_the_schedule_is_scaled_and_equal_to_the_one_inside():
    config = {"name": "sgd", "lr": 0.3, "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 2.0}
    tx, schedule = optim.build(config, batch_size=4096, steps_per_epoch=2, total_steps=12)
    assert float(schedule(4)) == pytest.approx(4.8)
    ones = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    points = [float(after["kernel"][0]) for after in trajectory(tx, ones, [ones] * 12)]
    moves = -np.diff([1.0, *points])
    np.testing.assert_allclose(moves, [float(schedule(i)) for i in range(12)], rtol=1e-4, atol=1e-5)


def test_a_config_dict_with_all_defaults_builds():
    config = ConfigDict(optim.DEFAULTS).lock()
    config.eps = 1e-9
    tx, schedule = optim.build(config, batch_size=4096, steps_per_epoch=312, total_steps=31279)
    assert float(schedule(3120)) == pytest.approx(4.8)
    assert jax.eval_shape(tx.init, {"kernel": jnp.ones(1), "bias": jnp.ones(1)}) is not None


def test_rules_are_checked_when_the_state_is_made():
    tx, _ = build(name="sgd", rules=(("nothing_like_it", "none"), ("", "decay")))
    with pytest.raises(UserError, match="'nothing_like_it' .* matches no parameter"):
        jax.eval_shape(tx.init, {"kernel": jnp.ones(1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adamv"}, "Unknown optim.name 'adamv': did you mean 'adamw'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"lr_scaling": "squrt"}, "did you mean 'sqrt'"),
        ({"name": "lars", "order": "outside"}, "did you mean 'lr_outside'"),
        ({"weigth_decay": 0.1}, "Unknown key 'optim.weigth_decay': did you mean 'weight_decay'"),
        ({"rules": (("", "dcay"),)}, "did you mean 'decay'"),
        ({"lr": -0.1}, "optim.lr expects a number >= 0, found -0.1"),
        ({"weight_decay": float("nan")}, "optim.weight_decay expects a number >= 0, found nan"),
        ({"momentum": 1.0}, r"optim.momentum expects a number in \[0,1\), found 1.0"),
        ({"betas": (0.9,)}, r"optim.betas expects two numbers in \[0,1\), found \(0.9,\)"),
    ],
)
def test_misuse(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)
