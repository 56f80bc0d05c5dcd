"""Records: every step once, also after a kill; readable by TensorBoard; lines in a log."""

import io
import json

import numpy as np
from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  (the writer in use)
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from jssl.run.writers import Progress, Writers, time


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    first = Writers(tmp_path, step=0, tensorboard=False)
    for step in range(1, 6):
        first.scalars(step, {"loss": step / 2})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    second = Writers(tmp_path, step=3, tensorboard=False)
    second.scalars(4, {"loss": 20.0})
    second.close()
    assert [(r["step"], r["loss"]) for r in rows(tmp_path / "metrics.jsonl")] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
        (4, 20.0),
    ]


def read_events(folder):
    """A TFRecord reader of our own: length, crc, payload, crc."""
    (path,) = folder.iterdir()
    data, at = path.read_bytes(), 0
    while at < len(data):
        length = int(np.frombuffer(data, "<u8", 1, at)[0])
        payload = data[at + 12 : at + 12 + length]
        assert np.frombuffer(data, "<u4", 1, at + 12 + length)[0] == masked_crc32c(payload)
        event = event_pb2.Event.FromString(payload)
        yield from ((event.step, v.tag, v.simple_value) for v in event.summary.value)
        at += length + 16


def test_tensorboard_holds_the_same_numbers(tmp_path):
    writers = Writers(tmp_path, step=0)
    writers.scalars(3, {"loss": 0.25, "knn_top1": 0.5})
    writers.close()
    found = list(read_events(tmp_path / "tensorboard"))
    assert (3, "loss", 0.25) in found
    assert (3, "knn_top1", 0.5) in found


def test_a_log_gets_plain_lines_with_speed_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(total=100, initial=0, images_per_step=32, stream=stream)
    progress.advance(1)
    now[0] += 10.0
    progress.advance(21)  # 20 steps in 10 s: 64 images/s, 79 steps left: 39.5 s
    progress.report(21, {"loss": 1.25, "contrastive_top1": 0.5})
    progress.close()
    assert stream.getvalue() == (
        "step 21/100 64 images/s ETA 00:39 loss 1.25 contrastive_top1 0.5\n"
    )


def test_the_speed_is_that_of_training_since_the_last_report(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(total=100, initial=0, images_per_step=32, stream=stream)
    assert progress.images_per_second(0) == 0
    progress.paused(40.0)  # the monitor before the first step
    progress.advance(1)
    now[0] += 10.0
    progress.advance(21)
    progress.report(21, {})  # 64 images/s
    now[0] += 5.0
    progress.advance(41)
    started, now[0] = now[0], now[0] + 25.0
    assert progress.paused(started) == 25.0
    assert progress.images_per_second(41) == 128.0
    progress.report(41, {})  # 40 steps took 40 s with the monitor, 59 are left
    assert stream.getvalue().splitlines()[1] == "step 41/100 128 images/s ETA 00:59 "


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(total=10, initial=4, images_per_step=32, stream=stream)
    for step in (5, 6):
        progress.advance(step)
        progress.report(step, {"loss": 2.0})
    progress.say("epoch 1")
    progress.close()
    shown = stream.getvalue()
    assert "6/10" in shown
    assert "images/s" in shown
    assert "loss 2" in shown
    assert "epoch 1\n" in shown
