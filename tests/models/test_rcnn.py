"""Faster R-CNN against torchvision's, see tests/reference/record_rcnn.py, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.test_families import GOLDEN, imported

from jssl import dense
from jssl.convert.family import from_torch
from jssl.convert.torchvision import torchvision_name
from jssl.models import rcnn
from jssl.models.detection import InferenceNumbers, detect, proposals_of
from jssl.models.resnet import make_resnet

recorder = imported("record_rcnn")
RECORDED = np.load(GOLDEN / "rcnn_torchvision.npz")
LAST = {"kernel": "weight", "scale": "weight", "bias": "bias",
        "mean": "running_mean", "var": "running_var"}  # fmt: skip


def drawn(net, images, sizes):
    """Variables with the recorder's drawn values."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, sizes))

    def value(path, leaf):
        keys = [k.key for k in path][1:]
        if keys[0] in ("trunk", "head"):
            name, shape = ".".join(keys[1:]), leaf.shape
            shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
            array = recorder.weights_of(torchvision_name(name), shape)
            return jnp.asarray(from_torch(name, array))
        if keys[0] == "head_norm":
            return jnp.asarray(recorder.weights_of(f"head_norm.{LAST[keys[1]]}", leaf.shape))
        if keys == ["cls_score", "bias"]:
            return jnp.asarray(RECORDED["class_bias"])
        scale = RECORDED["class_scale"] if keys[0] == "cls_score" else 1
        return jnp.asarray(scale * recorder.value_of(".".join(keys), leaf.shape))

    return jax.tree_util.tree_map_with_path(value, shapes)


def close(result, expected, tolerance=1e-4):
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module", params=[(96, 128), (112, 160)], ids=["exact", "padded"])
def reference(request):
    """The recorded picture on a canvas; what stands in the padding does not matter."""
    resnet = make_resnet("resnet50", stage_sizes=recorder.BLOCKS, width=1 / recorder.DIVISOR)
    net = rcnn.make_faster_rcnn(resnet, recorder.CLASSES, sizes=recorder.SIZES, normalize="none")
    images = np.full((1, *request.param, 3), 7.0, np.float32)
    images[0, :96, :128] = RECORDED["image"] / np.float32(32)
    sizes = jnp.array([recorder.SIZE])
    variables = drawn(net, images, sizes)

    @jax.jit
    def run(variables, images):
        features = net.apply(variables, images, sizes, False, method="features")
        logits, deltas = net.apply(variables, features, method="rpn")
        proposals = proposals_of(net, features.shape[1:3], logits, deltas, sizes,
                                 before=recorder.BEFORE, after=recorder.AFTER)  # fmt: skip
        given = [RECORDED["proposals"], RECORDED["sampled_boxes"]]
        boxes = jnp.asarray(np.concatenate(given))[None]
        valid = jnp.ones(boxes.shape[:2], bool)
        head = net.apply(variables, features, boxes, valid, sizes, False, method="regions")
        numbers = InferenceNumbers(recorder.BEFORE, recorder.AFTER, detections=20)
        detected = detect(net, variables, images, sizes, numbers=numbers)
        return logits[0], deltas[0], proposals, head, detected

    anchors, live = net.anchors(tuple(-(-s // 16) for s in request.param), sizes)
    return (*run(variables, images), anchors, np.asarray(live[0]))


def test_proposals_and_detections_are_torchvisions(reference):
    logits, deltas, proposals, (scores, moves), detected, _, live = reference
    close(logits[live], RECORDED["rpn_logits"])
    close(deltas[live], RECORDED["rpn_deltas"])
    count = len(RECORDED["proposals"])
    assert int(proposals.valid.sum()) == count
    close(proposals.boxes[0, :count], RECORDED["proposals"])
    close(scores[0, :count], RECORDED["class_logits"])
    close(moves[0, :count], RECORDED["box_deltas"])
    assert len(np.unique(RECORDED["labels"])) > 2
    np.testing.assert_array_equal(detected.classes[0], RECORDED["labels"])
    close(detected.scores[0], RECORDED["scores"])
    close(detected.boxes[0], RECORDED["boxes"])


def test_losses_of_given_samples_are_torchvisions(reference):
    logits, deltas, _, (scores, moves), _, anchors, live = reference
    objects = jnp.asarray(RECORDED["objects"])
    matches = dense.match_anchors(anchors, live, objects, jnp.ones(len(objects), bool))
    kinds = np.asarray(matches)[live]
    np.testing.assert_array_equal(np.clip(kinds, -2, 0) + 1, [
        {1: 1, 0: 0, -1: -1}[k] for k in RECORDED["rpn_matched"].tolist()
    ])  # fmt: skip
    rows = np.where(live)[0][RECORDED["rpn_rows"]]
    positive = np.arange(len(rows)) < RECORDED["rpn_positives"]
    sampled = (jnp.asarray(rows), jnp.asarray(positive), jnp.ones(len(rows)))
    losses = dense.rpn_losses(logits, deltas, anchors, objects, matches, sampled)
    # torchvision divides by the sampled anchors.
    for loss, name in zip(losses, ("objectness", "rpn_box_reg"), strict=True):
        np.testing.assert_allclose(loss / len(rows), RECORDED[f"loss_loss_{name}"], rtol=1e-4)
    first = len(RECORDED["proposals"])
    labels = jnp.asarray(RECORDED["sampled_labels"].astype(np.int32))
    targets = jnp.asarray(RECORDED["sampled_targets"])
    regions = dense.Regions(RECORDED["sampled_boxes"], labels, targets, jnp.ones(len(labels), bool))
    losses = dense.region_losses(scores[0, first:], moves[0, first:], regions)
    for loss, name in zip(losses, ("classifier", "box_reg"), strict=True):
        np.testing.assert_allclose(loss / len(labels), RECORDED[f"loss_loss_{name}"], rtol=1e-4)


def test_sampled_regions_have_torchvisions_targets():
    boxes, labels = jnp.asarray(RECORDED["objects"]), jnp.asarray(RECORDED["classes"])
    rows = jnp.asarray(RECORDED["sampled_boxes"])
    regions = dense.sample_regions(
        jax.random.key(0), rows, jnp.ones(len(rows), bool), boxes, labels, jnp.zeros(3, bool),
        num_classes=5, count=32, positives=8)  # fmt: skip
    assert np.all(np.asarray(regions.labels) == 5)  # no object is valid
    regions = dense.sample_regions(
        jax.random.key(0), rows, jnp.ones(len(rows), bool), boxes, labels, jnp.ones(3, bool),
        num_classes=5, count=40, positives=40)  # fmt: skip
    expected = {tuple(np.round(b, 3)): (int(l), t) for b, l, t in
                zip(RECORDED["sampled_boxes"], RECORDED["sampled_labels"],
                    RECORDED["sampled_targets"], strict=True)}  # fmt: skip
    seen = 0
    for box, label, target in zip(regions.boxes, regions.labels, regions.targets, strict=True):
        own = expected.get(tuple(np.round(np.asarray(box), 3)))
        if own is not None:
            seen += 1
            assert own[0] == int(label)
            if own[0] < 5:
                close(target, own[1])
    assert seen >= 32
