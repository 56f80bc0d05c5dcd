"""The table of launch/README.md matches the stored records."""

from helpers import ROOT

from jssl.compile import command, table


def test_the_readme_holds_the_table_of_the_records():
    records = command.load(ROOT / "launch" / "records")
    page = (ROOT / "launch" / "README.md").read_text()
    assert len(records) >= 2
    assert table.table(records) in page


def test_a_record_that_does_not_fit_has_no_costs():
    record = command.load(ROOT / "launch" / "records")[0]
    for key in ("flops", "roofline", "collectives"):
        record.pop(key)
    record["memory"] = {**record["memory"], "fits": False, "spare": -(2**31)}
    cells = table.row(record)
    assert len(cells) == len(table.HEAD)
    assert cells[5] == "does not fit, 2.00 over"
    assert cells[6:11] == [""] * 5
