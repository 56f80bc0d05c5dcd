"""Signs of collapse: closed forms, scipy, and recorded values of lightly and torch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from jssl.evaluate import (
    alignment,
    alpha_req,
    collapse_report,
    collapse_warnings,
    effective_rank,
    std_of_normalized,
    uniformity,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluate_torch.npz")


def gaussian(M, D, seed=0):
    return np.random.default_rng(seed).normal(size=(M, D)).astype(np.float32)


def rotation(D, seed=1):
    return np.linalg.qr(gaussian(D, D, seed))[0]


# Closed forms -----------------------------------------------------------------------------------


def test_identical_embeddings():
    z = np.tile(np.array([[3.0, -4.0, 12.0, 1.0]]), (64, 1)) * np.linspace(1, 5, 64)[:, None]
    assert std_of_normalized(z) < 1e-6
    assert effective_rank(z) == pytest.approx(1.0, abs=1e-4)
    assert uniformity(z) == pytest.approx(0.0, abs=1e-5)
    assert alignment(z, 2 * z) == pytest.approx(0.0, abs=1e-6)


def test_zero_embeddings():
    z = np.zeros((16, 8))
    assert std_of_normalized(z) == 0.0
    assert uniformity(z) == pytest.approx(0.0, abs=1e-6)
    assert effective_rank(z) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("D", [2, 16, 64])
def test_one_hot(D):
    z = np.eye(D).repeat(4, axis=0)  # every direction equally often
    # Each dimension is 1 with chance 1/D: std sqrt((1/D)(1 - 1/D)); times sqrt(D).
    assert std_of_normalized(z) == pytest.approx(np.sqrt(1 - 1 / D), rel=1e-5)
    assert effective_rank(z) == pytest.approx(D, rel=1e-4)


def test_isotropic_gaussian_is_uniform_on_the_sphere():
    z = gaussian(4096, 64)
    assert std_of_normalized(z) == pytest.approx(1.0, abs=0.005)
    # Singular values of a 4096 x 64 Gaussian are within 12.5 % of each other's mean.
    assert 63.0 < effective_rank(z) <= 64.0
    # d^2 = 2 - 2 cos, cos of variance 1/64: ln E exp(-4 + 4 cos) = -4 + 16 / (2 * 64).
    assert uniformity(z[:1024]) == pytest.approx(-4 + 1 / 8, abs=0.02)
    assert alignment(z, gaussian(4096, 64, seed=9)) == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rank_r_data(rank):
    # Orthonormal rows in r directions, each as long: exactly r equal singular values.
    basis = rotation(32)[:rank]
    z = np.eye(rank).repeat(20, axis=0) @ basis
    assert effective_rank(z) == pytest.approx(rank, rel=1e-3)
    assert effective_rank(100 * z) == pytest.approx(rank, rel=1e-3)


def test_effective_rank_of_two_unequal_singular_values_by_hand():
    # p = 3/4, 1/4: exp(3/4 ln 4/3 + 1/4 ln 4) = 1.7548
    z = np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert effective_rank(z) == pytest.approx(1.75477, abs=1e-4)


def power_law(alpha, D, last=None):
    """2 D points of mean 0 whose covariance has the eigenvalues i^-alpha up to `last`, else 0."""
    z = np.diag(np.arange(1.0, D + 1) ** (-alpha / 2) * (np.arange(D) < (last or D)))
    return np.concatenate([z, -z]) @ rotation(D)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("D", [5, 40, 160])  # 160: more than the 100 ranks of the fit
def test_alpha_req_of_a_power_law_is_its_exponent(alpha, D):
    z = power_law(alpha, D)
    assert alpha_req(z) == pytest.approx(alpha, abs=1e-3)
    assert alpha_req(1e-3 * z + 2e-3) == pytest.approx(alpha, abs=1e-3)  # neither scale nor mean


def test_alpha_req_uses_ranks_4_to_100_only():
    variance = np.arange(1.0, 161.0) ** -1.0
    variance[:3], variance[100:] = 50.0, 1e-4
    z = np.diag(np.sqrt(variance))
    assert alpha_req(np.concatenate([z, -z])) == pytest.approx(1.0, abs=1e-3)
    variance[3] *= 4.0  # rank 4 is used: a steeper line
    z = np.diag(np.sqrt(variance))
    assert alpha_req(np.concatenate([z, -z])) > 1.1


def test_alpha_req_of_two_eigenvalues_by_hand():
    # Ranks 4 and 5 with variances 3 and 2: ln(3 / 2) / ln(5 / 4).
    z = np.diag(np.sqrt([6.0, 5.0, 4.0, 3.0, 2.0]))
    assert alpha_req(np.concatenate([z, -z])) == pytest.approx(1.81706, abs=1e-4)


def test_alpha_req_leaves_out_eigenvalues_that_are_0():
    assert alpha_req(power_law(1.0, 64, last=20)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(64, 4), (5, 64)])  # at most 4 eigenvalues: one in the range
def test_too_few_dimensions_have_no_alpha_req(shape):
    z = gaussian(*shape)
    assert np.isnan(alpha_req(z))
    report = collapse_report(z, z)
    assert "alpha_req" not in report
    assert all(np.isfinite(value) for value in report.values())
    z[0, 0] = np.nan
    assert np.isnan(collapse_report(z, z)["alpha_req"])


@pytest.mark.parametrize(
    ("angle", "expected"), [(0, 0.0), (60, -2.0), (90, -4.0), (120, -6.0), (180, -8.0)]
)
def test_uniformity_of_two_points_by_hand(angle, expected):
    # d^2 = 2 - 2 cos(angle), one pair: -2 d^2.
    turned = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    z = np.stack([np.array([2.0, 0.0]), 7 * turned])
    assert uniformity(z) == pytest.approx(expected, abs=1e-5)


def test_uniformity_of_three_points_by_hand():
    # Pairs at 90, 90 and 180 degrees: ln((2 e^-4 + e^-8) / 3)
    z = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert uniformity(z) == pytest.approx(np.log((2 * np.exp(-4) + np.exp(-8)) / 3), abs=1e-5)


@pytest.mark.parametrize(("angle", "expected"), [(0, 0.0), (60, 1.0), (90, 2.0), (180, 4.0)])
def test_alignment_by_hand(angle, expected):
    turned = np.array([[np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))]])
    assert alignment(np.array([[5.0, 0.0]]), turned) == pytest.approx(expected, abs=1e-6)


def test_std_of_a_cone_is_at_the_threshold():
    # Embeddings m + spread: mean cosine .99, equal in all other dimensions: sqrt(1 - .99) = .1.
    z = gaussian(8192, 257) * np.sqrt(0.01 / 256)
    z[:, 0] = np.sqrt(0.99)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert (unit.mean(axis=0) ** 2).sum() == pytest.approx(0.99, abs=1e-3)
    assert std_of_normalized(z) == pytest.approx(0.1, abs=2e-3)


# Other people's code ----------------------------------------------------------------------------


@pytest.mark.parametrize(("M", "D"), [(50, 12), (12, 50), (128, 128)])
def test_effective_rank_is_scipys_entropy_of_numpys_spectrum(M, D):
    z = gaussian(M, D) * np.linspace(0.01, 3, D) + 1.0
    sigma = np.linalg.svd(z.astype(np.float64), compute_uv=False)
    assert effective_rank(z) == pytest.approx(np.exp(entropy(sigma / sigma.sum())), rel=1e-3)


def test_uniformity_is_scipys_pairwise_distances():
    z = gaussian(40, 9) + 0.5
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    expected = np.log(np.mean(np.exp(-2 * pdist(unit.astype(np.float64), "sqeuclidean"))))
    assert uniformity(z) == pytest.approx(expected, abs=1e-5)


def test_recorded_values_of_lightly_and_torch():
    a, b = GOLDEN["collapse_a"], GOLDEN["collapse_b"]
    M, D = a.shape
    # lightly divides by M - 1 and leaves out sqrt(D).
    expected = GOLDEN["collapse_std_a"] * np.sqrt(D * (M - 1) / M)
    assert std_of_normalized(a) == pytest.approx(expected, rel=1e-5)
    assert uniformity(a) == pytest.approx(float(GOLDEN["collapse_uniformity_a"]), abs=1e-5)
    assert alignment(a, b) == pytest.approx(float(GOLDEN["collapse_alignment"]), abs=1e-6)


# Properties -------------------------------------------------------------------------------------


def test_rotation_changes_no_distance_and_no_rank():
    z, q = gaussian(64, 16) + 0.3, rotation(16)
    assert uniformity(z @ q) == pytest.approx(float(uniformity(z)), abs=1e-5)
    assert effective_rank(z @ q) == pytest.approx(float(effective_rank(z)), rel=1e-4)
    other = gaussian(64, 16, seed=3)
    assert alignment(z @ q, other @ q) == pytest.approx(float(alignment(z, other)), abs=1e-5)


def test_report_is_the_mean_of_both_views():
    a, b = gaussian(32, 8), gaussian(32, 8, seed=5) + 2.0
    report = collapse_report(a, b)
    assert set(report) == {"std", "effective_rank", "alpha_req", "alignment", "uniformity"}
    assert all(type(value) is float for value in report.values())
    for name, measure in (
        ("std", std_of_normalized),
        ("effective_rank", effective_rank),
        ("alpha_req", alpha_req),
        ("uniformity", uniformity),
    ):
        assert report[name] == pytest.approx(float(measure(a) + measure(b)) / 2, rel=1e-5)
    assert report["alignment"] == pytest.approx(float(alignment(a, b)), rel=1e-5)
    half = collapse_report(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16))
    assert half["uniformity"] == pytest.approx(report["uniformity"], abs=0.02)


# Warnings ---------------------------------------------------------------------------------------

HEALTHY = {"std": 0.9, "effective_rank": 50.0, "alignment": 0.3, "uniformity": -3.0}


def test_healthy_embeddings_give_no_warning():
    assert collapse_warnings(HEALTHY) == []
    assert collapse_warnings({**HEALTHY, "std": 0.1, "effective_rank": 2.0}) == []


def test_each_warning_names_value_threshold_and_what_to_check():
    (line,) = collapse_warnings({**HEALTHY, "std": 0.0523})
    for words in (
        "std of normalised embeddings is 0.0523",
        "threshold 0.1",
        "Check the learning",
    ):
        assert words in line
    (line,) = collapse_warnings({**HEALTHY, "effective_rank": 1.5})
    for words in ("effective rank (RankMe) is 1.5", "threshold 2", "Check the strength"):
        assert words in line
    (line,) = collapse_warnings({**HEALTHY, "uniformity": float("nan")})
    assert "uniformity is not a number" in line


def test_thresholds_are_options():
    assert len(collapse_warnings(HEALTHY, std_threshold=0.95, rank_threshold=60.0)) == 2
    dead = {**HEALTHY, "std": 0.0, "effective_rank": 1.0}
    assert collapse_warnings(dead, std_threshold=0.0, rank_threshold=0.0) == []


def test_a_collapsed_batch_warns_twice():
    z = np.ones((20, 8)) + 1e-3 * gaussian(20, 8)
    assert len(collapse_warnings(collapse_report(z, z))) == 2


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((4, 2), (5, 2)), ((1, 4), (1, 4))])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError) as error:
        collapse_report(*(np.ones(shape) for shape in shapes))
    assert str(shapes[0]) in str(error.value)
