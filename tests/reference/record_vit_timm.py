"""Records timm's DeiT-Ti distilled and BEiT-B, and torch's interpolations, on seeded weights.

    python tests/reference/record_vit_timm.py tests/golden/vit_timm.npz

For tests/models/test_vit.py and test_position.py. Needs torch and timm (recorded with 2.14.1 and
1.0.31). Weights and images are no files: both sides draw each tensor from a generator seeded by
its name (`weights_of`), in torch's layout, at torch's scale of trained nets rather than of fresh
ones, so that every part matters to the outputs.

Both nets are whole (12 blocks, 224 px). Kept are all values of a few tokens after each block (the
extra ones, the first patch, one in the middle and the last), the features, and a sum over the
tokens of the last block. BEiT is also recorded with one shared table instead of one a block.
"""

import sys
import zlib

import numpy as np

TOKENS = (0, 1, 2, 100, -1)  # of which the blocks' values are kept
SIDE = 224


def weights_of(name, shape):
    """The tensor of a parameter's name: float32 of `shape`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("relative_position_bias_table"):
        return noise
    if name.endswith("weight") and len(shape) > 1:
        return noise / np.float32(np.sqrt(np.prod(shape[1:])))
    if name.endswith("weight") or "gamma" in name:  # of a norm, of LayerScale
        return 1 + np.float32(0.3) * noise
    return np.float32(0.3) * noise  # biases, tokens, positions


def images_of(count, side=SIDE):
    """float32 [count,3,side,side], of contrasts 1, 2, ..."""
    contrast = np.arange(1, count + 1).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(side).standard_normal((count, 3, side, side))
    return (contrast * noise).astype(np.float32)


def fill(net, prefix):
    import torch

    state = net.state_dict()
    for key, value in state.items():
        state[key] = torch.from_numpy(weights_of(f"{prefix}.{key}", tuple(value.shape)))
    net.load_state_dict(state)
    return net.eval()


def run(net, images, name, recorded):
    import torch

    blocks = []
    hooks = [b.register_forward_hook(lambda _, __, y: blocks.append(y)) for b in net.blocks]
    with torch.no_grad():
        recorded[f"{name}_logits"] = net(torch.from_numpy(images)).numpy()
    for hook in hooks:
        hook.remove()
    kept = [y[:, list(TOKENS)].numpy() for y in blocks]
    recorded[f"{name}_blocks"] = np.stack(kept)
    recorded[f"{name}_sum"] = blocks[-1].sum(1).numpy()


def record_networks(recorded):
    import timm

    deit = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=10)
    run(fill(deit, "deit"), images_of(2), "deit", recorded)
    for name, own in (("beit", True), ("beit_shared", False)):
        beit = timm.create_model(
            "beit_base_patch16_224",
            num_classes=10,
            use_rel_pos_bias=own,
            use_shared_rel_pos_bias=not own,
            depth=12 if own else 2,
        )
        run(fill(beit, "beit"), images_of(1), name, recorded)


def record_interpolation(recorded):
    import torch

    grid = torch.from_numpy(weights_of("pos_embed", (1, 3, 5, 6)))
    for name, size, antialias in (
        ("official_up", (9, 7), False),
        ("official_down", (3, 4), False),
        ("antialiased_up", (9, 7), True),
        ("antialiased_down", (3, 4), True),
    ):
        recorded[f"resize_{name}"] = torch.nn.functional.interpolate(
            grid, size=size, mode="bicubic", align_corners=False, antialias=antialias
        ).numpy()


def main(path):
    recorded = {}
    record_networks(recorded)
    record_interpolation(recorded)
    np.savez_compressed(path, **recorded)


if __name__ == "__main__":
    main(sys.argv[1])
