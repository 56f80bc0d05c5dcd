"""A trained network as an object that is called with pictures: `jssl.Encoder`."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import convert, data
from jssl.convert.containers import is_weights
from jssl.convert.pretrained import tell
from jssl.errors import UserError
from jssl.evaluate.embed import BACKBONE, check_finite, select_feature
from jssl.evaluate.inputs import Items, as_items
from jssl.evaluate.pictures import crop, preprocessing, reading
from jssl.precision import narrow
from jssl.run import build, pretrained, workdir


class Encoder:
    """A trained network that is called with pictures and returns their features.

    Args:
        path: the workdir of `jssl train` or `jssl import`, or a published weights file.
        step: of the checkpoint of a workdir; the newest by default.
        feature: 'backbone' or the name of an intermediate, such as 'logits'.
        batch_size: largest number of pictures that the network computes at once.

    Attributes:
        size: side of the square picture that the network gets, in pixels.
        channels: number C of its channels.
        dim: length D of a feature.
        classes: names of the classes of the data it was trained on, by number; None if unknown.
        card: what the network is: method, network, weights, preprocessing, licence, ...

    Raises:
        UserError: neither a workdir nor weights, or an unknown feature.

    Example (after a run):
        encoder = jssl.Encoder('runs/simclr_photos')
        features = encoder(['a.jpg', 'b.png'])     # float32 [2,D]
    """

    @narrow
    def __init__(
        self,
        path: str | Path,
        *,
        step: int | None = None,
        feature: str = BACKBONE,
        batch_size: int = 64,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size expects 1 or more, found {batch_size}.")
        path = Path(os.path.expanduser(path))
        config, embed, self._state, facts = _load(path, step)
        check_finite(self._state)
        self.size: int = config.augment.size
        self.classes: tuple[str, ...] | None = None
        if (path / workdir.CLASSES).exists():
            self.classes = workdir.read_classes(path)
        self._batch_size = batch_size
        self._crop, self._reading = crop(config), reading(config.data)
        self.channels: int = self._reading["channels"]
        self._embed = jax.jit(select_feature(embed, feature))
        image = jax.ShapeDtypeStruct((1, self.size, self.size, self.channels), "uint8")
        self.dim: int = jax.eval_shape(self._embed, self._state, image).shape[1]
        self.card: dict[str, Any] = {
            "method": config.method,
            "network": config.model.name,
            "feature": feature,
            "dim": self.dim,
            "preprocessing": preprocessing(config),
            **facts,
        }

    def __repr__(self) -> str:
        lines = (f"{key}: {value}" for key, value in self.card.items())
        return f"jssl.Encoder({'; '.join(lines)})"

    @narrow
    def __call__(self, pictures: Any) -> np.ndarray:
        """Computes the features of pictures.

        A picture is prepared as `jssl embed` prepares those of a folder: short side resized,
        central square. An array that is `size` x `size` pixels already is taken as it is.

        Args:
            pictures: the path of a picture, a picture of Pillow, an array [H,W,C] or [B,H,W,C],
                or a list of these, of mixed sizes. Arrays are uint8 or float in [0, 1], or uint16
                for a run with a data.range.

        Returns:
            float32 [N,D], in the order of the pictures.

        Raises:
            UserError: no pictures, one that cannot be read, or an array of another kind.
        """
        items = Items(
            as_items(pictures, self.channels, self._reading["levels"]),
            self._crop,
            side=self.size,
            **self._reading,
        )
        # Powers of two, so that calls with few pictures compile at most a few shapes.
        batch_size = min(self._batch_size, 1 << (len(items) - 1).bit_length())
        batches = data.eval_batches(items, batch_size=batch_size)
        parts, pending = [], None
        for batch in batches:
            output = self._embed(self._state, batch["image"]), batch["mask"]
            if pending is not None:  # the host reads one batch while the device computes the next
                parts.append(np.asarray(pending[0])[pending[1]])
            pending = output
        if pending is not None:
            parts.append(np.asarray(pending[0])[pending[1]])
        return np.concatenate(parts)


def _load(path: Path, step: int | None) -> tuple[ConfigDict, Any, Any, dict[str, Any]]:
    """Returns config, `embed`, state and the facts for the card, of a workdir or weights file."""
    if (path / "config.json").exists() and (path / "checkpoints").is_dir():
        config = workdir.read_config(path)
        embed, state = build.load_encoder(path, step=step)
        facts: dict[str, Any] = {"weights": str(path), "step": int(state.step)}
        if (path / pretrained.WEIGHTS).exists():
            imported = workdir.read_json(path / pretrained.WEIGHTS)
            facts |= {"weights": imported["file"], "licence": imported["licence"]}
        return config, embed, state, facts
    if not path.exists() and not is_weights(path):
        raise UserError(
            f"'{path}' does not exist: expected the workdir of a run, or a published weights file."
        )
    if not is_weights(path):
        workdir.read_config(path)  # a workdir of several stages names the folders of its networks
        raise UserError(
            f"'{path}' has no checkpoints: expected the workdir of a run that saved one, or a "
            "published weights file."
        )
    if step is not None:
        raise UserError(f"'{path}' is a weights file, which has no steps: leave step={step} out.")
    loaded = convert.read_pretrained(path)
    tell(loaded, path, stacklevel=5)
    method, _ = build.make_method(loaded.config, axis_name=None)
    facts = {"weights": str(path), "licence": loaded.family.licence}
    return loaded.config, method.embed, loaded.state, facts
