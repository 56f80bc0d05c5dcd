"""Records what MoCo's published converter makes of torchvision's ResNets.

    python tests/reference/record_detectron2_names.py convert-pretrain-to-detectron2.py

The script is of https://github.com/facebookresearch/moco, detection/; it is run as it is, on a
checkpoint of MoCo's form. Needs torch and torchvision (recorded with 2.14.1 and 0.29.1). Writes
tests/golden/detectron2_names.txt: a line a tensor, network, old name, new name, shape.
"""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "detectron2_names.txt"


def main(script):
    import torch
    import torchvision

    lines = []
    for name in ("resnet18", "resnet50"):
        net = getattr(torchvision.models, name)()
        state = {f"module.encoder_q.{k}": v for k, v in net.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            old, new = Path(folder) / "x.pth.tar", Path(folder) / "x.pkl"
            torch.save({"state_dict": state}, old)
            said = subprocess.run(
                [sys.executable, script, old, new], capture_output=True, text=True, check=True
            ).stdout
            content = pickle.loads(new.read_bytes())
        renamed = dict(line.split(" -> ") for line in said.splitlines())
        assert sorted(content) == ["__author__", "matching_heuristics", "model"]
        for before, after in renamed.items():
            before = before.removeprefix("module.encoder_q.")
            shape = "x".join(map(str, content["model"][after].shape))
            lines.append(f"{name} {before} {after} {shape or 'scalar'}\n")
    GOLDEN.write_text("".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
