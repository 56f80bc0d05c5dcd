"""Fine-tuning from a checkpoint: what is copied, expanded and left; how much each layer moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import begun, get_config, made_up, made_up_run, small_config

from jssl import optim
from jssl.errors import UserError
from jssl.methods import supervised
from jssl.run import build, judge, pretrained, workdir


def shapes_of(name, arg=""):
    config = get_config(name, arg)
    config.supervised.num_classes = 1000
    net = supervised.make_net(config, None)
    side = config.augment.size
    return config, jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), False)
    )["params"]


@pytest.fixture(scope="module")
def base():
    return shapes_of("beit_finetune_imagenet")


def test_the_network_is_beits_of_fine_tuning(base):
    """86,530,984 parameters of the official base model with 1,000 classes."""
    config, params = base
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params)) == 86_530_984
    assert params["encoder"]["block11"]["relative_table"].shape == (732, 12)
    assert (config.optim.lr, config.supervised.layer_decay, config.batch_size) == (4e-3, 0.65, 1024)


def test_layer_wise_decay_counts_as_the_official_code_does(base):
    _, params = base
    scales = optim.layer_scales(params, decay=0.65, depth=12)
    encoder = scales["encoder"]
    np.testing.assert_allclose(encoder["patch_embed"]["kernel"], 0.003697, atol=5e-7)  # .65^13
    np.testing.assert_allclose(encoder["cls_token"], 0.65**13)
    np.testing.assert_allclose(encoder["block0"]["qkv"]["kernel"], 0.65**12)
    np.testing.assert_allclose(encoder["block0"]["relative_table"], 0.65**12)
    np.testing.assert_allclose(encoder["block11"]["gamma1"], 0.65)
    assert encoder["fc_norm"]["scale"] == 1 and scales["classifier"]["kernel"] == 1
    with pytest.raises(UserError, match="Layer-wise decay is for a ViT"):
        optim.layer_scales({"conv": 0.0}, decay=0.5, depth=2)


def test_the_decay_scales_rate_and_weight_decay_of_adamw():
    """As torch's groups: p <- p - lr s (adam + wd p), with s of the layer."""
    params = {"block0": {"kernel": jnp.array([2.0])}, "head": {"kernel": jnp.array([2.0])}}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = optax.chain(optax.adamw(0.1, weight_decay=0.5), optim.scale_by_layer(decay=0.25, depth=1))
    updates, _ = tx.update(grads, tx.init(params), params)
    # Adam's first step is 1; then + .5 * 2; times .1; times the layer's share
    np.testing.assert_allclose(updates["head"]["kernel"], [-0.2], rtol=1e-5)
    np.testing.assert_allclose(updates["block0"]["kernel"], [-0.05], rtol=1e-5)


def test_a_beit_checkpoint_starts_a_fine_tuning(tmp_path):
    """The shared table in every block, tokens and kernels as they were, fc_norm and head new."""
    before = small_config("beit")
    trained = made_up_run(before, tmp_path / "beit")
    config = get_config("beit_finetune_photos", "smoke")
    config.supervised.num_classes = 16
    config.init_from = str(tmp_path / "beit")
    config.run.update({"num_examples": 320, "steps_per_epoch": 20, "total_steps": 1200})
    first = made_up(config, 0.0)
    state = begun(config, tmp_path / "run", first)
    old, new = trained.params["encoder"], state.params["encoder"]
    for block in ("block0", "block1"):
        np.testing.assert_array_equal(new[block]["relative_table"], old["relative_table"])
        np.testing.assert_array_equal(new[block]["fc2"]["kernel"], old[block]["fc2"]["kernel"])
        np.testing.assert_array_equal(new[block]["q_bias"], old[block]["q_bias"])
    np.testing.assert_array_equal(new["patch_embed"]["kernel"], old["patch_embed"]["kernel"])
    np.testing.assert_array_equal(
        new["fc_norm"]["scale"], first.params["encoder"]["fc_norm"]["scale"]
    )
    assert not {"mask_token", "relative_table", "norm"} & set(new)
    np.testing.assert_array_equal(
        state.params["classifier"]["bias"], first.params["classifier"]["bias"]
    )
    # A step gives its buffers away: no two leaves may share one.
    tables = [new[b]["relative_table"].unsafe_buffer_pointer() for b in ("block0", "block1")]
    assert tables[0] != tables[1]


def test_a_run_that_averages_its_weights_starts_with_the_average(tmp_path):
    """Noisy Student's `embed` uses averaged weights and statistics: so does who begins there."""
    before = small_config("noisy_student")
    trained = made_up_run(before, tmp_path / "noisy")
    config = small_config("supervised")
    config.model = before.model
    config.data.name = "photos"
    config.init_from = str(tmp_path / "noisy")
    state = begun(config, tmp_path / "run", made_up(config, 0.0))
    for found, average, current in (
        (state.params, trained.average, trained.params),
        (state.batch_stats, trained.average_stats, trained.batch_stats),
    ):
        leaves = [jax.tree.leaves(tree["encoder"])[0] for tree in (found, average, current)]
        np.testing.assert_array_equal(leaves[0], leaves[1])
        assert not np.array_equal(leaves[1], leaves[2])
    # The untrained net beside its results is none that another run has trained; its name says so.
    assert judge.run_name(config) == "supervised on photos, after noisy_student"
    parts = build.build(config)
    untrained = build.init_state(parts, begin=False).params["encoder"]
    born = jax.jit(lambda: build.first_state(config, parts.method, config.batch_size))()
    for found, expected in zip(
        jax.tree.leaves(untrained), jax.tree.leaves(born.params["encoder"]), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_runs_in_a_table_have_different_names():
    config = small_config("supervised")
    config.supervised.label_fraction = 0.1
    assert judge.run_name(config) == "supervised on photos, 10 % labels, from scratch"
    config = small_config("deit")
    assert judge.run_name(config) == "deit on photos, hard distillation from resnet8"
    config.deit.distillation = "none"
    assert judge.run_name(config) == "deit on photos, no teacher"


def test_seeds_are_one_row_of_a_table_whatever_their_folders_and_the_untrained_another(tmp_path):
    config, hashes = small_config("supervised"), []
    for method, name in (("beit", "a"), ("beit", "b"), ("deit", "c")):
        workdir.open_workdir(tmp_path / name, small_config(method))
        config.init_from = str(tmp_path / name)
        hashes.append(judge.run_hash(config))
    config.init_from = ""
    assert hashes[0] == hashes[1]
    assert len({*hashes, judge.run_hash(config)}) == 3


def test_an_encoder_that_does_not_fit_names_what_differs():
    like = {"patch_embed": {"bias": jnp.zeros(4)}, "fc_norm": {"scale": jnp.zeros(4)}}
    with pytest.raises(UserError, match=r"patch_embed.bias: \[3\], expected \[4\]"):
        pretrained.fitted({"patch_embed": {"bias": jnp.zeros(3)}}, like, grid=4, new_grid=4)


def test_a_label_fraction_is_equal_in_every_class():
    config = small_config("supervised")
    config.supervised.label_fraction = 0.1
    parts = build.build(config)
    labels = [int(parts.train_source[i]["label"]) for i in range(len(parts.train_source))]
    assert np.bincount(labels).tolist() == [20] * 16
    assert parts.probe_source is parts.train_source  # and none is probed with that is not its own
