"""Records tests/golden/augment_{tf,torch}.npz from TensorFlow, and from torchvision and PIL.

By hand, once with each library installed (the two need not share an environment):

    python tests/reference/record_augment.py tf       (TensorFlow 2.21.0, CPU)
    python tests/reference/record_augment.py torch    (torchvision 0.29.1, Pillow 13.0.0)

Every input is made here from a seed and saved beside the outputs.
"""

import itertools
import pathlib
import sys

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
BOXES = 8000
# height, width, smallest area: square, wide, and so wide that most attempts fail
BOX_CASES = {"square": (32, 32, 0.08), "wide": (40, 64, 0.08), "strip": (16, 96, 0.2)}
FACTORS = np.array([0.0, 0.3, 1.0, 1.7], np.float32)
DELTAS = np.array([-0.5, -0.2, -0.013, 0.0, 0.1, 0.4], np.float32)
SIGMAS = np.array([0.1, 0.8, 2.0], np.float32)
CROPS = np.array([[0, 0, 37, 29], [3, 5, 20, 11], [30, 2, 5, 27], [10, 20, 2, 1]])
SIZES = (8, 16, 48)
ORDERS = np.array(list(itertools.permutations(range(4))), np.int8)
# of brightness, contrast, saturation, hue; strong enough that clipping makes every order differ
AMOUNTS = np.array([1.6, 1.5, 1.7, 0.15], np.float32)


def inputs():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:37, 0:29] / 30.0
    smooth = np.stack([y, 0.5 + 0.5 * np.sin(6 * x), 1 - 0.8 * x * y], axis=-1)
    picture = (np.clip(smooth + 0.15 * rng.normal(size=smooth.shape), 0, 1) * 255).astype(np.uint8)
    colors = rng.random((16, 12, 3)).astype(np.float32)
    colors[0, :8] = list(itertools.product([0.0, 1.0], repeat=3))  # the corners of the cube
    colors[1] = np.linspace(0, 1, 12, dtype=np.float32)[:, None]  # gray: no hue
    colors[2, :, 1] = colors[2, :, 0]  # ties between channels
    colors[3, :, 2] = colors[3, :, 1]
    overshoot = colors * 1.3 - 0.15  # what a bicubic resize may leave
    large = rng.random((40, 33, 3)).astype(np.float32)
    return {
        "picture": picture,
        "colors": colors,
        "overshoot": overshoot,
        "large": large,
        "factors": FACTORS,
        "deltas": DELTAS,
        "sigmas": SIGMAS,
        "crops": CROPS,
        "orders": ORDERS,
        "amounts": AMOUNTS,
    }


def record_tf():
    import tensorflow as tf

    out = inputs()
    for name in ("colors", "overshoot"):
        x = out[name]
        out[f"{name}_hue"] = np.stack([tf.image.adjust_hue(x, d) for d in DELTAS])
        out[f"{name}_saturation"] = np.stack([tf.image.adjust_saturation(x, f) for f in FACTORS])
    x = out["colors"]
    out["contrast"] = np.stack([tf.image.adjust_contrast(x, f) for f in FACTORS])
    out["brightness"] = np.stack([tf.image.adjust_brightness(x, d) for d in DELTAS])
    out["gray"] = tf.image.rgb_to_grayscale(x).numpy()

    def jitter(x, order):
        operations = [
            lambda x: x * AMOUNTS[0],
            lambda x: tf.image.adjust_contrast(x, AMOUNTS[1]),
            lambda x: tf.image.adjust_saturation(x, AMOUNTS[2]),
            lambda x: tf.image.adjust_hue(x, AMOUNTS[3]),
        ]
        for i in order:
            x = tf.clip_by_value(operations[i](x), 0.0, 1.0)
        return x.numpy()

    out["jitter"] = np.stack([jitter(x, order) for order in ORDERS])

    image = tf.image.convert_image_dtype(out["picture"], tf.float32)
    for i, (top, left, height, width) in enumerate(CROPS):
        crop = image[top : top + height, left : left + width]
        for size in SIZES:
            for method in ("bicubic", "bilinear"):
                for antialias in (False, True):
                    resized = tf.image.resize(crop, [size, size], method, antialias=antialias)
                    out[f"resize_{i}_{size}_{method}_{antialias}"] = resized.numpy()
            legacy = tf.compat.v1.image.resize_bicubic(crop[None], [size, size])[0]
            out[f"resize_{i}_{size}_tf1"] = legacy.numpy()

    for i, sigma in enumerate(SIGMAS):
        for radius in (3, 11):
            # SimCLR's way: a depthwise convolution along each axis, padded with zeros
            taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * float(sigma) ** 2))
            taps = np.float32(taps / taps.sum())
            x = out["large"][None]
            for shape in ((1, -1, 1, 1), (-1, 1, 1, 1)):
                kernel = np.tile(taps.reshape(shape), (1, 1, 3, 1))
                x = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
            out[f"blur_{i}_{radius}"] = x[0].numpy()

    for name, (height, width, smallest) in BOX_CASES.items():

        @tf.function
        def boxes(count, height=height, width=width, smallest=smallest):
            def one(i):
                begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                    [height, width, 3],
                    tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
                    seed=tf.stack([i, 7]),
                    min_object_covered=0.1,
                    aspect_ratio_range=(3 / 4, 4 / 3),
                    area_range=(smallest, 1.0),
                    max_attempts=100,
                )
                return tf.concat([begin[:2], size[:2]], 0)

            return tf.map_fn(one, tf.range(count))

        out[f"boxes_{name}"] = boxes(BOXES).numpy().astype(np.int16)
    return out


def record_torch():
    import torch
    from PIL import Image, ImageFilter, ImageOps
    from torchvision.transforms import InterpolationMode, RandomResizedCrop
    from torchvision.transforms import functional as F

    out = inputs()
    x = torch.tensor(out["colors"]).permute(2, 0, 1)
    hwc = lambda x: x.permute(1, 2, 0).numpy()  # noqa: E731
    out["hue"] = np.stack([hwc(F.adjust_hue(x, float(d))) for d in DELTAS])
    for name in ("brightness", "contrast", "saturation"):
        adjust = getattr(F, f"adjust_{name}")
        out[name] = np.stack([hwc(adjust(x, float(f))) for f in FACTORS])

    operations = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]

    def jitter(x, order):
        for i in order:
            x = operations[i](x, float(AMOUNTS[i]))
        return x

    out["jitter"] = np.stack([hwc(jitter(x, order)) for order in ORDERS])

    # PIL, 8 bits after each operation, is what MoCo runs on
    picture = Image.fromarray(out["picture"])
    out["pil_hue"] = np.stack([F.adjust_hue(picture, float(d)) for d in DELTAS])
    for name in ("brightness", "contrast", "saturation"):
        adjust = getattr(F, f"adjust_{name}")
        out[f"pil_{name}"] = np.stack([adjust(picture, float(f)) for f in FACTORS])
    out["pil_gray"] = np.asarray(picture.convert("L"))
    out["pil_solarize"] = np.asarray(ImageOps.solarize(picture, 128))
    large = Image.fromarray((out["large"] * 255).astype(np.uint8))
    blurs = [large.filter(ImageFilter.GaussianBlur(radius=float(s))) for s in SIGMAS]
    out["pil_blur_noise"] = np.stack(blurs)
    blurs = [picture.filter(ImageFilter.GaussianBlur(radius=float(s))) for s in SIGMAS]
    out["pil_blur"] = np.stack(blurs)

    image = torch.tensor(out["picture"]).permute(2, 0, 1).float() / 255
    channels = [Image.fromarray(channel) for channel in image.numpy()]  # PIL's mode 'F'
    modes = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
    pil_modes = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    for i, (top, left, height, width) in enumerate(CROPS):
        for size in SIZES:
            for method, mode in modes.items():
                for antialias in (False, True):
                    crop = image[:, top : top + height, left : left + width]
                    resized = F.resize(crop, [size, size], mode, antialias=antialias)
                    out[f"resize_{i}_{size}_{method}_{antialias}"] = hwc(resized)
                box = (left, top, left + width, top + height)
                pil = [c.crop(box).resize((size, size), pil_modes[method]) for c in channels]
                out[f"pil_resize_{i}_{size}_{method}"] = np.stack(pil, axis=-1)

    y = torch.tensor(out["large"]).permute(2, 0, 1)
    for i, sigma in enumerate(SIGMAS):
        for radius in (3, 11):
            blurred = F.gaussian_blur(y, [2 * radius + 1] * 2, [float(sigma)] * 2)
            out[f"blur_{i}_{radius}"] = hwc(blurred)

    torch.manual_seed(0)
    for name, (height, width, smallest) in BOX_CASES.items():
        blank = torch.zeros(3, height, width)
        out[f"boxes_{name}"] = np.array(
            [
                RandomResizedCrop.get_params(blank, [smallest, 1.0], [3 / 4, 4 / 3])
                for _ in range(BOXES)
            ],
            np.int16,
        )
    return out


if __name__ == "__main__":
    library = sys.argv[1]
    record = {"tf": record_tf, "torch": record_torch}[library]()
    path = GOLDEN / f"augment_{library}.npz"
    np.savez_compressed(path, **record)
    print(path, path.stat().st_size, "bytes")
