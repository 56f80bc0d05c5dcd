"""CPC's label-efficient classifier: on the map of whole pictures, frozen, then fine-tuned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config

from jssl import data, losses
from jssl.errors import NotFiniteError, UserError
from jssl.evaluate.probes import label_efficient
from jssl.methods import cpc
from jssl.run import build

AS_IT_IS = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip_p": 0.0}
ENCODER = {"w": np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)}


def painted(encoder, images):
    """An encoder of one matrix: each pixel is a position of the map."""
    return images @ encoder["w"]


def source(count, seed):
    """Pictures 4x4 of three classes, each brightest in its own channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 120, (count, 4, 4, 3))
    images[np.arange(count), :, :, labels] += 120
    return data.ArraySource("painted", images.astype(np.uint8), labels, num_classes=3)


@pytest.fixture(scope="module")
def training():
    return label_efficient.make_efficient(
        painted, ENCODER, num_classes=3, size=4, blocks=1, bottleneck=2, crop_options=AS_IT_IS
    )


def fit(training, test=None, **options):
    given = {"epochs": (3.0, 2.0), "learning_rates": (2e-2, 2e-2), "batch_size": 16, **options}
    return label_efficient.fit_efficient(
        training, ENCODER, source(48, 0), test or source(30, 1), **given
    )


def test_label_fractions_are_balanced_and_nested():
    labels = np.repeat(np.arange(5), [100, 100, 100, 100, 3])
    shares = [data.label_subset(labels, fraction=f) for f in label_efficient.FRACTIONS]
    for small, large in zip(shares, shares[1:], strict=False):
        assert set(small) <= set(large)
    assert np.bincount(labels[shares[3]]).tolist() == [10, 10, 10, 10, 1]
    assert len(shares[-1]) == len(labels)
    with pytest.raises(UserError, match="0.01 for 1 %"):
        data.label_subset(labels, fraction=1.5)


def test_a_step_is_adam_on_the_whole_batch_whatever_its_pieces(monkeypatch):
    monkeypatch.setattr(label_efficient, "PIECE", 8 // jax.local_device_count())
    assert label_efficient._pieces(16, jax.local_device_count()) == 2
    made = label_efficient.make_efficient(
        painted, ENCODER, num_classes=3, size=4, blocks=1, crop_options=AS_IT_IS
    )
    assert made.map_shape == (4, 4, 4) and made.bottleneck == 1
    head = made.first(jax.random.key(0), ENCODER)
    assert not np.any(head["linear"]["kernel"])  # from which the encoder has no gradient
    head["linear"]["kernel"] += np.linspace(-0.5, 1.0, 12).reshape(4, 3)
    params = {"head": head, "encoder": jax.tree.map(jnp.asarray, ENCODER)}
    batch, key = source(16, 2), jax.random.key(1)
    x, labels = batch.images, np.asarray(batch.labels)
    net = label_efficient.MapClassifier(3, 1, 1)

    @jax.jit
    def reference(p):
        logits = net.apply({"params": p["head"]}, painted(p["encoder"], x / np.float32(255)))
        return jnp.mean(losses.cross_entropy(logits, labels))

    loss, grads = jax.value_and_grad(reference)(params)
    first = made.place(jax.tree.map(jnp.copy, params))
    found, moments, own = made.step(first, {}, made.begin(first), x, labels, key, np.float32(0.1))
    np.testing.assert_allclose(own, loss, rtol=1e-5)
    assert np.abs(grads["encoder"]["w"]).min() > 1e-4
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    for m, g in zip(jax.tree.leaves(moments.mu), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(m / 0.1, g, atol=1e-5 * largest)
    # Adam's first update has the size of the rate, whatever that of the gradient.
    updates = jax.tree.map(lambda m: 0.1 * (m / 0.1) / (jnp.abs(m / 0.1) + 1e-8), moments.mu)
    for a, p, u in zip(*map(jax.tree.leaves, (found, params, updates)), strict=True):
        np.testing.assert_allclose(a, p - u, atol=1e-5)


def test_the_first_phase_leaves_the_encoder_as_it_was(training):
    kept = ENCODER["w"].copy()
    frozen = fit(training, learning_rates=(2e-2, 0.0))
    np.testing.assert_array_equal(frozen.encoder["w"], kept)
    np.testing.assert_array_equal(frozen.frozen[0], frozen.finetuned[0])
    assert float(jnp.abs(frozen.head["linear"]["kernel"]).max()) > 0  # it began at 0
    both = fit(training, learning_rates=(2e-2, 2e-2))
    assert np.abs(both.encoder["w"] - kept).min() > 0
    np.testing.assert_array_equal(ENCODER["w"], kept)
    np.testing.assert_array_equal(both.frozen[0], frozen.frozen[0])  # only the second differs
    longer = fit(training, epochs=(40.0, 20.0), learning_rates=(5e-2, 2e-2))
    logits, labels = longer.finetuned
    assert np.mean(logits.argmax(axis=1) == labels) > 0.8


def test_the_labels_of_the_test_split_change_nothing_but_the_scores(training):
    clean, test = fit(training), source(30, 1)
    poisoned = data.ArraySource("painted", test.images, np.zeros(30, int), num_classes=3)
    other = fit(training, test=poisoned)
    for a, b in zip(jax.tree.leaves(clean[:2]), jax.tree.leaves(other[:2]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(other.finetuned[1]) and np.any(clean.finetuned[1])


def test_progress_and_a_loss_that_is_not_finite(training):
    said = []
    fit(training, progress=lambda *a: said.append(a), most_steps=3)
    assert [a[:3] for a in said] == [(p, i, 3) for p in label_efficient.PHASES for i in (1, 2, 3)]
    with pytest.raises(NotFiniteError, match=r"\(frozen\).*update 2 of 9"):
        fit(training, learning_rates=(float("nan"), 1e-3))


def test_cpc_s_encoder_is_trained_on_its_map():
    config = small_config("cpc", launch="jit")
    encoder = build.init_state(build.build(config)).average
    kept = jax.tree.map(np.array, encoder)
    whole = cpc.SPEC.whole_map(config)
    maps = jax.eval_shape(whole, encoder, jnp.zeros((2, 32, 32, 3)))
    assert maps.shape[:3] == (2, 32, 32)  # a cifar stem, one group: no stride
    made = label_efficient.make_efficient(
        whole, encoder, num_classes=10, size=8, blocks=1, bottleneck=8
    )
    test = data.Limited(data.digits_source("test"), 12)
    found = label_efficient.fit_efficient(
        made, encoder, data.Limited(data.digits_source("train"), 16), test, most_steps=2
    )
    pairs = zip(jax.tree.leaves(kept), jax.tree.leaves(encoder), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    pairs = zip(*(jax.tree.leaves(tree["encoder"]) for tree in (kept, found.encoder)), strict=True)
    assert all(np.abs(a - np.asarray(b)).max() > 0 for a, b in pairs)
    for logits, labels in (found.frozen, found.finetuned):
        assert logits.shape == (12, 10) and np.array_equal(
            labels, [test[i]["label"] for i in range(12)]
        )
