"""Reads Oxford5k and Paris6k, original and revisited, from their unpacked archives.

    DIR/oxford5k/jpg/            oxbuild_images-v1.tgz: 5,063 images
    DIR/oxford5k/gt/             gt_files_170407.tgz: 55 queries
    DIR/oxford5k/gnd_roxford5k.pkl                    70 queries
    DIR/paris6k/jpg/             paris_1-v1.tgz and paris_2-v1.tgz: 6,412 images
    DIR/paris6k/gt/              paris_120310.tgz: 55 queries
    DIR/paris6k/gnd_rparis6k.pkl                      70 queries

Sub-folders of jpg and gt are searched too. The archives are linked from
https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/ and .../parisbuildings/, the .pkl files from
http://cmp.felk.cvut.cz/revisitop/. What is published today may have faces blurred (since 2022).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl.data.plain_pickle import read_plain_pickle
from jssl.data.text import read_text
from jssl.errors import UserError, nearest

# Images of Paris that are empty or damaged in the published archives; all papers leave them out.
CORRUPT = frozenset(
    f"paris_{place}_{number:06d}"
    for place, numbers in {
        "louvre": (136, 146),
        "moulinrouge": (422,),
        "museedorsay": (1059,),
        "notredame": (188,),
        "pantheon": (284, 960, 974),
        "pompidou": (195, 196, 201, 467, 640),
        "sacrecoeur": (299, 330, 353),
        "triomphe": (662, 833, 863, 867),
    }.items()
    for number in numbers
)


class _Set(NamedTuple):
    folder: str
    other: str  # set whose regions the whitening is learnt on
    images: int  # of the database
    queries: int
    truth: str  # file or sub-folder of the ground truth


SETS: dict[str, _Set] = {
    "oxford5k": _Set("oxford5k", "paris6k", 5063, 55, "gt"),
    "paris6k": _Set("paris6k", "oxford5k", 6392, 55, "gt"),
    "roxford5k": _Set("oxford5k", "paris6k", 4993, 70, "gnd_roxford5k.pkl"),
    "rparis6k": _Set("paris6k", "oxford5k", 6322, 70, "gnd_rparis6k.pkl"),
}


class Query(NamedTuple):
    """An image and its query region: left, top, right and bottom in pixels."""

    path: Path
    roi: tuple[float, float, float, float]


class Landmarks(NamedTuple):
    """A retrieval set, with its ground truth as indices of `images`.

    Attributes:
        name: a key of `SETS`.
        images: of the database, sorted by name, or in the order of the revisited list.
        queries: sorted by name, or in the order of the revisited list.
        lists: for each query, indices: 'positive' (good and ok) and 'junk'; of a revisited set
            'easy', 'hard' and 'junk'.
        num_positive: for each query, the number of listed positives, including corrupt ones; None
            for a revisited set.
        corrupt: names of the images left out, see `CORRUPT`.
        other_images: of the other set, to learn the whitening on.
    """

    name: str
    images: tuple[Path, ...]
    queries: tuple[Query, ...]
    lists: Mapping[str, list[list[int]]]
    num_positive: list[int] | None
    corrupt: tuple[str, ...]
    other_images: tuple[Path, ...]

    def fingerprint(self) -> str:
        """Returns a hash of the names of the images, the queries and the ground truth."""
        names = [p.stem for p in (*self.images, *self.other_images)]
        content: list[Any] = [names, [(q.path.stem, q.roi) for q in self.queries], dict(self.lists)]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def few(self, count: int) -> "Landmarks":
        """Returns a part for a dry run: at most `count` queries, images and other images.

        The images are first one positive of each query, as far as they reach, then others in
        order; what the lists name besides is left out of them.
        """
        roles = [role for role in self.lists if role != "junk"]
        queries = range(min(count, len(self.queries)))
        positives = [next((i for r in roles for i in self.lists[r][q]), None) for q in queries]
        wanted = [i for i in positives if i is not None] + list(range(len(self.images)))
        kept = list(dict.fromkeys(wanted))[:count]
        places = {old: new for new, old in enumerate(kept)}
        lists = {
            role: [[places[i] for i in each[q] if i in places] for q in queries]
            for role, each in self.lists.items()
        }
        return self._replace(
            images=tuple(self.images[i] for i in kept),
            queries=self.queries[: len(queries)],
            lists=lists,
            num_positive=None if self.num_positive is None else list(map(len, lists["positive"])),
            other_images=self.other_images[:count],
        )


def read_landmarks(name: str, data_dir: str | Path) -> Landmarks:
    """Reads the ground truth of a set, and lists its images and those of the other set.

    Args:
        name: 'oxford5k', 'paris6k', 'roxford5k' or 'rparis6k'.
        data_dir: the folder DIR of this file's layout; both sets are needed.

    Returns:
        A `Landmarks`; no image has been opened.

    Raises:
        UserError: an unknown name, missing files, or ground truth unlike the published one.

    Example:
        landmarks = read_landmarks('roxford5k', '/data')
        len(landmarks.images), len(landmarks.queries)      # 4993, 70

    Reference:
        Philbin et al., CVPR 2007 and 2008; Radenovic et al., CVPR 2018,
        https://arxiv.org/abs/1803.11285.
    """
    if name not in SETS:
        raise UserError(f"Unknown retrieval set '{name}': {nearest(name, SETS)}.")
    folder, truth = Path(data_dir) / SETS[name].folder, SETS[name].truth
    images, corrupt = _images(folder, data_dir)
    others, _ = _images(Path(data_dir) / SETS[name].other, data_dir)
    if not (folder / truth).exists():
        raise UserError(f"There is no '{folder / truth}'. {layout(name, data_dir)}")
    read = _original if truth == "gt" else _revisited
    landmarks = read(name, folder / truth, images)
    return landmarks._replace(corrupt=corrupt, other_images=tuple(others.values()))


def layout(name: str, data_dir: str | Path) -> str:
    """Returns the end of an error message: the files a set needs, and their origin."""
    paris = "paris_1-v1.tgz and paris_2-v1.tgz"
    archives = {"oxford5k": "oxbuild_images-v1.tgz", "paris6k": paris}
    truths = {
        "oxford5k": "gt/ the files of gt_files_170407.tgz",
        "paris6k": "gt/ the files of paris_120310.tgz",
        "roxford5k": "gnd_roxford5k.pkl of http://cmp.felk.cvut.cz/revisitop/",
        "rparis6k": "gnd_rparis6k.pkl of http://cmp.felk.cvut.cz/revisitop/",
    }
    one, two = SETS[name].folder, SETS[name].other
    return (
        f"Set '{name}' expects in '{data_dir}': {one}/jpg/ with the images of {archives[one]}, "
        f"{one}/{truths[name]}, and {two}/jpg/ with the images of {archives[two]}, on whose "
        "regions whitening is learnt. Get them from https://www.robots.ox.ac.uk/~vgg/data/"
        "oxbuildings/ and parisbuildings/, unpack them there, and type "
        f"--source={name} --data_dir=DIR."
    )


def _images(folder: Path, data_dir: Any) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Returns the usable images by name, sorted; and the names of the corrupt ones present."""
    name = next(key for key in SETS if SETS[key].folder == folder.name)
    paths: dict[str, Path] = {}
    for path in sorted((folder / "jpg").rglob("*.jpg"), key=lambda p: p.stem):
        if path.stem in paths:
            raise UserError(
                f"Two images have the name '{path.stem}': '{paths[path.stem]}' and '{path}'. "
                "Expected each once: remove one."
            )
        paths[path.stem] = path
    if not paths:
        raise UserError(f"There are no .jpg images in '{folder / 'jpg'}'. {layout(name, data_dir)}")
    corrupt = tuple(stem for stem in paths if stem in CORRUPT)
    return {stem: path for stem, path in paths.items() if stem not in CORRUPT}, corrupt


def _original(name: str, truth: Path, images: dict[str, Path]) -> Landmarks:
    indices = {stem: i for i, stem in enumerate(images)}
    queries, positives, junk, counts = [], [], [], []
    for path in sorted(truth.rglob("*_query.txt")):
        fields = read_text(path)[0].split()
        if len(fields) != 5:
            raise UserError(
                f"'{path}' holds {' '.join(fields)[:80]!r}; expected an image and four numbers, "
                "left, top, right and bottom."
            )
        stem = fields[0].removeprefix("oxc1_")
        lists = {role: _names(path, role) for role in ("good", "ok", "junk")}
        named = {stem}.union(*lists.values())
        _check_names(path, (named - CORRUPT) | {stem}, images)
        left_out = lists["junk"]
        positive = lists["good"] | lists["ok"]
        queries.append(Query(images[stem], _box(path, fields[1:])))
        counts.append(len(positive))
        positives.append(sorted(indices[s] for s in positive - left_out - CORRUPT))
        junk.append(sorted(indices[s] for s in left_out - CORRUPT))
    if not queries:
        raise UserError(f"'{truth}' holds no files *_query.txt. {layout(name, truth.parents[1])}")
    columns = {"positive": positives, "junk": junk}
    return Landmarks(name, tuple(images.values()), tuple(queries), columns, counts, (), ())


def _names(query: Path, role: str) -> set[str]:
    path = query.with_name(query.name.replace("_query.txt", f"_{role}.txt"))
    if not path.is_file():
        raise UserError(f"There is no '{path}', beside '{query.name}'. Unpack the archive again.")
    return set(read_text(path)[0].split())


def _revisited(name: str, truth: Path, images: dict[str, Path]) -> Landmarks:
    content = read_plain_pickle(truth)
    keys = ("imlist", "qimlist", "gnd")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        content_type = (
            ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        )
        raise UserError(f"'{truth}' holds {content_type}; expected the lists {', '.join(keys)}.")
    names, query_names = ([str(stem) for stem in content[key]] for key in keys[:2])
    entries = content["gnd"]
    _check_names(truth, {*names, *query_names}, images)
    roles = ("easy", "hard", "junk")
    if len(entries) != len(query_names) or not all(
        isinstance(e, dict) and {*roles, "bbx"} <= {*e} for e in entries
    ):
        raise UserError(
            f"'{truth}' has {len(entries)} entries for {len(query_names)} queries; expected one "
            f"each, with {', '.join(roles)} and bbx."
        )
    queries = [
        Query(images[stem], _box(truth, entry["bbx"]))
        for stem, entry in zip(query_names, entries, strict=True)
    ]
    lists = {role: [[int(i) for i in np.ravel(e[role])] for e in entries] for role in roles}
    outside = [
        i for found in lists.values() for one in found for i in one if not 0 <= i < len(names)
    ]
    if outside:
        raise UserError(f"'{truth}' names image {outside[0]} of a list of {len(names)}.")
    chosen = tuple(images[stem] for stem in names)
    return Landmarks(name, chosen, tuple(queries), lists, None, (), ())


def _box(path: Path, values: Any) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UserError(f"'{path}' has a region {values}; expected four numbers.") from error
    return left, top, right, bottom


def _check_names(path: Path, names: set[str], images: dict[str, Path]) -> None:
    missing = sorted(str(stem) for stem in names - images.keys())
    if missing:
        raise UserError(
            f"'{path}' names {len(missing)} images that are not in '{path.parent}' or cannot be "
            f"used, the first is '{missing[0]}': found {len(images)} images. Unpack the archives "
            "of images again, whole."
        )
