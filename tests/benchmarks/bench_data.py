"""Times two views of pictures, RandAugment and JPEG files to crops beside torchvision and timm.

    python tests/benchmarks/bench_data.py --peer-python PYTHON [--only views,policy,jpeg]
        [--record docs/benchmarks/data.json]

PYTHON has torch, torchvision, timm, Pillow and simplejpeg. jssl augments a batch on the device,
which here is the CPU with all its cores; the peers work picture by picture in one process or two.
JPEG files and RandAugment are compared on one core: both sides keep to the first.
"""

import argparse
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import turns

SIDE = 224
# Title, recipe, side of a view, pictures, their size, strength of the jitter, whether to blur.
VIEWS = (
    ("two views of 32 px", "simclr_cifar", 32, 256, (32, 32), 0.5, False),
    ("two views of 224 px, with blur", "simclr", SIDE, 32, (256, 256), 1.0, True),
)
AREA = (0.08, 1.0)


def one_core():
    """Keeps this process and its threads to one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


# The peers' side.


def torchvision_views(side, strength, blur, tensors):
    """SimCLR's views by torchvision's second API: `image uint8 [H,W,3] -> [2,3,side,side]`."""
    import torch
    from PIL import Image
    from torchvision.transforms import InterpolationMode, v2

    torch.set_num_threads(1)
    jitter = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    steps = [
        v2.RandomResizedCrop(side, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([jitter], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        kernel = side // 10 // 2 * 2 + 1
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5))
    pipeline = v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def views(image):
        source = torch.from_numpy(image).permute(2, 0, 1) if tensors else Image.fromarray(image)
        return torch.stack([pipeline(source) for _ in range(2)])

    return views


def make_views_of_all(side, strength, blur, tensors, processes, path):
    """Augments every picture of a file, in one process or in as many."""
    images = np.load(path)
    views = torchvision_views(side, strength, blur, tensors)
    if processes == 1:
        return lambda: [views(image) for image in images]
    import torch.multiprocessing as mp

    def work(part, wanted, done):
        while wanted.get():
            for image in part:
                views(image)
            done.put(True)

    context = mp.get_context("fork")
    wanted, done = [context.Queue() for _ in range(processes)], context.Queue()
    for i in range(processes):
        part = images[i::processes]
        context.Process(target=work, args=(part, wanted[i], done), daemon=True).start()

    def run():
        for queue in wanted:
            queue.put(True)
        for _ in wanted:
            done.get()

    return run


def make_rand_augment(path):
    """timm's RandAugment after a crop and a flip, on one core."""
    import torch
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform
    from torchvision.transforms import v2

    one_core()
    torch.set_num_threads(1)
    images = np.load(path)
    policy = rand_augment_transform("rand-m9-n2-mstd0.5", {"translate_const": 100})
    pipeline = v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), policy])
    return lambda: [np.asarray(pipeline(Image.fromarray(image))) for image in images]


def make_jpeg(decoder, path):
    """Two crops of each JPEG file by torchvision, decoded by Pillow or simplejpeg, on one core."""
    from PIL import Image
    from torchvision.transforms import v2

    one_core()
    files = [data.tobytes() for data in np.load(path).values()]
    crop = v2.RandomResizedCrop(SIDE, scale=AREA)
    if decoder == "simplejpeg":
        import simplejpeg

        def decoded(data):
            return Image.fromarray(simplejpeg.decode_jpeg(data))
    else:

        def decoded(data):
            return Image.open(io.BytesIO(data)).convert("RGB")

    def run():
        for data in files:
            image = decoded(data)
            for _ in range(2):
                np.asarray(crop(image))

    return run


PEERS = {
    "views": (make_views_of_all, ("torchvision", "pillow")),
    "policy": (make_rand_augment, ("timm", "pillow")),
    "jpeg": (make_jpeg, ("torchvision", "pillow", "simplejpeg")),
}


# jssl's side.


def tiles(count, height, width):
    """Tiles of photographs, uint8 [count,height,width,3]."""
    from jssl.data import photos

    rng = np.random.default_rng(0)
    pictures = [photos.read(label) for label in range(len(photos.PHOTOS))]
    pictures = [p for p in pictures if p.shape[0] >= height and p.shape[1] >= width]
    out = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top = rng.integers(0, picture.shape[0] - height + 1)
        left = rng.integers(0, picture.shape[1] - width + 1)
        out.append(picture[top : top + height, left : left + width])
    return np.stack(out)


def device_views(recipe, side, images, **options):
    """jssl's compiled augmentation of a batch."""
    import jax
    import jax.numpy as jnp

    from jssl.augment import batch_views, make_views

    fn = make_views(recipe, size=side, **options)
    compiled = jax.jit(lambda key, x: batch_views(fn, key, x, jnp.int32(0)))
    batch, step = jnp.asarray(images), iter(range(10**9))
    return lambda: compiled(jax.random.key(next(step)), batch).block_until_ready()


def jpeg_crops(files):
    """jssl's two crops of each JPEG file."""
    from jssl.data.crop import torchvision_box
    from jssl.data.decode import Picture

    rng = np.random.default_rng(1)

    def run():
        for data in files:
            picture = Picture(data, "x")
            boxes = [torchvision_box(rng, *picture.size(), area=AREA) for _ in range(2)]
            picture.crops(boxes, (SIDE, SIDE), interpolation="bilinear")

    return run


def row(args, work, run, peer, name, arguments):
    """Times both sides in turn and records their seconds."""
    with turns.Peer(args.peer_python, __file__, name, json.dumps(arguments)) as other:
        seconds = turns.in_turn(run, other, rounds=args.rounds)
        used = {**turns.versions(["jax"]), **other.versions}
    result = {"work": work, "peer": peer, "seconds": seconds, "versions": used}
    turns.show(work, result)
    if args.record:
        turns.write(args.record, f"{work}, {peer}", result)


def compare(args, folder):
    """All rows that are asked for; those of one core last, as a process stays there."""
    only = args.only.split(",")
    if "views" in only:
        for title, recipe, side, count, shape, strength, blur in VIEWS:
            images, path = tiles(count, *shape), str(folder / f"{side}.npy")
            np.save(path, images)
            run = device_views(recipe, side, images)
            for tensors, processes in ((False, 1), (False, 2), (True, 1), (True, 2)):
                peer = f"torchvision v2 on {'tensors' if tensors else 'PIL'}, "
                peer += "2 processes" if processes == 2 else "1 process"
                arguments = (side, strength, blur, tensors, processes, path)
                row(args, f"{count} times {title}", run, peer, "views", arguments)
    if {"policy", "jpeg"} & set(only):
        one_core()
    if "policy" in only:
        images, path = tiles(16, 256, 256), str(folder / "policy.npy")
        np.save(path, images)
        run = device_views("crop_flip", SIDE, images, policy_ops=2, policy_form="timm")
        work = "16 times RandAugment of 224 px, one core"
        row(args, work, run, "timm on PIL", "policy", (path,))
    if "jpeg" in only:
        import bench_decode

        pictures, path = bench_decode.files(200), str(folder / "jpeg.npz")
        np.savez(path, *(np.frombuffer(data, np.uint8) for data in pictures))
        work = "200 JPEG files to two crops of 224 px, one core"
        for decoder in ("Pillow", "simplejpeg"):
            peer, arguments = f"torchvision, {decoder}", (decoder, path)
            row(args, work, jpeg_crops(pictures), peer, "jpeg", arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="views,policy,jpeg")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--serve", choices=PEERS, help="used by the script itself")
    parser.add_argument("arguments", nargs="?", help="used by the script itself")
    args = parser.parse_args()
    if args.serve:
        make, packages = PEERS[args.serve]
        turns.serve(lambda: make(*json.loads(args.arguments)), 1, packages)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


if __name__ == "__main__":
    main()
