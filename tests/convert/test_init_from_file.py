"""A run that starts from a weights file: `jssl train --config.init_from=FILE`."""

import json
import shutil

import numpy as np
import pytest
from convert.test_families import GOLDEN

from jssl import convert
from jssl.errors import UserError
from jssl.main import main
from jssl.run import build, checkpoint

CONFIG = """
from jssl import config
from jssl.run import pretrained

def get_config(arg=""):
    c = config.base("supervised", preset="cifar")
    c.data.name, c.data.num_examples = "synthetic", 16
    c.augment.size, c.batch_size, c.epochs, c.launch = 32, 8, 1.0, "jit"
    c.optim.lr, c.optim.warmup_epochs = 1e-9, 0.0
    c.final.enabled, c.monitor.every_epochs, c.log.tensorboard = False, 0.0, False
    pretrained.as_trained(c, "FILE")
    c.init_from = "FILE"
    return c
"""


@pytest.fixture
def files(tmp_path):
    for name in ("simclr.index", "simclr.data-00000-of-00001"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    config = tmp_path / "own.py"
    config.write_text(CONFIG.replace("FILE", str(tmp_path / "simclr")))
    return tmp_path, config


def test_a_run_starts_from_a_weights_file_and_resumes_without_it(files, capsys):
    folder, config = files
    run = folder / "run"
    main(["train", f"--config={config}", f"--workdir={run}"])
    assert "as method 'simclr'; licence of the file: Apache-2.0" in capsys.readouterr().out
    record = json.loads((run / "init_from.json").read_text())
    assert record["init_from"] == str(folder / "simclr") and record["method"] == "simclr"
    expected = convert.read_pretrained(folder / "simclr").state.params["encoder"]
    _, state = build.load_encoder(run)
    trained = checkpoint.flat_leaves(state.params["encoder"])
    for name, value in checkpoint.flat_leaves(expected).items():
        np.testing.assert_allclose(trained[name], value, atol=1e-6, err_msg=name)
    (folder / "simclr.index").unlink()
    shutil.rmtree(run / "weights")
    main(["train", f"--config={config}", f"--workdir={run}"])


def test_a_pod_is_told_to_import_first(files):
    folder, config = files
    text = config.read_text().replace(str(folder / "simclr"), str(folder / "simclr.index"))
    config.write_text(text)
    for command in (["train", f"--workdir={folder / 'run'}", "--distributed"], ["config"]):
        with pytest.raises(UserError, match="is a file, expected .* `jssl import --weights="):
            main([*command, f"--config={config}"])
    assert not (folder / "run").exists()
