"""What a report needs of a run's network and data: features, small pictures, and how to show them.

At most `BANK` training and `QUERIES` test pictures are read, evenly spaced.
"""

import base64
import contextlib
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jssl import data, methods
from jssl.data.subset import Subset
from jssl.errors import UserError
from jssl.evaluate.gallery import shown
from jssl.run.build import Experiment
from jssl.types import TrainState

BANK, QUERIES = 2000, 1000
DOZEN = 12
THUMB = 64  # side of a small picture, in pixels
BATCH = 256


class Network(NamedTuple):
    """A trained network and the data of its run.

    Attributes:
        parts: of the run.
        state: global.
        compiled: `(state, images) -> (features, intermediates)`, compiled.
        names: of the classes, by number; () without labels.
        tested: whether the queries are of a test split; else they are training pictures.
    """

    parts: Experiment
    state: TrainState
    compiled: Callable[..., Any]
    names: tuple[str, ...]
    tested: bool

    @property
    def labelled(self) -> bool:
        return self.parts.probe_source.num_classes > 1


class Seen(NamedTuple):
    """Pictures that went through the network.

    Attributes:
        features: float32 [M,D].
        logits: float32 [M,K] of the run's own classifier; None without one.
        labels: int32 [M].
        thumbs: uint8 [M,s,s,3].
        images: uint8 [n,H,W,C], the first ones of an even spacing in full, at most `DOZEN`.
        places: int [n], their rows.
        source: its name.
    """

    features: np.ndarray
    logits: np.ndarray | None
    labels: np.ndarray
    thumbs: np.ndarray
    images: np.ndarray
    places: np.ndarray
    source: str


def network_of(parts: Experiment, state: TrainState, compiled: Callable[..., Any]) -> Network:
    """Returns the network of a run with the names of its classes."""
    count = max(parts.probe_source.num_classes, 0)
    names = data.class_names(parts.probe_source) or tuple(map(str, range(count)))
    return Network(parts, state, compiled, tuple(names), parts.test_source is not None)


def see(network: Network, source: Any, count: int) -> Seen:
    """Embeds at most `count` evenly spaced pictures of a source.

    Raises:
        UserError: none of them can be read.
    """
    parts = network.parts
    part, config = Subset(source, count), parts.config
    transform = data.eval_transform(config.data, part, size=config.augment.size)
    own = methods.get(config.method).has_classifier
    places = np.unique(np.linspace(0, len(part) - 1, min(DOZEN, len(part))).astype(int))
    columns: dict[str, list[Any]] = {k: [] for k in ("features", "logits", "labels", "thumbs")}
    images, kept, rows = [], [], 0
    batches = data.eval_batches(part, batch_size=min(BATCH, len(part)), transform=transform)
    with contextlib.closing(iter(batches)) as running:
        for batch in running:
            features, named = network.compiled(network.state, batch["image"])
            keep = np.asarray(batch["mask"])
            columns["features"].append(np.asarray(features, np.float32)[keep])
            if own and "logits" in named:
                columns["logits"].append(np.asarray(named["logits"], np.float32)[keep])
            columns["labels"].append(batch["label"][keep])
            pictures = batch["image"][keep]
            columns["thumbs"].append(np.stack([thumb(x) for x in pictures]))
            for index, picture in zip(batch["index"][keep], pictures, strict=True):
                if index in places:
                    images.append(picture)
                    kept.append(rows)
                rows += 1
    if not images:
        raise UserError(f"None of the pictures of '{source.name}' that are shown can be read.")
    joined: dict[str, Any] = {k: np.concatenate(v) if v else None for k, v in columns.items()}
    return Seen(**joined, images=np.stack(images), places=np.array(kept, int), source=source.name)


def thumb(pixels: np.ndarray) -> np.ndarray:
    """Returns a picture uint8 [H,W,C] (or [V,H,W,C], its first) as colours, THUMB px at most."""
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    side = min(THUMB, max(pixels.shape[:2]))
    picture = Image.fromarray(shown(pixels))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def uri(pixels: np.ndarray, *, side: int = 0, kind: str = "JPEG") -> str:
    """Returns a picture uint8 [H,W,3] as a data URI.

    Args:
        pixels: of the picture.
        side: in pixels, to which a smaller one is enlarged without smoothing, and a larger one is
            reduced; 0: unchanged.
        kind: 'JPEG' or 'PNG'.
    """
    picture = Image.fromarray(pixels)
    if side:
        larger = side > max(picture.size)
        share = side / max(picture.size)
        size = max(1, round(share * picture.width)), max(1, round(share * picture.height))
        how = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
        picture = picture.resize(size, how)
    buffer = io.BytesIO()
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def class_name(network: Network, label: int) -> str:
    """Returns the name of a class; its number if it has none, '' without a label."""
    if label < 0 or not network.labelled:
        return ""
    return network.names[label] if label < len(network.names) else str(label)
