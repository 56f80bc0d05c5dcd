"""The example of docs/published_weights.md runs on a file of MoCo v2's layout."""

import re

import numpy as np
import pytest
from convert.test_families import written
from helpers import ROOT
from PIL import Image

PAGE = ROOT / "docs" / "published_weights.md"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_example(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "knn_accuracy" in block]
    assert len(example.strip().splitlines()) <= 12
    written(tmp_path, "moco_v2").rename(tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    rng = np.random.default_rng(0)
    for number in range(48):
        folder = tmp_path / "pictures" / ("grey" if number % 2 else "noise")
        folder.mkdir(parents=True, exist_ok=True)
        spread = 20 if number % 2 else 255
        pixels = rng.integers(0, spread, (30 + number, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, PAGE.name, "exec"), {})
    printed = capsys.readouterr().out
    assert "licence of the file: CC-BY-NC 4.0" in printed
    assert re.search(r"'top1': (0\.\d+|1\.0)", printed) and "'count': 24" in printed
