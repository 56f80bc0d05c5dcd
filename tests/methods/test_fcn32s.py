"""FCN-32s: a batch is the mean of its pictures, one after another; whole pictures."""

import jax
import numpy as np
import pytest
from helpers import batch_of, small_config, start

from jssl.data.decode import PictureError
from jssl.errors import UserError
from jssl.methods import fcn32s
from jssl.models.fcn import segmentation_loss
from jssl.optim.masks import parameter_names
from jssl.run.dense import transform_of

LR, DECAY = 0.5, 0.25


def small(trained="all"):
    config = small_config("fcn32s", batch_size=2)
    config.optim.update(
        {"lr": LR, "weight_decay": DECAY, "schedule": "constant", "momentum": 0.0, "boundaries": ()}
    )
    config.model.dropout = 0.0
    config.fcn32s.update({"trained": trained, "num_classes": 6})
    return config


def unequal(config):
    """Two pictures of which one has few labelled pixels."""
    batch = batch_of(config, 2)
    batch["label"][0, 4:] = 255
    return batch


def with_scores(state):
    """The last layer starts at 0, behind which nothing has a gradient."""
    score = dict(state.params["score"])
    drawn = np.random.default_rng(0).normal(0, 0.5, score["kernel"].shape)
    score["kernel"] = drawn.astype(np.float32)
    return state.replace(params={**state.params, "score": score})


@pytest.mark.parametrize("trained", ["all", "fc6-8"])
def test_a_step_is_the_mean_of_steps_of_one_picture(trained):
    """The loss by numpy, of each picture's labelled pixels; the update from gradients of one."""
    config = small(trained)
    launcher, _, state, step = start(config, "jit")
    state = launcher.init(lambda: with_scores(state))
    before = jax.tree.map(np.asarray, (state.params, state.batch_stats))
    batch, net = unequal(config), fcn32s.make_net(config, None)

    def variables_of(params):
        flat = {**params["encoder"], "score": params["score"]}
        for name, side in (("fc6", 6), ("fc7", 1)):
            kernel = flat[name]["kernel"]
            shape = (side, side, len(kernel) // side**2, kernel.shape[1])
            flat[name] = {**flat[name], "kernel": kernel.reshape(shape)}
        return {"params": flat, "batch_stats": before[1]["encoder"]}

    def loss_of(params, one):
        return segmentation_loss(net, variables_of(params), one, jax.random.key(0))[0]

    grad = jax.jit(jax.grad(loss_of))
    grads = [grad(before[0], {k: v[i : i + 1] for k, v in batch.items()}) for i in range(2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    logits = jax.jit(lambda p: net.apply(variables_of(p), batch["image"], False,
                                         sizes=batch["size"]))(before[0])  # fmt: skip
    losses = []
    for scores, label in zip(np.asarray(logits, np.float64), batch["label"], strict=True):
        scores, label = scores[label != 255], label[label != 255]
        own = scores[np.arange(len(label)), label]
        losses.append(np.mean(np.log(np.exp(scores).sum(-1)) - own))
    assert abs(losses[0] - losses[1]) > 0.01
    new, metrics = step(state, launcher.put_batch(batch), np.int32(0))
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-4)
    leaves = [jax.tree.leaves(tree) for tree in (before[0], mean, new.params)]
    for name, p, g, q in zip(parameter_names(mean), *leaves, strict=True):
        if trained == "fc6-8" and name.startswith(("encoder/conv", "encoder/bn")):
            np.testing.assert_array_equal(q, p, err_msg=name)
            continue
        change = 2 * g if name == "score/bias" else g + DECAY * p
        limit = 1e-5 * max(1.0, float(np.abs(p - LR * change).max()))
        np.testing.assert_allclose(q, p - LR * change, atol=limit, err_msg=name)
    assert np.any(mean["encoder"]["conv1"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, new.batch_stats, before[1])


def test_what_lies_beside_a_picture_changes_nothing():
    config = small()
    launcher, method, state, _ = start(config, "jit")
    state = launcher.init(lambda: with_scores(state))
    batch = batch_of(config, 2)
    batch["size"][:] = 40
    predict = launcher.compile_embed(method.predict)
    found = []
    for colour in (0, 255):
        batch["image"][:, 40:], batch["image"][:, :, 40:] = colour, colour
        found.append(predict(state, {name: batch[name] for name in ("image", "size")}))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) > 1


def test_pictures_are_whole_and_not_augmented():
    config = small()
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    example = {"image": picture, "mask": picture[..., 0] % 7, "boxes": np.zeros((0, 4)), "index": 0}
    for train in (True, False):
        made = transform_of(config, train=train)(example, np.random.default_rng(1))
        np.testing.assert_array_equal(made["image"][:40, :30], picture)
        np.testing.assert_array_equal(made["label"][:40, :30], picture[..., 0] % 7)
        assert np.all(made["label"][40:] == 255) and np.all(made["label"][:, 30:] == 255)
        assert made["size"].tolist() == [40, 30]
    config.augment.size = 32
    with pytest.raises(PictureError, match="40 x 30 .* Type a larger --config.augment.size"):
        transform_of(config, train=True)(example, np.random.default_rng(1))


def test_other_networks_are_refused():
    config = small()
    config.model.name = "vgg16"
    with pytest.raises(UserError, match="FCN-32s needs AlexNet, found model.name='vgg16'"):
        fcn32s.make_net(config, None)
