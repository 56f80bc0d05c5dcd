"""Records tests/golden/policy_tf.npz: RandAugment's operations out of TensorFlow's own primitives.

By hand, once, with TensorFlow 2.21.0 (CPU):

    python tests/reference/record_policy_tf.py

Each operation is written after the description of Noisy Student's randaugment.py, in own words, on
TensorFlow's kernels: ImageProjectiveTransformV3, rgb_to_grayscale, depthwise_conv2d,
histogram_fixed_width. Signs are positive, the cutout's centre is (row 20, column 7), and
the translation is 10 pixels at magnitude 10, for the picture is small.
"""

import math
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "policy_tf.npz"
MAGNITUDES = (2, 5, 13, 27)
CENTRE = (20, 7)
TRANSLATE = 10
NAMES = ("autocontrast", "equalize", "invert", "posterize", "solarize", "contrast", "brightness",
         "solarize_add", "rotate", "shear_x", "shear_y", "translate_x", "translate_y", "color",
         "sharpness", "cutout")  # fmt: skip


def picture():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:37, 0:29] / 30.0
    smooth = np.stack([y, 0.5 + 0.5 * np.sin(6 * x), 1 - 0.8 * x * y], axis=-1)
    levels = np.clip(smooth + 0.05 * rng.normal(size=smooth.shape), 0, 1) * 180 + 30
    return levels.astype(np.uint8)


def operations(image, magnitude):
    import tensorflow as tf

    H, W, _ = image.shape
    m = magnitude / 10
    factor = m * 1.8 + 0.1

    def mix(degenerate, picture):
        a, b = tf.cast(degenerate, tf.float32), tf.cast(picture, tf.float32)
        return tf.cast(tf.clip_by_value(a + factor * (b - a), 0.0, 255.0), tf.uint8)

    def move(matrix):
        alpha = tf.ones((H, W, 1), tf.uint8)
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.concat([image, alpha], 2)[None],
            transforms=tf.constant([[*matrix, 0.0, 0.0]], tf.float32),
            output_shape=[H, W],
            fill_value=0.0,
            interpolation="NEAREST",
            fill_mode="CONSTANT",
        )[0]
        return tf.where(moved[..., 3:] == 0, tf.constant(128, tf.uint8), moved[..., :3])

    def stretch(channel):
        low, high = (tf.cast(f(channel), tf.float32) for f in (tf.reduce_min, tf.reduce_max))
        scale = 255.0 / (high - low)
        stretched = tf.cast(channel, tf.float32) * scale - low * scale
        return tf.cast(tf.clip_by_value(stretched, 0.0, 255.0), tf.uint8)

    def flatten_histogram(channel):
        counts = tf.histogram_fixed_width(tf.cast(channel, tf.int32), [0, 255], nbins=256)
        filled = tf.boolean_mask(counts, counts > 0)
        step = (tf.reduce_sum(filled) - filled[-1]) // 255
        table = (tf.cumsum(counts) + step // 2) // step
        table = tf.clip_by_value(tf.concat([[0], table[:-1]], 0), 0, 255)
        return tf.cast(tf.gather(table, tf.cast(channel, tf.int32)), tf.uint8)

    def each(f):
        return tf.stack([f(image[..., c]) for c in range(3)], 2)

    gray = tf.image.rgb_to_grayscale(image)
    histogram = tf.histogram_fixed_width(tf.cast(gray, tf.int32), [0, 255], nbins=256)
    level = tf.clip_by_value(tf.reduce_sum(tf.cast(histogram, tf.float32)) / 256.0, 0.0, 255.0)
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    inner = tf.nn.depthwise_conv2d(
        tf.cast(image, tf.float32)[None], kernel, strides=[1, 1, 1, 1], padding="VALID"
    )[0]
    smooth = np.array(image)
    smooth[1:-1, 1:-1] = tf.cast(tf.clip_by_value(inner, 0.0, 255.0), tf.uint8).numpy()
    angle = math.radians(30 * m)
    cos, sin = math.cos(angle), math.sin(angle)
    x_offset = ((W - 1) - (cos * (W - 1) - sin * (H - 1))) / 2
    y_offset = ((H - 1) - (sin * (W - 1) + cos * (H - 1))) / 2
    shift = max(8 - int(4 * m), 0)
    posterized = tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)
    wide = tf.cast(image, tf.int32)
    added = tf.cast(tf.clip_by_value(wide + int(110 * m), 0, 255), tf.uint8)
    pad = int(40 * m)
    cut = np.array(image)
    cut[max(0, CENTRE[0] - pad) : CENTRE[0] + pad, max(0, CENTRE[1] - pad) : CENTRE[1] + pad] = 128
    return {
        "autocontrast": each(stretch),
        "equalize": each(flatten_histogram),
        "invert": 255 - image,
        "posterize": posterized,
        "solarize": tf.where(wide < int(256 * m), image, 255 - image),
        "contrast": mix(tf.cast(tf.fill((H, W, 3), level), tf.uint8), image),
        "brightness": mix(tf.zeros_like(image), image),
        "solarize_add": tf.where(wide < 128, added, image),
        "rotate": move((cos, -sin, x_offset, sin, cos, y_offset)),
        "shear_x": move((1.0, 0.3 * m, 0.0, 0.0, 1.0, 0.0)),
        "shear_y": move((1.0, 0.0, 0.0, 0.3 * m, 1.0, 0.0)),
        "translate_x": move((1.0, 0.0, TRANSLATE * m, 0.0, 1.0, 0.0)),
        "translate_y": move((1.0, 0.0, 0.0, 0.0, 1.0, TRANSLATE * m)),
        "color": mix(tf.image.grayscale_to_rgb(gray), image),
        "sharpness": mix(smooth, image),
        "cutout": cut,
    }


def main():
    image = picture()
    out = {"picture": image, "magnitudes": np.array(MAGNITUDES)}
    for magnitude in MAGNITUDES:
        found = operations(image, magnitude)
        out[f"m{magnitude}"] = np.stack([np.asarray(found[name]) for name in NAMES])
    np.savez_compressed(GOLDEN, **out)
    print(GOLDEN, GOLDEN.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
