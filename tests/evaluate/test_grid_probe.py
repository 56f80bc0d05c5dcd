"""CPC's probe on the grid of patches."""

import json

import numpy as np
import pytest
from helpers import small_config

from jssl import evaluate
from jssl.errors import UserError
from jssl.run import judge


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
