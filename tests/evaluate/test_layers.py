"""The probe at every layer: what it finds, and that the test split chooses nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from jssl import evaluate
from jssl.data.sources import ArraySource
from jssl.errors import UserError


def embed(state, images):
    """A constant, the mean colours of the columns, and the mean of the noise beside them."""
    x = jnp.asarray(images, jnp.float32) / 255
    columns = jnp.mean(x, axis=1)
    named = {
        "layer1": jnp.ones((len(x), 3)),
        "layer2": columns.reshape(len(x), -1),
        "block_group10": x[:, :, 4:, :1],  # a map, of which the mean over places is left
        "projection": columns[:, 0],
    }
    return columns[:, 0], named


class Poisoned:
    """A source whose labels are all 0."""

    def __init__(self, source):
        self.source = source

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return {**self.source[i], "label": np.int32(0)}


@pytest.fixture(scope="module")
def sources():
    """Four classes: which of the first four columns is bright; the other columns are noise."""
    found = []
    for count in (200, 50):
        rng, labels = np.random.default_rng(count), np.arange(count) % 4
        images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        images[:, :, :4] //= 4
        images[np.arange(count), :, labels] += 128
        found.append(ArraySource("bright", images, labels, num_classes=4))
    return found


def test_every_layer_is_probed_in_order_and_the_best_is_marked(sources):
    rows = evaluate.layer_rows(embed, {}, *sources, size=8, epochs=30)
    assert [row["layer"] for row in rows] == ["layer1", "layer2", "block_group10"]
    assert [row["numbers"]["trained"]["dim"] for row in rows] == [3, 24, 1]
    assert [row["best"] for row in rows] == [False, True, False]
    assert [row["last"] for row in rows] == [False, False, True]
    constant, columns, _ = (row["top1"]["trained"] for row in rows)
    assert constant <= 0.3 and columns > 0.9
    shown = " ".join(evaluate.format_table(rows).split())
    assert "best of 3 layers on a held-out fifth of the train split" in shown
    assert "; the last layer" in shown


def test_the_test_split_does_not_select_the_layer(sources):
    train, test = sources
    plain, poisoned = (
        evaluate.layer_rows(embed, {}, train, part, size=8, epochs=10)
        for part in (test, Poisoned(test))
    )
    for key in ("best", "validation_top1"):
        assert [row[key] for row in plain] == [row[key] for row in poisoned]
    assert plain[1]["top1"] != poisoned[1]["top1"]


def test_a_network_without_layers_is_refused(sources):
    with pytest.raises(UserError, match="layerN.*this network has projection"):
        evaluate.layer_rows(lambda s, x: (x, {"projection": x}), {}, *sources, size=8)
