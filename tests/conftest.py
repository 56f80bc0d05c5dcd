"""Strict settings for every test: four virtual devices, no silent broadcasting, no warnings."""

import atexit
import gc
import os
import shutil
import tempfile

# Set before jax is imported: the tests compare one device with four. Code that LLVM does not
# optimise compiles three times as fast; what it computes is the same
# up to rounding (it does not vectorise sums).
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests compile the same step: one of them does, for both workers, which inherit this.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jssl-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

_last_file = []


def pytest_runtest_setup(item):
    """Compiled programs of a file are let go at its end: a worker would grow to 6 GB."""
    if _last_file != [item.path]:
        _last_file[:] = [item.path]
        jax.clear_caches()
        gc.collect()


FIRST = ("test_methods.py", "test_nothing_lost.py")  # the longest: the others fill up behind


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*FIRST, item.path.name).index(item.path.name))
