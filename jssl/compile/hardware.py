"""Peak rates and memory sizes of the chips, with sources; and the parser of topology names."""

import re
from typing import NamedTuple

from jssl.errors import UserError, nearest

GIB = 2**30


class Chip(NamedTuple):
    """Peak rates and memory of one JAX device, from the maker's data sheet.

    Attributes:
        platform: 'tpu', 'cuda' or 'cpu'.
        label: its full name.
        hbm: bytes of memory on the device.
        usable: bytes of it that a program may fill; for TPUs what the compiler itself allows.
        flops: {dtype: FLOP/s} of dense matrix products at peak.
        bandwidth: bytes/s between memory and device.
        link: bytes/s that a device can send to the others of its topology, in one direction.
        latency: seconds of one hop between neighbours (TPU) or of one collective (GPU).
        source: where the numbers are from.
        note: assumptions behind the numbers.
        axes: dimensions of a topology's shape.
        ring: an axis is a ring where its length is a multiple of this, otherwise a line; 0 where
            all devices are joined by a switch.
        per_chip: devices of a chip.
        variant: the compiler's name of the way its cores are joined.
        compiler_name: the compiler's name of the chip, if it is another.
    """

    platform: str
    label: str
    hbm: int
    usable: int
    flops: dict[str, float]
    bandwidth: float
    link: float
    latency: float
    source: str
    note: str
    axes: int = 1
    ring: int = 0
    per_chip: int = 1
    variant: str = ""
    compiler_name: str = ""


_CLOUD = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_MXU = "float32 products take one bfloat16 pass, XLA's default on TPUs"
_TF32 = "float32 products take TF32, XLA's default; JAX takes 75 % of the memory by default"
HOP = 1e-6  # of a TPU's link: https://jax-ml.github.io/scaling-book/tpus
NCCL = 10e-6  # between the 6.6 and 14 us of the base latencies in NCCL's src/graph/tuning.cc

CHIPS: dict[str, Chip] = {
    "v4": Chip(
        "tpu", "TPU v4 chip (megacore)", 32 * GIB, int(30.75 * GIB),
        {"bfloat16": 275e12, "float32": 275e12}, 1228e9, 300e9, HOP,
        _CLOUD + "v4 (275 TFLOP/s, 32 GiB, 1228 GB/s, ICI 2400 Gbit/s)",
        _MXU + "; the two cores of a chip are one device, as in JAX on a v4",
        axes=3, ring=4, variant="megacore",
    ),
    "v5e": Chip(
        "tpu", "TPU v5e chip", 16 * GIB, int(15.75 * GIB),
        {"bfloat16": 197e12, "float32": 197e12}, 819e9, 200e9, HOP,
        _CLOUD + "v5e (197 TFLOP/s, 16 GB, 819 GB/s, ICI 1600 Gbit/s)", _MXU, axes=2, ring=16,
    ),
    "v5p": Chip(
        "tpu", "TPU v5p chip", 96 * GIB, int(95.74 * GIB),
        {"bfloat16": 459e12, "float32": 459e12}, 2765e9, 600e9, HOP,
        _CLOUD + "v5p (459 TFLOP/s, 96 GiB of which 95 for the user, 2765 GB/s, ICI 1200 GB/s "
        "both ways)", _MXU, axes=3, ring=4,
    ),
    "v6e": Chip(
        "tpu", "TPU v6e chip", 32 * GIB, int(31.25 * GIB),
        {"bfloat16": 918e12, "float32": 918e12}, 1640e9, 400e9, HOP,
        _CLOUD + "v6e (918 TFLOP/s, 32 GB, 1640 GB/s, ICI 800 GB/s both ways)", _MXU,
        axes=2, ring=16,
    ),
    "v7x": Chip(
        "tpu", "TPU7x core (two a chip)", 96 * GIB, int(94.75 * GIB),
        {"bfloat16": 1153.5e12, "float32": 1153.5e12}, 3690e9, 300e9, HOP,
        _CLOUD + "tpu7x (a chip: 2307 TFLOP/s, 192 GiB, 7380 GB/s, ICI 1200 GB/s both ways)",
        _MXU + "; half a chip, because JAX counts two devices a chip; the link between the two "
        "halves is not counted", axes=3, ring=4, per_chip=2, compiler_name="tpu7x",
    ),
    "h100": Chip(
        "cuda", "NVIDIA H100 80GB SXM", 84_978_434_048, int(0.75 * 84_978_434_048),
        {"bfloat16": 989e12, "float32": 494e12}, 3350e9, 450e9, NCCL,
        _NVIDIA + "h100/ (dense: 989 TFLOP/s, TF32 494, 80 GB, 3.35 TB/s, NVLink 900 GB/s both "
        "ways)", _TF32,
    ),
    "h200": Chip(
        "cuda", "NVIDIA H200 141GB SXM", 151_397_597_184, int(0.75 * 151_397_597_184),
        {"bfloat16": 989e12, "float32": 494e12}, 4800e9, 450e9, NCCL,
        _NVIDIA + "h200/ (dense: 989 TFLOP/s, TF32 494, 141 GB, 4.8 TB/s, NVLink 900 GB/s both "
        "ways)", _TF32,
    ),
    "b200": Chip(
        "cuda", "NVIDIA B200 SXM", 191_514_411_008, int(0.75 * 191_514_411_008),
        {"bfloat16": 2250e12, "float32": 1100e12}, 7672e9, 900e9, NCCL,
        _NVIDIA + "hgx/ (dense, a GPU of HGX B200: 2250 TFLOP/s, TF32 1100, 180 GB, 7.7 TB/s, "
        "NVLink 1800 GB/s both ways)", _TF32,
    ),
    "a100": Chip(
        "cuda", "NVIDIA A100 80GB SXM", 84_974_239_744, int(0.75 * 84_974_239_744),
        {"bfloat16": 312e12, "float32": 156e12}, 2039e9, 300e9, NCCL,
        _NVIDIA + "a100/ (dense: 312 TFLOP/s, TF32 156, 80 GB, 2039 GB/s, NVLink 600 GB/s both "
        "ways)", _TF32,
    ),
    "cpu": Chip(
        "cpu", "virtual CPU device", 4 * GIB, 4 * GIB,
        {"bfloat16": 50e9, "float32": 50e9}, 10e9, 5e9, 1e-5,
        "round numbers of no real machine", "for testing the command; not a real machine",
    ),
}  # fmt: skip

# CUDA device properties that the compiler needs when the GPU is absent.
_GPU = """gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
shared_memory_per_block: 49152 shared_memory_per_core: {per_core} threads_per_core_limit: 2048
core_count: {cores} fpus_per_core: {fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {cache}
clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {optin}
cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536
registers_per_block_limit: 65536 }} platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{name}" """
GPU_TARGETS = {
    "h100": _GPU.format(
        per_core=233472, cores=132, fpus=128, bandwidth=3352320000000, cache=52428800,
        clock=1.98, memory=84978434048, optin=232448, major=9, name="NVIDIA H100 80GB HBM3",
    ),
    "h200": _GPU.format(
        per_core=233472, cores=132, fpus=128, bandwidth=4800000000000, cache=52428800,
        clock=1.98, memory=151397597184, optin=232448, major=9, name="NVIDIA H200 141GB HBM3e",
    ),
    "b200": _GPU.format(
        per_core=233472, cores=148, fpus=128, bandwidth=7672320000000, cache=132644864,
        clock=1.965, memory=191514411008, optin=232448, major=10, name="NVIDIA B200",
    ),
    "a100": _GPU.format(
        per_core=167936, cores=108, fpus=64, bandwidth=2039040000000, cache=41943040,
        clock=1.41, memory=84974239744, optin=166912, major=8, name="NVIDIA A100-SXM4-80GB",
    ),
}  # fmt: skip


class Topology(NamedTuple):
    """A parsed topology name such as v5e:16x16: chip and shape."""

    text: str
    chip: str
    shape: tuple[int, ...]


def parse_topology(text: str) -> Topology:
    """Parses `CHIP:SHAPE`.

    Raises:
        UserError: unknown chip, or a shape that is not numbers joined by x.

    Example:
        >>> parse_topology('v5e:16x16').shape
        (16, 16)
    """
    chip, _, shape = text.partition(":")
    if chip not in CHIPS:
        raise UserError(f"Unknown chip '{chip}' in --topology={text}: {nearest(chip, CHIPS)}.")
    axes = CHIPS[chip].axes
    example = {1: f"{chip}:8", 2: f"{chip}:16x16", 3: f"{chip}:4x4x4"}[axes]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") != axes - 1:
        raise UserError(
            f"Shape '{shape}' in --topology={text}: expected {axes} number(s) joined by x. "
            f"Type for example --topology={example}."
        )
    return Topology(text, chip, tuple(map(int, shape.split("x"))))


def rings(chip: str, shape: tuple[int, ...]) -> list[bool]:
    """Returns for each axis of a TPU slice whether its ends are joined.

    On v5e and v6e an axis of 16 chips is a ring. On v4, v5p and TPU7x all axes are rings where
    the slice is made of whole cubes of 4 x 4 x 4 chips.

    Example:
        >>> rings('v5e', (8, 16)), rings('v4', (4, 4, 8)), rings('v4', (2, 4, 4))
        ([False, True], [True, True, True], [False, False, False])
    """
    each = [n % CHIPS[chip].ring == 0 for n in shape]
    return each if CHIPS[chip].axes == 2 else [all(each)] * len(shape)


def link_bandwidth(chip: str, shape: tuple[int, ...]) -> float:
    """Returns the bytes/s that a device can send within a slice, in one direction.

    A chip has two links an axis. An axis that is a line counts half, as its ends have one link;
    an axis of one chip has none.

    Example:
        >>> link_bandwidth('v5e', (16, 16)) / 1e9, link_bandwidth('v5e', (4, 8)) / 1e9
        (200.0, 100.0)
    """
    peak = CHIPS[chip]
    if not peak.ring or max(shape) == 1:
        return peak.link
    axes = zip(shape, rings(chip, shape), strict=True)
    share = [(n > 1) * (1.0 if ring else 0.5) for n, ring in axes]
    return peak.link * sum(share) / len(share)


def latency(chip: str, shape: tuple[int, ...], kind: str) -> float:
    """Returns the seconds of one collective of no bytes over all devices of a slice.

    On a TPU it passes along one axis after the other, in both directions at once: n / 2 hops
    around a ring, n - 1 along a line. An all-reduce does so twice. A switch takes one step.

    Example:
        >>> round(1e6 * latency('v5e', (16, 16), 'all-reduce'))
        32
    """
    peak = CHIPS[chip]
    if not peak.ring:
        return peak.latency
    if kind == "collective-permute":
        return peak.latency
    axes = zip(shape, rings(chip, shape), strict=True)
    hops = sum(n // 2 if ring else n - 1 for n, ring in axes)
    return peak.latency * hops * (2 if kind == "all-reduce" else 1)
