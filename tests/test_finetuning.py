"""Fine-tuning whole networks: with a share of the labels, and chosen without the test split."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import get_config, small_config

import jssl
from jssl import data, optim
from jssl.config import base, to_json
from jssl.errors import UserError
from jssl.evaluate import split_validation
from jssl.run import build, checkpoint, selection, workdir
from jssl.run.judge import train_and_judge
from jssl.run.pretrained import as_trained


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of SimCLR, its weights drawn by numpy: quicker than to compile its init."""
    folder = tmp_path_factory.mktemp("simclr")
    config = small_config("simclr", launch="jit")
    config.run.update({"num_examples": 3200, "steps_per_epoch": 200, "total_steps": 1000})
    workdir.open_workdir(folder, config)
    method, _ = build.make_method(config, axis_name=None)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, 16))
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if leaf.dtype != jnp.float32:
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(rng.uniform(0.05, 0.3, leaf.shape), jnp.float32)

    saved = checkpoint.Checkpoints(folder, method="simclr")
    saved.save(0, jax.tree_util.tree_map_with_path(drawn, shapes), {"next_step": 0})
    saved.close()
    return folder


def test_ten_per_cent_of_the_labels_end_to_end(pretrained, tmp_path, monkeypatch):
    """At a rate of 0 the weights stay those of SimCLR, and no test example is ever read."""
    real = data.sources.photos_source

    def train_only(split, **options):
        assert split == "train", "the test split was read"
        return real(split, **options)

    monkeypatch.setattr(data.sources, "photos_source", train_only)
    config = get_config("supervised_photos", f"smoke,labels=0.1,init={pretrained}")
    assert to_json(config.model) == to_json(workdir.read_config(pretrained).model)
    config.supervised.held_out = 64
    config.launch, config.max_steps, config.monitor.every_epochs = "jit", 2, 0.0
    config.optim.lr = config.optim.weight_decay = 0.0
    train_and_judge(config, tmp_path)
    _, before = jssl.load_encoder(pretrained)
    _, after = jssl.load_encoder(tmp_path)
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after.params["encoder"], before.params["encoder"])
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    knn, _, own, top5, mean = rows
    assert (top5["metric"], mean["metric"]) == ("top-5", "mean per class")
    assert list(own["top1"]) == ["trained", "untrained"]
    assert own["probe"] == "own classifier" and own["numbers"]["trained"]["count"] == 64
    assert "64 test examples of photos (held out of train)" in own["protocol"]
    # 16 classes of 200: 4 held out, a tenth of the other 196 kept.
    assert "bank 320 train" in knn["protocol"]
    assert selection.validation_score(tmp_path) == own["numbers"]["trained"]["top1"]


def test_held_out_examples_are_from_train_and_not_trained_on():
    config = small_config("supervised")
    config.supervised.held_out, config.supervised.label_fraction = 64, 0.5
    parts = build.build(config)
    train, held = parts.train_source.rows, parts.test_source.rows
    labels = parts.train_source.source.labels
    assert not np.intersect1d(train, held).size and parts.probe_source is parts.train_source
    assert np.bincount(labels[held]).tolist() == [4] * 16
    assert np.bincount(labels[train]).tolist() == [98] * 16
    np.testing.assert_array_equal(held, split_validation(labels, count=64)[1])


def test_a_head_with_its_own_rate_equals_two_optimisers():
    """By hand: v <- 0.9 v + g, p <- p - lr v, with lr .02 for the trunk and 5 for the head."""
    config = get_config("semi_imagenet", "preset=swav,labels=1")
    assert (config.optim.lr, config.supervised.head_lr) == (0.02, 250.0)
    tx, _ = optim.build(config.optim, batch_size=256, steps_per_epoch=50, total_steps=1000)
    tx = optax.chain(tx, optim.scale_by_name("^classifier/", factor=250.0))
    params = {
        "encoder": {"conv": {"kernel": jnp.array([1.0])}},
        "classifier": {"kernel": jnp.array([1.0]), "bias": jnp.array([0.0])},
    }
    state = tx.init(params)
    for value in (0.5, -0.2):
        grads = jax.tree.map(lambda p, v=value: jnp.full_like(p, v), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    moved = 0.5 + (0.9 * 0.5 - 0.2)
    np.testing.assert_allclose(params["encoder"]["conv"]["kernel"], [1 - 0.02 * moved], rtol=1e-5)
    np.testing.assert_allclose(params["classifier"]["kernel"], [1 - 5 * moved], rtol=1e-5)
    np.testing.assert_allclose(params["classifier"]["bias"], [-5 * moved], rtol=1e-5)
    with pytest.raises(UserError, match="No parameter's path has '\\^classifer/'"):
        optim.scale_by_name("^classifer/", factor=2.0).update(params, ())


def rates(config, steps_per_epoch):
    total = round(config.epochs * steps_per_epoch)
    _, schedule = optim.build(
        config.optim,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
    )
    return total, schedule


def test_the_presets_are_the_papers():
    """SimCLR B.5, BYOL's appendix, SwAV's eval_semisup.py: see the recipes named in the config."""
    simclr = get_config("semi_imagenet", "labels=10")
    assert (simclr.epochs, simclr.data.name) == (30.0, "imagenet_10pct")
    assert get_config("semi_imagenet").epochs == 60.0
    total, schedule = rates(simclr, 31)
    assert (float(schedule(0)), total) == (pytest.approx(0.8), 930)  # no warm-up
    byol = get_config("semi_imagenet", "preset=byol,lr=0.05,epochs=50")
    assert (byol.batch_size, byol.epochs) == (1024, 50.0)
    assert float(rates(byol, 12)[1](0)) == pytest.approx(0.05)
    assert byol.model.padding == "same" and byol.augment.normalize == "imagenet"
    swav = get_config("semi_imagenet", "preset=swav,labels=10")
    assert swav.supervised.head_lr == pytest.approx(20) and not swav.optim.nesterov
    _, schedule = rates(swav, 500)
    found = [float(schedule(500 * epoch)) for epoch in (0, 11.9, 12.1, 15.9, 16.1)]
    np.testing.assert_allclose(found, [0.01, 0.01, 0.002, 0.002, 0.0004], rtol=1e-5)
    for config in (simclr, byol, swav):
        assert (config.optim.weight_decay, config.optim.momentum) == (0.0, 0.9)
        assert (config.augment.name, config.supervised.label_smoothing) == ("crop_flip", 0.0)
    with pytest.raises(UserError, match="lists of 1 and 10 per cent, found ':labels=5'"):
        get_config("semi_imagenet", "labels=5")


def test_transfer_uses_kornbliths_splits_and_tests_at_the_end():
    config = get_config("finetune_transfer", "source=food101,lr=0.1,wd=1e-4")
    assert config.model.bn_momentum == pytest.approx(1 - 10 / 266)  # 68,175 examples by 256
    assert config.optim.weight_decay == pytest.approx(1e-3)
    total, schedule = rates(config, 266)
    assert total == 20_000 and float(schedule(10_000)) == pytest.approx(0.05)
    assert (config.data.train_split, config.data.test_split) == ("train", "")
    assert config.supervised.held_out == 7575
    dtd = get_config("finetune_transfer", "source=dtd")
    assert (dtd.data.test_split, dtd.supervised.held_out) == ("validation", 0)
    assert dtd.model.bn_momentum == 0.9
    for source, train, test in (
        ("dtd", "train+validation", "test"),
        ("fgvc_aircraft", "trainval", "test"),
        ("food101", "train", "validation"),
    ):
        final = get_config("finetune_transfer", f"source={source},final")
        assert (final.data.train_split, final.data.test_split) == (train, test)
        assert final.supervised.held_out == 0
    with pytest.raises(UserError, match=":source=pet': did you mean 'pets'"):
        get_config("finetune_transfer", "source=pet")


def finished(folder, config, **scores):
    workdir.open_workdir(folder, config)
    row = {"probe": "own classifier", "numbers": {"trained": scores}}
    (folder / "result.json").write_text(json.dumps({"rows": [{"probe": "kNN"}, row]}))
    return folder


def test_the_best_run_is_selected_by_its_metric_and_never_by_test(tmp_path, capsys):
    def pets(name, *switches, **scores):
        config = get_config("finetune_transfer", ",".join(("source=pets", *switches)))
        return str(finished(tmp_path / name, config, **scores))

    a = pets("a", "lr=0.1", top1=0.9, mean_per_class=0.5)
    b = pets("b", "lr=0.01", top1=0.8, mean_per_class=0.7)
    assert selection.best_run([a, b]) == (b, {a: 0.5, b: 0.7})
    assert selection.main([a, b]) == 0
    assert "70.0  lr 0.01, weight decay 0.001" in capsys.readouterr().out
    tested = pets("c", "final", top1=1.0, mean_per_class=1.0)
    with pytest.raises(UserError, match="was evaluated on the test split of 'pets'"):
        selection.validation_score(tested)
    with pytest.raises(UserError, match="differ in more than .* data.test_split"):
        selection.best_run([a, tested])
    assert selection.main([]) == 2
    assert "No run was named" in capsys.readouterr().err
    dtd = get_config("finetune_transfer", "source=dtd")
    folder = finished(tmp_path / "dtd", dtd, top1=0.4, mean_per_class=0.1)
    assert selection.validation_score(folder) == 0.4
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match="no result of its own classifier"):
        selection.validation_score(folder)


def test_a_network_keeps_its_training_settings(tmp_path):
    """Padding and normalisation do not show in the shapes of parameters."""
    before = get_config("byol_imagenet")
    workdir.open_workdir(tmp_path, before)
    config = get_config("semi_imagenet", "preset=simclr")
    assert config.model.padding != before.model.padding
    as_trained(config, str(tmp_path))
    assert to_json(config.model) == to_json(before.model)
    assert config.augment.normalize == "imagenet"


@pytest.mark.parametrize("name", ["finetune_transfer", "semi_imagenet"])
def test_a_vision_transformer_is_fine_tuned_by_its_own_rules(tmp_path, name):
    """MoCo v3's: its tokens do not decay, and its patch embedding, frozen before, is trained."""
    before = base("moco_v3", preset="v3_vit")
    before.model.update({"name": "vit_tiny", "depth": 1, "width": 0.25, "heads": 4})
    workdir.open_workdir(tmp_path, before)
    config = get_config(name, f"init={tmp_path}")
    assert before.model.freeze_patches and not config.model.freeze_patches
    rules = optim.groups({"cls_token": 0, "kernel": 0, "scale": 0}, rules=config.optim.rules)
    assert rules == {"cls_token": "none", "kernel": "decay+adapt", "scale": "none"}
    config.augment.size, config.dtype, config.supervised.num_classes = 32, "float32", 5
    config.run.update({"num_examples": 400, "steps_per_epoch": 100, "total_steps": 100})
    method, _ = build.make_method(config, axis_name=None)
    blank = build.blank_batch(config, 2)
    ramp = np.linspace(0, 255, blank["image"].size).reshape(blank["image"].shape)
    batch = {**blank, "image": ramp.astype(np.uint8)}
    first = jax.jit(lambda: build.first_state(config, method, 2))()
    after, _ = jax.jit(method.train_step)(first, batch)
    kernels = [state.params["encoder"]["patch_embed"]["kernel"] for state in (first, after)]
    assert np.any(np.asarray(kernels[0]) != np.asarray(kernels[1]))
