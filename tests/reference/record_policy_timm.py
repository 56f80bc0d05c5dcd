"""Records tests/golden/policy_timm.npz: what timm's RandAugment does to a picture, and how often.

By hand, once, with timm 1.0.31 and Pillow 13.0.0:

    python tests/reference/record_policy_timm.py

The operations are timm's own `AugmentOp`, always applied, of a magnitude that does not vary, on the
picture of record_policy_tf.py. The sign of those that have one is set and not drawn: m9.0+ holds
the 15 operations at magnitude 9 with a positive sign. `unchanged` is the share of pictures
that `rand-m9-mstd0.5-inc1` as a whole, which DeiT uses, leaves as they are. At magnitude 10
posterize keeps 0 bits, which this Pillow refuses and those of DeiT's time made black, as here.
`v0` is AutoAugment's table: names, and chance and magnitude [25,2,2].
"""

import pathlib
import random

import numpy as np
from PIL import Image
from record_policy_tf import picture
from timm.data import auto_augment

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "policy_timm.npz"
CASES = ((4.3, 1), (4.3, -1), (9.0, 1), (9.0, -1), (9.9, 1))
DRAWS = 20_000
# In the order of ours.
NAMES = ("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing",
         "ContrastIncreasing", "BrightnessIncreasing", "SolarizeAdd", "Rotate", "ShearX", "ShearY",
         "TranslateXRel", "TranslateYRel", "ColorIncreasing", "SharpnessIncreasing")  # fmt: skip
SETTINGS = {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}


def posterize(image, bits, **_):
    return auto_augment.posterize(image, bits) if bits else image.point([0] * 256 * 3)


def main():
    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize
    image = Image.fromarray(picture())
    out = {"picture": picture(), "draws": DRAWS}
    drawn = auto_augment._randomly_negate
    for magnitude, sign in CASES:
        auto_augment._randomly_negate = lambda v, sign=sign: sign * v
        found = [
            auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=SETTINGS)(image)
            for name in NAMES
        ]
        key = f"m{magnitude}{'+' if sign > 0 else '-'}"
        out[key] = np.stack([np.asarray(x) for x in found])
    auto_augment._randomly_negate = drawn
    table = auto_augment.auto_augment_policy_v0(SETTINGS)
    out["v0_names"] = np.array([[op.name for op in pair] for pair in table])
    out["v0_numbers"] = np.array([[(op.prob, op.magnitude) for op in pair] for pair in table])
    random.seed(0)
    np.random.seed(0)
    policy = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", dict(SETTINGS))
    same = [np.array_equal(policy(image), out["picture"]) for _ in range(DRAWS)]
    out["unchanged"] = np.mean(same)
    np.savez_compressed(GOLDEN, **out)
    print(GOLDEN, GOLDEN.stat().st_size, "bytes; unchanged", out["unchanged"])


if __name__ == "__main__":
    main()
