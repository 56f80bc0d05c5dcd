"""Keeps memory that a training step frees for the next step, on a host without accelerator.

On a CPU, XLA allocates the temporary arrays of every step anew. The C library returns an array of
this size to the operating system when it is freed, which fills its pages with zeros again at the
next step.
"""

import ctypes
import os
from pathlib import Path

# Parameters of glibc's mallopt (malloc.h), and the values for them.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_SETTINGS = (
    (_MMAP_MAX, 0),  # large arrays too come from the heap,
    (_ARENA_MAX, 1),  # from one heap for all threads, for only the first may grow as needed;
    (_TRIM_THRESHOLD, 2**31 - 1),  # and up to 2 GiB stay there
)


def keep_freed(dev: Path = Path("/dev")) -> bool:
    """Sets the C library to keep freed memory. Call it before JAX starts its threads.

    Args:
        dev: the folder of the host's devices.

    Returns:
        Whether it was set: not with an accelerator, or with another C library than glibc.
    """
    devices = [*dev.glob("nvidia[0-9]*"), *dev.glob("accel[0-9]*"), *dev.glob("vfio/[0-9]*")]
    if devices and os.environ.get("JAX_PLATFORMS") != "cpu":
        return False
    mallopt = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*setting) for setting in _SETTINGS])
