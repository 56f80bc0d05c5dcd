"""`jssl embed` in parts: bounded memory, killed and resumed, several devices and processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest
from helpers import ROOT, made_up_run, small_config

from jssl import data, files
from jssl.errors import UserError
from jssl.evaluate import embed_parts
from jssl.evaluate.feature_files import Table, save_parts
from jssl.main import main

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 3), np.uint8)


def source(images=IMAGES):
    return data.ArraySource("mine", images, np.arange(len(images)) % 5, num_classes=5)


def means(images):
    return np.float32(images).mean(axis=(1, 2))


def parts_of(tmp_path, **plan):
    return embed_parts.Parts(tmp_path / "x.npz", {"network": "a", **plan}, batches=6, per_part=2)


def compute(parts, embed=means, examples=None):
    parts.open()
    seen = []
    embed_parts.embed_to_parts(
        embed,
        examples or source(),
        parts,
        batch_size=4,
        transform=None,
        sizes=None,
        progress=seen.append,
    )
    return sum(seen)


def test_blocks_are_the_bytes_of_numpy(tmp_path):
    arrays = {
        "features": np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32),
        "paths": np.array(["a", "ä" * 9, ""] + ["b"] * 4),
        "names": np.array((), np.str_),
        "step": np.array(5, np.int64),
        "feature": np.array("backbone"),
    }
    files.write_npz(tmp_path / "a.npz", **arrays)
    cut = {k: np.split(x, [2, 2, 5]) if x.ndim and len(x) else [x] for k, x in arrays.items()}
    blocks = ((k, files.Blocks(x.shape, x.dtype, cut[k])) for k, x in arrays.items())
    files.write_npz_blocks(tmp_path / "b.npz", blocks)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(ValueError, match=r"x: 6 numbers in blocks, expected shape \(3, 3\)"):
        wrong = files.Blocks((3, 3), np.dtype(np.float32), [np.zeros((2, 3))])
        files.write_npz_blocks(tmp_path / "a.npz", [("x", wrong)])
    assert zipfile.is_zipfile(tmp_path / "a.npz")  # the old file
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stopped_embedding_computes_only_what_is_missing(tmp_path):
    calls = []

    def stops(images):
        calls.append(len(images))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return means(images)

    parts = parts_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compute(parts, stops)
    assert sorted(p.name for p in parts.folder.iterdir()) == [
        "part-000000.npz", "part-000001.npz", "plan.json"]  # fmt: skip
    damaged = parts.folder / "part-000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    calls.clear()
    assert compute(parts, lambda x: calls.append(1) or means(x)) == 23
    assert len(calls) == 4  # the batches of the damaged part and of the last one
    whole = list(embed_parts.all_parts(parts))
    np.testing.assert_array_equal(np.concatenate([p.features for p in whole]), means(IMAGES))
    np.testing.assert_array_equal(np.concatenate([p.indices for p in whole]), np.arange(23))
    np.testing.assert_array_equal(np.concatenate([p.labels for p in whole]), np.arange(23) % 5)
    assert embed_parts.check_parts(parts, source()) == (23, {})
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_parts_of_something_else_are_never_used(tmp_path, capsys):
    compute(parts_of(tmp_path))
    compute(parts_of(tmp_path))
    assert "resumed: 3 of 3 parts are there" in capsys.readouterr().out
    other = parts_of(tmp_path, network="b")
    assert compute(other, lambda images: -means(images)) == 23
    said = capsys.readouterr().out
    assert "are of another embedding (different: network)" in said and "resumed" not in said
    assert (other.read(2).features <= 0).all()
    (other.folder / "plan.json").write_text("{")
    (other.folder / "mine.txt").touch()
    with pytest.raises(UserError, match=r"x.npz.parts' is in the way.*or type another --o"):
        other.open()
    assert (other.folder / "mine.txt").exists() and (other.folder / "part-000000.npz").exists()
    with pytest.raises(UserError, match="Part 0 of 3 is not in .* a folder that all processes sh"):
        absent = embed_parts.Parts(tmp_path / "y", {}, batches=6, per_part=2)
        embed_parts.check_parts(absent, source())


def test_a_batch_is_split_over_the_devices():
    embed = embed_parts.sharded(jax.jit(lambda state, x: x.mean(axis=(1, 2)) * state), 2.0)
    output = embed(np.float32(IMAGES[:8]))
    assert [shard.data.shape for shard in output.addressable_shards] == [(2, 3)] * 4
    np.testing.assert_allclose(output, 2 * means(IMAGES[:8]), rtol=1e-6)


def test_an_example_that_came_twice_is_refused(tmp_path):
    class Twice(data.ArraySource):
        def __getitem__(self, index):
            return super().__getitem__(index // 2)

    twice = Twice("twice", IMAGES, np.zeros(23, int), num_classes=5)
    parts = parts_of(tmp_path)
    compute(parts, examples=twice)
    with pytest.raises(UserError, match="'twice' has 23 examples and 0 were skipped, but .* were"):
        embed_parts.check_parts(parts, twice)


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_the_file_is_written_without_holding_its_features(tmp_path, ending):
    """60 parts of 1 MB each: the peak is that of a few of them."""
    rows, dim, count = 4096, 64, 60

    def tables():
        for i in range(count):
            indices = np.arange(i * rows, (i + 1) * rows, dtype=np.int32)
            yield Table(np.full((rows, dim), i, np.float32), indices, indices, source())

    tracemalloc.start()
    try:
        save_parts(tmp_path / f"x{ending}", tables(), shape=(count * rows, dim))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / f"x{ending}").stat().st_size > (50 * 2**20 if ending == ".npz" else 2**20)
    assert peak < 12 * 2**20


# The command ------------------------------------------------------------------------------------

PROGRAM = """
import os, signal
from jssl.evaluate import embed_parts
from jssl.main import main

embed_parts.BATCH, embed_parts.MOST_BATCHES = 4, 1
write, kill_after = embed_parts.Parts.write, {kill_after}
def killed(self, part, content):
    write(self, part, content)
    print(f"wrote part {{part}}")
    if part + 1 == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
embed_parts.Parts.write = killed
main({words!r})
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "byol"
    config = small_config("byol", launch="jit")
    config.data.update({"name": "synthetic", "num_examples": 80})
    made_up_run(config, folder, start=0.01)
    return folder


def started(words, *, devices=1, kill_after=0):
    program = PROGRAM.format(words=words, kill_after=kill_after)
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags}={devices}"}
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env=env,
    )  # fmt: skip


def ended(process, status=0):
    out, error = process.communicate(timeout=240)
    assert process.returncode == status, error
    return out


def words_of(run, output):
    return ["embed", f"--workdir={run}", f"--output={output}"]


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The file of one process with one device, never killed."""
    output = tmp_path_factory.mktemp("whole") / "whole.npz"
    ended(started(words_of(run, output)))
    return output


def test_killed_and_resumed_is_bit_equal(run, whole, tmp_path):
    words = words_of(run, tmp_path / "killed.npz")
    ended(started(words, kill_after=2), -signal.SIGKILL)
    folder = tmp_path / "killed.npz.parts"
    assert len(list(folder.glob("part-*.npz"))) == 2 and not (tmp_path / "killed.npz").exists()
    assert "resumed: 2 of 5 parts are there" in ended(started(words))
    assert (tmp_path / "killed.npz").read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.npz"]


def test_all_devices_and_processes_take_part(run, whole, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    pair = [
        started([*words_of(run, tmp_path / "two.npz"), *job, f"--process={i}"], devices=2)
        for i in range(2)
    ]
    try:
        monkeypatch.setattr(embed_parts, "BATCH", 4)
        monkeypatch.setattr(embed_parts, "MOST_BATCHES", 1)
        assert jax.device_count() == 4
        main(words_of(run, tmp_path / "four.npz"))  # of the tests' own process
        first, second = [ended(process) for process in pair]
    finally:
        for process in pair:
            process.kill()
    written = [[line[-1] for line in said.splitlines() if "wrote" in line]
               for said in (first, second)]  # fmt: skip
    assert written == [["0", "2", "4"], ["1", "3"]]
    assert "two.npz: backbone features [20, " in first and "two.npz" not in second
    with np.load(whole) as one:
        for name in ("four", "two"):
            with np.load(tmp_path / f"{name}.npz") as saved:
                assert saved.files == one.files
                for key in set(one.files) - {"features"}:
                    np.testing.assert_array_equal(saved[key], one[key])
                np.testing.assert_allclose(saved["features"], one["features"], rtol=1e-5, atol=1e-6)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".npz"] * 2


def test_the_plan_names_what_the_features_depend_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_parts.Parts, "remove", lambda self: None)
    main(words_of(run, tmp_path / "x.npz"))
    plan = json.loads((tmp_path / "x.npz.parts" / "plan.json").read_text())
    main([*words_of(run, tmp_path / "y.npz"), "--feature=projection", "--limit=4"])
    other = json.loads((tmp_path / "y.npz.parts" / "plan.json").read_text())
    assert {key for key in plan if plan[key] != other[key]} == {"feature", "source", "batch"}


def test_a_job_imports_weights_first(run, tmp_path):
    words = [*words_of(run, tmp_path / "x.npz"), "--weights=w.pth", "--distributed"]
    with pytest.raises(UserError, match="type jssl import --weights=w.pth"):
        main(words)
