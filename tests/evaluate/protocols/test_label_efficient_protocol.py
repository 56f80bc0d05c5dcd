"""`--protocol=label_efficient`: records, values, and what it refuses."""

import json

import numpy as np
import pytest
from helpers import small_config
from runs import finished_run

from jssl import evaluate
from jssl.errors import UserError
from jssl.evaluate.protocols import label_efficient
from jssl.main import main
from jssl.run import workdir

TEN = {"name": "synthetic", "num_examples": 128}  # of ten classes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = small_config("cpc", launch="jit")
    config.data.update(TEN)
    return finished_run(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def shallow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_efficient, "BLOCKS", 1)
        yield patch


@pytest.fixture(scope="module")
def judged(run, shallow):
    """The record, and the fits: two fractions of the labels, both encoders."""
    fits, real = [], label_efficient.fit_efficient

    def spy(*args, **options):
        fits.append((args, options, real(*args, **options)))
        return fits[-1][2]

    shallow.setattr(label_efficient, "fit_efficient", spy)
    main([
        "evaluate", f"--workdir={run}", "--protocol=label_efficient", "--fraction=0.3,0.4",
        "--epochs=2", "--seed=3",
    ])  # fmt: skip
    shallow.setattr(label_efficient, "fit_efficient", real)
    return json.loads((run / "evaluation" / "label_efficient.json").read_text()), fits


def test_each_fraction_phase_and_encoder_has_its_numbers(judged):
    record, fits = judged
    assert [row["probe"] for row in record["rows"][::3]] == [
        f"label_efficient {share} % {phase}" for share in (30, 40) for phase in ("frozen",
                                                                                  "fine-tuned")
    ]  # fmt: skip
    train = record["data"]["train_examples"]
    for i, ((_, _, labelled, test), options, fit) in enumerate(fits):
        assert options["epochs"] == (2.0, 1.0) and options["seed"] == 3
        kind, share = label_efficient.KINDS[i % 2], (0.3, 0.4)[i // 2]
        for j, (logits, labels) in enumerate((fit.frozen, fit.finetuned)):
            rows = record["rows"][6 * (i // 2) + 3 * j :][:3]
            assert [row.get("metric") for row in rows] == [None, "top-5", "mean per class"]
            right = np.argmax(logits, axis=1) == labels
            ranks = np.sum(logits > logits[np.arange(len(labels)), labels][:, None], axis=1)
            assert rows[0]["numbers"][kind]["top1"] == np.mean(right)
            assert rows[1]["numbers"][kind]["value"] == pytest.approx(np.mean(ranks < 5))
            each = [right[labels == k].mean() for k in np.unique(labels)]
            assert rows[2]["numbers"][kind]["value"] == pytest.approx(np.mean(each))
            for row in rows:
                number = row["numbers"][kind]
                assert number["count"] == len(test) == len(labels)
                assert (number["fraction"], number["labels"]) == (share, len(labelled))
        assert len(labelled) == pytest.approx(share * train, abs=5)  # rounded in each class


def test_the_text_has_the_settings(judged):
    record, _ = judged
    text = record["rows"][0]["protocol"]
    for words in ("30 % of each class's labels", "drawn with seed 3", "map 32x32x", "residual "
                  "blocks of bottleneck", "updates (2 epochs) at 0.0005 frozen",
                  "updates (1 epochs) at 0.0002 fine-tuned", "cosine to 0, batch 32"):  # fmt: skip
        assert words in text, words
    assert record["settings"]["fraction"] == "0.3,0.4"


def test_encoders_are_the_averaged_and_the_first(judged, run):
    _, fits = judged
    context = evaluate.Context.load(run, evaluate.Settings())
    for i, state in enumerate((context.state, context.untrained)):
        given = fits[i][0][1]
        assert set(given) == {"encoder"}
        for name in given["encoder"]:
            np.testing.assert_array_equal(
                *(list(tree["encoder"][name].values())[0] for tree in (given, state.average))
            )


def test_the_costs_are_said_first_and_a_dry_run_is_short(run, shallow, capfd):
    settings = evaluate.Settings(limit=8, fraction="1")
    rows = evaluate.evaluate_run(run, protocols=["label_efficient"], settings=settings)
    said = capfd.readouterr().out
    assert "2 x (2 updates with the encoder frozen + 2 of everything)" in said
    assert said.index("the trained and the untrained encoder") < said.index("update 1 of 2")
    assert rows[0]["protocol"].startswith("DRY RUN on 8 pictures")
    assert "all 8 labels of synthetic" in rows[0]["protocol"]
    assert (run / "evaluation" / "dry_run" / "label_efficient_limit_8.json").exists()


def test_public_lists_are_used_whole():
    of = label_efficient.fractions_of
    assert of("") == of("", source="imagenet2012") == (0.01, 0.1)
    assert of("", source="imagenet_10pct") == (1.0,) and of("0.5", source="imagenet_10pct") == (
        0.5,
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--fraction=2"], "above 0 and up to 1.*found '2'"),
        (["--fraction=one"], "found 'one'. Type --fraction=0.01,0.1"),
        (["--fraction=0.1,0.1"], "a share twice"),
        (["--k=3"], "--k has no effect on --protocol=label_efficient"),
        (["--epochs=-1"], "--epochs expects 0 or more"),
    ],
)
def test_what_is_typed_wrong_is_said(tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        main(["evaluate", f"--workdir={tmp_path}", "--protocol=label_efficient", *flags])


def test_fraction_belongs_to_this_protocol(tmp_path):
    with pytest.raises(UserError, match="it is read by label_efficient"):
        main(["evaluate", f"--workdir={tmp_path}", "--protocol=knn", "--fraction=0.1"])


def test_other_methods_and_data_without_labels_are_refused(tmp_path, run):
    workdir.write_json(tmp_path / "config.json", small_config("simclr").to_dict())
    with pytest.raises(UserError, match=r"a run of cpc; found 'simclr'.*semi_imagenet"):
        evaluate.evaluate_run(tmp_path, protocols=["label_efficient"])
    context = evaluate.Context.load(tmp_path, evaluate.Settings())
    assert "a run of cpc" in label_efficient.PROTOCOL.needs(context)
    own = evaluate.Context.load(run, evaluate.Settings())
    assert "ask for it by name" in label_efficient.PROTOCOL.needs(own)
    with pytest.raises(UserError, match="a labelled data set: another --source"):
        evaluate.evaluate_run(
            run, protocols=["label_efficient"], settings=evaluate.Settings(source="oxford5k")
        )
