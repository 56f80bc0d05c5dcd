"""Pseudo-labels: selection, balancing, and a file with their provenance.

Xie et al., CVPR 2020, https://arxiv.org/abs/1911.04252, section 4.1; the rule of selection is that
of https://github.com/google-research/noisystudent, filter_unlabel.py.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl import files
from jssl.data.plain_npz import read_npz
from jssl.errors import UserError

BINS = 100  # thresholds are hundredths
_SLACK = 1e-6  # a float32 of .57 lies below .57


class PseudoLabels(NamedTuple):
    """A teacher's predictions for unlabelled examples.

    Attributes:
        indices: int64 [M], of the examples in their data set.
        probs: float32 [M,K], the teacher's probabilities at temperature 1.
        copies: int32 [M], how often each is used; 0: filtered out.
        provenance: text by name: `teacher_sha256`, `teacher_step`, `config_hash` of the teacher,
            `data` and `fingerprint` of the unlabelled data set.
    """

    indices: np.ndarray
    probs: np.ndarray
    copies: np.ndarray
    provenance: dict[str, str]

    def digest(self) -> str:
        """Returns a hash of the labels, copies, indices and provenance."""
        digest = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode())
        for array in (self.indices, self.probs, self.copies):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def select(
    probs: np.ndarray,
    *,
    per_class: int,
    min_confidence: float = 0.3,
    upsample: bool = True,
    empty_classes: str = "stop",
    seed: int = 0,
) -> np.ndarray:
    """Filters by confidence and balances the predicted classes.

    For each predicted class, the threshold falls from 1 in hundredths until `per_class` examples
    reach it, but not below `min_confidence`. Each of the k kept examples is used c = per_class / k
    times: int(c), and once more with probability c - int(c). So a large class keeps its most
    confident examples, and a small one is repeated.

    Args:
        probs: float [M,K], rows that sum to 1; an entry may exceed 1 by rounding.
        per_class: target number of examples of each class; 0: no balancing, all that reach
            `min_confidence` are used once.
        min_confidence: the lowest threshold, a multiple of 0.01 in [0, 1].
        upsample: False: c is at most 1, no example is repeated.
        empty_classes: 'stop' raises if a class is left without examples; 'allow' continues.
        seed: of the draws.

    Returns:
        int32 [M], how often each example is used.

    Raises:
        UserError: a class without kept examples; nothing kept at all; numbers out of range.

    Example:
        >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]])
        >>> select(probs, per_class=4)
        array([2, 2, 2, 2], dtype=int32)
    """
    probs = np.asarray(probs)
    if probs.ndim != 2 or not len(probs):
        raise ValueError(f"select expects probabilities [M,K] with M > 0, found {probs.shape}.")
    lowest = round(min_confidence * BINS)
    if not 0 <= lowest <= BINS or abs(lowest - min_confidence * BINS) > _SLACK:
        raise UserError(
            f"min_confidence expects a multiple of 0.01 in [0, 1], found {min_confidence}. Type "
            "--config.noisy_student.min_confidence=0.3."
        )
    if empty_classes not in ("stop", "allow"):
        raise UserError(f"empty_classes is 'stop' or 'allow', found '{empty_classes}'.")
    predicted = np.argmax(probs, axis=1)
    confidence = probs[np.arange(len(probs)), predicted].astype(np.float64)
    # 1.0000001 belongs to the last bin.
    bins = np.clip(np.floor(confidence * BINS + _SLACK), 0, BINS).astype(int)
    draws = np.random.Generator(np.random.Philox(seed)).random(len(probs))
    copies = np.zeros(len(probs), np.int32)
    for k in range(probs.shape[1]):
        own = predicted == k
        reach = np.cumsum(np.bincount(bins[own], minlength=BINS + 1)[::-1])[::-1]  # in bins >= b
        threshold = lowest
        if per_class:
            threshold = max(lowest, *np.flatnonzero(reach >= per_class), lowest)
        kept = own & (bins >= threshold)
        if per_class and kept.any():
            times = per_class / kept.sum()
            times = times if upsample else min(times, 1.0)
            copies[kept] = int(times) + (draws[kept] < times - int(times))
        else:
            copies[kept] = 1
    _check_classes(predicted, copies, probs.shape[1], min_confidence, empty_classes)
    return copies


def _check_classes(
    predicted: np.ndarray, copies: np.ndarray, classes: int, lowest: float, policy: str
) -> None:
    never = np.setdiff1d(np.arange(classes), predicted)
    empty = np.setdiff1d(np.arange(classes), predicted[copies > 0])
    if policy == "stop" and len(empty):
        shown = ", ".join(map(str, empty[:20]))
        raise UserError(
            f"{len(empty)} of {classes} classes are left without pseudo-labels (classes {shown}): "
            f"{len(never)} of them are never predicted, the others never with confidence "
            f"{lowest:g}. A student could not learn them from the unlabelled images. Train the "
            "teacher longer, lower --config.noisy_student.min_confidence, or type "
            "--config.noisy_student.empty_classes=allow."
        )
    if not copies.any():
        raise UserError(
            f"No pseudo-label reaches the confidence {lowest:g}: 0 of {len(copies)} images are "
            "kept. Train the teacher longer or lower --config.noisy_student.min_confidence."
        )


def save(path: str | Path, labels: PseudoLabels) -> None:
    """Writes pseudo-labels as plain arrays, atomically.

    Raises:
        UserError: the folder cannot be written.
        ValueError: arrays of different lengths.
    """
    path = Path(path)
    if not len(labels.indices) == len(labels.probs) == len(labels.copies):
        raise ValueError(
            f"indices, probs and copies must be as many, found {labels.indices.shape}, "
            f"{labels.probs.shape} and {labels.copies.shape}."
        )
    try:
        files.write_npz(
            path,
            indices=np.asarray(labels.indices, np.int64),
            probs=np.asarray(labels.probs, np.float32),
            copies=np.asarray(labels.copies, np.int32),
            provenance=np.array(json.dumps(labels.provenance)),
        )
    except OSError as error:
        raise UserError(
            f"Pseudo-labels cannot be written to '{path}' ({error.strerror}): expected a folder "
            "that exists and a disk with room."
        ) from error


def load(path: str | Path, *, expected: Mapping[str, Any]) -> PseudoLabels:
    """Reads pseudo-labels and checks their provenance.

    Args:
        path: of the file.
        expected: entries that the provenance must have; others are ignored.

    Returns:
        The labels.

    Raises:
        UserError: no file, not such a file, or another provenance (lists what differs).
    """
    if not Path(path).exists():
        raise UserError(
            f"There are no pseudo-labels '{path}': a teacher has to label first. Type the command "
            "of the whole run, or --config.noisy_student.pseudo_labels=FILE."
        )
    try:
        file = read_npz(path)
        indices, probs, copies = (file[name] for name in ("indices", "probs", "copies"))
        provenance = json.loads(str(file["provenance"]))
        _check_arrays(indices, probs, copies, provenance)
    except (UserError, KeyError, ValueError) as error:
        raise UserError(f"'{path}' is no file of pseudo-labels: {error}. Label again.") from None
    rows = [
        f"  {key}: labels {provenance.get(key, 'absent')}, here {value}"
        for key, value in expected.items()
        if provenance.get(key) != str(value)
    ]
    if rows:
        raise UserError(
            f"The pseudo-labels '{path}' do not belong here:\n" + "\n".join(rows) + "\n"
            "Label again, in another --workdir or after deleting the label stage's folder and "
            "those after it."
        )
    return PseudoLabels(indices, probs, copies, provenance)


def _check_arrays(indices: Any, probs: Any, copies: Any, provenance: Any) -> None:
    integers = all(x.dtype.kind in "iu" and x.ndim == 1 for x in (indices, copies))
    if not integers or probs.dtype.kind != "f" or probs.ndim != 2:
        shown = ", ".join(f"{x.dtype} {list(x.shape)}" for x in (indices, probs, copies))
        raise ValueError(f"expected indices [M], probs [M,K] and copies [M], found {shown}")
    if not len(indices) == len(probs) == len(copies) or not isinstance(provenance, dict):
        raise ValueError("arrays of different lengths, or no provenance")
