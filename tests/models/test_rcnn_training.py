"""Properties of a Faster R-CNN in training: padding, sampling, devices, dtypes and parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import dense
from jssl.errors import UserError
from jssl.models import rcnn
from jssl.models.detection import (
    InferenceNumbers,
    TrainingNumbers,
    detect,
    detection_loss,
    proposals_of,
)
from jssl.models.norm import BatchNorm
from jssl.models.padding import inside, padded, rows
from jssl.models.resnet import make_resnet
from jssl.parallel.collectives import mean_value_and_grad, pmean

OPTIONS = {"sizes": (16.0, 32.0), "ratios": (1.0,), "bins": 4}
# As many samples as there are boxes: all of them are taken, and chance has no say.
ALL = TrainingNumbers(
    before=200, after=24, anchors=2048, positive_anchors=2048, regions=40, positive_regions=40
)


def small(**switches):
    """A detector of two groups with one block each, of stride 4."""
    options = {"axis_name": None, "dtype": jnp.float32}
    resnet = {k: switches.pop(k, v) for k, v in options.items()}
    net = make_resnet("resnet10", stage_sizes=(1, 1), width=1 / 8, **resnet)
    return rcnn.make_faster_rcnn(net, 3, **{**OPTIONS, **switches})


def batch_of(canvas=(64, 96), boxes=2, fill=0):
    rng = np.random.default_rng(0)
    sizes = np.array([[64, 90], [50, 96]], np.int32)
    images = np.full((2, *canvas, 3), fill, np.uint8)
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:h, :w] = rng.integers(0, 256, (h, w, 3))
    objects = np.zeros((2, boxes, 4), np.float32)
    objects[:, :2] = [[[5, 5, 40, 50], [30, 10, 80, 60]], [[8, 3, 30, 20], [9, 9, 9, 9]]]
    valid = np.zeros((2, boxes), bool)
    valid[:, :2] = [[True, True], [True, False]]
    labels = np.zeros((2, boxes), np.int32)
    labels[:, :2] = [[0, 2], [1, 0]]
    return jax.tree.map(jnp.asarray, {"image": images, "size": sizes, "boxes": objects,
                                      "label": labels, "valid": valid})  # fmt: skip


BATCH = batch_of()


@pytest.fixture(scope="module")
def variables():
    net = small()
    drawn = jax.jit(net.init)(jax.random.key(0), BATCH["image"], BATCH["size"])
    # Larger than at the start, so that boxes move and rounding does not decide on their order.
    drawn["params"]["rpn_head"]["deltas"]["kernel"] *= 20
    drawn["params"]["rpn_head"]["logits"]["kernel"] *= 100
    return drawn


def step(net, numbers=ALL):
    def loss(params, stats, batch, key):
        both = {"params": params, "batch_stats": stats}
        return detection_loss(net, both, batch, key, numbers=numbers)

    return jax.value_and_grad(loss, has_aux=True)


def run(net, variables, batch, numbers=ALL):
    return jax.jit(step(net, numbers))(
        variables["params"], variables["batch_stats"], batch, jax.random.key(1)
    )


@pytest.fixture(scope="module")
def first(variables):
    return run(small(), variables, BATCH)


def same(a, b, tolerance=2e-4):
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        scale = max(np.abs(y).max(), 1e-3)
        np.testing.assert_allclose(x, y, atol=tolerance * scale, rtol=0, err_msg=str(path))


def test_padding_more_changes_nothing(variables, first):
    """Losses, gradients and running statistics; the padding holds no zeros."""
    same(run(small(), variables, batch_of((80, 128), boxes=5, fill=99)), first)


def test_two_devices_compute_what_one_does(variables, first):
    """The second device has other numbers of pixels and regions."""
    each = jax.tree.map(lambda x: x[:, None], BATCH)
    axes = {"in_axes": (None, None, 0, None), "axis_name": "batch"}
    device = small(axis_name="batch")

    def on_one(params, stats, batch, key):
        def loss(params):
            both = {"params": params, "batch_stats": stats}
            return detection_loss(device, both, batch, key, numbers=ALL)

        (loss, (metrics, stats)), grads = mean_value_and_grad(loss, params, "batch")
        return (loss, (pmean(metrics, "batch"), stats)), grads

    both = jax.jit(jax.vmap(on_one, **axes))(
        variables["params"], variables["batch_stats"], each, jax.random.key(1)
    )
    same(jax.tree.map(lambda x: x[0], both), first)
    same(jax.tree.map(lambda x: x[1], both), first)


def test_no_gradient_reaches_the_proposals(variables):
    net = small()

    def head_loss(params):
        both = {**variables, "params": params}
        _, (metrics, _) = detection_loss(net, both, BATCH, jax.random.key(0), numbers=ALL)
        return metrics["class"] + metrics["box"]

    grads = jax.jit(jax.grad(head_loss))(variables["params"])
    assert all(not np.any(g) for g in jax.tree.leaves(grads["rpn_head"]))
    for part in ("trunk", "head", "cls_score", "bbox_pred"):
        assert any(np.any(g) for g in jax.tree.leaves(grads[part]))


def test_the_loss_is_the_sum_of_its_four_parts(first):
    (loss, (metrics, stats)), grads = first
    parts = [metrics[k] for k in ("rpn_objectness", "rpn_box", "class", "box")]
    np.testing.assert_allclose(loss, sum(parts), rtol=1e-6)
    assert all(p > 0 for p in parts) and metrics["positive_regions"] >= 1
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_remat_changes_no_value(variables, first):
    same(run(small(remat=True), variables, BATCH), first)


def test_a_frozen_trunk(variables):
    net = small(frozen_trunk=True)

    def total(params):
        both = {**variables, "params": params}
        x, changed = net.apply(both, BATCH["image"], BATCH["size"], True, method="features",
                               mutable=["batch_stats"])  # fmt: skip
        return jnp.sum(x), changed["batch_stats"]

    grads, stats = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    assert all(not np.any(g) for g in jax.tree.leaves(grads))
    same(stats, variables["batch_stats"], 0)


def test_permuted_proposals_give_permuted_outputs(variables):
    net = small()
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (2, 7, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 10, (2, 7, 2))], -1).astype(np.float32)
    valid = np.arange(7)[None] < np.array([[7], [5]])
    order = rng.permutation(7)

    @jax.jit
    def outputs(boxes, valid):
        x = net.apply(variables, BATCH["image"], BATCH["size"], False, method="features")
        return net.apply(variables, x, boxes, valid, BATCH["size"], False, method="regions")

    expected = outputs(boxes, valid)
    for a, b in zip(outputs(boxes[:, order], valid[:, order]), expected, strict=True):
        np.testing.assert_allclose(a, b[:, order], atol=1e-5)
    logits, deltas = (10 * x for x in expected)

    def final(order):
        return dense.detections(logits[0][order], deltas[0][order], boxes[0][order],
                                jnp.asarray(valid[0][order]), BATCH["size"][0])  # fmt: skip

    for a, b in zip(final(order), final(np.arange(7)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_shapes_are_fixed_and_boxes_lie_in_their_pictures(variables):
    net, traces = small(), []

    @jax.jit
    def run(images, sizes):
        traces.append(1)
        return detect(net, variables, images, sizes, numbers=InferenceNumbers(200, 24, 0.05))

    for sizes in (BATCH["size"], jnp.array([[20, 30], [64, 96]])):
        detected = run(BATCH["image"], sizes)
        assert detected.boxes.shape == (2, 100, 4) and detected.valid.dtype == bool
        assert np.all(detected.valid.sum(1) > 0)
        limit = np.asarray(sizes)[:, None, ::-1]
        assert np.all(detected.boxes >= 0) and np.all(detected.boxes[..., 2:] <= limit)
        assert np.all(np.asarray(detected.classes) < 3)
        assert np.all(np.asarray(detected.scores)[~np.asarray(detected.valid)] == 0)
    assert len(traces) == 1


def test_boxes_are_float32_in_a_bfloat16_network(variables):
    net = small(dtype=jnp.bfloat16)

    def run():
        x = net.apply(variables, BATCH["image"], BATCH["size"], False, method="features")
        logits, deltas = net.apply(variables, x, method="rpn")
        proposals = proposals_of(
            net, x.shape[1:3], logits, deltas, BATCH["size"], before=9, after=5
        )
        head = net.apply(variables, x, proposals.boxes, proposals.valid, BATCH["size"], False,
                         method="regions")  # fmt: skip
        loss, (metrics, stats) = detection_loss(net, variables, BATCH, jax.random.key(0),
                                                numbers=ALL)  # fmt: skip
        return x, (logits, deltas, proposals.boxes, proposals.logits, head, loss, metrics, stats)

    x, others = jax.eval_shape(run)
    assert x.dtype == jnp.bfloat16
    assert {y.dtype for y in jax.tree.leaves(others)} == {jnp.dtype(jnp.float32)}


def test_samples_have_the_papers_numbers(variables):
    numbers = TrainingNumbers(200, 24, anchors=64, positive_anchors=16, regions=16,
                              positive_regions=4)  # fmt: skip
    boxes, labels, valid = (BATCH[k][0] for k in ("boxes", "label", "valid"))
    rng = np.random.default_rng(0)
    near = np.asarray(boxes)[rng.integers(0, 2, 30)] + rng.normal(0, 1, (30, 4))
    far = np.tile(np.array([[60.0, 40, 90, 64]]), (30, 1))
    proposals = jnp.asarray(np.concatenate([near, far]), jnp.float32)
    draw = jax.jit(jax.vmap(lambda key: dense.sample_regions(
        key, proposals, jnp.ones(60, bool), boxes, labels, valid, num_classes=3,
        count=numbers.regions, positives=numbers.positive_regions)))  # fmt: skip
    regions = draw(jax.random.split(jax.random.key(0), 20))
    assert np.all(regions.valid)
    np.testing.assert_array_equal((np.asarray(regions.labels) < 3).sum(1), 4)
    assert set(np.asarray(regions.labels).ravel().tolist()) == {0, 2, 3}
    assert not np.any(np.asarray(regions.targets)[np.asarray(regions.labels) == 3])
    assert len({str(x) for x in np.asarray(regions.boxes)[:, 0]}) > 1  # keys differ


def test_a_resnet_is_split_and_joined(variables):
    whole = make_resnet("resnet10", stage_sizes=(1, 1), width=1 / 8)
    pretrained = jax.jit(whole.init, static_argnums=2)(
        jax.random.key(7), jnp.zeros((1, 32, 32, 3)), False
    )
    joined = rcnn.with_resnet(variables, pretrained)
    assert jax.tree.structure(joined) == jax.tree.structure(variables)
    same(rcnn.resnet_of(joined), pretrained, 0)
    for part in ("rpn_head", "cls_score", "bbox_pred", "head_norm"):
        same(joined["params"][part], variables["params"][part], 0)
    assert all("group2" in name for name in joined["params"]["head"])
    assert not any("group2" in name for name in joined["params"]["trunk"])
    wide = jax.eval_shape(lambda: make_resnet("resnet10", stage_sizes=(1, 1), width=1 / 4).init(
        jax.random.key(7), jnp.zeros((1, 32, 32, 3)), False))  # fmt: skip
    with pytest.raises(UserError, match=r"does not fit the detector.*'batch_stats.*\(16,\)"):
        rcnn.with_resnet(variables, wide)
    del pretrained["params"]["conv_init"]
    with pytest.raises(UserError, match="conv_init.kernel.*of no array"):
        rcnn.with_resnet(variables, pretrained)


@pytest.mark.parametrize(
    ("switches", "match"),
    [
        ({"norm": "ln"}, "model.norm='bn', found 'ln'"),
        ({"bn_groups": 4}, "model.bn_groups=1, found 4"),
        ({"stage_sizes": (2,)}, "two groups of blocks at least, found 1"),
        ({"last_dilation": 2}, "last_dilation=1, found 2"),
        ({"groups": (1, 2)}, "a whole network"),
    ],
)
def test_other_networks_are_refused(switches, match):
    with pytest.raises(UserError, match=match):
        rcnn.make_faster_rcnn(make_resnet("resnet18", **switches), 20)


def test_initial_values_are_the_recipes(variables):
    net = rcnn.make_faster_rcnn(make_resnet("resnet50"), 20)
    shapes = jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.array([[32, 32]]))
    )["params"]
    assert shapes["rpn_head"]["conv"]["kernel"].shape == (3, 3, 1024, 1024)
    assert shapes["rpn_head"]["logits"]["kernel"].shape == (1, 1, 1024, 15)
    assert shapes["rpn_head"]["deltas"]["kernel"].shape == (1, 1, 1024, 60)
    assert shapes["cls_score"]["kernel"].shape == (2048, 21)
    assert shapes["bbox_pred"]["kernel"].shape == (2048, 80)
    head = rcnn.RPNHead(15)
    drawn = head.init(jax.random.key(0), jnp.zeros((1, 2, 2, 256)))["params"]
    for leaf in drawn.values():
        assert abs(np.std(leaf["kernel"]) - 0.01) < 1e-3 and not np.any(leaf["bias"])
    own = variables["params"]
    assert abs(np.std(own["cls_score"]["kernel"]) / 0.01 - 1) < 0.35
    assert abs(np.std(own["bbox_pred"]["kernel"]) / 0.001 - 1) < 0.35


@pytest.mark.parametrize("unbiased", [False, True])
def test_batch_norm_leaves_padding_out_on_all_devices(unbiased):
    """Two devices with 3 and 1 rows that count are one with 4."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5), np.float32))
    counts = jnp.array([[True, True, True], [False, True, False]])
    own = BatchNorm(unbiased_running_var=unbiased)
    variables = own.init(jax.random.key(0), x[0], False)
    y, changed = own.apply(variables, x[counts], True, mutable=["batch_stats"])

    def device(x, valid):
        net = BatchNorm(unbiased_running_var=unbiased, axis_name="batch")
        with padded(rows(valid)):
            return net.apply(variables, x, True, mutable=["batch_stats"])

    z, stats = jax.vmap(device, axis_name="batch")(x, counts)
    np.testing.assert_allclose(z[counts], y, atol=1e-5)
    assert not np.any(z[~counts])
    same(jax.tree.map(lambda s: s[0], stats), changed, 1e-5)
    with padded(rows(counts[0])), pytest.raises(ValueError, match="groups=1, found 3"):
        BatchNorm(groups=3).apply(variables, x[0], True, mutable=["batch_stats"])


def test_a_map_of_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="leads from 64 pixels to 20 cells"):
        inside(jnp.array([[3, 5]]), (64, 64))((1, 20, 20, 3))
