"""Signs of life between the processes of a job.

A process that waits in a collective does not learn that another one has died: JAX's runtime ends it
after its own timeout, with a long dump. Here each process tells the others that it lives, in the
job's key-value store, and the one that misses a sign says so in a sentence, before the runtime.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_FOLDER = "jssl/alive"
_DONE = "done"
SIGNS = 6  # signs of life within a timeout
LATER = 30  # seconds by which the runtime's own timeout is longer


@contextlib.contextmanager
def watched(timeout: float, lost: Callable[[str], Any]) -> Iterator[None]:
    """Gives signs of life while the block runs, and watches those of the other processes.

    With one process this does nothing.

    Args:
        timeout: seconds without a sign after which a process is lost; 0 or less watches nothing.
        lost: called once, from a thread, with a sentence about who is lost.
    """
    if jax.process_count() == 1 or timeout <= 0:
        yield
        return
    # The only way to the store of `jax.distributed`; `jax.experimental.multihost_utils` takes it.
    from jax._src import distributed

    client: Any = distributed.global_state.client
    mine = jax.process_index()
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(client, mine, timeout, lost, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout)
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 may have gone
            client.key_value_set(f"{_FOLDER}/{mine}", _DONE, allow_overwrite=True)


def watch(
    client: Any, mine: int, timeout: float, lost: Callable[[str], Any], stop: threading.Event
) -> None:
    """Gives signs of life until `stop`, or until a process is lost.

    Args:
        client: of the job's key-value store.
        mine: index of this process.
        timeout, lost: as for `watched`.
        stop: ends the watch.
    """
    seen: dict[str, tuple[str, float]] = {}  # process -> its newest sign, and when it was new
    sign = 0
    while not stop.wait(timeout / SIGNS):
        sign += 1
        try:
            client.key_value_set(f"{_FOLDER}/{mine}", str(sign), allow_overwrite=True)
            signs = client.key_value_dir_get(_FOLDER)
        except jax.errors.JaxRuntimeError:
            if not stop.is_set():
                lost("process 0, which the others talk through, cannot be reached")
            return
        now = time.monotonic()
        for key, value in signs:
            process = key.rpartition("/")[2]
            if seen.get(process, ("", 0.0))[0] != value:
                seen[process] = (value, now)
        silent = [p for p, (value, since) in seen.items() if value != _DONE]
        silent = sorted((p for p in silent if now - seen[p][1] > timeout), key=int)
        if silent and not stop.is_set():
            lost(f"process {', '.join(silent)} gave no sign of life for {timeout:g} seconds")
            return
