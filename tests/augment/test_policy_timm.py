"""timm's RandAugment against its recorded pictures and counts; AutoAugment's table and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from jssl.augment import _policy, auto_augment, make_views, rand_augment
from jssl.augment._operations import NOTHING, OPERATIONS, Style, exact_product, operation
from jssl.augment._policy import (
    AUTOAUGMENT,
    INCREASING,
    Policy,
    apply_policy,
    plan,
    tf_arguments,
    timm_arguments,
)
from jssl.errors import UserError

GOLDEN = np.load(ROOT / "tests" / "golden" / "policy_timm.npz")
PICTURE = GOLDEN["picture"]  # [37,29,3]
LEVELS = jnp.asarray(PICTURE.transpose(2, 0, 1), jnp.int32)
FILL = (124, 116, 104)
DEIT = Policy(magnitude=9.0, form="timm", fill=FILL)
# Where float32 falls to the other side of a whole level than Pillow's float64: at most this share
# of the values of a moved picture differs, by one level. All other operations are equal.
ROUNDED = dict.fromkeys(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), 0.005)


@pytest.fixture(scope="module")
def one():
    """One operation in Pillow's form, compiled once."""
    run = jax.jit(lambda kind, a: operation(LEVELS, kind, a, jnp.zeros(2), DEIT.style(37, 29)))
    return lambda name, a: np.asarray(run(jnp.int32(OPERATIONS.index(name)), a)).transpose(1, 2, 0)


@pytest.mark.parametrize("case", ["m4.3+", "m4.3-", "m9.0+", "m9.0-", "m9.9+"])
def test_operations_equal_timm(one, case):
    magnitude, sign = jnp.float32(case[1:-1]), jnp.float32(1 if case[-1] == "+" else -1)
    arguments = timm_arguments(magnitude, sign, 37, 29)
    for name, expected in zip(INCREASING, GOLDEN[case], strict=True):
        apart = np.abs(one(name, arguments).astype(int) - expected.astype(int))
        share = ROUNDED.get(name, 0)
        assert apart.max() <= (1 if share else 0), name
        assert (apart > 0).mean() <= share, name


def test_at_the_largest_magnitude():
    """Worked by hand at 10: no bit is kept, solarize inverts all, and a side is .45 of itself."""
    a = timm_arguments(jnp.float32(10), jnp.float32(-1), 200, 100)
    assert (int(a.bits), int(a.threshold), int(a.addition)) == (0, 0, 110)
    np.testing.assert_allclose(
        [a.factor, a.shear, a.shift_x, a.shift_y], [0.1, -0.3, -45, -90], rtol=1e-6
    )
    np.testing.assert_allclose([a.cos, a.sin], [np.sqrt(3) / 2, -0.5], rtol=1e-6)
    still = timm_arguments(jnp.float32(0), jnp.float32(1), 200, 100)
    assert (int(still.bits), int(still.threshold), int(still.addition)) == (4, 256, 0)
    np.testing.assert_allclose([still.factor, still.shear, still.cos], [1, 0, 1])


def test_posterize_to_zero_bits_is_black(one):
    a = timm_arguments(jnp.float32(10), jnp.float32(1), 37, 29)
    assert one("posterize", a).max() == 0


def many(policy, count, ops=2):
    u = jax.random.uniform(jax.random.key(0), (count, ops, 4))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda u: plan(u, policy, 100, 100)))(u))


def test_distribution_of_timms_draws():
    """Standard deviations are those of binomials; the moments of a clipped normal in closed form.

    E min(X, 10) = 9 - .5 (phi(2) - 2 Phi(-2)) = 8.99576, of standard deviation .4896 (integrated
    numerically), and P(10) = Phi(-2) = .02275.
    """
    kinds, a = many(DEIT, 20_000)
    applied = kinds != NOTHING
    assert abs(applied.mean() - 0.5) < 4 * 0.0025
    assert abs((~applied).all(axis=1).mean() - 0.25) < 4 * 0.0031
    counts = np.bincount(kinds[applied], minlength=15)
    assert len(counts) == 15 and np.all(np.abs(counts / applied.sum() - 1 / 15) < 4 * 0.0018)
    same = (kinds[:, 0] == kinds[:, 1])[applied.all(axis=1)].mean()
    assert abs(same - 1 / 15) < 4 * 0.0036  # drawn with replacement
    m = np.abs(a.shift_x) / 4.5
    assert abs(m.mean() - 8.99576) < 4 * 0.4896 / 200 and abs(m.std() - 0.4896) < 0.01
    assert m.max() <= 10.00001 and abs((m > 9.9999).mean() - 0.02275) < 4 * 0.00075
    for signed in (a.shift_x, a.shear, a.sin, a.factor - 1):
        assert abs((signed > 0).mean() - 0.5) < 4 * 0.0025
        np.testing.assert_array_equal(signed > 0, a.shear > 0)  # one sign an operation
    fixed = many(DEIT._replace(chance=1.0, deviation=0.0), 100)
    assert (fixed.kinds != NOTHING).all()
    np.testing.assert_allclose(np.abs(fixed.arguments.shear), 0.27, rtol=1e-6)


def test_share_of_unchanged_pictures_equals_timm():
    """25 % have no operation; a few more are inverted twice. Of 2,000, a deviation is .97 %."""
    small = jnp.asarray(PICTURE[8:16, 8:16].transpose(2, 0, 1) / 255.0, jnp.float32)
    u = jax.random.uniform(jax.random.key(2), (2000, 2, 4))
    result = jax.jit(lambda u: jax.lax.map(lambda v: apply_policy(small, v, DEIT), u))(u)
    same = np.isclose(result, small[None], atol=1e-6).all(axis=(1, 2, 3)).mean()
    assert same >= 0.25 - 4 * 0.0097 and abs(same - GOLDEN["unchanged"]) < 4 * 0.0097 + 0.004


def test_the_table_of_autoaugment():
    """timm's policy 'v0', whose translation alone is another (a share of the side)."""
    names = {"Rotate": "rotate", "Posterize": "posterize", "Solarize": "solarize",
             "SolarizeAdd": "solarize_add", "Color": "color", "Equalize": "equalize",
             "AutoContrast": "autocontrast", "Invert": "invert", "ShearX": "shear_x",
             "ShearY": "shear_y", "TranslateYRel": "translate_y"}  # fmt: skip
    expected = [
        tuple(v for name, (chance, magnitude) in zip(*pair, strict=True)
              for v in (names[str(name)], chance, magnitude))
        for pair in zip(GOLDEN["v0_names"], GOLDEN["v0_numbers"], strict=True)
    ]  # fmt: skip
    assert list(AUTOAUGMENT) == expected and len(expected) == 25
    assert AUTOAUGMENT[15] == ("rotate", 1.0, 7, "translate_y", 0.8, 9)


def test_autoaugment_draws_pairs_of_form_tf():
    """Each pair is drawn with chance 1/25; its strengths are those tested against TensorFlow's."""
    policy = Policy(form="autoaugment", lengths="pixels", translate=250.0)
    count = 20_000
    kinds, a = many(policy, count)
    result = {}
    for pair in AUTOAUGMENT:
        for j, (name, chance, magnitude) in enumerate((pair[:3], pair[3:])):
            result.setdefault((j, name), []).append((chance, magnitude))
    for (j, name), entries in result.items():
        share = (kinds[:, j] == OPERATIONS.index(name)).mean()
        expected = sum(chance for chance, _ in entries) / 25
        assert abs(share - expected) < 4 * np.sqrt(expected / count) + 1e-9, (j, name)
    applied = sum(chance for entries in result.values() for chance, _ in entries) / 50
    assert abs((kinds != NOTHING).mean() - applied) < 0.01
    u = np.full((25, 2, 4), 0.25, np.float32)
    u[:, 0, 0], u[:, :, 1] = (np.arange(25) + 0.5) / 25, 0.0
    kinds, a = jax.vmap(lambda u: plan(u, policy, 100, 100))(jnp.asarray(u))
    for i, pair in enumerate(AUTOAUGMENT):
        for j, (name, chance, magnitude) in enumerate((pair[:3], pair[3:])):
            assert kinds[i, j] == (OPERATIONS.index(name) if chance else NOTHING)
            expected = tf_arguments(magnitude, policy, 100, 100)
            for field in expected._fields:
                np.testing.assert_allclose(
                    getattr(a, field)[i, j], getattr(expected, field), rtol=1e-6, err_msg=field
                )
    # by hand: posterize 6 keeps 2 bits, solarize 8 begins at 204, solarize_add 3 adds 33, color 9
    # has factor 1.72, and translate_y 9 moves by 225 pixels
    assert a.bits[12, 0] == 2 and a.threshold[13, 0] == 204 and a.addition[6, 1] == 33
    np.testing.assert_allclose([a.factor[13, 1], a.shift_y[15, 1]], [1.72, 225], rtol=1e-6)


def test_recipes_and_functions_use_the_plan(monkeypatch):
    """With operations that add their own number, cheap to compile, to a black picture."""
    monkeypatch.setattr(_policy, "operation", lambda x, kind, a, place, style: x + kind)
    key, black = jax.random.key(5), np.zeros((8, 8, 3), np.float32)
    for form, function in (("timm", rand_augment), ("autoaugment", auto_augment)):
        views = make_views("none", size=8, policy_ops=2, policy_form=form)
        for result, u in (
            (views(key, black)[0], views.draw(key, 8, 8).policy[0]),
            (function(key, jnp.asarray(black), **({"form": form} if form == "timm" else {})),
             jax.random.uniform(key, (2, 4))),
        ):  # fmt: skip
            expected = plan(u, Policy(form=form), 8, 8).kinds.sum() / 255
            np.testing.assert_allclose(result, np.full((8, 8, 3), expected), atol=1e-6)


def test_invalid_arguments():
    image, key = jnp.zeros((4, 4, 3)), jax.random.key(0)
    with pytest.raises(UserError, match="Unknown form 'tim' of RandAugment: did you mean 'timm'"):
        rand_augment(key, image, form="tim")
    with pytest.raises(UserError, match="Call auto_augment"):
        rand_augment(key, image, form="autoaugment")
    with pytest.raises(UserError, match=r"chance in \[0, 1\], found 1.5"):
        rand_augment(key, image, form="timm", chance=1.5)
    with pytest.raises(UserError, match="three levels in 0..255"):
        rand_augment(key, image, fill=(300, 0, 0))
    for options, message in (
        ({"policy_form": "autoaugment", "policy_ops": 3}, "policy_ops=3.*pairs"),
        ({"policy_form": "tmm"}, "did you mean 'timm'"),
        ({"policy_chance": -0.1}, "policy_chance"),
        ({"policy_deviation": -1.0}, "policy_deviation"),
        ({"policy_fill": (1, 2)}, "policy_fill"),
    ):
        with pytest.raises(UserError, match=message):
            make_views("crop_flip", size=8, **options)
    assert Style().fill == (128, 128, 128)


def test_blends_equal_pillow_exactly():
    """All pairs of levels, compiled as users compile, where products and sums are fused."""
    low, high = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    pair = [x.astype(np.uint8) for x in (low, high)]

    def blend(factor):
        difference = jnp.asarray(high - low, jnp.float32)
        mixed = jnp.asarray(low, jnp.float32) + exact_product(factor, difference)
        return jnp.clip(mixed, 0.0, 255.0).astype(jnp.int32)

    options = {"xla_backend_optimization_level": "3"}
    run = jax.jit(blend).lower(jnp.float32(0)).compile(compiler_options=options)
    factors = np.random.default_rng(0).uniform(0, 2, 40)
    for factor in [*factors, 0.1, 0.19, 0.5, 1.45, 1.81, 1.9]:
        expected = Image.blend(*map(Image.fromarray, pair), float(factor))
        np.testing.assert_array_equal(run(jnp.float32(factor)), np.asarray(expected))


def test_factors_equal_timm():
    factor = jax.jit(lambda m, sign: timm_arguments(m, sign, 32, 32).factor)
    for m in np.arange(0, 10.25, 0.25):
        for sign in (1.0, -1.0):
            expected = np.float32(1.0 + sign * (m / 10) * 0.9)
            assert factor(jnp.float32(m), jnp.float32(sign)) == expected


def test_without_deviation_no_draw_gives_nan():
    """u = 0 is drawn once in 2^23 values; erf_inv(-1) is minus infinity."""
    policy = Policy(magnitude=9.0, form="timm", deviation=0.0)
    drawn = plan(jnp.zeros((2, 4)), policy, 32, 32)
    same = plan(jnp.full((2, 4), 0.25), policy, 32, 32)
    for result, expected in zip(drawn.arguments, same.arguments, strict=True):
        np.testing.assert_array_equal(result, expected)
