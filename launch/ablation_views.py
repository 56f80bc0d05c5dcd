"""Five views of the tiles of `photos`, as files for configs/cmc_five_views.py:data=FOLDER.

No photograph here comes with depth or labels of its pixels. The three views besides L and ab are
made of the picture, so that they share with it what a relief of its brightness and a map of its
colours tell: depth is the blurred brightness, normals are those of that relief, and the label of a
pixel is one of four ranges of its two opponent colours.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from jssl.data.photos import load

BLUR = 1.5  # pixels
METRES = 4.0  # depth of black minus that of white
SLOPE = 4.0  # pixels of relief from black to white


def write(folder):
    """Writes FOLDER/train.npz and FOLDER/test.npz, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    train, _ = load("train", 32)
    medians = [np.median(x) for x in opponents(train)]
    for split in ("train", "test"):
        path = folder / f"{split}.npz"
        if not path.exists():
            images, labels = load(split, 32)
            np.savez(path, image=images, label=labels, **views(images, medians))


def opponents(images):
    """Red minus green and yellow minus blue, float32 [M,H,W] each."""
    r, g, b = np.moveaxis(images.astype(np.float32), -1, 0)
    return r - g, (r + g) / 2 - b


def views(images, medians):
    """Depth [M,H,W,1], normals [M,H,W,3] and labels [M,H,W] of pictures uint8 [M,H,W,3]."""
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    relief = gaussian_filter(grey, (0, BLUR, BLUR))
    down, right = np.gradient(SLOPE * relief, axis=(1, 2))
    normals = np.stack([-right, down, np.ones_like(grey)], axis=-1)  # right, up, to the camera
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    first, second = (x > m for x, m in zip(opponents(images), medians, strict=True))
    return {
        "depth": (1 + METRES * (1 - relief))[..., None].astype(np.float32),
        "normals": normals.astype(np.float32),
        "segmentation": (2 * first + second).astype(np.int32),
    }
