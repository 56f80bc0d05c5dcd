"""The table of faults in launch/README.md is what the kept record of the soak says."""

import json

from helpers import ROOT
from soak import table

RECORD = json.loads((ROOT / "launch" / "records" / "soak.json").read_text())


def test_the_readme_holds_the_table_of_the_record():
    assert table.table(RECORD) in (ROOT / "launch" / "README.md").read_text()


def test_what_was_met_is_what_came_of_it():
    for fault, entry in RECORD["faults"].items():
        assert entry["run"] == sum(entry["outcomes"].values()) > 0, fault


def test_a_failure_and_an_end_before_time_are_told():
    entry = {"expected": "equal", "run": 3, "outcomes": {"equal": 2, "failed": 1}, "words": ["x"]}
    record = {**RECORD, "finished": False, "faults": {"KILL": {**entry, "failures": ["a | b"]}}}
    text = table.table(record)
    assert "| KILL | 3 | equal | 2 x equal, 1 x failed | a \\| b |" in text
    assert "3 of 100 kills and 0 other faults" in text
    assert "1 failed; the soak was ended before it had met them all. Run on 20" in text
