"""DeiT: its teacher, heads, switches and fine-tuning at another resolution."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begun, get_config, small_config, tiles

from jssl import RunLengths, data, losses, optim
from jssl import config as config_lib
from jssl.data.pipeline import repeated
from jssl.errors import UserError
from jssl.methods import deit
from jssl.run import batches as batches_lib
from jssl.run import build, checkpoint

PLAIN = {"erasing_p": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0}


def made(config):
    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 8})
    return build.make_method(config, axis_name=None)[0]


def stepped(**settings):
    """A method, its state and a step; nothing is drawn, and lambda is not 1/2.

    The student's pixels are normalised and the teacher's are not, so that they cannot be mixed up.
    """
    config = small_config("deit")
    config.augment.name = "none"
    config.augment.normalize = "imagenet"
    config.model.stochastic_depth = 0.0
    config.optim.warmup_epochs = 0.0  # or the first update is none
    config.deit.update({**PLAIN, "weight": 0.3, **settings})
    assert json.loads(config.deit.teacher_config)["augment"]["normalize"] == "none"
    method = made(config)
    state = jax.jit(lambda: build.first_state(config, method, 16))()
    return config, method, state, *jax.jit(method.train_step)(state, tiles(16))


@pytest.fixture(scope="module")
def hard():
    return stepped()


def test_the_loss_is_the_lectures_equation(hard):
    """Recomputed from the logits that `embed` names, in numpy."""
    _, method, state, _, metrics = hard
    batch = tiles(16)
    _, named = jax.jit(method.embed)(state, batch["image"])
    own = deit.make_teacher(hard[0], RunLengths(**hard[0].run))[0]
    teacher = np.asarray(own.embed(state.teacher, batch["image"])[1]["logits"])

    def cross_entropy(logits, labels):
        z = np.asarray(logits, np.float64)
        return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(16), labels])

    base = cross_entropy(named["class_logits"], batch["label"])
    wise = cross_entropy(named["distillation_logits"], teacher.argmax(1))
    np.testing.assert_allclose(metrics["base_loss"], base, rtol=1e-5)
    np.testing.assert_allclose(metrics["distillation_loss"], wise, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.7 * base + 0.3 * wise, rtol=1e-5)
    mean = (named["class_logits"] + named["distillation_logits"]) / 2
    np.testing.assert_array_equal(named["logits"], mean)


def test_soft_distillation_and_the_average_of_a_step():
    """tau^2 KL of the teacher's distribution; the average is taken of the parameters AFTER it."""
    soft = {"distillation": "soft", "temperature": 3.0, "reduction": "official", "ema_decay": 0.25}
    config, method, state, after, metrics = stepped(**soft)
    judged = state.replace(average=state.params)  # `embed` is of the average
    named = jax.jit(method.embed)(judged, tiles(16)["image"])[1]
    own = deit.make_teacher(config, RunLengths(**config.run))[0]
    teacher = own.embed(state.teacher, tiles(16)["image"])[1]["logits"]

    def log_softmax(z):
        z = np.asarray(z, np.float64) / 3.0
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    p, q = log_softmax(teacher), log_softmax(named["distillation_logits"])
    wise = 9.0 * np.mean(np.sum(np.exp(p) * (p - q), axis=1)) / 16  # official: divided by K too
    np.testing.assert_allclose(metrics["distillation_loss"], wise, rtol=1e-4)
    loss = 0.7 * metrics["base_loss"] + 0.3 * metrics["distillation_loss"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    pairs = zip(*map(jax.tree.leaves, (state.average, after.params, after.average)), strict=True)
    for old, new, average in pairs:
        np.testing.assert_allclose(average, 0.25 * old + 0.75 * new, atol=1e-6)
    assert not np.allclose(
        after.average["classifier"]["kernel"],
        state.average["classifier"]["kernel"],
        atol=1e-6,
    )


def test_the_teacher_stands_still(hard):
    _, _, state, after, _ = hard
    for a, b in zip(*map(jax.tree.leaves, (state.teacher, after.teacher)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert after.teacher.batch_stats and after.average == {}
    assert not np.array_equal(
        after.params["classifier_dist"]["kernel"], state.params["classifier_dist"]["kernel"]
    )


def test_the_teacher_sees_the_students_pixels_in_its_own_statistics():
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 2, 2, 3)
    from jssl import augment

    back = augment.normalize(augment.denormalize(x, "imagenet"), "imagenet")
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(
        augment.denormalize(jnp.zeros((1, 3)), "cifar10"), [[0.4914, 0.4822, 0.4465]], atol=1e-6
    )


def test_initialisers_and_decay(hard):
    config, _, state, _, _ = hard
    kernel = np.asarray(state.params["classifier"]["kernel"])
    assert abs(kernel.std() - 0.02) < 0.003
    found = optim.groups(state.params, rules=config.optim.rules)
    assert found["encoder/dist_token"] == "decay+adapt"
    assert found["encoder/cls_token"] == found["encoder/pos_embed"] == "none"
    assert found["classifier/bias"] == "none"


# Each row of the lecture's ablation: the setting it changes, to what and from what.
ROWS = {
    "optim.name": ("sgd", "adamw"),
    "augment.options.policy_ops": (0, 2),
    "augment.options.policy_form": ("autoaugment", "timm"),
    "deit.mixup_alpha": (0.0, 0.8),
    "deit.cutmix_alpha": (0.0, 1.0),
    "deit.erasing_p": (0.0, 0.25),
    "model.stochastic_depth": (0.0, 0.1),
    "model.dropout": (0.1, 0.0),
    "deit.repeated_augmentation": (1, 3),
    "deit.ema_decay": (0.99996, 0.0),
}
SWITCHES = {
    "optim.name": "optim=sgd",
    "augment.options.policy_ops": "rand=none",
    "augment.options.policy_form": "rand=autoaugment",
    "deit.mixup_alpha": "mixup=false",
    "deit.cutmix_alpha": "cutmix=false",
    "deit.erasing_p": "erasing=false",
    "model.stochastic_depth": "stochastic_depth=false",
    "model.dropout": "dropout",
    "deit.repeated_augmentation": "repeated=false",
    "deit.ema_decay": "ema",
}


BESIDES = {  # and what belongs to it
    "optim.name": {"optim.lr", "optim.weight_decay"},
    "augment.options.policy_form": {"augment.options.policy_translate"},
}


def moved(switch, arg=""):
    """The keys that a switch changes, with their values."""
    before = config_lib.flatten(get_config("deit_imagenet", arg))
    after = config_lib.flatten(get_config("deit_imagenet", f"{arg},{switch}"))
    return {k: (after[k], before[k]) for k in before if before[k] != after[k]}


def test_a_row_of_the_ablation_is_one_switch():
    for key, values in ROWS.items():
        found = moved(SWITCHES[key])
        assert found[key] == values
        assert found.keys() == {key} | BESIDES.get(key, set())
    # of fine-tuning too
    found = moved("optim=sgd", "size=384,start_from=somewhere")
    assert found.keys() == {"optim.name"} | BESIDES["optim.name"]
    assert set(moved("mixup=false,cutmix=false")) == {"deit.mixup_alpha", "deit.cutmix_alpha"}


def test_the_other_switches_of_deits_augmentation_and_schedule():
    fill, form = "augment.options.policy_fill", "augment.options.policy_form"
    assert moved("rand=tf") == {
        form: ("tf", "timm"), fill: ((128, 128, 128), (124, 116, 104)),
    }  # fmt: skip
    assert moved("schedule=paper") == {
        "optim.schedule": ("cosine", "cosine_epochs"),
        "optim.start_lr": (0.0, 1e-6),
        "optim.end_lr": (0.0, 1e-5),
    }
    for switch in ("rand=tim", "schedule=offical"):
        with pytest.raises(UserError, match="did you mean '(timm|official)'"):
            get_config("deit_imagenet", switch)


def test_the_official_schedule_of_a_run_and_of_fine_tuning():
    """ImageNet at batch 1024: 1,251 steps, peak 1e-3; at 384 px, batch 512, constant 5e-6."""
    c = get_config("deit_imagenet")
    _, lr = optim.build(c.optim, batch_size=1024, steps_per_epoch=1251, total_steps=300 * 1251)
    first = [float(lr(epoch * 1251)) for epoch in range(4)]
    step = (1e-3 - 1e-6) / 5
    np.testing.assert_allclose(first, [1e-6, 1e-6, 1e-6 + step, 1e-6 + 2 * step], rtol=1e-6)
    c = get_config("deit_imagenet", "start_from=somewhere,batch=512")
    _, lr = optim.build(c.optim, batch_size=512, steps_per_epoch=2502, total_steps=30 * 2502)
    np.testing.assert_allclose([float(lr(e * 2502)) for e in (0, 6, 29)], [1e-6, 5e-6, 5e-6])


def test_what_the_switches_do_to_the_inputs():
    """From one key, each switch on in turn: what changes is what it says."""
    config = small_config("deit")
    config.augment.name = "none"
    config.deit.update(PLAIN)
    batch, key = tiles(16), jax.random.key(1)
    plain = batch["image"].astype(np.float32) / 255
    one_hot = np.eye(16, dtype=np.float32)[batch["label"]]

    def inputs(**changes):
        other = config.copy_and_resolve_references()
        other.deit.update(changes)
        x, y = jax.jit(deit.make_inputs(other, None))(key, batch)
        return np.asarray(x), np.asarray(y)

    x, y = inputs(label_smoothing=0.1)
    np.testing.assert_allclose(x, plain, atol=1e-6)
    assert np.allclose(np.unique(y), [0.1 / 16, 0.9 + 0.1 / 16])
    x, y = inputs(erasing_p=1.0)
    share = (np.abs(x - plain) > 1e-6).any(axis=3).mean(axis=(1, 2))
    assert (share > 0.01).all() and (share < 0.35).all()
    np.testing.assert_array_equal(y, one_hot)
    for name in ("mixup_alpha", "cutmix_alpha"):
        x, y = inputs(**{name: 1.0})
        for i in range(16):  # groups of four; the partner is mirrored
            partner = i // 4 * 4 + 3 - i % 4
            mean = lambda v: v.mean(axis=(0, 1))  # noqa: E731
            if name == "mixup_alpha" and batch["label"][i] != batch["label"][partner]:
                weight = y[i, batch["label"][i]]
                mixed = weight * mean(plain[i]) + (1 - weight) * mean(plain[partner])
                np.testing.assert_allclose(mean(x[i]), mixed, atol=1e-4)
        assert not np.allclose(x, plain)


def test_repeated_augmentation_deals_copies_to_groups():
    """RASampler: of floor(N/B) B places a third are distinct images, the copies in other groups."""
    N, B, groups = 1000, 48, 4
    order = repeated(3, batch_size=B, groups=groups)(7, 0, N)
    assert order.shape == (N,)
    used = order[: N // B * B].reshape(-1, B)
    assert len(np.unique(used)) == N // B * B // 3
    for batch in used:
        values, counts = np.unique(batch, return_counts=True)
        assert set(counts) == {3} and len(values) == B // 3
        for group in batch.reshape(groups, -1):
            assert len(np.unique(group)) == B // groups
    assert not np.array_equal(order, repeated(3, batch_size=B, groups=groups)(7, 1, N))


def test_the_pipeline_repeats():
    config = small_config("deit")
    config.deit.repeated_augmentation = 3
    config.batch_size = 12
    source = data.make_source(config.data, "train")
    batches = data.train_batches(
        source, batch_size=12, seed=0, order=batches_lib.data_order(config)
    )
    index = next(batches)["index"]
    batches.close()
    assert len(set(index.tolist())) == 4
    config.deit.repeated_augmentation = 1
    assert batches_lib.data_order(config) is data.shuffled


def test_average_is_judged_by_one_switch():
    config = small_config("deit")
    config.deit.ema_decay = 0.5
    method = made(config)
    shapes = jax.eval_shape(lambda: build.first_state(config, method, 16))
    assert jax.tree.structure(shapes.average) == jax.tree.structure(shapes.params)
    state = jax.jit(lambda: build.first_state(config, method, 16))()
    zeros = state.replace(average=jax.tree.map(jnp.zeros_like, state.average))
    assert float(jnp.abs(method.embed(zeros, tiles(2)["image"])[1]["logits"]).max()) == 0


def saved(config, folder):
    """A workdir with the first state of a run, as after `jssl train`."""
    from jssl.run import workdir

    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 8})
    method, _ = build.make_method(config, axis_name=None)
    state = jax.jit(lambda: build.first_state(config, method, 16))()
    workdir.open_workdir(folder, config)
    checkpoints = checkpoint.Checkpoints(folder, method=config.method)
    checkpoints.save(0, state, {"next_step": 0})
    checkpoints.close()
    return state


def test_teacher_and_start_come_from_workdirs(tmp_path):
    """The teacher's weights are those of its checkpoint; the start's positions are interpolated."""
    teacher_config = small_config("supervised")
    teacher_config.seed = 5
    teacher = saved(teacher_config, tmp_path / "teacher")
    first = saved(small_config("deit"), tmp_path / "first")

    config = small_config("deit")
    config.augment.size = 48
    config.deit.update({"teacher": str(tmp_path / "teacher"), "teacher_config": ""})
    config.deit.start_from = str(tmp_path / "first")
    build.resolve(config)
    assert json.loads(config.deit.teacher_config)["seed"] == 5
    method = made(config)
    state = jax.jit(lambda: build.first_state(config, method, 16))()
    state = begun(config, tmp_path / "run", build.put_other_runs(config, state))
    for a, b in zip(*map(jax.tree.leaves, (state.teacher.params, teacher.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    old, new = first.params["encoder"], state.params["encoder"]
    assert old["pos_embed"].shape[1] == 2 + 16 and new["pos_embed"].shape[1] == 2 + 36
    np.testing.assert_array_equal(new["pos_embed"][:, :2], old["pos_embed"][:, :2])
    np.testing.assert_array_equal(new["block0"]["qkv"]["kernel"], old["block0"]["qkv"]["kernel"])
    np.testing.assert_array_equal(
        state.params["classifier_dist"]["kernel"], first.params["classifier_dist"]["kernel"]
    )


def test_what_cannot_be_is_refused(tmp_path):
    config = small_config("deit")
    config.deit.update({"untrained_teacher": False, "teacher": ""})
    with pytest.raises(UserError, match=r"deit.teacher is empty"):
        build.resolve(config)
    config.deit.distillation = "none"
    for train in (build.resolve, lambda c: made(c).train_step(None, tiles(4))):
        with pytest.raises(UserError, match="distillation token learns from a teacher"):
            train(config)
    config.deit.distillation = "hart"
    with pytest.raises(UserError, match="hard"):
        made(config)
    other = small_config("deit")
    other.deit.num_classes = 10
    with pytest.raises(UserError, match="has 16 classes, the student 10"):
        made(other)


def test_soft_distillation_weighs_by_lambda_and_divisor():
    """At equal logits of the step only the reduction differs: the terms' ratio is exactly K."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
    terms = [
        losses.soft_distillation(student, teacher, temperature=3.0, reduction=r).mean()
        for r in ("batchmean", "official")
    ]
    np.testing.assert_allclose(terms[0] / terms[1], 16, rtol=1e-6)
