"""Roofline, memory, search and FLOPs against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.compile import flops, hardware, hlo, roofline, search, step
from jssl.errors import UserError


def test_roofline_of_the_recorded_simclr_step():
    """recipes' numbers: 6.17 TFLOP and 85 GB are 31 ms of arithmetic against 104 ms of memory."""
    result = roofline.estimate(
        "v5e",
        dtype="bfloat16",
        flops=6.17e12,
        bytes_accessed=85e9,
        collectives={"all-reduce": hlo.Collective(90, 110_000_000, 200e6)},
        global_batch=4096,
        steps=312_000,
    )
    assert result["seconds"]["arithmetic"] == pytest.approx(6.17 / 197)  # 31.3 ms
    assert result["seconds"]["memory"] == pytest.approx(85 / 819)  # 103.8 ms
    assert result["seconds"]["interconnect"] == pytest.approx(0.001)  # 200 MB at 200 GB/s
    assert result["bound"] == "memory"
    assert result["step_seconds"] == pytest.approx(85 / 819 + 0.001)
    assert result["images_per_second"] == pytest.approx(4096 / (85 / 819 + 0.001))
    assert result["run_hours"] == pytest.approx(312_000 * (85 / 819 + 0.001) / 3600)
    assert result["kind"] == "estimate, not a measurement"
    assert result["source"].startswith("https://")
    assert len(result["assumptions"]) >= 5


class Stats:
    argument_size_in_bytes = 3 * hardware.GIB
    output_size_in_bytes = 2 * hardware.GIB
    alias_size_in_bytes = 2 * hardware.GIB
    temp_size_in_bytes = 10 * hardware.GIB
    generated_code_size_in_bytes = 0


def test_memory_counts_shared_buffers_once():
    result = roofline.memory("v5e", Stats)
    assert result["total"] == 13 * hardware.GIB
    assert result["fits"] and result["spare"] == 2.75 * hardware.GIB
    Stats.temp_size_in_bytes = 13 * hardware.GIB
    result = roofline.memory("v5e", Stats)
    assert not result["fits"] and result["spare"] == -0.25 * hardware.GIB


def test_out_of_memory_errors_give_the_memory_record():
    text = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 29.66G of 15.75G hbm. Exceeded hbm capacity by 13.91G."
    )
    result = step.out_of_memory("v5e", text)
    assert not result["fits"]
    assert result["spare"] / hardware.GIB == pytest.approx(-13.91, abs=0.01)
    assert step.out_of_memory("v5e", "INTERNAL: something else") is None


@pytest.mark.parametrize(
    "needed",
    [
        lambda b: 100 + 7 * b,
        lambda b: 50 + 3 * b + b * b // 16,  # logits grow with the square
        lambda b: 1024 * -(-b // 48),  # padded in lumps
        lambda b: 10,  # until a bound that is no line
    ],
)
@pytest.mark.parametrize("start", [8, 64, 1000])
def test_search_finds_the_largest_batch_that_fits(needed, start):
    tried = []

    def fits(batch):
        tried.append(batch)
        return (needed(batch) if batch <= 20_000 else 10**9), 10_000

    result = search.largest(fits, start=start, unit=8)
    expected = max(b for b in range(8, 20_001, 8) if needed(b) <= 10_000)
    assert result == expected
    assert len(tried) == len(set(tried))
    assert len(tried) <= 24
    assert search.largest(lambda b: (2, 1), start=start) is None


def test_search_needs_few_compilations_where_memory_is_a_line():
    tried = []
    result = search.largest(lambda b: (tried.append(b), (2.0e9 + 61e6 * b, 15.75e9))[1], start=64)
    assert result == 224  # (15.75e9 - 2e9) / 61e6 = 225.4
    assert len(tried) <= 4


def test_flops_by_hand():
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # 3 x 3 places, 9 taps, 3 channels in, 5 out, 2 pictures; no padding is met
    one = 2 * (3 * 3) * 9 * 3 * 5 * 2
    assert flops.count(conv, x, w) == one
    # The gradient of a valid convolution costs the same again, to the weights and to the input.
    grads = jax.grad(lambda x, w: jnp.sum(conv(x, w) ** 2), argnums=(0, 1))
    assert flops.count(grads, x, w) == 3 * one


def test_flops_of_loops_branches_and_one_device_of_many():
    a = jnp.ones((4, 4))

    def looped(a):
        return jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=7)[0]

    assert flops.count(looped, a) == 7 * 2 * 64

    def either(a):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a)

    assert flops.count(either, a) == 2 * 2 * 64
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")
    mapped = jax.shard_map(lambda a: a @ a.T, mesh=mesh, in_specs=spec, out_specs=spec)
    assert flops.count(mapped, np.ones((8, 4), np.float32)) == 2 * 2 * 4 * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5f:4x8", "did you mean 'v5p'? Choices: a100"),
        ("v5e:4", "expected 2 number(s) joined by x"),
        ("v4:4x4", "Type for example --topology=v4:4x4x4"),
        ("h100:2x4", "Type for example --topology=h100:8"),
        ("h100:0", "expected 1 number(s)"),
    ],
)
def test_invalid_topologies(text, message):
    with pytest.raises(UserError) as error:
        hardware.parse_topology(text)
    assert message in str(error.value)


def test_every_chip_has_a_source_and_sane_numbers():
    for name, chip in hardware.CHIPS.items():
        assert chip.usable <= chip.hbm, name
        assert set(chip.flops) == {"bfloat16", "float32"}, name
        assert chip.source and chip.note, name
        if chip.platform != "cpu":
            assert chip.source.startswith("https://"), name
