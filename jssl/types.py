"""The central types, and the axis letters of all shapes in jssl.

Axis letters used in docstrings:

    B  examples on one device            N  examples in the global batch
    V  views of one example              H, W, C  height, width, channels
    D  embedding dimension               K  classes, or entries of a queue
    M  examples in a data set            n  devices along the batch axis
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax

from jssl.third_party import flax

Array = jax.Array
PyTree = Any
# {'image': uint8 [B,H,W,3] or [B,V,H,W,3], 'label': int32 [B], 'index': int32 [B]}
Batch = Mapping[str, Array]
# scalars, equal on every device
Metrics = Mapping[str, Array]


@flax.struct.dataclass
class TrainState:
    """Everything that changes between steps, in one immutable pytree.

    The shapes are the same in every launch mode: no leaf has a device axis. A method that needs
    more (a queue, a target network) subclasses this with required, named fields.

    Attributes:
        step: int32 [], the number of updates already made.
        key: typed PRNG key []. Never advanced: a step uses `fold_in(key, step)`.
        params: the trained parameters.
        batch_stats: the linen collection of running statistics, `{}` when unused.
        opt_state: the state of the optax transformation.
    """

    step: Array
    key: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree

    if TYPE_CHECKING:  # flax adds it when the class is made, where no type checker sees it

        def replace(self, **changes: Any) -> Self: ...


class RunLengths(NamedTuple):
    """The lengths of a run, from which schedules and sizes of memory banks follow.

    Attributes:
        num_examples: in the train split.
        steps_per_epoch: updates in one epoch.
        total_steps: updates in the whole run.

    Example:
        >>> RunLengths(num_examples=50_000, steps_per_epoch=97, total_steps=97_000).total_steps
        97000
    """

    num_examples: int
    steps_per_epoch: int
    total_steps: int


class Method(NamedTuple):
    """A training method as pure functions; hyper-parameters are closed over by its `make`.

    Attributes:
        init: `(key, batch) -> State`. Works under `jit(out_shardings=...)` and `eval_shape`.
        train_step: `(state, batch) -> (state, metrics)`, written for one device of `axis_name`.
        embed: `(state, images [B,H,W,C]) -> (features [B,D], intermediates)`; images are uint8,
            or float in [0, 1]; `intermediates` maps names to arrays [B,...] and always holds
            `'projection'` where the method has a projection head.
        views: `(key, images [B,H,W,C], first) -> float32 [V,B,h,w,C]`, the augmentation of the
            step, where `first` is the global index of `images[0]`.
        refresh: `(state, batches) -> (state, metrics)`, or None. The loop calls it before the first
            step of every epoch, the first one too. `batches()` is a new pass over the whole train
            split in its order, see `jssl.run.batches.sweep`; the metrics are numbers for the log.
            It depends on the state and the data alone: a run that was killed in it, or between
            two checkpoints, reaches the same state again.
        order: `(state) -> order`, or None: the order of the examples in an epoch, as
            `jssl.data.train_batches` takes it, after a refresh or from a mid-epoch state.
        predict: `(state, batch) -> PyTree [B,...]`, or None: what a detector or a segmentation
            network says of `image` and `size` of a batch.
        statistics: `(state, batch) -> batch_stats`, or None: those of this global batch alone, on
            one device.
    """

    init: Callable[..., TrainState]
    train_step: Callable[..., tuple[TrainState, Metrics]]
    embed: Callable[..., tuple[Array, Mapping[str, Array]]]
    views: Callable[..., Array]
    refresh: Callable[..., tuple[TrainState, Mapping[str, float]]] | None = None
    order: Callable[..., Callable[[int, int, int], Any]] | None = None
    predict: Callable[..., PyTree] | None = None
    statistics: Callable[..., PyTree] | None = None


StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
