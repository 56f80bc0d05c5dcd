"""`--limit=N`: every protocol runs on a few pictures, and what it says is no result."""

import json

import numpy as np
import pytest
from helpers import get_config, small_config, stored_run, write_tfds
from runs import finished_run
from test_published import SYNSETS, film, picture

from jssl import evaluate
from jssl.data import photos
from jssl.errors import UserError
from jssl.evaluate import IMAGENET_A, IMAGENET_R
from jssl.evaluate.protocols import imagenet_variants
from jssl.main import main
from jssl.metrics.mce import ALEXNET_C, ALEXNET_P
from jssl.run import results, workdir

COUNT = 4  # pictures of each published set, of which a dry run takes 2


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    config = small_config("supervised", launch="jit")
    config.supervised.num_classes = 1000
    folder = tmp_path_factory.mktemp("classifier")
    stored_run(config, folder, photos.load("test", 32)[0][::200])
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The published robustness sets in their layouts: TFDS's, the archives and the videos."""
    folder = tmp_path_factory.mktemp("sets")
    files = [picture(np.ascontiguousarray(photos.read(k)[:224, :224])) for k in range(COUNT)]
    for name, classes in (("imagenet_a", IMAGENET_A), ("imagenet_r", IMAGENET_R),
                          ("imagenet_v2", range(1000))):  # fmt: skip
        examples = [{"image": file, "label": int(classes[i]), "file_name": f"{i}.jpg"}
                    for i, file in enumerate(files)]  # fmt: skip
        write_tfds(imagenet_variants.SETS[name].tfds, folder, {"test": examples})
    for kind in ALEXNET_C:
        for severity in range(1, 6):
            for i, file in enumerate(files):
                path = folder / "imagenet_c" / kind / str(severity) / SYNSETS[i // 2]
                path.mkdir(parents=True, exist_ok=True)
                (path / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(file)
    frames = [np.full((224, 224, 3), level, np.uint8) for level in (30, 200, 90)]
    for kind in ALEXNET_P:
        for i in range(COUNT):
            film(folder / "imagenet_p" / kind / SYNSETS[i // 2] / f"{i}.mp4", frames)
    return folder


def dry_record(folder, name, limit):
    """The record, after what holds for every dry run."""
    assert not (folder / "evaluation" / f"{name}.json").exists()
    record = json.loads(
        (folder / "evaluation" / "dry_run" / f"{name}_limit_{limit}.json").read_text()
    )
    words = f"DRY RUN on {limit} pictures of each split, NO RESULT: "
    assert record["protocol"] == words + name and record["settings"]["limit"] == limit
    for row in record["rows"]:
        assert row["protocol"].startswith(words)
        for number in row["numbers"].values():
            assert number["protocol"].startswith(words) and number["count"] <= limit
    return record


@pytest.mark.parametrize(
    "name", ["imagenet_a", "imagenet_r", "imagenet_v2", "imagenet_c", "imagenet_p"]
)
def test_the_published_sets(classifier, sets, name, capsys):
    """A few pictures in the true layout do, which without --limit are refused."""
    args = ["evaluate", f"--workdir={classifier}", f"--data_dir={sets}", f"--protocol={name}"]
    main([*args, "--limit=2"])
    record = dry_record(classifier, name, 2)
    assert record["data"]["examples"] == 2
    assert "DRY RUN on 2 pictures of each split, NO RESULT" in capsys.readouterr().out
    with pytest.raises(UserError, match="has 4 examples; the published|of 2 classes; ImageNet-P"):
        main(args)


def test_the_protocols_of_a_runs_own_data(tmp_path, capsys):
    """Of tiles that are sorted by class, two are of two classes."""
    config = small_config("supervised", launch="jit")
    config.supervised.num_classes = 16
    folder = finished_run(config, tmp_path / "run")
    workdir.write_json(folder / "classes.json", list(photos.CLASS_NAMES))
    names = "knn,linear,softmax_regression,mlp,classifier,logistic,layers,robustness"
    main(["evaluate", f"--workdir={folder}", f"--protocol={names}", "--limit=2", "--epochs=1"])
    for name in names.split(","):
        record = dry_record(folder, name, 2)
        assert (record["data"]["examples"], record["data"]["train_examples"]) == (2, 2)
        assert record["data"]["name"] == "photos, dry run on 2 of 1,200"
    printed = capsys.readouterr().out
    assert "k=2," in printed and "NO RESULT. Records: " in printed
    with pytest.raises(UserError, match="No record of a finished run"):
        results.load_records(folder)  # `jssl report` reads no dry run


def test_the_grid_and_all_protocols_without_a_card(tmp_path, monkeypatch):
    folder = finished_run(get_config("cpc_photos", "smoke"), tmp_path / "run")
    chosen = {name: evaluate.PROTOCOLS[name] for name in ("grid", "knn")}
    monkeypatch.setattr(evaluate.run, "PROTOCOLS", chosen)
    main(["evaluate", f"--workdir={folder}", "--protocol=all", "--limit=3", "--epochs=1"])
    dry_record(folder, "grid", 3)
    assert not (folder / "card.md").exists()


def test_embed_writes_so_many(classifier, tmp_path, capsys):
    args = ["embed", f"--workdir={classifier}", f"--output={tmp_path / 'few.npz'}"]
    main([*args, "--limit=3"])
    with np.load(tmp_path / "few.npz") as saved:
        assert len(saved["features"]) == 3 and len(set(saved["labels"])) == 3
        assert str(saved["source"]) == "photos, dry run on 3 of 1,200"
    assert "of photos, dry run on 3 of 1,200 (test)" in capsys.readouterr().out
    with pytest.raises(UserError, match="--limit expects 1 or more, found 0"):
        main([*args, "--limit=0"])


@pytest.mark.parametrize("limit", [0, -3])
def test_no_pictures_are_refused(classifier, limit):
    with pytest.raises(UserError, match=f"--limit expects 1 or more, found {limit}"):
        main(["evaluate", f"--workdir={classifier}", "--protocol=knn", f"--limit={limit}"])
