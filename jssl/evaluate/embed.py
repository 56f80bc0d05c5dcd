"""Features of a data set: every example once, as numpy arrays."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import augment, data
from jssl.data.fetch import in_words
from jssl.errors import NotFiniteError, UserError, nearest
from jssl.types import Array, PyTree, TrainState

BACKBONE = "backbone"  # name of the first output of `embed`
Features = tuple[np.ndarray, np.ndarray, np.ndarray]


def select_feature(embed_fn: Callable[..., Any], feature: str) -> Callable[[Any, Array], Array]:
    """Restricts `embed` to one output, so that the others are not computed.

    Args:
        embed_fn: `(state, images) -> (features [B,D], intermediates)`, pure.
        feature: 'backbone' for the first, or the name of an intermediate.

    Returns:
        `(state, images [B,H,W,C]) -> float32 [B,D]`, to be jitted; an intermediate with more axes
        is flattened. It raises UserError for an unknown name, listing the choices.

    Example:
        >>> fn = select_feature(raw_pixels, 'backbone')
        >>> fn(None, jnp.zeros((2, 4, 4, 3))).shape
        (2, 48)
    """

    def selected(state: PyTree, images: Array) -> Array:
        return _pick(embed_fn(state, images), feature)

    return selected


def _pick(output: Any, feature: str) -> Array:
    features, named = output
    if feature != BACKBONE:
        if feature not in named:
            raise UserError(
                f"There is no feature '{feature}': {nearest(feature, [BACKBONE, *named])}. "
                "Type --feature=NAME."
            )
        features = named[feature]
    return jnp.reshape(jnp.asarray(features, jnp.float32), (features.shape[0], -1))


def raw_pixels(state: Any, images: Array) -> tuple[Array, Mapping[str, Array]]:
    """Returns the pixels in [0, 1], flattened to [B, H W C]: a baseline without a network.

    It has the signature of `Method.embed`; the state is ignored.

    Example:
        >>> features, _ = raw_pixels(None, jnp.full((1, 1, 2, 3), 255, jnp.uint8))
        >>> print(features)
        [[1. 1. 1. 1. 1. 1.]]
    """
    x = augment.to_float(images)
    return x.reshape(len(x), -1), {}


def embed_source(
    embed_fn: Callable[..., Any],
    state: PyTree,
    source: Any,
    *,
    batch_size: int,
    feature: str = BACKBONE,
    transform: Callable | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Features:
    """Embeds every example of a source exactly once, in the order of the source.

    Args:
        embed_fn: `(state, images) -> (features [B,D], intermediates)`, compiled by the caller:
            `jax.jit(method.embed)` or `launcher.compile_embed(method.embed)`. All batches have
            one shape, so that it compiles once. Or `jax.jit(select_feature(embed, feature))`,
            which returns the feature only, and does not compute the others.
        state: the state of the method; read only.
        source: M examples, see `jssl.data.Source`.
        batch_size: images per batch, at most M.
        feature: 'backbone', or the name of an intermediate (flattened when it has more axes).
        transform: on the host, see `jssl.data.eval_transform`.
        progress: called with (examples done, M) after each batch.
        tell: called with one line when pictures were skipped or converted.

    Returns:
        features: float32 [M,D], labels: int32 [M] (-1 without labels), indices: int32 [M]. Under
        `on_error='skip'` unreadable pictures and their indices are left out.

    Raises:
        UserError: unknown feature, empty data set, non-finite network, or examples that were read
            twice or never.

    Example:
        >>> source = data.synthetic_source('test', size=8, num_examples=40)
        >>> features, labels, indices = embed_source(raw_pixels, None, source, batch_size=4)
        >>> features.shape, indices[-1], labels[:3]
        ((10, 192), np.int32(9), array([0, 1, 2], dtype=int32))
    """
    check_finite(state)
    batches = data.eval_batches(
        source, batch_size=max(1, min(batch_size, len(source))), transform=transform
    )
    parts: list[Features] = []
    pending: Any = None
    done = 0

    def take(output: Array, batch: Mapping[str, np.ndarray]) -> None:
        nonlocal done
        keep = batch["mask"]
        parts.append((np.asarray(output)[keep], batch["label"][keep], batch["index"][keep]))
        done += int(keep.sum())
        if progress is not None:
            progress(done, len(source))

    with contextlib.closing(iter(batches)) as running:
        for batch in running:
            output = embed_fn(state, batch["image"])
            output = _pick(output, feature) if isinstance(output, tuple) else output
            # The host reads one batch while the device computes the next.
            if pending is not None:
                take(*pending)
            pending = output, batch
    take(*pending)
    features, labels, indices = (np.concatenate(column) for column in zip(*parts, strict=True))
    problems = batches.problems.report()
    skipped = problems.get("skipped", {}).get("count", 0)
    if problems and tell is not None:
        tell(f"{source.name}: pictures that were skipped or converted: {in_words(problems)}")
    if len(np.unique(indices)) != len(indices) or len(indices) != len(source) - skipped:
        raise UserError(
            f"Data set '{source.name}' has {len(source)} examples and {skipped} were skipped, but "
            f"{len(indices)} were embedded, {len(np.unique(indices))} of them different: expected "
            "each once. Its __getitem__(i) must give the example whose 'index' is i."
        )
    return features.astype(np.float32), labels.astype(np.int32), indices.astype(np.int32)


def check_finite(state: Any) -> None:
    """Raises UserError if the `params` or `batch_stats` of a state have NaN or infinity.

    The features do not always show it: if XLA fuses a ReLU, its CPU code may turn NaN into 0.
    """
    variables = {}
    if isinstance(state, TrainState):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
    flags = jax.tree_util.tree_flatten_with_path(_finite(variables))[0]
    bad = [jax.tree_util.keystr(p, simple=True, separator=".") for p, ok in flags if not ok]
    if bad:
        raise NotFiniteError(
            f"The network is broken: {len(bad)} of its {len(flags)} arrays are not finite, the "
            f"first is {bad[0]}.",
            "Type --step=N with an earlier checkpoint.",
        )


@jax.jit
def _finite(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)
