"""A run's own classifier on ImageNet-P: how often its prediction flips along short videos."""

from pathlib import Path
from typing import Any

import numpy as np

from jssl.data import video
from jssl.errors import UserError
from jssl.evaluate.context import Context
from jssl.evaluate.protocol import Protocol
from jssl.evaluate.protocols import imagenet_variants
from jssl.evaluate.protocols.error_rows import mfr_rows
from jssl.metrics.mce import ALEXNET_P, sequence_distances, sequence_flips
from jssl.run.checksums import tree_hash

NAME = "imagenet_p"
CLASSES = 1000  # of which each must have a folder
AT_ONCE = 8  # videos, of 31 frames or so
NOISE = "noise"  # part of the names of perturbations whose frames are all held against the first


def needs(context: Context) -> str:
    """What a run lacks to be judged on ImageNet-P, with what to type; '' for nothing."""
    if words := imagenet_variants.needs_classifier(context, 1000):
        return words
    folder = _folder(context)
    if any(not (folder / name).is_dir() for name in ALEXNET_P):
        return imagenet_variants.unpack(NAME, folder)
    return "" if video.can_read_videos() else "a decoder of videos: pip install 'jssl[video]'"


def describe(context: Context) -> dict[str, Any]:
    """What the record says of the examples."""
    names = _names(_folder(context))
    digest = tree_hash(np.frombuffer("\n".join(names).encode(), np.uint8))
    return {"name": NAME, "split": "validation", "examples": len(names), "parts": 10,
            "fingerprint": digest[:16]}  # fmt: skip


def run(context: Context) -> list[dict[str, Any]]:
    """mFR and the mean top-5 distance over ten perturbations, at the standard difficulty."""
    if words := needs(context):
        raise UserError(f"Protocol '{NAME}' needs {words}")
    folder = _folder(context)
    names = _names(folder)
    flips, distances = {}, {}
    for kind in ALEXNET_P:
        flips[kind], distances[kind] = _judge(context, folder / kind, names)
    seen = "" if context.size == imagenet_variants.SIDE else f", resized to {context.size} px"
    protocol = f"own classifier, {len(names):,} sequences a perturbation of ImageNet-P, 224 px"
    return mfr_rows(flips, distances, protocol=protocol + seen, seed=context.settings.seed)


def _folder(context: Context) -> Path:
    return Path(imagenet_variants.directory(context)) / NAME


def _names(folder: Path) -> list[str]:
    """The sequences, the same of every perturbation; each of ImageNet's classes has some."""
    found = {kind: video.list_videos(folder / kind) for kind in ALEXNET_P}
    first, names = next(iter(found.items()))
    for kind, other in found.items():
        if other != names:
            odd = min(set(other) ^ set(names))
            raise UserError(
                f"'{folder}' holds {len(names):,} sequences of {first} and {len(other):,} of "
                f"{kind}, not the same: '{odd}' is in one of them only. Unpack the archives again."
            )
    classes = len({name.split("/")[0] for name in names})
    if classes != CLASSES:
        raise UserError(
            f"'{folder}' holds sequences of {classes:,} classes; ImageNet-P is of {CLASSES:,}. "
            "Unpack the archives again."
        )
    return names


def _judge(context: Context, folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The rate of flips and the top-5 distance of each sequence of a perturbation: [S], [S]."""
    noise = NOISE in folder.name
    whole = imagenet_variants.Whole(context.size, imagenet_variants.SIDE)
    flips, distances = [], []
    for videos in video.video_batches(folder, names, batch_size=AT_ONCE):
        B, T = videos.shape[:2]
        frames = np.stack(
            [whole({"image": x})["image"] for x in videos.reshape(-1, *videos.shape[2:])]
        )
        missing = (AT_ONCE - B) * T  # batches of one shape: compiled once
        frames = np.concatenate([frames, np.repeat(frames[:1], missing, axis=0)])
        logits = np.asarray(context.logits(context.state, frames))[: B * T].reshape(B, T, -1)
        flips.append(sequence_flips(np.argmax(logits, axis=2), noise=noise))
        distances.append(sequence_distances(logits, noise=noise))
    return np.concatenate(flips), np.concatenate(distances)


PROTOCOL = Protocol(NAME, run, needs, ("data_dir", "seed"), data=describe)
