"""Tests that are left out of a usual run have passed before, and say when."""

import json

from helpers import ROOT


def test_every_proof_has_a_record(proofs):
    """Of the files that this run collected."""
    recorded = json.loads((ROOT / "tests" / "proofs.json").read_text())
    missing = sorted(proofs - recorded.keys())
    assert not missing, f"run JSSL_UPDATE_GOLDEN=1 pytest -m proof: {missing}"
    assert all({"date", "jax", "python", "seconds"} <= row.keys() for row in recorded.values())
