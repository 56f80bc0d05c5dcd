"""Writers of metrics: JSON lines, TensorBoard, the trackers of `jssl.run.sinks`, the terminal.

Only process 0 writes. A run that resumes at step s first drops the rows after s, so that every
step is recorded once.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tqdm import tqdm

from jssl import files
from jssl.run import stores
from jssl.third_party import unchanged


def say(text: str) -> None:
    """Prints a line to the terminal, from process 0 only."""
    if jax.process_index() == 0:
        print(stores.shown(text), flush=True)


def truncate_jsonl(path: Path, step: int) -> list[str]:
    """Drops the lines of a metrics file after `step`, and an incomplete last line.

    Lines that are not rows with a step are moved to `NAME.damaged`.

    Returns:
        Warnings to print.
    """
    if not path.exists():
        return []
    kept, damaged = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            # A kill while a line is written leaves an incomplete last line.
            if line.strip() and number < len(lines):
                damaged.append(line)
        elif row["step"] <= step:
            kept.append(line)
    warnings = []
    if damaged:
        place = path.with_name(f"{path.name}.damaged")
        with open(place, "ab") as file:
            file.writelines(line + b"\n" for line in damaged)
        warnings = [f"{len(damaged)} lines of {path.name} are damaged; moved to {place}"]
    files.write_bytes(path, b"".join(line + b"\n" for line in kept))
    return warnings


def _row(line: bytes) -> dict[str, Any] | None:
    """Parses a line of a metrics file; None if it is not a row with a step."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    valid = isinstance(row, dict) and type(row.get("step")) is int
    return row if valid else None


def has_row(path: Path, step: int, key: str) -> bool:
    """Whether a metrics file has a row of this step with this key."""
    if not path.exists():
        return False
    rows = filter(None, map(_row, path.read_bytes().split(b"\n")))
    return any(row["step"] == step and key in row for row in rows)


class Writers:
    """Writes scalars to every sink of a run.

    Args:
        workdir: the run's folder.
        step: the step the run starts or resumes at.
        tensorboard: write event files under `tensorboard/`.
        sinks: the trackers, see `jssl.run.sinks.Sinks`; None for none. They are closed with the
            other files.

    Attributes:
        warnings: of `truncate_jsonl`, to print.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        step: int,
        tensorboard: bool = True,
        sinks: Any = None,
    ):
        self._file: TextIO | None = None
        self._board, self._sinks = None, sinks
        self.warnings: list[str] = []
        if jax.process_index() != 0:
            return
        path = workdir / "metrics.jsonl"
        self.warnings = truncate_jsonl(path, step)
        self._file = open(path, "a", buffering=1)
        if tensorboard:
            with unchanged():  # it sets an environment variable and the start method
                from tensorboardX import SummaryWriter

                self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers of one step."""
        if self._file is None:
            return
        row = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._sinks is not None:
            self._sinks.scalars(step, values)

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Sends a picture uint8 [H,W,3] to the trackers."""
        if self._sinks is not None:
            self._sinks.picture(name, step, pixels)

    def close(self, end: str = "FINISHED") -> None:
        """Flushes and closes every sink; `end` as in `jssl.run.sinks.ENDS`."""
        for sink in (self._file, self._board):
            if sink is not None:
                sink.close()
        if self._sinks is not None:
            self._sinks.close(end)


class Progress:
    """The progress display: a bar in a terminal, plain lines in a log.

    Args:
        total: number of steps of the whole run.
        initial: first step of this start.
        images_per_step: global batch size, for images/s.
        stream: where to write, standard error by default.
    """

    def __init__(
        self, *, total: int, initial: int, images_per_step: int, stream: TextIO | None = None
    ):
        self._stream = sys.stderr if stream is None else stream
        self._total, self._initial, self._images = total, initial, images_per_step
        self._start: float | None = None
        self._first = initial
        self._reported, self._reported_step = 0.0, initial  # time and step of the last report
        self._bar = None
        self._quiet = jax.process_index() != 0
        if not self._quiet and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                file=self._stream,
                dynamic_ncols=True,
                unit="step",
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
            )

    def advance(self, step: int) -> None:
        """Marks `step` updates as finished; the clock starts at the first, after compiling."""
        if self._start is None:
            self._start, self._first = time.monotonic(), step
            self._reported, self._reported_step = self._start, step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def images_per_second(self, step: int) -> float:
        """Returns images/s since the last report, without compilation and pauses."""
        if self._start is None or step <= self._reported_step:
            return 0.0
        seconds = time.monotonic() - self._reported
        return (step - self._reported_step) * self._images / max(seconds, 1e-9)

    def paused(self, started: float) -> float:
        """Takes the time since `started` out of the speed; returns its seconds."""
        seconds = time.monotonic() - started
        self._reported += seconds
        return seconds

    def _seconds_left(self, step: int) -> float:
        """Seconds to the last step by the mean of this start, pauses included; nan before."""
        if self._start is None or step <= self._first:
            return float("nan")
        return (time.monotonic() - self._start) * (self._total - step) / (step - self._first)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Shows speed, remaining time, and values such as loss and top-1."""
        speed = self.images_per_second(step)
        shown = " ".join(f"{k} {v:.4g}" for k, v in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(f"{speed:.0f} images/s {shown}")
        elif not self._quiet:
            left = self._seconds_left(step)
            eta = "" if left != left else f" ETA {tqdm.format_interval(left)}"
            print(
                f"step {step}/{self._total} {speed:.0f} images/s{eta} {shown}",
                file=self._stream,
                flush=True,
            )
        self._reported, self._reported_step = time.monotonic(), step

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._quiet:
            return
        text = stores.shown(text)
        if self._bar is not None:
            self._bar.clear()
            print(text, file=self._stream, flush=True)
            self._bar.refresh()
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
