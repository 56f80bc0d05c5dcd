"""Pseudo-labels: the official selection by hand and by a naive loop; a file that knows its data."""

import numpy as np
import pytest

from jssl.data import pseudo_labels
from jssl.data.pseudo_labels import PseudoLabels, select
from jssl.errors import UserError


def probs_of(groups, classes=2, dtype=np.float32):
    """Rows for (class, confidence, count); the rest of the mass lies on the next class."""
    rows = []
    for label, confidence, count in groups:
        row = np.zeros(classes, dtype)
        row[(label + 1) % classes] = 1 - confidence
        row[label] = confidence
        rows += [row] * count
    return np.array(rows)


def by_the_script(probs, per_class, lowest, upsample=True):
    """Kept rows and expected copies: the official description, a class and a bin at a time."""
    kept, times = np.zeros(len(probs), bool), np.zeros(len(probs))
    predicted = probs.argmax(1)
    for k in range(probs.shape[1]):
        own = [i for i in range(len(probs)) if predicted[i] == k]
        total = 0
        for hundredth in range(101, -1, -1):
            reached = [i for i in own if int(round(1e4 * probs[i].max())) // 100 == hundredth]
            total += len(reached)
            kept[reached] = True
            if total >= per_class or hundredth == lowest:
                break
        if total:
            c = per_class / total
            times[[i for i in own if kept[i]]] = c if upsample else min(c, 1)
    return kept, times


def test_fifty_selected_of_a_hundred_are_copied_twice():
    copies = select(probs_of([(0, 0.9, 50), (1, 0.8, 100)]), per_class=100)
    np.testing.assert_array_equal(copies, [2] * 50 + [1] * 100)


def test_150_candidates_for_a_hundred_are_subsampled():
    """Binomial of 150 at 2/3: mean 100, deviation 5.8."""
    totals = [
        select(probs_of([(0, 0.9, 150), (1, 0.9, 100)]), per_class=100, seed=s)[:150].sum()
        for s in range(50)
    ]
    assert abs(np.mean(totals) - 100) < 4 * 5.8 / np.sqrt(50)
    assert 4 < np.std(totals) < 8
    copies = select(probs_of([(0, 0.9, 40), (1, 0.9, 100)]), per_class=100, seed=3)[:40]
    assert set(copies) == {2, 3} and abs(copies.sum() - 100) < 4 * np.sqrt(40 * 0.25)


def test_the_threshold_comes_down_only_as_far_as_it_must():
    groups = [(0, 0.95, 40), (0, 0.9, 70), (0, 0.85, 100), (1, 0.9, 100)]
    copies = select(probs_of(groups), per_class=100)
    assert copies[110:210].sum() == 0  # 40 + 70 reach 0.90: 0.85 is not needed
    assert 70 <= copies[:110].sum() <= 110


def test_the_lowest_threshold_is_inclusive_and_ends_the_search():
    groups = [(0, 0.57, 3), (0, 0.56, 3), (1, 0.9, 3)]
    copies = select(probs_of(groups), per_class=6, min_confidence=0.57)
    np.testing.assert_array_equal(copies, [2] * 3 + [0] * 3 + [2] * 3)


def test_a_probability_above_one_does_not_fall_off():
    probs = np.array([[1.0000001, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(select(probs, per_class=1), [1, 1])


def test_without_upsampling_nothing_is_repeated_and_zero_only_filters():
    probs = probs_of([(0, 0.9, 50), (1, 0.8, 300)])
    copies = select(probs, per_class=100, upsample=False)
    assert copies.max() == 1 and copies[:50].sum() == 50
    assert abs(copies[50:].sum() - 100) < 4 * 8.2
    only = select(probs_of([(0, 0.9, 2), (1, 0.95, 2), (1, 0.8, 2)]), per_class=0,
                  min_confidence=0.85)  # fmt: skip
    np.testing.assert_array_equal(only, [1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("upsample", [True, False])
def test_a_naive_loop_agrees_on_random_predictions(upsample):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(1500, 5)) + np.array([2, 0, 0, 0, -1])
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probs = np.round(probs, 4)  # so that no bin depends on a rounding
    copies = np.mean(
        [select(probs, per_class=150, upsample=upsample, seed=s) for s in range(60)], axis=0
    )
    kept, times = by_the_script(probs, 150, 30, upsample)
    np.testing.assert_array_equal(copies > 0, kept)
    fraction = times % 1
    deviation = np.sqrt(fraction * (1 - fraction) / 60)
    assert np.all(np.abs(copies - times) <= 5 * deviation + 1e-9)


def test_a_class_without_predictions():
    probs = probs_of([(0, 0.9, 5), (1, 0.28, 0), (2, 0.25, 0)], classes=4)
    with pytest.raises(UserError) as error:
        select(probs, per_class=5)
    message = str(error.value)
    assert "3 of 4 classes are left without pseudo-labels (classes 1, 2, 3)" in message
    assert "3 of them are never predicted" in message
    assert "--config.noisy_student.empty_classes=allow" in message
    np.testing.assert_array_equal(select(probs, per_class=5, empty_classes="allow"), [1] * 5)


def test_a_class_predicted_without_confidence_and_nothing_at_all():
    low = np.array([[0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    with pytest.raises(UserError, match=r"1 of 3 classes .* \(classes 1\): 0 of them are never"):
        select(low, per_class=1, min_confidence=0.5)
    with pytest.raises(UserError, match="0 of 1 images are kept"):
        select(low[1:2], per_class=1, min_confidence=0.5, empty_classes="allow")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_confidence": 0.305}, "multiple of 0.01"),
        ({"min_confidence": 1.2}, "multiple of 0.01"),
        ({"empty_classes": "skip"}, "'stop' or 'allow'"),
    ],
)
def test_settings_out_of_range(options, said):
    with pytest.raises(UserError, match=said):
        select(probs_of([(0, 0.9, 2), (1, 0.9, 2)]), per_class=1, **options)


PROVENANCE = {"teacher_sha256": "abc", "teacher_step": "7", "fingerprint": "f1", "data": "photos"}


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 4).astype(np.float32)
    return PseudoLabels(np.array([3, 5, 8, 9]), probs, np.array([0, 1, 2, 1], np.int32), PROVENANCE)


def test_the_file_gives_back_what_was_written_without_pickle(tmp_path, labels):
    pseudo_labels.save(tmp_path / "p.npz", labels)
    found = pseudo_labels.load(tmp_path / "p.npz", expected={"fingerprint": "f1"})
    for a, b in zip(found[:3], labels[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.provenance == PROVENANCE and found.digest() == labels.digest()
    changed = labels._replace(copies=labels.copies[::-1])
    assert changed.digest() != labels.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]


def test_labels_of_other_data_or_another_teacher_are_refused(tmp_path, labels):
    pseudo_labels.save(tmp_path / "p.npz", labels)
    with pytest.raises(UserError) as error:
        pseudo_labels.load(
            tmp_path / "p.npz",
            expected={"fingerprint": "f2", "teacher_sha256": "xyz", "data": "photos"},
        )
    message = str(error.value)
    assert "do not belong here" in message
    assert "fingerprint: labels f1, here f2" in message
    assert "teacher_sha256: labels abc, here xyz" in message
    assert "photos" not in message


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(UserError, match="There are no pseudo-labels .*a teacher has to label"):
        pseudo_labels.load(tmp_path / "p.npz", expected={})
    np.savez(tmp_path / "q.npz", x=np.zeros(2))
    (tmp_path / "r.npz").write_bytes(b"nonsense")
    np.savez(tmp_path / "s.npz", indices=np.array([{}], object))
    whole = {"indices": np.arange(2), "probs": np.zeros((2, 3)), "copies": np.ones(2, int)}
    for name, wrong in (("t", {"probs": np.zeros(2)}), ("u", {"indices": np.zeros(2)}),
                        ("v", {"copies": np.ones(3, int)})):  # fmt: skip
        np.savez(tmp_path / f"{name}.npz", **{**whole, **wrong}, provenance=np.array("{}"))
    np.savez(tmp_path / "w.npz", **whole, provenance=np.array("[1]"))
    for name in "qrstuvw":
        with pytest.raises(UserError, match="is no file of pseudo-labels"):
            pseudo_labels.load(tmp_path / f"{name}.npz", expected={})
    with pytest.raises(UserError, match="cannot be written"):
        empty = PseudoLabels(np.zeros(0), np.zeros((0, 2)), np.zeros(0), {})
        pseudo_labels.save(tmp_path / "nowhere" / "p.npz", empty)
