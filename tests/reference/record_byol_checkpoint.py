"""Records a checkpoint of BYOL's official code, and what its networks compute.

    python tests/reference/record_byol_checkpoint.py RESEARCH tests/golden

RESEARCH is a checkout of https://github.com/google-deepmind/deepmind-research, of which byol/ is
used. Needs jax, dm-haiku, optax, dm-tree and dill. The net is a ResNet-10 whose blocks have a
sixteenth of the channels; all values are drawn. It writes byol.pkl, as the official checkpointer
pickles the state of an experiment, and byol_outputs.npz.
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


def main(code, folder):
    sys.path.insert(0, str(code))
    for name in ("acme", "acme.jax", "tensorflow", "tensorflow.compat", "tensorflow.compat.v2",
                 "tensorflow_datasets"):  # fmt: skip
        sys.modules[name] = MagicMock()  # of its input pipeline, which is not needed
    import dill
    import haiku as hk
    import jax

    jax.tree_map = jax.tree.map  # the name that the official code has for it
    from byol import byol_experiment
    from byol.utils import networks, optimizers

    bn_config = {"decay_rate": 0.9, "eps": 1e-5, "create_scale": True, "create_offset": True}

    def forward(images, training):
        net = networks.ResNetTorso(
            (1, 1, 1, 1), bn_config=bn_config, bottleneck=False, channels_per_group=(4, 8, 16, 32)
        )
        projector = networks.MLP("projector", 24, 8, bn_config)
        predictor = networks.MLP("predictor", 24, 8, bn_config)
        h = net(images, is_training=training)
        z = projector(h, training)
        logits = hk.Linear(5, name="classifier")(h)
        return h, z, predictor(z, training), logits

    transformed = hk.without_apply_rng(hk.transform_with_state(forward))
    images = np.random.default_rng(0).standard_normal((2, 33, 33, 3)).astype(np.float32)
    first = transformed.init(jax.random.PRNGKey(0), images, True)
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("counter",):
            return np.full(shape, 7, leaf.dtype)
        if name == "scale" or "var_ema" in str(path):
            value = 0.5 + rng.random(shape)
        elif name == "w":
            value = rng.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5
        else:
            value = 0.3 * rng.standard_normal(shape)
        return value.astype(leaf.dtype)

    params, state = jax.tree_util.tree_map_with_path(drawn, first)
    target_params, target_state = jax.tree_util.tree_map_with_path(drawn, first)

    def outputs(params, state):
        return [np.asarray(x) for x in transformed.apply(params, state, images, False)[0]]

    h, z, prediction, logits = outputs(params, state)
    target = outputs(target_params, target_state)[1]
    opt_state = optimizers.lars(0.2, weight_decay=1e-6).init({"linear": {"w": rng.random(3)}})
    whole = byol_experiment._ByolExperimentState(
        params, target_params, state, target_state, opt_state
    )
    data = {
        "experiment_state": jax.tree.map(jax.device_get, whole),
        "step": 1000,
        "rng": np.array([0, 1], np.uint32),
    }
    with open(folder / "byol.pkl", "wb") as file:
        dill.dump(data, file, protocol=2)
    for name, leaves in {**params, **state}.items():
        print(name, {k: v.shape for k, v in leaves.items()})
    np.savez_compressed(
        folder / "byol_outputs.npz",
        images=images, features=h, projection=z, prediction=prediction, logits=logits,
        target=target,
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
