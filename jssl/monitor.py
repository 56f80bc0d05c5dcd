"""What is watched while a run trains: kNN accuracy and signs of collapse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import evaluate
from jssl.experiment import Experiment
from jssl.types import TrainState

COLLAPSE_EXAMPLES = 512  # enough for a spectrum of 128-512 dimensions, little enough for a CPU


class Head:
    """The first `count` examples of a source, spread evenly over it.

    A source may be sorted by class; evenly spaced examples keep every class in a subset.
    """

    def __init__(self, source: Any, count: int):
        self._source = source
        self._where = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int))
        self.name, self.num_classes = source.name, source.num_classes

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[int(self._where[index])]

    def fingerprint(self) -> str:
        return f"{self._source.fingerprint()}[{len(self)} evenly spaced]"


def make_monitor(experiment: Experiment) -> Callable[[TrainState], tuple[dict[str, float], list[str]]]:
    """Makes the online monitor of a run.

    Returns:
        `state -> (scalars, warnings)`: kNN top-1 when the data has labels, and the collapse
        report of two views of the same training images; warnings are lines for the terminal.
    """
    config, method = experiment.config, experiment.method
    embed = experiment.launcher.compile_embed(method.embed)
    settings = config.monitor
    train = Head(experiment.train_source, settings.max_examples)
    test = Head(experiment.test_source, settings.max_examples)
    probe = Head(experiment.train_source, min(COLLAPSE_EXAMPLES, settings.max_examples))
    views = jax.jit(method.views)
    images = np.stack([probe[i]["image"] for i in range(len(probe))])

    def two_views() -> tuple[Any, Any]:
        key = jax.random.key(config.seed)
        first = np.asarray(views(key, images, jnp.int32(0)))
        if len(first) > 1:
            return first[0], first[1]
        return first[0], np.asarray(views(jax.random.fold_in(key, 1), images, jnp.int32(0)))[0]

    pair = two_views()

    def features_of(state: TrainState, source: Any):
        return evaluate.embed_source(
            embed,
            state,
            source,
            batch_size=min(config.batch_size, len(source)),
            feature=settings.knn_feature,
        )

    def monitor(state: TrainState) -> tuple[dict[str, float], list[str]]:
        scalars: dict[str, float] = {}
        if train.num_classes > 1:
            train_x, train_y, _ = features_of(state, train)
            test_x, test_y, _ = features_of(state, test)
            scores = evaluate.knn_accuracy(
                train_x,
                train_y,
                test_x,
                test_y,
                num_classes=train.num_classes,
                k=settings.knn_k,
                temperature=settings.knn_temperature,
            )
            scalars["knn_top1"] = float(scores["top1"])
        warnings: list[str] = []
        for name, pick in (("backbone", lambda o: o[0]), ("projection", lambda o: o[1].get("projection"))):
            a, b = (pick(embed(state, x)) for x in pair)
            if a is None:
                continue
            report = evaluate.collapse_report(a, b)
            scalars.update({f"collapse/{name}_{k}": float(v) for k, v in report.items()})
            warnings += [
                f"{name}: {line}"
                for line in evaluate.collapse_warnings(
                    report,
                    std_threshold=settings.std_threshold,
                    rank_threshold=settings.rank_threshold,
                )
            ]
        return scalars, warnings

    return monitor


def monitor_protocol(experiment: Experiment) -> str:
    """One line that names the online kNN's protocol."""
    s = experiment.config.monitor
    train = min(s.max_examples, len(experiment.train_source))
    test = min(s.max_examples, len(experiment.test_source))
    return (
        f"online kNN: {s.knn_feature} features, k={s.knn_k}, cosine, weights "
        f"exp(s/{s.knn_temperature}), {train} training examples as bank, {test} test examples"
    )
