"""DeepCluster v1: what is clustered, what is fresh in every epoch, and what survives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, tiles, valid

from jssl import config as config_lib
from jssl import evaluate
from jssl.errors import UserError
from jssl.methods import deepcluster
from jssl.parallel.launcher import make_launcher
from jssl.run import build, checkpoint
from jssl.state import uniform_over_clusters

M, N, K, P = 64, 16, 5, 4


def tiny(**updates):
    """One block of 8 channels, SGD with momentum, 64 examples."""
    config = small_config("deepcluster")
    config.model.update({"name": "resnet8", "stage_sizes": (1,), "width": 0.125})
    config.deepcluster.update({"num_clusters": K, "pca_dim": P, "kmeans_iterations": 40})
    config.optim.update(
        {"name": "sgd", "lr": 0.05, "weight_decay": 1e-3, "schedule": "constant",
         "warmup_epochs": 0.0}
    )  # fmt: skip
    config.run.update({"num_examples": M, "steps_per_epoch": 4, "total_steps": 40})
    with config.ignore_type():
        for path, value in updates.items():
            section, _, key = path.rpartition("__")
            (config[section] if section else config)[key] = value
    return config


def examples(index):
    """Examples of the data set of 64 by their index there."""
    batch = tiles(M)
    return {"image": batch["image"][index], "label": batch["label"][index],
            "index": np.asarray(index, np.int32)}  # fmt: skip


def sweep(order=None, size=N):
    """Passes over the data set; the last batch is filled up with what is not valid."""
    order = np.arange(M) if order is None else order

    def batches():
        for start in range(0, len(order), size):
            index = order[start : start + size]
            batch = valid(examples(np.resize(index, size)))
            batch["valid"][len(index) :] = False
            yield batch

    return batches


def leaves(tree):
    return {k: np.array(v) for k, v in checkpoint.flat_leaves(tree).items()}


def same_bits(a, b):
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Course:
    """Init, refresh, four steps, refresh; each state kept in numpy."""

    def __init__(self, config):
        self.config = config
        launcher = make_launcher("jit")
        self.method, _ = build.make_method(config, axis_name=None)
        self.step = launcher.compile_step(self.method.train_step)
        state = launcher.init(lambda: build.first_state(config, self.method, N))
        self.born = self.keep(state)
        state, self.first_report = self.method.refresh(state, sweep())
        self.first, self.history = self.keep(state), []
        order = self.method.order(state)(0, 0, M)
        for i in range(4):
            before = self.keep(state)
            state, metrics = self.step(state, examples(order[N * i : N * i + N]), np.int32(i))
            self.history.append((before, order[N * i : N * i + N], metrics, self.keep(state)))
        self.trained = self.keep(state)
        state, self.second_report = self.method.refresh(state, sweep())
        self.second = self.keep(state)

    @staticmethod
    def keep(state):
        return jax.tree.map(lambda x: x.copy(), state)


@pytest.fixture(scope="module")
def course():
    return Course(tiny())


# What is clustered --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet"])
def test_features_are_those_before_the_last_relu(name):
    """Some are negative, and the ReLU of them is what the top layer sees."""
    config = config_lib.base("deepcluster", preset="v1")
    config.deepcluster.num_clusters = K
    config.model.update({"name": name, "width": 1 / 64})
    if name == "resnet":
        small = {"name": "resnet8", "stage_sizes": (1, 1), "width": 0.125, "dropout": 0.0}
        config.model.update(small)
    size = {"alexnet": 63, "vgg16": 32, "resnet": 16}[name]
    net = deepcluster.make_net(config, None)
    x = jax.random.normal(jax.random.key(0), (3, size, size, 3))
    variables = jax.jit(lambda: net.init(jax.random.key(1), x, train=True))()
    logits, h, named = jax.jit(lambda v: net.apply(v, x, train=False))(variables)
    features = np.asarray(named["clustered"])
    assert features.min() < 0
    top = variables["params"]["top_layer"]
    if name == "resnet":
        _, inner = net.encoder.apply(
            {c: v["encoder"] for c, v in variables.items()}, x, train=False
        )
        total = np.asarray(inner["last_sum"])
        np.testing.assert_allclose(features, total.mean((1, 2)), atol=1e-5)
        seen = np.maximum(total, 0).mean((1, 2))
        np.testing.assert_allclose(h, seen, atol=1e-5)
    else:
        np.testing.assert_array_equal(h, features)
        seen = np.maximum(features, 0)
    np.testing.assert_allclose(logits, seen @ top["kernel"] + top["bias"][None], atol=1e-5)
    first = "conv_init" if name == "resnet" else "conv1"
    assert variables["params"]["encoder"][first]["kernel"].shape[2] == 2  # Sobel's two channels


def whitened(course, state):
    """Unit features by numpy: evaluation mode, no augmentation, PCA with whitening."""
    images = examples(np.arange(M))["image"]
    named = jax.jit(course.method.embed)(state, images)[1]
    x = np.asarray(named["clustered"], np.float64)
    x = x - x.mean(0)
    _, values, directions = np.linalg.svd(x, full_matrices=False)
    y = x @ directions[:P].T / (values[:P] / np.sqrt(M - 1))
    np.testing.assert_allclose(np.cov(y.T), np.eye(P), atol=1e-6)
    return y / np.linalg.norm(y, axis=1, keepdims=True)


@pytest.mark.parametrize("which", ["first", "second"])
def test_assignments_are_the_nearest_centroids_of_the_whitened_features(course, which):
    """And the centroids, after 40 iterations, the means of all of their members: none is left
    out, as faiss would by default above 256 points a centroid."""
    state, before = getattr(course, which), {"first": course.born, "second": course.trained}[which]
    y = whitened(course, before)
    found, centroids = np.asarray(state.assignments), np.asarray(state.centroids, np.float64)
    assert found.shape == (M,)
    # Axes of the PCA have a sign of their own: it is read off the largest centroid.
    signs = np.sign([np.sum(centroids[found, d] * y[:, d]) for d in range(P)])
    y = y * signs
    distances = ((y[:, None] - centroids[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(found, distances.argmin(1))
    for cluster in range(K):
        np.testing.assert_allclose(centroids[cluster], y[found == cluster].mean(0), atol=2e-4)
    report = {"first": course.first_report, "second": course.second_report}[which]
    assert report["cluster/objective"] == pytest.approx(distances.min(1).mean(), abs=1e-4)


def test_features_are_taken_in_evaluation_mode_and_without_draws(course):
    """Another order and batch size of the same pass: the same clusters. Batch statistics, dropout
    or augmentation would change the features. And running statistics stay as they were."""
    state, _ = course.method.refresh(course.keep(course.trained), sweep())
    same_bits(state, course.second)
    shuffled = np.random.default_rng(0).permutation(M)
    other, report = course.method.refresh(course.keep(course.trained), sweep(shuffled, size=12))
    np.testing.assert_array_equal(other.assignments, course.second.assignments)
    np.testing.assert_allclose(other.centroids, course.second.centroids, atol=1e-4)
    same_bits(other.batch_stats, course.trained.batch_stats)
    assert report["cluster/nmi_labels"] == course.second_report["cluster/nmi_labels"]


def test_pictures_that_cannot_be_used_have_no_cluster_and_are_never_drawn(course):
    few = np.arange(M)[np.arange(M) % 4 != 1]
    state, _ = course.method.refresh(course.keep(course.trained), sweep(few))
    found = np.asarray(state.assignments)
    np.testing.assert_array_equal(found < 0, np.arange(M) % 4 == 1)
    drawn = course.method.order(state)(0, 1, M)
    assert not np.isin(drawn, np.arange(1, M, 4)).any()


# What is fresh, and what survives -----------------------------------------------------------------


def trunk(params):
    return {k: v for k, v in params.items() if k != "top_layer"}


def test_the_top_layer_and_its_optimiser_are_fresh_and_the_trunk_survives(course):
    trained, second = course.trained, course.second
    same_bits(trunk(second.params), trunk(trained.params))
    same_bits(second.opt_state, trained.opt_state)  # the trunk's momentum
    momenta = leaves(trained.opt_state)
    assert max(np.abs(v).max() for k, v in momenta.items() if "trace" in k) > 1e-3
    assert not any("top_layer" in name for name in momenta)
    kernels = [s.params["top_layer"] for s in (course.born, course.first, second)]
    for top in kernels:
        assert np.all(np.asarray(top["bias"]) == 0)
        assert np.std(top["kernel"]) == pytest.approx(0.01, rel=0.35)  # of 40 draws
    assert len({np.asarray(top["kernel"]).tobytes() for top in kernels}) == 3
    assert np.abs(np.asarray(trained.params["top_layer"]["bias"])).max() > 1e-4
    used = [v for k, v in leaves(trained.top_opt_state).items() if "trace" in k]
    assert max(np.abs(v).max() for v in used) > 1e-4
    for value in leaves(second.top_opt_state).values():
        assert np.all(value == 0)
    assert int(second.step) == int(trained.step) == 4


def test_the_fresh_top_layer_has_the_deviation_of_the_official_code(course):
    kernels = []
    for step in range(6):
        state = course.keep(course.trained).replace(step=jnp.int32(4 * step))
        fresh, _ = course.method.refresh(state, sweep())
        kernels.append(np.asarray(fresh.params["top_layer"]["kernel"]))
    assert len({kernel.tobytes() for kernel in kernels}) == 6
    assert np.std(kernels) == pytest.approx(0.01, rel=0.15)  # of 240 draws, 4.6 % each way


def test_each_refresh_draws_another_seed_and_the_labels_permute(course):
    seeds = {int(s.sampler_seed) for s in (course.first, course.second)}
    assert len(seeds) == 2
    assert min(seeds) >= 0
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(course.first.assignments, course.second.assignments)


def test_the_report_is_of_the_new_and_the_old_assignments(course):
    labels = examples(np.arange(M))["label"]
    first, second = (np.asarray(s.assignments) for s in (course.first, course.second))
    assert "cluster/nmi_previous" not in course.first_report
    report = course.second_report
    assert report["cluster/nmi_previous"] == pytest.approx(evaluate.nmi(first, second))
    assert report["cluster/nmi_labels"] == pytest.approx(evaluate.nmi(second, labels))
    assert report["cluster/largest_share"] == np.bincount(second).max() / M
    assert report["cluster/empty"] == K - len(set(second))


# A step -------------------------------------------------------------------------------------------


def test_a_step_by_hand(course):
    """Labels by the examples' index; SGD with the trunk's momentum; the top layer's without."""
    before, index, metrics, after = course.history[2]
    config, method = course.config, course.method
    net = deepcluster.make_net(config, None)
    _, prepare = deepcluster.input_functions(config)
    key, _ = jax.random.split(jax.random.fold_in(before.key, before.step))
    x = prepare(jax.jit(method.views)(key, examples(index)["image"], jnp.int32(0))[0])
    y = np.asarray(course.first.assignments)[index]

    @jax.jit
    @jax.value_and_grad
    def loss_fn(params):
        variables = {"params": params, "batch_stats": before.batch_stats}
        (logits, _, _), _ = net.apply(variables, x, train=True, mutable=["batch_stats"])
        log_p = logits - jax.scipy.special.logsumexp(logits, axis=1, keepdims=True)
        return -jnp.mean(log_p[jnp.arange(N), y])

    loss, grads = loss_fn(before.params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    decayed = jax.tree.map(lambda g, p: g + 1e-3 * p, grads, before.params)
    old, new = leaves(before.params), leaves(after.params)
    momenta = {
        k.split("trace.")[-1]: v for k, v in leaves(before.opt_state).items() if "trace." in k
    }
    for name, gradient in leaves(decayed).items():
        step = gradient if "top_layer" in name else 0.9 * momenta[name] + gradient
        np.testing.assert_allclose(
            new[name], old[name] - 0.05 * step, rtol=1e-4, atol=1e-6, err_msg=name
        )
    for name in ("assignments", "centroids", "sampler_seed"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_the_loss_of_an_epochs_first_step_is_of_chance(course):
    """ln k: 9.21 for 10,000 clusters."""
    assert float(course.history[0][2]["loss"]) == pytest.approx(np.log(K), abs=0.03)


def test_the_order_is_uniform_over_the_clusters(course):
    order = course.method.order(course.first)(3, 0, M)
    clusters, seed = np.asarray(course.first.assignments), int(course.first.sampler_seed)
    np.testing.assert_array_equal(order, uniform_over_clusters(clusters, seed, 3, 0, M))
    counts = np.bincount(clusters[order], minlength=K)
    assert counts.max() == M // K + 1
    assert counts.min() >= M // K + 1 - (K * (M // K + 1) - M)


def test_sampling_examples_follows_the_sizes_of_the_clusters(course):
    """The ablation of section 3.2: every usable example once, however its cluster is sized."""
    config = tiny(deepcluster__sampling="examples")
    method, _ = build.make_method(config, axis_name=None)
    order = method.order(course.first)(3, 0, M)
    assert sorted(order) == list(range(M))


def test_before_a_refresh_there_is_nothing_to_learn(course):
    """A step without labels gives NaN, which stops a run, and not a loss of nothing."""
    state = course.keep(course.born)
    assert np.all(np.asarray(state.assignments) == -1)
    _, metrics = course.step(state, examples(np.arange(N)), np.int32(0))
    assert not metrics["ok"]


def test_a_refresh_is_the_same_on_four_devices(course):
    expected, report = course.second, course.second_report
    launcher = make_launcher("pmap")
    method, _ = build.make_method(course.config, axis_name=launcher.axis_name)
    state = jax.device_put(course.keep(course.trained), launcher.sharding)
    found, other = method.refresh(state, lambda: map(launcher.split, sweep()()))
    np.testing.assert_array_equal(found.assignments, expected.assignments)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-5)
    same_bits(found.params, expected.params)
    assert int(found.sampler_seed) == int(expected.sampler_seed)
    assert other["cluster/nmi_previous"] == pytest.approx(report["cluster/nmi_previous"])


# Mistakes and presets -----------------------------------------------------------------------------


def refused(config):
    method, _ = build.make_method(config, axis_name=None)
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda: build.first_state(config, method, N))
    return str(error.value)


def test_more_clusters_than_examples():
    message = refused(tiny(deepcluster__num_clusters=65))
    assert "65 clusters of 64 examples" in message
    assert "Type --config.deepcluster.num_clusters=64 or less" in message


def test_more_principal_directions_than_there_are():
    message = refused(tiny(deepcluster__pca_dim=9))
    assert "PCA to 9 dimensions of 64 examples with 8 features" in message
    assert "--config.deepcluster.pca_dim=8" in message


def test_a_network_without_a_last_relu():
    config = tiny()
    config.model.update(config_lib.base("deepcluster", preset="v1").model)
    config.model.update({"name": "efficientnet_b0", "sobel": False, "dropout": 0.0})
    with pytest.raises(UserError, match="found model.name 'efficientnet_b0'.*alexnet, vgg16"):
        build.make_method(config, axis_name=None)


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [("alexnet", 99_242_504), ("vgg16", 175_238_440)],
)
def test_the_official_numbers_of_parameters(arch, parameters):
    config = get_config("deepcluster_imagenet", f"arch={arch}")
    config.run.update({"num_examples": 1_281_167, "steps_per_epoch": 5004, "total_steps": 5004})
    config.data.host_crop = ""
    method, _ = build.make_method(config, axis_name=None)
    state = jax.eval_shape(lambda: build.first_state(config, method, 2))
    fixed = (1 * 1 * 3 + 1) + (3 * 3 * 2 + 2)  # the official filter is made of two convolutions
    assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters - fixed
    assert state.centroids.shape == (10_000, 256)
    assert state.assignments.shape == (1_281_167,)
