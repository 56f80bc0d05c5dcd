"""A run's own classifier on ImageNet-P: how often its prediction flips within short videos."""

from pathlib import Path
from typing import Any

import numpy as np

from jssl import data
from jssl.data import video
from jssl.errors import UserError
from jssl.evaluate.context import Context
from jssl.evaluate.protocol import Protocol
from jssl.evaluate.protocols import imagenet_variants
from jssl.evaluate.protocols.error_rows import mfr_rows
from jssl.metrics.mce import ALEXNET_P, sequence_distances, sequence_flips
from jssl.run.checksums import tree_hash

NAME = "imagenet_p"
CLASSES = 1000  # each must have a folder
AT_ONCE = 8  # videos per batch, about 31 frames each
NOISE = "noise"  # in the names of perturbations whose frames are all compared with the first


def needs(context: Context) -> str:
    """Returns what a run lacks for ImageNet-P, with what to type; '' if nothing."""
    if missing := imagenet_variants.needs_classifier(context, 1000):
        return missing
    folder = _folder(context)
    if any(not (folder / name).is_dir() for name in ALEXNET_P):
        return imagenet_variants.unpack(NAME, folder)
    return "" if video.can_read_videos() else "a decoder of videos: pip install 'jssl[video]'"


def describe(context: Context) -> dict[str, Any]:
    """Describes the examples for the record."""
    names = _names(context)
    digest = tree_hash(np.frombuffer("\n".join(names).encode(), np.uint8))
    return {"name": NAME, "split": "validation", "examples": len(names), "parts": 10,
            "fingerprint": digest[:16]}  # fmt: skip


def run(context: Context) -> list[dict[str, Any]]:
    """Computes mFR and the mean top-5 distance over ten perturbations, standard difficulty."""
    if missing := needs(context):
        raise UserError(f"Protocol '{NAME}' needs {missing}")
    folder = _folder(context)
    names = _names(context)
    flips, distances = {}, {}
    for kind in ALEXNET_P:
        flips[kind], distances[kind] = _evaluate(context, folder / kind, names)
    resized = "" if context.size == imagenet_variants.SIDE else f", resized to {context.size} px"
    protocol = f"own classifier, {len(names):,} sequences a perturbation of ImageNet-P, 224 px"
    return mfr_rows(flips, distances, protocol=protocol + resized, seed=context.settings.seed)


def _folder(context: Context) -> Path:
    return Path(imagenet_variants.directory(context)) / NAME


def _names(context: Context) -> list[str]:
    """Returns the sequences: the same for all perturbations, and some of each class.

    Of a dry run, --limit, so many of those that are there.
    """
    folder, limit = _folder(context), context.settings.limit
    sequences = {kind: video.list_videos(folder / kind) for kind in ALEXNET_P}
    first, names = next(iter(sequences.items()))
    for kind, other in sequences.items():
        if other != names:
            odd = min(set(other) ^ set(names))
            raise UserError(
                f"'{folder}' has {len(names):,} sequences of {first} and {len(other):,} of "
                f"{kind}, not the same: '{odd}' is only in one of them. Unpack the archives again."
            )
    if limit:
        return [names[i] for i in data.evenly_spaced(len(names), limit)]
    classes = len({name.split("/")[0] for name in names})
    if classes != CLASSES:
        raise UserError(
            f"'{folder}' has sequences of {classes:,} classes; ImageNet-P has {CLASSES:,}. "
            "Unpack the archives again."
        )
    return names


def _evaluate(context: Context, folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Computes the flip rate and top-5 distance of each sequence of a perturbation: [S], [S]."""
    noise = NOISE in folder.name
    resize = imagenet_variants.Resize(context.size, imagenet_variants.SIDE)
    flips, distances = [], []
    for videos in video.video_batches(folder, names, batch_size=AT_ONCE):
        B, T = videos.shape[:2]
        frames = np.stack(
            [resize({"image": x})["image"] for x in videos.reshape(-1, *videos.shape[2:])]
        )
        padding = (AT_ONCE - B) * T  # batches of one shape: compiled once
        frames = np.concatenate([frames, np.repeat(frames[:1], padding, axis=0)])
        logits = np.asarray(context.logits(context.state, frames))[: B * T].reshape(B, T, -1)
        flips.append(sequence_flips(np.argmax(logits, axis=2), noise=noise))
        distances.append(sequence_distances(logits, noise=noise))
    return np.concatenate(flips), np.concatenate(distances)


PROTOCOL = Protocol(NAME, run, needs, ("data_dir", "seed"), data=describe, colours=True)
