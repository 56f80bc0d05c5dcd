"""Records tests/golden/byol_official.npz by running BYOL's official functions. Run by hand:

    git clone --depth 1 https://github.com/google-deepmind/deepmind-research
    python tests/reference/record_byol_official.py deepmind-research/byol

Its utils/helpers.py, utils/schedules.py and utils/optimizers.py are imported as they are; they need
jax, optax, absl-py and dm-tree, and a name that jax has since moved (`jax.tree_map`). Recorded are:

    the regression loss, one direction and both, with gradients of the predictions
    the target's momentum and the learning rate over a run of 20 steps, 4 of them warm-up
    six updates by LARS, with that learning rate and both exclusions, of a convolution, a batch
    normalisation and a dense layer
"""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.tree_map = jax.tree.map
sys.path.insert(0, str(pathlib.Path(sys.argv[1]) / "utils"))
helpers, schedules, optimizers = map(
    importlib.import_module, ("helpers", "schedules", "optimizers")
)
rng = np.random.default_rng(20)
record = {}

# The loss: predictions that partly know their targets.
z_a, z_b, noise_a, noise_b = rng.normal(size=(4, 10, 24)).astype(np.float32)
q_a, q_b = 3.0 * (z_b + noise_a), 0.2 * (z_a + 2.0 * noise_b)
record.update(q_a=q_a, q_b=q_b, z_a=z_a, z_b=z_b)
record["one_direction"] = helpers.regression_loss(q_a, z_b)


def both(q_a, q_b):
    return helpers.regression_loss(q_a, z_b) + helpers.regression_loss(q_b, z_a)


record["both_directions"] = both(q_a, q_b)
gradients = jax.grad(lambda q_a, q_b: jnp.mean(both(q_a, q_b)), argnums=(0, 1))(q_a, q_b)
record["grad_q_a"], record["grad_q_b"] = gradients

# The courses of tau and of the learning rate.
steps = jnp.arange(21)
record["target_ema"] = jax.vmap(lambda k: schedules.target_ema(k, 0.97, 20))(steps)
record["learning_rate"] = jax.vmap(
    lambda k: schedules.learning_schedule(
        k, batch_size=512, base_learning_rate=0.3, total_steps=20, warmup_steps=4
    )
)(steps)

# LARS.
shapes = {
    "conv": {"w": (3, 3, 2, 4)},
    "batchnorm": {"scale": (4,), "offset": (4,)},
    "linear": {"w": (4, 5), "b": (5,)},
}


def draw(shape):
    return rng.normal(size=shape).astype(np.float32)


def name_of(module, name, step):
    return f"lars_{module}_{name}_{step}"


params = {m: {k: draw(shape) for k, shape in group.items()} for m, group in shapes.items()}
exclude = optimizers.exclude_bias_and_norm


def optimizer(learning_rate):
    return optimizers.lars(
        learning_rate,
        weight_decay=0.05,
        momentum=0.9,
        eta=0.01,
        weight_decay_filter=exclude,
        lars_adaptation_filter=exclude,
    )


state = optimizer(0.0).init(params)
for step in range(7):
    for module, group in params.items():
        record.update({name_of(module, k, step): np.asarray(v) for k, v in group.items()})
    grads = {m: {k: draw(shape) for k, shape in group.items()} for m, group in shapes.items()}
    for module, group in grads.items():
        record.update({f"{name_of(module, k, step)}_grad": v for k, v in group.items()})
    updates, state = optimizer(record["learning_rate"][step]).update(grads, state, params)
    params = optax.apply_updates(params, updates)

path = pathlib.Path(__file__).parents[1] / "golden" / "byol_official.npz"
np.savez_compressed(path, **{k: np.asarray(v) for k, v in record.items()})
print(path, path.stat().st_size, "bytes")
