"""Three metrics of three steps of every method, as they were when they were last looked at.

When a change is meant to change them, run `JSSL_UPDATE_GOLDEN=1 pytest tests/test_golden_steps.py`,
say in the commit why they moved, and commit the new file with it.
"""

import json
import os

import numpy as np
import pytest
from helpers import ROOT, small_config, three_steps

from jssl import methods


@pytest.mark.parametrize("name", methods.names())
def test_three_steps(name):
    found = three_steps(small_config(name))
    path = ROOT / "tests" / "golden" / "steps" / f"{name}.json"
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=2e-3, err_msg=key)
