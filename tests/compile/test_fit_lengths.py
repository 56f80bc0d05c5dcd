"""The lengths of a compiled run are those of the run, with its data or without them."""

import jax
import pytest
from helpers import ROOT, small_config

from jssl.compile import lengths, step
from jssl.errors import UserError
from jssl.run import build, config_file


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("supervised", {}),
        ("supervised", {"supervised.label_fraction": 0.1}),
        ("supervised", {"supervised.held_out": 200}),
        ("supervised", {"supervised.held_out": 200, "supervised.label_fraction": 0.3}),
        ("simclr", {"data.held_out": 320}),
        ("noisy_student", {"noisy_student.label_fraction": 0.05}),
    ],
)
def test_with_its_data_a_run_is_counted_as_it_is_run(method, changes):
    counted, built = small_config(method), small_config(method)
    for config in (counted, built):
        config.update_from_flattened_dict(changes)
    if method == "noisy_student":  # the labelled half alone; the pool does not count
        built.noisy_student.unlabeled_ratio = 0
    lengths.set_lengths(counted, 0)
    build.build(built)
    assert counted.run == built.run
    assert counted[method].get("num_classes") == built[method].get("num_classes")


@pytest.mark.parametrize(
    ("config", "examples", "num_classes"),
    [
        ("supervised_imagenet", 1_281_167, 1000),
        ("semi_imagenet:labels=1", 12_811, 1000),
        ("semi_imagenet:labels=10,preset=byol", 128_116, 1000),
        ("beit_finetune_imagenet:init=", 1_281_167, 1000),
        ("finetune_transfer:source=pets", 2_940, 37),  # 740 are held out of 3,680
        ("finetune_transfer:source=pets,final", 3_680, 37),
        ("finetune_transfer:source=fgvc_aircraft", 3_334, 100),
        ("finetune_transfer:source=fgvc_aircraft,final", 6_667, 100),
        ("finetune_transfer:source=flowers,final", 2_040, 102),
        ("finetune_transfer:source=birdsnap", 42_405, 500),
        ("noisy_student_svhn", 69_257, 10),
        ("cpc_imagenet", 1_281_167, None),
    ],
)
def test_published_sizes_without_the_data(config, examples, num_classes, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    name, _, switches = config.partition(":")
    c = config_file.load(f"{ROOT}/configs/{name}.py:{switches}")
    lengths.set_lengths(c, 0)
    assert c.run.num_examples == examples
    assert num_classes is None or c[c.method].num_classes == num_classes


def test_ten_per_cent_of_the_labels_are_a_tenth_of_the_steps():
    c = small_config("supervised")
    c.data.name, c.data.data_dir, c.supervised.num_classes = "imagenet2012", "/nowhere", 0
    c.supervised.label_fraction, c.supervised.held_out, c.batch_size = 0.1, 10_000, 1024
    lengths.set_lengths(c, 0)
    assert c.run.num_examples == 127_117  # a tenth of 1,271,167
    assert c.run.steps_per_epoch == 124


def test_absent_data_of_unknown_size_need_examples():
    c = small_config("simclr")
    c.data.name, c.data.data_dir = "emnist", "/nowhere"
    with pytest.raises(UserError):
        lengths.set_lengths(c, 0)
    c.data.held_out = 1000
    lengths.set_lengths(c, 10_000)
    assert c.run.num_examples == 9_000


DEIT = f"{ROOT}/configs/deit_imagenet.py:distill=hard"


def test_a_distilled_run_takes_the_config_of_an_absent_teacher():
    c, teacher = config_file.load(DEIT), config_file.load(f"{ROOT}/configs/supervised_imagenet.py")
    c.launch = "jit"
    lengths.set_lengths(c, 0)
    step.set_other_runs(c, teacher)
    c.batch_size = 2
    _, _, (state, _, _) = step.make(c, jax.devices()[:1])
    shapes = [x.shape for x in jax.tree.leaves(state.teacher.params)]
    assert (2048, 1000) in shapes  # ResNet-50's classifier
    assert state.teacher.opt_state == {}


def test_a_missing_or_useless_teacher_is_refused():
    c = config_file.load(DEIT + ",teacher=/nowhere")
    with pytest.raises(UserError, match="Type --teacher=CONFIG"):
        step.set_other_runs(c, None)
    with pytest.raises(UserError, match="which has no classifier"):
        step.set_other_runs(c, small_config("simclr"))
    with pytest.raises(UserError, match="Leave out --teacher"):
        step.set_other_runs(small_config("simclr"), c)
