"""Runs in buckets of emulated object stores: stopped, killed, locked, and the same in the end."""

import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, small_config, start

from jssl.errors import UserError
from jssl.main import main
from jssl.run import bucket, checkpoint, chosen, lock, stores

STEPS = 8
SMALL = {"augment.size": 16, "model.width": 0.125, "model.stage_sizes": (1,)}
MARKERS = {"gs": "checkpoints/6/commit_success.txt", "s3": "checkpoints/6/SHA256SUMS"}
SCHEMES = tuple(MARKERS)


def flags(workdir, steps=STEPS):
    return [
        "train",
        f"--config={ROOT}/configs/simclr_photos.py:smoke",
        f"--workdir={workdir}",
        f"--config.max_steps={steps}",
        "--config.checkpoint.every_steps=2",
        "--config.monitor.every_epochs=0",
        "--config.final.enabled=False",
        "--config.log.tensorboard=False",
        "--config.launch=jit",
        *(f"--config.{key}={value}" for key, value in SMALL.items()),
    ]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The emulators, and the variables by which the clients and TensorStore find them."""
    place, processes, variables, ports = (
        tmp_path_factory.mktemp("stores"),
        [],
        pytest.MonkeyPatch(),
        {},
    )
    for scheme in SCHEMES:
        port = ports[scheme] = free_port()
        command = [
            sys.executable,
            ROOT / "tests/store_server.py",
            scheme,
            str(port),
            place / scheme,
        ]
        with open(place / f"{scheme}.log", "w") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{ports['gs']}",
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{ports['gs']}",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks the real service about the bucket
    }.items():
        variables.setenv(name, value)
    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it has no credentials to ask for the kind
    end = time.monotonic() + 60
    for scheme in SCHEMES:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ports[scheme]}/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end, (place / f"{scheme}.log").read_text()
                time.sleep(0.1)
    bucket.filesystem("s3").mkdir("bucket")
    yield place
    variables.undo()
    for process in processes:
        process.kill()
        process.wait()


def final(folder):
    """The last state of a run, and the loss of each of its steps."""
    config = small_config("simclr")
    chosen.set_all(config, [(key, str(value)) for key, value in SMALL.items()])
    _, _, blank, _ = start(config, "jit")
    saved = checkpoint.Checkpoints(folder, method="simclr", read_only=True)
    state, data_state = saved.restore(blank)
    saved.close()
    rows = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
    losses = [(row["step"], row["loss"]) for row in rows]
    assert data_state["next_step"] == STEPS
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(state).items()}, losses


@pytest.fixture(scope="module")
def begun(servers):
    """Real runs in both stores, whose checkpoints of step 6 do not become whole."""
    processes = {}
    for scheme, marker in MARKERS.items():
        (servers / scheme).write_text(marker)
        command = [sys.executable, "-m", "jssl", *flags(f"{scheme}://bucket/runs/killed")]
        with open(servers / f"{scheme}-killed.log", "w") as file:
            processes[scheme] = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def uninterrupted(begun, tmp_path_factory):
    """The same run in a folder, never touched."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    main(flags(workdir))
    return final(workdir)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_kill_during_a_save_changes_nothing(servers, begun, uninterrupted, scheme, capsys):
    """The write that makes the checkpoint of step 6 whole is met by the kill."""
    url, hold = f"{scheme}://bucket/runs/killed", servers / scheme
    process, log = begun[scheme], servers / f"{scheme}-killed.log"
    try:
        end = time.monotonic() + 240  # of a machine with much else to do
        while not Path(f"{hold}.met").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        with pytest.raises(UserError, match=f"workdir {url} .*in progress: process {process.pid}"):
            main(flags(url))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.unlink()
    names = bucket.Store(url).find()
    assert any(name.startswith("checkpoints/6/state/") for name in names)
    assert not any(name.endswith(MARKERS[scheme]) for name in names)
    assert lock.NAME in names

    capsys.readouterr()
    main(flags(url))
    printed = "".join(capsys.readouterr())
    assert f"taken over from process {process.pid}" in printed
    assert "resumed at step 4" in printed and f"workdir {url}" in printed
    state, losses = uninterrupted
    with stores.opened(url) as folder:
        found, numbers = final(folder)
    assert numbers == losses and len(losses) == STEPS
    assert found.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    names = bucket.Store(url).find()
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {"6", "8"}
    assert lock.NAME not in names
    assert not stores._open and not Path(folder).parent.exists()

    main(["report", f"--workdir={url}"])
    assert "report.html" in bucket.Store(url).find()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_lock_is_written_on_a_condition(servers, scheme):
    store = bucket.Store(f"{scheme}://bucket/locks")
    assert store.read("a") is None
    assert store.write("a", b"1", None)
    assert not store.write("a", b"2", None)
    content, version = store.read("a")
    assert content == b"1"
    assert store.write("a", b"3", version)
    assert not store.write("a", b"4", version)
    assert store.read("a")[0] == b"3"
    assert not store.write("gone", b"5", version)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_whose_lock_was_taken_stops_writing(servers, scheme, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    url = f"{scheme}://bucket/taken"
    with stores.opened(url) as folder, lock.held(Path(folder)):
        store = bucket.Store(url)
        content, version = store.read(lock.NAME)
        other = json.dumps({**json.loads(content), "token": "another"}).encode()
        while not store.write(lock.NAME, other, version):  # a beat came between
            content, version = store.read(lock.NAME)
        end = time.monotonic() + 20
        with pytest.raises(UserError, match="was taken over"):
            while time.monotonic() < end:
                lock.check(Path(folder))
                time.sleep(0.05)
        (Path(folder) / "late.json").write_text("{}")
    assert "late.json" not in store.find()
    assert json.loads(store.read(lock.NAME)[0])["token"] == "another"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_files_that_cannot_be_brought_up_are_kept(servers, scheme, monkeypatch):
    def fails(store, place, name):
        raise bucket.StoreError("the network is away.")

    monkeypatch.setattr(bucket.Store, "put", fails)
    with pytest.raises(UserError, match="is away. The files of this start are kept in /"):
        with stores.opened(f"{scheme}://bucket/kept") as folder:
            (Path(folder) / "a.json").write_text("{}")
    assert (Path(folder) / "a.json").exists()
    shutil.rmtree(Path(folder).parent)
    with pytest.raises(UserError, match=f"wrong in {scheme}://bucket/kept"):
        with stores.opened(f"{scheme}://bucket/kept") as folder:
            raise UserError(f"wrong in {folder}")
    assert not Path(folder).parent.exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mistakes_are_told(servers, scheme, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=f"Type --workdir={scheme}://bucket/NAME"):
        main(["report", f"--workdir={scheme}://bucket"])
    with pytest.raises(UserError, match="'B' is no name of a bucket"):
        main(["report", f"--workdir={scheme}://B/run"])
    with pytest.raises(UserError, match=f"{scheme}://bucket/none is not the workdir of a run"):
        main(["evaluate", f"--workdir={scheme}://bucket/none"])
    with pytest.raises(UserError, match="cannot be listed .* Check the name of the bucket"):
        with stores.opened(f"{scheme}://no-such-bucket/run") as folder, lock.held(Path(folder)):
            pass
    monkeypatch.setitem(sys.modules, bucket.PACKAGES[scheme], None)
    monkeypatch.setattr("fsspec.filesystem", lambda name: __import__(bucket.PACKAGES[name]))
    with pytest.raises(UserError, match=r"pip install 'jssl\[stores\]'"):
        main(["report", f"--workdir={scheme}://bucket/run"])


def test_a_job_of_several_processes_is_refused_on_s3():
    with pytest.raises(UserError, match="Orbax has no writer for S3.*--workdir=/mnt/bucket/run"):
        main([*flags("s3://bucket/run"), "--distributed"])


def test_nothing_is_written_outside_the_mirror(tmp_path):
    class Bucket:
        scheme = "s3"

        def find(self):
            return dict.fromkeys(("config.json", "/etc/x", "../x", "a/../../x", "a//x"), "1")

        def get(self, name, place):
            place.write_text(name)

    root = tmp_path / "mirror"
    root.mkdir()
    stores.Mirror(Bucket(), root).pull()
    assert [path.name for path in tmp_path.rglob("*")] == ["mirror", "config.json"]
