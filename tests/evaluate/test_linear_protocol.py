"""The papers' linear protocol on images: what it does, what it must not do, and what it says."""

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import augment, data, evaluate
from jssl.errors import UserError
from jssl.evaluate import backbone_hash, evaluate_linear
from jssl.types import TrainState


class Net(nn.Module):
    """Two convolutions with BatchNorm: 8 channels, then 16."""

    @nn.compact
    def __call__(self, x, train):
        for width in (8, 16):
            x = nn.Conv(width, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return x.mean(axis=(1, 2)), {"pooled": x[:, ::2, ::2, :]}


def network(train=False):
    net = Net()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    state = TrainState(
        step=jnp.int32(7),
        key=jax.random.key(1),
        params=variables["params"],
        batch_stats=jax.tree.map(lambda x: x + 0.1, variables["batch_stats"]),
        opt_state=(),
    )

    def embed(state, images):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        x = augment.to_float(images)
        if train:
            return net.apply(variables, x, train=True, mutable=["batch_stats"])[0]
        return net.apply(variables, x, train=False)

    return embed, state


def part(source, count, labels=None):
    """Every so many of an ArraySource, so that all its classes are there."""
    rows = np.linspace(0, len(source) - 1, count).astype(int)
    labels = source.labels[rows] if labels is None else labels
    images = source.images[rows]
    return data.ArraySource(source.name, images, labels, num_classes=source.num_classes)


@pytest.fixture(scope="module")
def photos():
    return part(data.photos_source("train"), 480), part(data.photos_source("test"), 160)


@pytest.fixture(scope="module")
def run(photos):
    embed, state = network()
    before = backbone_hash(state)
    seen = []
    result = evaluate_linear(
        embed,
        state,
        *photos,
        size=32,
        preset="simclr_cifar",
        epochs=6,
        progress=seen.append,
    )
    return result, before, state, seen


def test_the_network_is_unchanged(run):
    result, before, state, _ = run
    assert backbone_hash(state) == before == result.record["backbone_sha256"]


def test_the_result_is_of_the_last_head_on_all_test_examples(run, photos):
    result, _, state, _ = run
    record = result.record
    embed, _ = network()
    features, labels, _ = evaluate.embed_source(jax.jit(embed), state, photos[1], batch_size=50)
    kernel, bias = (np.asarray(x, np.float64) for x in result.head)
    logits = features @ kernel + bias
    assert record["count"] == len(photos[1]) == 160
    assert record["correct"] == int((logits.argmax(axis=1) == labels).sum())
    assert record["top1"] == record["correct"] / 160
    order = np.argsort(-logits, axis=1)[:, :5]
    assert record["top5"] == pytest.approx((order == labels[:, None]).any(axis=1).mean())
    assert record["top1"] == record["history"][-1]["test_top1"]


def test_the_best_epoch_is_reported_and_not_selected(photos):
    # Labels without meaning: the accuracy wanders, and the last epoch is not the best.
    embed, state = network()
    random = np.random.default_rng(0).integers(0, 16, 480).astype(np.int32)
    record = evaluate_linear(
        embed, state, part(photos[0], 480, random), photos[1], size=32, preset="moco", epochs=6
    ).record
    course = [entry["test_top1"] for entry in record["history"]]
    assert record["best_top1"] == max(course) > course[-1] == record["top1"]
    assert record["best_epoch"] == 1 + course.index(max(course))


def test_fields_of_the_record(run, photos):
    result, _, _, seen = run
    record = result.record
    json.dumps(record)
    assert seen == record["history"]
    assert [entry["epoch"] for entry in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0]["loss"] > seen[-1]["loss"]
    # 480 examples: 512, 256, 128, 64 and 32 are halved until ten steps fit.
    assert (record["batch_size"], record["learning_rate"]) == (32, 0.1 * 32 / 256)
    for words in (
        "preset simclr_cifar",
        "frozen backbone (16-d) in evaluation mode",
        "cropped and flipped at random at 32 px",
        "SGD Nesterov 0.9",
        "lr 0.0125 cosine",
        "weight decay 0",
        "zeros init",
        "6 epochs of batch 32",
        "480 train and 160 test examples of photos",
        "last epoch",
    ):
        assert words in record["protocol"]


def test_one_step_is_the_gradient_at_the_augmented_images(photos):
    """After one step from zero logits: kernel = lr (1 + m) mean_i x_i (onehot_i - 1/K)."""
    train, test = photos

    def embed(state, images):
        return augment.to_float(images).reshape(len(images), -1), {}

    _, state = network()
    result = evaluate_linear(
        embed, state, train, test, size=16, preset="simclr_cifar", epochs=0.01, batch_size=40,
        seed=3, test_transform=data.CentreCrop(16, resize=16),
    )  # fmt: skip
    batches = data.train_batches(train, batch_size=40, seed=3)
    batch = next(batches)
    batches.close()
    views = augment.make_views("crop_flip", size=16, sampler="tf", resize="bicubic")
    view = jax.jit(lambda key, image: views(key, image)[0])
    key = jax.random.fold_in(jax.random.key(3), 0)
    x = np.stack(
        [view(jax.random.fold_in(key, i), image) for i, image in enumerate(batch["image"])]
    ).reshape(40, -1)
    y = np.eye(16)[batch["label"]]
    rate = 0.1 * 40 / 256
    np.testing.assert_allclose(result.head.kernel, rate * 1.9 * x.T @ (y - 1 / 16) / 40, atol=2e-7)
    np.testing.assert_allclose(result.head.bias, rate * 1.9 * (y - 1 / 16).mean(axis=0), atol=1e-7)
    assert result.record["epochs"] == 1 / 12


def test_any_number_of_devices_gives_the_same_head(photos):
    embed, state = network()
    heads = [
        evaluate_linear(
            embed, state, *photos, size=32, epochs=0.25, batch_size=40, devices=jax.devices()[:n]
        ).head
        for n in (1, 4)
    ]
    np.testing.assert_allclose(heads[0].kernel, heads[1].kernel, atol=1e-6)
    assert np.abs(heads[0].kernel).max() > 1e-4


def test_a_step_and_the_embedding_compile_once(photos, caplog):
    embed, state = network()
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        evaluate_linear(embed, state, *photos, size=32, epochs=0.4, batch_size=40)
    text = [r.getMessage() for r in caplog.records]
    for name in ("jit(step_fn)", "jit(selected)"):
        assert sum("Finished XLA compilation" in line and name in line for line in text) == 1


def test_other_features_and_crops_on_the_host(photos):
    embed, state = network()
    record = evaluate_linear(
        embed,
        state,
        *photos,
        size=32,
        preset="moco_v3",
        epochs=0.2,
        feature="pooled",
        host_crop=True,
        train_transform=data.HostCrop(32, views=1),
    ).record
    assert record["feature"] == "pooled"
    assert record["dim"] == 4 * 4 * 16
    assert "pooled (256-d)" in record["protocol"]


def test_steps_of_the_learning_rate_scale_with_the_epochs(photos):
    embed, state = network()
    record = evaluate_linear(
        embed, state, *photos, size=32, preset="moco", epochs=5, batch_size=160
    ).record
    rates = [entry["learning_rate"] for entry in record["history"]]
    peak = 30 * 160 / 256
    assert rates == pytest.approx([peak, peak, peak, peak / 10, peak / 100])
    assert "x0.1 at epochs 3, 4 per epoch" in record["protocol"]
    assert record["top1"] > 3 / 16  # random filters, five epochs: well above chance


# What must not happen ---------------------------------------------------------------------------


def test_batchnorm_in_training_mode_is_refused(photos):
    embed, state = network(train=True)
    with pytest.raises(ValueError, match="BatchNorm is not in evaluation mode"):
        evaluate_linear(embed, state, *photos, size=32, epochs=0.1)


@pytest.mark.parametrize("collection", ["params", "batch_stats"])
def test_a_changed_network_is_refused(photos, collection):
    embed, state = network()
    state = state.replace(
        params=jax.tree.map(np.array, state.params),
        batch_stats=jax.tree.map(np.array, state.batch_stats),
    )

    def meddle(_):
        leaf = jax.tree.leaves(getattr(state, collection))[0]
        leaf[...] = np.nextafter(leaf, 9, dtype=leaf.dtype)

    with pytest.raises(ValueError, match="The frozen network was changed: SHA-256 of params"):
        evaluate_linear(embed, state, *photos, size=32, epochs=0.1, progress=meddle)


def test_a_non_finite_loss_is_refused(photos):
    embed, state = network()

    def loud(state, images):
        features, named = embed(state, images)
        return 1e25 * features, named

    with pytest.raises(UserError, match="preset 'moco' diverged in epoch .* --preset=simclr"):
        evaluate_linear(loud, state, *photos, size=32, preset="moco", epochs=2)


def unlabelled(source):
    labels = np.full(len(source), -1, np.int32)
    return data.ArraySource("mine", source.images, labels, num_classes=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preset": "simcrl"}, "Unknown linear preset 'simcrl': did you mean 'simclr'?"),
        ({"preset": "lr30"}, "Choices: beit, byol, cmc, cmc_alexnet, cmc_wide, deepcluster, moco"),
        ({"feature": "poled"}, "no feature 'poled': did you mean 'pooled'?"),
        ({"batch_size": 481}, "481 is larger than the 480 examples"),
    ],
)
def test_mistakes_are_refused(photos, options, said):
    embed, state = network()
    with pytest.raises(UserError) as error:
        evaluate_linear(embed, state, *photos, size=32, **options)
    assert said in str(error.value)


def test_data_without_labels_or_with_other_classes_is_refused(photos):
    embed, state = network()
    digits = data.digits_source("test")
    for train, test in ((unlabelled(photos[0]), photos[1]), (photos[0], digits)):
        with pytest.raises(UserError, match="needs labels of the same two or more classes"):
            evaluate_linear(embed, state, train, test, size=32)


def test_a_non_finite_network_is_refused(photos):
    # Its features may well be: XLA's ReLU on the CPU turned these NaN into zeros.
    embed, state = network()
    broken = jax.tree.map(lambda x: x.at[3].set(math.nan), state.batch_stats)
    for use in (
        lambda state: evaluate_linear(embed, state, *photos, size=32),
        lambda state: evaluate.embed_source(embed, state, photos[1], batch_size=80),
    ):
        with pytest.raises(UserError) as error:
            use(state.replace(batch_stats=broken))
        assert "4 of its 10 arrays are not finite" in str(error.value)
        assert "batch_stats.BatchNorm_0.mean. Type --step=N" in str(error.value)
