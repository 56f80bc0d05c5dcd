"""`--protocol=voc_detection` and `voc_segmentation`: trained, resumed, over seeds, recorded."""

import json

import numpy as np
import pytest
from helpers import get_config, small_config, stored_run
from PIL import Image

from jssl import evaluate
from jssl.data import cutouts
from jssl.errors import UserError
from jssl.evaluate.probes.dense_training import dense_config
from jssl.evaluate.protocols import dense
from jssl.run import stopping

SETTINGS = evaluate.Settings(source="cutouts", epochs=2.0, seed=3)
NAME = "voc_segmentation"


@pytest.fixture(scope="module", autouse=True)
def few():
    """25 train and 8 test pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutouts, "IMAGES", {"train": 25, "val": 4, "test": 8})
        yield


@pytest.fixture
def run(tmp_path):
    """The workdir of a supervised run with a ResNet of stride 8 before its last group."""
    config = small_config("supervised", launch="jit")
    config.model.update({"stem": "imagenet", "stage_sizes": (1, 1), "width": 0.125})
    stored_run(config, tmp_path / "run")
    return tmp_path / "run"


def test_two_seeds_are_trained_recorded_and_not_trained_again(run, capsys):
    settings = SETTINGS._replace(seeds=2)
    (row,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    said = capsys.readouterr()
    lines = said.out + said.err
    assert "4 trainings (seeds x trained and untrained) of 6 updates of 8 pictures" in lines
    assert lines.index("4 trainings") < lines.index("compiling")
    record = json.loads((run / "evaluation" / f"{NAME}.json").read_text())
    assert record["rows"] == [row] and record["data"]["train_examples"] == 25
    assert [*row["numbers"]] == ["trained", "untrained"]
    for kind, entry in row["numbers"].items():
        assert len(entry["by_seed"]) == 2 and entry["count"] == 8
        np.testing.assert_allclose(entry["value"], np.mean(entry["by_seed"]))
        low, high = entry["ci95"]
        half = 12.7062 * abs(np.diff(entry["by_seed"])[0]) / 2  # of Student's t, one degree
        np.testing.assert_allclose([low, high], entry["value"] + np.array([-half, half]), rtol=1e-4)
        assert "mean of seeds 3 to 4, interval over seeds" in entry["protocol"]
        assert "6 updates of 8 at 0.05" in entry["protocol"]
        sheet = np.asarray(Image.open(run / "evaluation" / f"{NAME}_{kind}.png"))
        assert sheet.ndim == 3
    trained = run / "evaluation" / NAME / "cutouts_trained_seed3_2_epochs"
    assert json.loads((trained / "init_from.json").read_text())["taken"] == ["encoder"]
    assert not (
        run / "evaluation" / NAME / "cutouts_untrained_seed4_2_epochs" / "init_from.json"
    ).exists()
    (again,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    assert again == row and "compiling" not in capsys.readouterr().err


def test_a_stop_saves_and_the_same_command_resumes(run, monkeypatch, capsys):
    settings = SETTINGS
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "asked", lambda: True)  # as by SIGTERM in the first step
        with pytest.raises(SystemExit) as stop:
            evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    assert stop.value.code == stopping.STATUS
    assert "saved after step 1; the same command resumes it" in capsys.readouterr().out
    place = run / "evaluation" / NAME / "cutouts_trained_seed3_2_epochs" / "checkpoints"
    assert [p.name for p in place.iterdir() if p.name.isdecimal()] == ["1"]
    (resumed,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    (run / "evaluation" / NAME).rename(run / "evaluation" / "before")
    (whole,) = evaluate.evaluate_run(run, protocols=[NAME], settings=settings)
    assert resumed == whole


def test_a_dry_run_says_so(run):
    rows = evaluate.evaluate_run(
        run, protocols=["voc_detection"], settings=SETTINGS._replace(limit=4)
    )
    assert [row["metric"] for row in rows] == ["AP50", "AP", "AP75", "COCO AP"]
    assert all(row["protocol"].startswith("DRY RUN on 4 pictures") for row in rows)
    assert not (run / "evaluation" / "voc_detection.json").exists()


def test_a_run_of_the_protocols_method_is_judged_as_it_is(tmp_path, capsys):
    config = get_config("fcn_photos", "smoke")
    config.fcn.num_classes = 6
    stored_run(config, tmp_path)
    settings = evaluate.Settings()
    (row,) = evaluate.evaluate_run(tmp_path, protocols=[NAME], settings=settings)
    assert [*row["numbers"]] == ["trained"] and "compiling" not in capsys.readouterr().err
    assert (tmp_path / "evaluation" / f"{NAME}.png").exists()
    with pytest.raises(UserError, match="judges a run of fast.*faster_rcnn"):
        evaluate.evaluate_run(tmp_path, protocols=["voc_detection"], settings=settings)
    with pytest.raises(UserError, match="expected whole pictures"):
        evaluate.evaluate_run(tmp_path, protocols=["knn"], settings=settings)


def test_it_is_run_by_name_only_and_on_a_resnet(run, tmp_path):
    context = evaluate.Context.load(run, evaluate.Settings())
    for chosen in (dense.DETECTION, dense.SEGMENTATION):
        assert dense.needs(chosen, context) == "hours on VOC: ask for it by name"
    stored_run(small_config("deit"), tmp_path / "vit")
    with pytest.raises(UserError, match="needs a ResNet or alexnet, found model.name .vit"):
        evaluate.evaluate_run(tmp_path / "vit", protocols=[NAME], settings=SETTINGS)


def test_own_pictures_larger_than_a_crop_fit_the_canvas(run, tmp_path):
    """`jssl evaluate` has no flag for the size: it is that of the largest picture."""
    cutouts.write(tmp_path / "own", images={"train": 9, "val": 3, "test": 3}, size=600)
    settings = evaluate.Settings(source="folder", data_dir=str(tmp_path / "own"))
    context = evaluate.Context.load(run, settings)
    options = {"kind": "untrained", "seed": 0}
    config = dense_config(context, "fcn", "voc", **options)
    assert (config.augment.size, config.fcn.test_size) == (513, 600)
    assert dense_config(context, "fcn32s", "voc", **options).augment.size == 600
