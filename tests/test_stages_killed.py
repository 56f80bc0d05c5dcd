"""Generations killed without warning, once in every stage: they end as if nobody had."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from test_stages import STUDENT, TEACHER, config_of, leaves, same_bits

from jssl.data import pseudo_labels
from jssl.run import stages
from jssl.run.stage_plan import LABELS

STEPS = 12
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import conftest
from test_stages_killed import config
from jssl.run import stages
stages.run(config(), {folder!r})
"""


def config():
    c = config_of(TEACHER, *STUDENT, *STUDENT)
    c.max_steps = STEPS
    return c


def launch(folder, cache):
    env = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    program = PROGRAM.format(tests=str(ROOT / "tests"), folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", program], env=env, cwd=ROOT, stdout=-1, stderr=-2, text=True
    )


@pytest.mark.proof  # tests/test_stages.py stops and resumes in one process
def test_kill_9_in_every_stage_changes_nothing(tmp_path):
    whole, killed, dice, places = tmp_path / "whole", tmp_path / "killed", random.Random(0), []
    process = launch(whole, tmp_path / "cache")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    names = ["1_teacher", "2_labels", "3_student", "4_labels", "5_student"]
    for name in names:
        process, begun = launch(killed, tmp_path / "cache"), time.monotonic()
        while not (killed / name).exists():
            assert process.poll() is None and time.monotonic() - begun < 120
            time.sleep(0.001)
        time.sleep(dice.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        places.append((killed / name / "done.json").exists())
    assert places.count(False) >= 3, "the stages were over before the kills: raise STEPS"
    # What the last start found finished it left as it was.
    process = launch(killed, tmp_path / "cache")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "stage 1_teacher is finished already" in said
    for name in ("1_teacher", "3_student", "5_student"):
        same_bits(leaves(killed / name), leaves(whole / name))
    for name in ("2_labels", "4_labels"):
        found = []
        for folder in (killed, whole):
            labels = pseudo_labels.load(folder / name / LABELS, expected={})
            found.append({key: getattr(labels, key) for key in ("indices", "probs", "copies")})
        same_bits(*found)
    assert len(stages.run(config(), killed)["rows"]) == 5  # and a further start has nothing to do
