"""Where a network looks: the attention of a ViT's class token, or a map of a convolution net."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jssl import methods
from jssl.evaluate.gallery import shown
from jssl.models.vit import Block
from jssl.report.look import Network, Seen, class_name, uri
from jssl.run import build
from jssl.third_party import unchanged
from jssl.types import Array, TrainState

SIDE = 128  # of a picture on the page, in pixels
OPAQUE = 0.55  # of the colours over a picture


def class_attention(config: ConfigDict, state: TrainState, images: Any) -> Array:
    """Returns how much the class token attends to each patch, in the last block of a ViT.

    The network is run as it is: its queries and keys are read on the way, and the softmax of their
    products is computed a second time.

    Args:
        config: of the run.
        state: of its method.
        images: uint8 [B,H,W,C].

    Returns:
        float32 [B,heads,N]: the weights of all N tokens, which sum to 1; the patches are the last.
    """
    plain = ConfigDict(config.to_dict())
    plain.model.remat = False  # what is recomputed cannot be read on the way
    method, _ = build.make_method(plain, axis_name=None)

    @jax.jit
    def attention(state: TrainState, images: Array) -> Array:
        tensors: dict[str, Any] = {}

        def read(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output = run(*args, **kwargs)
            module = context.module
            if module.name == "qkv" and context.method_name == "__call__":
                tensors["qkv"] = output
            if isinstance(module, Block) and context.method_name == "_attention":
                bias = args[1] if len(args) > 1 else kwargs.get("bias")
                tensors["weights"] = _weights(
                    module, tensors.pop("qkv"), bias
                )  # the last block's stay
            return output

        with nn.intercept_methods(read):
            method.embed(state, images)
        return tensors["weights"]

    return attention(state, images)


def _weights(block: Block, qkv: Array, bias: Array | None) -> Array:
    """Returns the attention of token 0, softmax(q k / sqrt(D / heads) + bias), [B,heads,N]."""
    B, N, D = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k = qkv[:, 0, :D].astype(jnp.float32), qkv[:, :, D : 2 * D].astype(jnp.float32)
    if block.qkv_bias == "no_key":
        q = q + block.get_variable("params", "q_bias")[None]
    q, k = q.reshape(B, block.heads, -1), k.reshape(B, N, block.heads, -1)
    logits = jnp.einsum("bhd,bnhd->bhn", q, k) / np.sqrt(D // block.heads)
    if bias is not None:
        logits = logits + bias[:, :, 0].astype(jnp.float32)
    return jax.nn.softmax(logits)


def heat_maps(network: Network, queries: Seen) -> dict[str, Any] | None:
    """Returns the section with pictures and where the network looks; None without such a map."""
    config = network.parts.config
    if config.model.name.startswith("vit"):
        grid = config.augment.size // config.model.patch_size
        weights = np.asarray(class_attention(config, network.state, queries.images))
        maps = weights[:, :, -grid * grid :].mean(axis=1).reshape(-1, grid, grid)
        title = "Attention"
        note = (
            "Attention of the class token to the patches in the last block, the mean over its "
            f"{weights.shape[1]} heads."
        )
        said = [""] * len(maps)
    else:
        _, named = network.compiled(network.state, queries.images)
        last = last_map(network.parts.method.embed, network.state, queries.images)
        if not last:
            return None
        features = np.asarray(named[last], np.float32)
        kernel = _classifier(network, features, named)
        said = [""] * len(features)
        title = "Activation of the last map"
        if kernel is None:
            maps = np.linalg.norm(features, axis=-1)
            note = "The norm of the last map of the network at each place."
        else:
            title = "Class activation"
            classes = np.argmax(np.asarray(named["logits"]), axis=1)
            maps = np.einsum("bhwc,cb->bhw", features, kernel[:, classes])
            said = [f"says {class_name(network, int(label))}" for label in classes]
            note = (
                "Class activation map (Zhou et al., 2016): the last map weighted by the "
                "classifier's row for the class that it says; bright where it speaks for it."
            )
    groups = []
    for image, heat, row, text in zip(queries.images, maps, queries.places, said, strict=True):
        picture = shown(image[0] if image.ndim == 4 else image)
        name = class_name(network, int(queries.labels[row])) or "picture"
        pictures = [
            {"src": uri(picture, side=SIDE), "text": name, "mark": ""},
            {"src": uri(_overlay(picture, heat), side=SIDE), "text": text, "mark": ""},
        ]
        groups.append({"text": "", "pictures": pictures})
    scale = (
        f"{maps.shape[1]} x {maps.shape[2]} places; each picture has its own scale, dark to bright."
    )
    return {"title": title, "notes": [note, scale], "groups": groups, "beside": True}


def last_map(embed: Callable[..., Any], state: TrainState, images: Any) -> str:
    """Returns the name of the last map [B,h,w,C] that a network computes; '' if it has none.

    Args:
        embed: `(state, images) -> (features, intermediates)`, not compiled, as a compiled one
            sorts the names.
        state: of the method.
        images: uint8 [B,H,W,C]; only the shape is used.
    """
    names: list[str] = []

    def listed(state: TrainState, images: Array) -> Array:
        features, named = embed(state, images)
        names.extend(name for name, x in named.items() if x.ndim == 4 and name != "last_sum")
        return features

    jax.eval_shape(listed, state, images)
    return names[-1] if names else ""


def _classifier(network: Network, features: np.ndarray, named: Any) -> np.ndarray | None:
    """Returns the kernel [C,K] by which the mean of a map becomes the logits; None if none does."""
    if not methods.get(network.parts.config.method).has_classifier or "logits" not in named:
        return None
    logits, pooled = np.asarray(named["logits"], np.float32), features.mean(axis=(1, 2))
    params, _ = methods.get(network.parts.config.method).judged(network.state)
    for leaf in jax.tree.leaves(params):
        if leaf.shape == (pooled.shape[1], logits.shape[1]):
            kernel = np.asarray(leaf, np.float32)
            rest = logits - pooled @ kernel  # the bias, the same for all pictures
            if np.abs(rest - rest[:1]).max() <= 1e-2 * max(float(np.abs(logits).max()), 1e-6):
                return kernel
    return None


def _overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns a picture uint8 [H,W,3] with a map [h,w] over it, smoothly enlarged."""
    with unchanged():
        import matplotlib

    low, high = float(heat.min()), float(heat.max())
    scaled = (heat - low) / max(high - low, 1e-12)
    size = picture.shape[1], picture.shape[0]
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    colours = 255 * matplotlib.colormaps["inferno"](np.asarray(smooth))[..., :3]
    grey = picture.mean(axis=2, keepdims=True)
    return np.rint((1 - OPAQUE) * grey + OPAQUE * colours).astype(np.uint8)
