"""The network of a run that is exported: which of its weights, and of which checkpoint."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jssl import methods
from jssl.errors import UserError, nearest
from jssl.run import build, checkpoint, workdir
from jssl.types import PyTree, TrainState

WHICH = ("online", "averaged")


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network, read from a workdir.

    Attributes:
        folder: the workdir.
        config: of the run.
        step: of the checkpoint.
        which: 'online' or 'averaged'.
        judged: whether these are the weights that the run's own evaluation uses.
        params, batch_stats: of all of the method's modules.
        embed: `(state, images) -> (features, intermediates)`; with `state` it uses `params`.
        state: the training state, so that `embed` uses `params`.
    """

    folder: Path
    config: Any
    step: int
    which: str
    judged: bool
    params: PyTree
    batch_stats: PyTree
    embed: Callable[..., Any]
    state: TrainState

    @property
    def leaves(self) -> dict[str, np.ndarray]:
        """Path, as 'params.encoder.conv_init.kernel' -> float32 array."""
        tree = {"params": self.params, "batch_stats": self.batch_stats}
        return {
            path: np.asarray(leaf, np.float32)
            for path, leaf in checkpoint.flat_leaves(tree).items()
        }

    @property
    def about(self) -> str:
        """One line for the terminal and the card."""
        kind = "the averaged weights" if self.which == "averaged" else "the online weights"
        used = "which the run's own evaluation uses" if self.judged else "not those that are judged"
        return f"{kind} of step {self.step:,}, {used}"


def read_network(
    folder: str | Path, *, which: str | None = None, step: int | None = None
) -> Network:
    """Reads the network of a run.

    Args:
        folder: the workdir.
        which: 'online' or 'averaged'; by default those that the run's own evaluation uses.
        step: of the checkpoint; the newest by default.

    Raises:
        UserError: no workdir or checkpoint; averaged weights of a run that has none.
    """
    if which is not None and which not in WHICH:
        raise UserError(f"Unknown --which={which}: {nearest(which, WHICH)}.")
    config = workdir.read_config(folder)
    spec = methods.get(config.method)
    embed, state = build.load_encoder(folder, step=step)
    networks = spec.networks(state)
    averaged = spec.averaged[0] if spec.averaged and spec.averaged[0] in networks else None
    if which == "averaged" and averaged is None:
        raise UserError(
            f"The run in '{folder}' of method '{config.method}' keeps no averaged weights: type "
            "--which=online."
        )
    judged = "online" if averaged is None else "averaged"
    which = which or judged
    params, batch_stats = networks["params" if averaged is None or which == "online" else averaged]
    if which != judged:
        assert spec.averaged is not None
        fields = dict(zip(spec.averaged, (params, batch_stats), strict=True))
        state = state.replace(**fields)
    return Network(
        Path(folder), config, int(state.step), which, which == judged, params, batch_stats,
        embed, jax.device_get(state),
    )  # fmt: skip
