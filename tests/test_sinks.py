"""Trackers: what W&B and MLflow are sent, once, by all starts of a run; here by stand-ins."""

import json
import sys
import types

import numpy as np
import pytest
from helpers import small_config

from jssl import main
from jssl.errors import UserError
from jssl.report import pictures_of
from jssl.run import judge, sinks
from jssl.run.train import train


def config_of(**log):
    config = small_config("simclr", launch="jit", max_steps=2)
    config.data.name, config.augment.size = "photos", 16
    config.model.stage_sizes, config.model.width = (1,), 0.0625
    config.monitor.every_epochs, config.monitor.max_examples = 1e-6, 64
    config.checkpoint.every_steps, config.final.linear_epochs = 1, 1
    config.report.enabled = True
    config.log.update({"tensorboard": False, **log})
    return config


class Client:
    """The calls of MLflow's client that are used; the store is shared, as a server's is."""

    store: dict = {}

    def __init__(self, tracking_uri):
        self.runs = Client.store.setdefault(tracking_uri, {})

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id=name) if name in self.experiments() else None

    def experiments(self):
        return {run.experiment for run in self.runs.values()}

    def create_experiment(self, name, artifact_location):
        Client.store["place"] = artifact_location
        return name

    def create_run(self, experiment, run_name):
        run = types.SimpleNamespace(
            info=types.SimpleNamespace(run_id=f"id{len(self.runs)}", lifecycle_stage="active"),
            data=types.SimpleNamespace(params={}, metrics={}),
            experiment=experiment, name=run_name, tags={}, points=[], pictures={}, status=[],
        )  # fmt: skip
        self.runs[run.info.run_id] = run
        return run

    def get_run(self, name):
        return self.runs[name]

    def update_run(self, name, status):
        self.runs[name].status.append(status)

    set_terminated = update_run

    def set_tag(self, name, key, value):
        self.runs[name].tags[key] = value

    def get_metric_history(self, name, key):
        return [p for p in self.runs[name].points if p.key == key]

    def log_batch(self, name, params=(), metrics=()):
        assert len(params) <= 100 and len(metrics) <= 100
        data = self.runs[name].data
        for param in params:
            assert param.key not in data.params  # MLflow refuses another value
            data.params[param.key] = param.value
        self.runs[name].points += metrics
        data.metrics.update({p.key: p.value for p in metrics})

    def log_image(self, name, pixels, artifact_file):
        self.runs[name].pictures[artifact_file] = pixels


class Wandb(types.ModuleType):
    """The calls of W&B that are used."""

    def __init__(self):
        super().__init__("wandb")
        self.starts, self.rows, self.summary, self.ends = [], [], {}, []
        self.Image = lambda pixels, caption: (pixels, caption)

    def init(self, **settings):
        self.starts.append(settings)
        return self

    def log(self, values, step=None):
        self.rows.append((step, values))

    def finish(self, exit_code):
        self.ends.append(exit_code)


@pytest.fixture
def mlflow(monkeypatch):
    point = lambda *args: types.SimpleNamespace(  # noqa: E731
        **dict(zip(("key", "value", "time", "step"), args, strict=True))
    )
    param = lambda key, value: types.SimpleNamespace(key=key, value=value)  # noqa: E731
    entities = types.ModuleType("mlflow.entities")
    entities.Metric, entities.Param = point, param
    module = types.ModuleType("mlflow")
    module.MlflowClient, module.entities = Client, entities
    monkeypatch.setattr(Client, "store", {})
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return Client


@pytest.fixture
def wandb(monkeypatch):
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def logged(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        (row["step"], k): v for row in rows for k, v in row.items() if k not in ("step", "time")
    }


def test_both_have_the_run_and_go_on_with_it(tmp_path, mlflow, wandb):
    """Config, tags, numbers, pictures and the table; after a resume nothing is sent twice."""
    folder, uri = tmp_path / "run", "sqlite:///somewhere/x.db"
    config = config_of(mlflow_uri=uri, mlflow_experiment="mine", wandb_project="p")
    train(config, folder)
    config.max_steps = 3
    judge.train_and_judge(config, folder)
    (run,) = mlflow.store[uri].values()
    assert run.experiment == "mine" and run.name == "run"
    assert mlflow.store["place"].endswith("/somewhere/mlflow_artifacts")
    assert run.tags.pop("config.max_steps") == "3" and run.data.params["max_steps"] == "2"
    assert run.tags == {"method": "simclr", "data": "photos", "jssl": "0.1.0"}
    assert run.data.params["simclr.temperature"] == str(config.simclr.temperature)
    sent = [((p.step, p.key), p.value) for p in run.points if not p.key.startswith("final/")]
    assert len(dict(sent)) == len(sent) and dict(sent) == logged(folder)
    assert run.status == ["RUNNING", "FINISHED"] * 3
    rows = json.loads((folder / "result.json").read_text())["rows"]
    final = {p.key: p.value for p in run.points if p.key.startswith("final/")}
    assert final["final/kNN/trained backbone/top-1"] == rows[0]["top1"]["trained"]
    assert len(final) == sum(len(row["numbers"]) for row in rows)
    kinds = ("views_that_the_network_sees", "neighbours", "map_of_the_features",
             "activation_of_the_last_map", "confusion_matrix")  # fmt: skip
    assert sorted(run.pictures) == sorted(f"pictures/{kind}-3.png" for kind in kinds)
    assert all(x.dtype == np.uint8 and x.shape[2] == 3 for x in run.pictures.values())

    assert len({start["id"] for start in wandb.starts}) == 1 and len(wandb.starts) == 3
    start = wandb.starts[0]
    assert start["resume"] == "allow" and start["project"] == "p" and start["name"] == "run"
    assert start["tags"] == ["simclr", "photos", "jssl 0.1.0"]
    assert start["config"]["max_steps"] == 2 and wandb.starts[2]["config"]["max_steps"] == 3
    sent = {(step, k): v for step, row in wandb.rows if step is not None for k, v in row.items()}
    assert sent == logged(folder) and wandb.ends == [0, 0, 0]
    shown = [name for step, row in wandb.rows if step is None for name in row]
    assert sorted(shown) == sorted(f"pictures/{kind}" for kind in kinds)
    assert wandb.summary == final


def test_what_was_stopped_is_not_finished(tmp_path, mlflow):
    class StopError(BaseException):
        pass

    for error, end in ((KeyError, "FAILED"), (StopError, "KILLED")):

        def on_step(step, metrics, error=error):
            raise error

        folder = tmp_path / end
        config = config_of(mlflow_uri="http://there")
        with pytest.raises(error):
            train(config, folder, on_step=on_step)
    assert [run.status[-1] for run in mlflow.store["http://there"].values()] == ["FAILED", "KILLED"]


def test_a_number_is_not_sent_twice_after_a_kill(tmp_path, mlflow):
    config = config_of(mlflow_uri="http://there")
    first = sinks.open_sinks(config, tmp_path)
    for step in range(1, 6):
        first.scalars(step, {"loss (mean)": step / 2})
    second = sinks.open_sinks(config, tmp_path)  # resumed at step 3
    for step in range(4, 8):
        second.scalars(step, {"loss (mean)": step / 2, "knn_top1": 0.5})
    (run,) = mlflow.store["http://there"].values()
    assert [p.step for p in run.points if p.key == "loss _mean_"] == [1, 2, 3, 4, 5, 6, 7]
    assert [p.step for p in run.points if p.key == "knn_top1"] == [4, 5, 6, 7]


def test_a_tracker_that_fails_ends_no_run(tmp_path, mlflow, capsys, monkeypatch):
    def away(*args, **options):
        raise ConnectionError("no route")

    config = config_of(mlflow_uri="http://there")
    opened = sinks.open_sinks(config, tmp_path)
    monkeypatch.setattr(Client, "log_batch", away)
    for step in (1, 2):
        opened.scalars(step, {"loss": 1.0})
    opened.close()
    said = capsys.readouterr().out
    assert said.count("WARNING MLflow failed") == 1 and "ConnectionError: no route" in said
    with pytest.raises(UserError, match="MLflow cannot be opened .*no route"):
        sinks.open_sinks(config, tmp_path / "..")


@pytest.mark.parametrize(
    "package, flag", [("wandb", "wandb_project=p"), ("mlflow", "mlflow_uri=file:x")]
)
def test_a_missing_package_is_said_before_anything_is_computed(
    tmp_path, monkeypatch, package, flag
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("jssl.run.build.build", lambda config: pytest.fail("it is computed"))
    flags = ["--config=simclr_photos:smoke", f"--workdir={tmp_path}/run", f"--config.log.{flag}"]
    with pytest.raises(UserError, match=rf"Type pip install 'jssl\[{package}\]'"):
        main.main(["train", *flags])
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_gone_there_is_named(tmp_path, mlflow):
    (tmp_path / "mlflow_id.txt").write_text("gone")
    with pytest.raises(UserError, match="mlflow_uri=http://there.* delete .*mlflow_id.txt"):
        sinks.open_sinks(config_of(mlflow_uri="http://there"), tmp_path)


def test_a_stage_has_the_name_of_the_whole_run(tmp_path):
    assert sinks.name_of(tmp_path / "1_teacher") == "1_teacher"
    (tmp_path / "stages.json").write_text("{}")
    assert sinks.name_of(tmp_path / "1_teacher") == f"{tmp_path.name}/1_teacher"


def test_sections_become_sheets_with_their_frames():
    red = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"  # noqa: E501
    pictures = [{"src": red, "text": "x", "mark": "right"}, {"src": "?", "text": "", "mark": ""}]
    section = {"title": "Near & far", "groups": [{"text": "", "pictures": pictures}]}
    ((name, sheet),) = pictures_of([section, {"title": "no picture"}])
    assert name == "near_far"
    assert sheet[6, 6].tolist() == [0x2B, 0x8A, 0x4B]  # the frame of what is right
    assert sheet[58, 58].tolist() == [255, 0, 0]
    assert sheet[58, 168].tolist() == [190, 190, 190]  # damaged


def test_a_tracker_that_is_away_at_the_end_costs_no_table(tmp_path, mlflow, capsys, monkeypatch):
    def away(**_):
        raise OSError("no route")

    config = config_of(mlflow_uri="sqlite:///a.db", tensorboard=False)
    monkeypatch.setattr(sys.modules["mlflow"], "MlflowClient", away)
    with pytest.raises(UserError, match="no route"):
        sinks.open_sinks(config, tmp_path)
    with sinks.open_sinks(config, tmp_path, required=False) as trackers:
        trackers.table(1, {"kNN": 0.5})
    assert "WARNING MLflow gets neither the table nor the pictures" in capsys.readouterr().out
