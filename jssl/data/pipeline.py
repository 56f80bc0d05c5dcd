"""Training batches in an order that depends only on the seed: grain over a global step count.

The order of epoch e is one permutation of the data set, drawn from (seed, e); the last incomplete
batch of an epoch is dropped. The b-th global batch of an epoch is entries [b * N, (b + 1) * N) of
that order, and process p of P reads the p-th of P equal parts of it. The random numbers of an
example's transform are keyed by (seed, epoch, example index), and by how often it came before in
that epoch. So the batches are the same for any number of processes, workers and threads, and the
next step is the whole state of the iterator; an order made from a method's state is restored with
that state.
"""

import copy
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags, logging

from jssl.data.fetch import NOTES, Problems, fetch, plain_errors, stack
from jssl.data.sources import Source
from jssl.errors import UserError
from jssl.third_party import unchanged

with unchanged():
    import grain

Order = Callable[[int, int, int], np.ndarray]
NumpyBatch = dict[str, np.ndarray]
BUFFERED_BATCHES = 2  # ready batches, besides those being made by the threads
GRACE_SECONDS = 60  # that a worker stays alive after SIGTERM, so that its parent can save


def shuffled(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the order of one epoch: a permutation of `num_examples`, int64 [M].

    Sorts raw Philox bits, which numpy keeps stable over versions.

    Example:
        >>> sorted(shuffled(0, 3, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_examples)
    return np.argsort(bits, kind="stable")


def repeated(repeats: int, *, batch_size: int, groups: int = 1) -> Order:
    """Returns the order of repeated augmentation: M / repeats examples, each `repeats` times.

    The copies of an example are in the same batch, in different groups if there are enough: entry
    j of a batch goes to group j mod `groups`, as the official sampler distributes over GPUs. An
    epoch keeps M entries.

    Args:
        repeats: copies of each example.
        batch_size: global.
        groups: number of contiguous groups of a batch; divides `batch_size`.

    Raises:
        UserError: fewer than one repeat; groups that do not divide the batch.

    Example:
        >>> order = repeated(3, batch_size=6, groups=3)(0, 0, 12)
        >>> [len(set(order[i::2][:3].tolist())) for i in range(2)], len(set(order.tolist()))
        ([1, 1], 4)

    Reference:
        Hoffer et al., CVPR 2020, https://arxiv.org/abs/1901.09335;
        https://github.com/facebookresearch/deit, samplers.py.
    """
    if repeats < 1 or groups < 1 or batch_size % groups:
        raise UserError(
            f"Repeated augmentation expects repeats >= 1 and groups that divide the batch, found "
            f"{repeats} repeats and {groups} groups of {batch_size}. Type for example "
            "--config.METHOD.repeated_augmentation=3 --config.METHOD.mix_groups=4."
        )

    def order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
        indices = np.repeat(shuffled(seed, epoch, num_examples), repeats)[:num_examples]
        end = num_examples // batch_size * batch_size
        grouped = indices[:end].reshape(-1, batch_size // groups, groups).swapaxes(1, 2)
        return np.concatenate([grouped.reshape(-1), indices[end:]])

    return order


class _Shard:
    """Random access to this process's part of every training batch; picklable, for workers."""

    def __init__(self, source, transform, order, seed, batch_size, process_index, process_count):
        self.source, self.transform, self.order, self.seed = source, transform, order, seed
        self.batch_size, self.local_size = batch_size, batch_size // process_count
        self.offset = process_index * self.local_size
        self.steps_per_epoch = len(source) // batch_size
        self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __getstate__(self):
        return {**self.__dict__, "_orders": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the indices of an epoch, and for each how often it came before."""
        with self._lock:
            result = self._orders.get(epoch)
            if result is None:
                order = np.asarray(self.order(self.seed, epoch, len(self.source)))
                _check_order(order, len(self.source))
                result = self._orders[epoch] = order, _times_before(order)
                # Threads may be on both sides of an epoch's end: keep two orders.
                for old in sorted(self._orders)[:-2]:
                    del self._orders[old]
            return result

    def reordered(self, order: Order) -> "_Shard":
        """Returns a copy with another order, as threads may still use this one."""
        other = copy.copy(self)
        other.__setstate__({**self.__getstate__(), "order": order})
        return other

    def batch(self, step: int) -> dict[str, Any]:
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.batch_size + self.offset
        rows = slice(start, start + self.local_size)
        examples = []
        for index, before in zip(*(x[rows].tolist() for x in self.order_of(epoch)), strict=True):
            draw = functools.partial(_generator, self.seed, epoch, before)
            examples.append(fetch(self.source, index, self.transform, draw))
        return stack(examples)


def _generator(seed: int, epoch: int, before: int, index: int) -> np.random.Generator:
    entropy = [seed, epoch, index, *([before] if before else [])]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _times_before(order: np.ndarray) -> np.ndarray:
    """Counts the earlier occurrences of each entry: 0 everywhere in a permutation."""
    by_index = np.argsort(order, kind="stable")
    values = order[by_index]
    place = np.arange(len(order))
    starts = np.concatenate([[True], values[1:] != values[:-1]])
    before = np.empty_like(place)
    before[by_index] = place - np.maximum.accumulate(np.where(starts, place, 0))
    return before


def _check_order(order: np.ndarray, num_examples: int) -> None:
    if order.shape != (num_examples,) or order.dtype.kind != "i":
        raise ValueError(
            f"order must return integers [M] with M={num_examples}; found {order.dtype} "
            f"{list(order.shape)}"
        )
    if num_examples and not 0 <= order.min() <= order.max() < num_examples:
        raise ValueError(
            f"order must return indices in [0, {num_examples}); found "
            f"{order.min()} to {order.max()}"
        )


class TrainBatches(Iterator[NumpyBatch]):
    """Endless iterator of one process's share of the training batches; see `train_batches`.

    Attributes:
        next_step: global step of the next batch.
        steps_per_epoch: whole batches in one epoch.
        problems: the pictures that were replaced or converted; see `Problems`.
    """

    def __init__(self, shard: _Shard, start_step: int, workers: int, threads: int):
        self.next_step = start_step
        self.steps_per_epoch = shard.steps_per_epoch
        self.problems = Problems(shard.source.name, len(shard.source))
        self._shard, self._workers, self._threads = shard, workers, threads
        self._batches: Any = None

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self.next_step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """Index of the next batch in its epoch, from 0."""
        return self.next_step % self.steps_per_epoch

    def __next__(self) -> NumpyBatch:
        if self._batches is None:
            self._batches = self._start()
        try:
            with plain_errors():
                batch = next(self._batches)
        except BaseException:
            self.close()  # the next call retries the same step
            raise
        self.problems.add(batch.pop(NOTES))
        self.next_step += 1
        # A worker's arrays are in its shared memory: copy them, as the worker may end first.
        return {key: np.array(value, copy=bool(self._workers)) for key, value in batch.items()}

    def _start(self) -> Iterator[dict[str, Any]]:
        first, shard = self.next_step, self._shard
        steps = grain.MapDataset.range(first, first + 2**40)
        batches = steps.map(shard.batch).to_iter_dataset(
            grain.ReadOptions(
                num_threads=self._threads, prefetch_buffer_size=self._threads + BUFFERED_BATCHES
            )
        )
        if self._workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads its own flags: use their defaults
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=BUFFERED_BATCHES
                ),
                worker_init_fn=functools.partial(_outlive_signals, os.getpid()),
            )
        return iter(batches)

    def state(self) -> dict[str, Any]:
        """Returns the state for `restore`, to be saved as JSON."""
        shard = self._shard
        return {
            "next_step": self.next_step,
            "seed": shard.seed,
            "batch_size": shard.batch_size,
            "source": shard.source.name,
            "num_examples": len(shard.source),
            "fingerprint": shard.source.fingerprint(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a saved state; the number of processes and workers may differ.

        Raises:
            UserError: the state is of another data set, seed or batch size.
        """
        own = self.state()
        labels = {"source": "data set", "num_examples": "number of examples", "seed": "seed"}
        labels |= {"batch_size": "batch size", "fingerprint": "data set's fingerprint"}
        for key, label in labels.items():
            if state.get(key) != own[key]:
                raise UserError(
                    f"The saved data state has another {label}: found {state.get(key)}, this run "
                    f"has {own[key]}. Train with the settings of the saved run, or type another "
                    "--workdir to start anew."
                )
        self.close()
        self.next_step = int(state["next_step"])

    def reorder(self, order: Order) -> None:
        """Changes the order from the next batch on; drops prefetched batches."""
        self.close()
        self._shard = self._shard.reordered(order)

    def close(self) -> None:
        """Stops the threads and workers; the next batch restarts them."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 0,
    transform: Callable | None = None,
    order: Order = shuffled,
) -> TrainBatches:
    """Returns endless training batches of one process, reshuffled each epoch.

    Args:
        source: M examples; for a picture that cannot be used, `source.on_error` 'stop' raises its
            `PictureError`, 'skip' takes the next good example in its place.
        batch_size: GLOBAL, over all processes.
        seed: of the order and of the transforms; >= 0.
        start_step: global step of the first batch.
        process_index, process_count: which part of each global batch to read.
        workers: processes that read and decode; 0 uses threads of this process only. The program
            must then be guarded by `if __name__ == '__main__'`, as workers import it.
        threads: that read and decode in each process; 0: one a core, at most 8, but 2 in a worker.
        transform: `(example, rng) -> example` before batching; None decodes only.
        order: `(seed, epoch, M) -> indices [M]`, repeats allowed; for methods that resample.

    Returns:
        Iterator of `{'image': uint8 [B,H,W,3] or [B,V,H,W,3], 'label': int32 [B],
        'index': int32 [B]}`, B = batch_size // process_count. After a replacement, `index` is
        that of the replacement.

    Raises:
        UserError: the data set is empty or smaller than a batch, or the batch is not divisible by
            the processes.

    Example:
        >>> from jssl.data.sources import synthetic_source
        >>> batches = train_batches(synthetic_source('train', size=8), batch_size=256, seed=0)
        >>> next(batches)['image'].shape, batches.epoch, batches.step_in_epoch
        ((256, 8, 8, 3), 0, 1)
        >>> batches.close()
    """
    if len(source) == 0:
        raise UserError(f"Data set '{source.name}' is empty: found 0 examples.")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"Batch size {batch_size} is not divisible by the {process_count} processes. Type "
            f"--config.batch_size={max(1, batch_size // process_count) * process_count}."
        )
    if batch_size > len(source):
        raise UserError(
            f"Batch size {batch_size} is larger than the {len(source)} examples of data set "
            f"'{source.name}'. Type --config.batch_size=N with N at most {len(source)}."
        )
    shard = _Shard(source, transform, order, seed, batch_size, process_index, process_count)
    threads = threads or (2 if workers else default_threads())
    return TrainBatches(shard, start_step, workers, threads)


def default_threads() -> int:
    """Returns the default number of threads that read and decode: one a core, at most 8."""
    return min(8, os.cpu_count() or 1)


def _outlive_signals(parent: int, index: int, count: int) -> None:
    """Makes a worker end with its parent, but not before the parent has had time to save.

    SIGTERM and Ctrl-C go to the whole process group. If a worker died at once, the step after
    which the parent saves would fail; a worker whose parent was killed would wait for ever.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    def later(*_):
        timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, later)
    threading.Thread(target=watch, daemon=True).start()
    logging.debug("data worker %d of %d", index, count)
