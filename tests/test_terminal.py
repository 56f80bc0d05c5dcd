"""Standard output that nobody reads, a pipe that is closed, a log on a full disk."""

import os
import select
import subprocess
import sys
import time

import pytest

from jssl.run import terminal


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write, terminal.Terminal(write)
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            pass


def fill(write):
    os.set_blocking(write, False)
    try:
        while os.write(write, b"." * 512):
            pass
    except BlockingIOError:
        os.set_blocking(write, True)


def test_lines_come_whole_and_the_rest_of_a_line_with_flush(pipe):
    read, _, stream = pipe
    print("one", 1, file=stream)
    print("two", end="", file=stream)
    assert os.read(read, 99) == b"one 1\n"
    assert not select.select([read], [], [], 0)[0]
    stream.flush()
    assert os.read(read, 99) == b"two"
    text = "é\ud800" * 5000  # longer than a pipe takes at once, and not all of it is UTF-8
    print(text, file=stream)
    assert os.read(read, 1 << 20).decode() == "é\\ud800" * 5000 + "\n"


def test_a_full_pipe_drops_lines_and_reports_their_number(pipe):
    read, write, stream = pipe
    fill(write)
    begun = time.monotonic()
    for number in range(1000):
        print(f"line {number}", file=stream)
    assert 0.9 * terminal.PATIENCE < time.monotonic() - begun < terminal.PATIENCE + 5
    os.read(read, 1 << 20)
    print("reading again", file=stream)
    print("and again", file=stream)
    told = b"(1000 lines could not be written here)\nreading again\nand again\n"
    assert os.read(read, 1 << 20) == told


def test_a_closed_pipe_and_a_full_disk_raise_nothing(pipe):
    read, _, stream = pipe
    os.close(read)
    for _ in range(3):
        print("into nothing", file=stream, flush=True)
    with open("/dev/full", "w") as full:
        print("no room", file=terminal.Terminal(full.fileno()), flush=True)


def test_a_command_with_a_closed_reader_ends_normally(tmp_path):
    """A plain Python program ends with status 120 and words on standard error."""
    read, write = os.pipe()
    os.close(read)
    words, error = [sys.executable, "-m", "jssl"], tmp_path / "error"
    with open(error, "w") as file:
        assert subprocess.run(words, stdout=write, stderr=file, cwd=tmp_path).returncode == 0
    os.close(write)
    assert error.read_text() == ""
    with open("/dev/full", "w") as full:
        assert subprocess.run(words, stdout=full, stderr=full, cwd=tmp_path).returncode == 0
