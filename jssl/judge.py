"""What a run is worth: the table at its end, and the commands that judge or use it later."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import data, evaluate, experiment, workdir
from jssl.errors import UserError, nearest
from jssl.metrics import say
from jssl.train import train

PROTOCOLS = ("knn", "linear")


def train_and_judge(config: ConfigDict, folder: str | Path) -> None:
    """Trains (or resumes), then writes and prints the table of the finished run.

    Args:
        config: the whole config.
        folder: the workdir.
    """
    started = time.monotonic()
    state = train(config, folder)
    if not config.final.enabled or int(state.step) == 0:
        return
    # Everything is saved: a signal may end the process at any moment from here on.
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _leave)
    parts = experiment.build(config)
    if parts.test_source is None or parts.probe_source.num_classes < 2:
        say(f"{parts.train_source.name} has no labelled test split: there is nothing to judge by.")
        return
    rows = final_rows(parts, state)
    record = {
        "name": f"{config.method} on {config.data.name}",
        "run_hash": run_hash(config),
        "seed": config.seed,
        "epochs": int(state.step) / parts.steps_per_epoch,
        "steps": int(state.step),
        "minutes": (time.monotonic() - started) / 60,
        "rows": rows,
        "versions": workdir.versions(),
    }
    if jax.process_index() == 0:
        workdir.write_json(Path(folder) / "result.json", record)
    say(evaluate.format_table(rows))
    say(f"{record['minutes']:.1f} minutes, steps {record['steps']}. Record: {folder}/result.json")


def _leave(*_: Any) -> None:
    os.write(2, b"\nStopped while judging: the training is finished and saved; the same command judges it.\n")
    os._exit(0)


def run_hash(config: ConfigDict) -> str:
    """Hash of everything that moves a weight, but the seed: runs that differ only by it agree."""
    flat = config_lib.flatten(config)
    kept = {k: v for k, v in flat.items() if k != "seed" and not k.startswith(workdir.FREE)}
    return config_lib.config_hash(kept)
