"""VOC 2007 end to end on a few photographs that TFDS has written as it writes VOC."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_config
from runs import finished_run
from sklearn.metrics import average_precision_score
from voc_files import SIZES, write_voc_2007

from jssl import data, evaluate
from jssl.errors import UserError
from jssl.evaluate.probes import logistic_table, multilabel, voc_finetune
from jssl.models.plain import Layer, PlainNet
from jssl.run import workdir

LABELS = np.zeros((4, 20), int)  # by hand
LABELS[0, 2] = LABELS[1, 0] = LABELS[3, 19] = LABELS[3, 0] = 1
LABELS[1, 19] = LABELS[2, 2] = -1


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_voc_2007(tmp_path_factory.mktemp("tfds"))


def alexnet_config():
    config = small_config("deepcluster", launch="jit")
    config.model.update({"name": "alexnet", "width": 3 / 64, "stem": "imagenet", "sobel": True})
    config.model.stage_sizes = ()
    config.augment.size = 64
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(alexnet_config(), tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(logistic_table, "RAW_SIDE", 8)  # 192 numbers, as fc7 has
    monkeypatch.setattr(multilabel, "RESAMPLES", 20)


def test_labels_are_those_of_the_objects(data_dir):
    for split, count in (*SIZES.items(), ("train+validation", 24)):
        source = data.VocSource(split, data_dir=data_dir)
        assert len(source) == count and source.labels.shape == (count, 20)
    source = data.VocSource("test", data_dir=data_dir)
    for i in range(len(source)):
        number = int(source._records[i]["image/filename"][:6])
        np.testing.assert_array_equal(source[i]["label"], LABELS[number % 4])
    assert (source.num_classes, source.whole, source.class_names[14]) == (20, 4952, "person")
    batches = list(data.eval_batches(source, batch_size=8, transform=data.CentreCrop(32, 32)))
    labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(labels, source.labels)
    assert "tensorflow" not in sys.modules


def test_the_quick_check_and_its_record(run, data_dir, monkeypatch):
    one = evaluate.REGULARIZERS[20:21]  # compiles once for all that is fitted here
    few = functools.partial(evaluate.multilabel_rows, regularizers=one)
    monkeypatch.setattr(evaluate.protocols.voc, "multilabel_rows", few)
    chosen = evaluate.Settings(data_dir=data_dir)
    rows = evaluate.evaluate_run(run, protocols=["voc"], settings=chosen)
    record = json.loads((run / "evaluation" / "voc.json").read_text())
    assert record["rows"] == rows and [r["metric"] for r in rows] == ["11-point mAP", "area mAP"]
    assert (record["data"]["examples"], record["data"]["train_examples"]) == (12, 24)
    for row in rows:
        assert list(row["numbers"]) == ["trained", "untrained", "raw pixels"]
        for number in row["numbers"].values():
            assert number["count"] == 12 and number["regularizer"] in evaluate.REGULARIZERS
            each = [ap for ap in number["average_precision"] if ap is not None]
            assert len(each) == 3 and number["value"] == pytest.approx(np.mean(each))
    words = rows[0]["numbers"]["trained"]["protocol"]
    assert "on 12 validation images, fitted again on all 24" in words
    assert "NOT the whole set of 2,501 + 2,510 + 4,952 images" in words
    assert rows[0]["numbers"]["raw pixels"]["feature"] == "raw pixels"


@pytest.fixture(scope="module")
def pairs():
    """Three overlapping classes of any number each, in 6 dimensions; a fifth does not count."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 3))
    found = []
    for count in (60, 50, 70):
        x = rng.normal(size=(count, 6)).astype(np.float32)
        y = (x @ kernel + 2 * rng.normal(size=(count, 3)) > 0.5).astype(int)
        found.append((x, np.where(rng.random(y.shape) < 0.2, -1, y)))
    return found


GRID = (1e-4, 1e-2, 1e-1, 1.0, 100.0)


def test_poisoned_test_labels_change_no_choice(pairs):
    train, validation, (test_x, test_y) = pairs
    numbers = []
    for labels in (test_y, np.where(test_y == -1, -1, 1 - test_y)):
        rows = evaluate.multilabel_rows(
            {"trained": (train, validation, (test_x, labels))}, name="toy", regularizers=GRID
        )
        numbers.append(rows[0]["numbers"]["trained"])
    true, poisoned = numbers
    for key in ("regularizer", "validation_map", "protocol"):
        assert true[key] == poisoned[key]
    assert true["value"] > poisoned["value"] + 0.1
    low, high = true["ci95"]
    assert low < true["value"] < high


def test_lambda_is_the_best_of_the_validation_images(pairs):
    """The mean over classes of the 11-point AP, by a loop, of a classifier of each lambda."""
    (x, y), (val_x, val_y), _ = pairs
    found = evaluate.select_multilabel((x, y), (val_x, val_y), regularizers=GRID)
    path = evaluate.fit_logistic(x, y, num_classes=3, regularizers=GRID)
    for i in range(len(GRID)):
        head, each = path.head(i), []
        for k in range(3):
            kept = np.flatnonzero(val_y[:, k] >= 0)
            scores = val_x[kept] @ np.asarray(head.kernel)[:, k]
            hits = val_y[kept, k][np.argsort(-scores)]
            precision, recall = np.cumsum(hits) / np.arange(1, len(hits) + 1), np.cumsum(hits)
            recall = recall / hits.sum()
            each.append(np.mean([precision[recall >= t].max() for t in np.arange(0, 1.1, 0.1)]))
        assert found.validation[i] == pytest.approx(np.mean(each), abs=1e-12)
    assert found.regularizer == GRID[int(np.argmax(found.validation))]


def test_the_loss_by_a_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5)), rng.integers(-1, 2, (4, 5))
    total = 0.0
    for z, y in zip(logits.ravel(), labels.ravel(), strict=True):
        if y >= 0:
            p = 1 / (1 + np.exp(-z))
            total -= np.log(p if y else 1 - p)
    found = voc_finetune.voc_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    assert float(found) == pytest.approx(total / 4, rel=1e-5)


def test_the_optimiser_by_a_loop():
    """Clipped to 10 over all arrays together, then decayed, momentum 0.9; halved at 3, 6, ..."""
    tx = voc_finetune.voc_optimiser(0.003, 3)
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    state, p = tx.init(params), np.array([1.0, -2.0, 3.0])
    momentum = np.zeros(3)
    for step in range(8):
        g = np.array([3.0, -1.0, 0.5]) * (step + 1)
        updates, state = tx.update({"a": jnp.array(g[:2]), "b": jnp.array(g[2:])}, state, params)
        params = {k: params[k] + updates[k] for k in params}
        g = g * min(1, 10 / np.linalg.norm(g)) + 1e-6 * p
        momentum = 0.9 * momentum + g
        p = p - 0.003 * 0.5 ** (step // 3) * momentum
    np.testing.assert_allclose(np.concatenate([params["a"], params["b"]]), p, rtol=1e-5)


@pytest.fixture(scope="module")
def trained():
    """Three steps of each preset on one batch: name -> (before, after, training, statistics)."""
    layers = Layer(64, 3, 2, 1, pooled=True), Layer(96, 3, 1, 1, pooled=True)
    encoder = PlainNet(layers, pool=2, dropout_first=True, width=1 / 16)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    labels = rng.integers(-1, 2, (6, 20))
    variables = jax.jit(lambda x: encoder.init(jax.random.key(1), x, train=True))(images / 255.0)
    params, stats = variables["params"], variables["batch_stats"]
    found = {}
    for name, preset in voc_finetune.VOC_PRESETS.items():
        training = voc_finetune.make_training(encoder, lambda x: x, preset, num_classes=20, steps=9)
        first, opt_state, frozen = training.first(jax.random.key(0), params, stats)
        now = first
        for i in range(3):
            key = jax.random.key(i)
            now, opt_state, loss = training.step(now, opt_state, frozen, stats, images, labels, key)
        assert np.isfinite(loss) and training.step._cache_size() == 1
        found[name] = {**frozen, **first}, {**frozen, **now}, training, frozen, stats
    return encoder, params, found


def test_fc68_trains_three_layers_and_all_trains_every_one(trained):
    _, params, found = trained
    dense = {"fc6", "fc7", "fc8"}
    for name, (before, after, _, frozen, _) in found.items():
        moved = {
            layer
            for layer in before
            if any(np.any(before[layer][k] != after[layer][k]) for k in before[layer])
        }
        norms = {layer for layer in before if layer.startswith("bn")}
        assert len(norms) == 2
        expected = {"voc_fc68": dense, "voc_fc68_affine": dense | norms, "voc_all": set(before)}
        assert moved == expected[name] and set(frozen) == set(before) - moved
        # What is not drawn anew is the run's.
        for layer in set(before) - dense:
            jax.tree.map(np.testing.assert_array_equal, before[layer], params[layer])
        assert np.std(before["fc6"]["kernel"]) == pytest.approx(0.01, rel=0.05)
        bound = 1 / np.sqrt(before["fc8"]["kernel"].shape[0])
        largest = np.abs(before["fc8"]["kernel"]).max()
        assert 0.95 * bound < largest <= bound
        for layer in dense:
            np.testing.assert_array_equal(before[layer]["bias"], np.float32(0.1))
    assert len(before) == 7  # two convolutions, their norms, three dense layers


def test_crops_are_summed_and_no_image_sees_another(trained):
    """A score is the sum over crops; with batch statistics it would move with the other image."""
    _, _, found = trained
    _, after, training, frozen, stats = found["voc_fc68"]
    head = {name: after[name] for name in ("fc6", "fc7", "fc8")}
    images = np.random.default_rng(1).integers(0, 256, (3, 2, 16, 16, 3), np.uint8)
    whole = np.asarray(training.score(head, frozen, stats, images))
    other = images.copy()
    other[1:] = 7
    np.testing.assert_allclose(training.score(head, frozen, stats, other)[0], whole[0], rtol=1e-5)
    halves = [
        np.asarray(training.score(head, frozen, stats, np.repeat(images[:, i : i + 1], 2, axis=1)))
        for i in range(2)
    ]
    np.testing.assert_allclose((halves[0] + halves[1]) / 2, whole, rtol=1e-4, atol=1e-5)
    assert not np.allclose(halves[0], whole, atol=1e-5)


def test_training_drops_out_and_takes_the_running_statistics(trained):
    """The first image's logits do not move with the others, and do with the key."""
    encoder, _, found = trained
    params, *_, stats = found["voc_all"]
    logits = jax.jit(lambda x, key: voc_finetune.voc_logits(encoder, params, stats, x, key=key))
    x = np.random.default_rng(2).random((3, 16, 16, 3), np.float32)
    other = x.copy()
    other[1:] = 9.0
    one, two = (np.asarray(logits(y, jax.random.key(0))) for y in (x, other))
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
    assert not np.allclose(two[1], one[1], rtol=1e-3)
    assert not np.allclose(logits(x, jax.random.key(1))[0], one[0], rtol=1e-3)


def test_crops_are_squares_of_ten_to_fifty_per_cent():
    """Of a ramp the crop's first and last pixel tell its width and whether it was flipped."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    crops = voc_finetune.RandomCrops(100, views=300, seed=0)
    images = crops({"image": ramp, "index": np.int32(3)})["image"][:, 50, :, 0].astype(int)
    width = np.abs(images[:, -1] - images[:, 0]) / 0.99
    areas = (width / 200) ** 2
    assert areas.min() > 0.08 and areas.max() < 0.53
    assert 0.28 < areas.mean() < 0.32 and 0.4 < (images[:, 0] > images[:, -1]).mean() < 0.6
    again = crops({"image": ramp, "index": np.int32(3)})["image"][:, 50, :, 0]
    np.testing.assert_array_equal(images, again)


def test_fine_tuning_from_the_command(run, data_dir, monkeypatch):
    monkeypatch.setattr(voc_finetune, "CROPS", 2)
    kept, whole = [], voc_finetune.finetune_voc

    def spied(*arguments, **options):
        kept.append(whole(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(voc_finetune, "finetune_voc", spied)
    before = evaluate.backbone_hash(evaluate.Context.load(run, evaluate.Settings()).state)
    (row,) = evaluate.evaluate_run(
        run,
        protocols=["voc_fc68"],
        settings=evaluate.Settings(data_dir=data_dir, epochs=2),
    )
    assert list(row["numbers"]) == ["trained", "untrained"] and row["metric"] == "mAP"
    labels = data.VocSource("test", data_dir=data_dir).labels
    for number, (scores, seen) in zip(row["numbers"].values(), kept, strict=True):
        np.testing.assert_array_equal(seen, labels)
        each = []
        for k in (0, 2, 19):  # as the official code: 255 left out, positives 1e-5 lower
            rows = seen[:, k] >= 0
            y = seen[rows, k]
            each.append(average_precision_score(y, scores[rows, k].astype(float) - 1e-5 * y))
        assert number["value"] == pytest.approx(np.mean(each), abs=1e-9)
    words = row["numbers"]["trained"]["protocol"]
    assert "3 steps of batch 16 in place of 80,000" in words and "BN affine" in words
    record = json.loads((run / "evaluation" / "voc_fc68.json").read_text())
    assert record["checkpoint"]["sha256"] == before


def test_what_lacks_is_named(run, data_dir, tmp_path):
    missing = {name: p.needs for name, p in evaluate.PROTOCOLS.items() if "voc" in name}
    here = evaluate.Context.load(run, evaluate.Settings(data_dir=data_dir))
    away = evaluate.Context.load(run, evaluate.Settings(data_dir=str(tmp_path)))
    command = f"python -m jssl.data.prepare voc/2007 --data_dir={tmp_path}"
    assert missing["voc"](here) == "" and missing["voc"](away) == f"VOC 2007: type {command}"
    assert missing["voc_all"](here) == "hours: ask for it by name"
    assert missing["voc_fc68"](away).endswith(command)
    with pytest.raises(UserError, match="is not prepared.*Type " + command.replace("-", ".")):
        evaluate.evaluate_run(run, protocols=["voc"], settings=away.settings)
    resnet = workdir.open_workdir(tmp_path / "resnet", small_config("simclr"))
    asked = evaluate.Context.load(resnet, here.settings)
    assert missing["voc_all"](asked).startswith("AlexNet or VGG-16")
    with pytest.raises(UserError, match="found model.name 'resnet8'. Type --protocol=voc"):
        evaluate.evaluate_run(resnet, protocols=["voc_all"], settings=here.settings)


@pytest.mark.parametrize("name", ["voc", "voc_fc68"])
def test_a_dry_run(run, data_dir, monkeypatch, name):
    one = functools.partial(evaluate.multilabel_rows, regularizers=evaluate.REGULARIZERS[20:21])
    monkeypatch.setattr(evaluate.protocols.voc, "multilabel_rows", one)
    epochs = 1.0 if name == "voc_fc68" else 0.0
    chosen = evaluate.Settings(data_dir=data_dir, limit=5, epochs=epochs)
    rows = evaluate.evaluate_run(run, protocols=[name], settings=chosen)
    record = json.loads((run / "evaluation" / "dry_run" / f"{name}_limit_5.json").read_text())
    assert record["rows"] == rows and record["data"]["examples"] == 5
    for row in rows:
        assert row["numbers"]["trained"]["count"] == 5
        assert row["numbers"]["trained"]["protocol"].startswith("DRY RUN on 5 pictures")
