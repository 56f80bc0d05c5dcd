"""Peak memory of `jssl embed` for a folder of 10,000 and of 100,000 pictures of 8 x 8 pixels.

    python tests/benchmarks/bench_embed_memory.py --record=embed_memory.json

Each embedding is a process of its own; its peak is the largest resident size that the kernel saw.
The network is a ResNet-8 with made-up weights and features of 32 numbers: of longer features only
the batches and parts grow, whose size does not depend on the number of pictures.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
CHILD = """
import json, resource, sys, time
from jssl.main import main
begun = time.monotonic()
main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux: in KiB
print(json.dumps({"peak_mb": round(peak / 1e6, 1), "seconds": round(time.monotonic() - begun)}))
"""


def pictures(folder, count):
    """Writes so many noise pictures into ten sub-folders."""
    rng = np.random.default_rng(0)
    for i in range(count):
        if i < 10:
            (folder / f"class_{i}").mkdir(parents=True)
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class_{i % 10}" / f"{i:06}.ppm")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--ending", default="npz")
    parser.add_argument("--record", type=Path)
    flags = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import made_up_run, small_config

    record = {"machine": platform.machine(), "cores": os.cpu_count(), "ending": flags.ending}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = small_config("byol", launch="jit")
        config.augment.size = 8
        made_up_run(config, root / "run", start=0.01)
        for count in flags.counts:
            pictures(root / f"p{count}", count)
            output = root / f"{count}.{flags.ending}"
            begun = time.monotonic()
            words = ["embed", f"--workdir={root / 'run'}", f"--output={output}"]
            done = subprocess.run(
                [sys.executable, "-c", CHILD, *words, f"--data={root / f'p{count}'}"],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            lines = done.stdout.splitlines()
            record[str(count)] = json.loads(lines[-1]) | {"said": lines[-2].rpartition(": ")[2]}
            print(count, record[str(count)], f"{time.monotonic() - begun:.0f} s", flush=True)
    peaks = [record[str(count)]["peak_mb"] for count in flags.counts]
    # The first run compiles, and is not compared.
    record["difference_mb"] = round(peaks[-1] - peaks[-2], 1)
    print(json.dumps(record, indent=1))
    if flags.record:
        flags.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
