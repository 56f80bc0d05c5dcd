"""Proposals: boxes where objects may be, of files such as selective search, or all anchor boxes.

A file of proposals is

FILE.npz    `names` [M] text; `counts` [M] whole numbers; `boxes` [sum of counts,4], the pictures
            one after another, (x1, y1, x2, y2) in pixels from 0
FILE.mat    MATLAB 5, as Fast R-CNN publishes those of selective search: a cell for each picture in
            `boxes` [n,4], (y1, x1, y2, x2) that count pixels from 1; its names in `images`, or else
            in the order of the split's list
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl.data.decode import Picture
from jssl.data.dense_files import check_inside
from jssl.data.dense_transform import Example, Transform, padded_proposals
from jssl.data.plain_mat import read_cells
from jssl.data.plain_npz import read_npz
from jssl.data.subset import Rows
from jssl.errors import UserError
from jssl.regular import FileError, read_file

MAX_MAT = 2**30  # bytes, packed and unpacked
ARCHIVE = "selective_search_data.tgz of github.com/rbgirshick/fast-rcnn"
_NPZ = ("names", "counts", "boxes")


class Proposals(NamedTuple):
    """Boxes of pictures.

    Attributes:
        names: of the pictures, each once; () if the file has none.
        boxes: float32 [n,4] of each, (x1, y1, x2, y2) in pixels from 0.
    """

    names: tuple[str, ...]
    boxes: tuple[np.ndarray, ...]


def read_proposals(path: Path) -> Proposals:
    """Reads a file of proposals.

    Args:
        path: of an .npz, or of a .mat.

    Raises:
        UserError: missing, damaged, too large, or with other contents.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / 'a.npz'
        ...     np.savez(path, names=['a', 'b'], counts=[1, 0], boxes=[[0, 0, 8, 9]])
        ...     read_proposals(path).boxes[0]
        array([[0., 0., 8., 9.]], dtype=float32)
    """
    try:
        proposals = _of_mat(path) if path.suffix == ".mat" else _of_npz(path)
        if len(set(proposals.names)) < len(proposals.names):
            raise ValueError("it has a name twice")
        for number, boxes in enumerate(proposals.boxes):
            _check(boxes, proposals.names[number] if proposals.names else str(number))
    except (ValueError, FileError) as error:
        raise UserError(
            f"The proposals '{path}' cannot be read: {error}. Expected a file as in "
            "docs/dense_data.md. Write or copy it again."
        ) from error
    return proposals


def _of_npz(path: Path) -> Proposals:
    arrays = read_npz(path, only=_NPZ)
    missing = [name for name in _NPZ if name not in arrays]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    names, counts, boxes = (arrays[name] for name in _NPZ)
    fits = names.ndim == 1 and names.dtype.kind == "U" and counts.shape == names.shape
    if not fits or counts.dtype.kind not in "iu" or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"it has names {names.dtype} {list(names.shape)}, counts {counts.dtype} "
            f"{list(counts.shape)} and boxes {list(boxes.shape)}"
        )
    if np.any(counts < 0) or np.any(counts > len(boxes)) or int(counts.sum()) != len(boxes):
        raise ValueError(f"its counts do not add up to its {len(boxes):,} boxes")
    parts = np.split(boxes.astype(np.float32), np.cumsum(counts)[:-1]) if len(counts) else []
    return Proposals(tuple(names.tolist()), tuple(parts))


def _of_mat(path: Path) -> Proposals:
    cells = read_cells(read_file(path, MAX_MAT), ("boxes", "images"), max_bytes=MAX_MAT)
    if "boxes" not in cells:
        raise ValueError("it has no boxes")
    boxes, names = [], cells.get("images", [])
    for array in cells["boxes"]:
        if isinstance(array, str) or (array.size and (array.ndim != 2 or array.shape[1] != 4)):
            raise ValueError("a cell of boxes is no matrix of four columns")
        y1, x1, y2, x2 = array.reshape(-1, 4).astype(np.float32).T
        boxes.append(np.stack([x1 - 1, y1 - 1, x2, y2], axis=1))  # the last pixel belongs to it
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) < len(names) or len(names) not in (0, len(boxes)):
        raise ValueError(f"it has {len(boxes):,} cells of boxes and {len(texts):,} names of images")
    return Proposals(tuple(texts), tuple(boxes))


def _check(boxes: np.ndarray, name: str) -> None:
    whole = np.all(np.isfinite(boxes)) and np.all(boxes >= 0)
    if not whole or np.any(boxes[:, 2:] <= boxes[:, :2]):
        raise ValueError(f"picture '{name}' has a box that is empty, negative or not finite")


class WithProposals(Rows):
    """A source whose examples also have `proposals`, float32 [n,4], in pixels of the picture.

    Args:
        source: a `DenseSource`, or one with the same examples and `names`.
        boxes: of each picture.
    """

    def __init__(self, source: Any, boxes: Sequence[np.ndarray]):
        super().__init__(source, np.arange(len(source)))
        self._boxes = tuple(boxes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an example."""
        return self._with(super().__getitem__(index))

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns an example, with the picture not yet decoded if the source supports it."""
        return self._with(super().encoded(index))

    def fingerprint(self) -> str:
        """Returns the source's fingerprint with a hash of the boxes."""
        digest = hashlib.sha256()
        for boxes in self._boxes:
            digest.update(f"{len(boxes)} ".encode() + boxes.tobytes())
        return f"{self.source.fingerprint()}[proposals {digest.hexdigest()[:12]}]"

    def _with(self, example: dict[str, Any]) -> dict[str, Any]:
        index, image = int(example["index"]), example["image"]
        boxes = self._boxes[index]
        size = image.size() if isinstance(image, Picture) else image.shape[:2]
        check_inside(f"the proposals of {self.source.names[index]}", boxes, *size)
        return {**example, "proposals": boxes}


def with_proposals(source: Any, place: str, split: str, *, most: int) -> WithProposals:
    """Adds the proposals of files to a source.

    Args:
        source: a `DenseSource`, or one with the same examples and `names`.
        place: a file with the boxes of every picture, or a folder with a file for each part of the
            split: voc_2007_trainval.npz or .mat of '2007/trainval'.
        split: of the source, with the name of the data set before each part: 'voc/2007/trainval',
            and + between several.
        most: largest number of boxes of a picture.

    Raises:
        UserError: a missing file, pictures without boxes, or more boxes than `most`.
    """
    names = getattr(source, "names", None)
    if names is None:
        raise UserError(
            f"The pictures of {source.name} have no names, by which their proposals are found. "
            "Unpack the official archives of VOC into data.data_dir."
        )
    root = Path(place).expanduser()
    paths = [root] if root.is_file() else [_file(root, part) for part in split.split("+")]
    found = _by_name(paths, names)
    missing = [name for name in names if name not in found]
    if missing:
        files = ", ".join(f"'{path}'" for path in paths)
        raise UserError(
            f"The proposals {files} lack {len(missing):,} of {len(names):,} pictures, "
            f"'{missing[0]}' among them: expected boxes of every picture of '{split}'."
        )
    boxes = [found[name] for name in names]
    largest = max(range(len(boxes)), key=lambda i: len(boxes[i]))
    if len(boxes[largest]) > most:
        raise UserError(
            f"Picture '{names[largest]}' has {len(boxes[largest]):,} proposals: expected at most "
            f"{most:,}. Type --config.fast_rcnn.max_proposals={len(boxes[largest])}."
        )
    return WithProposals(source, boxes)


def _by_name(paths: Sequence[Path], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads files of proposals; one file without names has those of the split, in order."""
    found: dict[str, np.ndarray] = {}
    for path in paths:
        own, boxes = read_proposals(path)
        if not own and (len(paths) > 1 or len(boxes) != len(names)):
            raise UserError(
                f"The proposals '{path}' of {len(boxes):,} pictures do not name them: expected "
                f"names, or boxes of each of the {len(names):,} pictures of one split."
            )
        found |= dict(zip(own or names, boxes, strict=True))
    return found


def _file(folder: Path, part: str) -> Path:
    stem = part.strip().replace("/", "_")
    for path in (folder / f"{stem}.npz", folder / f"{stem}.mat"):
        if path.is_file():
            return path
    raise UserError(
        f"No file of proposals '{folder / stem}.npz' or '{stem}.mat': expected the names of the "
        "pictures and their boxes, see docs/dense_data.md. For those of selective search on VOC "
        f"unpack {ARCHIVE}, and type --config.fast_rcnn.proposals=FOLDER/selective_search_data. "
        "Without files type --config.fast_rcnn.proposals=anchors."
    )


class AnchorBoxes:
    """A transform that adds all anchor boxes of a picture, clipped to it, as its proposals.

    Args:
        transform: of pictures with boxes, such as `DetectionTransform`.
        grid: [rows,columns,A,4], the anchors of each cell of the largest picture, see
            `jssl.dense.grid_anchors`.
        stride: pixels between cells.
        most: P, to which they are padded.

    Example:
        >>> from jssl.data.cutout_source import CutoutSource
        >>> from jssl.data.dense_transform import DetectionTransform
        >>> test = DetectionTransform.test(48, longest=64, canvas=(64, 64))
        >>> corner = np.array([[0, 0], [16, 0], [32, 0], [48, 0]])
        >>> grid = np.concatenate([corner - 16, corner + 16], axis=1).reshape(1, 4, 1, 4)
        >>> boxes = AnchorBoxes(test, grid, stride=16, most=5)
        >>> example = boxes(CutoutSource('val', size=64)[0], np.random.default_rng(0))
        >>> int(example['live'].sum()), example['proposals'][:2].tolist()  # 3 in 48 pixels
        (3, [[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 32.0, 16.0]])
    """

    def __init__(self, transform: Transform, grid: np.ndarray, *, stride: int, most: int):
        self._transform, self._grid = transform, np.asarray(grid, np.float32)
        self._stride, self._most = stride, most

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Transforms an example; adds `proposals` float32 [P,4] and `live` bool [P]."""
        result = self._transform(example, rng)
        height, width = (int(side) for side in result["size"])
        rows, columns = -(-height // self._stride), -(-width // self._stride)
        boxes = self._grid[:rows, :columns].reshape(-1, 4)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        return {**result, **padded_proposals(boxes, self._most)}
