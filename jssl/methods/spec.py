"""The interface of a method: every method's file exports one `SPEC`.

Nothing else in the file of a method is looked up.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jssl.settings import Setting, defaults
from jssl.types import Method, PyTree, RunLengths, TrainState

Config = Any  # ml_collections.ConfigDict
Fields = Mapping[str, tuple[tuple[int, ...], str]]


class OtherRun(NamedTuple):
    """Another run that a run starts with: a teacher, a tokenizer.

    The run reads its workdir; the method only says what to do with what was read.

    Attributes:
        key: of the method's section, the workdir of the other run.
        wanted: `(config) -> bool`: whether this config reads it. Raises UserError where it is
            needed and not named.
        resolve: `(config, other config)`: fills in, in place, what the method has to know of it, so
            that the run can be read without that workdir. Raises UserError for a run that does not
            fit.
        put: `(config, state, other state) -> state`: the first state with the other's network.
        field: of the state, where the other's network lies.
        codes: modules whose outputs are codes of the other network: with another one they start
            anew.
        advice: what to type for such a run.
    """

    key: str
    wanted: Callable[[Config], bool]
    resolve: Callable[[Config, Config], None]
    put: Callable[[Config, Any, Any], Any]
    field: str
    codes: tuple[str, ...] = ()
    advice: str = ""


class LabelledPart(NamedTuple):
    """The part of a train split that a method learns from.

    Attributes:
        fraction: share of every class that keeps its labels; the rest is not used.
        held_out: number of examples that are not trained with, and judged in place of the test
            split; 0 for none.
    """

    fraction: float = 1.0
    held_out: int = 0


class Repeated(NamedTuple):
    """Repeated augmentation: every example `repeats` times, dealt to `groups` of a batch."""

    repeats: int
    groups: int


@dataclasses.dataclass(frozen=True)
class DataHooks:
    """The arrays and the order that a method needs besides image, label and index.

    Attributes:
        part: `(config) -> LabelledPart`, for a method that learns from a part of the labels.
        pseudo_labels: whether the config's section names pseudo-labels of unlabelled examples,
            which are drawn beside the labelled ones (see `jssl.data.semi_supervised`).
        order: `(config) -> Repeated`, or None for each example once an epoch.
        device_crops: `(config) -> bool`: whether only the device can make the crops, as they are of
            several sizes or cut other arrays along.
        extra_fields: `(config) -> {name: (shape after [B,H,W], dtype)}`, further arrays of a batch.
        dense: 'boxes' or 'masks', for a method that learns from them; '' for one that learns from
            whole pictures.
        dense_fields: `(config) -> {name: (shape after [B], dtype)}`, all arrays of its batch.
    """

    part: Callable[[Config], LabelledPart] = lambda config: LabelledPart()
    pseudo_labels: bool = False
    order: Callable[[Config], Repeated | None] = lambda config: None
    device_crops: Callable[[Config], bool] = lambda config: False
    extra_fields: Callable[[Config], Fields] = lambda config: {}
    dense: Literal["", "boxes", "masks"] = ""
    dense_fields: Callable[[Config], Fields] = lambda config: {}


class Inspect(NamedTuple):
    """Numbers, warnings and pictures of a method's own, besides the monitor's.

    Attributes:
        outputs: names of the intermediates of `embed` that `report` reads.
        report: `(config, outputs, batch) -> (scalars, warnings, pictures uint8 [H,W,3])`; the batch
            holds `image` uint8 [M,H,W,3] and `label` int32 [M].
    """

    outputs: tuple[str, ...]
    report: Callable[
        [Config, Mapping[str, np.ndarray], Mapping[str, np.ndarray]],
        tuple[dict[str, float], list[str], dict[str, np.ndarray]],
    ]


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """Everything that the rest of jssl reads of a method.

    Attributes:
        make: `(config, tx, lengths, *, axis_name=None) -> Method`.
        settings: of the method's own section of the config: the default of each key, and its rule.
        state: type of its state.
        num_crops: crops of one example in a step.
        labels: 'required' needs a classifier of as many classes as the data have, 'optional' uses
            labels where there are some.
        has_classifier: whether `embed` names `logits` that the final table judges.
        grid_feature: the intermediate [B,h,w,D] on which the final table fits a linear probe.
        whole_map: `(config) -> ((params, images [B,H,W,C] in [0, 1]) -> [B,h,w,D])`, of an encoder
            of patches: its map of whole pictures, for `--protocol=label_efficient`; it reads
            'encoder' of the parameters alone.
        averaged: the fields of the state with the averaged parameters and running statistics that
            `embed` uses in place of `params` and `batch_stats`; where the first is empty it does
            not.
        target: the fields with the parameters and running statistics of a target network.
        linear_preset: of `jssl.evaluate.PRESETS`, the linear protocol of its paper.
        linear_variants: the same by preset, or by the first part of the network's name.
        other_runs: which it starts with.
        data: what it needs of the data.
        inspect: what it shows while it trains.
        schedules: `(config, lengths) -> {name: (step) -> value}`, what else depends on the length.
        colours: why its pictures must be red, green and blue; '' if they need not.
        run_name: `(config) -> str`: what tells its runs apart in a table of results.
        accumulates: whether its step can run in microbatches, see `jssl.parallel.microbatches`.
    """

    make: Callable[..., Method]
    settings: Mapping[str, Setting]
    state: type[TrainState] = TrainState
    num_crops: int = 2
    labels: Literal["unused", "optional", "required"] = "unused"
    has_classifier: bool = False
    grid_feature: str | None = None
    whole_map: Callable[[Config], Callable[[PyTree, Any], Any]] | None = None
    averaged: tuple[str, str] | None = None
    target: tuple[str, str] | None = None
    linear_preset: str = ""
    linear_variants: Mapping[str, str] = dataclasses.field(default_factory=dict)
    other_runs: tuple[OtherRun, ...] = ()
    data: DataHooks = DataHooks()
    inspect: Inspect | None = None
    schedules: Callable[[Config, RunLengths], Mapping[str, Callable[..., Any]]] = (
        lambda config, lengths: {}
    )
    colours: str = ""
    run_name: Callable[[Config], str] = lambda config: ""
    accumulates: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """The method's own section of the config, by default."""
        return defaults(self.settings)

    def networks(self, state: TrainState) -> dict[str, tuple[PyTree, PyTree]]:
        """The networks in a state: {field of the parameters: (parameters, running statistics)}."""
        pairs = [("params", "batch_stats"), self.target, self.averaged]
        held = vars(state)
        return {pair[0]: (held[pair[0]], held[pair[1]]) for pair in pairs if pair and held[pair[0]]}

    def judged(self, state: TrainState) -> tuple[PyTree, PyTree]:
        """Parameters and running statistics that `embed` uses."""
        networks = self.networks(state)
        averaged = self.averaged and self.averaged[0]
        return networks[averaged if averaged in networks else "params"]
