"""JPEG files to random crops on one core, beside Pillow in turns, on the same boxes. By hand:

taskset -c 0 python tests/benchmarks/bench_decode.py [--rounds 5] \\
    [--record docs/benchmarks/decode.json]

The pictures are photographs of scikit-image at the mean size of ImageNet's, 500 x 375, JPEG of
quality 90. Pillow decodes at the lowest sufficient resolution too (`draft`), and resizes the box.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import time

import numpy as np
import PIL
from PIL import Image

from jssl.data import photos
from jssl.data.crop import torchvision_box
from jssl.data.decode import Picture
from jssl.run import versions

WIDTH, HEIGHT, SIDE, QUALITY = 500, 375, 224, 90


def files(count):
    """JPEG files of parts of the colour photographs."""
    rng, whole, made = np.random.default_rng(0), [], []
    for label in range(len(photos.PHOTOS)):
        pixels = photos.read(label)
        if min(pixels.shape[:2]) >= HEIGHT:
            whole.append(Image.fromarray(pixels).convert("RGB"))
    for i in range(count):
        picture = whole[i % len(whole)]
        width = min(picture.width, int(picture.height * WIDTH / HEIGHT))
        height = int(width * HEIGHT / WIDTH)
        left = int(rng.integers(0, picture.width - width + 1))
        part = picture.crop((left, 0, left + width, height)).resize((WIDTH, HEIGHT))
        buffer = io.BytesIO()
        part.save(buffer, "JPEG", quality=QUALITY)
        made.append(buffer.getvalue())
    return made


def by_jssl(data, boxes):
    return Picture(data, "x").crops(boxes, (SIDE, SIDE), interpolation="bilinear")


def by_pillow(data, boxes):
    least = min(min(height, width) for _, _, height, width in boxes)
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (int(WIDTH * SIDE / least), int(HEIGHT * SIDE / least)))
    image = image.convert("RGB")
    scale = image.width / WIDTH
    views = []
    for top, left, height, width in boxes:
        box = tuple(scale * x for x in (left, top, left + width, top + height))
        views.append(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    return np.stack([np.asarray(view) for view in views])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=pathlib.Path)
    args = parser.parse_args()
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
        parser.error("of one core: type taskset -c 0 before the command.")
    pictures, rng = files(args.pictures), np.random.default_rng(1)
    rows = []
    for views in (1, 2):
        boxes = [
            [torchvision_box(rng, HEIGHT, WIDTH, area=(0.08, 1.0)) for _ in range(views)]
            for _ in pictures
        ]
        rates = {"jssl": [], "Pillow": []}
        for _ in range(args.rounds):
            for name, function in (("jssl", by_jssl), ("Pillow", by_pillow)):
                started = time.perf_counter()
                for data, own in zip(pictures, boxes, strict=True):
                    function(data, own)
                rates[name].append(len(pictures) / (time.perf_counter() - started))
        row = {"views": views, "pictures_per_second": rates}
        rows.append(row)
        print(row, f"{statistics.median(rates['jssl']) / statistics.median(rates['Pillow']):.2f}")
    if args.record:
        libraries = versions.collect()["libraries"]
        used = {name: libraries[name] for name in ("jssl", "numpy")}
        record = {
            "pictures": args.pictures, "size": [HEIGHT, WIDTH], "quality": QUALITY, "side": SIDE,
            "rows": rows, "versions": {**used, "Pillow": PIL.__version__},
        }  # fmt: skip
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
