"""A partly labelled data set: halves that never meet, pairs that are the same everywhere."""

import pickle

import numpy as np
import pytest
from helpers import small_config

from jssl import data
from jssl.data import semi_supervised
from jssl.data.pseudo_labels import PseudoLabels
from jssl.errors import UserError


def config_of(**settings):
    config = small_config("noisy_student")
    config.noisy_student.update(settings)
    return config


@pytest.fixture(scope="module")
def source():
    return data.photos_source("train")


def labels_for(rows, copies, classes=16):
    probs = np.random.default_rng(1).dirichlet(np.ones(classes), len(rows)).astype(np.float32)
    return PseudoLabels(np.asarray(rows), probs, np.asarray(copies, np.int32), {"data": "photos"})


def test_five_per_cent_of_every_class_keep_their_labels(source):
    halves = semi_supervised.split(config_of(), source)
    assert len(halves.labelled) == 160
    kept = source.labels[halves.labelled.rows]
    np.testing.assert_array_equal(np.bincount(kept, minlength=16), [10] * 16)
    both = np.concatenate([halves.labelled.rows, halves.rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(3200))
    other = config_of()
    other.seed = 1
    assert not np.array_equal(
        semi_supervised.split(other, source).labelled.rows, halves.labelled.rows
    )
    assert (
        semi_supervised.split(other, source).labelled.fingerprint() != halves.labelled.fingerprint()
    )


def test_a_student_never_sees_a_hidden_label(source):
    """Whatever the labels of the unlabelled half are, its batches are the same."""
    halves = semi_supervised.split(config_of(), source)
    wrong = source.labels.copy()
    wrong[halves.rows] = 0
    blind = data.ArraySource("photos", source.images, wrong, num_classes=16)
    labels = labels_for(halves.rows, np.ones(len(halves.rows)))
    batches = []
    for given in (source, blind):
        half = semi_supervised.Halves(data.Part(given, halves.labelled.rows), given, halves.rows)
        part = semi_supervised.with_labels(half, labels, num_classes=16)
        pairs = data.train_batches(
            part, batch_size=16, seed=0, transform=semi_supervised.Paired(None, part.pool, 3)
        )
        batches.append(next(pairs))
        pairs.close()
    assert set(batches[0]) == {
        "image", "label", "index", "unlabeled_image", "unlabeled_probs", "unlabeled_index",
    }  # fmt: skip
    for key, value in batches[0].items():
        np.testing.assert_array_equal(value, batches[1][key])


def test_pairs_belong_together_and_are_the_same_for_any_number_of_processes(source):
    halves = semi_supervised.split(config_of(), source)
    rows = halves.rows[:50]
    labels = labels_for(rows, np.arange(50) % 3)
    part = semi_supervised.with_labels(halves, labels, num_classes=16)
    assert len(part.pool.source) == 49  # 16 pairs of 1 + 2 and a last 0 + 1
    transform = semi_supervised.Paired(None, part.pool, 4)
    pickle.loads(pickle.dumps(transform))  # workers get it so

    def batches(**options):
        found = data.train_batches(part, batch_size=32, seed=5, transform=transform, **options)
        taken = [next(found) for _ in range(6)]
        found.close()
        return taken

    whole = batches()
    seen = np.zeros(3200, int)
    for batch in whole:
        assert batch["unlabeled_image"].shape == (32, 4, 32, 32, 3)
        index = batch["unlabeled_index"]
        np.testing.assert_array_equal(batch["unlabeled_image"], source.images[index])
        place = np.searchsorted(rows, index)
        np.testing.assert_array_equal(batch["unlabeled_probs"], labels.probs[place])
        np.add.at(seen, index.ravel(), 1)
    assert not seen[rows[::3]].any()  # no copies
    once, twice = seen[rows[1::3]].sum(), seen[rows[2::3]].sum()
    assert abs(twice / (once + twice) - 2 / 3) < 4 * np.sqrt(2 / 9 / 768)
    halves_of_two = [batches(process_index=p, process_count=2) for p in range(2)]
    for i, batch in enumerate(whole):
        for key in batch:
            joined = np.concatenate([halves_of_two[p][i][key] for p in range(2)])
            np.testing.assert_array_equal(joined, batch[key])
    later = batches(start_step=2)
    np.testing.assert_array_equal(later[0]["unlabeled_index"], whole[2]["unlabeled_index"])


def test_the_fingerprint_is_that_of_rows_and_labels(source):
    """So a checkpoint's data state refuses other pseudo-labels."""
    halves = semi_supervised.split(config_of(), source)
    plain = halves.labelled.fingerprint()
    prints = {
        semi_supervised.with_labels(
            halves, labels_for(halves.rows, copies), num_classes=16
        ).fingerprint()
        for copies in (np.ones(3040), np.full(3040, 2))
    }
    assert len(prints | {plain}) == 3


def test_sets_that_overlap_by_index_are_refused(source):
    halves = semi_supervised.split(config_of(), source)
    taken = halves.labelled.rows[:2]
    labels = labels_for([*taken, *halves.rows[:3]], np.ones(5))
    with pytest.raises(UserError) as error:
        semi_supervised.with_labels(halves, labels, num_classes=16)
    assert "2 examples of 'photos' are labelled and unlabelled at once" in str(error.value)
    assert f"at index {taken[0]}, {taken[1]}" in str(error.value)
    with pytest.raises(UserError, match="160 examples of 'photos' are labelled and unlabelled"):
        semi_supervised.split(config_of(unlabeled_name="photos"), source)


def test_unlabelled_images_from_another_data_set(source):
    config = config_of(label_fraction=1.0, unlabeled_name="digits")
    halves = semi_supervised.split(config, source)
    assert (len(halves.labelled), len(halves.rows), halves.unlabelled.name) == (
        3200,
        1438,
        "digits",
    )


def test_labels_that_do_not_match(source):
    halves = semi_supervised.split(config_of(), source)
    with pytest.raises(UserError, match="are of 7 classes, data set 'photos' has 16"):
        semi_supervised.with_labels(halves, labels_for([halves.rows[0]], [1], 7), num_classes=16)
    with pytest.raises(UserError, match="of examples 5000 to 5000, but 'photos' has 3200"):
        semi_supervised.with_labels(halves, labels_for([5000], [1]), num_classes=16)


def test_images_of_two_sizes_are_refused(source):
    small = data.synthetic_source("train", size=16, num_examples=64)
    part = data.Part(source, np.arange(8))
    pool = semi_supervised.Pool(data.Part(small, np.arange(64)), np.zeros((64, 10)), np.arange(64))
    with pytest.raises(UserError, match="Labelled and unlabelled images differ in shape"):
        semi_supervised.Paired(None, pool, 2)(part[0], np.random.default_rng(0))


def test_a_source_without_labels_is_refused():
    blank = data.ArraySource("mine", np.zeros((4, 8, 8, 3), np.uint8), [-1] * 4, num_classes=0)
    with pytest.raises(UserError, match="Labels are needed, but data set 'mine'"):
        semi_supervised.split(config_of(), blank)
