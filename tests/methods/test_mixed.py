"""Fine-tuning with DeiT's augmentation: supervised training sees what `mixed_inputs` makes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import get_config, small_config, tiles

from jssl import config as config_lib
from jssl.errors import UserError
from jssl.methods import _mixed, supervised
from jssl.methods._mixed import SETTINGS, mixed_inputs
from jssl.models.heads import Linear
from jssl.run import build
from jssl.settings import defaults

OFF = defaults(SETTINGS)

STRONG = {"label_smoothing": 0.1, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mix_groups": 2,
          "erasing_p": 1.0}  # fmt: skip


class Mean(nn.Module):
    """The smallest encoder: a mean colour."""

    def __call__(self, images, train):
        return images.mean(axis=(1, 2)), {}


@pytest.fixture
def uncropped(monkeypatch):
    """Without crop and normalisation, which compile slowly and are tested elsewhere."""

    def input_functions(config):
        return lambda key, images, first: images[None], lambda images: images

    for module in (_mixed, supervised):
        monkeypatch.setattr(module, "input_functions", input_functions)


def test_a_step_is_that_of_the_mixed_batch(uncropped, monkeypatch):
    """The loss recomputed in numpy from the inputs and targets that the keys of the step draw."""
    net = supervised.Net(Mean(), Linear(16))
    monkeypatch.setattr(supervised, "make_net", lambda config, axis_name: net)
    config = small_config("supervised")
    config.supervised.update(STRONG)
    config.optim.update({"warmup_epochs": 0.0})
    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 8})
    method = build.make_method(config, axis_name=None)[0]
    batch = {
        "image": jnp.asarray(tiles(4)["image"] / 255.0, jnp.float32),
        "label": jnp.array([3, 5, 7, 5]),
    }
    state = method.init(jax.random.key(0), batch)
    # a head that is not 0, for a loss that knows its targets
    head = state.params["classifier"]
    head["kernel"] = 10 * jax.random.normal(jax.random.key(3), head["kernel"].shape)
    metrics = jax.jit(method.train_step)(state, batch)[1]

    key = jax.random.fold_in(state.key, state.step)
    keys = (key, *(jax.random.fold_in(key, 2**31 - i) for i in (2, 3)))
    x, targets = jax.jit(mixed_inputs(config, config.supervised, None))(keys, batch)
    assert not np.allclose(x, batch["image"], atol=0.1)
    logits = np.asarray(x, np.float64).mean(axis=(1, 2)) @ np.asarray(head["kernel"])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(metrics["loss"], -(targets * log_p).sum(axis=1).mean(), rtol=1e-4)
    plain = -log_p[np.arange(4), np.asarray(batch["label"])].mean()
    assert abs(float(metrics["loss"]) - plain) > 0.05
    # each image has its share and its partner's in the group of two; the rest is smoothing
    targets = np.asarray(targets)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    for i in range(4):
        two = {int(batch["label"][i]), int(batch["label"][i ^ 1])}
        others = np.delete(targets[i], list(two))
        np.testing.assert_allclose(others, 0.1 / 16, rtol=1e-5)


def test_a_label_of_no_class_is_nan(uncropped):
    """With hard labels cross entropy says so; soft ones say it in their target."""
    config = small_config("supervised")
    batch = {"image": jnp.zeros((2, 4, 4, 3)), "label": jnp.array([3, -1])}
    settings = config.supervised
    assert {k: settings[k] for k in OFF} == OFF
    keys = jax.random.split(jax.random.key(0), 3)
    x, targets = mixed_inputs(config, settings, None)(keys, batch)
    np.testing.assert_array_equal(targets[0], np.eye(16)[3])
    assert np.isnan(targets[1]).all() and not np.isnan(x).any()


def test_groups_have_to_be_whole(uncropped):
    config = small_config("supervised")
    config.supervised.update({**STRONG, "mix_groups": 3, "erasing_p": 0.0})
    batch = {"image": jnp.zeros((4, 4, 4, 3)), "label": jnp.zeros(4, jnp.int32)}
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(UserError, match="batch of 4 .* into 3 groups .*supervised.mix_groups=N"):
        jax.eval_shape(mixed_inputs(config, config.supervised, None), keys, batch)


def test_beits_fine_tuning_is_the_official_codes():
    """The command of its README for base, and the defaults of run_class_finetuning.py."""
    for name in ("beit_finetune_imagenet", "beit_cifar"):
        c = get_config(name)
        s, options = c.supervised, c.augment.options
        assert (s.mixup_alpha, s.cutmix_alpha, s.erasing_p) == (0.8, 1, 0.25)
        assert (s.label_smoothing, s.layer_decay) == (0.1, 0.65)
        assert (c.optim.end_lr, c.optim.weight_decay) == (1e-6, 0.05)
        assert (options.policy_form, options.policy_ops, options.policy_magnitude) == ("timm", 2, 9)
        # its mean is .5, so what has been moved is filled with 128
        assert c.augment.normalize == "half" and options.policy_fill is None
    c = get_config("beit_finetune_imagenet")
    assert (c.batch_size, c.optim.lr, c.epochs, c.optim.warmup_epochs) == (1024, 4e-3, 100, 20)
    plain = config_lib.base("supervised", preset="beit")
    assert {k: plain.supervised[k] for k in OFF} == {**OFF, "label_smoothing": 0.1}


def test_a_workdir_of_before_lacks_the_new_settings():
    """A teacher that was trained before they were there still makes its functions."""
    config = small_config("supervised")
    with config.unlocked():
        for name in ("mixup_alpha", "cutmix_alpha", "mix_groups", "erasing_p"):
            del config.supervised[name]
        for name in ("start_lr", "end_lr"):
            del config.optim[name]
        del config.augment.options["policy_form"]
    assert build.make_method(config, axis_name=None)[0].train_step
