"""A linear probe at every layer: where the classes are read best, and how the last layer does.

Where a network was trained to restore what was hidden from it, its last layers serve that, and the
classes are read best from the middle. Which layer is best is chosen without the test split.
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
HELD_OUT = 5  # one in so many training examples chooses the layer


def layer_names(named: Mapping[str, Any]) -> tuple[str, ...]:
    """The intermediates that are layers, from the first to the last.

    Raises:
        UserError: there are none.

    Example:
        >>> layer_names({'projection': 0, 'layer10': 0, 'layer2': 0})
        ('layer2', 'layer10')
    """
    found = [(int(match[2]), name) for name in named if (match := LAYER.fullmatch(name))]
    if not found:
        raise UserError(
            "Protocol 'layers' looks at the intermediates layerN, block_groupN or convN; this "
            f"network has {', '.join(named) or 'none'}. Type --protocol=knn,linear."
        )
    return tuple(name for _, name in sorted(found))


def all_layers(embed_fn: Callable[..., Any]) -> Callable[[Any, Array], Array]:
    """Makes of `embed` one function of every layer, side by side: maps as means over places."""

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
        state: of the method; only read.
        train_source, test_source: labelled examples of the same classes.
        size: side of the images in pixels.
        batch_size: images at a time.
        train_transform, test_transform: on the host, as for evaluation.
        epochs: of `fit_linear`.
        seed: of the held-out examples and of `fit_linear`.
        pooling: in words, what the layers are; maps that `embed_fn` still gives are averaged.

    Returns:
        A row a layer, of the form of `jssl.evaluate.probe_rows`, each with `validation_top1`, of a
        classifier that did not see a fifth of the train split, on that fifth. The layer where it is
        largest is marked `best`, the last one `last`.

    Raises:
        UserError: no layers among the intermediates, no labels.

    Reference: the best layer of all: Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254,
        whose official code, https://github.com/microsoft/unilm/tree/master/beit, takes it by the
        test split.
    """
    K = train_source.num_classes
    if K < 2 or test_source.num_classes != K:
        raise UserError(
            f"Protocol 'layers' needs labels of the same classes, found {K} in the train split of "
            f"'{train_source.name}' and {test_source.num_classes} in the test split. Type another "
            "--source."
        )
    shapes = jax.eval_shape(embed_fn, state, jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))
    names = layer_names(shapes[1])
    widths = [shapes[1][name].shape[-1] for name in names]
    compiled, sources = jax.jit(all_layers(embed_fn)), []
    for source, transform in ((train_source, train_transform), (test_source, test_transform)):
        x, y, _ = embed_source(compiled, state, source, batch_size=batch_size, transform=transform)
        sources.append((np.split(x, np.cumsum(widths)[:-1], axis=1), y))
    (train, labels), (test, test_labels) = sources
    order = np.random.default_rng(seed).permutation(len(labels))
    held, kept = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]

    def top1(x: Any, y: Any, other: Any, truth: Any) -> dict[str, Any]:
        fit = fit_linear(x, y, num_classes=K, epochs=epochs, batch_size=LINEAR_BATCH, seed=seed)
        return linear_accuracy(fit.head, other, truth)

    rows = []
    for name, x, other in zip(names, train, test, strict=True):
        chosen = top1(x[kept], labels[kept], x[held], labels[held])["top1"]
        scores = top1(x, labels, other, test_labels)
        rows.append({"layer": name, "validation_top1": chosen, "scores": scores, "dim": x.shape[1]})
    protocol = linear_protocol(
        epochs=epochs, bank=len(labels), queries=len(test_labels), name=test_source.name
    )
    return _marked(rows, f"{protocol}, {pooling}")


def _marked(rows: Sequence[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
    best = int(np.argmax([row["validation_top1"] for row in rows]))
    found = []
    for i, row in enumerate(rows):
        words = protocol
        if i == best:
            words += f"; best of {len(rows)} layers on a held-out fifth of the train split"
        if i == len(rows) - 1:
            words += "; the last layer"
        scores = number(row["scores"], f"trained {row['layer']}", row["dim"], words)
        found.append(
            {
                "probe": SOFTMAX_REGRESSION,
                "protocol": words,
                "top1": {"trained": scores["top1"]},
                "numbers": {"trained": scores},
                "layer": row["layer"],
                "validation_top1": row["validation_top1"],
                "best": i == best,
                "last": i == len(rows) - 1,
            }
        )
    return found
