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
        usable: bytes of it that a program may fill.
        flops: {dtype: FLOP/s} of dense matrix products at peak.
        bandwidth: bytes/s between memory and device.
        link: bytes/s that a device can send to the others of its topology, in one direction.
        source: where the numbers are from.
        note: assumptions behind the numbers.
    """

    platform: str
    label: str
    hbm: int
    usable: int
    flops: dict[str, float]
    bandwidth: float
    link: float
    source: str
    note: str


_CLOUD = "https://cloud.google.com/tpu/docs/"
_MXU = "float32 products take one bfloat16 pass, XLA's default on TPUs"
_TF32 = "float32 products take TF32, XLA's default; JAX takes 75 % of the memory by default"

CHIPS: dict[str, Chip] = {
    "v5e": Chip(
        "tpu", "TPU v5e chip", 16 * GIB, int(15.75 * GIB),
        {"bfloat16": 197e12, "float32": 197e12}, 819e9, 200e9,
        _CLOUD + "v5e (197 TFLOP/s, 16 GB, 819 GB/s, ICI 1600 Gbit/s)", _MXU,
    ),
    "v4": Chip(
        "tpu", "TPU v4 core (two a chip)", 16 * GIB, int(15.75 * GIB),
        {"bfloat16": 137.5e12, "float32": 137.5e12}, 614e9, 150e9,
        _CLOUD + "v4 (a chip: 275 TFLOP/s, 32 GiB, 1228 GB/s, ICI 2400 Gbit/s)",
        _MXU + "; half a chip, because the topology counts two devices a chip",
    ),
    "v5p": Chip(
        "tpu", "TPU v5p chip", 95 * GIB, int(94.75 * GIB),
        {"bfloat16": 459e12, "float32": 459e12}, 2765e9, 600e9,
        _CLOUD + "v5p (459 TFLOP/s, 95 GiB, 2765 GB/s, ICI 1200 GB/s both ways)", _MXU,
    ),
    "v6e": Chip(
        "tpu", "TPU v6e chip", 32 * GIB, int(31.25 * GIB),
        {"bfloat16": 918e12, "float32": 918e12}, 1640e9, 400e9,
        _CLOUD + "v6e (918 TFLOP/s, 32 GB, 1640 GB/s, ICI 800 GB/s both ways)", _MXU,
    ),
    "h100": Chip(
        "cuda", "NVIDIA H100 80GB SXM", 84_978_434_048, int(0.75 * 84_978_434_048),
        {"bfloat16": 989e12, "float32": 494e12}, 3350e9, 450e9,
        "https://www.nvidia.com/en-us/data-center/h100/ (dense: 989 TFLOP/s, TF32 494, 80 GB, "
        "3.35 TB/s, NVLink 900 GB/s both ways)", _TF32,
    ),
    "a100": Chip(
        "cuda", "NVIDIA A100 80GB SXM", 84_974_239_744, int(0.75 * 84_974_239_744),
        {"bfloat16": 312e12, "float32": 156e12}, 2039e9, 300e9,
        "https://www.nvidia.com/en-us/data-center/a100/ (dense: 312 TFLOP/s, TF32 156, 80 GB, "
        "2039 GB/s, NVLink 600 GB/s both ways)", _TF32,
    ),
    "cpu": Chip(
        "cpu", "virtual CPU device", 4 * GIB, 4 * GIB,
        {"bfloat16": 50e9, "float32": 50e9}, 10e9, 5e9,
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
    axes = {"v5e": 2, "v6e": 2, "v4": 3, "v5p": 3}.get(chip, 1)
    example = {1: f"{chip}:8", 2: f"{chip}:16x16", 3: f"{chip}:4x4x4"}[axes]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") != axes - 1:
        raise UserError(
            f"Shape '{shape}' in --topology={text}: expected {axes} number(s) joined by x. "
            f"Type for example --topology={example}."
        )
    return Topology(text, chip, tuple(map(int, shape.split("x"))))
