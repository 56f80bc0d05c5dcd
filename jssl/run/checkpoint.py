"""Checkpoints of the state and of the data iterator, written by orbax.

A checkpoint is the flat dict of the state's leaves by path, the iterator's JSON, and a description
of both. Orbax writes it atomically: to a temporary folder, which is then renamed; for buckets see
`jssl.run.stores`. It has no device
axis and restores onto any number of devices. Its files are compared with their checksums before
they are read.
"""

import contextlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jssl.errors import UserError
from jssl.run import checksums, stores
from jssl.run.writers import say
from jssl.third_party import unchanged
from jssl.types import PyTree, TrainState

with unchanged():
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies


def flat_leaves(state: PyTree) -> dict[str, Any]:
    """Returns the leaves by dotted path; typed PRNG keys as their uint32 data.

    Example:
        >>> import numpy as np
        >>> list(flat_leaves({'a': {'b': np.zeros(2)}, 'c': np.ones(1)}))
        ['a.b', 'c']
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(p, simple=True, separator="."): _raw(x) for p, x in flat}


def from_leaves(like: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """Inverts `flat_leaves`: a tree with the structure of `like`."""
    values = [
        jax.random.wrap_key_data(leaves[name])
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaves[name]
        for name, leaf in zip(flat_leaves(like), jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), values)


# Before schema 3 classifiers had other names: DeiT's two were `head` and `head_dist`.
_OLDER = (
    (re.compile(r"(^|\.)head\.dense\."), r"\1classifier."),
    (re.compile(r"(^|\.)head_dist\.dense\."), r"\1classifier_dist."),
    (re.compile(r"(^|\.)(classifier|top_layer)\.dense\."), r"\1\2."),
    (re.compile(r"^(top_opt_state\..*)\.dense\."), r"\1."),
)


def newer_name(leaf: str) -> str:
    """Returns the current path of a leaf, from its path in an older checkpoint.

    Example:
        >>> newer_name('params.head.dense.kernel'), newer_name('params.head.kernel')
        ('params.classifier.kernel', 'params.head.kernel')
    """
    for pattern, name in _OLDER:
        leaf = pattern.sub(name, leaf)
    return leaf


def _raw(leaf: Any) -> Any:
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raw = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=leaf.sharding)
    return jax.random.key_data(leaf)


def describe(state: PyTree) -> dict[str, list[Any]]:
    """Returns path -> [shape, dtype] of each leaf, as it is stored with a checkpoint."""
    return {k: [list(x.shape), str(x.dtype)] for k, x in flat_leaves(state).items()}


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
    """Makes absl log errors only: Orbax warns about every read-only checkpoint."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
        workdir: the run's folder; checkpoints are in its `checkpoints/`.
        method: name of the method, stored in and compared with each checkpoint.
        keep: number of newest checkpoints to keep; -1 for all.
        keep_every_steps: also keep every N-th step permanently; 0 for none.
        read_only: neither create nor clean up the folder.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        method: str,
        keep: int = 2,
        keep_every_steps: int = 0,
        read_only: bool = False,
    ):
        kept: list[Any] = [policies.LatestN(keep if keep >= 0 else None)]
        if keep_every_steps:
            kept.append(policies.EveryNSteps(keep_every_steps))
        self.folder, self._workdir = stores.checkpoints(workdir), Path(workdir)
        self._method = method
        self._saving = self._verified = -1
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=0 if read_only else 1,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_sums),
        )
        with _only_errors() if read_only else contextlib.nullcontext():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None; empty folders are skipped."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        return next((s for s in steps if not self._is_empty(s)), None)

    def newest_whole(self) -> tuple[int | None, list[str]]:
        """Returns the newest undamaged step, and moves damaged newer checkpoints away.

        Every process of a job gets the answer of the first. It reads all files, so call it once
        per start.

        Returns:
            The step, None if there is no checkpoint; and a line to print for each that was moved.

        Raises:
            UserError: all checkpoints are damaged; nothing was moved.
        """
        empty = self._move_empty()
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = {}
        if jax.process_index() == 0:
            for step in steps:
                problems = checksums.damage(self.folder / str(step))
                if not problems:
                    break
                damaged[step] = problems
        count = len(damaged)
        if jax.process_count() > 1:
            count = int(multihost_utils.broadcast_one_to_all(np.int32(count)))
        if count and count == len(steps):
            listed = "".join(f"\n  step {step}: {_first(damaged.get(step, []))}" for step in steps)
            raise UserError(
                f"Every checkpoint in {self.folder} is damaged:{listed}\n"
                "Copy an undamaged one there, or type another --workdir to start anew. For "
                "a checkpoint that you know to be complete, write the checksums in its folder: "
                f"sha256sum $(find */ -type f) > {checksums.SUMS}"
            )
        lines = empty + [self._move_away(step, problems) for step, problems in damaged.items()]
        if count:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are moved")
            self._manager.reload()
        if not steps:
            return None, empty
        self._verified = steps[count]
        return steps[count], lines

    def _is_empty(self, step: int) -> bool:
        return checksums.is_empty(self.folder / str(step))

    def _move_empty(self) -> list[str]:
        """Moves empty folders away, so that their steps can be saved again."""
        empty = [s for s in self._manager.all_steps() if self._is_empty(s)]
        if not empty:
            return []
        if jax.process_count() > 1:  # all processes have listed them before the first moves them
            multihost_utils.sync_global_devices("empty checkpoints are known")
        lines = []
        if jax.process_index() == 0:
            lines = [self._move_away(s, checksums.damage(self.folder / str(s))) for s in empty]
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("empty checkpoints are moved")
        self._manager.reload()
        return lines

    def _move_away(self, step: int, problems: list[str]) -> str:
        folder = self.folder.parent / "damaged"
        folder.mkdir(exist_ok=True)
        place = folder / str(step)
        for number in itertools.count(2):
            if not place.exists():
                break
            place = folder / f"{step}-{number}"
        stores.move(self.folder / str(step), place)
        return f"the checkpoint of step {step} is damaged ({_first(problems)}); moved to {place}"

    def _write_sums(self) -> None:
        # Called when all items are written, before the folder is renamed.
        if jax.process_index() == 0:
            if isinstance(self.folder, Path):
                (folder,) = self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
            else:  # in a bucket it has its name from the start, and a marker makes it whole
                folder = self.folder / str(self._saving)
            checksums.write_sums(folder)
            stores.push(self._workdir)  # the numbers of these steps, before it is whole

    def save(self, step: int, state: TrainState, data_state: dict[str, Any]) -> None:
        """Starts writing a checkpoint; the arrays are copied before this returns."""
        if step in self._manager.all_steps():
            return
        about = {"method": self._method, "leaves": describe(state)}
        self._manager.wait_until_finished()
        self._saving = step
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(flat_leaves(state)),
                data=ocp.args.JsonSave(data_state),
                about=ocp.args.JsonSave(about),
            ),
        )

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Reads a checkpoint into the shapes and shardings of `like`.

        Args:
            like: state of arrays, or of ShapeDtypeStructs with shardings.
            step: of the checkpoint; the newest by default.

        Returns:
            The state, and the data iterator's JSON.

        Raises:
            UserError: no checkpoint, a damaged one, one of another method, or one with other
                shapes, naming the first leaves that differ.
        """
        for empty in (s for s in self._manager.all_steps() if self._is_empty(s)):
            say(f"WARNING {self.folder / str(empty)} is an empty folder: skipped")
        step = self.latest_step() if step is None else step
        if step is None:
            raise UserError(f"No checkpoint in {self.folder}: train first, or check --workdir.")
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, sorted(self._manager.all_steps())))
            raise UserError(f"No checkpoint of step {step} in {self.folder}: there are {steps}.")
        if step != self._verified and (problems := checksums.damage(self.folder / str(step))):
            raise UserError(
                f"The checkpoint {self.folder / str(step)} is damaged: {_first(problems)}. "
                f"Undamaged steps: {self._undamaged()}. Type --step=N with one of them, or copy it "
                "again."
            )
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
        stored = {newer_name(name): name for name in about["about"]["leaves"]}
        self._check(about["about"], describe(like), step)
        flat = {
            stored[k]: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for k, x in flat_leaves(like).items()
        }
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(flat), data=ocp.args.JsonRestore()
            ),
        )
        leaves = {newer_name(name): value for name, value in restored["state"].items()}
        return from_leaves(like, leaves), restored["data"]

    def _undamaged(self) -> str:
        steps = sorted(self._manager.all_steps())
        good = [str(step) for step in steps if not checksums.damage(self.folder / str(step))]
        return ", ".join(good) or "none"

    def _check(self, about: dict[str, Any], expected: dict[str, list[Any]], step: int) -> None:
        found = {newer_name(name): leaf for name, leaf in about["leaves"].items()}
        where = f"Checkpoint {self.folder / str(step)}"
        if about["method"] != self._method:
            raise UserError(
                f"{where} is of method '{about['method']}', the config's is '{self._method}'. "
                f"Type another --workdir, or a config of method '{about['method']}'."
            )
        rows = [
            f"  {key}: checkpoint {_leaf(found.get(key))}, config {_leaf(expected.get(key))}"
            for key in sorted({*found, *expected})
            if found.get(key) != expected.get(key)
        ]
        if rows:
            shown = "\n".join(rows[:5])
            raise UserError(
                f"{where} has other shapes than the config's state in {len(rows)} leaves:\n"
                f"{shown}\n"
                "Type another --workdir, or the config of the checkpoint (config.json in the "
                "workdir)."
            )

    def wait(self) -> None:
        """Blocks until all started writes are on disk, or in the bucket."""
        self._manager.wait_until_finished()
        stores.push(self._workdir)

    def close(self) -> None:
        """Waits, then frees the writer."""
        self.wait()
        self._manager.close()


def _first(problems: list[str]) -> str:
    rest = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{rest}" if problems else "see process 0"


def _leaf(entry: list[Any] | None) -> str:
    return "absent" if entry is None else f"{entry[1]}{json.dumps(entry[0])}"
