"""DeepCluster v2: banks of the last epoch, frozen prototypes, crops of two sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, tiles, valid

from jssl import augment
from jssl import config as config_lib
from jssl.errors import UserError
from jssl.methods import deepcluster_v2
from jssl.parallel.launcher import make_launcher
from jssl.run import build, checkpoint

M, N, CLUSTERS, D = 52, 16, (5, 4, 6), 8  # three batches an epoch, four examples left out


def tiny(**updates):
    config = small_config("deepcluster_v2")
    config.deepcluster_v2.update({"num_clusters": CLUSTERS, "kmeans_iterations": 3})
    config.augment.name, config.augment.options.views = "crop_flip", 2
    config.augment.size, config.deepcluster_v2.small_size = 16, 8
    config.optim.update({"name": "sgd", "lr": 0.05, "warmup_epochs": 0.0})
    config.run.update({"num_examples": M, "steps_per_epoch": 3, "total_steps": 30})
    with config.ignore_type():
        for path, value in updates.items():
            section, _, key = path.rpartition("__")
            (config[section] if section else config)[key] = value
    return config


def examples(index):
    batch = tiles(M)
    return {"image": batch["image"][index, :16, :16], "label": batch["label"][index],
            "index": np.asarray(index, np.int32)}  # fmt: skip


def sweep():
    for start in range(0, M, N):
        index = np.arange(start, min(start + N, M))
        batch = valid(examples(np.resize(index, N)))
        batch["valid"][len(index) :] = False
        yield batch


def leaves(tree):
    return {k: np.array(v) for k, v in checkpoint.flat_leaves(tree).items()}


def keep(state):
    return jax.tree.map(lambda x: x.copy(), state)


class Course:
    """Init, refresh, an epoch of three steps, refresh, a step."""

    def __init__(self):
        self.config = tiny()
        launcher = make_launcher("jit")
        self.method, _ = build.make_method(self.config, axis_name=None)
        step = launcher.compile_step(self.method.train_step)
        state = launcher.init(lambda: build.first_state(self.config, self.method, N))
        self.born = keep(state)
        state, self.first_report = self.method.refresh(state, sweep)
        self.first = keep(state)
        self.order = np.random.default_rng(0).permutation(M)
        self.states, self.metrics = [self.first], []
        for i in range(3):
            index = self.order[N * i : N * i + N]
            state, metrics = step(state, examples(index), np.int32(i))
            self.states.append(keep(state))
            self.metrics.append(metrics)
        state, self.second_report = self.method.refresh(state, sweep)
        self.second = keep(state)
        self.last = step(state, examples(self.order[:N]), np.int32(3))


@pytest.fixture(scope="module")
def course():
    return Course()


def forward(course, state, index, step):
    """Unit embeddings [V,N,D] of the crops of a step, by the parts that it is made of."""
    config = course.config
    net = deepcluster_v2.make_net(config, None)
    views, prepare = deepcluster_v2.input_functions(config)
    large_key, small_key = jax.random.split(jax.random.fold_in(state.key, step))
    small = augment.make_views("crop_flip", size=8, views=2, scale=(0.1, 0.4))
    images = examples(index)["image"]
    sizes = [
        jax.jit(views)(large_key, images, jnp.int32(0)),
        jax.jit(lambda k, x: augment.batch_views(small, k, x, jnp.int32(0)))(small_key, images),
    ]
    assert [x.shape for x in sizes] == [(2, N, 16, 16, 3), (2, N, 8, 8, 3)]
    params, stats = state.params, state.batch_stats

    @jax.jit
    def run(sizes):
        h, encoder_stats = [], stats["encoder"]
        for x in sizes:  # the encoder once for each size, with the statistics of its crops
            variables = {"params": params["encoder"], "batch_stats": encoder_stats}
            (features, _), new = net.encoder.apply(
                variables, prepare(x.reshape(-1, *x.shape[2:])), train=True, mutable=["batch_stats"]
            )
            encoder_stats = new["batch_stats"]
            h.append(features)
        variables = {"params": params["projector"], "batch_stats": stats["projector"]}
        z, _ = net.projector.apply(
            variables, jnp.concatenate(h), train=True, mutable=["batch_stats"]
        )  # over all crops at once
        return z.reshape(-1, N, D), encoder_stats

    z, encoder_stats = run(sizes)
    z = np.asarray(z, np.float64)
    return z / np.linalg.norm(z, axis=-1, keepdims=True), encoder_stats


@pytest.mark.parametrize("at", [0, 2])
def test_a_step_by_hand(course, at):
    """Loss over heads and all crops with the labels by index; the banks get the large crops."""
    before, after = course.states[at], course.states[at + 1]
    index = course.order[N * at : N * at + N]
    z, encoder_stats = forward(course, before, index, at)
    losses, hits = [], []
    for head, prototypes in enumerate(before.prototypes):
        y = np.asarray(before.assignments)[head, index]
        for crop in z:
            scores = (
                crop
                @ np.asarray(prototypes, np.float64).T
                / course.config.deepcluster_v2.temperature
            )
            own = scores[np.arange(N), y]
            losses.append(np.mean(np.log(np.exp(scores).sum(1)) - own))
            hits.append(np.mean(own == scores.max(1)))
    metrics = course.metrics[at]
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(metrics["cluster_top1"], np.mean(hits), rtol=1e-5)
    bank, old = np.asarray(after.bank), np.asarray(before.bank)
    np.testing.assert_allclose(bank[:, index], z[:2], atol=1e-4)
    others = np.setdiff1d(np.arange(M), index)
    np.testing.assert_array_equal(bank[:, others], old[:, others])
    np.testing.assert_array_equal(np.asarray(after.written)[index, 0], 0)
    np.testing.assert_array_equal(np.asarray(after.written)[index, 1], examples(index)["label"])
    found, expected = leaves(after.batch_stats["encoder"]), leaves(encoder_stats)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_prototypes_are_frozen_and_no_parameters(course):
    for state in course.states[1:]:
        for a, b in zip(state.prototypes, course.first.prototypes, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(state.assignments, course.first.assignments)
    assert [p.shape for p in course.first.prototypes] == [(k, D) for k in CLUSTERS]
    assert set(course.first.params) == {"encoder", "projector"}


def spherical(points, centroids, iterations):
    """Ten lines of numpy: nearest by the dot product, normalised means, empty ones stay."""
    for _ in range(iterations):
        labels = (points @ centroids.T).argmax(1)
        for k in range(len(centroids)):
            if (labels == k).any():
                mean = points[labels == k].mean(0)
                centroids[k] = mean / np.linalg.norm(mean)
    return (points @ centroids.T).argmax(1), centroids


def test_each_head_clusters_its_crops_bank_of_the_last_epoch(course):
    """Heads 0 and 2 the first large crop's, head 1 the second's; an example that the epoch left
    out has no cluster, and its stale rows move no prototype."""
    trained, second = course.states[-1], course.second
    bank = np.asarray(trained.bank, np.float64)
    present = np.sort(course.order[: 3 * N])
    for head, k in enumerate(CLUSTERS):
        found = np.asarray(second.assignments)[head]
        centroids = np.asarray(second.prototypes[head], np.float64)
        points = bank[head % 2, present]
        np.testing.assert_array_equal(np.flatnonzero(found >= 0), present)
        np.testing.assert_array_equal(found[present], (points @ centroids.T).argmax(1))
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
        # Three iterations from some rows of this very bank, and of no other, end there.
        starts = np.random.default_rng(0).permutation(len(points))
        assert found.max() < k
        better = spherical(points, points[starts[:k]].copy(), 3)[1]
        reached = (points @ centroids.T).max(1).mean()
        assert reached > 0.9 * (points @ better.T).max(1).mean()
        again = spherical(points, centroids.copy(), 1)[1]
        assert (points @ again.T).max(1).mean() >= reached - 1e-6


def test_examples_without_a_cluster_count_nothing(course):
    left_out = course.order[3 * N :]
    assert len(left_out) == 4
    state, _ = course.last
    assert (np.asarray(state.assignments)[:, left_out] == -1).all()
    assert np.asarray(state.written)[left_out, 0].tolist() == [-1] * 4
    assert bool(course.last[1]["ok"])


def test_before_the_first_epoch_the_banks_are_filled_from_large_crops_in_training_mode(course):
    born, first = course.born, course.first
    assert np.all(np.asarray(born.written)[:, 0] == -2)
    assert np.all(np.asarray(first.written)[:, 0] == -1)
    np.testing.assert_array_equal(np.asarray(first.written)[:, 1], examples(np.arange(M))["label"])
    bank = np.asarray(first.bank)
    np.testing.assert_allclose(np.linalg.norm(bank, axis=2), 1, atol=1e-5)
    assert np.abs(bank[0] - bank[1]).max() > 0.05  # two crops
    assert (np.asarray(first.assignments) >= 0).all()
    for name, value in leaves(born.params).items():
        np.testing.assert_array_equal(leaves(first.params)[name], value)
    for name, value in leaves(born.batch_stats).items():
        np.testing.assert_array_equal(leaves(first.batch_stats)[name], value)
    # Statistics of the batch: in evaluation mode the projector would not centre its hidden layer.
    net = deepcluster_v2.make_net(course.config, None)
    views, prepare = deepcluster_v2.input_functions(course.config)
    key = deepcluster_v2._clusters.refresh_key(born)
    x = jax.jit(views)(key, examples(np.arange(N))["image"], jnp.int32(0))
    variables = {"params": born.params, "batch_stats": born.batch_stats}
    z, _ = jax.jit(
        lambda x: net.apply(
            variables, [prepare(x)], train=True, method="crops", mutable=["batch_stats"]
        )
    )(x)
    np.testing.assert_allclose(bank[:, :N], z, atol=1e-4)


def test_a_refresh_is_a_function_of_the_state(course):
    again, report = course.method.refresh(keep(course.states[-1]), sweep)
    for name, value in leaves(course.second).items():
        np.testing.assert_array_equal(leaves(again)[name], value, err_msg=name)
    assert report == course.second_report
    assert set(report) == {f"cluster/{n}" for n in (
        "entropy", "empty", "largest_share", "nmi_previous", "nmi_labels", "objective"
    )}  # fmt: skip
    assert "cluster/nmi_previous" not in course.first_report


def refused(config):
    with pytest.raises(UserError) as error:
        method, _ = build.make_method(config, axis_name=None)
        jax.eval_shape(lambda: build.first_state(config, method, N))
    return str(error.value)


def test_mistakes():
    message = refused(tiny(deepcluster_v2__num_clusters=(5, 49)))
    assert "49 clusters of 48 examples" in message  # an epoch leaves four of 52 out
    assert "--config.deepcluster_v2.num_clusters=48" in message
    assert "expects 1 or more values" in refused(tiny(deepcluster_v2__num_clusters=()))
    assert "--config.data.host_crop=device" in refused(tiny(data__host_crop="torchvision"))


def test_the_papers_settings():
    config = config_lib.base("deepcluster_v2", preset="v2")
    section = config.deepcluster_v2
    assert section.num_clusters == (3000, 3000, 3000)
    assert (section.temperature, section.kmeans_iterations) == (0.1, 10)
    assert config.optim.lr * config.batch_size / 256 == pytest.approx(4.8)
    long = get_config("deepcluster_v2_imagenet", "crops=2x224+6x96")
    assert (long.epochs, long.deepcluster_v2.small_crops, long.augment.size) == (800, 6, 224)
    assert long.augment.options.scale == (0.14, 1.0)
    with pytest.raises(UserError, match="did you mean '2x224'"):
        get_config("deepcluster_v2_imagenet", "crops=2x225")
