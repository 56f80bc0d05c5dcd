"""After a run: judge it, embed with it, load it; strictly, and without moving a weight."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import small_config

import jssl
from jssl import data, evaluate
from jssl.errors import UserError
from jssl.evaluate.probes import logistic_table
from jssl.run import build
from jssl.run.judge import train_and_judge


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = small_config("simclr", launch="jit", max_steps=2)
    config.monitor.every_epochs = 0.0
    train_and_judge(config, folder)
    return folder


def test_the_table_holds_both_probes_of_three_feature_sets(run):
    import json

    record = json.loads((run / "result.json").read_text())
    assert [row["probe"] for row in record["rows"]] == ["kNN", "softmax_regression"]
    for row in record["rows"]:
        assert list(row["top1"]) == ["trained", "untrained", "raw pixels"]
        for number in row["numbers"].values():
            assert number["count"] == 1200  # the whole test split
            assert number["feature"] in number["protocol"]
    knn = record["rows"][0]["numbers"]
    assert knn["raw pixels"]["dim"] == 3072
    for word in ("k=20", "cosine", "exp(s/0.1)", "3,200 train", "1,200 test"):
        assert word in knn["trained"]["protocol"]


def test_load_encoder_is_pure_and_is_the_trained_network(run):
    embed, state = jssl.load_encoder(run)
    assert int(state.step) == 2
    before = evaluate.backbone_hash(state)
    images = data.photos_source("test").images[:5]
    features, _ = jax.jit(embed)(state, images)
    again, named = embed(state, images)
    np.testing.assert_allclose(features, again, atol=1e-5)
    assert named["projection"].shape == (5, 128)
    assert evaluate.backbone_hash(state) == before
    older, first = jssl.load_encoder(run, step=2)
    assert int(first.step) == 2


def test_embed_writes_every_example_of_any_source(run, tmp_path):
    out = tmp_path / "x.npz"
    evaluate.embed_run(run, output=out, feature="projection", source="digits", split="test")
    saved = np.load(out)
    assert saved["features"].shape == (359, 128)
    assert len(set(saved["indices"].tolist())) == 359
    np.testing.assert_array_equal(saved["labels"], data.digits_source("test").labels)
    assert (str(saved["feature"]), int(saved["step"])) == ("projection", 2)
    embed, state = jssl.load_encoder(run)
    direct = embed(state, data.digits_source("test").images[:3])[1]["projection"]
    np.testing.assert_allclose(saved["features"][:3], direct, atol=1e-4)


def test_evaluate_runs_knn_and_linear_and_leaves_the_backbone(run, capsys):
    embed, state = jssl.load_encoder(run)
    before = evaluate.backbone_hash(state)
    rows = evaluate.evaluate_run(
        run,
        protocols=["knn", "linear"],
        settings=evaluate.Settings(k=7, temperature=0.2, preset="simclr_cifar", epochs=1),
    )
    out = capsys.readouterr().out
    assert "k=7, cosine, weights exp(s/0.2)" in out
    assert out.startswith("train data: ") and out.count("test data: ") == 1
    assert [row["probe"] for row in rows] == ["kNN", "linear"]
    assert rows[1]["numbers"]["trained"]["count"] == 1200
    import json

    for row, name in zip(rows, ("knn", "linear"), strict=True):
        record = json.loads((run / "evaluation" / f"{name}.json").read_text())
        assert record["checkpoint"] == {"step": 2, "sha256": before}
        assert (record["protocol"], record["data"]["examples"]) == (name, 1200)
        assert record["rows"][0] == row
    # Beside a probe that does not hold them stand the untrained net and raw pixels.
    assert list(rows[0]["numbers"]) == ["trained", "untrained", "raw pixels"]
    beside = {kind: rows[0]["numbers"][kind] for kind in ("untrained", "raw pixels")}
    assert record["rows"][1]["numbers"] == beside
    compiled = jax.jit(embed)
    x = [compiled(state, data.photos_source(s).images)[0] for s in ("train", "test")]
    y = [data.photos_source(s).labels for s in ("train", "test")]
    expected = evaluate.knn_accuracy(x[0], y[0], x[1], y[1], num_classes=16, k=7, temperature=0.2)
    assert abs(rows[0]["top1"]["trained"] - expected["top1"]) <= 2 / 1200  # near ties


def test_evaluate_probes_every_layer(run, capsys):
    rows = evaluate.evaluate_run(
        run,
        protocols=["layers"],
        settings=evaluate.Settings(epochs=2),
    )
    assert [row["layer"] for row in rows[:-1]] == ["block_group1", "block_group2"]
    assert list(rows[-1]["numbers"]) == ["untrained", "raw pixels"]
    assert "2 epochs" in rows[0]["protocol"] and "; the last layer" in capsys.readouterr().out


def test_a_run_without_a_classifier_is_refused(run):
    with pytest.raises(UserError, match="needs a classifier of its own: a run of supervised"):
        evaluate.evaluate_run(run, protocols=["classifier"])


def test_all_writes_the_card_with_all_numbers_and_what_is_missing(run, monkeypatch):
    def quick(subject):
        return evaluate.protocols.knn.run(subject, ("raw pixels",))

    kept = {name: evaluate.PROTOCOLS[name] for name in ("knn", "robustness")}
    kept["linear"] = dataclasses.replace(evaluate.PROTOCOLS["linear"], run=quick)
    monkeypatch.setattr(evaluate.run, "PROTOCOLS", kept)
    rows = evaluate.evaluate_run(run, protocols=["all"], settings=evaluate.Settings())
    text = (run / "card.md").read_text()
    _, state = jssl.load_encoder(run)
    assert evaluate.backbone_hash(state) in text
    for row in rows:
        for number in row["numbers"].values():
            assert f"| {100 * number['top1']:.1f} | " in text and number["protocol"] in text
    assert "* robustness: it needs a classifier of its own" in text
    assert len(rows) == 2 and not (run / "evaluation" / "robustness.json").exists()


def test_logistic_includes_the_untrained_net_and_raw_pixels(run, monkeypatch, capsys):
    import json

    monkeypatch.setattr(logistic_table, "RAW_SIDE", 4)  # 48 raw pixels and not 3072: seconds
    settings = evaluate.Settings(source="digits")
    rows = evaluate.evaluate_run(run, protocols=["logistic"], settings=settings)
    record = json.loads((run / "evaluation" / "logistic.json").read_text())
    numbers = record["rows"][0]["numbers"]
    assert list(numbers) == ["trained", "untrained", "raw pixels"]
    assert {n["count"] for n in numbers.values()} == {len(data.digits_source("test"))}
    assert numbers["raw pixels"]["dim"] == 48
    assert all(n["gradient"] <= 1e-5 and n["regularizer"] in evaluate.REGULARIZERS
               for n in numbers.values())  # fmt: skip
    assert numbers["trained"] == rows[0]["numbers"]["trained"] != numbers["untrained"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "one of 45 lambda from 1e-06 to 100000" in shown and "1,438 train" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocols": ["kn"]}, "Unknown protocol 'kn': did you mean 'knn'"),
        ({"protocols": ["robustness"]}, "no 'logits' among"),
        ({"preset": "simlcr"}, "Unknown linear preset 'simlcr': did you mean 'simclr'"),
        ({"feature": "projektion"}, "projection"),
        ({"source": "digitz"}, "did you mean 'digits'"),
        ({"step": 77}, "77"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_mistakes_are_refused(run, change, said):
    change = dict(change)
    names = change.pop("protocols", ["knn", "linear"])
    with pytest.raises(UserError, match=said):
        evaluate.evaluate_run(run, protocols=names, settings=evaluate.Settings(epochs=1, **change))


def test_a_checkpoint_of_another_shape_is_refused(run):
    from jssl.run import workdir

    config = workdir.read_config(run)
    config.unlock()
    config.simclr.proj_dim = 64
    workdir.write_json(run / "config.json", {**config.to_dict()})
    try:
        with pytest.raises(UserError, match="has other shapes than the config's state"):
            build.load_encoder(run)
    finally:
        config.simclr.proj_dim = 128
        workdir.write_json(run / "config.json", {**config.to_dict()})
