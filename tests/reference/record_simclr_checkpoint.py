"""Records a checkpoint of SimCLR's official code, written by TensorFlow, and what its net computes.

    TF_USE_LEGACY_KERAS=1 python tests/reference/record_simclr_checkpoint.py SIMCLR tests/golden

SIMCLR is a checkout of https://github.com/google-research/simclr (recorded at 383d414). Needs
tensorflow 2.21 and tf_keras. The net is a ResNet-18 with a sixteenth of the channels, a projector
of three layers and a linear classifier; all values are drawn. It writes simclr.index,
simclr.data-00000-of-00001 and simclr_outputs.npz. Beside the net the checkpoint holds the
optimiser's slots and the step, as the published ones do.
"""

import sys
from pathlib import Path

import numpy as np

# Defaults of its run.py, but for proj_out_dim and global_bn.
FLAGS = {
    "train_mode": "pretrain",
    "proj_head_mode": "nonlinear",
    "proj_out_dim": 8,
    "num_proj_layers": 3,
    "ft_proj_selector": 0,
    "global_bn": False,
    "batch_norm_decay": 0.9,
    "sk_ratio": 0.0,
    "se_ratio": 0.0,
    "fine_tune_after_block": -1,
}


class Sixteenth:
    """A width multiplier that keeps numbers of channels whole."""

    def __rmul__(self, channels):
        return channels // 16


def main(code, folder):
    sys.path.insert(0, str(code))
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    from absl import flags

    for name, value in FLAGS.items():  # run.py defines them, but needs TensorFlow 1's Estimator
        {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float,
         str: flags.DEFINE_string}[type(value)](name, value, "")  # fmt: skip
    flags.FLAGS(["record"])
    import model_util
    import resnet

    images = np.random.default_rng(0).random((2, 33, 33, 3)).astype(np.float32)
    with tf.variable_scope("base_model"):
        net = resnet.resnet_v1(18, Sixteenth())
        hidden = net(tf.constant(images), is_training=False)
    projection = model_util.projection_head(hidden, is_training=False)
    logits = model_util.supervised_head(hidden, 5, is_training=False)
    step = tf.train.get_or_create_global_step()
    weights = [v for v in tf.global_variables() if "global_step" not in v.name]
    slots = [tf.get_variable(f"{v.op.name}/Momentum", shape=v.shape) for v in weights[:3]]
    rng = np.random.default_rng(1)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(step.assign(225206))
        for v in weights + slots:
            name, shape = v.op.name, v.shape.as_list()
            value = rng.standard_normal(shape) / max(1, np.prod(shape[:-1])) ** 0.5
            if name.endswith(("gamma", "variance")):
                value = 0.5 + rng.random(shape)
            elif len(shape) == 1:
                value = 0.3 * rng.standard_normal(shape)
            v.load(value.astype(np.float32), session)
        out = session.run({"hidden": hidden, "projection": projection, "logits": logits})
        saver = tf.train.Saver(weights + slots + [step])
        saver.save(session, str(folder / "simclr"), write_meta_graph=False, write_state=False)
    for v in weights:
        print(v.op.name, v.shape)
    np.savez_compressed(folder / "simclr_outputs.npz", images=images, **out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
