"""What starts fast loads little: counted in modules, as seconds depend on the machine."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

# Top-level names of libraries that read data, pictures or checkpoints, or train.
HEAVY = {"PIL", "array_record", "dm_pix", "grain", "ml_collections", "orbax", "scipy", "simplejpeg",
         "skimage", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets"}  # fmt: skip
PROGRAM = """
import io, json, sys
sys.argv = ["jssl"]
shown, sys.stdout = sys.stdout, io.StringIO()
try:
    {code}
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=shown)
"""


def modules_of(code):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["configs"]])
def test_help_loads_no_library(words):
    found = modules_of(f"from jssl.main import main; main({words!r})")
    jssl = [name for name in found if name.split(".")[0] == "jssl"]
    assert {"jssl.main", "jssl.flags"} <= {*jssl} and len(jssl) <= 6
    libraries = {name.split(".")[0] for name in found}
    assert not libraries & {*HEAVY, "jax", "flax", "numpy", "optax"}


def test_the_losses_load_jax_and_nothing_of_data():
    found = modules_of("from jssl import losses; losses.nt_xent")
    libraries = {name.split(".")[0] for name in found}
    assert "jax" in libraries and not libraries & {*HEAVY, "optax"}
    jssl = {".".join(name.split(".")[:2]) for name in found if name.startswith("jssl.")}
    assert jssl == {"jssl.errors", "jssl.losses", "jssl.numerics", "jssl.parallel",
                    "jssl.third_party", "jssl.types"}  # fmt: skip
