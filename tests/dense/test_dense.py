"""Parts of detectors against torchvision's operators, see tests/reference/record_dense.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.test_families import GOLDEN, imported

from jssl import dense

recorder = imported("record_dense")
RECORDED = np.load(GOLDEN / "dense_torchvision.npz")


def test_iou():
    iou = dense.box_iou(jnp.asarray(RECORDED["iou_a"]), jnp.asarray(RECORDED["iou_b"]))
    np.testing.assert_allclose(iou, RECORDED["iou"], atol=1e-6)
    assert float(jnp.max(dense.box_iou(jnp.zeros((2, 4)), jnp.zeros((3, 4))))) == 0


@pytest.mark.parametrize("count", [2000, 12000])
def test_nms_selects_torchvisions_boxes_in_its_order(count):
    boxes, scores = recorder.clustered(np.random.default_rng(count), count, 800)
    expected = RECORDED[f"nms_{count}"][:1000]
    select = jax.jit(lambda b, s: dense.nms(b, s, iou=0.7, count=1000))
    indices, selected = select(boxes, scores)
    assert int(selected.sum()) == len(expected)
    np.testing.assert_array_equal(indices[: len(expected)], expected)
    # In another order the same boxes are selected, and padding is never.
    order = np.random.default_rng(1).permutation(count)
    padded = np.concatenate([boxes[order], np.zeros((50, 4), np.float32)])
    live = np.concatenate([scores[order], np.full(50, -np.inf, np.float32)])
    indices, selected = select(padded, live)
    np.testing.assert_array_equal(order[indices[selected]], expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(aligned, ratio):
    align = jax.jit(
        lambda f, b: dense.roi_align(f, b, output=7, scale=1 / 16, ratio=ratio, aligned=aligned)
    )
    result = align(RECORDED["features"], RECORDED["regions"])
    np.testing.assert_allclose(result, RECORDED[f"align_{aligned}_{ratio}"], atol=2e-5)


def test_roi_max_pool():
    pool = jax.jit(lambda f, b: dense.roi_max_pool(f, b, output=7, scale=1 / 16))
    result = pool(RECORDED["features"], RECORDED["regions"])
    np.testing.assert_array_equal(result, RECORDED["pool"])


def test_a_region_too_large_for_the_bound_is_not_a_number():
    features, large = RECORDED["features"], np.array([[0, 0, 2000, 20.0]], np.float32)
    assert np.all(np.isnan(dense.roi_max_pool(features, large, output=7, scale=1 / 16)))
    result = dense.roi_align(features, RECORDED["regions"][:2], output=7, scale=1 / 16,
                             max_samples=3)  # fmt: skip
    assert np.any(np.isnan(result[0])) and not np.any(np.isnan(result[1]))


def test_a_region_reads_its_own_picture_under_vmap_and_in_bfloat16():
    maps = np.stack([RECORDED["features"], 2 * RECORDED["features"]])
    boxes = np.stack([RECORDED["regions"], RECORDED["regions"][::-1]])

    def align(features, boxes):
        return dense.roi_align(features, boxes, output=3, scale=1 / 16)

    both = jax.vmap(align)(maps, boxes)
    np.testing.assert_allclose(both[1], align(maps[1], boxes[1]), atol=1e-5)
    half = align(jnp.asarray(maps[0], jnp.bfloat16), boxes[0])
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), both[0], atol=0.05)
    codes = dense.encode_boxes(jnp.asarray([[10, 20, 50, 80]], jnp.bfloat16), jnp.ones((1, 4)) * 90)
    assert codes.dtype == jnp.float32


def test_boxes_are_restored_from_their_codes():
    rng = np.random.default_rng(0)
    a, b = (recorder.boxes_of(rng, 100, 600, low=4) for _ in range(2))
    for weights in ((1.0,) * 4, (10.0, 10.0, 5.0, 5.0)):
        deltas = dense.encode_boxes(jnp.asarray(a), jnp.asarray(b), weights)
        restored = dense.decode_boxes(jnp.asarray(a), deltas, weights)
        np.testing.assert_allclose(restored, b, atol=2e-2)


def test_anchors():
    cell = dense.cell_anchors()
    assert cell.shape == (15, 4)
    areas = (cell[:, 2] - cell[:, 0]) * (cell[:, 3] - cell[:, 1])
    np.testing.assert_allclose(areas, np.repeat([32, 64, 128, 256, 512], 3) ** 2.0, rtol=1e-5)
    counts = {(50, 76): 57_000, (50, 84): 63_000, (38, 63): 35_910}
    for (height, width), count in counts.items():
        assert len(dense.grid_anchors(height, width, 16, cell)) == count
    rounded = dense.cell_anchors(style="torchvision")
    np.testing.assert_array_equal(rounded[2], [-91, -45, 91, 45])
    with pytest.raises(ValueError, match="detectron2 or torchvision, found 'coco'"):
        dense.cell_anchors(style="coco")


def test_padded_objects_match_nothing():
    iou = jnp.array([[0.8, 0.2, 0.0], [0.9, 0.9, 0.9]])
    first = dense.match(iou, jnp.array([True, False]), low=0.3, high=0.7, keep_best=True)
    np.testing.assert_array_equal(first, [0, -1, -1])
    none = dense.match(iou, jnp.zeros(2, bool), low=0.3, high=0.7, keep_best=True)
    np.testing.assert_array_equal(none, [-1, -1, -1])


def test_a_box_with_an_objects_largest_overlap_is_positive_with_ties():
    iou = jnp.array([[0.4, 0.4, 0.1], [0.0, 0.0, 0.2]])
    matches = dense.match(iou, jnp.ones(2, bool), low=0.3, high=0.7, keep_best=True)
    np.testing.assert_array_equal(matches, [0, 0, 1])


@pytest.mark.parametrize(("positive", "negative"), [(100, 400), (3, 400), (200, 10), (0, 0)])
def test_samples_have_the_numbers_of_the_paper(positive, negative):
    matches = np.full(600, dense.IGNORED, np.int32)
    matches[:positive], matches[positive : positive + negative] = 1, dense.NEGATIVE
    matches = np.random.default_rng(0).permutation(matches)
    draw = jax.jit(lambda key: dense.sample(key, matches, count=64, positives=32))
    indices, is_positive, weight = draw(jax.random.key(0))
    taken = np.asarray(indices)[np.asarray(weight) > 0]
    assert len(set(taken.tolist())) == len(taken)
    kinds = matches[taken]
    assert (kinds == 1).sum() == min(positive, 32)
    assert (kinds == dense.NEGATIVE).sum() == min(negative, 64 - min(positive, 32))
    assert not np.any(kinds == dense.IGNORED)
    np.testing.assert_array_equal(kinds == 1, np.asarray(is_positive)[np.asarray(weight) > 0])


def test_every_box_is_sampled_equally_often():
    matches = jnp.asarray(np.repeat([0, -1], [40, 60]).astype(np.int32))
    draw = jax.jit(jax.vmap(lambda key: dense.sample(key, matches, count=16, positives=8)))
    indices, _, weight = draw(jax.random.split(jax.random.key(0), 4000))
    counts = np.bincount(np.asarray(indices).ravel(), np.asarray(weight).ravel(), minlength=100)
    expected = np.repeat([4000 * 8 / 40, 4000 * 8 / 60], [40, 60])
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())


def test_detections_are_of_all_classes_and_without_background():
    rng = np.random.default_rng(0)
    boxes = np.repeat(recorder.boxes_of(rng, 30, 200, low=8)[:, None], 4, 1)
    scores = rng.random((30, 4)).astype(np.float32)
    found, values, classes, rows = dense.class_nms(boxes, scores, iou=0.5, min_score=0.2, count=20)
    values = np.asarray(values)
    assert np.all(np.diff(values) <= 0) and np.all(values > 0.2)
    np.testing.assert_array_equal(values, scores[rows, classes])
    np.testing.assert_array_equal(found, boxes[rows, classes])
    for k in range(4):
        own = np.asarray(found)[np.asarray(classes) == k]
        iou = np.array(dense.box_iou(own, own)) if len(own) else np.zeros((0, 0))
        np.fill_diagonal(iou, 0)
        assert np.all(iou <= 0.5)


def test_losses_ignore_rows_without_weight_and_give_no_nan():
    logits, labels = jnp.array([[0.0, 1.0], [9.0, -9.0]]), jnp.array([1, 1])
    loss, grad = jax.value_and_grad(dense.head_loss)(logits, labels, jnp.array([1.0, 0.0]))
    assert np.isclose(loss, np.log1p(np.exp(-1.0))) and not np.any(grad[1])
    assert float(dense.head_loss(logits, labels, jnp.zeros(2))) == 0
    deltas = jnp.zeros((2, 4))
    for beta in (0.0, 0.5):
        grad = jax.grad(dense.box_loss)(deltas, deltas, jnp.ones(2), beta=beta)
        assert np.all(np.isfinite(grad))
    x = jnp.array([80.0, -80.0])
    assert np.isclose(dense.objectness_loss(x, jnp.array([True, False]), jnp.ones(2)), 0)
