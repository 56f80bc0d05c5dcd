"""In-place row updates: failed steps change nothing, and the compiled text has no copy."""

import re

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config

from jssl.parallel.collectives import all_gather, pmean
from jssl.parallel.launcher import make_launcher
from jssl.run import build
from jssl.state import RowUpdate, WritesRows
from jssl.state.rows import write
from jssl.types import Array, TrainState

MODES = ["pmap", "shard_map", "jit", "vmap:4"]


@flax.struct.dataclass
class Remembers(TrainState):
    rows: Array


def toy_state():
    return Remembers(
        jnp.int32(0), jax.random.key(3), {"w": jnp.ones(2)}, {}, (), jnp.zeros((2, 6, 3))
    )


def toy_step(axis_name):
    @WritesRows
    def step(state, batch):
        mean = pmean(jnp.mean(batch["image"]), axis_name)
        index = all_gather(batch["index"], axis_name)
        rows = jnp.broadcast_to(state.step + 1.0 + 0.0 * mean, (len(index), 3))
        new = state.replace(step=state.step + 1, rows=RowUpdate(state.rows, index, rows))
        return new, {"loss": mean}

    return step


def test_write_equals_numpys_assignment():
    array = np.arange(24.0, dtype=np.float32).reshape(2, 4, 3)
    rows = -np.ones((2, 3), np.float32)
    expected = array.copy()
    expected.reshape(8, 3)[[6, 1]] = rows
    update = RowUpdate(jnp.asarray(array), jnp.array([6, 1]), jnp.asarray(rows))
    np.testing.assert_array_equal(write(update), expected)
    np.testing.assert_array_equal(write(update, jnp.bool(True)), expected)
    np.testing.assert_array_equal(write(update, jnp.bool(False)), array)


@pytest.mark.parametrize("mode", MODES)
def test_failed_and_following_steps_write_nothing(mode):
    launcher = make_launcher(mode)
    state = launcher.init(toy_state)
    step = launcher.compile_step(toy_step(launcher.axis_name))
    seen = []
    for i, value in enumerate([1.0, np.nan, 1.0]):
        batch = {
            "image": np.full((8,), value, np.float32),
            "index": np.arange(8, dtype=np.int32) + i,
        }
        state, metrics = step(state, launcher.put_batch(batch), np.int32(i))
        seen.append((bool(metrics["ok"]), np.asarray(state.rows)[..., 0].ravel().tolist()))
    written = [1.0] * 8 + [0.0] * 4
    assert seen == [(True, written), (False, written), (False, written)]


def test_unguarded_steps_return_plain_states():
    batch = {"image": jnp.ones(2), "index": jnp.array([0, 11], jnp.int32)}
    state, _ = toy_step(None)(toy_state(), batch)
    assert isinstance(state, Remembers)
    np.testing.assert_array_equal(state.rows[..., 0].ravel(), [1] + [0] * 10 + [1])


BANK = (2, 204_800, 128)  # 210 MB, far above what the small net needs; never made


def compiled_step(mode, deferred=True):
    """CMC's step, compiled and not run: no bank is made."""
    config = small_config("cmc")
    config.model.stage_sizes = (1,)
    config.cmc.num_negatives = 8
    config.run.num_examples = BANK[1]
    launcher = make_launcher(mode)
    method, _ = build.make_method(config, axis_name=launcher.axis_name)
    size = config.batch_size // launcher.size
    state = jax.eval_shape(lambda: build.first_state(config, method, size))
    batch = jax.eval_shape(lambda: build.blank_batch(config, config.batch_size))
    batch = {k: np.zeros(x.shape, x.dtype) for k, x in batch.items()}
    step = method.train_step if deferred else lambda s, b: method.train_step(s, b)
    lowered = launcher.compile_step(step).lower(state, launcher.put_batch(batch), np.int32(0))
    return lowered.compile()


def bank_instructions(text, devices=1):
    """Names of the operations whose result is as large as the bank of a device, or a view of it."""
    V, M, D = BANK[0], BANK[1] // devices, BANK[2]
    shape = rf"f32\[(?:{V},{M},{D}|{V * M},{D}|{M},{D}|1,{M},{D})\]\S*"
    return re.findall(rf"= {shape} ([a-z-]+)\(", text)


@pytest.mark.parametrize("mode, share", [("pmap", 1), ("shard_map", 4), ("jit", 1)])
def test_banks_are_updated_in_place(mode, share):
    """Under shard_map each of the four devices has only a quarter of it."""
    compiled = compiled_step(mode)
    result = bank_instructions(compiled.as_text(), share)
    if share > 1:
        assert not bank_instructions(compiled.as_text())
    assert "scatter" in result or "dynamic-update-slice" in result
    assert not {"copy", "copy-start", "select", "transpose", "all-gather", "add", "slice"} & set(
        result
    )
    bytes_of_bank = 4 * np.prod(BANK) / share
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes < bytes_of_bank * 1.1
    assert memory.temp_size_in_bytes < bytes_of_bank / 2
    assert memory.alias_size_in_bytes >= bytes_of_bank  # the donated bank is the new one


def test_selecting_between_banks_would_copy():
    """Without `deferred` the guard selects between two banks, which copies."""
    compiled = compiled_step("jit", deferred=False)
    assert {"copy", "select"} & set(bank_instructions(compiled.as_text()))
    assert compiled.memory_analysis().temp_size_in_bytes > 4 * np.prod(BANK)
