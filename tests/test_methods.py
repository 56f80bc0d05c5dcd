"""One table: every method has every property. A new method is picked up by its file."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_state, batch_of, shallow_config, start, tiles

from jssl import methods
from jssl.dense.roi import roi_align
from jssl.models import fast_rcnn
from jssl.models.heads import Projector
from jssl.run import build, checkpoint

METHODS = methods.names()
STEPS = 3
# The methods of every run of the tests; `pytest -m proof` has the others. A ViT, a bank, centroids,
# a queue, and none of these; then a ViT, a target network, centroids, a dVAE, a detector, a queue,
# and an EfficientNet with its teacher.
UNDER_FSDP = ("beit", "cmc", "deepcluster", "moco", "simclr")
IN_BFLOAT16 = ("beit", "byol", "deepcluster", "dvae", "faster_rcnn", "moco", "noisy_student")
# `jax.pmap` is itself a jitted `shard_map` of the same step, and `vmap:4` is that step with the
# collectives of one device: these modes are tested where leaves of a state are split, and where it
# has a queue or a target network.
SPLIT = [m for m in METHODS if hasattr(methods.get(m).state, "SPLIT")] + ["byol", "moco"]


def leaves(state):
    return {k: np.asarray(v) for k, v in checkpoint.flat_leaves(state).items()}


def run(begun, config, steps, batch=None):
    """The state after some steps and their metrics; only the first step may compile."""
    launcher, _, state, step = begun
    history, compiled, counts = [], [], []

    def listener(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        for i in range(steps):
            first = 0 if batch == "fixed" else 31 * i
            data = launcher.put_batch(batch_of(config, config.batch_size, start=first))
            before = len(compiled)
            state, metrics = step(state, data, np.int32(i))
            counts.append(len(compiled) - before)
            history.append({k: float(v) for k, v in metrics.items()})
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert counts[0] >= 1 and not any(counts[1:])
    return state, history


def copied(state):
    """Stepping donates its state: a copy is stepped, what others need is kept."""
    return jax.tree.map(lambda x: x.copy(), state)


@pytest.fixture(scope="module")
def smooth():
    """Nets whose activation and pooling have a derivative everywhere.

    Where a unit lies within rounding of zero, the derivative of a ReLU jumps, and two equal
    computations in another order give gradients that differ by a finite amount. So does that of a
    maximum of two values that are equal within rounding.
    """

    def pooled(features, boxes, *, output, scale):
        return roi_align(features, boxes, output=output, scale=scale, ratio=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "relu", nn.silu)
        patch.setattr(nn, "max_pool", nn.avg_pool)
        patch.setattr(fast_rcnn, "roi_max_pool", pooled)
        yield


class Begun(NamedTuple):
    launcher: Any
    method: Any
    state: Any
    step: Any


class Trained(NamedTuple):
    method: str
    config: Any
    begun: Begun  # from `start`; its step is compiled once for two tests
    state: Any
    history: list


@pytest.fixture(scope="module", params=METHODS)
def trained(request, smooth):
    return train_by_plain_jit(request.param)


def train_by_plain_jit(method):
    """Some steps under plain jit, the reference of the other modes."""
    config = shallow_config(method)
    begun = Begun(*start(config, "jit"))
    kept = begun._replace(state=copied(begun.state))
    return Trained(method, config, kept, *run(begun, config, STEPS))


def first_state(trained):
    """A copy of the first state; none if a pass over the data has to follow in its own mode."""
    return None if trained.begun.method.refresh else copied(trained.begun.state)


def for_proofs(few):
    """Every method, of which all but a few are left to `pytest -m proof`."""
    return pytest.mark.parametrize(
        "trained",
        [name if name in few else pytest.param(name, marks=pytest.mark.proof) for name in METHODS],
        indirect=True,
        scope="module",
    )


def test_pmap_gives_the_state_of_plain_jit(trained):
    same_as_plain_jit(trained, "pmap")


@for_proofs(UNDER_FSDP)
def test_fsdp_gives_the_state_of_plain_jit(trained):
    same_as_plain_jit(trained, "fsdp")


@pytest.mark.proof
@pytest.mark.parametrize("method", SPLIT)
def test_the_other_modes_give_the_state_of_plain_jit(method, smooth):
    trained = train_by_plain_jit(method)
    for mode in ("shard_map", "vmap:4"):
        same_as_plain_jit(trained, mode)


def same_as_plain_jit(trained, mode):
    begun = start(trained.config, mode, state=first_state(trained))
    state, other = run(begun, trained.config, STEPS)
    for a, b in zip(trained.history, other, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5)
    assert_same_state(leaves(state), leaves(trained.state))


def test_a_step_keeps_structure_shapes_and_dtypes(trained):
    method, config, _, state, _ = trained
    made, _ = build.make_method(config, axis_name=None)
    abstract = jax.eval_shape(lambda: build.first_state(config, made, config.batch_size))
    assert checkpoint.describe(abstract) == checkpoint.describe(state)
    chex.assert_tree_all_finite((state.params, state.batch_stats))
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    assert isinstance(state, methods.get(method).state)


# CPC's loss begins on a plateau, where all patches look alike: hundreds of steps of SGD, or some of
# Adam when nothing is augmented. MoCo's queue fills with keys of the very pictures: told apart they
# can be only while they look the same each time and the queue is as long as the batch.
PLAIN = {"scale": (1.0, 1.0), "flip_p": 0.0}
FIXED_BATCH = {
    "cpc": {
        "optim": {"name": "adamw", "lr": 0.005},
        "augment": {"options": PLAIN},
        "cpc": {"drop_p": 0.0, "operations": 0, "warp_p": 0.0, "jitter_p": 0.0, "gray_p": 0.0},
    },
    "moco": {
        "augment": {"options": {**PLAIN, "ratio": (1.0, 1.0), "jitter_p": 0.0, "gray_p": 0.0}},
        "moco": {"queue_size": 16, "ema_momentum": 0.9},
    },
    # Its gradient is that of a mean over pixel values, and its decoder begins near a constant.
    "dvae": {"optim": {"name": "adamw", "lr": 0.01}},
}
STEPS_ON_IT = {"cpc": 40}
# Biases before a batch normalisation that the official network has too, and the first convolution,
# which py-faster-rcnn does not train.
WITHOUT_GRADIENT = {
    "byol": ["predictor.dense0.bias", "projector.dense0.bias"],
    "fast_rcnn": [f"encoder.{x}" for x in ("bn1.bias", "bn1.scale", "conv1.bias", "conv1.kernel")],
}


def still(first, last):
    """The parameters that no step has moved, or by rounding alone: {name: array} -> names.

    Rounding moves one by at most 4e-8 of the largest move of all (byol's), a gradient by at least
    5e-6 of it (beit's q_bias).
    """
    moves = {k: np.max(np.abs(last[k] - first[k]), initial=0.0) for k in first}
    return sorted(k for k, move in moves.items() if move <= 4e-7 * max(moves.values()))


def test_a_bias_before_batch_normalisation_is_seen_as_still():
    """Its gradient is not zero but rounding: equality with the first value would not show it."""
    net = Projector((8,), out_dim=4, use_bias=True, last_bn="none", axis_name=None)
    x, y = np.random.default_rng(0).normal(size=(2, 16, 4)).astype(np.float32)
    first = net.init(jax.random.key(0), x, True)["params"]

    def loss(params):
        variables = {"params": params, "batch_stats": {}}
        z, _ = net.apply(variables, x, True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(z - y))

    params, step = first, jax.jit(jax.grad(loss))
    for _ in range(5):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, step(params))
    assert still(leaves(first), leaves(params)) == ["dense0.bias"]


def test_the_loss_falls_on_a_fixed_batch_and_every_parameter_moves(trained):
    name = trained.method
    config = shallow_config(name)
    config.optim.update({"name": "sgd", "lr": 0.05, "lr_scaling": "none", "warmup_epochs": 0.0})
    config.update(FIXED_BATCH.get(name, {}))
    begun = Begun(*start(config, "jit"))
    first_params = leaves(begun.state.params)
    state, history = run(begun, config, STEPS_ON_IT.get(name, 25), batch="fixed")
    last_params = leaves(state.params)
    unmoved = still(first_params, last_params)
    assert unmoved == WITHOUT_GRADIENT.get(name, []), (
        f"parameters that do not move: {', '.join(unmoved)}. A bias before a batch normalisation "
        "has no gradient, or rounding alone: leave it out."
    )
    # A queue starts as noise, which is easily told apart: the loss is looked at when keys fill it.
    filled = len(state.queue) // config.batch_size if hasattr(state, "queue") else 0
    first = np.mean([h["loss"] for h in history[filled : filled + 3]])
    last = np.mean([h["loss"] for h in history[-3:]])
    assert last < 0.9 * first


@for_proofs(IN_BFLOAT16)
def test_bfloat16_is_finite_and_keeps_float32_state(trained):
    config = trained.config.copy_and_resolve_references()
    config.dtype = "bfloat16"
    begun = start(config, "jit", state=first_state(trained))
    state, history = run(begun, config, 2)
    assert all(np.isfinite(v) for h in history for v in h.values())
    floats = [x for x in jax.tree.leaves(state.params) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    # 8 bits of mantissa
    np.testing.assert_allclose(history[0]["loss"], trained.history[0]["loss"], rtol=0.02)


def test_save_restore_gives_the_same_next_step(trained, tmp_path):
    saved = checkpoint.Checkpoints(tmp_path, method=trained.method)
    saved.save(STEPS, trained.state, {"next_step": STEPS})
    saved.close()
    launcher, _, blank, step = trained.begun
    again = checkpoint.Checkpoints(tmp_path, method=trained.method, read_only=True)
    restored, _ = again.restore(copied(blank))
    again.close()
    data = launcher.put_batch(batch_of(trained.config, trained.config.batch_size, 777))
    a, b = (step(s, data, np.int32(STEPS)) for s in (copied(trained.state), restored))
    for name, value in leaves(a[0]).items():
        np.testing.assert_array_equal(leaves(b[0])[name], value, err_msg=name)


def test_embed_is_a_function_of_one_image(trained):
    made, state = trained.begun.method, trained.state
    images = tiles(6)["image"]
    embed = jax.jit(made.embed)
    together, named = embed(state, images)
    assert together.dtype == jnp.float32
    for i in range(6):  # among others
        others = np.concatenate([tiles(6, start=50 + i)["image"][:i], images[i:]])[::-1]
        np.testing.assert_allclose(embed(state, others)[0][5 - i], together[i], atol=1e-5)
    assert all(len(value) == 6 for value in named.values())
    as_floats = embed(state, images.astype(np.float32) / 255)[0]
    np.testing.assert_allclose(together, as_floats, atol=1e-5)


def test_views_do_not_depend_on_how_the_batch_is_split(trained):
    images, key = tiles(8)["image"], jax.random.key(5)
    views = jax.jit(trained.begun.method.views)
    whole = views(key, images, jnp.int32(0))
    # Of the second half alone, padded: one shape is compiled.
    half = views(key, np.roll(images, -4, axis=0), jnp.int32(4))
    np.testing.assert_allclose(whole[:, 4:], half[:, :4], atol=1e-6)
    other = views(key, images, jnp.int32(1))[0, 0]
    # Pictures with boxes or masks are augmented on the host.
    dense = methods.get(trained.method).data.dense
    assert np.allclose(whole[0, 0], other, atol=1e-3) == bool(dense)
