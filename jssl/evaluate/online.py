"""The monitor of a run during training: kNN accuracy and collapse metrics."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jssl import data, methods
from jssl.data.subset import Subset
from jssl.errors import UserError, nearest
from jssl.evaluate.context import Context
from jssl.evaluate.embed import BACKBONE
from jssl.evaluate.protocols import classifier, knn
from jssl.methods._common import channels_of
from jssl.metrics.collapse import collapse_report, collapse_warnings
from jssl.run.batches import host_transform
from jssl.run.build import Experiment, abstract_state
from jssl.types import TrainState

COLLAPSE_EXAMPLES = 512  # enough for a spectrum of 128-512 dimensions, few enough for a CPU


def check_monitor(experiment: Experiment, *, judged: bool) -> None:
    """Checks the settings of the monitor and of the final table before training.

    Nothing is compiled: only the shapes of `embed`'s outputs are used.

    Args:
        experiment: the parts of the run.
        judged: whether the final table is computed.

    Raises:
        UserError: a feature that `embed` does not return, k larger than the bank, too few
            examples, or test labels outside the classes of the bank.
    """
    config, settings = experiment.config, experiment.config.monitor
    if methods.get(config.method).data.dense:
        return  # it has no monitor, and its table no kNN
    banks = []
    if settings.every_epochs:
        banks.append(("monitor.max_examples", settings.max_examples))
        if settings.max_examples < 2:
            raise UserError(
                "The monitor compares pictures: expected --config.monitor.max_examples of at "
                f"least 2, found {settings.max_examples}."
            )
    if judged:
        banks.append(("final.enabled", len(experiment.probe_source)))
        if config.final.linear_epochs < 1:
            raise UserError(
                "The table at the end needs --config.final.linear_epochs of at least 1, found "
                f"{config.final.linear_epochs}. To leave it out type --config.final.enabled=False."
            )
    test, bank = experiment.test_source, experiment.probe_source
    if not banks or test is None or bank.num_classes < 2:
        return
    if test.num_classes > bank.num_classes:
        raise UserError(
            f"The test split of '{test.name}' has {test.num_classes} classes, the examples it is "
            f"compared with {bank.num_classes}: expected the same classes. Type another "
            "--config.data.probe_split or --config.data.test_split."
        )
    size = config.augment.size
    images = jax.ShapeDtypeStruct((1, size, size, channels_of(config)), jnp.uint8)
    outputs = jax.eval_shape(experiment.method.embed, abstract_state(experiment), images)
    names, feature = [BACKBONE, *outputs[1]], settings.knn_feature
    if feature not in names:
        raise UserError(
            f"Method '{config.method}' has no feature '{feature}': {nearest(feature, names)}. "
            "Type --config.monitor.knn_feature=NAME."
        )
    for key, count in banks:
        most = min(count, len(bank))
        if not 1 <= settings.knn_k <= most:
            raise UserError(
                f"kNN with k={settings.knn_k} over {most} labelled examples (config.{key}): "
                f"expected k from 1 to {most}. Type --config.monitor.knn_k=N."
            )
    if not settings.knn_temperature > 0:
        raise UserError(
            "kNN expects a temperature above 0, found "
            f"{settings.knn_temperature}. Type --config.monitor.knn_temperature=0.1."
        )


def make_monitor(
    experiment: Experiment,
) -> Callable[[TrainState], tuple[dict[str, float], list[str]]]:
    """Makes the online monitor of a run.

    Returns:
        `state -> (scalars, warnings)`: kNN top-1 if the data has labels, and the collapse
        report of two views of the same training images; warnings are lines for the terminal.
    """
    config, method = experiment.config, experiment.method
    embed = experiment.launcher.compile_embed(method.embed)
    settings = config.monitor
    labelled = experiment.test_source is not None and experiment.probe_source.num_classes > 1
    bank = Subset(experiment.probe_source, settings.max_examples)
    probe = Subset(experiment.train_source, min(COLLAPSE_EXAMPLES, settings.max_examples))
    views = jax.jit(method.views)
    images = _images(experiment, probe)

    def two_views() -> tuple[Any, Any]:
        key = jax.random.key(config.seed)
        first = np.asarray(views(key, images, jnp.int32(0)))
        if len(first) > 1:
            return first[0], first[1]
        return first[0], np.asarray(views(jax.random.fold_in(key, 1), images, jnp.int32(0)))[0]

    pair = two_views()

    def held_out_top1(state: TrainState) -> float:
        context = Context.running(
            experiment,
            state,
            compiled=embed,
            sources=(bank, experiment.held_out),
            batch_size=config.batch_size,
        )
        if methods.get(config.method).has_classifier:
            return classifier.top1(context)
        return float(knn.run(context, ("trained",))[0]["top1"]["trained"])

    def monitor(state: TrainState) -> tuple[dict[str, float], list[str]]:
        scalars: dict[str, float] = {}
        if labelled:
            context = Context.running(
                experiment,
                state,
                compiled=embed,
                sources=(bank, Subset(experiment.test_source, settings.max_examples)),
                batch_size=config.batch_size,
            )
            (row,) = knn.run(context, ("trained",))
            scalars["knn_top1"] = float(row["top1"]["trained"])
        if experiment.held_out is not None:
            scalars["held_out_top1"] = held_out_top1(state)
        warnings: list[str] = []
        for name, pick in (
            ("backbone", lambda o: o[0]),
            ("projection", lambda o: o[1].get("projection")),
        ):
            a, b = (pick(embed(state, x)) for x in pair)
            if a is None:
                continue
            report = collapse_report(a, b)
            scalars.update({f"collapse/{name}_{k}": float(v) for k, v in report.items()})
            warnings += [
                f"{name}: {line}"
                for line in collapse_warnings(
                    report,
                    std_threshold=settings.std_threshold,
                    rank_threshold=settings.rank_threshold,
                )
            ]
        return scalars, warnings

    return monitor


def make_inspection(
    experiment: Experiment,
) -> Callable[[TrainState], tuple[dict[str, float], list[str], dict[str, np.ndarray]]] | None:
    """Makes the method's own monitor, see `jssl.methods.spec.Inspect`.

    Returns:
        `state -> (scalars, warnings, pictures)` for examples of the test split (of the train split
        without one), pictures as uint8 [H,W,3]; None if the method has no `inspect`.
    """
    config = experiment.config
    inspect = methods.get(config.method).inspect
    if inspect is None:
        return None
    source = experiment.test_source or experiment.train_source
    source = Subset(source, config.monitor.max_examples)
    transform = data.eval_transform(config.data, source, size=config.augment.size)
    compiled = experiment.launcher.compile_embed(experiment.method.embed)
    size = min(config.batch_size, len(source))

    def inspection(state: TrainState) -> tuple[dict[str, float], list[str], dict[str, np.ndarray]]:
        outputs: dict[str, list[np.ndarray]] = {name: [] for name in inspect.outputs}
        inputs: dict[str, list[np.ndarray]] = {"image": [], "label": []}
        batches = iter(data.eval_batches(source, batch_size=size, transform=transform))
        with contextlib.closing(batches):
            for batch in batches:
                _, named = compiled(state, batch["image"])
                for name, parts in outputs.items():
                    parts.append(np.asarray(named[name])[batch["mask"]])
                for name, parts in inputs.items():
                    parts.append(batch[name][batch["mask"]])
        results, batch = (
            {name: np.concatenate(parts) for name, parts in arrays.items()}
            for arrays in (outputs, inputs)
        )
        return inspect.report(config, results, batch)

    return inspection


def _images(experiment: Experiment, source: Any) -> np.ndarray:
    """Returns the images of a source as in training, uint8 [B,H,W,C] or [B,V,H,W,C]."""
    batches = data.train_batches(
        source,
        batch_size=len(source),
        seed=experiment.config.seed,
        transform=host_transform(experiment),
    )
    with contextlib.closing(batches):
        return next(batches)["image"]


def held_out_protocol(experiment: Experiment) -> str:
    """Returns what the best checkpoint of a run is chosen by, one line."""
    own = methods.get(experiment.config.method).has_classifier
    measure = (
        "own classifier" if own else f"kNN of {experiment.config.monitor.knn_feature} features"
    )
    return f"top-1 of the {measure} on {len(experiment.held_out):,} held-out training examples"


def monitor_protocol(experiment: Experiment) -> str:
    """Returns the protocol of the online kNN, one line."""
    s = experiment.config.monitor
    if experiment.test_source is None or experiment.probe_source.num_classes < 2:
        return "no labelled test split: collapse metrics only, no kNN"
    bank = min(s.max_examples, len(experiment.probe_source))
    test = min(s.max_examples, len(experiment.test_source))
    return (
        f"online kNN: {s.knn_feature} features, k={s.knn_k}, cosine, weights "
        f"exp(s/{s.knn_temperature}), {bank} training examples as bank, {test} test examples"
    )
