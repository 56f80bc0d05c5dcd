"""A detector and a segmenter learn eight pictures; their statistics, intervals and predictions."""

import dataclasses

import jax
import numpy as np
import pytest

from jssl import config, data
from jssl.evaluate import dense
from jssl.metrics.detection import Detections, Objects
from jssl.metrics.resampled import (
    average_precision_intervals,
    coco_interval,
    mean_iou_interval,
)
from jssl.run import batches, build

SIDE = 64
NUMBERS = {"before": 256, "after": 64, "anchors": 32, "regions": 24, "test_before": 256,
           "test_after": 64, "precise_batches": 10, "sides": (SIDE,), "test_side": SIDE,
           "anchor_sizes": (16.0, 29.0, 45.0)}  # fmt: skip
SETTINGS = {
    "faster_rcnn": {
        "faster_rcnn": NUMBERS,
        "epochs": 10.0,
        "model": {"width": 0.25},
        "optim": {"lr": 0.03, "warmup_epochs": 1.0, "boundaries": (8.0,)},
    },
    "fcn": {
        "fcn": {"scales": (1.0, 1.0), "features": 32},
        "epochs": 6.0,
        "model": {"width": 0.5},
        "optim": {"lr": 0.2, "warmup_epochs": 0.5, "boundaries": (5.0,)},
    },
}


def eight_pictures(method):
    """The parts of a run whose train and test pictures are the same eight cut-outs."""
    c = config.base(method, preset="cutouts")
    c.data.name = "cutouts"
    c.data.image_size = c.augment.size = SIDE
    c.launch = "jit"
    config.apply(c, SETTINGS[method])
    parts = build.build(c)
    few = data.Limited(parts.train_source, 8)
    return parts._replace(train_source=few, test_source=few, probe_source=few)


# The detector takes two minutes.
@pytest.fixture(
    scope="module", params=["fcn", pytest.param("faster_rcnn", marks=pytest.mark.proof)]
)
def learnt(request):
    parts = eight_pictures(request.param)
    state, step = build.init_state(parts), parts.launcher.compile_step(parts.method.train_step)
    running = batches.batches_of(parts)
    for i in range(parts.total_steps):
        state, _ = step(state, next(running), np.int32(i))
    running.close()
    return request.param, parts, state


def test_eight_pictures_are_learnt_by_heart(learnt):
    method, parts, state = learnt
    rows, sheet = dense.final(parts, state)
    values = {row["metric"]: row["numbers"]["trained"] for row in rows}
    if method == "fcn":
        assert values["mIoU"]["value"] > 0.8
        assert [*values["mIoU"]["per_class"]] == ["background", *parts.test_source.class_names]
    else:
        assert list(values) == ["AP50", "AP", "AP75", "COCO AP"]
        assert values["AP50"]["value"] > 0.9
        assert values["AP50"]["value"] >= values["AP"]["value"] > 0.4
    for entry in values.values():
        low, high = entry["ci95"]
        assert low <= entry["value"] <= high and entry["count"] == 8
        assert "8 test pictures of cutouts" in entry["protocol"]
    assert sheet.dtype == np.uint8 and sheet.ndim == 3


def test_a_prediction_depends_on_its_picture_alone(learnt):
    """Of one picture, of a batch, and on a larger canvas: the same."""
    method, parts, state = learnt
    batch = next(iter(dense.test_batches(parts, parts.test_source)))
    inputs = {key: batch[key] for key in ("image", "size")}
    predict = jax.jit(parts.method.predict)
    whole = predict(state, inputs)
    alone = predict(state, {key: value[2:3] for key, value in inputs.items()})
    padding = ((0, 0), (0, 16), (0, 32), (0, 0))
    larger = predict(state, {**inputs, "image": np.pad(inputs["image"], padding)})
    if method == "fcn":
        np.testing.assert_array_equal(alone[0], whole[2])
        assert np.mean(np.asarray(larger)[:, :SIDE, :SIDE] == np.asarray(whole)) > 0.999
        return
    for other, row in ((alone, 0), (larger, 2)):
        for field in ("boxes", "scores", "classes", "valid"):
            expected = np.asarray(getattr(whole, field)[2])
            np.testing.assert_allclose(getattr(other, field)[row], expected, atol=2e-3)


def test_precise_statistics_are_those_of_all_batches_joined(learnt):
    """Of batches of the same eight pictures without randomness: those of one batch."""
    method, parts, state = learnt
    if method == "fcn":
        assert dense.precise_statistics(parts, state) is state  # MoCo's segmentation has none
        return
    seen = []

    def statistics(state, batch):
        seen.append(batch)
        value = 1.0 + len(seen)
        return {"layer": {"mean": np.array([value, -value]), "var": np.array([1.0, 0.5])}}

    with jax.disable_jit():
        parts = parts._replace(method=parts.method._replace(statistics=statistics))
        mixed = dense.precise_statistics(parts, state).batch_stats["layer"]
    means = np.arange(2.0, 12.0)
    np.testing.assert_allclose(mixed["mean"], [means.mean(), -means.mean()], rtol=1e-6)
    np.testing.assert_allclose(mixed["var"], means.var() + [1.0, 0.5], rtol=1e-5)
    assert len(seen) == 10 and seen[0]["image"].shape == (8, SIDE, SIDE, 3)


def test_the_statistics_of_a_batch_forget_the_earlier_ones(learnt):
    method, parts, state = learnt
    if method == "fcn":
        return
    batch = next(iter(dense.test_batches(parts, parts.test_source)))
    other = jax.tree.map(lambda x: x + 5.0, state.batch_stats)
    one, two = (
        jax.jit(parts.method.statistics)(dataclasses.replace(state, batch_stats=stats), batch)
        for stats in (state.batch_stats, other)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def _picture(scores):
    """One object, and a detection on it and one beside it with these scores."""
    one = Objects(np.array([[0.0, 0, 9, 9]]), np.zeros(1, int), np.zeros(1, bool))
    boxes = np.array([[0.0, 0, 9, 9], [40.0, 40, 49, 49]])
    return one, Detections(boxes, np.array(scores), np.zeros(2, int))


def test_intervals_of_average_precision_lie_around_it():
    right, wrong = _picture([0.9, 0.1]), _picture([0.2, 0.95])
    objects, detections = zip(*[right] * 6, *[wrong] * 2, strict=True)
    options = {"num_classes": 1, "seed": 3}
    ((low, high),) = average_precision_intervals(detections, objects, groups=[(0.5,)], **options)
    # w of the eight pictures rank a wrong detection first: 8 / (8 + w), here .8.
    assert 0.55 < low < 0.8 < high <= 1.0
    low, high = coco_interval(detections, objects, resamples=20, **options)
    assert 0.55 < low < 0.8 < high <= 1.0
    same = average_precision_intervals([right[1]], [right[0]], groups=[(0.5,), (0.75,)], **options)
    assert same == [(1.0, 1.0), (1.0, 1.0)]


def test_the_interval_of_mean_iou_draws_pictures():
    good, bad = np.diag([8, 8]), np.array([[0, 8], [8, 0]])
    low, high = mean_iou_interval([good, good, bad, bad], seed=1)
    assert 0.0 <= low < 0.34 < high <= 1.0  # of the two kinds in equal parts: 1/3
