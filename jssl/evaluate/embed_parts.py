"""Features in parts on the disk: the memory is bounded, and a killed embedding resumes.

The parts are files in a folder beside the output, each written whole. `plan.json` there says of
what they are: parts of another network, data set or setting are never used. Each process of a job
computes every P-th part with its own devices; process 0 puts them together.
"""

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jssl import data, files
from jssl.data.fetch import NOTES, Problems
from jssl.errors import UserError
from jssl.parallel.launcher import AXIS_NAME
from jssl.run.writers import say
from jssl.types import Array, PyTree

BATCH = 256  # pictures, rounded up to a multiple of the devices
PART_BYTES = 2**25  # of the features of a part, at most, unless a batch has more
MOST_BATCHES = 16  # of a part: so much is computed again after a kill
PLAN = "plan.json"


class Part(NamedTuple):
    """A part of the features of a source.

    Attributes:
        features: float32 [m,D].
        labels: int32 [m].
        indices: int32 [m], of the examples in the source.
        sizes: int32 [m,2], height and width of the pictures; 0 of a source without files.
        notes: of pictures that were skipped or converted, see `jssl.data.fetch`.
    """

    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    sizes: np.ndarray
    notes: list[tuple[str, int, str]]


class Parts:
    """The parts of an embedding, and the folder that they are in.

    Args:
        output: the file that is made of them; the folder is `OUTPUT.parts`.
        plan: what the parts are of, JSON-serialisable.
        batches: number of batches of the source.
        per_part: batches of a part.
    """

    def __init__(self, output: str | Path, plan: Mapping[str, Any], *, batches: int, per_part: int):
        self.folder = Path(f"{output}.parts")
        self._plan = json.loads(json.dumps({**plan, "per_part": per_part}))
        self._batches, self.per_part = batches, per_part

    def __len__(self) -> int:
        return -(-self._batches // self.per_part)

    def steps(self, part: int) -> range:
        """Returns the batches of a part."""
        return range(part * self.per_part, min((part + 1) * self.per_part, self._batches))

    def open(self) -> None:
        """Deletes the parts of another plan, and says so; with several processes, process 0 does.

        Raises:
            UserError: the folder is none of an embedding, or cannot be written.
        """
        if jax.process_index() == 0 and self.folder.exists():
            old = self._read_plan()
            if old != self._plan:
                other = sorted(k for k in {*old, *self._plan} if old.get(k) != self._plan.get(k))
                say(
                    f"NOTE the parts in {self.folder} are of another embedding (different: "
                    f"{', '.join(other)}): they are deleted, and it starts anew"
                )
                self.remove()
        together("the parts are checked")

    def _read_plan(self) -> dict[str, Any]:
        try:
            plan = json.loads((self.folder / PLAN).read_bytes())
            if not isinstance(plan, dict):
                raise ValueError("no dictionary")
        except (OSError, ValueError):
            raise UserError(
                f"'{self.folder}' is in the way, where the parts of an embedding are written: it "
                f"has no {PLAN} of one. Move it, or type another --output."
            ) from None
        return plan

    def read(self, part: int) -> Part | None:
        """Reads a part; None if it is not there, or damaged."""
        try:
            # Opened here, as numpy leaves a damaged file open.
            with open(self._path(part), "rb") as file, np.load(file, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in Part._fields}
            arrays["notes"] = [tuple(note) for note in json.loads(str(arrays["notes"]))]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Part(**arrays)

    def write(self, part: int, content: Part) -> None:
        """Writes a part whole; raises UserError if that is not possible."""
        arrays = content._asdict() | {"notes": np.array(json.dumps(content.notes))}
        try:
            self.folder.mkdir(exist_ok=True)
            if not (self.folder / PLAN).exists():
                files.write_json(self.folder / PLAN, self._plan)
            files.write_npz(self._path(part), **arrays)
        except OSError as error:
            raise UserError(
                f"'{self.folder}' cannot be written ({error.strerror}): the parts of the features "
                "go there. With room on the disk the same command resumes."
            ) from error

    def remove(self) -> None:
        """Deletes the folder of the parts, but nothing else that may be in it."""
        for path in [*self.folder.glob("part-*.npz"), self.folder / PLAN]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06}.npz"


def together(name: str) -> None:
    """Waits until all processes of the job are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"jssl.evaluate.embed_parts: {name}")


def fitting_batch(examples: int, devices: int) -> int:
    """Returns the batch size: 256, or all examples if they are fewer, a multiple of the devices.

    Example:
        >>> fitting_batch(10, 4), fitting_batch(1000, 4), fitting_batch(1000, 6)
        (12, 256, 258)
    """
    return -(-min(BATCH, max(1, examples)) // devices) * devices


def batches_per_part(batch_size: int, dim: int) -> int:
    """Returns how many batches of features [batch_size, dim] a part has.

    Example:
        >>> batches_per_part(256, 128), batches_per_part(256, 2**17)
        (16, 1)
    """
    return max(1, min(MOST_BATCHES, PART_BYTES // (4 * batch_size * dim)))


def sharded(program: Callable[..., Array], state: PyTree) -> Callable[[np.ndarray], Array]:
    """Returns `images -> features` with the images split over all devices of this process.

    Args:
        program: `(state, images [B,H,W,C]) -> float32 [B,D]`, compiled; B is a multiple of the
            number of devices.
        state: of the network.
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS_NAME,))
    placed = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    split = NamedSharding(mesh, PartitionSpec(AXIS_NAME))
    return lambda images: program(placed, jax.device_put(images, split))


def embed_to_parts(
    embed: Callable[[np.ndarray], Array],
    source: Any,
    parts: Parts,
    *,
    batch_size: int,
    transform: Callable | None,
    sizes: np.ndarray | None,
    progress: Callable[[int], None],
) -> None:
    """Computes the parts of this process that are not there yet.

    Args:
        embed: `images [B,H,W,C] -> float32 [B,D]`.
        source: examples, see `jssl.data.Source`.
        parts: where they are written.
        batch_size: B.
        transform: on the host, see `jssl.data.eval_transform`.
        sizes: int32 [M,2], filled while the source is read; None if it has no files.
        progress: called with the number of pictures of each batch.
    """
    own = range(jax.process_index(), len(parts), jax.process_count())
    absent = [part for part in own if parts.read(part) is None]
    done = len(own) - len(absent)
    if done:
        say(f"resumed: {done} of {len(own)} parts are there")
    for part in own:
        if part not in absent:
            progress(min(batch_size * len(parts.steps(part)), len(source)))
    steps = [step for part in absent for step in parts.steps(part)]
    batches = data.eval_batches(
        source, batch_size=batch_size, transform=transform, steps=steps, notes=True
    )
    columns: list[Part] = []

    def take(step: int, output: Array, batch: Mapping[str, Any]) -> None:
        keep = batch["mask"]
        rows = batch["index"][keep]
        measured = np.zeros((len(rows), 2), np.int32) if sizes is None else sizes[rows]
        features = np.asarray(output, np.float32)[keep]
        labels, indices = batch["label"][keep].astype(np.int32), rows.astype(np.int32)
        columns.append(Part(features, labels, indices, measured, list(batch[NOTES])))
        progress(int(keep.sum()))
        part = step // parts.per_part
        if step == parts.steps(part)[-1]:
            parts.write(part, _joined(columns))
            columns.clear()

    pending: Any = None
    with contextlib.closing(iter(batches)) as running:
        for step, batch in zip(steps, running, strict=True):
            output = embed(batch["image"])
            # The host reads one batch while the device computes the next.
            if pending is not None:
                take(*pending)
            pending = step, output, batch
    if pending is not None:
        take(*pending)


def _joined(columns: Sequence[Part]) -> Part:
    return Part(
        features=np.concatenate([part.features for part in columns]),
        labels=np.concatenate([part.labels for part in columns]),
        indices=np.concatenate([part.indices for part in columns]),
        sizes=np.concatenate([part.sizes for part in columns]),
        notes=[note for part in columns for note in part.notes],
    )


def all_parts(parts: Parts) -> Iterator[Part]:
    """Reads all parts in order; raises UserError if one is not there."""
    for number in range(len(parts)):
        part = parts.read(number)
        if part is None:
            raise UserError(
                f"Part {number} of {len(parts)} is not in '{parts.folder}': expected a folder that "
                "all processes share. The same command computes what is missing."
            )
        yield part


def check_parts(parts: Parts, source: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """Checks that every example of a source was embedded once.

    Returns:
        The number of rows, and `jssl.data.fetch.Problems.report` of all pictures.

    Raises:
        UserError: examples that were embedded twice or never.
    """
    problems = Problems(source.name, len(source))
    columns = []
    for part in all_parts(parts):
        problems.add(part.notes)
        columns.append(part.indices)
    indices = np.concatenate(columns)
    report = problems.report()
    skipped, different = report.get("skipped", {}).get("count", 0), len(np.unique(indices))
    if different != len(indices) or len(indices) != len(source) - skipped:
        raise UserError(
            f"Data set '{source.name}' has {len(source)} examples and {skipped} were skipped, but "
            f"{len(indices)} were embedded, {different} of them different: expected "
            "each once. Its __getitem__(i) must give the example whose 'index' is i."
        )
    return len(indices), report
