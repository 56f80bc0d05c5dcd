"""Roofline, memory, search and FLOPs against values worked out by hand."""

import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl.compile import devices as devices_lib
from jssl.compile import flops, hardware, hlo, roofline, search, step
from jssl.errors import UserError


def test_roofline_of_the_recorded_simclr_step():
    """recipes' numbers: 6.17 TFLOP and 85 GB are 31 ms of arithmetic against 104 ms of memory."""
    result = roofline.estimate(
        hardware.parse_topology("v5e:4x8"),
        dtype="bfloat16",
        flops=6.17e12,
        bytes_accessed=85e9,
        collectives={"all-reduce": hlo.Collective(90, 110_000_000, 200e6)},
        global_batch=4096,
        steps=312_000,
    )
    assert result["seconds"]["arithmetic"] == pytest.approx(6.17 / 197)  # 31.3 ms
    assert result["seconds"]["memory"] == pytest.approx(85 / 819)  # 103.8 ms
    # 200 MB at 100 GB/s: neither axis is a ring, so half of the 200 GB/s. 90 all-reduces, each
    # 3 + 7 hops of a microsecond along the lines, and back.
    assert result["seconds"]["interconnect"] == pytest.approx(0.002)
    assert result["seconds"]["latency"] == pytest.approx(90 * 2 * (3 + 7) * 1e-6)
    assert result["bound"] == "memory"
    seconds = 85 / 819 + 0.002 + 0.0018
    assert result["step_seconds"] == pytest.approx(seconds)
    assert result["images_per_second"] == pytest.approx(4096 / seconds)
    assert result["run_hours"] == pytest.approx(312_000 * seconds / 3600)
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
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (1.00T) exceeds available HBM (30.75G)."
    )
    result = step.out_of_memory("v4", text)
    assert result["spare"] / hardware.GIB == pytest.approx(30.75 - 1024)
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


# What libtpu 0.0.42 says: devices of a topology, GiB that it lets a program fill (its message for a
# program of 1 TiB).
COMPILER = {
    "v4:4x4x4": (64, 30.75),
    "v5e:4x8": (32, 15.75),
    "v5p:4x4x4": (64, 95.74),
    "v6e:16x16": (256, 31.25),
    "v7x:4x4x4": (128, 94.75),
}


@pytest.mark.parametrize("text", COMPILER)
def test_tpus_are_as_the_compiler_describes_them(text):
    topology, (devices, usable) = hardware.parse_topology(text), COMPILER[text]
    chip = hardware.CHIPS[topology.chip]
    assert math.prod(topology.shape) * chip.per_chip == devices
    assert chip.usable == int(usable * hardware.GIB)
    if importlib.util.find_spec("libtpu"):
        assert len(devices_lib.open_devices(devices_lib.prepare(text))) == devices


def test_every_tpu_is_compared_with_the_compiler():
    tpus = {name for name, chip in hardware.CHIPS.items() if chip.platform == "tpu"}
    assert {text.partition(":")[0] for text in COMPILER} == tpus


def test_gpus_are_as_their_compiler_is_told():
    gpus = {name for name, chip in hardware.CHIPS.items() if chip.platform == "cuda"}
    assert hardware.GPU_TARGETS.keys() == gpus
    for name in gpus:
        chip, target = hardware.CHIPS[name], hardware.GPU_TARGETS[name]
        assert f"device_memory_size: {chip.hbm} " in target
        bandwidth = float(re.search(r"memory_bandwidth: (\d+)", target)[1])
        assert chip.bandwidth == pytest.approx(bandwidth, rel=1e-3)


def test_links_of_slices_that_do_not_wrap():
    assert hardware.link_bandwidth("v5e", (16, 16)) == 200e9
    assert hardware.link_bandwidth("v5e", (8, 16)) == 150e9  # one axis is a ring
    assert hardware.link_bandwidth("v5e", (1, 8)) == 50e9  # one line alone
    assert hardware.link_bandwidth("v4", (4, 4, 8)) == 300e9
    assert hardware.link_bandwidth("v4", (2, 2, 4)) == 150e9
    assert hardware.link_bandwidth("h100", (8,)) == 450e9
    assert hardware.latency("v4", (4, 4, 4), "all-gather") == pytest.approx(6e-6)  # 2 + 2 + 2 hops
    assert hardware.latency("v5e", (2, 4), "all-reduce") == pytest.approx(8e-6)  # 2 (1 + 3)
    assert hardware.latency("v5e", (2, 4), "collective-permute") == pytest.approx(1e-6)
    assert hardware.latency("h100", (8,), "all-reduce") == hardware.NCCL


def test_every_chip_has_a_source_and_sane_numbers():
    for name, chip in hardware.CHIPS.items():
        assert chip.usable <= chip.hbm, name
        assert set(chip.flops) == {"bfloat16", "float32"}, name
        assert chip.source and chip.note, name
        if chip.platform != "cpu":
            assert chip.source.startswith("https://"), name
