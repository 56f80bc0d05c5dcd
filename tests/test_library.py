"""What a host program can observe is the same before and after jssl was used in it."""

import json
import os
import subprocess
import sys

import numpy as np
from helpers import ROOT
from PIL import Image

# Run in a process of its own, as the test process has imported everything already.
PROGRAM = """
import asyncio, faulthandler, json, locale, logging, multiprocessing, os, random, signal, sys
import threading, warnings

import numpy as np
import jax

def observed():
    return {
        "handlers": [repr(type(h)) for h in logging.root.handlers],
        "level": logging.root.level,
        "disabled": logging.root.manager.disable,
        "logger class": repr(logging.getLoggerClass()),
        "streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
        "hooks": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.unraisablehook)],
        "signals": [repr(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
        "wakeup": signal.set_wakeup_fd(-1),
        "environment": dict(os.environ),
        "random": repr(random.getstate()),
        "numpy": repr(np.random.get_state()),
        "warnings": [repr(w) for w in warnings.filters],
        "faulthandler": faulthandler.is_enabled(),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": os.umask(0o022),
        "recursion": sys.getrecursionlimit(),
        "numpy errors": np.geterr(),
        "numpy print": repr(np.get_printoptions()),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "threads": sorted(t.name for t in threading.enumerate() if not t.daemon),
        "jax": {k: repr(v) for k, v in sorted(jax.config.values.items())},
    }

first = observed()
import jssl
from jssl import evaluate, losses
from jssl.run import config_file
from jssl.run.judge import train_and_judge
after_import = observed()
os.umask(first["umask"])
c = config_file.load(sys.argv[1])
c.log.tensorboard = False
c.final.enabled = False
c.max_steps = 1
c.monitor.every_epochs = 0.0
c.augment.name = "none"
worker = threading.Thread(target=train_and_judge, args=(c, "run"), name="host")
worker.start()
worker.join()
evaluate.evaluate_run("run", protocols=["knn"])
async def cell(name):  # a notebook runs its cells within a running event loop
    jssl.train(data=sys.argv[2], method="supervised", workdir=name, epochs=1, size=32)
for name in ("first", "second"):  # in the main thread, which may set signal handlers
    asyncio.run(cell(name))
last = observed()
print("OBSERVED", json.dumps([first, after_import, last]))
"""


def test_the_process_is_unchanged(tmp_path):
    for number in range(16):  # two classes
        folder = tmp_path / "pictures" / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        tile = np.full((40, 40, 3), 15 * number, np.uint8)
        Image.fromarray(tile).save(folder / f"{number}.png")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{ROOT}/configs/supervised_photos.py:smoke", "pictures"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("OBSERVED "))
    first, after_import, last = json.loads(line.removeprefix("OBSERVED "))
    for moment, found in (("import jssl", after_import), ("training and judging", last)):
        changed = {key: (first[key], found[key]) for key in first if found[key] != first[key]}
        assert changed == {}, moment
    assert (tmp_path / "run" / "evaluation" / "knn.json").exists()
    assert (tmp_path / "second" / "metrics.jsonl").exists()
