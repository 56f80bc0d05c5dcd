"""The studies of launch/ablations.py: each row is a config and settings that jssl train takes."""

import sys
from pathlib import Path

import pytest

from jssl.run import config_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "launch"))
import ablation_studies  # noqa: E402
import ablations  # noqa: E402

ROWS = [(name, row) for name, study in ablation_studies.STUDIES.items() for row in study.rows]


@pytest.mark.quick
@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row}" for name, row in ROWS])
def test_a_row_is_a_config_with_settings_that_exist(name, row):
    first, *flags = ablation_studies.STUDIES[name].rows[row]
    config = config_file.load(str(ROOT / "configs" / first.format(seed=3, folder="runs/x")))
    assert config.seed == 3 or "seed" not in first
    for flag in flags:
        key, value = flag.removeprefix("--config.").split("=", 1)
        before = config_file_value(config, key)
        config_file.override(config, key, value)
        changed = config_file_value(config, key) != before
        assert changed or flag in ablation_studies.ADAMW, f"{flag} changes nothing"


def config_file_value(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def test_a_record_has_the_top1_of_each_probe():
    rows = [
        {"probe": "own classifier", "metric": metric, "numbers": {"trained": {"value": value}}}
        for metric, value in (("top-1", 0.5), ("top-5", 0.9), ("mean per class", 0.4))
    ]
    rows.append({"probe": "softmax_regression", "numbers": {"trained": {"value": 0.1}}})
    assert ablations.numbers_of(rows) == {"own classifier": {"trained": {"value": 0.5}}}
