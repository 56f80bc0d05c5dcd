"""The table of launch/README.md matches the stored records."""

from helpers import ROOT

from jssl.compile import command, hardware, hlo, roofline, table


def test_the_readme_holds_the_table_of_the_records():
    records = command.load(ROOT / "launch" / "records")
    page = (ROOT / "launch" / "README.md").read_text()
    assert len(records) >= 2
    for text in table.tables(ROOT / "launch" / "records").values():
        assert text in page


def test_no_record_is_no_empty_table(tmp_path):
    for text, (begin, end) in zip(
        table.tables(tmp_path).values(), table.MARKS.values(), strict=True
    ):
        assert text == f"{begin}\nNot compiled yet.\n{end}"


def test_scaling_by_hand():
    def record(devices, per_device, images):
        seconds = dict.fromkeys(("arithmetic", "memory", "interconnect", "latency"), 0.002)
        roof = {"seconds": seconds, "step_seconds": 0.006, "images_per_second": images}
        batch = {"per_device": per_device, "global": devices * per_device}
        return {"config": "simclr_imagenet model.x=1", "method": "simclr", "devices": devices,
                "hosts": 2, "batch": batch, "memory": {"total": 3 * 2**30}, "flops": 1.0,
                "roofline": roof}  # fmt: skip

    rows = table.scaling_rows([record(32, 4, 300.0), record(8, 4, 100.0), record(8, 16, 150.0)])
    assert [row[1:5] for row in rows] == [
        ["global batch", "8", "16", "128"],
        ["global batch", "32", "4", "128"],
        ["batch a chip", "8", "4", "32"],
        ["batch a chip", "32", "4", "128"],
    ]
    assert [row[12] for row in rows] == ["1.00", "0.50", "1.00", "0.75"]
    assert rows[0][6:12] == ["2.00"] * 4 + ["6.00", "150"] and rows[0][13] == "75"
    assert all(len(row) == len(table.SCALING_HEAD) for row in rows)


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
