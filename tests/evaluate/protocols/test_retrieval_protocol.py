"""Retrieval end to end on a dozen photographs that lie as Oxford and Paris do."""

import io
import json
import pickle

import jax
import numpy as np
import pytest
from helpers import small_config
from PIL import Image
from runs import finished_run

from jssl import evaluate
from jssl.data import photos
from jssl.data.landmarks import read_landmarks
from jssl.errors import UserError
from jssl.evaluate import rmac_regions
from jssl.evaluate.protocols import retrieval

SIDE = 128
ROI = (10.4, 12, 115, 119.6)  # in pictures of 160 x 120, which become 128 x 96
# name -> photograph, and the part of it that is shown
OXFORD = {f"all_souls_{i:06d}": (i % 4, 8 * i) for i in range(9)}
PARIS = {f"paris_louvre_{i:06d}": (4 + i % 4, 5 * i) for i in range(6)}


def picture(number, start):
    pixels = photos.read(number)[start : start + 120, start : start + 160]
    return Image.fromarray(np.ascontiguousarray(pixels))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("landmarks")
    for folder, pictures in (("oxford5k", OXFORD), ("paris6k", PARIS)):
        (root / folder / "jpg").mkdir(parents=True)
        for name, what in pictures.items():
            picture(*what).save(root / folder / "jpg" / f"{name}.jpg", quality=95)
    (root / "paris6k" / "jpg" / "paris_louvre_000136.jpg").write_bytes(b"")  # a corrupt one
    names, gt = list(OXFORD), root / "oxford5k" / "gt"
    gt.mkdir()
    for k, (good, ok, junk) in enumerate([([1, 5], [7], [2, 3]), ([4], [0], [])]):
        lists = {"good": good, "ok": ok, "junk": junk}
        for role, found in lists.items():
            (gt / f"all_souls_{k}_{role}.txt").write_text("\n".join(names[i] for i in found))
        (gt / f"all_souls_{k}_query.txt").write_text(
            f"oxc1_{names[good[0]]} {' '.join(map(str, ROI))}"
        )
    entries = [
        {"bbx": list(ROI), "easy": [3], "hard": np.array([5]), "junk": [1]},
        {"bbx": [0, 0, 110, 110], "easy": [0], "hard": [], "junk": np.array([], int)},
    ]
    truth = {"imlist": names[:7], "qimlist": names[7:], "gnd": entries}
    (root / "oxford5k" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One block behind a stem that strides."""
    config = small_config("deepcluster", launch="jit")
    config.model.stem = "imagenet"
    return finished_run(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(retrieval, "SIDE", SIDE)
    monkeypatch.setattr(retrieval, "DIM", 5)


def settings(data_dir, source, **more):
    return evaluate.Settings(source=source, data_dir=str(data_dir), **more)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def regions(maps):
    found = [maps[t : t + h, x : x + w].max((0, 1)) for t, x, h, w in rmac_regions(*maps.shape[:2])]
    return unit(np.array(found, np.float64))


def read(folder, name, roi=None):
    """Scaled, and cropped after that."""
    image = Image.open(folder / "jpg" / f"{name}.jpg")
    ratio = SIDE / max(image.size)
    image = image.resize(tuple(round(s * ratio) for s in image.size), Image.Resampling.BILINEAR)
    return np.asarray(image if roi is None else image.crop([round(r * ratio) for r in roi]))


def compute_ap(ranked, positive, junk):
    """The data set's compute_ap, image by image."""
    area, recall, precision, found, seen = 0.0, 0.0, 1.0, 0, 0
    for image in ranked:
        if image not in junk:
            found += image in positive
            now = found / len(positive), found / (seen + 1)
            area += (now[0] - recall) * (precision + now[1]) / 2
            (recall, precision), seen = now, seen + 1
    return area


def test_the_map_is_the_networks_own_and_dense_layers_fix_no_size(tmp_path):
    """DeepCluster's AlexNet of 64 px, 1/16 as wide: its fc6 has 256 rows, for a map of 1 x 1."""
    config = small_config("deepcluster", launch="jit")
    config.model.update({"name": "alexnet", "width": 1 / 16, "stem": "imagenet", "sobel": True})
    config.model.stage_sizes = ()
    config.augment.size = 64
    context = evaluate.Context.load(finished_run(config, tmp_path), evaluate.Settings())
    assert retrieval.map_name(context) == "conv5"
    images = np.stack([np.asarray(picture(k, 9))[:64, :64] for k in range(2)])
    maps = retrieval.conv_map(context.embed, "conv5")

    @jax.jit
    def both(state, images):
        return maps(state, images), context.embed(state, images)[1]["conv5"]

    found, expected = both(context.state, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float(np.std(expected)) > 1e-3
    whole = jax.ShapeDtypeStruct((1, 96, 128, 3), "uint8")
    assert jax.eval_shape(maps, context.state, whole).shape == (1, 5, 7, 16)
    with pytest.raises(Exception, match="fc6"):
        jax.eval_shape(context.embed, context.state, whole)


def test_original_protocol_by_loops(run, data_dir, capsys):
    """Whitening on Paris, the query in the database, junk left out: all once more in numpy."""
    chosen = settings(data_dir, "oxford5k")
    (row,) = evaluate.evaluate_run(run, protocols=["retrieval"], settings=chosen)
    context = evaluate.Context.load(run, chosen)
    network = jax.jit(retrieval.conv_map(context.embed, "block_group1"))

    def described(folder, name, roi=None):
        return regions(
            np.asarray(network(context.state, read(data_dir / folder, name, roi)[None])[0])
        )

    x = np.concatenate([described("paris6k", name) for name in PARIS])
    d, v = np.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)))
    best = np.argsort(-d)[:5]
    whiten = v[:, best] / np.sqrt(np.maximum(d[best], 1e-5 * d.max()))

    def vector(*what):
        return unit(unit((described(*what) - x.mean(0)) @ whiten).sum(0))

    database = np.array([vector("oxford5k", name) for name in OXFORD])
    names, each = list(OXFORD), []
    for query, positive, junk in ((1, {1, 5, 7}, {2, 3}), (4, {4, 0}, set())):
        scores = database @ vector("oxford5k", names[query], ROI)
        each.append(compute_ap(np.argsort(-scores), positive, junk))
    found = row["numbers"]["trained"]
    assert found["value"] == pytest.approx(np.mean(each), abs=1e-9)
    assert found["ci95"] == pytest.approx(sorted(each)) and found["count"] == 2
    assert list(row["numbers"]) == ["trained", "untrained", "raw pixels"]
    words = found["protocol"]
    assert "whitened to 5 on the regions of 6 images of paris6k" in words
    assert "2 queries, 9 images of oxford5k, NOT the whole set of 5,063 images and 55" in words
    record = json.loads((run / "evaluation" / "retrieval.json").read_text())
    assert (record["data"]["examples"], record["data"]["queries"]) == (9, 2)
    assert record["rows"] == [row] and "sizes, each compiled once" in capsys.readouterr().out


def test_revisited_has_three_difficulties(data_dir):
    """By hand: 7 images that fall from first to last."""
    found = read_landmarks("roxford5k", data_dir)
    each = retrieval._precisions(found, np.tile(-np.arange(7.0), (2, 1)))
    # First query: 3 is easy, 5 hard and 1 junk: places 2 without both, 2 and 4, 3 without 3.
    # The second has image 0 alone, easy, in the first place.
    assert {name: values.tolist() for name, values in each.items()} == {
        "easy mAP": [(0 + 1 / 3) / 2, 1.0],
        "medium mAP": [((0 + 1 / 3) / 2 + (1 / 4 + 2 / 5) / 2) / 2, 1.0],
        "hard mAP": [(0 + 1 / 4) / 2],
    }
    assert "revisited lists, 2 queries, 7 images of roxford5k" in retrieval._protocol(found, (8, 5))


def test_all_skips_it_without_the_data_and_the_mistakes_say_what_to_type(run, data_dir):
    missing = evaluate.PROTOCOLS["retrieval"].needs
    bare = evaluate.Context.load(run, evaluate.Settings())
    assert missing(bare).startswith("Oxford5k and Paris6k: --source=oxford5k|paris6k|roxford5k")
    assert missing(evaluate.Context.load(run, settings(data_dir, "oxford5k"))) == ""
    assert "gnd_rparis6k.pkl" in missing(evaluate.Context.load(run, settings(data_dir, "rparis6k")))
    asked = evaluate.Context.load(run, settings(data_dir, "oxford5k"))
    assert "another --source" in evaluate.PROTOCOLS["knn"].needs(asked)
    for chosen, said in (
        (evaluate.Settings(), "oxbuild_images-v1.tgz.*--source=oxford5k --data_dir=DIR"),
        (evaluate.Settings(source="oxford5k"), "--data_dir is missing"),
        (settings(data_dir, "oxford"), "did you mean"),
        (settings(data_dir, "oxford5k", feature="block_group9"), "did you mean 'block_group1'"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate.evaluate_run(run, protocols=["retrieval"], settings=chosen)


def test_a_picture_that_is_damaged_is_named(run, data_dir, tmp_path):
    whole = io.BytesIO()
    picture(0, 0).save(whole, "JPEG")
    (tmp_path / "x.jpg").write_bytes(whole.getvalue()[:900])
    with pytest.raises(UserError, match="x.jpg' cannot be decoded"):
        retrieval._pixels(retrieval._Picture(tmp_path / "x.jpg"))


def test_a_dry_run_keeps_a_positive_of_each_query(run, data_dir):
    chosen = settings(data_dir, "oxford5k", limit=3)
    (row,) = evaluate.evaluate_run(run, protocols=["retrieval"], settings=chosen)
    path = run / "evaluation" / "dry_run" / "retrieval_limit_3.json"
    record = json.loads(path.read_text())
    assert record["rows"] == [row] and record["data"]["examples"] == 3
    few = read_landmarks("oxford5k", data_dir).few(3)
    # Of both queries the first positive, 1 and 0; then image 2, which is junk of the first.
    assert [p.stem[-1] for p in few.images] == ["1", "0", "2"] and len(few.other_images) == 3
    assert few.lists == {"positive": [[0], [1]], "junk": [[2], []]}
    assert few.num_positive == [1, 1]
    assert row["protocol"].startswith("DRY RUN on 3 pictures of each split, NO RESULT: R-MAC")
    few = read_landmarks("roxford5k", data_dir).few(2)
    assert (few.lists["easy"], few.lists["hard"], few.num_positive) == ([[0], [1]], [[], []], None)
