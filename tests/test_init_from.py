"""`init_from`: what a run takes of another, what starts anew, what is refused and remembered."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begun, get_config, made_up, made_up_run, small_config

from jssl import evaluate
from jssl.errors import UserError
from jssl.run import build, checkpoint, config_file, init_from, judge, versioned, workdir
from jssl.run.train import train

CLASSES = tuple(f"class {i}" for i in range(16))


def tiny(method, **updates):
    """A net of two thousand numbers; the same one for every method with a ResNet."""
    config = small_config(method, **{"launch": "jit", **updates})
    config.data.name, config.data.num_examples, config.augment.size = "synthetic", 64, 16
    config.model = small_config("simclr").model.copy_and_resolve_references()
    config.model.stage_sizes, config.model.width = (1,), 0.0625
    config.model.bn_groups = 4 if method == "moco" else 1
    config.augment.normalize = "none"
    if "num_classes" in config[method]:
        config[method].num_classes = 10
    config.monitor.every_epochs, config.final.enabled = 0.0, False
    config.log.tensorboard = False
    return config


def leaves(tree):
    return {k: np.asarray(x) for k, x in checkpoint.flat_leaves(tree).items()}


def same(found, expected):
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys() and found
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def differs(found, other):
    pairs = zip(leaves(found).values(), leaves(other).values(), strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs)


def test_simclr_starts_a_byol_with_its_encoder_in_both_networks(tmp_path, capsys):
    """Sharding, dtype and step are those of the new run; the heads are its own."""
    source = made_up_run(tiny("simclr"), tmp_path / "simclr", steps=(3, 7))
    config = tiny("byol", launch="pmap", init_from=f"{tmp_path / 'simclr'}:7")
    parts = build.build(config)
    first = build.init_state(parts)
    before = {k: (x.sharding, x.dtype) for k, x in checkpoint.flat_leaves(first).items()}
    state = begun(config, tmp_path / "byol", first)
    same(state.params["encoder"], source.params["encoder"])
    same(state.target["encoder"], source.params["encoder"])
    same(state.batch_stats["encoder"], source.batch_stats["encoder"])
    same(state.target_batch_stats["encoder"], source.batch_stats["encoder"])
    for head in ("projector", "predictor", "classifier"):
        same(state.params[head], first.params[head])
    same(state.target["projector"], first.target["projector"])
    same(state.opt_state, first.opt_state)
    assert int(state.step) == 0
    found = {k: (x.sharding, x.dtype) for k, x in checkpoint.flat_leaves(state).items()}
    assert found == before
    said = capsys.readouterr().out
    assert "encoder of step 7 of a run of simclr" in said
    assert "start anew: classifier (absent there), predictor (absent there), projector (" in said
    assert "optimiser state" in said
    kept = json.loads((tmp_path / "byol" / "init_from.json").read_text())
    network = {"params": source.params, "batch_stats": source.batch_stats}
    assert (kept["step"], kept["method"]) == (7, "simclr")
    assert kept["sha256"] == evaluate.tree_hash(network)
    pointers = [x.unsafe_buffer_pointer() for x in _buffers(state.params, state.target)]
    assert len(pointers) == len(set(pointers))


def _buffers(*trees):
    return [leaf.addressable_data(0) for tree in trees for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("mode", ["pmap", "shard_map", "jit", "vmap:2"])
def test_every_leaf_has_the_launchers_sharding(mode, tmp_path):
    """A bank that `shard_map` splits over devices stays split."""
    made_up_run(tiny("moco"), tmp_path / "moco", 0.0)
    method = "deepcluster_v2" if mode == "shard_map" else "moco"
    config = tiny(method, launch=mode, max_steps=1, init_from=str(tmp_path / "moco"))
    parts = build.build(config)
    wanted = jax.tree.leaves(jax.tree.map(lambda x: x.sharding, build.abstract_state(parts)))
    state = begun(config, tmp_path / "run")
    assert [x.sharding for x in jax.tree.leaves(state)] == wanted


def test_the_same_method_copies_target_and_average(tmp_path, capsys):
    for method, field in (("moco", "target"), ("cpc", "average"), ("noisy_student", "average")):
        config = tiny(method)
        if method == "cpc":
            config = small_config("cpc", launch="jit")
        if method == "noisy_student":
            config.noisy_student.update({"unlabeled_ratio": 0, "stages": (), "label_fraction": 1.0})
        source = made_up_run(config, tmp_path / method)
        config.init_from = str(tmp_path / method)
        first = made_up(config, 0.0)
        state = begun(config, tmp_path / f"{method}_run", first)
        same(state.params, source.params)
        same(getattr(state, field), getattr(source, field))
        differs(state.params, getattr(state, field))
        if method == "moco":
            same(state.target_batch_stats, source.target_batch_stats)
            same(state.queue, first.queue)
            assert "optimiser state, queue, queue_pointer" in capsys.readouterr().out
        if method == "noisy_student":
            same(state.average_stats, source.average_stats)


def test_a_tokenizer_is_copied(tmp_path):
    config = small_config("dvae", launch="jit")
    source = made_up_run(config, tmp_path / "dvae")
    config.init_from = str(tmp_path / "dvae")
    same(begun(config, tmp_path / "run", made_up(config, 0.0)).params, source.params)
    config.dvae.initial *= 2  # another decoder
    first = made_up(config, 0.0)
    state = begun(config, tmp_path / "run", first)
    same(state.params["encoder"], source.params["encoder"])
    same(state.params["decoder"], first.params["decoder"])


def test_weights_of_moco_start_a_classifier(tmp_path, capsys):
    source = made_up_run(tiny("moco"), tmp_path / "moco")
    config = tiny("supervised", init_from=str(tmp_path / "moco"))
    first = made_up(config, 0.0)
    state = begun(config, tmp_path / "run", first)
    same(state.params["encoder"], source.params["encoder"])
    same(state.params["classifier"], first.params["classifier"])
    assert "not used by this run: projector" in capsys.readouterr().out


@pytest.mark.parametrize("other", [False, True])
def test_a_classifier_is_copied_for_the_same_classes_only(other, tmp_path, capsys):
    """Of the same shape and other names it starts anew; the first name that differs is said."""
    names = (CLASSES[1], CLASSES[0], *CLASSES[2:]) if other else CLASSES
    config = tiny("supervised")
    config.supervised.num_classes = 16
    source = made_up_run(config, tmp_path / "source", classes=names)
    config.init_from = str(tmp_path / "source")
    parts = build.build(config)
    parts.train_source.class_names = CLASSES
    first = made_up(config, 0.0)
    read = init_from.read(parts, tmp_path / "run")
    (tmp_path / "run").mkdir()
    state = init_from.put(parts, read, first, tmp_path / "run")
    same(state.params["classifier"], (first if other else source).params["classifier"])
    said = capsys.readouterr().out
    assert ("class 0 is 'class 1' in one and 'class 0' in the other" in said) == other


def test_a_classifier_without_names_is_copied_for_the_same_data_only(tmp_path, capsys):
    config = tiny("supervised")
    config.data.name = "photos"
    made_up_run(config, tmp_path / "source")
    config = tiny("supervised", init_from=str(tmp_path / "source"))
    first = made_up(config, 0.0)
    state = begun(config, tmp_path / "run", first)
    same(state.params["classifier"], first.params["classifier"])
    assert "classes of 'photos' there, of 'synthetic' here" in capsys.readouterr().out


def test_a_head_of_other_codes_starts_anew(tmp_path, capsys):
    """Codes of another tokenizer have the same shapes and mean something else."""
    config = small_config("beit", launch="jit")
    source = made_up_run(config, tmp_path / "beit")
    config.init_from = str(tmp_path / "beit")
    first = made_up(config, 0.0)
    state = begun(config, tmp_path / "other", first)
    same(state.params["head"], first.params["head"])
    assert "head (codes of another tokenizer)" in capsys.readouterr().out
    state = begun(config, tmp_path / "same", first.replace(tokenizer=source.tokenizer))
    same(state.params["head"], source.params["head"])


def refused(config, folder):
    with pytest.raises(UserError) as error:
        train(config, folder)
    assert not folder.exists() or folder.name == "source"
    return str(error.value)


def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    made_up_run(tiny("simclr"), source, steps=(3, 7))
    config = tiny("byol", init_from=str(source))
    config.model.width = 0.125
    said = refused(config, run)
    assert "  encoder.block_group1_block0_bn0.bias: [4], expected [8]\n" in said
    assert "Type --config.model.width=0.0625, as that run has" in said
    config = tiny("simclr")
    for name, words in (
        (
            f"{source}:5",
            f"no checkpoint of step 5: there are 3, 7. Type --config.init_from={source}:7",
        ),
        (f"{source}/checkpoints/3", f"Type --config.init_from={source}:3."),
        (f"{source}:last", f"Type --config.init_from={source}:N, with the number of a step."),
        (str(tmp_path / "gone"), "is not the workdir of a run: there is no"),
        (str(source / "config.json"), f"type `jssl import --weights={source}/config.json"),
    ):
        config.init_from = name
        assert words in refused(config, run)
    config.init_from = str(source)
    assert "is the workdir of this run itself" in refused(config, source)
    (file,) = [p for p in (source / "checkpoints" / "7" / "data").rglob("*") if p.is_file()][:1]
    file.write_bytes(b"x")
    said = refused(config, run)
    assert "is damaged" in said and f"Type --config.init_from={source}:3." in said


def test_an_encoder_that_is_only_a_part_of_the_other_is_refused(tmp_path):
    """Fewer blocks have all of their shapes in a deeper net."""
    deeper = tiny("simclr")
    deeper.model.stage_sizes = (2,)
    made_up_run(deeper, tmp_path / "source")
    said = refused(tiny("simclr", init_from=str(tmp_path / "source")), tmp_path / "run")
    assert "  encoder.block_group1_block1_bn0.bias: [4], expected absent\n" in said
    assert "--config.model.stage_sizes='(2,)'" in said


def test_weights_that_are_not_finite_are_refused(tmp_path):
    config = tiny("simclr")
    workdir.open_workdir(tmp_path / "source", config)
    state = made_up(config, 0.0)
    params = jax.tree.map(lambda x: x.at[0].set(jnp.nan), state.params)
    saved = checkpoint.Checkpoints(tmp_path / "source", method="simclr")
    saved.save(1, state.replace(params=params), {})
    saved.close()
    said = refused(tiny("simclr", init_from=str(tmp_path / "source")), tmp_path / "run")
    assert "params.encoder." in said and "not finite. Type an earlier step" in said


def test_settings_that_keep_shapes_and_change_outputs_give_warnings(tmp_path, capsys):
    made_up_run(tiny("simclr"), tmp_path / "source")
    config = tiny("simclr", init_from=str(tmp_path / "source"))
    config.model.padding, config.augment.normalize = "same", "imagenet"
    begun(config, tmp_path / "run", made_up(config, 0.0))
    said = capsys.readouterr().out
    assert "trained with model.padding=symmetric, this one has same" in said
    assert "trained with augment.normalize=none, this one has imagenet" in said


def test_a_run_resumes_and_is_evaluated_without_its_source(tmp_path, monkeypatch):
    """The switch `init=` too, which takes the model section of the source."""
    from jssl.run import pretrained

    monkeypatch.chdir(tmp_path)
    made_up_run(tiny("simclr"), tmp_path / "source", 0.0)

    def run(steps):
        with pretrained.run_in("run"):
            config = get_config("supervised_photos", "smoke,labels=0.1,init=source")
        config.data.name, config.data.num_examples, config.augment.size = "synthetic", 64, 16
        config.supervised.label_fraction, config.launch, config.max_steps = 1.0, "jit", steps
        config.monitor.every_epochs, config.log.tensorboard = 0.0, False
        config.optim.lr = config.optim.weight_decay = 0.0
        return config

    config = run(1)
    assert config.init_from == "source" and config.model.width == 0.0625
    hashes = [judge.run_hash(config)]
    first = train(config, "run")
    shutil.rmtree("source")
    judge.train_and_judge(run(2), "run")
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["name"] == "supervised on synthetic, after simclr"
    assert record["steps"] == 2
    assert record["init_from"]["step"] == 0 and str(tmp_path) not in json.dumps(record["init_from"])
    same(build.load_encoder("run")[1].params["encoder"], first.params["encoder"])
    assert judge.run_hash(run(1), tmp_path / "run") == hashes[0]
    with pytest.raises(UserError, match="init_from: source -> other"):
        config = run(3)
        config.init_from = "other"
        train(config, "run")


def test_older_names_of_the_key(tmp_path):
    """On the command line, in a config file, and in the workdir of an older version."""
    config = small_config("supervised")
    config_file.override(config, "supervised.init_from", "runs/a:3")
    assert (config.init_from, config.supervised.init_from) == ("runs/a:3", "")
    config = small_config("deit")
    config_file.override(config, "deit.start_from", "runs/b")
    assert config.init_from == "runs/b"
    with pytest.raises(UserError, match="Unknown key --config.supervised"):
        config_file.override(small_config("simclr"), "supervised.init_from", "runs/a")
    (tmp_path / "own.py").write_text(
        "from jssl import config\n"
        "def get_config():\n"
        "    c = config.base('supervised', preset='cifar')\n"
        "    c.supervised.init_from = 'runs/c'\n"
        "    return c\n"
    )
    found = config_file.load(str(tmp_path / "own.py"))
    assert (found.init_from, found.supervised.init_from) == ("runs/c", "")
    stored = json.loads(found.to_json())
    del stored["init_from"]
    stored["supervised"]["init_from"] = "runs/c"
    assert versioned.complete(stored, tmp_path)["init_from"] == "runs/c"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(stored))
    workdir.open_workdir(tmp_path / "old", found)  # the same run
    found.supervised.init_from = "runs/d"
    with pytest.raises(UserError, match="'runs/d' is the older name of config.init_from"):
        versioned.move_old_keys(found)


def test_only_the_first_stage_uses_init_from():
    from jssl.run import stage_plan

    config = get_config("noisy_student_photos", "smoke")
    config.init_from = "runs/a"
    found = {stage.kind: stage.config.init_from for stage in stage_plan.plan(config, "run")}
    assert found["teacher"] == "runs/a"
    assert {value for kind, value in found.items() if kind != "teacher"} == {""}
