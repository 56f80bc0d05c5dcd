"""Generations: lists that cannot work, what is skipped and resumed, and what a stage leaves."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import get_config, small_config, stored_run, tiles
from PIL import Image

from jssl import data
from jssl.data import pseudo_labels, semi_supervised
from jssl.errors import UserError
from jssl.run import build, checksums, results, stage_plan, stages, workdir
from jssl.run.train import train

STUDENT = [{"stage": "label"}, {"stage": "student"}]
TEACHER = {"stage": "teacher"}


def config_of(*listed, **settings):
    config = small_config("noisy_student", launch="jit", max_steps=3)
    config.model.update({"name": "resnet8", "stage_sizes": (1,), "stem": "cifar"})
    config.augment.update({"name": "none", "size": 16})  # so that little is compiled
    config.checkpoint.every_steps = 1
    config.monitor.every_epochs = 0.0
    config.log.tensorboard = False
    config.noisy_student.num_classes = 0
    config.noisy_student.update({**settings, "stages": tuple(listed)})
    return config


def leaves(folder):
    _, state = build.load_encoder(folder)
    tree = state.replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(tree)}


def shrunk(images, size):
    """As the host makes them for evaluation."""
    small = [Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC) for x in images]
    return np.stack([np.asarray(x) for x in small])


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
    ("listed", "settings", "said"),
    [
        ([{"stage": "techer"}], {}, "Unknown stage 'techer' in stages: did you mean 'teacher'"),
        ([{"stage": "label"}], {}, "Stage 1_labels has no teacher"),
        ([TEACHER, {"stage": "student"}], {}, "Stage 2_student has no labels"),
        ([{"stage": "fixres"}], {}, "Stage 1_fixres has no teacher"),
        ([TEACHER, {"stage": "fixres"}], {}, "16 px: expected a higher resolution"),
        ([{**TEACHER, "epoch": 3}], {}, "Unknown key 'config.epoch': did you mean 'epochs'"),
        (STUDENT, {"teacher": "nowhere"}, "nowhere is not the workdir of a run"),
        (
            [TEACHER, STUDENT[0], {"stage": "student", "model": {"width": 0.06}}],
            {},
            "equal or larger, as it has more training data",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_lists_of_stages(listed, settings, said, tmp_path):
    with pytest.raises(UserError, match=said):
        stages.plan(config_of(*listed, **settings), tmp_path)


def test_only_a_config_with_stages_is_run_in_stages():
    assert len(stages.stages_of(get_config("noisy_student_photos"))) == 5
    assert stages.stages_of(config_of()) == ()
    assert stages.stages_of(get_config("simclr_photos")) == ()


def test_a_smaller_student_needs_a_switch_and_an_equal_one_does_not(tmp_path):
    smaller = [TEACHER, STUDENT[0], {"stage": "student", "model": {"width": 0.06}}]
    allowed = stages.plan(config_of(*smaller, allow_smaller_student=True), tmp_path)
    counts = [stage_plan.parameter_count(s.config) for s in allowed if s.kind != "label"]
    assert counts[1] < counts[0]
    assert len(stages.plan(config_of(TEACHER, *STUDENT, *STUDENT), tmp_path)) == 5
    larger = [TEACHER, STUDENT[0], {"stage": "student", "model": {"width": 0.5}}]
    # The second student is compared with the first, its teacher.
    with pytest.raises(UserError, match="Stage 5_student: its network 'resnet8' has"):
        stages.plan(config_of(*larger, *STUDENT), tmp_path)


def test_stages_use_the_folders_of_earlier_stages(tmp_path):
    listed = [TEACHER, *STUDENT, *STUDENT, {"stage": "fixres", "augment": {"size": 40}}]
    found = stages.plan(config_of(*listed), tmp_path)
    assert [s.name for s in found] == [
        "1_teacher", "2_labels", "3_student", "4_labels", "5_student", "6_fixres",
    ]  # fmt: skip
    assert [s.network and s.network.name for s in found] == [
        None, "1_teacher", "1_teacher", "3_student", "3_student", "5_student",
    ]  # fmt: skip
    students = [s.config.noisy_student for s in found if s.kind == "student"]
    assert [s.pseudo_labels for s in students] == [
        str(tmp_path / name / stages.LABELS) for name in ("2_labels", "4_labels")
    ]
    assert [s.config.noisy_student.unlabeled_ratio for s in found] == [0, 0, 2, 0, 2, 0]
    assert [s.config.noisy_student.generation for s in found] == [0, 0, 1, 1, 2, 2]


def test_fixres_has_no_augmentation_and_a_higher_resolution(tmp_path):
    config = config_of(TEACHER, {"stage": "fixres", "augment": {"size": 40}})
    config.augment.name, config.augment.options.policy_ops = "noisy_student", 2
    config.data.host_crop = "tf"
    own = stages.plan(config, tmp_path)[1].config
    assert (own.augment.size, own.augment.name, own.data.host_crop) == (40, "none", "device")
    own.noisy_student.num_classes = 16
    method, _ = build.make_method(own, axis_name=None)
    images = tiles(2)["image"]
    views = [jax.jit(method.views)(jax.random.key(k), images, np.int32(0)) for k in (0, 1)]
    np.testing.assert_array_equal(*views)
    assert views[0].shape == (1, 2, 40, 40, 3)
    assert own.noisy_student.unlabeled_ratio == 0


LISTED = [TEACHER, STUDENT[0], {"stage": "student", "augment": {"size": 20}},
          {"stage": "fixres", "augment": {"size": 24}}]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run: the student at 20 px, its teacher at 16."""
    folder = tmp_path_factory.mktemp("generations") / "run"
    record = stages.run(config_of(*LISTED), folder)
    return folder, record


def test_every_stage_writes_its_files_and_the_record_has_its_rows(run):
    folder, record = run
    assert [row["probe"] for row in record["rows"]] == [
        "1_teacher", "3_student", "3_student minus 1_teacher", "4_fixres",
        "4_fixres minus 3_student",
    ]  # fmt: skip
    teacher, student, gain = (row["top1"]["trained"] for row in record["rows"][:3])
    assert gain == student - teacher
    scores = record["rows"][0]["numbers"]["trained"]
    assert scores["count"] == 1200 and scores["top1"] < scores["top5"] <= 1
    assert scores["mean_per_class"] == pytest.approx(scores["top1"])  # 75 tiles of each class
    assert "16 px, 1,200 test examples of photos" in record["rows"][0]["protocol"]
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(record))
    assert record["name"] == "noisy_student on photos, 5 % labels"
    table = results.table([record])
    shown = f"| 3_student top-1 % | {100 * student:.1f} | – | – |"
    assert shown in table
    # The number is that of the averaged network on every test image.
    embed, state = build.load_encoder(folder / "1_teacher")
    test = data.photos_source("test")
    logits = jax.jit(embed)(state, shrunk(test.images, 16))[1]["logits"]
    assert np.mean(np.argmax(logits, 1) == test.labels) == pytest.approx(teacher, abs=2 / 1200)


def test_labels_are_the_teachers_at_its_own_resolution_with_provenance(run):
    folder, _ = run
    teacher, source = folder / "1_teacher", data.photos_source("train")
    labels = pseudo_labels.load(folder / "2_labels" / stages.LABELS, expected={})
    embed, state = build.load_encoder(teacher)
    rows = labels.indices[::101]
    expected = stages.probabilities(embed)(state, shrunk(source.images[rows], 16))
    np.testing.assert_allclose(labels.probs[::101], expected, atol=1e-5)
    assert len(labels.indices) == 3040 and labels.copies.sum() > 0
    found = labels.provenance
    assert found["fingerprint"] == source.fingerprint()
    assert (found["teacher_step"], found["teacher"]) == ("3", str(teacher))
    assert found["teacher_sha256"] == json.loads((teacher / "done.json").read_text())["sha256"]
    assert len(found["config_hash"]) == 12
    assert [p.name for p in sorted((folder / "2_labels").iterdir())] == [
        "done.json", stages.LABELS,
    ]  # fmt: skip


def test_a_restart_skips_finished_stages(run, monkeypatch):
    folder, record = run
    for name in ("_train", "_label", "_fixres"):
        monkeypatch.setattr(stages, name, lambda *a: pytest.fail("a finished stage ran again"))
    assert stages.run(config_of(*LISTED), folder)["rows"] == record["rows"]


def test_another_config_is_refused(run):
    config = config_of(*LISTED)
    config.optim.lr = 0.5
    with pytest.raises(UserError, match="holds a run of another config"):
        stages.run(config, run[0])


def test_a_killed_student_resumes_exactly(run, tmp_path, monkeypatch):
    """Everything up to the labels is there; the student is cut off after its first step."""
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    shutil.rmtree(folder / "3_student")

    def cut_off(config, place):
        config.max_steps = 1
        train(config, place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages, "train", cut_off)
        stages.run(config_of(*LISTED), folder)
    assert not (folder / "3_student" / "done.json").exists()
    assert leaves(folder / "3_student")[".step"] == 1
    stages.run(config_of(*LISTED), folder)
    same_bits(leaves(folder / "3_student"), leaves(run[0] / "3_student"))


def test_labelling_resumes_where_it_stopped(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    for name in ("2_labels", "3_student", "4_fixres"):
        shutil.rmtree(folder / name)
    monkeypatch.setattr(stages, "PART", 1200)
    calls, embed_source = [], stages.embed_source

    def counted(embed, state, source, **options):
        calls.append(len(source))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed_source(embed, state, source, **options)

    monkeypatch.setattr(stages, "embed_source", counted)
    stage = stages.plan(config_of(*LISTED), folder)[1]
    with pytest.raises(KeyboardInterrupt):
        stages._label(stage, folder / "2_labels")
    stages._label(stage, folder / "2_labels")
    assert calls == [1200, 1200, 1200, 640]  # the first part was not labelled twice
    a, b = (
        pseudo_labels.load(f / "2_labels" / stages.LABELS, expected={}) for f in (folder, run[0])
    )
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_allclose(a.probs, b.probs, atol=1e-6)


def test_labels_of_another_teacher_are_refused(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    done = folder / "1_teacher" / "done.json"
    done.write_text(done.read_text().replace(json.loads(done.read_text())["sha256"], "0" * 16))
    with pytest.raises(UserError, match="teacher_sha256: labels .*, here 0000000000000000"):
        stages.run(config_of(*LISTED), folder)


def test_pseudo_labels_of_labelled_examples_are_refused(run):
    """Other shares of labels than those the pseudo-labels were made with."""
    config = config_of(label_fraction=0.1, pseudo_labels=str(run[0] / "2_labels" / stages.LABELS))
    with pytest.raises(UserError, match="are labelled and unlabelled at once"):
        semi_supervised.labelled_half(config, data.photos_source("train"))
    config.data.name = "digits"
    with pytest.raises(UserError, match="do not belong here"):
        semi_supervised.labelled_half(config, data.digits_source("train"))


def test_a_single_student_can_be_started_by_hand(run, tmp_path):
    path = run[0] / "2_labels" / stages.LABELS
    train(config_of(pseudo_labels=str(path), generation=1), tmp_path / "alone")
    entry = json.loads((tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "unlabelled_loss" in json.dumps(entry)
    with pytest.raises(UserError, match="a teacher has to label first"):
        train(config_of(), tmp_path / "none")


def test_a_workdir_of_stages_names_those_of_its_networks(run):
    with pytest.raises(UserError, match="several stages.*--workdir=.*4_fixres"):
        workdir.read_config(run[0])
    assert workdir.read_config(run[0] / "3_student").augment.size == 20


def test_no_unlabelled_examples_are_refused(run, tmp_path):
    stage = stages.plan(config_of(*LISTED, label_fraction=1.0), run[0])[1]
    with pytest.raises(UserError, match="every example of 'photos' is labelled"):
        stages._label(stage, tmp_path / "labels")


def test_a_teacher_of_another_method_labels(tmp_path):
    """A supervised run keeps no average: its weights are hashed. Other classes are refused."""
    config = small_config("supervised")
    config.augment.size = 16
    teacher = tmp_path / "teacher"
    stored_run(config, teacher)
    settings = {"label_fraction": 0.05, "allow_smaller_student": True, "min_confidence": 0.0}
    own = config_of(*STUDENT, teacher=str(teacher), empty_classes="allow", **settings)
    stages.run(own, tmp_path / "run")
    done = json.loads((tmp_path / "run" / "1_labels" / "done.json").read_text())
    _, state = build.load_encoder(teacher)
    network = {"params": state.params, "batch_stats": state.batch_stats}
    assert done["teacher_sha256"] == checksums.tree_hash(network)[:16]
    assert done["labelled"] == 3040
    config.supervised.num_classes = 20
    stored_run(config, tmp_path / "other")
    own.noisy_student.teacher = str(tmp_path / "other")
    with pytest.raises(UserError, match="other' of method 'supervised' has 20 classes, data set"):
        stages.run(own, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
