"""Checkpoints: exact, whole, refused when they are of something else, on any devices."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jssl.errors import UserError
from jssl.run import checkpoint, checksums
from jssl.types import TrainState


def state_of(value, width=3, placed=None):
    state = TrainState(
        step=jnp.int32(value),
        key=jax.random.key(7),
        params={"dense": {"kernel": jnp.full((2, width), value, jnp.float32)}},
        batch_stats={},
        opt_state=(jnp.full((width,), value / 3, jnp.bfloat16),),
    )
    return state if placed is None else jax.device_put(state, placed)


def replicated(count):
    return NamedSharding(Mesh(np.array(jax.devices()[:count]), ("batch",)), P())


def same(a, b):
    a, b = checkpoint.flat_leaves(a), checkpoint.flat_leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


@pytest.fixture
def folder(tmp_path):
    saved = checkpoint.Checkpoints(tmp_path, method="toy", keep=2)
    for step in (1, 2, 3):
        saved.save(step, state_of(step), {"next_step": step})
    saved.close()
    return tmp_path


def test_the_newest_are_kept_and_restored_bit_for_bit(folder):
    saved = checkpoint.Checkpoints(folder, method="toy")
    assert saved.latest_step() == 3
    assert sorted(p.name for p in saved.folder.iterdir()) == ["2", "3"]
    state, data_state = saved.restore(state_of(0))
    same(state, state_of(3))
    assert data_state == {"next_step": 3}
    assert jax.dtypes.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    older, _ = saved.restore(state_of(0), step=2)
    same(older, state_of(2))
    saved.close()


def test_all_are_kept_by_minus_one(tmp_path):
    saved = checkpoint.Checkpoints(tmp_path, method="toy", keep=-1)
    for step in range(4):
        saved.save(step, state_of(step), {})
    saved.close()
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {"0", "1", "2", "3"} <= kept


def test_restores_onto_other_devices(folder):
    saved = checkpoint.Checkpoints(folder, method="toy")
    for count in (1, 4):
        state, _ = saved.restore(state_of(0, placed=replicated(count)))
        same(state, state_of(3))
        assert all(len(x.devices()) == count for x in jax.tree.leaves(state))
    saved.close()


def test_another_method_is_refused(folder):
    saved = checkpoint.Checkpoints(folder, method="byol")
    with pytest.raises(UserError, match="is of method 'toy', the config's is 'byol'"):
        saved.restore(state_of(0))
    saved.close()


def test_another_shape_is_refused_naming_the_first_leaves(folder):
    saved = checkpoint.Checkpoints(folder, method="toy")
    with pytest.raises(UserError) as error:
        saved.restore(state_of(0, width=5))
    message = str(error.value)
    assert "in 2 leaves" in message
    assert "params.dense.kernel: checkpoint float32[2, 3], config float32[2, 5]" in message
    assert "opt_state.0: checkpoint bfloat16[3], config bfloat16[5]" in message
    saved.close()


def test_an_incomplete_save_is_no_checkpoint(folder):
    torn = folder / "checkpoints" / "9.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "half").write_text("x")
    saved = checkpoint.Checkpoints(folder, method="toy")
    assert saved.latest_step() == 3
    same(saved.restore(state_of(0))[0], state_of(3))
    saved.close()


def test_no_checkpoint_is_an_error(tmp_path):
    saved = checkpoint.Checkpoints(tmp_path, method="toy")
    with pytest.raises(UserError, match="No checkpoint in"):
        saved.restore(state_of(0))
    saved.close()


def files_of(folder, step):
    place = folder / "checkpoints" / str(step)
    return [p for p in sorted(place.rglob("*")) if p.is_file() and p.parent != place]


def flip(path, place=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_checksums_are_those_of_sha256sum_and_name_changed_files(folder):
    place = folder / "checkpoints" / "3"
    check = ["sha256sum", "--check", "--strict", "--quiet", checksums.SUMS]
    assert subprocess.run(check, cwd=place).returncode == 0
    files = files_of(folder, 3)
    assert {p.relative_to(place).parts[0] for p in files} == {"state", "data", "about"}
    for path in files:
        whole, name = path.read_bytes(), path.relative_to(place).as_posix()
        flip(path, len(whole) // 2)
        assert checksums.damage(place) == [f"{name} is not as it was written"]
        path.write_bytes(whole[:-1])
        assert checksums.damage(place) == [f"{name} is not as it was written"]
        path.unlink()
        assert checksums.damage(place) == [f"{name} cannot be read: No such file or directory"]
        path.write_bytes(whole)
        assert checksums.damage(place) == []
    sums = place / checksums.SUMS
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(lines[:-1]))  # cut between two lines
    assert checksums.damage(place) == [f"{lines[-1].split()[1]} has no checksum"]


def test_a_damaged_checkpoint_is_moved_and_the_one_before_is_used(folder):
    flip(max(files_of(folder, 3), key=lambda p: p.stat().st_size))
    saved = checkpoint.Checkpoints(folder, method="toy")
    with pytest.raises(UserError, match=r"checkpoints/3 is damaged: state/.*Undamaged steps: 2\."):
        saved.restore(state_of(0))
    step, (line,) = saved.newest_whole()
    assert step == 2
    assert line.startswith("the checkpoint of step 3 is damaged (state/")
    assert line.endswith(f"moved to {folder}/damaged/3")
    same(saved.restore(state_of(0), step)[0], state_of(2))
    saved.save(3, state_of(3), {"next_step": 3})  # its place is free again
    saved.wait()
    assert saved.newest_whole() == (3, [])
    same(saved.restore(state_of(0))[0], state_of(3))
    saved.close()
    assert (folder / "damaged" / "3" / "state").is_dir()


def test_when_all_are_damaged_none_is_moved(folder):
    for step in (2, 3):
        flip(files_of(folder, step)[0])
    saved = checkpoint.Checkpoints(folder, method="toy")
    with pytest.raises(UserError, match=r"Every checkpoint in .* is damaged:\n  step 3: about/"):
        saved.newest_whole()
    saved.close()
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["2", "3"]
    assert not (folder / "damaged").exists()


def test_a_checkpoint_without_checksums_counts_as_damaged(folder):
    """An interrupted copy: everything is there but what is copied last."""
    (folder / "checkpoints" / "3" / checksums.SUMS).unlink()
    saved = checkpoint.Checkpoints(folder, method="toy")
    with pytest.raises(UserError, match="3 is damaged: it has no SHA256SUMS"):
        saved.restore(state_of(0))
    step, (line,) = saved.newest_whole()
    assert step == 2 and "it has no SHA256SUMS" in line
    same(saved.restore(state_of(0), step)[0], state_of(2))
    saved.close()


def test_the_suggested_command_writes_missing_checksums(folder):
    for step in (2, 3):
        (folder / "checkpoints" / str(step) / checksums.SUMS).unlink()
    saved = checkpoint.Checkpoints(folder, method="toy")
    with pytest.raises(UserError, match="Every checkpoint in .* is damaged") as error:
        saved.newest_whole()
    command = str(error.value).rpartition("write the checksums in its folder: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=folder / "checkpoints" / "3")
    assert saved.newest_whole() == (3, [])
    saved.close()


@pytest.mark.parametrize("below", ["", "state/d"])
def test_an_empty_checkpoint_is_skipped_with_a_warning(folder, below, capsys):
    (folder / "checkpoints" / "11" / below).mkdir(parents=True)
    saved = checkpoint.Checkpoints(folder, method="toy", read_only=True)
    same(saved.restore(state_of(0))[0], state_of(3))
    assert "checkpoints/11 is an empty folder: skipped" in capsys.readouterr().out
    saved.close()
    saved = checkpoint.Checkpoints(folder, method="toy")
    step, (line,) = saved.newest_whole()
    assert step == 3 and line.startswith("the checkpoint of step 11 is damaged (it is an empty fol")
    saved.save(11, state_of(11), {"next_step": 11})  # its step is free
    saved.wait()
    assert saved.newest_whole() == (11, [])
    saved.close()


def test_only_empty_folders_are_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / "11").mkdir(parents=True)
    saved = checkpoint.Checkpoints(tmp_path, method="toy")
    step, (line,) = saved.newest_whole()
    assert step is None and "step 11" in line
    saved.close()
