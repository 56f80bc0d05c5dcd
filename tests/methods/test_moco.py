"""MoCo v1 and v2: the order of a step, the shuffle, and what its absence does."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, start, tiles

from jssl import config as config_lib
from jssl import optim
from jssl.errors import UserError
from jssl.methods import moco
from jssl.run import batches, build

N, K, D = 16, 64, 24


def tiny(**updates):
    """One block of 8 channels, crops and flips, 4 groups of 4."""
    config = small_config("moco")
    config.model.update({"name": "resnet8", "stage_sizes": (1,), "width": 0.125})
    config.augment.name = "crop_flip"
    config.augment.options.views = 2
    config.moco.update({"proj_dim": D, "ema_momentum": 0.5, "queue_size": K})
    config.optim.warmup_epochs = 0.0
    with config.ignore_type():
        for path, value in updates.items():
            section, _, key = path.rpartition("__")
            (config[section] if section else config)[key] = value
    return config


def host(state):
    """The state in numpy: a step donates the arrays themselves."""
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


def course(config, steps=6):
    """States before and after each step, metrics, and the compiled step as text."""
    launcher, _, state, step = start(config, "jit")
    compiled = step.lower(state, launcher.put_batch(tiles(N)), np.int32(0)).compile()
    states, history = [host(state)], []
    for i in range(steps):
        state, metrics = compiled(state, launcher.put_batch(tiles(N, 31 * i)), np.int32(i))
        states.append(host(state))
        history.append({k: float(v) for k, v in metrics.items()})
    return states, history, compiled.as_text()


@pytest.fixture(scope="module")
def trained():
    config = tiny()
    return config, *course(config)


def pair(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


# The order of a step ------------------------------------------------------------------------------


def test_the_key_net_follows_the_parameters_of_before_the_step(trained):
    """m = 0.5: an average of equals is bit-equal, so step 0 leaves the copy as it was."""
    _, states, _, _ = trained
    first = states[0]
    for a, b in zip(pair(first.target), pair(first.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(pair(states[1].target), pair(first.params), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = 0.0
    for a, before, new in zip(
        pair(states[2].target), pair(states[1].target), pair(states[1].params), strict=True
    ):
        np.testing.assert_allclose(a, 0.5 * before + 0.5 * new, rtol=1e-6, atol=1e-8)
        moved = max(moved, float(np.abs(a - before).max()))
    assert moved > 1e-4


def by_hand(config, state, new, images):
    """The step in its own words: eager, unshuffled by a loop. Returns loss, top1, keys, stats."""
    net = moco.make_net(config, None)
    method, _ = build.make_method(config, axis_name=None)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    view_key, order_key = jax.random.split(key)
    x_q, x_k = jax.jit(method.views)(view_key, images, jnp.int32(0))
    forward = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))
    (q, _, _), q_stats = forward({"params": state.params, "batch_stats": state.batch_stats}, x_q)
    order = np.asarray(jax.random.permutation(order_key, N))
    (mixed, _, _), k_stats = forward(
        {"params": new.target, "batch_stats": state.target_batch_stats}, x_k[order]
    )
    keys = np.empty((N, D))
    for place, example in enumerate(order):
        keys[example] = np.asarray(mixed[place], np.float64)
    q = np.asarray(q, np.float64)
    q, keys = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (q, keys))
    losses, hits = [], []
    for i in range(N):
        logits = np.array([q[i] @ keys[i], *(state.queue @ q[i])]) / config.moco.temperature
        losses.append(np.log(np.exp(logits).sum()) - logits[0])
        hits.append(logits[0] > logits[1:].max())
    return np.mean(losses), np.mean(hits), keys, q_stats, k_stats


@pytest.mark.parametrize("at", [0, 5])
def test_a_step_by_hand(trained, at):
    """Negatives are the queue of BEFORE the step, the positive is the un-shuffled own key, the
    keys are written in the batch's order, and each net keeps running statistics of its own."""
    config, states, history, _ = trained
    state, new = states[at], states[at + 1]
    loss, top1, keys, q_stats, k_stats = by_hand(config, state, new, tiles(N, 31 * at)["image"])
    np.testing.assert_allclose(history[at]["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(history[at]["contrastive_top1"], top1)
    rows = np.arange(N) + N * at % K
    np.testing.assert_allclose(new.queue[rows], keys, atol=1e-5)
    for found, expected in (
        (new.batch_stats, q_stats["batch_stats"]),
        (new.target_batch_stats, k_stats["batch_stats"]),
    ):
        for a, b in zip(pair(found), pair(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    apart = [
        np.abs(a - b).max()
        for a, b in zip(pair(new.batch_stats), pair(new.target_batch_stats), strict=True)
    ]
    assert max(apart) > 1e-3


def test_the_queue_goes_round(trained):
    _, states, _, _ = trained
    assert [int(s.queue_pointer) for s in states] == [0, 16, 32, 48, 0, 16, 32]
    written = [states[i + 1].queue[np.arange(N) + N * (i % 4)] for i in range(6)]
    np.testing.assert_array_equal(states[4].queue, np.concatenate(written[:4]))
    np.testing.assert_array_equal(
        states[6].queue, np.concatenate([written[i] for i in (4, 5, 2, 3)])
    )
    assert not np.isclose(written[4], written[0]).all()


def test_no_gradient_reaches_key_net_and_queue(trained):
    config, states, _, _ = trained
    method, _ = build.make_method(config, axis_name=None)
    state = states[5].replace(key=jax.random.wrap_key_data(states[5].key))

    def loss(target, queue, params):
        moved = state.replace(target=target, queue=queue, params=params)
        return method.train_step(moved, tiles(N))[1]["loss"]

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(state.target, state.queue, state.params)
    assert all(not np.any(g) for g in pair(grads[:2]))
    assert max(float(np.abs(g).max()) for g in pair(grads[2])) > 1e-3


# The shuffle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["jit", "vmap", "pmap"])
def test_unshuffle_is_the_inverse_on_any_number_of_devices(mode):
    x = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    order = np.random.default_rng(0).permutation(16)

    def there_and_back(x, axis_name):
        mixed = moco.shuffle(x, jnp.asarray(order), axis_name)
        return mixed, moco.unshuffle(mixed, jnp.asarray(order), axis_name)

    if mode == "jit":
        mixed, back = jax.jit(lambda x: there_and_back(x, None))(x)
    else:
        spread = jax.vmap if mode == "vmap" else jax.pmap
        f = spread(lambda x: there_and_back(x, "d"), axis_name="d", out_axes=(0, None))
        mixed, back = f(x.reshape(4, 4, 3))
    np.testing.assert_array_equal(mixed.reshape(16, 3), x[order])
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("shuffled", [True, False])
def test_only_the_shuffle_parts_the_statistics_of_queries_and_keys(shuffled):
    """Two equal views and two equal nets: a key differs from its query by its group's alone."""
    config = tiny(moco__shuffle=shuffled)
    config.augment.name = "none"
    launcher, method, state, step = start(config, "jit")
    before = host(state)
    batch = tiles(N)
    after, _ = step(state, launcher.put_batch(batch), np.int32(0))
    view_key, order_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    x = jax.jit(method.views)(view_key, batch["image"], jnp.int32(0))[0]
    net = moco.make_net(config, None)
    variables = {"params": before.params, "batch_stats": before.batch_stats}
    (q, _, _), _ = jax.jit(lambda x: net.apply(variables, x, train=True, mutable=["batch_stats"]))(
        x
    )
    q = np.asarray(q / jnp.linalg.norm(q, axis=1, keepdims=True))
    similarity = np.sum(q * np.asarray(after.queue)[:N], axis=1)
    order = jax.random.permutation(order_key, N) if shuffled else np.arange(N)
    means = [v.reshape(4, -1, 3).mean(axis=1) for v in (x, np.asarray(x)[order])]
    if shuffled:
        assert similarity.min() < 0.99
        assert np.abs(means[0] - means[1]).min() > 1e-3
    else:
        np.testing.assert_allclose(similarity, 1.0, atol=1e-5)
        np.testing.assert_allclose(*means, atol=1e-4)  # compiled and not


def test_without_the_shuffle_the_pretext_accuracy_cheats():
    """Groups of two: a query knows its key by the one neighbour whose statistics both carry.

    As in the paper's figure of appendix A.9, the pretext task is solved far better by that than
    by looking at the picture; the nets, data and draws of both runs are the same.
    """

    def late_accuracy(shuffled):
        config = tiny(moco__shuffle=shuffled, moco__ema_momentum=0.9, moco__queue_size=256)
        config.model.update({"bn_groups": 8, "width": 0.25})
        config.optim.lr = 3e-3
        launcher, _, state, step = start(config, "jit", steps=200)
        found = []
        for i in range(60):
            state, metrics = step(state, launcher.put_batch(tiles(N, 31 * i)), np.int32(i))
            found.append(float(metrics["contrastive_top1"]))
        return np.mean(found[-30:])

    honest, cheating = late_accuracy(True), late_accuracy(False)
    assert honest > 0.1  # chance is 1/257
    assert cheating > 2 * honest


# Numbers ------------------------------------------------------------------------------------------


def test_bfloat16_compute_keeps_the_key_net_moving():
    """With m = 0.999 a key net kept in bfloat16 would stand still."""
    config = tiny(dtype="bfloat16", moco__ema_momentum=0.999)
    states, _, _ = course(config, steps=3)
    last = states[-1]
    floats = pair((last.target, last.target_batch_stats, last.queue, last.params))
    assert {x.dtype for x in floats} == {np.dtype("float32")}
    moved = still_in_bfloat16 = total = 0
    for a, b in zip(pair(last.target), pair(states[0].target), strict=True):
        moved += np.sum(a != b)
        still_in_bfloat16 += np.sum(a.astype(jnp.bfloat16) == b.astype(jnp.bfloat16))
        total += a.size
    assert moved > 0.9 * total
    assert still_in_bfloat16 > 0.9 * total


def in_place(text, shape):
    """Whether nothing in a compiled step makes an array of this shape but one write into rows."""
    made = re.findall(rf"= {re.escape(shape)}\S* ([\w-]+)\(", text)
    aliases = ("parameter", "bitcast", "get-tuple-element")
    made = sorted(operation for operation in made if operation not in aliases)
    return made in (["dynamic-update-slice"], ["dynamic-update-slice", "fusion"])


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_the_queue_is_written_in_place(trained, mode):
    """The compiled step, behind the guard, holds no copy of the queue and no second one."""
    config, _, _, text = trained
    if mode == "pmap":
        launcher, _, state, step = start(config, mode)
        text = step.lower(state, launcher.put_batch(tiles(N)), np.int32(0)).compile().as_text()
    assert in_place(text, f"f32[{K},{D}]")


def test_the_look_at_the_text_is_able_to_fail():
    """A choice between two whole queues that XLA cannot move into the rows: both are made."""

    def careless(queue, keys, ok):
        new = jax.lax.dynamic_update_slice(queue, keys, (0, 0))
        return jnp.where(ok, new, queue), jnp.sum(queue @ new.T)

    shapes = jax.ShapeDtypeStruct((K, D), jnp.float32), jax.ShapeDtypeStruct((N, D), jnp.float32)
    lowered = jax.jit(careless, donate_argnums=0).lower(*shapes, jax.ShapeDtypeStruct((), bool))
    assert not in_place(lowered.compile().as_text(), f"f32[{K},{D}]")


# What cannot work is refused ----------------------------------------------------------------------


def test_a_queue_that_the_batch_does_not_divide_is_refused_before_compiling(monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *a, **k: pytest.fail("compiled"))
    with pytest.raises(UserError, match="queue_size=992 or --config.moco.queue_size=1008"):
        build.build(tiny(moco__queue_size=1000))


def test_groups_that_cannot_shuffle_are_refused():
    with pytest.raises(UserError, match="16 cannot be split into 3 groups.*bn_groups=2"):
        build.make_method(tiny(model__bn_groups=3), axis_name=None)
    with pytest.raises(UserError, match="model.bn_groups is 1.*bn_groups=8, or --config.moco.shuf"):
        build.make_method(tiny(model__bn_groups=1), axis_name=None)
    build.make_method(tiny(model__bn_groups=1, moco__shuffle=False), axis_name=None)
    build.make_method(tiny(model__bn_groups=1, model__norm="ln"), axis_name=None)
    with pytest.raises(UserError, match="moco.head expects .*found 'mpl' .did you mean 'mlp'"):
        build.make_method(tiny(moco__head="mpl"), axis_name=None)


# The papers' settings -----------------------------------------------------------------------------


def abstract_params(config):
    method, _ = build.make_method(config, axis_name=None)
    return jax.eval_shape(lambda: build.first_state(config, method, 8)).params


def test_v1_has_a_linear_head_and_v2_a_perceptron_without_normalisation():
    heads = {}
    for preset in ("v1", "v2"):
        config = get_config("moco_imagenet", f"preset={preset},depth=18")
        config.augment.size = 32
        config.run.update(
            {"num_examples": 1_281_167, "steps_per_epoch": 5000, "total_steps": 1_000_000}
        )
        projector = abstract_params(config)["projector"]
        heads[preset] = {f"{m}/{k}": v.shape for m, p in projector.items() for k, v in p.items()}
    assert heads["v1"] == {"dense0/kernel": (512, 128), "dense0/bias": (128,)}
    assert heads["v2"] == {
        "dense0/kernel": (512, 512),
        "dense0/bias": (512,),
        "dense1/kernel": (512, 128),
        "dense1/bias": (128,),
    }


def test_the_numbers_of_the_papers():
    v1, v2, cifar = (config_lib.base("moco", preset=p) for p in ("v1", "v2", "cifar"))
    for c in (v1, v2):
        assert (c.batch_size, c.epochs, c.model.bn_groups) == (256, 200.0, 8)
        assert (c.moco.queue_size, c.moco.ema_momentum, c.moco.proj_dim) == (65536, 0.999, 128)
        assert (c.optim.name, c.optim.lr, c.optim.momentum) == ("sgd", 0.03, 0.9)
        assert (c.optim.weight_decay, c.optim.warmup_epochs) == (1e-4, 0.0)
    assert (v1.moco.temperature, v1.moco.head, v1.augment.name) == (0.07, "linear", "moco_v1")
    assert (v1.optim.schedule, tuple(v1.optim.boundaries)) == ("step", (120, 160))
    assert (v2.moco.temperature, v2.moco.head, v2.augment.name) == (0.2, "mlp", "moco_v2")
    assert v2.optim.schedule == "cosine"
    assert (cifar.batch_size, cifar.optim.lr, cifar.optim.lr_scaling) == (512, 0.06, "none")
    assert (cifar.moco.queue_size, cifar.moco.ema_momentum) == (4096, 0.99)
    assert (cifar.moco.temperature, cifar.moco.head) == (0.1, "linear")
    assert (cifar.optim.weight_decay, cifar.model.bn_groups) == (5e-4, 8)


@pytest.mark.parametrize("preset", ["v1", "v2", "cifar"])
def test_weight_decay_takes_everything(preset):
    config = config_lib.base("moco", preset=preset)
    config.model.update({"name": "resnet10", "width": 0.125})
    config.augment.size = 32
    config.run.update({"num_examples": 1_281_167, "steps_per_epoch": 10, "total_steps": 10_000})
    groups = optim.groups(abstract_params(config), rules=config.optim.rules)
    assert set(groups.values()) == {"decay+adapt"}
    assert any(name.endswith("bn0/bias") for name in groups)


def test_crops_on_the_host_have_the_recipes_area():
    """ImageNet's JPEGs are cut by the host: MoCo's smallest area is a fifth, not SimCLR's 8 %."""
    for preset in ("v1", "v2", "v3"):
        config = get_config("moco_imagenet", f"preset={preset}")
        crop = batches.host_transform(types.SimpleNamespace(config=config, train_source=None))
        assert (crop.sampler, crop.area) == ("torchvision", (0.2, 1.0))
        assert crop.ratio == (3 / 4, 4 / 3)
