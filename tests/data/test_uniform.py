"""The sampler that is uniform over clusters, and a pipeline whose order changes."""

import functools
import json

import numpy as np
import pytest
from helpers import Noisy

from jssl import data
from jssl.state.uniform import shuffled_members, uniform_over_clusters

SIZES = (1, 3, 10)
CLUSTERS = np.repeat(np.arange(3), SIZES)  # M = 14
GOLDEN = [0, 1, 0, 4, 0, 10, 0, 6, 11, 13, 3, 2, 2, 0]
SOURCE = data.synthetic_source("train", size=8, num_examples=14)


def drawn(assignments=CLUSTERS, sampler_seed=5, seed=0, epoch=0):
    return uniform_over_clusters(assignments, sampler_seed, seed, epoch, len(assignments))


def test_lists_of_1_3_and_10():
    """The recipe's numbers: floor(14 / 3) + 1 = 5 of each, 15 in all, one cut off at random."""
    cut = np.zeros(3)
    for epoch in range(300):
        indices = drawn(epoch=epoch)
        assert indices.shape == (14,)
        counts = np.bincount(CLUSTERS[indices], minlength=3)
        assert sorted(counts) == [4, 5, 5]
        cut += counts == 4
        of_the_large = indices[CLUSTERS[indices] == 2]
        assert len(set(of_the_large)) == len(of_the_large)
        assert set(indices[CLUSTERS[indices] == 0]) == {0}
    # binomial(300, 1/3): mean 100, standard deviation 8.2
    assert cut.min() > 65
    assert cut.max() < 135


def test_a_list_as_long_as_its_share_is_drawn_with_replacement():
    """numpy.random.choice's replace = len(list) <= size_per: five of five may repeat."""
    clusters = np.repeat(np.arange(3), (5, 5, 4))
    repeated = sum(
        len(set(own)) < len(own)
        for epoch in range(40)
        for own in [drawn(clusters, epoch=epoch)]
        for own in [own[clusters[own] == 0]]
    )
    assert repeated > 30  # without: 0; five of five with: all but 5! / 5^5 = 4 %


def test_share_is_quotient_plus_one():
    """12 / 3 + 1 = 5 of each, and three of the fifteen cut off: not always one of each cluster."""
    clusters = np.repeat(np.arange(3), 4)
    counts = [tuple(sorted(np.bincount(clusters[drawn(clusters, epoch=e)]))) for e in range(50)]
    assert set(counts) == {(4, 4, 4), (3, 4, 5), (2, 5, 5)}


def test_members_are_drawn_equally_often():
    counts = np.zeros(14)
    for epoch in range(2000):
        counts += np.bincount(drawn(epoch=epoch), minlength=14)
    per_cluster = 2000 * 14 / 3
    expected = np.repeat(per_cluster / np.array(SIZES), SIZES)
    np.testing.assert_allclose(counts, expected, rtol=0.1)


def test_places_are_shuffled():
    """Each cluster is in the first half of the order as often as in the second."""
    first = np.zeros(3)
    for epoch in range(400):
        first += np.bincount(CLUSTERS[drawn(epoch=epoch)[:7]], minlength=3)
    np.testing.assert_allclose(first / (400 * 7), 1 / 3, atol=0.03)


def test_empty_clusters_and_unusable_pictures_are_never_drawn():
    clusters = np.array([4, 4, 4, -1, 9, 9, -1, 9])
    indices = drawn(clusters)
    counts = np.bincount(clusters[indices], minlength=10)
    assert sorted(counts[counts > 0]) in ([3, 5], [4, 4])  # floor(8 / 2) + 1 = 5
    with pytest.raises(ValueError, match="M=8, some of them 0 or more; found .8. with 0"):
        drawn(np.full(8, -1))
    with pytest.raises(ValueError, match="M=3"):
        uniform_over_clusters(clusters, 0, 0, 0, 3)


def test_order_depends_on_both_seeds_and_the_epoch():
    base = drawn()
    np.testing.assert_array_equal(drawn(), base)
    for other in ({"sampler_seed": 6}, {"seed": 1}, {"epoch": 1}):
        assert (drawn(**other) != base).any()


def test_golden_order():
    """It must not change from one numpy to the next: a run could not be resumed."""
    assert drawn().tolist() == GOLDEN


# Through the pipeline -----------------------------------------------------------------------------


def order_of(sampler_seed):
    return functools.partial(uniform_over_clusters, CLUSTERS, sampler_seed)  # a worker unpickles it


def batches(**options):
    return data.train_batches(SOURCE, **{"batch_size": 4, "seed": 3, **options})


def take(iterator, count):
    return [next(iterator)["index"].tolist() for _ in range(count)]


def test_reorder_drops_prefetched_batches():
    """Three batches an epoch: the second epoch is prefetched in the old order, but read in the
    new one."""
    running = batches()
    first = take(running, 3)
    np.testing.assert_array_equal(np.concatenate(first), data.shuffled(3, 0, 14)[:12])
    running.reorder(order_of(5))
    np.testing.assert_array_equal(np.concatenate(take(running, 3)), drawn(seed=3, epoch=1)[:12])
    running.reorder(order_of(6))
    expected = drawn(sampler_seed=6, seed=3, epoch=2)[:12]
    np.testing.assert_array_equal(np.concatenate(take(running, 3)), expected)
    running.close()


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 4}, {"workers": 2}])
def test_restore_in_mid_epoch_keeps_the_order(options):
    running = batches()
    running.reorder(order_of(5))
    expected = [next(running) for _ in range(6)]
    running.close()
    stopped = batches()
    stopped.reorder(order_of(5))
    take(stopped, 4)
    saved = json.loads(json.dumps(stopped.state()))
    stopped.close()
    again = batches(**options)
    again.restore(saved)
    again.reorder(order_of(5))
    for batch in expected[4:]:
        result = next(again)
        for key in batch:
            np.testing.assert_array_equal(result[key], batch[key])
    again.close()


def test_repeated_examples_get_new_draws():
    """Otherwise the host crops of a repeated example would be equal within an epoch."""
    running = batches(transform=Noisy(), batch_size=14)
    running.reorder(order_of(5))
    batch = next(running)
    running.close()
    again = np.flatnonzero(batch["index"] == 0)  # the cluster of one: four times or five
    assert len(again) in (4, 5)
    images = {batch["image"][i].tobytes() for i in again}
    assert len(images) == len(again)
    # The first time it is what it would be in a permutation.
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([3, 0, 0])))
    first = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(batch["image"][again[0]], first)


def test_processes_share_a_sweep():
    """14 examples in batches of 8, two processes of 4: the last has 2 and none."""
    full = list(data.eval_batches(SOURCE, batch_size=8))
    parts = [
        list(data.eval_batches(SOURCE, batch_size=8, process_index=p, process_count=2))
        for p in range(2)
    ]
    for step, batch in enumerate(full):
        for key in ("index", "label", "mask"):
            joined = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(joined, batch[key])
        joined = np.concatenate([part[step]["image"] for part in parts])
        np.testing.assert_array_equal(joined[batch["mask"]], batch["image"][batch["mask"]])
    few = data.synthetic_source("train", size=8, num_examples=2)
    (lone,) = data.eval_batches(few, batch_size=8, process_index=1, process_count=2)
    assert lone["image"].shape == (4, 8, 8, 3)
    assert not lone["mask"].any()


# Without the clusters -----------------------------------------------------------------------------


def test_shuffled_members_draws_each_once():
    """DeepCluster's `sampling=examples`: a large cluster comes as often as it is large."""
    member = np.array([True] * 9 + [False] * 3)
    order = shuffled_members(member, 0, 0, 12)
    assert sorted(order[:9]) == list(range(9))
    np.testing.assert_array_equal(order[9:], order[:3])
    assert (shuffled_members(member, 0, 1, 12) != order).any()
    with pytest.raises(ValueError, match="some of them True; found .12. with 0"):
        shuffled_members(np.zeros(12, bool), 0, 0, 12)
