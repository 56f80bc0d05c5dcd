"""CPC v2's label-efficient classifier: on the map of the whole image, with few labels.

The encoder, which was trained on patches, is applied to whole images; a residual network follows on
its map [B,h,w,D], then the mean over positions and a linear layer. First the encoder is frozen,
then everything is fine-tuned. Hénaff et al., https://arxiv.org/abs/1905.09272, section 4.2: 11
blocks of 4096 maps with bottlenecks of 1024, on 14x14; 1, 2, 5, 10, 20, 50 and 100 % of the labels.
The paper tunes learning rates and lengths for each fraction; here they are fixed beforehand. The
norm of the blocks is not published: here it is that of the encoder, GroupNorm with one group.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jssl import augment, data, losses
from jssl.data import Rows as Rows
from jssl.errors import NotFiniteError
from jssl.evaluate.embed import embed_source
from jssl.models.conv import Conv
from jssl.types import Array, PyTree

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the paper
BLOCKS = 11
SHARE = 4  # channels of the map / bottleneck: 4096 / 1024
PHASES = ("frozen", "fine-tuned")
EPOCHS = (100.0, 50.0)  # of each phase; these, the rates and the batch are ours
RATES = (5e-4, 2e-4)
BATCH = 256
PIECE = 32  # images of a batch at a time on each device: their gradients are summed
EVAL_BATCH = 64
ADVICE = "Type another --seed."


class MapClassifier(nn.Module):
    """Bottleneck blocks on a map, their mean, a linear layer: [B,h,w,D] -> float32 [B,K].

    Attributes:
        num_classes: K.
        blocks: 11 in the paper.
        bottleneck: 1024 in the paper.
    """

    num_classes: int
    blocks: int = BLOCKS
    bottleneck: int = 1024

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.blocks):
            y = x
            for part, (width, size) in enumerate(
                ((self.bottleneck, 1), (self.bottleneck, 3), (x.shape[-1], 1))
            ):
                y = Conv(width, (size, size), name=f"block{i}_conv{part}")(y)
                y = nn.GroupNorm(num_groups=1, name=f"block{i}_norm{part}")(y)
                y = nn.relu(y) if part < 2 else y
            x = nn.relu(x + y)
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="linear")(pooled)


class EfficientTraining(NamedTuple):
    """The classifier as pure functions, compiled once for all encoders of the same shape.

    Attributes:
        first: `(key, encoder) -> head`, its first parameters.
        begin: `(trained) -> opt_state`, of Adam.
        step: `(trained, fixed, opt_state, images, labels, key, rate) -> (trained, opt_state,
            loss)`. `encoder` and `head` are in `trained` or in `fixed`. The arrays of `trained` and
            `opt_state` are used up.
        logits: `({'encoder', 'head'}, images uint8 [B,size,size,C]) -> float32 [B,K]`.
        place: puts a tree on all devices.
        map_shape: (h, w, D).
        bottleneck: of the blocks.
    """

    first: Callable[[Array, PyTree], PyTree]
    begin: Callable[[PyTree], PyTree]
    step: Callable[..., tuple[PyTree, PyTree, Array]]
    logits: Callable[[PyTree, Array], Array]
    place: Callable[[PyTree], PyTree]
    map_shape: tuple[int, int, int]
    bottleneck: int


def make_efficient(
    whole_map: Callable[[PyTree, Array], Array],
    encoder: PyTree,
    *,
    num_classes: int,
    size: int,
    channels: int = 3,
    blocks: int = BLOCKS,
    bottleneck: int = 0,
    host_crop: bool = False,
    crop_options: Mapping[str, Any] | None = None,
) -> EfficientTraining:
    """Makes the functions of a training.

    Args:
        whole_map: `(encoder, images [B,size,size,C] in [0, 1]) -> [B,h,w,D]`, differentiable; of
            CPC: `jssl.methods.cpc.whole_map(config)`.
        encoder: its parameters, for the shapes; of CPC: `state.average`.
        num_classes: K.
        size, channels: of the images.
        blocks, bottleneck: of `MapClassifier`; 0: D / 4, as in the paper.
        host_crop: the images are random crops of the host, which the device only flips.
        crop_options: replace options of the recipe `crop_flip`.

    Returns:
        An `EfficientTraining`; its batches are shared by the local devices.
    """
    blank = jnp.zeros((1, size, size, channels))
    _, h, w, D = jax.eval_shape(whole_map, encoder, blank).shape
    net = MapClassifier(num_classes, blocks, bottleneck or max(1, D // SHARE))
    views = augment.make_views(
        "crop_flip", size=size, host_crop=host_crop, channels=channels, **(crop_options or {})
    )
    tx = optax.scale_by_adam()
    mesh = Mesh(np.array(jax.local_devices()), ("batch",))
    replicated, sharded = (NamedSharding(mesh, PartitionSpec(*a)) for a in ((), ("batch",)))

    def classify(params: PyTree, images: Array) -> Array:
        maps = whole_map(params["encoder"], images)
        logits: Any = net.apply({"params": params["head"]}, maps)
        return logits

    def loss_fn(trained: PyTree, fixed: PyTree, images: Array, labels: Array) -> Array:
        params = {**fixed, **trained}
        return jnp.mean(losses.cross_entropy(classify(params, images), labels))

    def step(trained, fixed, opt_state, images, labels, key, rate):
        x = augment.batch_views(views, key, images, jnp.int32(0))[0]
        pieces = _pieces(len(x), mesh.size)
        # No batch statistics: the gradient of a batch is the mean of those of its pieces.
        split = lambda a: a.reshape(-1, pieces, *a.shape[1:]).swapaxes(0, 1)  # noqa: E731

        def add(total, piece):
            part = jax.value_and_grad(loss_fn)(trained, fixed, *piece)
            return jax.tree.map(lambda t, x: t + x / pieces, total, part), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trained))
        (loss, grads), _ = jax.lax.scan(add, zero, (split(x), split(labels)))
        updates, opt_state = tx.update(grads, opt_state)
        trained = jax.tree.map(lambda p, u: p - rate * u, trained, updates)
        return trained, opt_state, loss

    compiled = jax.jit(step, donate_argnums=(0, 2), out_shardings=replicated)
    scores = jax.jit(lambda params, images: classify(params, augment.to_float(images)))

    def put(x: Any) -> Array:
        return jax.device_put(x, replicated if len(x) % mesh.size else sharded)

    return EfficientTraining(
        first=lambda key, encoder: net.init(key, jnp.zeros((1, h, w, D)))["params"],
        begin=tx.init,
        step=lambda t, f, o, images, labels, *rest: compiled(
            t, f, o, put(images), put(labels), *rest
        ),
        logits=lambda params, images: scores(params, put(images)),
        place=lambda tree: jax.device_put(tree, replicated),
        map_shape=(h, w, D),
        bottleneck=net.bottleneck,
    )


def _pieces(batch: int, devices: int) -> int:
    """Returns in how many equal parts a batch is computed: at most `PIECE` images a device."""
    return next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= PIECE * devices)


def efficient_batch(examples: int, batch_size: int = BATCH) -> int:
    """Returns the batch size for so many labelled examples: a multiple of `PIECE`, or all of few.

    Example:
        >>> efficient_batch(12811), efficient_batch(100), efficient_batch(20)
        (256, 96, 20)
    """
    most = min(batch_size, examples)
    return most if most <= PIECE else most - most % PIECE


def efficient_steps(
    examples: int,
    *,
    epochs: tuple[float, float] = EPOCHS,
    batch_size: int = BATCH,
    most: int | None = None,
) -> tuple[int, int]:
    """Returns the updates of both phases; `most` of each in a dry run.

    Example:
        >>> efficient_steps(12811), efficient_steps(40, epochs=(3, 1.5))
        ((5000, 2500), (3, 2))
    """
    per_epoch = examples // efficient_batch(examples, batch_size)
    first, second = (min(max(1, round(n * per_epoch)), most or math.inf) for n in epochs)
    return int(first), int(second)


class EfficientFit(NamedTuple):
    """The result of `fit_efficient`.

    Attributes:
        encoder, head: parameters after fine-tuning.
        frozen: logits float32 [M,K] and labels int32 [M] of the test split after the first phase.
        finetuned: the same after the second.
    """

    encoder: PyTree
    head: PyTree
    frozen: tuple[np.ndarray, np.ndarray]
    finetuned: tuple[np.ndarray, np.ndarray]


def fit_efficient(
    training: EfficientTraining,
    encoder: PyTree,
    labelled: Any,
    test_source: Any,
    *,
    epochs: tuple[float, float] = EPOCHS,
    learning_rates: tuple[float, float] = RATES,
    batch_size: int = BATCH,
    most_steps: int | None = None,
    train_transform: Callable | None = None,
    test_transform: Callable | None = None,
    workers: int = 0,
    seed: int = 0,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> EfficientFit:
    """Trains the classifier with the encoder frozen, then both; judges after each phase.

    Adam, cosine to 0 in each phase, crop and flip; the last step of each is judged.

    Args:
        training: of `make_efficient`.
        encoder: parameters. Not changed.
        labelled: the examples that keep their labels, see `jssl.data.label_subset`.
        test_source: labelled examples.
        epochs: of both phases, over the labelled examples.
        learning_rates: initial, of each phase.
        batch_size: see `efficient_batch`.
        most_steps: of each phase, for a dry run.
        train_transform, test_transform: on the host.
        workers: processes that read training images; 0 for threads.
        seed: of order, crops and initialisation.
        progress: called about ten times a phase with (phase, step, steps, loss).

    Returns:
        An `EfficientFit`.

    Raises:
        NotFiniteError: a non-finite loss.

    Reference: Hénaff et al., https://arxiv.org/abs/1905.09272, section 4.2.
    """
    key, size = jax.random.key(seed), efficient_batch(len(labelled), batch_size)
    counts = efficient_steps(len(labelled), epochs=epochs, batch_size=batch_size, most=most_steps)
    params = training.place({"head": training.first(key, encoder), "encoder": encoder})
    judged = []
    for i, (phase, steps, rate) in enumerate(zip(PHASES, counts, learning_rates, strict=True)):
        names = ("head",) if i == 0 else ("head", "encoder")
        # Copies: what is trained is donated, and the caller keeps its encoder.
        trained = {name: jax.tree.map(jnp.copy, params[name]) for name in names}
        fixed = {name: tree for name, tree in params.items() if name not in names}
        batches = data.train_batches(
            labelled, batch_size=size, seed=seed + i, workers=workers, transform=train_transform
        )
        with contextlib.closing(batches):
            trained = _train(
                training, trained, fixed, batches, jax.random.fold_in(key, i), steps, rate,
                lambda step, loss, phase=phase, steps=steps: _check(
                    progress, phase, step, steps, loss
                ),
            )  # fmt: skip
        params = {**fixed, **trained}
        logits, labels, _ = embed_source(
            training.logits, params, test_source, batch_size=EVAL_BATCH, transform=test_transform
        )
        if not np.isfinite(logits).all():  # after the last update, whose loss was before it
            raise NotFiniteError(f"The label-efficient classifier ({phase}) is broken.", ADVICE)
        judged.append((logits, labels))
    return EfficientFit(params["encoder"], params["head"], *judged)


def _train(training, trained, fixed, batches, key, steps, rate, report) -> PyTree:
    opt_state = training.place(training.begin(trained))
    for i in range(steps):
        batch = next(batches)
        now = np.float32(rate * 0.5 * (1 + math.cos(math.pi * i / steps)))
        trained, opt_state, loss = training.step(
            trained, fixed, opt_state, batch["image"], batch["label"],
            jax.random.fold_in(key, i), now,
        )  # fmt: skip
        if (i + 1) % max(1, steps // 10) == 0 or i + 1 == steps:
            report(i + 1, float(loss))
    return trained


def _check(progress, phase: str, step: int, steps: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise NotFiniteError(
            f"The label-efficient classifier ({phase}) has a loss of {loss} at update {step} of "
            f"{steps}.",
            ADVICE,
        )
    if progress is not None:
        progress(phase, step, steps, loss)
