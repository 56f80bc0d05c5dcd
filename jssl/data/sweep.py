"""Evaluation batches: every example of a data set exactly once, in batches of one shape."""

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from jssl.data.fetch import NOTES, Problems, fetch, plain_errors, stack
from jssl.data.pipeline import BUFFERED_BATCHES, NumpyBatch, default_threads
from jssl.data.sources import Source
from jssl.errors import UserError
from jssl.third_party import unchanged

with unchanged():
    import grain


class EvalBatches:
    """Every example once, in order; can be iterated again. See `eval_batches`.

    Attributes:
        problems: the pictures that were left out or converted; see `Problems`.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        transform: Callable | None,
        threads: int,
        process_index: int,
        process_count: int,
        steps: Sequence[int] | None = None,
        notes: bool = False,
    ):
        self.problems = Problems(source.name, len(source))
        self._source, self._batch_size, self._transform = source, batch_size, transform
        self._threads, self._size = threads, batch_size // process_count
        self._offset = process_index * self._size
        whole = range(math.ceil(len(source) / batch_size))
        self._steps, self._notes = whole if steps is None else steps, notes

    def __len__(self) -> int:
        return len(self._steps)

    def _batch(self, place: int) -> dict[str, Any]:
        start = self._steps[place] * self._batch_size + self._offset
        indices = range(start, max(start, min(start + self._size, len(self._source))))
        examples = [fetch(self._source, i, self._transform, None) for i in indices]
        # Equal batch shapes, so that the step compiles once.
        padding = self._size - len(examples)
        last = examples[-1] if examples else fetch(self._source, 0, self._transform, None)
        no_label = np.full_like(last["label"], -1)
        padding_row = {**last, "label": no_label, "index": np.int32(-1), NOTES: ()}
        batch = stack(examples + [padding_row] * padding)
        # A replacement is masked out: it is evaluated at its own index.
        batch["mask"] = batch["index"] == np.pad(indices, (0, padding), constant_values=-2)
        return batch

    def __iter__(self) -> Generator[NumpyBatch, None, None]:
        steps = grain.MapDataset.range(len(self)).map(self._batch)
        read_options = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=self._threads + BUFFERED_BATCHES
        )
        batches = iter(steps.to_iter_dataset(read_options))
        try:
            with plain_errors():
                for batch in batches:
                    self.problems.add(batch[NOTES])
                    if not self._notes:
                        del batch[NOTES]
                    yield batch
        finally:
            batches.close()


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    transform: Callable | None = None,
    threads: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    steps: Sequence[int] | None = None,
    notes: bool = False,
) -> EvalBatches:
    """Batches that hold every example exactly once, in order, all of one shape.

    Args:
        source: M examples.
        batch_size: rows of a batch, over all processes; the last one is padded up to it.
        transform: `(example, None) -> example`; None decodes only.
        threads: that read and decode; 0: one a core, at most 8.
        process_index, process_count: which part of each batch to read.
        steps: the batches to read, of ceil(M / batch_size); all by default.
        notes: whether a batch keeps its `NOTES`, as `Problems.add` takes them.

    Returns:
        Iterable of ceil(M / batch_size) batches as from `train_batches`, with 'mask' bool [B]:
        True for the rows to count, False for padding (label and index -1) and, under
        `on_error='skip'`, for the replacement of a picture that cannot be used.

    Raises:
        UserError: the data set is empty.

    Example:
        >>> from jssl.data.sources import synthetic_source
        >>> source = synthetic_source('test', size=8, num_examples=40)
        >>> [int(b['mask'].sum()) for b in eval_batches(source, batch_size=8)]
        [8, 2]
    """
    if len(source) == 0:
        raise UserError(f"Data set '{source.name}' is empty: found 0 examples.")
    return EvalBatches(
        source,
        batch_size,
        transform,
        threads or default_threads(),
        process_index,
        process_count,
        steps,
        notes,
    )
