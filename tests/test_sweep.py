"""`jssl sweep` and `jssl runs`: a grid of runs, its choice, and lists of runs."""

import json

import pytest
from helpers import ROOT

from jssl import main
from jssl.errors import NotFiniteError, UserError
from jssl.run import runs, sweep

CONFIG = f"{ROOT / 'configs' / 'supervised_photos.py'}:smoke"
HELD = ["--config.data.held_out=32", "--config.launch=jit"]


def refused(*words):
    with pytest.raises(UserError) as error:
        main.main(["sweep", f"--config={CONFIG}", *words])
    return str(error.value)


def finished(folder, score, *, config=None, step=4):
    """Writes the files of a finished run whose last score is given."""
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    flat = {"method": "supervised", "data": {"name": "photos"}, "run": {"total_steps": 4}}
    (folder / "config.json").write_text(json.dumps(config or flat))
    rows = [{"step": 2, "held_out_top1": 0.9}, {"step": 4, "held_out_top1": score, "loss": 1.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_grid_is_every_combination():
    grid = sweep.combinations(["optim.lr=0.1,0.3", "--config.epochs=1,2".removeprefix("--")])
    assert [c.settings for c in grid] == [
        (("optim.lr", lr), ("epochs", epochs)) for lr in ("0.1", "0.3") for epochs in ("1", "2")
    ]
    (pair,) = sweep.combinations(["optim.betas=(0.9,0.99)"])
    assert pair.settings == (("optim.betas", "(0.9,0.99)"),)
    assert pair.name == "optim.betas=_0.9_0.99_"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--workdir is missing"),
        (["--workdir={}"], "--over is missing. Type for example --over=optim.lr=0.1,0.3"),
        (["--workdir={}", "--over=optim.lr"], "expected a key and its values"),
        (["--workdir={}", "--over=optim.lr=0.1,0.1"], "each key and each value once"),
        (["--workdir={}", "--over=seed=0,1"], "type --seeds=0,1,2"),
        (["--workdir={}", "--over=optim.lr=0.1", "--seeds=a"], "expected whole numbers"),
        (["--workdir={}", "--over=optim.lr=0.1"], "never by the test split; found data.held_out=0"),
        (["--workdir={}", "--over=optim.lrr=0.1", *HELD], "did you mean 'lr'"),
        (["--workdir={}", "--over=optim.lr=-1", *HELD], "optim.lr"),
    ],
)
def test_mistakes_are_refused_before_anything_is_trained(words, said, tmp_path):
    assert said in refused(*(word.format(tmp_path / "s") for word in words))
    assert not list((tmp_path / "s").glob("**/checkpoints"))


def test_a_sweep_chooses_without_the_test_split_and_continues(tmp_path, monkeypatch, capsys):
    scores = {"0.1": (0.25, 0.5), "0.2": (0.5, 0.75)}
    trained, judged = [], []

    def train_and_judge(config, folder):
        if config.final.enabled:
            judged.append((config.optim.lr, config.seed))
            return
        trained.append((config.optim.lr, config.seed))
        if config.optim.lr == 0.3:
            raise NotFiniteError("not finite")
        if len(trained) == 3:
            raise KeyboardInterrupt
        finished(folder, scores[str(config.optim.lr)][config.seed])

    monkeypatch.setattr(sweep, "train_and_judge", train_and_judge)
    command = ["sweep", f"--config={CONFIG}", f"--workdir={tmp_path / 's'}", "--seeds=0,1", *HELD]
    over = "--over=optim.lr=0.1,0.2"
    with pytest.raises(KeyboardInterrupt):
        main.main([*command, over])
    assert trained == [(0.1, 0), (0.1, 1), (0.2, 0)] and not judged
    main.main([*command, over])
    assert trained[3:] == [(0.2, 0), (0.2, 1)]  # what was finished is not trained again
    assert judged == [(0.2, 0), (0.2, 1)]  # only the chosen runs
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert record["chosen"] == "optim.lr=0.2" and record["scores"]["optim.lr=0.1"] == [0.25, 0.5]
    said = capsys.readouterr().out
    assert ["optim.lr=0.2", "62.5", "±", "17.7", "2/2"] in [
        line.split() for line in said.splitlines()
    ]
    assert "on 32 held-out examples" in said
    main.main([*command, "--over=optim.lr=0.1,0.2,0.3"])  # a further value, which diverges
    assert trained[5:] == [(0.3, 0), (0.3, 1)]
    assert "goes on without this combination" in capsys.readouterr().out
    message = refused(f"--workdir={tmp_path / 's'}", "--over=epochs=1,2", *HELD)
    assert "holds a sweep over optim.lr of another config" in message


@pytest.fixture
def folder(tmp_path):
    """Runs in every state."""
    finished(tmp_path / "a" / "done", 0.5)
    (tmp_path / "a" / "done" / "best").mkdir()
    best = {"step": 2, "held_out_top1": 0.9, "chosen_on": "x"}
    (tmp_path / "a" / "done" / "best" / "best.json").write_text(json.dumps(best))
    (tmp_path / "a" / "done" / "best" / "config.json").write_text("{}")
    finished(tmp_path / "half", 0.5, step=2)
    finished(tmp_path / "nan", 0.5, step=2)
    (tmp_path / "nan" / "not_finite.json").write_text("{}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_bytes(b"\xff{")
    (tmp_path / "broken" / "metrics.jsonl").write_bytes(b'\xff\n{"step": 1}\n[]\n{"lo')
    return tmp_path


def test_runs_are_listed_with_their_states(folder, capsys):
    main.main(["runs", str(folder)])
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line}
    assert {name for name in lines if name[0] != "["} >= {"a/done", "half", "nan", "broken"}
    assert "best" not in lines  # the kept state is not a run of its own
    assert "finished" in lines["a/done"] and "4/4" in lines["a/done"]
    assert "90.0 (2)" in lines["a/done"]
    assert "stopped" in lines["half"] and "2/4" in lines["half"]
    assert "not finite" in lines["nan"] and "damaged" in lines["broken"]
    assert max(map(len, said.splitlines())) <= 100


def test_two_runs_are_compared(folder, capsys):
    other = folder / "other"
    flat = {"method": "supervised", "optim": {"lr": 0.3}, "run": {"total_steps": 4}}
    finished(other, 0.75, config=flat)
    number = {"top1": 0.625, "feature": "trained backbone", "protocol": "k=20, cosine"}
    second = {"value": 0.875, "feature": "trained backbone", "protocol": "k=20, cosine"}
    record = {
        "rows": [
            {"probe": "kNN", "numbers": {"trained": number}},
            {"probe": "kNN", "metric": "top-5", "numbers": {"trained": second}},
        ]
    }
    (other / "result.json").write_text(json.dumps(record))
    main.main(["runs", str(folder / "half"), str(other)])
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["optim.lr", "(absent)", "0.3"] in lines and ["held_out_top1", "0.5", "0.75"] in lines
    assert ["kNN", "trained", "backbone", "-", "62.5", "[1]"] in lines
    assert ["kNN", "trained", "backbone", "top-5", "-", "87.5", "[1]"] in lines
    assert "[1] k=20, cosine" in said and "method" not in said


def test_folders_without_runs_are_refused(tmp_path):
    for words, said in (
        ([str(tmp_path)], "No run in"),
        ([str(tmp_path / "x")], "is no folder"),
        ([str(tmp_path), str(tmp_path)], "is not the workdir of a run"),
        (["a", "b", "c"], "Found 3 folders"),
        ([], "folders|DIR"),
    ):
        with pytest.raises(UserError, match=said):
            main.main(["runs", *words])


def test_a_run_in_progress_is_said(folder):
    from jssl.run import lock

    with lock.held(folder / "half"):
        assert runs.read_run(folder / "half").state == "running"
    assert runs.read_run(folder / "half").state == "stopped"
