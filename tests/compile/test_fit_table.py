"""The table of launch/README.md matches the stored records."""

from helpers import ROOT

from jssl.compile import command, hardware, hlo, roofline, table


def test_the_readme_holds_the_table_of_the_records():
    records = command.load(ROOT / "launch" / "records")
    page = (ROOT / "launch" / "README.md").read_text()
    assert len(records) >= 2
    assert table.table(records) in page


def test_estimates_are_those_of_todays_hardware_table():
    for record in command.load(ROOT / "launch" / "records"):
        if "flops" not in record:
            assert not record["memory"]["fits"], record["config"]
            continue
        collectives = {k: hlo.Collective(**c) for k, c in record["collectives"].items()}
        roof = roofline.estimate(
            hardware.parse_topology(record["topology"]),
            dtype=record["dtype"],
            flops=record["flops"],
            bytes_accessed=record["bytes_accessed"],
            collectives=collectives,
            global_batch=record["batch"]["global"],
            steps=record["roofline"]["run_steps"],
        )
        assert record["roofline"] == roof, record["config"]
        chip = hardware.CHIPS[hardware.parse_topology(record["topology"]).chip]
        assert record["memory"]["usable"] == chip.usable, record["config"]


def test_a_record_that_does_not_fit_has_no_costs():
    record = command.load(ROOT / "launch" / "records")[0]
    for key in ("flops", "roofline", "collectives"):
        record.pop(key)
    record["memory"] = {**record["memory"], "fits": False, "spare": -(2**31)}
    cells = table.row(record)
    assert len(cells) == len(table.HEAD)
    assert cells[5] == "does not fit, 2.00 over"
    assert cells[6:12] == [""] * 6
    assert table.row({**record, "effort": -1.0})[12].endswith(" (effort -1)")
