"""Learning rates at published points and against closed forms."""

import math

import jax
import numpy as np
import pytest
from helpers import ROOT

from jssl import config, optim
from jssl.errors import UserError


@pytest.mark.parametrize(
    ("lr", "scaling", "expected"),
    [
        (0.3, "linear", 4.8),  # SimCLR v1
        (0.075, "sqrt", 4.8),
        (0.1, "sqrt", 6.4),  # SimCLR v2
        (0.45, "linear", 7.2),  # BYOL, 100, 300 and 1000 epochs
        (0.3, "linear", 4.8),
        (0.2, "linear", 3.2),
        (0.03, "none", 0.03),  # MoCo
    ],
)
def test_peaks_at_batch_4096(lr, scaling, expected):
    assert optim.scale(lr, batch_size=4096, scaling=scaling) == pytest.approx(expected, rel=1e-12)


def test_scalings_differ_below_4096():
    """Published: at B=256 SimCLR's square root gives four times the linear rate."""
    linear = optim.scale(0.3, batch_size=256, scaling="linear")
    root = optim.scale(0.075, batch_size=256, scaling="sqrt")
    assert (linear, root) == (pytest.approx(0.3), pytest.approx(1.2))


def test_steps_of_the_published_runs():
    for rule, extra in (("examples_and_one", 1), ("examples", 0)):
        for epochs, full in ((100, 31278), (1000, 312784)):
            result = optim.count_updates(rule, examples=1281167, epochs=epochs, batch_size=4096)
            assert result == full + extra
    dropped = optim.count_updates("whole_epochs", examples=1281167, epochs=1000, batch_size=4096)
    assert dropped == 312_000


def test_warm_up_and_cosine_at_every_step():
    warmup, total, peak = 30, 200, 4.8
    lr = optim.make_schedule(
        "cosine", peak=peak, warmup_epochs=1.5, steps_per_epoch=20, total_steps=total
    )
    expected = [
        peak * s / warmup
        if s < warmup
        else peak * (1 + math.cos(math.pi * (s - warmup) / (total - warmup))) / 2
        for s in range(total + 1)
    ]
    got = jax.jit(jax.vmap(lr))(np.arange(total + 1))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert got[0] == 0.0 and got[warmup] == np.float32(peak) and abs(float(got[total])) < 1e-6


def test_simclr_imagenet_at_known_steps():
    """100 epochs at B=4096: warm-up of 10 epochs of 312.8 steps, peak 4.8."""
    total = 31_279
    lr = optim.make_schedule(
        "cosine", peak=4.8, warmup_epochs=10, steps_per_epoch=1281167 / 4096, total_steps=total
    )
    warmup = 3127  # the official code: int(round(10 * 1281167 // 4096))
    points = {
        0: 0.0,
        warmup // 2: 4.8 * (warmup // 2) / warmup,
        warmup: 4.8,
        (warmup + total + 1) // 2: 2.4,
        total: 0.0,
    }
    for step, expected in points.items():
        assert float(lr(step)) == pytest.approx(expected, abs=5e-4), step


def test_without_warm_up_the_first_step_is_at_the_peak():
    for name in ("cosine", "constant"):
        lr = optim.make_schedule(
            name, peak=0.3, warmup_epochs=0, steps_per_epoch=10, total_steps=50
        )
        assert float(lr(0)) == pytest.approx(0.3)
        assert float(lr(25)) == pytest.approx(0.15 if name == "cosine" else 0.3)


def test_steps_fall_at_the_boundaries_counted_from_the_start():
    lr = optim.make_schedule(
        "step", peak=0.03, warmup_epochs=5, steps_per_epoch=10, total_steps=2000,
        boundaries=(120, 160), factor=0.1,
    )  # fmt: skip
    points = {0: 0.0, 25: 0.015, 50: 0.03, 1199: 0.03, 1200: 0.003, 1599: 0.003, 1600: 0.0003}
    for step, expected in points.items():
        assert float(lr(step)) == pytest.approx(expected, rel=1e-5), step


def test_exponential_schedule_is_counted_from_the_start():
    """0.97 every 2.4 epochs of 10 steps; the warm-up of 5 epochs hides the first two stairs."""
    lr = optim.make_schedule(
        "exponential", peak=0.128, warmup_epochs=5, steps_per_epoch=10, total_steps=3500,
        factor=0.97, decay_epochs=2.4,
    )  # fmt: skip
    points = {0: 0.0, 25: 0.064, 50: 0.128 * 0.97**2, 71: 0.128 * 0.97**2, 72: 0.128 * 0.97**3}
    points |= {3499: 0.128 * 0.97**145}
    for step, expected in points.items():
        assert float(lr(step)) == pytest.approx(expected, rel=1e-5), step
    with pytest.raises(UserError, match="decay_epochs expects epochs > 0"):
        optim.make_schedule(
            "exponential", peak=1.0, warmup_epochs=0, steps_per_epoch=10, total_steps=50,
            decay_epochs=0.0,
        )  # fmt: skip


def deit(**changes):
    options = {"peak": 1e-3, "warmup_epochs": 5, "start": 1e-6, "end": 1e-5}
    options |= {"steps_per_epoch": 7, "total_steps": 2100, **changes}
    return jax.jit(jax.vmap(optim.make_schedule("cosine_epochs", **options)))


def test_deits_schedule_by_hand():
    """Epochs 0 and 1 are alike, the warm-up never arrives, the cosine begins at t = 5 and not 0."""
    rates = deit()(np.arange(2100)).reshape(300, 7)
    assert (rates == rates[:, :1]).all()  # one rate an epoch
    step = (1e-3 - 1e-6) / 5
    expected = [1e-6, 1e-6, *(1e-6 + i * step for i in range(1, 5))]
    expected.append(1e-5 + 0.99e-3 * (1 + math.cos(math.pi * 5 / 300)) / 2)
    np.testing.assert_allclose(rates[:7, 0], expected, rtol=1e-6)
    assert float(rates[6, 0]) == pytest.approx(9.993217e-4, rel=1e-6)
    last = 1e-5 + 0.99e-3 * (1 + math.cos(math.pi * 298 / 300)) / 2
    assert float(rates[299, 0]) == pytest.approx(last, rel=1e-5)


def test_deits_schedule_equals_timm():
    """The rates of timm's scheduler, stepped as DeiT's main.py does: tests/reference."""
    golden = np.load(ROOT / "tests" / "golden" / "schedule_timm.npz")
    for epochs, peak in ((300, 1e-3), (30, 2.5e-4)):
        result = deit(peak=peak, total_steps=7 * epochs)(np.arange(epochs) * 7)
        np.testing.assert_allclose(result, golden[f"e{epochs}"], rtol=1e-6)


def test_epochs_of_deits_schedule_need_not_be_whole():
    """Of 2.5 steps: the epochs begin with steps 0, 3, 5, 8; a run may end in the first."""
    rates = deit(steps_per_epoch=2.5, total_steps=25, warmup_epochs=2)(np.arange(10))
    assert [int(i) for i in np.nonzero(np.diff(rates))[0] + 1] == [5, 8]
    np.testing.assert_allclose(rates[5:8], 1e-6 + (1e-3 - 1e-6) / 2, rtol=1e-6)
    short = deit(total_steps=4, warmup_epochs=0.0, peak=0.5)(np.arange(4))
    np.testing.assert_allclose(short, 0.5, rtol=1e-6)


def test_ends_of_warm_up_and_cosine():
    """BEiT's floor 1e-5 and the dVAE's 1.25e-6 are reached, and half way lies the mean."""
    for peak, end in ((1.5e-3, 1e-5), (1e-4, 1.25e-6)):
        lr = optim.make_schedule(
            "cosine", peak=peak, warmup_epochs=1, steps_per_epoch=10, total_steps=110,
            start=1e-6, end=end,
        )  # fmt: skip
        result = [float(lr(step)) for step in (0, 5, 10, 60, 110)]
        expected = [1e-6, (1e-6 + peak) / 2, peak, (peak + end) / 2, end]
        np.testing.assert_allclose(result, expected, rtol=1e-5)
    for method in ("beit", "dvae"):
        c = config.base(method, preset="imagenet").optim
        assert c.end_lr == {"beit": 1e-5, "dvae": 1.25e-6}[method] and c.schedule == "cosine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cosin"}, "Unknown optim.schedule 'cosin': did you mean 'cosine'"),
        ({"warmup_epochs": 10}, r"10 epochs is 100 steps, but the run has 100: it must be shorter"),
        ({"warmup_epochs": 11}, "--config.optim.warmup_epochs=1 for a tenth"),
        ({"warmup_epochs": -1}, "-10 steps"),
        ({"name": "step"}, r"found schedule 'step' and boundaries \(\)"),
        ({"boundaries": (3, 4)}, r"found schedule 'cosine' and boundaries \(3, 4\)"),
        ({"name": "step", "boundaries": (4, 3)}, r"increasing .* found \(4, 3\)"),
        ({"name": "step", "boundaries": (4, 4)}, r"found \(4, 4\)"),
        ({"name": "constant", "end": 1e-5}, "end_lr is where a cosine ends; found schedule 'const"),
        ({"name": "cosine_epochs", "warmup_epochs": 10}, "it must be shorter"),
        ({"name": "step", "boundaries": (1, 4)}, r"after the 2 of warm-up, found \(1, 4\)"),
    ],
)
def test_misuse(changes, message):
    options = {"name": "cosine", "peak": 1.0, "warmup_epochs": 2, "steps_per_epoch": 10}
    options |= {"total_steps": 100, **changes}
    with pytest.raises(UserError, match=message):
        optim.make_schedule(options.pop("name"), **options)


def test_misuse_of_scaling():
    with pytest.raises(UserError, match="'liner': did you mean 'linear'"):
        optim.scale(0.1, batch_size=256, scaling="liner")
    with pytest.raises(UserError, match="batch size >= 1, found 0"):
        optim.scale(0.1, batch_size=0, scaling="linear")
