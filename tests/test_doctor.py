"""`jssl doctor`: the page, and the problems that it names."""

import numpy as np
import pytest

from jssl import main
from jssl.run import doctor


def test_the_page_of_a_sound_machine(tmp_path, capsys):
    main.main(["doctor", f"--workdir={tmp_path / 'runs' / 'new'}"])
    page = capsys.readouterr().out
    for title in ("software", "environment", "host", "disk", "devices", "job", "all-reduce"):
        assert f"\n{title}\n" in page
    assert "XLA_FLAGS=--xla_force_host_platform_device_count=4" in page
    assert "backend cpu: 4 x cpu, 4 in this process" in page
    assert "over 4 device(s): the sum is right" in page
    assert "loss" in page and page.endswith("No problem.\n")
    assert str(tmp_path) not in page  # it can be pasted
    assert not list(tmp_path.iterdir())


def test_a_problem_ends_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "train_step", lambda: (["loss nan"], ["The loss is nan."]))

    def broken():
        raise RuntimeError("NCCL timed out\nand what follows")

    monkeypatch.setattr(doctor, "all_reduce", broken)
    with pytest.raises(SystemExit) as ended:
        main.main(["doctor"])
    assert ended.value.code == 1
    page = capsys.readouterr().out
    assert "PROBLEM all-reduce: RuntimeError: NCCL timed out\n" in page
    assert page.endswith("PROBLEM The loss is nan.\n")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    lines, problems = doctor.disks(str(tmp_path))
    assert lines[0].startswith("--workdir: ")
    assert problems[-1] == "--workdir cannot be written: Read-only file system."


def test_processes_that_differ(monkeypatch):
    other = np.frombuffer(b"jssl 0.0".ljust(doctor.TEXT), np.uint8)
    monkeypatch.setattr(doctor, "_gathered", lambda row: np.stack([row, other]))
    assert doctor.software()[1] == ["process 1 has other versions than process 0: jssl 0.0"]
    late = np.array([7, 500_000])
    monkeypatch.setattr(doctor, "_gathered", lambda row: np.stack([row, row + late]))
    monkeypatch.setattr(doctor.jax, "process_count", lambda: 2)
    monkeypatch.setattr(doctor.multihost_utils, "sync_global_devices", lambda name: None)
    lines, problems = doctor.job()
    assert lines[-1] == "clocks differ by at most 7.500 s"
    assert problems[0].startswith("The clocks of the hosts differ by 7.5 s: expected less than 5.")


def test_problems_of_other_processes_are_told_too(monkeypatch):
    other = np.frombuffer(b"The same.\nA disk is full.".ljust(doctor.TEXT), np.uint8)
    monkeypatch.setattr(doctor, "_gathered", lambda row: np.stack([row, other]))
    assert doctor._of_all_processes(["The same."]) == ["The same."]  # one process
    monkeypatch.setattr(doctor.jax, "process_count", lambda: 2)
    problems = doctor._of_all_processes(["The same."])
    assert problems == ["The same.", "process 1: A disk is full."]


def test_hardware_that_is_not_used_is_a_problem(tmp_path):
    assert doctor._unused(tmp_path) == []
    (tmp_path / "accel0").touch()
    assert "pip install 'jssl[tpu]'" in doctor._unused(tmp_path)[0]
    (tmp_path / "nvidia0").touch()
    assert "pip install 'jssl[cuda12]'" in doctor._unused(tmp_path)[0]


def test_little_memory(monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: (64 * doctor.GIB, doctor.GIB))
    lines, problems = doctor.host()
    assert lines[-1] == "memory 64.0 GiB, 1.0 GiB available"
    assert problems == ["1.0 GiB of memory are available on this host."]


def test_a_wrong_sum_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_local", lambda x: [9, 10, 10, 10])
    message = "An all-reduce over 4 devices gave [9, 10, 10, 10]: expected 10."
    assert doctor.all_reduce() == ([], [message])
