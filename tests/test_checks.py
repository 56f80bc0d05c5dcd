"""Every value of every key is checked before anything is built."""

import math

import pytest
from helpers import ROOT, get_config, small_config

from jssl import config, methods
from jssl.errors import UserError
from jssl.run import build, checks, config_file

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_key_has_a_rule_and_every_shipped_value_follows_it(name):
    for c in (get_config(name), get_config(name, "smoke")):
        assert checks.unchecked(c, c.method) == []
        checks.check(c)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", [-1, 2**31, 1.5, None, True, "0"]),
        ("epochs", [0.0, -1.0, math.nan, math.inf, None]),
        ("max_steps", [-1]),
        ("batch_size", [0, -8]),
        ("launch", ["", "pmapp", "vmap:0", "vmap:-1", "vmap:x", "vmap:"]),
        ("dtype", ["fp32", "float16", "float64", ""]),
        ("augment.size", [0, -1]),
        ("checkpoint.every_steps", [0, -1]),
        ("checkpoint.keep", [0, -2]),
        ("checkpoint.keep_every_steps", [-1]),
        ("log.every_steps", [0]),
        ("log.wandb_mode", ["of"]),
        ("monitor.every_epochs", [-0.5, math.nan]),
        ("monitor.knn_k", [0]),
        ("monitor.knn_temperature", [0.0]),
        ("monitor.max_examples", [0, 1]),
        ("final.linear_epochs", [0]),
        ("data.workers", [-1]),
        ("data.threads", [-1]),
        ("data.on_error", ["", "ignore"]),
        ("data.host_crop", ["torch"]),
        ("optim.lr", [-0.1, math.nan, math.inf]),
        ("optim.momentum", [1.0, -0.1]),
        ("optim.betas", [(0.9,), (0.9, 1.0), (0.9, 0.99, 0.999)]),
        ("optim.step_factor", [0.0]),
        ("model.width", [0.0]),
        ("model.stage_sizes", [(0, 1), 3]),
        ("model.dropout", [1.0, -0.5]),
        ("simclr.temperature", [0.0, -1.0, math.nan]),
        ("simclr.loss_form", ["papers"]),
        ("simclr.proj_dim", [0]),
    ],
)
def test_an_invalid_value_is_refused_and_its_key_is_named(key, values):
    for value in values:
        c = get_config("simclr_photos")
        section, _, name = key.rpartition(".")
        node = c[section] if section else c
        with node.ignore_type():
            node[name] = value
        with pytest.raises(UserError) as error:
            checks.check(c)
        assert f"--config.{key} expects " in str(error.value)
        assert f"found {value!r}" in str(error.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("checkpoint.keep", "-1"),
        ("seed", str(2**31 - 1)),
        ("monitor.every_epochs", "0"),
        ("checkpoint.keep_every_steps", "0"),
        ("max_steps", "0"),
        ("launch", "vmap:4"),
        ("epochs", "1e-6"),
        ("optim.eps", "None"),
        ("optim.lr", "0"),
        ("simclr.proj_hidden", "0"),
    ],
)
def test_values_at_the_bounds_are_accepted(key, text):
    c = get_config("simclr_photos")
    config_file.override(c, key, text)
    checks.check(c)


def test_all_wrong_values_are_reported_with_the_nearest_choice():
    c = small_config("simclr", seed=-1, dtype="bfloat")
    with pytest.raises(UserError) as error:
        build.build(c)
    assert str(error.value).splitlines() == [
        "--config.dtype expects one of 'float32', 'bfloat16', found 'bfloat' (did you mean "
        "'bfloat16'?).",
        "--config.seed expects a whole number of at least 0 and at most 2147483647, found -1.",
    ]


@pytest.mark.parametrize("method", methods.names())
def test_each_number_of_a_method_is_bounded(method):
    """No number of a method may be NaN, and none but switches may be text."""
    c = get_config(f"{method}_photos")
    for key, value in config.flatten(c[method]).items():
        if isinstance(value, float) or isinstance(value, int) and not isinstance(value, bool):
            rule = checks.rule_of(f"{method}.{key}", method)
            assert rule.holds(value) and not rule.holds(math.nan) and not rule.holds("1"), key


def test_a_config_of_another_method_is_refused():
    c = small_config("simclr")
    c.method = "byol"
    with pytest.raises(UserError, match="no section 'byol': it is for another method"):
        build.build(c)
