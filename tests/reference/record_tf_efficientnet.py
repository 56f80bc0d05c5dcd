"""Records EfficientNet-B0 of the official TensorFlow code, for tests/convert/test_official.py.

    TF_USE_LEGACY_KERAS=1 python tests/reference/record_tf_efficientnet.py EFFICIENTNET tests/golden

EFFICIENTNET is models/official/efficientnet of a checkout of https://github.com/tensorflow/tpu,
which Noisy Student was trained with. Needs tensorflow 2.21 and tf_keras. It writes
tf_efficientnet_names.txt, a line a variable with its moving average, as a checkpoint has them, and
tf_efficientnet_outputs.npz. The values are drawn by name, see `value_of`.
"""

import sys
import zlib
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


def value_of(name, shape):
    """The value of a variable, drawn by its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if "moving_variance" in name or "gamma" in name:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if "kernel" in name:
        fan_in = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
        return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return (0.2 * rng.standard_normal(shape)).astype(np.float32)


def main(code, folder):
    sys.path.insert(0, str(code))
    sys.modules["lars_optimizer"] = MagicMock()
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    import efficientnet_builder
    import utils

    images = np.random.default_rng(0).standard_normal((2, 65, 65, 3)).astype(np.float32)
    logits, _ = efficientnet_builder.build_model(
        tf.constant(images), "efficientnet-b0", training=False, override_params={"num_classes": 10}
    )
    ema = tf.train.ExponentialMovingAverage(0.999)
    averaged = sorted(utils.get_ema_vars(), key=lambda v: v.op.name)
    names = [v.op.name for v in tf.global_variables()]
    lines = [f"{v.op.name} {'x'.join(map(str, v.shape.as_list()))}" for v in tf.global_variables()]
    lines += [f"{ema.average_name(v)} {'x'.join(map(str, v.shape.as_list()))}" for v in averaged]
    with tf.Session() as session:
        for v in tf.global_variables():
            assert v in averaged, v
            v.load(value_of(ema.average_name(v), v.shape.as_list()), session)
        out = session.run(logits)
    print(len(names), len(lines), np.abs(out).max())
    (folder / "tf_efficientnet_names.txt").write_text("\n".join(lines) + "\n")
    np.savez_compressed(folder / "tf_efficientnet_outputs.npz", images=images, logits=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
