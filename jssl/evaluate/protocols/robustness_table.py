"""The errors of a classifier on corrupted test images."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data
from jssl.augment.corruptions import regenerated_mistakes
from jssl.errors import UserError
from jssl.evaluate.table import metric_row
from jssl.metrics.intervals import binomial_interval, mean_interval

SMALL = 64  # below this size in pixels the constants are those for CIFAR, else for ImageNet


def robustness_record(
    embed_fn: Callable[..., Any],
    state: Any,
    source: Any,
    *,
    size: int,
    transform: Callable | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes top-1 errors of a run's own classifier per severity of regenerated corruptions.

    Args:
        embed_fn: `(state, images) -> (features, intermediates)`, with `logits` among the latter.
        state: of the method; read only.
        source: labelled examples.
        size: side of the images in pixels.
        transform: on the host, as for evaluation.
        batch_size: images per batch.
        seed: of the corruptions' random numbers: the same seed gives the same images.

    Returns:
        `protocol` (text), `examples`, `clean` {`error`, `ci95`}, `errors` {corruption: five
        errors in [0, 1]}, `mean_error` over all of them and its `mean_ci95`, and `mean_rise` above
        the clean error.

    Raises:
        UserError: a network without a classifier, or a source without labels.

    Reference: Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261; not their
        files, see `jssl.augment.corruptions`.
    """
    if source.num_classes < 2:
        raise UserError(
            f"Protocol 'robustness' needs labels, but data set '{source.name}' has "
            f"{source.num_classes} classes. Type another --source."
        )
    shapes = jax.eval_shape(embed_fn, state, jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8))
    if "logits" not in shapes[1]:
        raise UserError(
            "Protocol 'robustness' needs a classifier, and this network has no 'logits' "
            f"among {', '.join(shapes[1]) or 'nothing'}: expected a run of supervised, "
            "noisy_student (the folder of one of its stages) or deit."
        )

    @jax.jit
    def predict(state: Any, images: Any) -> jax.Array:
        return jnp.argmax(embed_fn(state, images)[1]["logits"], axis=1)

    images, labels = _all(source, transform, batch_size)
    constants = "cifar" if size < SMALL else "imagenet"
    mistakes = regenerated_mistakes(
        lambda x: predict(state, x),
        images,
        labels,
        key=jax.random.key(seed),
        constants=constants,
        batch_size=batch_size,
    )
    wrong = int(mistakes.pop("clean").sum())
    clean = wrong / len(labels)
    errors = {name: flags.mean(axis=1) for name, flags in mistakes.items()}
    of_image = np.mean([flags.mean(axis=0) for flags in mistakes.values()], axis=0)
    mean = float(of_image.mean())
    return {
        "protocol": (
            f"own classifier, {size} px, {len(labels):,} test examples of {source.name}; "
            f"corruptions regenerated with the constants of {constants}, seed {seed}, "
            f"{len(errors)} kinds at 5 severities"
        ),
        "examples": len(labels),
        "clean": {"error": clean, "ci95": list(binomial_interval(wrong, len(labels)))},
        "errors": {name: row.tolist() for name, row in errors.items()},
        "mean_error": mean,
        "mean_ci95": list(mean_interval(of_image, seed=seed)),
        "mean_rise": mean - clean,
    }


def _all(source: Any, transform: Callable | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    batches = data.eval_batches(source, batch_size=min(size, len(source)), transform=transform)
    seen = [(b["image"][b["mask"]], b["label"][b["mask"]]) for b in batches]
    images, labels = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    return images, labels


def robustness_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns two rows of the table: the clean error and the mean over the corruptions."""
    parts = (
        ("clean", record["clean"]["error"], record["clean"]["ci95"]),
        ("regenerated corruptions", record["mean_error"], record["mean_ci95"]),
    )
    return [
        {
            **metric_row(
                "own classifier",
                metric="top-1 error",
                value=value,
                ci95=ci95,
                count=record["examples"],
                feature=f"trained logits, {name}",
                protocol=record["protocol"],
            ),
            "errors": record["errors"],
        }
        for name, value, ci95 in parts
    ]


def format_robustness(record: Mapping[str, Any]) -> str:
    """Formats a record as plain text: a line per corruption, errors in per cent.

    Example:
        >>> print(format_robustness({
        ...     'protocol': 'mine', 'clean': {'error': 0.1, 'ci95': [0.05, 0.2]}, 'mean_error': 0.3,
        ...     'mean_rise': 0.2, 'errors': {'regenerated/contrast': [0.1, 0.2, 0.3, 0.4, 0.5]}}))
        top-1 error %, mine
        regenerated/contrast   10.0  20.0  30.0  40.0  50.0   mean  30.0
        clean 10.0 (95 % interval 5.0 - 20.0), corrupted 30.0, a rise of 20.0
    """
    width = max(map(len, record["errors"]))
    lines = [f"top-1 error %, {record['protocol']}"]
    for name, row in record["errors"].items():
        shown = "".join(f"{100 * e:6.1f}" for e in row)
        lines.append(f"{name:<{width}} {shown}   mean {100 * float(np.mean(row)):5.1f}")
    clean, (low, high) = record["clean"]["error"], record["clean"]["ci95"]
    lines.append(
        f"clean {100 * clean:.1f} (95 % interval {100 * low:.1f} - {100 * high:.1f}), corrupted "
        f"{100 * record['mean_error']:.1f}, a rise of {100 * record['mean_rise']:.1f}"
    )
    return "\n".join(lines)
