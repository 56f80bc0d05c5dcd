"""Augmentation pixel by pixel in numpy and colorsys, as the official codes describe it."""

import colorsys
import math

import numpy as np


def tf_box(rng, H, W, scale, ratio):
    """One attempt after the other, in the order of sample_distorted_bounding_box_op.cc."""
    least, most = scale[0] * H * W, scale[1] * H * W
    for _ in range(100):
        aspect = rng.uniform(*ratio)
        height = round(math.sqrt(least / aspect))
        highest = round(math.sqrt(most / aspect))
        if round(highest * aspect) > W:
            highest = int((W + 0.5 - 1e-7) / aspect)
            if round(highest * aspect) > W:
                highest -= 1
        highest = min(highest, H)
        height = min(height, highest)
        if height < highest:
            height += rng.integers(0, highest - height + 1)
        width = round(height * aspect)
        if height * width < least:
            height += 1
            width = round(height * aspect)
        if height * width > most:
            height -= 1
            width = round(height * aspect)
        if not least <= height * width <= most or width > W or height > H:
            continue
        if height <= 0 or width <= 0 or height * width < 0.1 * H * W:
            continue
        top = rng.integers(0, H - height) if height < H else 0
        left = rng.integers(0, W - width) if width < W else 0
        return top, left, height, width
    return 0, 0, H, W


def torchvision_box(rng, H, W, scale, ratio):
    for _ in range(10):
        area = H * W * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= W and 0 < height <= H:
            top, left = rng.integers(0, H - height + 1), rng.integers(0, W - width + 1)
            return top, left, height, width
    height, width = H, W
    if W / H < ratio[0]:
        height = round(W / ratio[0])
    elif W / H > ratio[1]:
        width = round(H * ratio[1])
    return (H - height) // 2, (W - width) // 2, height, width


def byol_box(rng, H, W, scale, ratio):
    area = H * W * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    width, height = min(width, W), min(height, H)
    return rng.integers(0, H - height + 1), rng.integers(0, W - width + 1), height, width


def _cubic(t, a):
    t = abs(t)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resize_columns(x, size, *, method="bicubic", antialias=False):
    """[n,...] -> [size,...], one output at a time over every input."""
    n, out = len(x), []
    a = {"bicubic": -0.5, "bicubic_torch": -0.75, "bicubic_tf1": -0.75, "bilinear": None}[method]
    widen = max(n / size, 1.0) if antialias else 1.0
    for i in range(size):
        centre = i * n / size if method == "bicubic_tf1" else (i + 0.5) * n / size - 0.5
        weights = {}
        for j in range(math.floor(centre - 2 * widen), math.ceil(centre + 2 * widen) + 1):
            t = (j - centre) / widen
            weight = max(1 - abs(t), 0.0) if a is None else _cubic(t, a)
            if method == "bicubic" or antialias:
                if 0 <= j < n:
                    weights[j] = weights.get(j, 0.0) + weight
            else:
                j = min(max(j, 0), n - 1)
                weights[j] = weights.get(j, 0.0) + weight
        total = sum(weights.values())
        out.append(sum(w * x[j] for j, w in weights.items()) / total)
    return np.stack(out)


def crop_resize(image, box, size, *, flip=False, **how):
    """float64 [H,W,C] -> [size,size,C]."""
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    crop = resize_columns(crop, size, **how)
    crop = resize_columns(crop.swapaxes(0, 1), size, **how).swapaxes(0, 1)
    return crop[:, ::-1] if flip else crop


def _each_pixel(f, image):
    return np.array([[f(*pixel) for pixel in row] for row in image])


def hue(image, delta):
    def shift(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + delta) % 1.0, s, v)

    return _each_pixel(shift, image)


def gray(image, semantics):
    weights = (0.2989, 0.587, 0.114) if semantics == "tf" else (0.299, 0.587, 0.114)
    return np.repeat((image @ np.array(weights))[..., None], 3, axis=-1)


def saturation(image, factor, semantics):
    if semantics == "torchvision":
        return factor * image + (1 - factor) * gray(image, semantics)

    def scale(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, min(s * factor, 1.0), v)

    return _each_pixel(scale, image)


def contrast(image, factor, semantics):
    mean = image.mean((0, 1)) if semantics == "tf" else gray(image, semantics).mean()
    return mean + factor * (image - mean)


def jitter(image, order, amounts, semantics, brightness):
    operations = [
        lambda x: x + amounts[0] if brightness == "additive" else x * amounts[0],
        lambda x: contrast(x, amounts[1], semantics),
        lambda x: saturation(x, amounts[2], semantics),
        lambda x: hue(x, amounts[3]),
    ]
    for i in order:
        if i < 4:
            image = np.clip(operations[i](image), 0, 1)
    return image


def blur(image, sigma, radius, padding):
    mode = {"zero": "constant"}.get(padding, padding)
    taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded, n = np.pad(image, pad, mode), image.shape[axis]
        image = sum(w * padded.take(range(k, k + n), axis) for k, w in enumerate(taps))
    return image


def view(image, draw, size, o):
    """The view that a draw describes, of a float64 image [H,W,3] in [0, 1]."""
    x = crop_resize(
        image, draw["box"], size, flip=draw["flip"], method=o["resize"], antialias=o["antialias"]
    )
    if o["clip_crop"]:
        x = np.clip(x, 0, 1)
    if o["gray_first"] and draw["gray"]:
        x = gray(x, o["color"])
    x = jitter(x, draw["order"], draw["amounts"], o["color"], o["brightness"])
    if not o["gray_first"] and draw["gray"]:
        x = gray(x, o["color"])
    x = np.clip(x, 0, 1)
    if draw["blur"]:
        radius = size // 10 // 2 if o["blur_radius"] is None else o["blur_radius"]
        x = blur(x, draw["sigma"], radius, o["blur_padding"])
    if draw["solarize"]:
        x = np.where(x < o["solarize_threshold"], x, 1 - x)
    return np.clip(x, 0, 1)
