"""Prints how far jssl is from the networks that published files are of, family by container.

    PYTHONPATH=tests python -m convert.weights_table > docs/weights_table.md

Each network has drawn weights and running statistics, the same on both sides; what the other
library computed was recorded (tests/reference). A cell is the largest difference of an output,
divided by the largest output, which is the scale.
"""

import tempfile
from pathlib import Path

import numpy as np
from convert import test_families, test_official, test_transformers, tf_files
from convert.test_families import GOLDEN, safetensors_file
from convert.torch_files import legacy_file, zip_file

from jssl import convert
from jssl.augment._pixels import STATISTICS

CONTAINERS = {
    "safetensors": (safetensors_file, "model.safetensors"),
    "torch": (zip_file, "model.pth"),
    "torch before 1.6": (legacy_file, "model.pth"),
    "npz": (lambda path, tensors: np.savez(path, **tensors), "model.npz"),
}


def family_result(kind, loaded):
    """As tests/convert/test_families.py."""
    images = test_families.OUTPUTS["images"].transpose(0, 2, 3, 1)
    mean, deviation = STATISTICS[loaded.config.augment.normalize]
    pixels = images * np.float32(deviation) + np.float32(mean)
    return test_official.embedded(loaded, pixels)[1][test_families.CASES[kind][2]]


def difference(result, expected):
    """The largest difference divided by the scale, and the scale."""
    scale = float(np.abs(expected).max())
    return float(np.abs(np.asarray(result) - expected).max()) / scale, scale


def rows(folder):
    """(kind, library that made the numbers, scale, difference by container)."""
    sources = [
        (test_families.CASES, test_families.state_dict, family_result,
         lambda kind: test_families.OUTPUTS[kind]),
        (test_official.CASES, test_official.state_dict, test_official.result,
         test_official.recorded),
    ]  # fmt: skip
    for kinds, tensors_of, result, recorded in sources:
        for kind in kinds:
            cells, tensors = {}, tensors_of(kind)
            for name, (write, file) in CONTAINERS.items():
                write(folder / file, tensors)
                loaded = convert.read_pretrained(folder / file)
                cells[name], scale = difference(result(kind, loaded), recorded(kind))
                (folder / file).unlink()
            yield loaded.family.name, kind, scale, cells
    for kind in test_transformers.FAMILIES:
        loaded = convert.read_pretrained(test_transformers.folder_of(folder / kind, kind))
        expected = test_transformers.OUTPUTS[kind]
        cell, scale = difference(test_transformers.result(kind, loaded), expected)
        yield loaded.family.name, f"{kind} of transformers", scale, {"folder": cell}
    yield from official_files(folder)


def official_files(folder):
    """Files that the authors' code wrote, and Noisy Student's checkpoint."""
    for kind, file, output, container in (
        ("simclr", "simclr", "projection", "TensorFlow"),
        ("byol", "byol.pkl", "projection", "dill"),
    ):
        loaded = convert.read_pretrained(GOLDEN / file)
        outputs = np.load(GOLDEN / f"{kind}_outputs.npz")
        images = outputs["images"].transpose(0, 3, 1, 2)
        named = test_official.embedded(loaded, test_official.pictures(images, loaded.config))[1]
        cell, scale = difference(named[output], outputs[output])
        yield kind, f"{kind}, written by its own code", scale, {container: cell}
    tensors, outputs = test_official.noisy_student()
    tf_files.checkpoint_file(folder / "model.ckpt", tensors)
    loaded = convert.read_pretrained(folder / "model.ckpt")
    images = outputs["images"].transpose(0, 3, 1, 2)
    named = test_official.embedded(loaded, test_official.pictures(images, loaded.config))[1]
    cell, scale = difference(named["logits"], outputs["logits"])
    yield "efficientnet_tf", "efficientnet-b0", scale, {"TensorFlow": cell}
    loaded = convert.read_pretrained(GOLDEN / "dalle")
    for name, result in test_official.dvae_results(loaded).items():
        cell, scale = difference(result, test_official.OUTPUTS[name])
        yield "dalle", f"{name}, written by its own code", scale, {"torch, whole modules": cell}


def main():
    print("# Published weights: the largest difference, by family and container\n")
    print(__doc__.split("\n\n", 2)[2].strip() + "\n")
    print("Made by `PYTHONPATH=tests python -m convert.weights_table`.\n")
    print("| `--family` | network | scale | largest difference / scale |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for family, kind, scale, cells in rows(Path(folder)):
            text = "; ".join(f"{name} {cell:.1e}" for name, cell in cells.items())
            print(f"| `{family}` | {kind} | {scale:.3g} | {text} |", flush=True)


if __name__ == "__main__":
    main()
