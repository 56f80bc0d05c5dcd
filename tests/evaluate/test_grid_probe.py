"""The probes of CPC: on the grid, and on the map of the whole image with few labels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config

from jssl import data, evaluate
from jssl.errors import UserError
from jssl.evaluate.probes import label_efficient
from jssl.methods import cpc
from jssl.run import build, judge


def test_the_probe_is_bn_a_convolution_and_the_mean_of_the_logits():
    rng = np.random.default_rng(0)
    grids = (rng.normal(size=(64, 3, 3, 5)) * 4 + 7).astype(np.float32)
    labels = np.argmax(grids.mean(axis=(1, 2)), axis=1)
    fit = evaluate.fit_grid(grids, labels, num_classes=5, epochs=50)
    found = np.asarray(evaluate.grid_logits(fit.head, grids))
    # by hand: each position's logits of the whitened channels, then their mean
    m, s = grids.mean(axis=(0, 1, 2)), grids.std(axis=(0, 1, 2))
    W = np.asarray(fit.head.kernel) * s[:, None]
    b = np.asarray(fit.head.bias) + m @ np.asarray(fit.head.kernel)
    for i in range(4):
        each = [((grids[i, r, c] - m) / s) @ W + b for r in range(3) for c in range(3)]
        np.testing.assert_allclose(found[i], np.mean(each, axis=0), atol=1e-3)
    assert np.mean(found.argmax(axis=1) == labels) > 0.9
    with pytest.raises(ValueError, match=r"\[M,h,w,D\]"):
        evaluate.fit_grid(grids[:, 0], labels, num_classes=5)


def test_the_raw_grid_is_the_patches():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    grid = evaluate.raw_grid(patch=8, stride=4)(None, images)
    expected = images[1, 8:16, 20:28].reshape(-1) / 255
    np.testing.assert_allclose(grid[1, 2, 5], expected, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = small_config("cpc", launch="jit", max_steps=2)
    config.monitor.every_epochs = 0.0
    config.data.update({"name": "synthetic", "num_examples": 128})
    judge.train_and_judge(config, folder)
    return folder


def test_the_final_table_has_the_grid_and_so_has_the_command(run):
    rows = json.loads((run / "result.json").read_text())["rows"]
    assert [row["probe"] for row in rows] == [
        "kNN",
        "softmax_regression",
        "softmax_regression on grid",
    ]
    assert list(rows[2]["top1"]) == ["trained", "untrained", "raw pixels"]
    numbers = rows[2]["numbers"]
    assert numbers["raw pixels"]["dim"] == 192
    assert "7x7 grid" in rows[2]["protocol"]
    settings = evaluate.Settings(epochs=2)
    again = evaluate.evaluate_run(run, protocols=["grid"], settings=settings)
    assert again[0]["top1"]["trained"] == pytest.approx(
        rows[2]["top1"]["trained"], abs=1 / rows[2]["numbers"]["trained"]["count"]
    )


def test_a_method_without_a_grid_is_refused(tmp_path):
    from jssl.run import workdir

    config = small_config("simclr")
    workdir.write_json(tmp_path / "config.json", config.to_dict())
    with pytest.raises(UserError, match="'simclr' has no grid"):
        evaluate.evaluate_run(tmp_path, protocols=["grid"])


def test_label_fractions_are_balanced_and_nested():
    labels = np.repeat(np.arange(5), [100, 100, 100, 100, 3])
    shares = [data.label_subset(labels, fraction=f) for f in label_efficient.FRACTIONS]
    for small, large in zip(shares, shares[1:], strict=False):
        assert set(small) <= set(large)
    assert np.bincount(labels[shares[3]]).tolist() == [10, 10, 10, 10, 1]
    assert len(shares[-1]) == len(labels)
    with pytest.raises(UserError, match="0.01 for 1 %"):
        data.label_subset(labels, fraction=1.5)


def test_the_classifier_is_frozen_first_and_fine_tuned_then():
    config = small_config("cpc", launch="jit")
    parts = build.build(config)
    encoder = build.init_state(parts).average
    kept = jax.tree.map(np.array, encoder)
    whole = cpc.whole_map(config)
    maps = whole(encoder, jnp.zeros((2, 32, 32, 3)))
    assert maps.ndim == 4 and maps.shape[:2] == (2, 32)  # a cifar stem, one group: no stride
    source = data.digits_source("train")
    labels = np.asarray(source.labels)
    settings = {
        "labels": labels,
        "size": 8,
        "blocks": 1,
        "bottleneck": 8,
        "batch_size": 32,
        "learning_rates": (1e-2, 1e-3),
        "crop_options": {"scale": (0.9, 1.0), "flip_p": 0.0},  # a mirrored 2 is no 2
    }

    def few(epochs):
        return label_efficient.fit_efficient(
            whole,
            encoder,
            source,
            data.digits_source("test"),
            fraction=0.2,
            epochs=epochs,
            train_transform=data.eval_transform(config.data, source, size=8),
            test_transform=data.eval_transform(config.data, source, size=8),
            **settings,
        )

    fit = few((30.0, 15.0))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(encoder), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = [
        np.abs(a - np.asarray(b)).max() > 0
        for a, b in zip(
            jax.tree.leaves(kept["encoder"]), jax.tree.leaves(fit.encoder["encoder"]), strict=True
        )
    ]
    assert all(moved)
    assert set(labels[fit.rows]) == set(range(10))
    assert fit.frozen["top1"] > 0.2 and fit.finetuned["top1"] > fit.frozen["top1"] - 0.05
