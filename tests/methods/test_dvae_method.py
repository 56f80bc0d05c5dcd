"""The dVAE's schedules, the mapping of its beta, its alarm, and what it shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config, start, tiles
from PIL import Image

from jssl import config, evaluate
from jssl.errors import UserError
from jssl.evaluate.online import make_inspection
from jssl.methods import dvae
from jssl.run import build, workdir


def test_the_papers_schedules():
    """tau 1 to 1/16 in 150,000 of 3,000,000 updates, beta to 6.6 in 5,000."""
    s = config.base("dvae", preset="imagenet").dvae
    assert tuple(s.temperature) == (1.0, 1 / 16) and s.beta == 6.6
    np.testing.assert_allclose(s.temperature_share * 3_000_000, 150_000)
    np.testing.assert_allclose(s.beta_share * 3_000_000, 5_000, rtol=0.03)
    how = {"first": 1.0, "last": 1 / 16, "steps": 150_000}
    found = [float(dvae.temperature_at(n, **how)) for n in (0, 75_000, 150_000, 3_000_000)]
    np.testing.assert_allclose(found, [1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16], rtol=1e-6)


def test_beta_of_the_mean_is_that_of_the_papers_sum():
    """1,024 tokens of a picture of 256 x 256 x 3 values: the sum over them / 196,608."""
    kl = np.random.default_rng(0).uniform(0, 9, 1024)
    paper = 6.6 * kl.sum() / (256 * 256 * 3)
    np.testing.assert_allclose(
        dvae.kl_coefficient(beta=6.6, downsampling=8) * kl.mean(), paper, rtol=1e-9
    )


@pytest.fixture(scope="module")
def stepped():
    """Two steps of a run of 4: tau falls in 4, beta rises in 2."""
    c = small_config("dvae")
    config.apply(c, {"dvae": {"temperature": (1.0, 0.1), "temperature_share": 1.0,
                              "beta": 6.0, "beta_share": 0.5,
                              "likelihood": "logit_laplace"}})  # fmt: skip
    launcher, method, state, step = start(c, "jit", steps=4)
    first = jax.tree.map(jnp.copy, state)
    logged = []
    for i in range(3):
        state, metrics = step(state, launcher.put_batch(tiles(c.batch_size)), np.int32(i))
        logged.append({k: float(v) for k, v in metrics.items()})
    return c, method, first, state, logged


def test_the_step_follows_the_schedules_and_adds_up(stepped):
    _, _, _, _, logged = stepped
    expected = [0.1 + 0.45 * (1 + np.cos(np.pi * i / 4)) for i in range(3)]
    np.testing.assert_allclose([m["temperature"] for m in logged], expected, rtol=1e-5)
    np.testing.assert_allclose([m["beta"] for m in logged], [0.0, 3.0, 6.0], rtol=1e-6)
    for m in logged:  # groups=2: a token stands for 2 x 2 pixels, 12 values
        np.testing.assert_allclose(m["loss"], m["reconstruction"] + m["beta"] * m["kl"] / 12, 1e-5)
        assert 1 <= m["perplexity"] <= m["codes_used"] <= 32


def test_tokens_are_of_the_largest_logit_and_decode_to_the_reconstruction(stepped):
    c, method, _, state, _ = stepped
    images = tiles(3)["image"]
    _, named = jax.jit(method.embed)(state, images)
    net, variables = dvae.make_net(c, None), {"params": state.params}
    logits, _ = net.apply(variables, images.astype(np.float32) / 255, method="encode")
    assert named["tokens"].shape == (3, 16, 16)
    np.testing.assert_array_equal(named["tokens"], np.argmax(logits, axis=-1))
    one_hot = np.eye(32, dtype=np.float32)[np.asarray(named["tokens"])]
    out = np.asarray(net.decoder.apply({"params": state.params["decoder"]}, one_hot))[..., :3]
    expected = np.clip((1 / (1 + np.exp(-out)) - 0.1) / 0.8, 0, 1)
    np.testing.assert_allclose(named["reconstruction"], expected, atol=1e-5)


def test_the_best_constant_patch_is_its_mean():
    images = np.random.default_rng(0).random((2, 4, 4, 3))
    total = 0.0
    for m, i, j, c in np.ndindex(2, 2, 2, 3):
        patch = images[m, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        total += min(np.sum((patch - v) ** 2) for v in [patch.mean(), np.median(patch), 0.5])
    found = evaluate.constant_patch_error(images, patch=2)
    np.testing.assert_allclose(found, total / images.size)
    assert found < evaluate.constant_patch_error(images, patch=4)


def test_collapsed_codes_warn_and_healthy_ones_do_not():
    one = evaluate.codebook_report(np.zeros((4, 8, 8), int), vocabulary=64)
    assert one == {"used": 1.0, "perplexity": 1.0, "top_share": 1.0}
    (line,) = evaluate.codebook_warnings(one, min_perplexity=2.0)
    assert "perplexity of 1, below the threshold 2: 1 are in use" in line
    even = evaluate.codebook_report(np.arange(64).reshape(1, 8, 8), vocabulary=64)
    np.testing.assert_allclose(even["perplexity"], 64)
    assert evaluate.codebook_warnings(even, min_perplexity=2.0) == []
    with pytest.raises(UserError, match=r"tokens in \[0, 4\)"):
        evaluate.codebook_report(np.array([4]), vocabulary=4)


def test_the_monitor_inspects_the_test_split_and_a_picture_is_written(stepped, tmp_path):
    c, _, _, state, _ = stepped
    c.launch = "jit"
    scalars, warnings, pictures = make_inspection(build.build(c))(state)
    assert {"codes/perplexity", "codes/used", "reconstruction_mse_ratio"} <= set(scalars)
    assert any("collapse: the codes" in line for line in warnings) == (
        scalars["codes/perplexity"] < c.dvae.min_perplexity
    )
    workdir.write_picture(tmp_path / "pictures" / "a.png", pictures["reconstructions"])
    picture = np.asarray(Image.open(tmp_path / "pictures" / "a.png"))
    assert picture.shape == (8 * 32, 8 * 32, 3)  # 32 tiles and what became of them
    np.testing.assert_array_equal(picture, pictures["reconstructions"])


def test_settings_that_cannot_be():
    for changes, message in (
        ({"dvae": {"likelihood": "laplace"}}, "did you mean 'logit_laplace'"),
        (
            {"dvae": {"temperature": (1.0, 0.0)}},
            "temperature expects 2 values in brackets, each a number above 0",
        ),
        ({"model": {"name": "resnet18"}}, "Type --config.model.name=dvae"),
        ({"augment": {"normalize": "imagenet"}}, "Type --config.augment.normalize=none"),
    ):
        c = small_config("dvae")
        config.apply(c, changes)
        with pytest.raises(UserError, match=message):
            build.make_method(c, axis_name=None)
