"""What several test files need: the small config of a method, and batches of real tiles."""

import contextlib
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jssl import methods
from jssl.data import dense_batch, make_dense_source
from jssl.data.photos import load
from jssl.data.tfds_source import make_builder
from jssl.parallel.launcher import make_launcher, placed
from jssl.run import build, checkpoint, config_file, init_from, workdir
from jssl.run.dense import transform_of

ROOT = Path(__file__).parents[1]
SWEPT = (0, 31, 62, 93, 124, 777)  # where the batches of tiles start that the tests of methods use


def get_config(name, arg=""):
    """The config of configs/NAME.py:arg."""
    return config_file.load(f"{ROOT / 'configs' / name}.py:{arg}")


def small_config(method, **updates):
    """The method's `photos` smoke config: every method has one."""
    paper = ",jitter=paper" if method == "simclr" else ""
    config = get_config(f"{method}_photos", f"smoke{paper}")
    config.update(updates)
    config.run.update({"num_examples": 4096, "steps_per_epoch": 100, "total_steps": 100})
    if "num_classes" in config[method]:
        config[method].num_classes = 16
    return config


def shallow_config(method, **updates):
    """The small config with one group of blocks where two are not needed: it compiles faster."""
    config = small_config(method, **updates)
    if config.model.name.startswith("resnet") and not methods.get(method).data.dense:
        config.model.stage_sizes = (1,)
    return config


def assert_same_state(found, expected):
    """Leaves equal within 1e-5, or that share of their largest value if above 1 (momenta)."""
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        error = 1e-5 * max(1.0, float(np.max(np.abs(leaf), initial=0.0)))
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=error, err_msg=name)


class Noisy:
    """A transform that draws: the image becomes noise of the example's own generator.

    It stands here and not in a test, because a worker process imports it by name.
    """

    def __call__(self, example, rng):
        return {**example, "image": rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)}


def batch_of(config, count, start=0):
    """The arrays that a method's step takes: `tiles`, or cut-outs with boxes or masks."""
    kind = methods.get(config.method).data.dense
    if not kind:
        return tiles(count, start)
    source = make_dense_source(config.data, "train", kind)
    rows = [(start + 7 * i) % len(source) for i in range(count)]
    return dense_batch(source, rows, transform_of(config, train=True), seed=start)


def tiles(count, start=0):
    """A batch of `count` tiles of different photographs.

    For methods that learn from unlabelled images too it has two of them for each, with what a
    teacher that is nearly sure might say of them.
    """
    images, labels = load("train", 32)
    rows = (np.arange(count) * 397 + start) % len(images)
    others = ((np.arange(2 * count) * 401 + start + 7) % len(images)).reshape(count, 2)
    probs = 0.9 * np.eye(16, dtype=np.float32)[labels[others]] + np.float32(0.1 / 16)
    return {
        "image": images[rows],
        "label": labels[rows],
        "index": rows.astype(np.int32),
        "unlabeled_image": images[others],
        "unlabeled_probs": probs,
    }


def valid(batch):
    """A batch of examples as a pass over the data set gives it to `Method.refresh`."""
    return {**batch, "valid": np.ones(len(batch["index"]), bool)}


def start(config, mode, *, steps=100, state=None):
    """Launcher, method, first state and compiled step of a config in a launch mode.

    A method that refreshes has done so once, on the tiles of `SWEPT`. To compile the first state
    takes a third of the time of the step: one that another mode has made may be given.
    """
    launcher = make_launcher(mode)
    config.run.update({"num_examples": 4096, "steps_per_epoch": steps, "total_steps": steps})
    method, _ = build.make_method(config, axis_name=launcher.axis_name)
    size = config.batch_size // launcher.size
    if state is None:
        state = launcher.init(lambda: build.first_state(config, method, size))
    else:
        state = placed(launcher, state)
    if method.refresh is not None:
        sweep = [tiles(config.batch_size, first) for first in SWEPT]
        state, _ = method.refresh(state, lambda: map(launcher.split, map(valid, sweep)))
        state = placed(launcher, state)
    return launcher, method, state, launcher.compile_step(method.train_step)


def stored_run(config, folder, images=None):
    """The workdir of a run that was never trained: its first state with noise, as checkpoint 1.

    Args:
        config: of the run.
        folder: the workdir.
        images: uint8 [B,H,W,3]; of these the classifier's logits have mean 0, so that what it says
            differs from one to another.
    """
    parts = build.build(config)
    state, rng = build.init_state(parts), np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + np.float32(0.3) * rng.normal(size=x.shape), state.params)
    state = state.replace(params=jax.tree.map(lambda x: x.astype(np.float32), params))
    if images is not None:
        mean = np.asarray(jax.jit(parts.method.embed)(state, images)[1]["logits"]).mean(axis=0)
        params = jax.tree.map(lambda x: x - mean if x.shape == mean.shape else x, state.params)
        state = state.replace(params=params)
    saved = checkpoint.Checkpoints(workdir.open_workdir(folder, config), method=config.method)
    with contextlib.closing(saved):
        saved.save(1, state, {})
        saved.wait()


def filled(shapes, start):
    """A state or tree of such shapes, every number another."""
    shapes, structure = jax.tree.flatten(shapes)
    leaves = [
        jax.random.key(0)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else jnp.asarray(start + n + np.arange(x.size).reshape(x.shape) / 7, x.dtype)
        for n, x in enumerate(shapes)
    ]
    return jax.tree.unflatten(structure, leaves)


def made_up(config, start):
    """A first state of a config whose numbers are made up: nothing is compiled."""
    method, _ = build.make_method(config, axis_name=None)
    size = config.batch_size
    return filled(jax.eval_shape(lambda: build.first_state(config, method, size)), start)


def made_up_run(config, folder, start=1000.0, *, steps=(0,), classes=None):
    """The workdir of a run with made-up checkpoints; returns the state of the last."""
    workdir.open_workdir(folder, config, classes=classes)
    saved = checkpoint.Checkpoints(folder, method=config.method, keep=-1)
    with contextlib.closing(saved):
        for step in steps:
            state = made_up(config, start + step)
            saved.save(step, state, {"next_step": step})
    return state


def begun(config, folder, state=None):
    """The first state of a run with `init_from`, as `jssl.run.train` makes it."""
    parts = build.build(config)
    source = init_from.read(parts, folder)
    folder.mkdir(exist_ok=True)
    state = build.init_state(parts) if state is None else state
    return init_from.put(parts, source, state, folder)


def write_tfds(name, folder, splits):
    """Really prepares a data set of TFDS's own builder from examples that stand in for its own.

    Args:
        name: of the data set.
        folder: where to.
        splits: {split: examples}, of which only the features of the builder are kept.
    """
    builder = make_builder(name, str(folder))
    generators = {
        split: ((i, {k: x[k] for k in builder.info.features}) for i, x in enumerate(examples))
        for split, examples in splits.items()
    }
    with mock.patch.object(type(builder), "_split_generators", lambda *_, **__: generators):
        builder.download_and_prepare()


def three_steps(config):
    """Returns the metrics of three steps under plain jit, as the golden values have them."""
    launcher, _, state, step = start(config, "jit")
    rows = []
    for i in range(3):
        data = launcher.put_batch(batch_of(config, config.batch_size, start=31 * i))
        state, metrics = step(state, data, np.int32(i))
        rows.append({k: float(v) for k, v in sorted(metrics.items())})
    return rows
