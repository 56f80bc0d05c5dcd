"""MoCo v3 and BEiT fine-tuned on CIFAR-100 and ImageNet: the recipes, and where they start."""

import json

import numpy as np
import pytest
from helpers import begun, get_config, made_up, made_up_run, small_config

import jssl
from jssl import optim
from jssl.config import base
from jssl.errors import UserError
from jssl.models.position import at_resolution
from jssl.run import batches, checkpoint, pretrained
from jssl.run.train import train


def rates(config, examples):
    steps = examples // config.batch_size
    _, schedule = optim.build(
        config.optim,
        batch_size=config.batch_size,
        steps_per_epoch=steps,
        total_steps=round(steps * config.epochs),
    )
    return steps, schedule


def test_moco_v3_has_the_official_commands():
    """transfer/README.md of the official code: DeiT's main.py scales the rate by B / 512."""
    cifar = get_config("moco_v3_finetune", "source=cifar100")
    steps, schedule = rates(cifar, 50_000)
    assert float(schedule(4 * steps)) == pytest.approx(6e-4, rel=5e-3)  # one epoch behind
    assert float(schedule(0)) == pytest.approx(1e-6)
    assert (cifar.epochs, cifar.batch_size, cifar.optim.warmup_epochs) == (100.0, 1024, 3.0)
    assert (cifar.optim.weight_decay, cifar.deit.label_smoothing) == (0.1, 0.1)
    assert (cifar.deit.mixup_alpha, cifar.deit.cutmix_alpha, cifar.deit.erasing_p) == (0.5, 1.0, 0)
    assert (cifar.augment.options.policy_ops, cifar.deit.repeated_augmentation) == (0, 1)
    assert cifar.model.stochastic_depth == 0.1 and cifar.augment.size == 224
    assert get_config("moco_v3_finetune", "source=cifar10").deit.mixup_alpha == 0.8
    imagenet, deit = get_config("moco_v3_finetune"), get_config("deit_imagenet", "model=base")
    assert (imagenet.epochs, imagenet.optim) == (150.0, deit.optim)
    assert imagenet.deit == deit.deit and imagenet.augment == deit.augment
    with pytest.raises(UserError, match="':source=cifar'"):
        get_config("moco_v3_finetune", "source=cifar")


def test_beit_has_table_13():
    config = get_config("beit_finetune_cifar")
    steps, schedule = rates(config, 50_000)
    assert float(schedule(20 * steps)) == pytest.approx(3e-3)
    assert float(schedule(round(150 * steps))) == pytest.approx(1e-6)
    assert (config.epochs, config.batch_size, config.optim.weight_decay) == (150.0, 512, 0.3)
    own, imagenet = config.supervised, get_config("beit_finetune_imagenet").supervised
    assert (own.layer_decay, own.erasing_p, own.repeated_augmentation) == (0.65, 0.0, 3)
    assert (imagenet.erasing_p, imagenet.repeated_augmentation) == (0.25, 1)
    assert (own.mixup_alpha, own.cutmix_alpha, own.label_smoothing) == (0.8, 1.0, 0.1)
    order = batches.data_order(config)(0, 0, 50_000)
    assert len(np.unique(order)) == -(-50_000 // 3)


def on_synthetic(config):
    config.data.name, config.data.num_examples, config.augment.size = "synthetic", 64, 32
    config.launch, config.log.tensorboard, config.max_steps = "jit", False, 2
    config.monitor.every_epochs = 0.0
    return config


def counted(config, data, classes):
    config.data.name = data
    config.supervised.num_classes = classes
    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 40})
    return config


def test_beit_starts_the_fine_tunings_one_after_the_other(tmp_path):
    """Other positions are resized; the head of other classes, and no other part, starts anew."""
    before = small_config("beit")
    before.model.depth = 1
    old = made_up_run(before, tmp_path / "beit").params["encoder"]
    first = counted(
        get_config("beit_finetune_cifar", f"smoke,init={tmp_path / 'beit'}"), "photos", 16
    )
    assert (first.model.relative_bias, first.model.pool) == ("own", "mean")
    assert first.model.stochastic_depth == 0.1 and not first.model.mask_token
    first.augment.size = 48
    assert first.model.patch_size == 8  # 4 x 4 patches become 6 x 6
    new = begun(first, tmp_path / "first", made_up(first, 0.0)).params["encoder"]
    resized = at_resolution(old, grid=(4, 4), new_grid=(6, 6))["relative_table"]
    np.testing.assert_allclose(new["block0"]["relative_table"], resized, rtol=1e-6)
    np.testing.assert_array_equal(new["patch_embed"]["kernel"], old["patch_embed"]["kernel"])

    between = made_up_run(first, tmp_path / "between", classes=tuple("abcdefghijklmnop"))
    second = counted(
        get_config("beit_finetune_cifar", f"smoke,init={tmp_path / 'between'}"), "synthetic", 10
    )
    second.augment.size = 48
    assert second.model == first.model
    state = begun(second, tmp_path / "second", made_up(second, 0.0))
    found = checkpoint.flat_leaves(state.params["encoder"])
    expected = checkpoint.flat_leaves(between.params["encoder"])
    assert "fc_norm.scale" in found and found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert state.params["classifier"]["kernel"].shape[1] == 10
    record = json.loads((tmp_path / "second" / pretrained.RECORD).read_text())
    assert "classifier" in " ".join(record["anew"])


def test_moco_v3_is_fine_tuned(tmp_path):
    """The patch embedding, frozen before, moves; the twelve heads, here four, are MoCo v3's."""
    before = on_synthetic(small_config("moco_v3", launch="jit"))
    before.model = base("moco_v3", preset="v3_vit").model
    before.model.update({"name": "vit_tiny", "depth": 1, "width": 0.25, "patch_size": 8})
    before.model.heads = 4
    before.optim = base("moco_v3", preset="v3_vit").optim
    before.optim.warmup_epochs = 0.0
    old = made_up_run(before, tmp_path / "moco", start=0.0)
    config = on_synthetic(get_config("moco_v3_finetune", f"smoke,init={tmp_path / 'moco'}"))
    assert (config.model.heads, config.model.freeze_patches) == (4, False)
    config.checkpoint.every_steps = 2
    config.optim.update({"lr": 1e-2, "warmup_epochs": 0.0, "schedule": "constant"})
    config.optim.update({"start_lr": 0.0, "end_lr": 0.0})
    train(config, tmp_path / "run")
    _, after = jssl.load_encoder(tmp_path / "run")
    kernels = [s.params["encoder"]["patch_embed"]["kernel"] for s in (old, after)]
    assert kernels[0].shape == kernels[1].shape and np.any(kernels[0] != kernels[1])
