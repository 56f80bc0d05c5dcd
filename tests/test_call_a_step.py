"""README's "Call a step" works as it stands there, for every method."""

import functools
import re
import types

import jax
import numpy as np
import optax
import pytest
from helpers import ROOT, batch_of, small_config

from jssl import RunLengths, config, methods
from jssl.errors import UserError

LENGTHS = RunLengths(num_examples=4096, steps_per_epoch=97, total_steps=97_000)


def example():
    """The code of README's section."""
    text = (ROOT / "README.md").read_text()
    return re.search(r"\*\*Call a step\.\*\*.*?```python\n(.*?)```", text, re.DOTALL)[1]


TARGETS = ("byol", "moco", "moco_v3")


def run_example(name, jit=jax.jit):
    """The example's names after it ran for `name`; the step is taken three times."""
    base = 'config.base("simclr", preset="cifar")'
    code = example()
    assert base in code and "simclr.make(c, tx, lengths)" in code
    c = small_config(name)  # a small net, and the settings that a run fills in
    names = {"small": c, "batch": batch_of(c, c.batch_size)}
    names["jax"] = types.SimpleNamespace(jit=jit, random=jax.random)
    code = code.replace("import jax\n", "")
    code, step = code.replace(base, "small").replace("simclr", name).split("state, metrics = ")
    exec(code, names)
    names["first"] = names["state"]
    for _ in range(
        3
    ):  # warmup begins at a learning rate of 0: the second step is the first to move
        exec("state, metrics = " + step, names)
    return names


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_moves_in_the_example_of_the_readme(name):
    names = run_example(name)
    assert int(names["state"].step) == 3
    assert np.isfinite(float(names["metrics"]["loss"]))
    pairs = zip(*map(jax.tree.leaves, (names["state"].target, names["first"].target)), strict=True)
    assert any(bool((a != b).any()) for a, b in pairs)


@pytest.mark.parametrize("name", sorted({*methods.names()} - {*TARGETS}))
def test_the_example_of_the_readme(name):
    names = run_example(name, jit=lambda f: functools.partial(jax.eval_shape, f))
    assert jax.tree.structure(names["state"]) == jax.tree.structure(names["first"])
    assert names["metrics"]["loss"].shape == ()


@pytest.mark.parametrize("name", methods.names())
def test_lengths_are_required(name):
    c, make = small_config(name), methods.get(name).make
    tx = optax.sgd(0.1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'lengths'"):
        make(c, tx)
    for wrong in (None, (4096, 97, 97_000), LENGTHS._replace(total_steps=0)):
        with pytest.raises(UserError, match=r"Expected positive integers: jssl.types.RunLengths"):
            make(c, tx, wrong)


def test_a_config_of_another_method_is_refused():
    c = config.base("simclr", preset="cifar")
    with pytest.raises(UserError, match="byol.make found a config of method 'simclr'"):
        methods.get("byol").make(c, optax.sgd(0.1), LENGTHS)
