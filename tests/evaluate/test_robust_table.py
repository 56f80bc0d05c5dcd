"""The table of corrupted test images, by a classifier that can be followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import evaluate
from jssl.augment.corruptions import CONSTANTS, regenerate
from jssl.data.sources import ArraySource
from jssl.errors import UserError


def bright(state, images):
    """Whether an image is brighter than half, as two logits."""
    mean = jnp.mean(jnp.asarray(images, jnp.float32), axis=(1, 2, 3))
    return mean[:, None], {"logits": jnp.stack([127.5 - mean, mean - 127.5], axis=1)}


@pytest.fixture(scope="module")
def source():
    """Flat grey images, dark ones of class 0 and bright ones of class 1; one label is wrong."""
    values = np.r_[np.linspace(20, 120, 6), np.linspace(135, 235, 6)].astype(np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (12, 32, 32, 3)).copy()
    labels = np.r_[np.zeros(6), np.ones(6)].astype(np.int64)
    labels[0] = 1
    return ArraySource("grey", images, labels, num_classes=2)


def test_errors_are_those_of_the_corrupted_images(source):
    record = evaluate.robustness_record(bright, {}, source, size=32, batch_size=5)
    assert record["examples"] == 12 and record["clean"]["error"] == 1 / 12
    assert list(record["errors"]) == [f"regenerated/{name}" for name in CONSTANTS["cifar"]]
    # All grey images but the wrong one stay on their side while only details change.
    for name in ("pixelate", "gaussian_blur", "defocus_blur"):
        assert record["errors"][f"regenerated/{name}"] == [1 / 12] * 5
    for severity in range(1, 6):  # brighter images cross the middle, one after the other
        x = regenerate(
            jax.random.key(0), source.images, name="brightness", severity=severity,
            constants="cifar",
        )  # fmt: skip
        wrong = (np.asarray(x).reshape(12, -1).mean(axis=1) > 127.5) != source.labels
        assert record["errors"]["regenerated/brightness"][severity - 1] == wrong.mean()
    means = [np.mean(row) for row in record["errors"].values()]
    assert record["mean_error"] == pytest.approx(np.mean(means))
    assert record["mean_rise"] == pytest.approx(np.mean(means) - 1 / 12)
    assert "12 test examples of grey; corruptions regenerated" in record["protocol"]
    shown = evaluate.format_robustness(record)
    assert len(shown.splitlines()) == 2 + len(CONSTANTS["cifar"]) and "clean 8.3" in shown


def test_a_network_without_a_classifier_is_refused(source):
    with pytest.raises(UserError, match="no 'logits' among projection"):
        evaluate.robustness_record(lambda s, x: (x, {"projection": x}), {}, source, size=32)
