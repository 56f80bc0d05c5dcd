"""A published file, read and written again, has the same tensors: in, out, and in once more."""

import numpy as np
import pytest
from convert import test_families, test_official
from convert.test_families import safetensors_file
from safetensors.numpy import load_file

from jssl import convert
from jssl.run import checkpoint

KINDS = {
    "resnet18": test_families,
    "deit_distilled": test_families,
    "tf_efficientnet_b0": test_families,
    "beit": test_families,
    "regnet_timm": test_official,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_written_again_is_the_same(tmp_path, kind):
    tensors = KINDS[kind].state_dict(kind)
    safetensors_file(tmp_path / "in.safetensors", tensors)
    convert.import_weights(tmp_path / "in.safetensors", tmp_path / "run")
    convert.export_run(tmp_path / "run", tmp_path / "out.safetensors", "safetensors")
    written = load_file(tmp_path / "out.safetensors")
    counters = {name for name in tensors if "num_batches_tracked" in name}
    assert set(written) == {n for n in tensors if "relative_position_index" not in n} - counters
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)
    states = [
        checkpoint.flat_leaves(convert.read_pretrained(tmp_path / f"{file}.safetensors").state)
        for file in ("in", "out")
    ]
    for name, value in states[0].items():
        if name.startswith(("params", "batch_stats")):
            np.testing.assert_array_equal(states[1][name], value, err_msg=name)
