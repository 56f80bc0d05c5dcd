"""Positions: the recipe's golden values, torch's recorded interpolations, naive loops."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from scipy.interpolate import make_interp_spline

from jssl.errors import UserError
from jssl.models import position, vit

spec = importlib.util.spec_from_file_location(
    "record_vit_timm_positions", ROOT / "tests/reference/record_vit_timm.py"
)
recorder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorder)
GOLDEN = ROOT / "tests/golden/vit_timm.npz"


@pytest.mark.parametrize(
    ("method", "golden"),
    [
        ("official", [-0.09922, 0.15625, 0.80421, 2.125, 4.42466, 7.48078, 9.49608]),
        ("antialiased", [-0.07933, 0.18751, 0.86257, 2.25, 4.31849, 7.60428, 9.39664]),
    ],
)
def test_golden_interpolation_of_the_recipe(method, golden):
    pos = jnp.array([7.0, 0, 1, 4, 9]).reshape(1, 5, 1)
    new = position.resize_position_embedding(pos, grid=(1, 4), new_grid=(1, 7), method=method)
    assert float(new[0, 0, 0]) == 7  # the class token's stays
    np.testing.assert_allclose(new[0, 1:, 0], golden, atol=6e-6)


@pytest.mark.parametrize("method", position.METHODS)
@pytest.mark.parametrize(("way", "size"), [("up", (9, 7)), ("down", (3, 4))])
def test_interpolation_equals_torch(method, way, size):
    image = recorder.weights_of("pos_embed", (1, 3, 5, 6))
    pos = jnp.asarray(image.transpose(0, 2, 3, 1).reshape(1, 30, 3))
    new = position.resize_position_embedding(pos, grid=(5, 6), new_grid=size, method=method)
    expected = np.load(GOLDEN)[f"resize_{method}_{way}"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(new[0].reshape(*size, 3), expected, atol=2e-6)


def test_the_two_interpolations_differ_and_the_same_grid_changes_nothing():
    pos = jnp.asarray(np.random.default_rng(0).standard_normal((1, 14 * 14 + 2, 64)), jnp.float32)
    official, antialiased = (
        position.resize_position_embedding(pos, grid=(14, 14), new_grid=(24, 24), method=m)
        for m in position.METHODS
    )
    assert float(jnp.abs(official - antialiased).max()) > 0.2
    np.testing.assert_array_equal(official[:, :2], pos[:, :2])
    same = position.resize_position_embedding(pos, grid=(14, 14), new_grid=(14, 14))
    np.testing.assert_allclose(same, pos, atol=1e-6)
    with pytest.raises(UserError, match="did you mean 'official'"):
        position.resize_position_embedding(pos, grid=(14, 14), new_grid=(2, 2), method="oficial")
    with pytest.raises(ValueError, match=r"grid \(15, 14\) has more tokens"):
        position.resize_position_embedding(pos, grid=(15, 14), new_grid=(2, 2))


def test_sincos_for_a_rectangular_grid():
    table = position.sincos_position_embedding((3, 2), 8)
    for r in range(3):
        for c in range(2):
            w = [1.0, 10_000**-0.5]
            expected = [f(p * v) for p in (r, c) for f in (np.sin, np.cos) for v in w]
            np.testing.assert_allclose(table[2 * r + c], expected, atol=1e-6)
    with pytest.raises(UserError, match="divisible by 4, found 6"):
        position.sincos_position_embedding((2, 2), 6)


def test_relative_index_of_the_recipe_and_of_a_loop():
    index = position.relative_position_index((14, 14))
    assert position.table_length((14, 14)) == 732
    assert index[0, :3].tolist() == [731, 729, 729]
    assert index[1, :3].tolist() == [730, 364, 363]
    assert set(index[0, 1:]) == {729} and set(index[1:, 0]) == {730}
    h, w = 2, 3
    index = position.relative_position_index((h, w))
    entries = {}
    for q in range(h * w):
        for k in range(h * w):
            step = (q // w - k // w, q % w - k % w)
            assert entries.setdefault(step, index[1 + q, 1 + k]) == index[1 + q, 1 + k]
    assert sorted(entries.values()) == list(range(15))  # an entry for each step, and in order
    assert [entries[s] for s in sorted(entries)] == list(range(15))


@pytest.mark.parametrize(("new", "q"), [(47, 1.090307), (63, 1.134918)])
def test_golden_ratio_of_the_geometric_rule(new, q):
    np.testing.assert_allclose(position.geometric_ratio(27, new), q, atol=2e-6)


def random_table(grid, heads=2):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.standard_normal((position.table_length(grid), heads)), jnp.float32)


def test_relative_tables_are_resized_by_the_geometric_rule():
    """A table that grows with the distance it is placed at is, resized, the new distance."""
    grid, new_grid = (7, 7), (12, 12)
    q = position.geometric_ratio(13, 23)
    places = np.array([np.sign(d) * sum(q**i for i in range(abs(d))) for d in range(-6, 7)])
    rows, columns = np.meshgrid(places, places, indexing="ij")
    table = np.stack([rows.ravel(), columns.ravel()], axis=1)
    table = jnp.asarray(np.concatenate([table, [[1, 2], [3, 4], [5, 6]]]), jnp.float32)
    new = np.asarray(position.resize_relative_table(table, grid=grid, new_grid=new_grid))
    distances = np.stack(np.meshgrid(*[np.arange(-11, 12)] * 2, indexing="ij"), -1).reshape(-1, 2)
    np.testing.assert_allclose(new[:-3], distances, atol=1e-3)  # q is known to 1e-6
    np.testing.assert_array_equal(new[-3:], [[1, 2], [3, 4], [5, 6]])


def test_relative_tables_are_splines_and_keep_symmetry():
    table = random_table((5, 4))
    new = np.asarray(position.resize_relative_table(table, grid=(5, 4), new_grid=(8, 6)))
    expected = np.asarray(table[:-3], np.float64).reshape(9, 7, 2)
    for axis, (old, wanted) in enumerate(((9, 15), (7, 11))):
        q = position.geometric_ratio(old, wanted)
        half = np.cumsum([q**i for i in range(old // 2)])
        places = np.concatenate([-half[::-1], [0], half])
        at = np.clip(np.arange(-(wanted // 2), wanted // 2 + 1), places[0], places[-1])
        expected = make_interp_spline(places, expected, k=3, axis=axis)(at)
    np.testing.assert_allclose(new[:-3].reshape(15, 11, 2), expected, atol=1e-5)
    mirrored = jnp.concatenate([table[:-3][::-1], table[-3:]])
    other = np.asarray(position.resize_relative_table(mirrored, grid=(5, 4), new_grid=(8, 6)))
    np.testing.assert_allclose(other[:-3][::-1], new[:-3], atol=1e-5)
    flat = position.resize_relative_table(jnp.ones_like(table), grid=(5, 4), new_grid=(9, 9))
    np.testing.assert_allclose(flat, 1.0, atol=1e-6)
    same = position.resize_relative_table(table, grid=(5, 4), new_grid=(5, 4))
    np.testing.assert_array_equal(same, table)
    with pytest.raises(ValueError, match="has 66 entries, found"):
        position.resize_relative_table(table[1:], grid=(5, 4), new_grid=(8, 6))
    with pytest.raises(UserError, match="3 patches or more"):
        position.resize_relative_table(random_table((2, 2)), grid=(2, 2), new_grid=(4, 4))


def test_network_at_another_resolution():
    """A constant embedding and table are the same at 20 px: equal patches give equal features."""
    net = vit.ViT(dim=16, depth=1, heads=2, patch_size=4, pool="mean", relative_bias="shared")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)), False))[
        "params"
    ]
    params = jax.tree.map(
        lambda v: jnp.asarray(0.1 * rng.standard_normal(v.shape), jnp.float32), shapes
    )
    params["relative_table"] = jnp.zeros_like(params["relative_table"])
    params["pos_embed"] = jnp.full_like(params["pos_embed"], 0.3)
    larger = position.at_resolution(params, grid=(3, 3), new_grid=(5, 5))
    assert larger["pos_embed"].shape == (1, 26, 16) and larger["relative_table"].shape == (84, 2)
    own = net.clone(relative_bias="own")
    expanded = position.expand_shared_table(larger)
    assert "relative_table" not in expanded
    patch = jax.random.normal(jax.random.key(1), (1, 4, 4, 3))
    runs = [
        jax.jit(lambda p, x, n=n: n.apply({"params": p}, x, False)[1]["tokens"])(
            p, jnp.tile(patch, (1, side, side, 1))
        )
        for n, p, side in ((net, params, 3), (net, larger, 5), (own, expanded, 5))
    ]
    # One more key in the attention of each: the class token's share differs, the patches' is all
    # but the same where all tokens are.
    np.testing.assert_allclose(runs[1], runs[2], atol=1e-6)
    assert runs[1].shape == (1, 25, 16)
    np.testing.assert_allclose(runs[1], jnp.broadcast_to(runs[1][:, :1], (1, 25, 16)), atol=1e-5)
    np.testing.assert_allclose(runs[1][:, :9], runs[0], atol=0.02)
    with pytest.raises(UserError, match="no shared 'relative_table'"):
        position.expand_shared_table(expanded)
