"""kNN against a loop of its equation, scikit-learn, lightly's recorded votes, and by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from jssl.errors import UserError
from jssl.evaluate.probes import knn
from jssl.evaluate.probes.knn import knn_accuracy, knn_predict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluate_torch.npz")


def loop(bank, labels, queries, num_classes, k, temperature):
    """The equation of the module, one query and one neighbour at a time, in float64."""
    scores = np.zeros((len(queries), num_classes))
    for q, query in enumerate(queries):
        cosines = []
        for i, entry in enumerate(bank):
            norms = np.sqrt(np.sum(entry**2)) * np.sqrt(np.sum(query**2))
            cosines.append((-np.dot(entry, query) / norms, i))
        for minus_cosine, i in sorted(cosines)[:k]:
            scores[q, labels[i]] += np.exp(-minus_cosine / temperature)
        scores[q] /= scores[q].sum()
    return scores


def clusters(M, Q, D=12, K=5, spread=1.2, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(K, D))
    labels, answers = rng.integers(0, K, M), rng.integers(0, K, Q)
    bank = centres[labels] + spread * rng.normal(size=(M, D))
    queries = centres[answers] + spread * rng.normal(size=(Q, D))
    return bank, labels, queries, answers


@pytest.mark.parametrize(
    ("k", "temperature", "block"), [(1, 0.1, 4), (7, 0.1, 64), (20, 0.5, 5), (60, 0.07, 256)]
)
def test_equals_the_loop_of_the_equation(k, temperature, block):
    bank, labels, queries, _ = clusters(60, 17)
    expected = loop(bank, labels, queries, 5, k, temperature)
    pred, scores = knn_predict(
        bank, labels, queries, num_classes=5, k=k, temperature=temperature, block_size=block
    )
    assert pred.shape == (17,) and pred.dtype == jnp.int32
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    np.testing.assert_array_equal(pred, expected.argmax(axis=1))


@pytest.mark.parametrize("k", [1, 20, 200])
def test_equals_scikit_learn_on_real_digits(k):
    digits = load_digits()
    x, y = digits.data, digits.target
    train, test = np.arange(len(y)) % 3 != 0, np.arange(len(y)) % 3 == 0
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1)
    ).fit(x[train], y[train])
    pred, scores = knn_predict(x[train], y[train], x[test], num_classes=10, k=k)
    np.testing.assert_allclose(scores, reference.predict_proba(x[test]), atol=1e-5)
    np.testing.assert_array_equal(pred, reference.predict(x[test]))
    found = knn_accuracy(x[train], y[train], x[test], y[test], num_classes=10, k=k)
    assert found["count"] == test.sum() == 599
    assert found["correct"] == round(reference.score(x[test], y[test]) * 599)
    assert found["top1"] == found["correct"] / 599


@pytest.mark.parametrize("k", [1, 20, 200, 300])
def test_orders_the_classes_as_lightly_does(k):
    bank, labels, queries = (GOLDEN[f"knn_{name}"] for name in ("bank", "labels", "queries"))
    temperature = float(GOLDEN[f"knn_temperature_{k}"])
    pred, scores = knn_predict(
        bank, labels, queries, num_classes=6, k=k, temperature=temperature, block_size=32
    )
    order, scores = GOLDEN[f"knn_order_{k}"], np.asarray(scores)
    np.testing.assert_array_equal(pred, order[:, 0])
    # Below the classes that have votes, lightly's order of the zeros means nothing.
    votes = (scores > 0).sum(axis=1)
    assert votes.max() == (1 if k == 1 else 6)
    for own, theirs, count in zip(np.argsort(-scores, axis=1), order, votes, strict=True):
        np.testing.assert_array_equal(own[:count], theirs[:count])


def test_knn_by_hand():
    # Cosines with (1, 0): 1, .8, .6, 0. With T = .2 and k = 3 class 0 has e^5, class 1 e^4 + e^3.
    bank = np.array([[5.0, 0.0], [0.4, 0.3], [3.0, 4.0], [0.0, 1.0]])
    labels = np.array([0, 1, 1, 2])
    pred, scores = knn_predict(
        bank, labels, np.array([[2.0, 0.0]]), num_classes=3, k=3, temperature=0.2
    )
    share = np.e**5 / (np.e**5 + np.e**4 + np.e**3)
    np.testing.assert_allclose(scores, [[share, 1 - share, 0.0]], atol=1e-6)
    assert int(pred[0]) == 0


def test_of_equally_near_neighbours_the_first_votes():
    bank = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    for labels, winner in (([0, 1, 1, 0], 1), ([0, 0, 1, 1], 0), ([1, 0, 0, 1], 0)):
        pred, _ = knn_predict(bank, np.array(labels), np.array([[1.0, 0.0]]), num_classes=2, k=1)
        assert int(pred[0]) == winner


@pytest.mark.parametrize("rows", [1, 7, 10, 19, 20])
def test_a_bank_in_blocks_gives_the_neighbours_of_the_whole(monkeypatch, rows):
    """With equal rows in several blocks: of them the first in the bank are the neighbours."""
    bank, _, queries, _ = clusters(20, 9, spread=0.5, seed=rows)
    bank[[3, 8, 12, 19]] = bank[0]
    labels = np.arange(20)  # a class for each row shows which ones voted
    expected = loop(bank, labels, queries, 20, 4, 0.1)
    monkeypatch.setattr(knn, "BANK_BLOCK", rows)
    jax.clear_caches()
    pred, scores = knn_predict(bank, labels, queries, num_classes=20, k=4, block_size=4)
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    np.testing.assert_array_equal(scores > 0, expected > 0)


def test_a_bank_of_float16_is_read_as_it_is():
    bank, labels, queries, _ = clusters(60, 17)
    half = bank.astype(np.float16)
    found = knn_predict(half, labels, queries, num_classes=5, k=7)
    expected = knn_predict(half.astype(np.float32), labels, queries, num_classes=5, k=7)
    np.testing.assert_array_equal(found[1], expected[1])


def test_of_equally_voted_classes_the_lowest_wins():
    bank, labels = np.eye(2).repeat(2, axis=0), np.array([4, 1, 4, 1])
    query = np.array([[1.0, 1.0]])
    pred, _ = knn_predict(bank, labels, query, num_classes=6, k=4)
    assert int(pred[0]) == 1
    for label, top1, top5 in ((1, 1.0, 1.0), (4, 0.0, 1.0), (0, 0.0, 0.0), (5, 0.0, 0.0)):
        found = knn_accuracy(bank, labels, query, np.array([label]), num_classes=6, k=4)
        assert (found["top1"], found["top5"]) == (top1, top5)  # classes without votes: never right


def test_top5_counts_the_five_most_voted_classes():
    # Class c lies at an angle of 10 c degrees from the query: ranked by number.
    angles = np.deg2rad(10 * np.arange(8))
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    queries = np.array([[1.0, 0.0]] * 8)
    found = knn_accuracy(bank, np.arange(8), queries, np.arange(8), num_classes=8, k=8)
    assert found == {"top1": 1 / 8, "correct": 1, "count": 8, "top5": 5 / 8}
    few = knn_accuracy(bank[:4], np.arange(4), queries[:4], np.arange(4), num_classes=4, k=4)
    assert "top5" not in few


def test_feature_norms_do_not_matter_and_no_temperature_overflows():
    bank, labels, queries, _ = clusters(80, 9)
    scale = np.random.default_rng(1).uniform(1e-20, 1e20, size=(80, 1))
    same = knn_predict(bank, labels, queries, num_classes=5, k=20)[1]
    scaled = knn_predict(bank * scale, labels, queries * 1e-15, num_classes=5, k=20)[1]
    np.testing.assert_allclose(same, scaled, atol=1e-5)
    sharp, _ = knn_predict(bank, labels, queries, num_classes=5, k=20, temperature=1e-4)
    nearest, _ = knn_predict(bank, labels, queries, num_classes=5, k=1)
    np.testing.assert_array_equal(sharp, nearest)


def test_a_collapsed_net_is_at_chance():
    labels = np.arange(100) % 10
    found = knn_accuracy(np.ones((100, 3)), labels, np.ones((50, 3)), labels[:50], num_classes=10)
    assert found["top1"] == 0.1


def test_compiles_once_for_a_shape_whatever_the_temperature_and_the_values():
    bank, labels, queries, _ = clusters(50, 6)
    knn_predict(bank, labels, queries, num_classes=5, k=3)
    before = knn._predict._cache_size()
    for temperature in (0.05, 0.3):
        bank, labels, queries, _ = clusters(50, 6, seed=7)
        knn_predict(bank, labels, queries, num_classes=5, k=3, temperature=temperature)
    assert knn._predict._cache_size() == before
    knn_predict(bank, labels, queries, num_classes=5, k=4)
    assert knn._predict._cache_size() == before + 1


def compile_for(M, Q, D, block):
    shapes = [((M, D), "float32"), ((M,), "int32"), ((Q, D), "float32"), ((), "float32")]
    arguments = (jax.ShapeDtypeStruct(*shape) for shape in shapes)
    return knn._predict.lower(*arguments, num_classes=10, k=20, block_size=block).compile()


def test_selects_the_nearest_without_sorting_the_bank():
    text = compile_for(4000, 512, 16, 256).as_text()
    assert 'custom_call_target="TopK"' in text
    assert " sort(" not in text


def test_memory_is_that_of_one_block_and_not_of_all_pairs():
    M, Q, D, block = 4000, 8192, 16, 256
    compiled = compile_for(M, Q, D, block)
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 3 * 4 * block * M + 4 * (M + Q) * (D + 20)
    assert used < 4 * Q * M / 8


def test_is_pure_under_jit():
    bank, labels, queries, _ = clusters(40, 5)
    inside = jax.jit(lambda *a: knn_predict(*a, num_classes=5, k=4)[1])(bank, labels, queries)
    outside = knn_predict(bank, labels, queries, num_classes=5, k=4)[1]
    np.testing.assert_allclose(inside, outside, rtol=1e-6)


GOOD = (np.eye(4), np.arange(4), np.eye(4), np.arange(4))


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        ({}, {"k": 5}, UserError, "kNN with k=5 needs a bank of at least 5 labelled examples"),
        ({}, {"k": 5}, UserError, "found 4 examples. Type --k=N"),
        ({}, {"k": 0}, UserError, "k of at least 1"),
        ({}, {"temperature": 0.0}, UserError, "temperature above 0, found 0.0"),
        ({1: np.array([0, 1, 2, -1])}, {}, UserError, "integer labels from 0 to 3"),
        ({1: np.array([0, 1, 2, 4])}, {}, UserError, "from 0 to 4"),
        ({3: np.full(4, -1)}, {}, UserError, "A data set without labels (-1)"),
        ({0: np.diag([1, 1, np.nan, 1])}, {}, UserError, "1 of 4 examples whose features are not"),
        ({2: np.diag([1, np.inf, 1, 1])}, {}, UserError, "the first at row 1"),
        ({0: np.eye(3)}, {}, ValueError, "features [M,D] and labels [M], found (3, 3) and (4,)"),
        ({2: np.ones((4, 3))}, {}, ValueError, "queries [Q,D] with D=4 of the bank, found (4, 3)"),
    ],
)
def test_mistakes_are_refused(change, options, error, said):
    arrays = [change.get(i, array) for i, array in enumerate(GOOD)]
    with pytest.raises(error) as caught:
        knn_accuracy(*arrays, **{"num_classes": 4, "k": 2, **options})
    assert said in str(caught.value)
