"""A run's own classifier on published robustness sets of their true layout, but for the size.

The labels are made from what the network says of each picture: how many are right is known.
"""

import io
import json

import jax
import numpy as np
import pytest
from helpers import small_config, stored_run, write_tfds
from PIL import Image

import jssl
from jssl import evaluate
from jssl.data import photos
from jssl.errors import UserError
from jssl.evaluate import IMAGENET_A, IMAGENET_R, mce_rows
from jssl.evaluate.protocols import imagenet_p, imagenet_variants
from jssl.metrics.mce import ALEXNET_C, ALEXNET_CLEAN, ALEXNET_P

COUNT = 6  # pictures of each set
SYNSETS = ("n01440764", "n01443537")  # classes 0 and 1


def picture(array, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, quality=95)
    return buffer.getvalue()


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def crop(encoded, size=32):
    """Short side to 37 (256 for 224), bicubic, and the central 32, by hand with PIL."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = 37 / min(image.size)
    wide, high = (int(scale * side) for side in image.size)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def whole(encoded, size=32):
    image = Image.fromarray(encoded) if isinstance(encoded, np.ndarray) else Image.open(
        io.BytesIO(encoded))  # fmt: skip
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pictures():
    """Parts of photographs, no two of one shape but all wider than high."""
    return [picture(photos.read(k)[: 150 + k, : 200 + 3 * k]) for k in range(COUNT)]


@pytest.fixture(scope="module")
def files():
    """Pictures of 224 px."""
    return [picture(np.ascontiguousarray(photos.read(k)[:224, :224])) for k in range(8)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("run")
    config = small_config("supervised", launch="jit")
    config.supervised.num_classes = 1000
    stored_run(config, folder, np.stack([crop(picture) for picture in pictures]))
    return folder


@pytest.fixture(scope="module")
def loaded(run):
    """What the subjects of a run share: the network is read and compiled once."""
    context = evaluate.Context.load(run, evaluate.Settings())
    return {"_loaded": (context.embed, context.state), "logits": context.logits,
            "outputs": context.outputs}  # fmt: skip


@pytest.fixture(scope="module")
def logits_of(loaded):
    compiled = jax.jit(lambda images: loaded["_loaded"][0](loaded["_loaded"][1], images)[1])

    def logits(images):
        batch = np.zeros((COUNT, 32, 32, 3), np.uint8)
        batch[: len(images)] = images
        return np.asarray(compiled(batch)["logits"])[: len(images)]

    return logits


@pytest.fixture
def judge(run, loaded, monkeypatch):
    """Judges the run on a set below a folder: its rows and its record."""

    load = evaluate.Context.load

    def context_of(folder, settings):
        context = load(folder, settings)
        context.__dict__.update(loaded)
        return context

    def judged(name, folder):
        settings = evaluate.Settings(data_dir=str(folder))
        rows = evaluate.evaluate_run(run, protocols=[name], settings=settings)
        record = json.loads((run / "evaluation" / f"{name}.json").read_text())
        assert record["rows"] == rows and record["protocol"] == name
        return rows, record

    monkeypatch.setattr(evaluate.Context, "load", context_of)
    return judged


@pytest.fixture
def small(monkeypatch):
    """The table of sets says that each has six pictures."""
    for name, about in imagenet_variants.SETS.items():
        monkeypatch.setitem(imagenet_variants.SETS, name, about._replace(examples=COUNT))
    monkeypatch.setattr(
        imagenet_variants, "CLEAN", imagenet_variants.CLEAN._replace(examples=COUNT)
    )
    monkeypatch.setattr(imagenet_p, "CLASSES", 2)


def write(name, folder, pictures, labels, split="test"):
    examples = [
        {"image": io.BytesIO(picture), "label": int(label), "file_name": f"{i}.jpg"}
        for i, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]
    write_tfds(name, folder, {split: examples})


@pytest.mark.parametrize(
    ("name", "classes"),
    [("imagenet_a", IMAGENET_A), ("imagenet_r", IMAGENET_R), ("imagenet_v2", tuple(range(1000)))],
)
def test_top1_is_among_the_classes_of_the_set(
    judge, logits_of, pictures, small, tmp_path, name, classes
):
    classes = np.array(classes)
    logits = logits_of([crop(picture) for picture in pictures])
    best = classes[np.argmax(logits[:, classes], axis=1)]
    if len(classes) < 1000:  # the test would not see a classifier of all 1000
        assert (np.argmax(logits, axis=1) != best).sum() >= 2
    labels = best.copy()
    labels[:2] = classes[np.argmin(logits[:2][:, classes], axis=1)]  # two are wrong
    write(imagenet_variants.SETS[name].tfds, tmp_path, pictures, labels)
    (row, top5, mean), record = judge(name, tmp_path)
    found = row["numbers"]["trained"]
    ranks = np.argsort(-logits[:, classes], axis=1, kind="stable")[:, :5]
    right = [label in classes[five] for label, five in zip(labels, ranks, strict=True)]
    assert top5["numbers"]["trained"]["value"] == found["top5"] == np.mean(right)
    hits = [np.mean(best[labels == k] == k) for k in np.unique(labels)]
    assert mean["metric"] == "mean per class"
    assert mean["numbers"]["trained"]["value"] == pytest.approx(np.mean(hits))
    assert (found["correct"], found["count"], found["dim"]) == (4, COUNT, len(classes))
    low, high = found["ci95"]
    assert low < 4 / 6 < high and record["data"]["examples"] == COUNT
    assert f"trained logits ({len(classes)}-d), own classifier, 6 test" in found["protocol"]
    assert "short side resized to 36 px (bicubic), central 32 px" in found["protocol"]
    positions = np.searchsorted(classes, labels)  # the classes are sorted
    assert row["top1"]["trained"] == pytest.approx(
        evaluate.subset_accuracy(logits, positions, classes=classes)
    )


def test_a_set_of_another_size_is_refused(judge, pictures, tmp_path):
    assert [about.examples for about in imagenet_variants.SETS.values()] == [
        7500, 30_000, 10_000, 50_000, 10_000,
    ]  # fmt: skip
    write("imagenet_a", tmp_path, pictures, [6] * COUNT)
    with pytest.raises(UserError, match="has 6 examples; the published one has 7,500"):
        judge("imagenet_a", tmp_path)


def test_an_image_of_another_class_is_refused(judge, pictures, small, tmp_path):
    write("imagenet_a", tmp_path, pictures, [6] * 5 + [0])
    with pytest.raises(UserError, match="'imagenet_a' has an image of class 0, which is none"):
        judge("imagenet_a", tmp_path)


@pytest.fixture(scope="module")
def archives(files, tmp_path_factory):
    """The authors' layout: KIND/SEVERITY/SYNSET/NAME; and which file of eight each shows."""
    folder, rng = tmp_path_factory.mktemp("archives"), np.random.default_rng(0)
    shown = rng.integers(0, len(files), (len(ALEXNET_C), 5, COUNT))
    for kind, rows in zip(ALEXNET_C, shown, strict=True):
        for severity, row in enumerate(rows, start=1):
            for i, k in enumerate(row):
                path = folder / "imagenet_c" / kind / str(severity) / SYNSETS[i // 3]
                path.mkdir(parents=True, exist_ok=True)
                (path / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(files[k])
    return folder, shown


def test_imagenet_c_of_the_authors_archives(judge, logits_of, files, pictures, small, archives):
    folder, shown = archives
    clean_says = np.argmax(logits_of([crop(picture) for picture in pictures]), axis=1)
    labels = np.r_[clean_says[:5], (clean_says[5] + 1) % 1000]
    write("imagenet2012", folder, pictures, labels, "validation")
    rows, record = judge("imagenet_c", folder)
    says = np.concatenate([np.argmax(logits_of([whole(f) for f in part]), axis=1)
                           for part in (files[:6], files[6:])])  # fmt: skip
    truth = np.array([0, 0, 0, 1, 1, 1])
    wrong = says[shown] != truth  # [15,5,6]
    assert rows[0]["errors"] == {
        kind: pytest.approx(w.mean(axis=1)) for kind, w in zip(ALEXNET_C, wrong, strict=True)
    }
    assert "the published files, 224 px resized to 32 px" in rows[0]["protocol"]
    assert record["data"]["parts"] == 75 and record["data"]["examples"] == COUNT
    value = {row["metric"]: row["numbers"]["trained"]["value"] for row in rows}
    alexnet = np.array(list(ALEXNET_C.values())).sum(axis=1)
    assert value["mCE"] == pytest.approx((wrong.mean(axis=2).sum(axis=1) / alexnet).mean())
    rise = (wrong.mean(axis=2) - 1 / 6).sum(axis=1) / (alexnet - 5 * ALEXNET_CLEAN)
    assert value["relative mCE"] == pytest.approx(rise.mean())
    assert value["top-1 error"] == pytest.approx(1 / 6)  # the last of that name: clean


def test_inconsistent_parts_are_refused(judge, small, archives):
    folder, _ = archives
    path = folder / "imagenet_c" / "gaussian_noise" / "2"
    moved = path / SYNSETS[0] / "ILSVRC2012_val_00000002.JPEG"
    moved.rename(path / SYNSETS[1] / moved.name)
    with pytest.raises(UserError, match="'gaussian_noise' of severity 2 has other images"):
        judge("imagenet_c", folder)
    (path / SYNSETS[0]).rename(path / "n00000001")
    with pytest.raises(
        UserError, match="has the folder 'n00000001', which is not a class of Image"
    ):
        judge("imagenet_c", folder)
    path.rename(folder / "elsewhere")
    with pytest.raises(UserError, match=r"'gaussian_noise/2' too, the archives of .*2235448"):
        judge("imagenet_c", folder)


def test_rows_of_many_images_have_the_interval_of_their_means():
    """Of independent images the standard error is known: the bootstrap's interval holds it."""
    rng = np.random.default_rng(0)
    wrong = {kind: rng.random((5, 4000)) < 0.5 for kind in ALEXNET_C}
    clean = rng.random(4000) < 0.2
    rows = mce_rows(wrong, clean=clean, protocol="toy")
    assert [row["metric"] for row in mce_rows(wrong, clean=None, protocol="toy")] == [
        "mCE", "top-1 error",
    ]  # fmt: skip
    alexnet = np.array(list(ALEXNET_C.values())).mean(axis=1)
    variance = np.mean(1 / alexnet**2) / 15 * 0.25 / 5 / 4000
    share = np.mean(1 / (alexnet - ALEXNET_CLEAN))
    relative = np.mean(1 / (alexnet - ALEXNET_CLEAN) ** 2) / 15 * 0.25 / 5 / 4000
    relative += share**2 * 0.2 * 0.8 / 4000
    for row, expected in ((rows[0], variance), (rows[2], relative)):
        low, high = row["numbers"]["trained"]["ci95"]
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(expected), rel=0.08)
        assert low < row["numbers"]["trained"]["value"] < high


def test_files_of_224_pixels_are_used_unchanged_and_others_refused(files):
    image = pixels(files[0])
    same = imagenet_variants.Resize(224, 224)({"image": image})["image"]
    np.testing.assert_array_equal(same, image)
    with pytest.raises(UserError, match="is 200 x 224 pixels; expected 224 x 224"):
        imagenet_variants.Resize(224, 224)({"image": image[:200]})


def test_cifar10_c_is_the_plain_mean(small, tmp_path, monkeypatch, tmp_path_factory):
    kinds = {"fog": "fog", "glass_blur": "frosted_glass_blur"}
    about = imagenet_variants.SETS["cifar10_c"]._replace(kinds=kinds)
    monkeypatch.setitem(imagenet_variants.SETS, "cifar10_c", about)
    tiles = photos.load("test", 32)[0][::200]

    def examples(order):
        return [{"image": io.BytesIO(picture(tiles[k], "PNG")), "label": i % 3, "id": str(i)}
                for i, k in enumerate(order)]  # fmt: skip

    splits = {"train": examples([0] * 16), "test": examples(range(6))}
    write_tfds("cifar10", tmp_path, splits)
    config = small_config("supervised", launch="jit", batch_size=16)
    config.data.name, config.data.data_dir = "cifar10", str(tmp_path)
    config.supervised.num_classes = 10
    run = tmp_path_factory.mktemp("cifar")
    stored_run(config, run, tiles)
    embed, state = jssl.load_encoder(run)
    says = np.argmax(np.asarray(jax.jit(embed)(state, tiles)[1]["logits"]), axis=1)
    rng, errors = np.random.default_rng(0), {}
    for kind, name in kinds.items():
        errors[kind] = []
        for severity in range(1, 6):
            shown = rng.integers(0, 6, 6)
            write_tfds(f"cifar10_corrupted/{name}_{severity}", tmp_path, {"test": examples(shown)})
            errors[kind].append(np.mean(says[shown] != np.arange(6) % 3))
    rows = evaluate.evaluate_run(run, protocols=["cifar10_c"])  # the run's own data_dir
    assert rows[0]["errors"] == {kind: pytest.approx(found) for kind, found in errors.items()}
    value = rows[0]["numbers"]["trained"]["value"]
    assert value == pytest.approx(np.mean(list(errors.values()))) and 0 < value < 1
    assert "6 images of CIFAR-10-C, 32 px, plain mean of 2" in rows[0]["protocol"]
    record = json.loads((run / "evaluation" / "cifar10_c.json").read_text())
    assert (record["data"]["name"], record["data"]["parts"]) == ("cifar10_corrupted/fog_1", 10)


def film(path, frames):
    """As the authors' ffmpeg writes them, with an encoder that is in every build."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_frames_of_a_video_come_in_order(tmp_path):
    levels = (30, 200, 90, 140)
    film(tmp_path / "x.mp4", [np.full((64, 96, 3), level, np.uint8) for level in levels])
    frames = jssl.data.read_video(tmp_path / "x.mp4")
    assert frames.shape == (4, 64, 96, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), levels, atol=2)
    (tmp_path / "y.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="y.mp4' cannot be decoded"):
        jssl.data.read_video(tmp_path / "y.mp4")


def test_imagenet_p_flips_and_distances(judge, logits_of, files, small, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(imagenet_p, "AT_ONCE", 2)  # 6 frames: what `logits_of` compiled
    names = [f"{SYNSETS[k]}/{name}.mp4" for k, name in ((0, "a"), (0, "b"), (1, "a"))]
    flips, distances = {}, {}
    for kind in ALEXNET_P:
        flips[kind], distances[kind] = [], []
        for name in names:
            path = tmp_path / "imagenet_p" / kind / name
            film(path, [pixels(files[k]) for k in rng.integers(0, 8, 3)])
            seen = [whole(frame) for frame in jssl.data.read_video(path)]
            logits = logits_of(seen)
            pairs = [(0, 1), (0, 2)] if "noise" in kind else [(0, 1), (1, 2)]
            best = np.argmax(logits, axis=1)
            flips[kind].append(np.mean([best[a] != best[b] for a, b in pairs]))
            ranks = np.argsort(np.argsort(-logits, axis=1), axis=1)
            distances[kind].append(np.mean([
                sum(abs(min(ranks[b][c], 5) - ranks[a][c]) for c in range(1000) if ranks[a][c] < 5)
                for a, b in pairs
            ]))  # fmt: skip
    rows, record = judge("imagenet_p", tmp_path)
    value = {row["metric"]: row["numbers"]["trained"]["value"] for row in rows}
    over = [np.mean(flips[kind]) / rate for kind, rate in ALEXNET_P.items()]
    assert 0 < np.mean(over) and value["mFR"] == pytest.approx(np.mean(over))
    assert value["top-5 distance of 15"] == pytest.approx(
        np.mean(list(distances.values())) / 15, abs=0.02
    )  # near ties of an untrained net
    assert record["data"]["examples"] == 3 == rows[0]["numbers"]["trained"]["count"]
    (tmp_path / "imagenet_p" / "snow" / names[0]).unlink()
    with pytest.raises(UserError, match="3 sequences of gaussian_noise and 2 of snow.*/a.mp4' is"):
        judge("imagenet_p", tmp_path)


def test_missing_data_is_reported_with_the_command(judge, run, loaded, tmp_path, monkeypatch):
    def needs(name):
        context = evaluate.Context.load(run, evaluate.Settings(data_dir=str(tmp_path)))
        context.__dict__.update(loaded)
        words = evaluate.PROTOCOLS[name].needs(context)
        with pytest.raises(UserError) as caught:
            evaluate.PROTOCOLS[name].run(context)
        assert str(caught.value) == f"Protocol '{name}' needs {words}"
        return words

    for name in ("imagenet_a", "imagenet_r", "imagenet_v2"):
        command = (
            f"python -m jssl.data.prepare {imagenet_variants.SETS[name].tfds} --data_dir={tmp_path}"
        )
        assert needs(name).endswith(command)
    words = needs("imagenet_c")
    assert f"tar -xf $f -C {tmp_path}/imagenet_c; done; or, regenerated by TFDS" in words
    assert f"imagenet2012_corrupted/${{c}}_$s --data_dir={tmp_path}; done; done" in words
    assert "zenodo.org/record/3565846" in needs("imagenet_p")
    assert needs("cifar10_c") == "a classifier of 10 classes, this one is of 1000"
    for kind in ALEXNET_P:
        (tmp_path / "imagenet_p" / kind).mkdir(parents=True)
    monkeypatch.setattr(imagenet_p.video, "can_read_videos", lambda: False)
    assert needs("imagenet_p") == "a decoder of videos: pip install 'jssl[video]'"


def test_the_tables_name_what_tfds_has():
    import tensorflow_datasets as tfds

    for about in imagenet_variants.SETS.values():
        base, _, variant = about.tfds.partition("/")
        names = set(tfds.builder_cls(base).builder_configs)
        parts = [f"{kind}_{s}" for kind in about.kinds.values() for s in range(1, 6)]
        assert set(parts) <= names and (variant in names or not variant)
        assert len(parts) in (0, 75)
    names = imagenet_variants.synsets()
    assert names == sorted(names) and len(names) == 1000 and tuple(names[:2]) == SYNSETS
