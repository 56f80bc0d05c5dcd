"""Strict settings for every test: four virtual devices, no silent broadcasting, no warnings."""

import os

# Set before jax is imported: the tests compare one device with four. Code that LLVM does not
# optimise compiles three times as fast; what it computes is the same
# up to rounding (it does not vectorise sums).
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
