"""Views a second: the device pipeline against host code in torchvision's style, in one run.

    python tests/benchmarks/bench_augment.py                 (both on what the machine gives)
    taskset -c 0 python tests/benchmarks/bench_augment.py    (everything on one core)

The host code is one process on one core: what torchvision's transforms do with their PIL back end,
written with PIL and numpy so that no torch is needed, and torchvision itself where it can be
imported. Host and device take turns, so that other load falls on both; the ratio of each round is
what counts, and the median of the rounds is printed.
"""

import argparse
import os
import random
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from skimage import data

from jssl.augment import batch_views, make_views


class HostViews:
    """SimCLR's views of one picture with PIL, the operations of torchvision's PIL back end."""

    def __init__(self, size, *, strength, blur):
        self.size, self.strength, self.blur = size, strength, blur

    def __call__(self, image):
        picture = Image.fromarray(image)
        return np.stack([self.view(picture) for _ in range(2)])

    def view(self, picture):
        width, height = picture.size
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1.0)
            ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                break
        else:
            w, h = width, height
        left, top = random.randint(0, width - w), random.randint(0, height - h)
        x = picture.crop((left, top, left + w, top + h))
        x = x.resize((self.size, self.size), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            x = x.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random.random() < 0.8:
            x = self.jitter(x)
        if random.random() < 0.2:
            gray = np.asarray(x.convert("L"))
            x = Image.fromarray(np.dstack([gray, gray, gray]))
        if self.blur and random.random() < 0.5:
            x = x.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))
        return np.asarray(x).transpose(2, 0, 1).astype(np.float32) / 255

    def jitter(self, x):
        s = 0.8 * self.strength
        for operation in random.sample(range(4), 4):
            factor = random.uniform(max(0, 1 - s), 1 + s)
            if operation == 0:
                x = ImageEnhance.Brightness(x).enhance(factor)
            elif operation == 1:
                x = ImageEnhance.Contrast(x).enhance(factor)
            elif operation == 2:
                x = ImageEnhance.Color(x).enhance(factor)
            else:
                h, s_, v = x.convert("HSV").split()
                shift = np.int32(random.uniform(-0.2, 0.2) * self.strength * 255)
                turned = np.asarray(h) + shift.astype(np.uint8)
                x = Image.merge("HSV", (Image.fromarray(turned), s_, v)).convert("RGB")
        return x


def torchvision_views(size, *, strength, blur):
    """The same with torchvision, if there is one: `image -> [2,3,size,size]`, else None."""
    try:
        import torch
        from torchvision import transforms as T
    except ImportError:
        return None
    torch.set_num_threads(1)
    s = strength
    steps = [
        T.RandomResizedCrop(size, interpolation=T.InterpolationMode.BICUBIC),
        T.RandomHorizontalFlip(),
        T.RandomApply([T.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], p=0.8),
        T.RandomGrayscale(0.2),
    ]
    if blur:  # MoCo's and torchvision-style SimCLR code: PIL's blur
        pil_blur = T.Lambda(
            lambda x: x.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))
        )
        steps.append(T.RandomApply([pil_blur], p=0.5))
    pipeline = T.Compose([*steps, T.ToTensor()])
    return lambda image: torch.stack([pipeline(Image.fromarray(image)) for _ in range(2)])


def tiles(count, height, width):
    """Tiles of real photographs, uint8 [count,height,width,3]."""
    rng = np.random.default_rng(0)
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    out = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top = rng.integers(0, picture.shape[0] - height + 1)
        left = rng.integers(0, picture.shape[1] - width + 1)
        out.append(picture[top : top + height, left : left + width])
    return np.stack(out)


def host_rate(fn, images, seconds):
    """Views a second of a host pipeline."""
    views, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        views += len(fn(images[views // 2 % len(images)]))
    return views / (time.perf_counter() - begin)


def device_rate(fn, images, seconds):
    """Views a second of the compiled pipeline; the time holds the draws and every view."""
    step, views, begin = 0, 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        out = fn(jax.random.key(step), images, jnp.int32(0))
        out.block_until_ready()
        step, views = step + 1, views + out.shape[0] * out.shape[1]
    return views / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__} on {jax.devices()[0].platform}, {cores} core(s); host code on 1")
    cases = [
        ("32 px, simclr_cifar", "simclr_cifar", 32, 256, (32, 32), {}, 0.5, False, 10.0),
        ("224 px, simclr with blur", "simclr", 224, 32, (256, 256), {}, 1.0, True, 2.5),
    ]
    for title, recipe, size, batch, shape, options, strength, blur, wanted in cases:
        images = tiles(batch, *shape)
        view_fn = make_views(recipe, size=size, **options)
        device = jax.jit(lambda key, x, first, fn=view_fn: batch_views(fn, key, x, first))
        on_device = jnp.asarray(images)
        begin = time.perf_counter()
        device(jax.random.key(0), on_device, jnp.int32(0)).block_until_ready()
        compiled = time.perf_counter() - begin
        hosts = {"PIL": HostViews(size, strength=strength, blur=blur)}
        if (fn := torchvision_views(size, strength=strength, blur=blur)) is not None:
            hosts["torchvision"] = fn
        rates = {name: [] for name in ("device", *hosts)}
        for _ in range(args.rounds):
            rates["device"].append(device_rate(device, on_device, args.seconds))
            for name, fn in hosts.items():
                rates[name].append(host_rate(fn, images, args.seconds))
        print(f"{title}, batch {batch} of {shape[0]}x{shape[1]} (compiled in {compiled:.1f} s)")
        for name, values in rates.items():
            ratios = [d / v for d, v in zip(rates["device"], values, strict=True)]
            print(
                f"  {name:12s} {statistics.median(values):9.0f} views/s"
                + (
                    f"   device is {statistics.median(ratios):5.1f} times as fast"
                    f" (rounds {min(ratios):.1f} to {max(ratios):.1f}; wanted {wanted})"
                    if name != "device"
                    else ""
                )
            )


if __name__ == "__main__":
    main()
