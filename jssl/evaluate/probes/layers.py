"""A linear probe at every layer, to find the best one.

After masked-image pre-training the last layers serve reconstruction, and the best features are in
the middle. The best layer is selected without the test split.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl.errors import UserError
from jssl.evaluate.embed import embed_source
from jssl.evaluate.probes.softmax_regression import fit_linear, linear_accuracy
from jssl.evaluate.table import LINEAR_BATCH, SOFTMAX_REGRESSION, linear_protocol, number
from jssl.types import Array

LAYER = re.compile(r"(layer|block_group|conv)(\d+)")
HELD_OUT = 5  # one in HELD_OUT training examples is held out to select the layer


def layer_names(named: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the intermediates that are layers, from first to last.

    Raises:
        UserError: there are none.

    Example:
        >>> layer_names({'projection': 0, 'layer10': 0, 'layer2': 0})
        ('layer2', 'layer10')
    """
    layers = [(int(match[2]), name) for name in named if (match := LAYER.fullmatch(name))]
    if not layers:
        raise UserError(
            "Protocol 'layers' needs the intermediates layerN, block_groupN or convN; this "
            f"network has {', '.join(named) or 'none'}. Type --protocol=knn,linear."
        )
    return tuple(name for _, name in sorted(layers))


def all_layers(embed_fn: Callable[..., Any]) -> Callable[[Any, Array], Array]:
    """Wraps `embed` to return all layers, concatenated; maps are averaged over positions."""

    def joined(state: Any, images: Array) -> Array:
        _, named = embed_fn(state, images)
        return jnp.concatenate([_pooled(named[name]) for name in layer_names(named)], axis=1)

    return joined


def _pooled(x: Array) -> Array:
    x = jnp.asarray(x, jnp.float32)
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x


def layer_rows(
    embed_fn: Callable[..., Any],
    state: Any,
    train_source: Any,
    test_source: Any,
    *,
    size: int,
    channels: int = 3,
    batch_size: int = 256,
    train_transform: Callable | None = None,
    test_transform: Callable | None = None,
    epochs: int = 100,
    seed: int = 0,
    pooling: str = "maps as means over places",
) -> list[dict[str, Any]]:
    """Fits a linear classifier to the frozen features of every layer.

    Args:
        embed_fn: `(state, images) -> (features, intermediates)`, pure.
        state: of the method; read only.
        train_source, test_source: labelled examples of the same classes.
        size: side of the images in pixels.
        channels: of the images.
        batch_size: images per batch.
        train_transform, test_transform: on the host, as for evaluation.
        epochs: of `fit_linear`.
        seed: of the held-out examples and of `fit_linear`.
        pooling: text of how layers are pooled; maps that `embed_fn` returns are averaged.

    Returns:
        A row per layer, as of `jssl.evaluate.probe_rows`, each with `validation_top1`, the accuracy
        on a held-out fifth of the train split of a classifier trained on the rest. The layer with
        the largest is marked `best`, the last one `last`.

    Raises:
        UserError: no layers among the intermediates, no labels.

    Reference: the best layer: Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254, whose
        official code, https://github.com/microsoft/unilm/tree/master/beit, selects it by the test
        split.
    """
    K = train_source.num_classes
    if K < 2 or test_source.num_classes != K:
        raise UserError(
            f"Protocol 'layers' needs labels of the same classes, found {K} in the train split of "
            f"'{train_source.name}' and {test_source.num_classes} in the test split. Type another "
            "--source."
        )
    shapes = jax.eval_shape(
        embed_fn, state, jax.ShapeDtypeStruct((1, size, size, channels), jnp.uint8)
    )
    names = layer_names(shapes[1])
    widths = [shapes[1][name].shape[-1] for name in names]
    compiled, sources = jax.jit(all_layers(embed_fn)), []
    for source, transform in ((train_source, train_transform), (test_source, test_transform)):
        x, y, _ = embed_source(compiled, state, source, batch_size=batch_size, transform=transform)
        sources.append((np.split(x, np.cumsum(widths)[:-1], axis=1), y))
    (train, labels), (test, test_labels) = sources
    order = np.random.default_rng(seed).permutation(len(labels))
    count = max(1, len(order) // HELD_OUT)
    held_out, kept = order[:count], order[count:] if len(order) > 1 else order  # of a dry run

    def accuracy(x: Any, y: Any, test_x: Any, test_y: Any) -> dict[str, Any]:
        fit = fit_linear(x, y, num_classes=K, epochs=epochs, batch_size=LINEAR_BATCH, seed=seed)
        return linear_accuracy(fit.head, test_x, test_y)

    rows = []
    for name, x, test_x in zip(names, train, test, strict=True):
        top1 = accuracy(x[kept], labels[kept], x[held_out], labels[held_out])["top1"]
        scores = accuracy(x, labels, test_x, test_labels)
        rows.append({"layer": name, "validation_top1": top1, "scores": scores, "dim": x.shape[1]})
    protocol = linear_protocol(
        epochs=epochs, bank=len(labels), queries=len(test_labels), name=test_source.name
    )
    return _marked(rows, f"{protocol}, {pooling}")


def _marked(rows: Sequence[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
    best = int(np.argmax([row["validation_top1"] for row in rows]))
    marked = []
    for i, row in enumerate(rows):
        text = protocol
        if i == best:
            text += f"; best of {len(rows)} layers on a held-out fifth of the train split"
        if i == len(rows) - 1:
            text += "; the last layer"
        scores = number(row["scores"], f"trained {row['layer']}", row["dim"], text)
        marked.append(
            {
                "probe": SOFTMAX_REGRESSION,
                "protocol": text,
                "top1": {"trained": scores["top1"]},
                "numbers": {"trained": scores},
                "layer": row["layer"],
                "validation_top1": row["validation_top1"],
                "best": i == best,
                "last": i == len(rows) - 1,
            }
        )
    return marked
