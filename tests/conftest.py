"""Strict settings for every test: four virtual devices, no silent broadcasting, no warnings."""

import atexit
import ctypes
import datetime
import gc
import importlib.util
import json
import mmap
import os
import platform
import shutil
import signal
import tempfile
from pathlib import Path

# Set before jax is imported: the tests compare one device with four. Code that LLVM does not
# optimise compiles three times as fast, and fusions in their older form twice as fast again; what
# they compute is the same up to rounding (sums are not vectorised).
FLAGS = (
    "--xla_force_host_platform_device_count=4",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",  # no thread of its own for each part
)


def _known(flag):
    """Whether the installed XLA has a flag: it ends the process for one that it does not have."""
    name = flag.removeprefix("--").partition("=")[0].encode()
    for path in Path(importlib.util.find_spec("jaxlib").origin).parent.glob("*.so"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(name) >= 0:
                return True
    return False


if FLAGS[0] not in os.environ.get("XLA_FLAGS", ""):  # the workers inherit it
    flags = [os.environ.get("XLA_FLAGS", ""), *filter(_known, FLAGS)]
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # the workers inherit it, and stay smaller
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests compile the same step: one of them does, for both workers, which inherit this.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jssl-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell without job control starts what runs in the background with SIGINT ignored, and nohup with
# SIGHUP; the processes that tests start would inherit that, and not hear the signals sent to them.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# Tracing makes very many small objects that stay: to look through them as often as Python does of
# itself takes a tenth of the time of all tests.
gc.set_threshold(50_000, 20, 20)

LIBC = ctypes.CDLL(None)
LARGEST = 1.2e9  # bytes of a worker, above which it lets compiled programs go between two files
GROWTH = 0.2e9  # within a file: when it has grown by so much since it last did
_last = {"file": None, "bytes": LARGEST}


def _bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pytest_runtest_setup(item):
    """A worker that has grown lets go of what it compiled; it would reach 6 GB."""
    allowed = LARGEST if _last["file"] != item.path else max(LARGEST, _last["bytes"]) + GROWTH
    _last["file"] = item.path
    if _bytes() > allowed:
        jax.clear_caches()
        gc.collect()
        if hasattr(LIBC, "malloc_trim"):
            LIBC.malloc_trim(0)  # else freed memory stays with the process
        _last["bytes"] = _bytes()


FIRST = ("test_methods.py", "test_nothing_lost.py")  # the longest: the others fill up behind


# The folders and files of `pytest -m quick`, the inner loop: under three minutes.
QUICK = ("compile", "data", "launch", "losses", "optim", "test_checks.py", "test_config.py",
         "test_config_file.py", "test_conventions.py", "test_docs.py", "test_files.py",
         "test_imports.py", "test_surface.py", "test_switches.py", "test_workdir.py")  # fmt: skip


RECORD = Path(__file__).with_name("proofs.json")  # of `pytest -m proof`
PROOFS = pytest.StashKey()


def pytest_collection_finish():
    gc.freeze()  # modules stay


@pytest.hookimpl(tryfirst=True)  # before marked tests are left out
def pytest_collection_modifyitems(config, items):
    config.stash[PROOFS] = {item.nodeid for item in items if item.get_closest_marker("proof")}
    tests = Path(__file__).parent
    assert all((tests / name).exists() for name in QUICK)
    for item in items:
        if item.path.is_relative_to(tests) and item.path.relative_to(tests).parts[0] in QUICK:
            item.add_marker("quick")
    items.sort(key=lambda item: (*FIRST, item.path.name).index(item.path.name))


@pytest.fixture
def proofs(pytestconfig):
    """The names of the collected tests that are marked `proof`."""
    return pytestconfig.stash[PROOFS]


def pytest_runtest_logreport(report):
    """With JSSL_UPDATE_GOLDEN, `pytest -m proof` records what passed, and when."""
    here = "PYTEST_XDIST_WORKER" not in os.environ  # the workers send their reports
    if here and "proof" in report.keywords and "JSSL_UPDATE_GOLDEN" in os.environ:
        rows = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        if report.when == "call" and report.passed:
            rows[report.nodeid] = {
                "date": datetime.date.today().isoformat(),
                "python": platform.python_version(),
                "jax": jax.__version__,
                "seconds": round(report.duration, 1),
            }
        elif report.failed:
            rows.pop(report.nodeid, None)
        RECORD.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
