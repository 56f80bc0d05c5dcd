"""Determinism, sharding, restoring and error messages."""

import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from helpers import Noisy

from jssl import data
from jssl.errors import UserError

SOURCE = data.synthetic_source("train", size=8, num_examples=50)


def batches(**options):
    options = {"batch_size": 12, "seed": 3, "transform": Noisy(), **options}
    return data.train_batches(options.pop("source", SOURCE), **options)


def take(iterator, count):
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def assert_same(result, expected):
    assert len(result) == len(expected)
    for a, b in zip(result, expected, strict=True):
        assert set(a) == set(b) == {"image", "label", "index"}
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


def test_order_is_the_permutation_of_seed_and_epoch():
    """Without the pipeline: four batches of 12 in an epoch of 50, two examples dropped."""
    result = take(batches(), 10)
    for step, batch in enumerate(result):
        epoch, within = divmod(step, 4)
        bits = np.random.Philox(np.random.SeedSequence([3, epoch])).random_raw(50)
        expected = np.argsort(bits, kind="stable")[12 * within : 12 * within + 12]
        np.testing.assert_array_equal(batch["index"], expected)
        np.testing.assert_array_equal(batch["label"], SOURCE.labels[expected])
        for image, index in zip(batch["image"], expected, strict=True):
            key = np.random.SeedSequence([3, epoch, index])
            rng = np.random.Generator(np.random.Philox(key))
            np.testing.assert_array_equal(image, rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    for epoch in (result[:4], result[4:8]):
        assert len({int(i) for batch in epoch for i in batch["index"]}) == 48
    assert (result[0]["index"] != result[4]["index"]).any()


def test_order_is_uniform():
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        counts[np.arange(6), data.shuffled(0, epoch, 6)] += 1
    # chi-square with 25 degrees of freedom: 58 is exceeded about once in 5,000
    assert ((counts - 500) ** 2 / 500).sum() < 58


def test_other_seeds_and_threads():
    expected = take(batches(), 6)
    assert_same(take(batches(threads=1), 6), expected)
    assert_same(take(batches(threads=5), 6), expected)
    other = take(batches(seed=4), 1)
    assert (other[0]["index"] != expected[0]["index"]).any()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_global_batch(count):
    expected = take(batches(), 9)
    parts = [take(batches(process_index=p, process_count=count), 9) for p in range(count)]
    assert all(part[0]["image"].shape == (12 // count, 4, 4, 3) for part in parts)
    joined = [
        {key: np.concatenate([part[step][key] for part in parts]) for key in expected[0]}
        for step in range(9)
    ]
    assert_same(joined, expected)


@pytest.mark.parametrize("step", [0, 1, 4, 6])
def test_restore_in_the_middle_of_an_epoch(step):
    expected = take(batches(), 12)
    first = batches()
    assert_same([next(first) for _ in range(step)], expected[:step])
    state = json.loads(json.dumps(first.state()))
    first.close()
    again = batches(threads=3)
    next(again)  # restoring replaces whatever was under way
    again.restore(state)
    assert (again.next_step, again.epoch, again.step_in_epoch) == (step, step // 4, step % 4)
    assert_same([next(again) for _ in range(12 - step)], expected[step:])
    again.close()
    # The same state on two processes, and a start at a step.
    parts = []
    for process in range(2):
        part = batches(process_index=process, process_count=2)
        part.restore(state)
        parts.append(take(part, 2))
    np.testing.assert_array_equal(
        np.concatenate([part[1]["index"] for part in parts]), expected[step + 1]["index"]
    )
    assert_same(take(batches(start_step=step), 2), expected[step : step + 2])


def test_workers_give_the_same_batches_survive_sigterm_and_report_sigkill():
    expected = take(batches(), 12)
    parallel = batches(workers=2, start_step=2)
    assert_same([next(parallel) for _ in range(3)], expected[2:5])
    state = parallel.state()
    children = [process.pid for process in multiprocessing.active_children()]
    assert len(children) == 2
    for child in children:  # as a cluster does to the whole group
        os.kill(child, signal.SIGTERM)
    assert_same([next(parallel) for _ in range(5)], expected[5:10])
    os.kill(children[0], signal.SIGKILL)  # as the kernel does when memory is short
    with pytest.raises(UserError, match="worker process that reads data was killed by SIGKILL"):
        [next(parallel) for _ in range(20)]
    start = time.monotonic()
    parallel.close()
    assert time.monotonic() - start < 15
    single = batches()
    single.restore(state)
    assert_same(take(single, 3), expected[5:8])


def test_slow_threads_may_ask_for_an_old_epoch():
    """With one batch an epoch and many threads, several epochs are read at once."""
    expected = take(batches(batch_size=50, threads=1), 40)
    assert_same(take(batches(batch_size=50, threads=8), 40), expected)
    shard = batches(batch_size=50)._shard
    for step in (5, 6, 7, 1):
        np.testing.assert_array_equal(shard.batch(step)["index"], expected[step]["index"])


def test_custom_order():
    def only_even(seed, epoch, num_examples):
        return np.arange(num_examples) // 2 * 2

    result = take(batches(order=only_even), 5)
    np.testing.assert_array_equal(result[1]["index"], np.arange(12, 24) // 2 * 2)
    np.testing.assert_array_equal(result[4]["index"], result[0]["index"])
    for order, message in (
        (lambda s, e, m: np.arange(m - 1), r"\[M\] with M=50; found int64 \[49\]"),
        (lambda s, e, m: np.zeros(m), r"\[M\] with M=50; found float64 \[50\]"),
        (lambda s, e, m: np.arange(m) + 1, r"in \[0, 50\); found 1 to 50"),
    ):
        with pytest.raises(ValueError, match=message):
            take(batches(order=order), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "another seed: found 3, this run has 4"),
        ({"batch_size": 10}, "another batch size: found 12, this run has 10"),
        ({"source": data.digits_source("test")}, "another data set: found synthetic, this run has"),
        (
            {"source": data.synthetic_source("train", size=8, num_examples=60)},
            "another number of examples: found 50, this run has 60",
        ),
        (
            {
                "source": data.ArraySource(
                    "synthetic", 1 + SOURCE.images, SOURCE.labels, num_classes=10
                )
            },
            "another data set's fingerprint",
        ),
    ],
)
def test_states_of_other_runs_are_refused(change, message):
    state = batches().state()
    with pytest.raises(UserError, match=message):
        batches(**change).restore(state)


def test_invalid_arguments_are_refused_before_reading():
    with pytest.raises(
        UserError, match=r"Batch size 12 is not divisible by the 5 processes.*=10\."
    ):
        batches(process_count=5)
    with pytest.raises(
        UserError, match=r"Batch size 51 is larger than the 50 examples of data set 's"
    ):
        batches(batch_size=51)
    empty = data.ArraySource("mine", np.zeros((0, 4, 4, 3), np.uint8), [], num_classes=0)
    with pytest.raises(UserError, match="Data set 'mine' is empty: found 0 examples"):
        batches(source=empty)
    with pytest.raises(UserError, match="Data set 'mine' is empty: found 0 examples"):
        data.eval_batches(empty, batch_size=4)


def test_batches_are_prefetched():
    made = threading.Semaphore(0)

    def count(example, rng):
        made.release()
        return example

    iterator = batches(transform=count, threads=1)
    next(iterator)
    for _ in range(2 * 12):  # two more batches, though nobody asks for them
        assert made.acquire(timeout=10)
    iterator.close()


@pytest.mark.parametrize(("size", "sums"), [(8, [8] * 6 + [2]), (50, [50]), (64, [50])])
def test_eval_covers_each_example_once_in_order(size, sums):
    sweep = data.eval_batches(SOURCE, batch_size=size)
    for _ in range(2):  # may be iterated again
        result = list(sweep)
        assert len(result) == len(sweep) == len(sums)
        assert [int(b["mask"].sum()) for b in result] == sums
        assert all(b["image"].shape == (size, 8, 8, 3) for b in result)
        masks = np.concatenate([b["mask"] for b in result])
        images, labels, indices = (
            np.concatenate([b[key] for b in result]) for key in ("image", "label", "index")
        )
        np.testing.assert_array_equal(indices[masks], np.arange(50))
        np.testing.assert_array_equal(images[masks], SOURCE.images)
        np.testing.assert_array_equal(labels[masks], SOURCE.labels)
        assert (indices[~masks] == -1).all() and (labels[~masks] == -1).all()
