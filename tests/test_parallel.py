"""Launch modes: what they refuse, and the guard that keeps the last good state."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config, start

from jssl.compile import devices as devices_lib
from jssl.compile import lengths
from jssl.compile import step as compile_lib
from jssl.errors import UserError
from jssl.parallel.collectives import pmean
from jssl.parallel.launcher import check_batch_size, make_launcher
from jssl.parallel.microbatches import accumulated_value_and_grad
from jssl.run import build, checkpoint
from jssl.types import TrainState

MODES = ["pmap", "shard_map", "fsdp", "jit", "vmap:4"]


def toy_state():
    return TrainState(jnp.int32(0), jax.random.key(3), {"w": jnp.ones(2)}, {}, ())


def toy_step(axis_name):
    def step(state, batch):
        mean = pmean(jnp.mean(batch["image"], axis=0), axis_name)
        new = state.replace(step=state.step + 1, params={"w": state.params["w"] + mean})
        return new, {"loss": jnp.sum(mean)}

    return step


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_steps_the_same_state(mode):
    launcher = make_launcher(mode)
    state = launcher.init(toy_state)
    step = launcher.compile_step(toy_step(launcher.axis_name))
    batch = {"image": np.arange(16, dtype=np.float32).reshape(8, 2)}
    for i in range(3):
        state, metrics = step(state, launcher.put_batch(batch), np.int32(i))
    np.testing.assert_allclose(state.params["w"], [1 + 3 * 7, 1 + 3 * 8])
    assert float(metrics["loss"]) == 15.0
    assert int(state.step) == 3
    assert state.params["w"].shape == (2,)


@pytest.mark.parametrize("mode", MODES)
def test_guard_keeps_the_state_and_refuses_every_later_step(mode):
    launcher = make_launcher(mode)
    state = launcher.init(toy_state)
    step = launcher.compile_step(toy_step(launcher.axis_name))
    good = {"image": np.ones((8, 2), np.float32)}
    bad = {"image": np.full((8, 2), np.nan, np.float32)}
    oks = []
    for i, batch in enumerate([good, bad, good]):  # the third is dispatched before the host knows
        state, metrics = step(state, launcher.put_batch(batch), np.int32(i))
        oks.append(bool(metrics["ok"]))
    assert oks == [True, False, False]
    assert int(state.step) == 1
    np.testing.assert_array_equal(state.params["w"], [2.0, 2.0])


def test_vmap_refuses_a_state_that_differs_between_replicas():
    launcher = make_launcher("vmap:4")
    state = launcher.init(toy_state)

    def forgets_to_average(state, batch):
        w = state.params["w"] + jnp.mean(batch["image"], axis=0)
        return state.replace(step=state.step + 1, params={"w": w}), {"loss": jnp.float32(0)}

    batch = launcher.put_batch({"image": np.ones((8, 2), np.float32)})
    with pytest.raises(ValueError, match="out_axes"):
        launcher.compile_step(forgets_to_average)(state, batch, np.int32(0))


@pytest.mark.parametrize("mode", MODES)
def test_embed_gives_every_row_once_also_when_devices_do_not_divide_it(mode):
    launcher = make_launcher(mode)
    embed = launcher.compile_embed(lambda state, x: (x * state.params["w"][0], {}))
    images = np.arange(7 * 2, dtype=np.float32).reshape(7, 2)
    features, _ = embed(launcher.init(toy_state), images)
    np.testing.assert_array_equal(features, images)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("pmpa", ["Unknown launch mode 'pmpa'", "did you mean 'pmap'"]),
        ("vmap:0", ["vmap:N", "positive"]),
        ("vmap:x", ["vmap:N", "positive"]),
    ],
)
def test_unknown_modes_are_refused(mode, words):
    with pytest.raises(UserError) as error:
        make_launcher(mode)
    assert all(word in str(error.value) for word in words)


def test_batch_that_the_devices_cannot_share_is_refused_with_what_to_type():
    launcher = make_launcher("vmap:6")
    check_batch_size(12, launcher)
    with pytest.raises(UserError) as error:
        check_batch_size(16, launcher)
    assert "Global batch size 16 cannot be split over 6 devices" in str(error.value)
    assert "--config.batch_size=12 or --config.batch_size=18" in str(error.value)


def test_under_fsdp_a_device_holds_its_part_and_checkpoints_fit_every_mode(tmp_path):
    """Parameters and optimiser state are split; a checkpoint goes to pmap and comes back."""
    config = small_config("byol")
    launcher, method, state, _ = start(config, "fsdp")
    whole = jax.eval_shape(lambda: build.first_state(config, method, config.batch_size))
    for field in ("params", "opt_state", "target"):
        leaves = jax.tree.leaves(getattr(state, field))
        held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
        total = sum(leaf.size for leaf in jax.tree.leaves(getattr(whole, field)))
        assert held < 0.3 * total, field
    saved = checkpoint.Checkpoints(tmp_path, method="byol")
    expected = jax.tree.map(np.asarray, checkpoint.flat_leaves(state))
    saved.save(1, state, {})
    saved.wait()
    for mode in ("pmap", "fsdp"):
        _, _, blank, _ = start(small_config("byol", seed=1), mode)
        restored, _ = saved.restore(blank)
        for name, leaf in checkpoint.flat_leaves(restored).items():
            np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
        for a, b in zip(*map(jax.tree.leaves, (restored, blank)), strict=True):
            assert a.sharding == b.sharding
    saved.close()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_under_fsdp_gradients_are_summed_before_they_are_split(accumulate):
    """Else a TPU's compiler moves activations of the batch: BEiT-L took 21 GiB in place of 14."""
    params = {"first": jnp.ones((64, 1024)), "second": jnp.ones((1024, 64))}

    def loss_fn(params, x, _):
        return jnp.mean((jnp.tanh(x @ params["first"]) @ params["second"]) ** 2), None

    def train_step(state, batch):
        (loss, _), grads = accumulated_value_and_grad(
            loss_fn, state.params, batch["image"], accumulate=accumulate, axis_name=None
        )
        new = jax.tree.map(lambda p, g: p - g, state.params, grads)
        return state.replace(step=state.step + 1, params=new), {"loss": loss}

    launcher = make_launcher("fsdp")
    state = TrainState(jnp.int32(0), jax.random.key(3), params, {}, ())
    state = launcher.init(lambda: state)
    batch = launcher.put_batch({"image": np.ones((32, 64), np.float32)})
    text = launcher.compile_step(train_step).lower(state, batch, np.int32(0)).as_text()
    for shape in ("64x1024", "1024x64"):
        constraint = rf"sharding_constraint %\S+ <@mesh, \[{{}}, {{}}\]> : tensor<{shape}xf32>"
        names = re.findall(rf"(%\S+) = sdy\.{constraint}", text)
        # The parameter at the start of the step, at the start of the loss, and its gradient.
        assert len(names) == 3, (shape, names)


def test_fsdp_shows_its_memory_before_the_run():
    """The arguments of a compiled step: a fourth of the large leaves, under pmap all of them."""
    topology, memory = devices_lib.prepare("cpu:4"), {}
    for mode in ("pmap", "fsdp"):
        config = small_config("byol", launch=mode)
        lengths.set_lengths(config, 0)
        memory[mode] = compile_lib.compile_step(
            config, topology, devices_lib.open_devices(topology)
        ).memory
    assert memory["fsdp"]["arguments"] < 0.35 * memory["pmap"]["arguments"]
    assert memory["fsdp"]["alias"] > 0.9 * memory["fsdp"]["outputs"]  # updated in place
