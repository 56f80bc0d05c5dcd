"""Keeps the best state of a run, chosen on training examples that are held out.

`WORKDIR/best` is a workdir of its own, with the one checkpoint: every command takes it. `best.json`
in it says on which examples it was chosen and how good it was there. That number is optimistic, as
any number by which something was chosen: the test split takes no part.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax

from jssl import files
from jssl.run import checkpoint, workdir
from jssl.types import TrainState

FOLDER = "best"
RECORD = "best.json"
COPIED = ("config.json", "versions.json", workdir.CLASSES)


class Best:
    """The best state so far of the run in a workdir.

    Args:
        folder: the workdir.
        method: of the run.
        examples: description of the held-out examples.
    """

    def __init__(self, folder: Path, *, method: str, examples: str):
        self._run, self.folder, self._method, self._examples = (
            folder, folder / FOLDER, method, examples,
        )  # fmt: skip
        path = self.folder / RECORD
        self.record: dict[str, Any] = workdir.read_json(path) if path.exists() else {}

    def offer(self, step: int, top1: float, state: TrainState, data_state: dict[str, Any]) -> bool:
        """Keeps a state if it is better than the best so far.

        Args:
            step: number of updates of the state.
            top1: on the held-out examples, in [0, 1].
            state: global.
            data_state: of the data iterator.

        Returns:
            Whether it is the best now.
        """
        if not top1 > self.record.get("held_out_top1", -1.0):
            return False
        workdir.make_folder(self.folder)
        if jax.process_index() == 0:
            for name in COPIED:
                if (self._run / name).exists():
                    content = json.loads((self._run / name).read_bytes())
                    files.write_json(self.folder / name, content)
        saved = checkpoint.Checkpoints(self.folder, method=self._method, keep=1)
        with contextlib.closing(saved):
            saved.save(step, state, data_state)
        self.record = {"step": step, "held_out_top1": top1, "chosen_on": self._examples}
        if jax.process_index() == 0:
            files.write_json(self.folder / RECORD, self.record)
        return True
