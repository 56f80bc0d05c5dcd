"""Fast R-CNN on AlexNet: its features, samples, losses and detections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import dense
from jssl.augment._pixels import normalize, to_float
from jssl.errors import UserError
from jssl.models import PlainNet, fcn, make_alexnet, make_vgg16
from jssl.models import fast_rcnn as fast
from jssl.models.plain import Layer

RNG = np.random.default_rng(0)
CORNER = RNG.uniform(0, 150, (2, 12, 2))
PROPOSALS = np.concatenate([CORNER, CORNER + RNG.uniform(10, 70, (2, 12, 2))], -1)
BATCH = jax.tree.map(jnp.asarray, {
    "image": RNG.integers(0, 256, (2, 224, 224, 3)).astype(np.uint8),
    "boxes": np.array([[[10, 10, 90, 80], [50, 60, 200, 210]], [[5, 5, 60, 60], [0, 0, 0, 0]]],
                      np.float32),
    "label": np.array([[0, 2], [1, 0]]), "valid": np.array([[True, True], [True, False]]),
    "proposals": PROPOSALS.astype(np.float32), "live": np.arange(12)[None] < [[12], [9]],
})  # fmt: skip
SIZES = jnp.array([[224, 224], [224, 224]])


@pytest.fixture(scope="module")
def nets():
    plain = make_alexnet(width=1 / 32, dropout=0.5)
    pretrained = jax.jit(plain.init, static_argnums=2)(jax.random.key(0), BATCH["image"], False)
    net = fast.make_fast_rcnn(plain, 3)
    drawn = jax.jit(net.init, static_argnums=3)(
        jax.random.key(1), BATCH["image"], BATCH["proposals"], False
    )
    return plain, pretrained, net, fcn.with_plain(drawn, pretrained)


def test_the_dense_layers_see_regions_of_the_last_convolution(nets):
    plain, pretrained, net, variables = nets
    logits, deltas = jax.jit(lambda v, b: net.apply(v, BATCH["image"], b, False))(
        variables, BATCH["proposals"]
    )
    prepared = normalize(to_float(BATCH["image"]), "imagenet")
    _, named = jax.jit(lambda v, x: plain.apply(v, x, False))(pretrained, prepared)
    p = jax.tree.map(np.asarray, variables["params"])
    pooled = dense.roi_max_pool(named["conv5"][1], BATCH["proposals"][1], output=6, scale=1 / 16)
    h = np.asarray(pooled).reshape(12, -1)
    for name in ("fc6", "fc7"):
        h = np.maximum(h @ p[name]["kernel"] + p[name]["bias"], 0)
    expected = h @ p["cls_score"]["kernel"] + p["cls_score"]["bias"]
    np.testing.assert_allclose(logits[1], expected, atol=1e-5 * np.abs(expected).max())
    assert logits.shape == (2, 12, 4) and deltas.shape == (2, 12, 3, 4)
    assert np.array_equal(p["fc6"]["kernel"], pretrained["params"]["fc6"]["kernel"])


def test_a_step(nets):
    """Finite, from the loss of chance; statistics are frozen; two devices are one."""
    _, _, net, variables = nets

    def grad(net, batch):
        def loss(params):
            both = {**variables, "params": params}
            return fast.fast_rcnn_loss(net, both, batch, jax.random.key(0), count=8, positives=4)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, (metrics, stats)), grads = jax.jit(lambda b: grad(net, b))(BATCH)
    np.testing.assert_allclose(metrics["class"], np.log(4), rtol=0.05)
    np.testing.assert_allclose(loss, metrics["class"] + metrics["box"], rtol=1e-6)
    assert metrics["positive_regions"] > 0
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert np.any(grads["conv1"]["kernel"]) and np.any(grads["bbox_pred"]["kernel"])
    same = jax.tree.map(np.array_equal, stats, variables["batch_stats"])
    assert all(jax.tree.leaves(same))
    each = jax.tree.map(lambda x: x[:, None], BATCH)
    (losses, _), _ = jax.jit(
        jax.vmap(lambda b: grad(net.clone(axis_name="batch"), b), axis_name="batch")
    )(each)
    np.testing.assert_allclose(losses.mean(), loss, rtol=1e-4)


def test_regions_of_the_background_overlap_an_object_a_little():
    objects = jnp.array([[0.0, 0, 100, 100]])
    height = jnp.array([60.0, 50, 49, 11, 10, 9])
    rows = jnp.stack([0 * height, 0 * height, 0 * height + 100, height], axis=1)
    draw = jax.jit(lambda key: dense.sample_regions(
        key, rows, jnp.ones(6, bool), objects, jnp.array([1]), jnp.ones(1, bool), num_classes=3,
        count=7, positives=7, low=0.1))  # fmt: skip
    regions = draw(jax.random.key(0))
    live = np.asarray(regions.valid)
    kinds = {float(b[3]): int(k) for b, k in
             zip(regions.boxes[live], regions.labels[live], strict=True)}  # fmt: skip
    assert kinds == {100: 1, 60: 1, 50: 1, 49: 3, 11: 3, 10: 3}


def test_the_loss_of_boxes_is_smooth_below_one():
    regions = dense.Regions(jnp.zeros((2, 4)), jnp.array([0, 1]), jnp.zeros((2, 4)),
                            jnp.ones(2, bool))  # fmt: skip
    deltas = jnp.full((2, 1, 4), 0.5)
    _, box = dense.region_losses(jnp.zeros((2, 2)), deltas, regions, beta=1.0)
    np.testing.assert_allclose(box, 4 * 0.125)  # the second is of the background


def test_detections(nets):
    _, _, net, variables = nets
    detected = jax.jit(lambda v: fast.detect_in(
        net, v, BATCH["image"], SIZES, BATCH["proposals"], BATCH["live"]))(variables)  # fmt: skip
    assert detected.boxes.shape == (2, 100, 4)
    for b in range(2):
        own = np.asarray(detected.valid[b])
        assert 0 < own.sum() <= 3 * int(BATCH["live"][b].sum())
        for k in range(3):
            boxes = detected.boxes[b][own & (np.asarray(detected.classes[b]) == k)]
            iou = np.array(dense.box_iou(boxes, boxes))
            np.fill_diagonal(iou, 0)
            assert np.all(iou <= 0.3)


def test_networks():
    assert fast.make_fast_rcnn(make_vgg16(), 20).stride == 16
    with pytest.raises(UserError, match="found stride 4 and a 3x3 pool"):
        fast.make_fast_rcnn(PlainNet((Layer(8, 3, 4, 1, False),) * 2, 3, False), 20)
