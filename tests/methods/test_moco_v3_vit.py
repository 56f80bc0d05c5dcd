"""MoCo v3's ViT: its published settings and heads, and a patch embedding that never moves."""

import jax
import numpy as np
import optax
import pytest
from helpers import get_config, start, tiles

from jssl import config as config_lib
from jssl import optim
from jssl.run import build, checkpoint

N = 16


def tiny():
    """The smoke config on tiles of photographs: two blocks of 96 channels, 16 patches."""
    config = get_config("moco_imagenet", "preset=v3_vit,smoke")
    config.data.host_crop = ""
    config.augment.name = "crop_flip"
    config.augment.options.views = 2
    config.moco_v3.update({"proj_dim": 8, "proj_hidden": 32})
    config.optim.update({"lr": 2e-3, "lr_scaling": "none", "warmup_epochs": 0.0})
    return config


def host(state):
    return {k: np.array(v) for k, v in checkpoint.flat_leaves(state).items()}


@pytest.fixture(scope="module")
def trained():
    """The parameters and EMA before and after 12 steps on one batch, the losses, Adam's state."""
    config = tiny()
    launcher, _, state, step = start(config, "jit", steps=20)
    first, losses = [host(state.params), host(state.target)], []
    for i in range(12):
        state, metrics = step(state, launcher.put_batch(tiles(N)), np.int32(i))
        losses.append(float(metrics["loss"]))
    moments = optax.tree.get(state.opt_state, "mu")
    return first, [host(state.params), host(state.target)], losses, host(moments)


def test_the_patch_embedding_does_not_move_and_everything_else_does(trained):
    """Neither gradient (Adam's momentum is exactly 0) nor weight decay 0.1 touches it."""
    (first, first_target), (last, last_target), _, moments = trained
    still = {k for k in last if np.array_equal(first[k], last[k])}
    assert still == {"encoder.patch_embed.kernel", "encoder.patch_embed.bias"}
    assert {k for k, v in moments.items() if not np.any(v)} == still
    for k in still:  # an average of equal values
        np.testing.assert_allclose(last_target[k], first_target[k], atol=1e-6)
        np.testing.assert_array_equal(first_target[k], first[k])
    assert np.any(first["encoder.patch_embed.kernel"])


def test_the_loss_falls(trained):
    _, _, losses, _ = trained
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:2])


def test_heads_and_network_are_the_papers():
    config = get_config("moco_imagenet", "preset=v3_vit")
    config.run.update({"num_examples": 1_281_167, "steps_per_epoch": 312, "total_steps": 93_600})
    method, _ = build.make_method(config, axis_name=None)
    state = jax.eval_shape(lambda: build.first_state(config, method, 8))
    shapes = {
        part: {f"{m}/{k}": v.shape for m, p in state.params[part].items() for k, v in p.items()}
        for part in ("projector", "predictor")
    }
    hidden = {"bn0/scale": (4096,), "bn0/bias": (4096,)}
    assert shapes["projector"] == {
        "dense0/kernel": (384, 4096),
        **hidden,
        "dense1/kernel": (4096, 4096),
        **{k.replace("0", "1"): v for k, v in hidden.items()},
        "dense2/kernel": (4096, 256),
    }
    assert shapes["predictor"] == {
        "dense0/kernel": (256, 4096),
        **hidden,
        "dense1/kernel": (4096, 256),
    }
    statistics = {part: set(state.batch_stats[part]) for part in shapes}
    assert statistics == {"projector": {"bn0", "bn1", "bn2"}, "predictor": {"bn0", "bn1"}}
    assert "predictor" not in state.target
    # ViT-S of 22,050,664 without its classifier and its 197 positions.
    count = sum(int(np.prod(v.shape)) for v in jax.tree.leaves(state.params["encoder"]))
    assert count == 22_050_664 - 385 * 1000 - 197 * 384
    groups = optim.groups(state.params, rules=config.optim.rules)
    still = {k for k, v in groups.items() if v == "none"}
    assert still == {"encoder/patch_embed/kernel", "encoder/patch_embed/bias"}


def test_the_numbers_of_the_paper():
    c = config_lib.base("moco_v3", preset="v3_vit")
    assert (c.batch_size, c.epochs) == (4096, 300.0)
    assert (c.augment.name, c.augment.options.scale) == ("moco_v3", (0.08, 1.0))
    assert (c.moco_v3.temperature, c.moco_v3.ema_momentum) == (0.2, 0.99)
    assert (c.optim.name, c.optim.lr, c.optim.lr_scaling) == ("adamw", 1.5e-4, "linear")
    assert (c.optim.weight_decay, c.optim.warmup_epochs, c.optim.schedule) == (0.1, 40.0, "cosine")
    assert (c.model.name, c.model.heads, c.model.patch_size) == ("vit_small", 12, 16)
    assert (c.model.position, c.model.vit_init, c.model.freeze_patches) == (
        "sincos",
        "moco_v3",
        True,
    )
    assert c.model.stochastic_depth == 0 and c.model.pool == "class"
    for arch, heads in (("vit_base", 12), ("vit_large", 16)):
        other = get_config("moco_imagenet", f"preset=v3_vit,arch={arch}")
        assert (other.model.name, other.model.heads) == (arch, heads)
    assert get_config("moco_imagenet", "preset=v3").model.name == "resnet50"
