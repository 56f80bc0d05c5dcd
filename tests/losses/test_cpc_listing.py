"""CPC v2 against its paper's listing, run by TensorFlow (tests/reference/record_cpc_tf.py)."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from jssl import losses
from jssl.methods import cpc
from jssl.models.pixelcnn import PixelCNN

HIDDEN, DIM = 5, 4
BLOCKS = {"wide": 5, "square": 2}
OFFSETS = {"wide": (2, 3, 4), "square": (3,)}
DIRECTIONS = {"wide": ("down",), "square": ("down", "left", "up", "right")}  # as recorded
PARTS = ("in", "row", "down", "out")
# A quarter turn to the left ends where `turn` ends; those up and right end mirrored.
MIRRORED = ("up", "right")


class Latents(nn.Module):
    """An encoder whose one-pixel patches are the latents."""

    def __call__(self, x, train):
        return x[:, 0, 0], {}


def close(result, expected, what=""):
    """Within 1e-5 of the largest: the record is of float64, this is float32."""
    assert np.shape(result) == expected.shape, what
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=atol, err_msg=what)


def tree(read, case, i, *, mirror=False):
    """The parameters of a direction out of the recorded stacks, or their gradients."""
    part = lambda name, b: {  # noqa: E731
        "kernel": read(f"{name}_kernel")[i, b],
        "bias": read(f"{name}_bias")[i, b],
    }
    context = {f"block{b}_{name}": part(name, b) for b in range(BLOCKS[case]) for name in PARTS}
    if mirror:
        for b in range(BLOCKS[case]):
            row = context[f"block{b}_row"]
            row["kernel"] = row["kernel"][:, ::-1]
    predict = {f"predict{k}": part("predict", n) for n, k in enumerate(OFFSETS[case])}
    return {"context": context, "target": {"kernel": read("target_kernel")[i]}, **predict}


@functools.cache
def work(case):
    """Returns the record of a case, and jssl's results for its latents and weights."""
    with np.load(ROOT / "tests" / "golden" / "cpc_tf.npz") as archive:
        record = {k.removeprefix(case + "_"): archive[k] for k in archive if k.startswith(case)}
    pixelcnn = PixelCNN(BLOCKS[case], HIDDEN)
    predictor = cpc.Predictor(OFFSETS[case], BLOCKS[case], HIDDEN, DIM)
    net = cpc.Net(Latents(), {d: predictor.clone() for d in DIRECTIONS[case]})
    params = {
        f"predictors_{d}": tree(lambda k: record[f"weight_{k}"], case, i, mirror=d in MIRRORED)
        for i, d in enumerate(DIRECTIONS[case])
    }

    def loss(params, latents):
        found, _ = net.apply({"params": params}, latents[:, :, :, None, None], train=True)
        contexts = {
            d: pixelcnn.apply(
                {"params": params[f"predictors_{d}"]["context"]}, cpc.turn(latents, d)
            )
            for d in DIRECTIONS[case]
        }
        return losses.directions_info_nce(found)[0], (found, contexts)

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, (found, contexts)), (own, latents) = both(params, record["latents"])
    return types.SimpleNamespace(
        record=record, loss=value, found=found, contexts=contexts, own=own, latents=latents
    )


def aligned(recorded, direction):
    """A recorded [B,h,w,...] with its columns in the order of jssl's."""
    return recorded[:, :, ::-1] if direction in MIRRORED else recorded


@pytest.mark.parametrize("case", OFFSETS)
def test_context_equals_the_listing(case):
    w = work(case)
    for i, d in enumerate(DIRECTIONS[case]):
        close(w.contexts[d], aligned(w.record["context"][i], d), d)
        assert 0.2 < np.mean(np.asarray(w.contexts[d]) == 0) < 0.8  # the last ReLU closed some


@pytest.mark.parametrize("case", OFFSETS)
def test_predictions_targets_labels_and_terms_equal_the_listing(case):
    w = work(case)
    for i, d in enumerate(DIRECTIONS[case]):
        predictions, targets = w.found[d]
        # The listing's targets have a bias, jssl's have none; it changes no loss, see below.
        bias = w.record["weight_target_bias"][i]
        close(np.asarray(targets) + bias, aligned(w.record["targets"][i], d), d)
        assert tuple(predictions) == OFFSETS[case]
        B, h, columns, _ = targets.shape
        for k, p in predictions.items():
            close(0.1 * p, aligned(w.record[f"predictions{k}"][i], d), f"{d} {k}")
            labels = losses.patch_labels(0, batch=B, rows=h, columns=columns, offset=k)
            np.testing.assert_array_equal(labels, w.record[f"labels{k}"][i])
            result = losses.patch_info_nce(p, targets, offset=k)
            close(result, w.record[f"terms{k}"][i].mean(axis=(1, 2)), f"{d} {k}")


@pytest.mark.parametrize("case", OFFSETS)
def test_offsets_are_summed_and_directions_averaged(case):
    w = work(case)
    chance = np.log(w.record["latents"][..., 0].size) * len(OFFSETS[case])
    assert np.all(w.record["loss"] > chance + 0.3)  # else any weights would do
    close(w.loss, w.record["loss"].mean())
    for i, d in enumerate(DIRECTIONS[case]):
        close(losses.directions_info_nce({d: w.found[d]})[0], w.record["loss"][i], d)


@pytest.mark.parametrize("case", OFFSETS)
def test_gradients_equal_the_listing(case):
    w = work(case)
    count = len(DIRECTIONS[case])  # the record's are of the sum over the directions
    close(count * np.asarray(w.latents), w.record["gradient_latents"], "latents")
    for i, d in enumerate(DIRECTIONS[case]):
        expected = tree(lambda k: w.record[f"gradient_{k}"], case, i, mirror=d in MIRRORED)
        result = w.own[f"predictors_{d}"]
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        for (path, a), (_, b) in zip(
            *(jax.tree_util.tree_leaves_with_path(x) for x in (result, expected)), strict=True
        ):
            close(count * np.asarray(a), b, d + jax.tree_util.keystr(path))
    # why jssl's targets need no bias
    assert np.abs(w.record["weight_target_bias"]).max() > 0.5
    assert np.abs(w.record["gradient_target_bias"]).max() < 1e-12


def test_no_direction_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        losses.directions_info_nce({})
    p, t = {1: jnp.zeros((1, 1, 2, 3))}, jnp.zeros((1, 3, 2, 3))
    with pytest.raises(ValueError, match="offset 1"):
        losses.directions_info_nce({"down": (p, t)})
