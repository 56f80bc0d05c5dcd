"""The input of a protocol: the network of a run, and the data set that it is evaluated on."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jssl import data, methods
from jssl.errors import UserError, nearest
from jssl.evaluate.embed import BACKBONE, embed_source, select_feature
from jssl.evaluate.probes.logistic_table import small_pixels
from jssl.evaluate.probes.pooling import pooled_maps
from jssl.evaluate.probes.presets import PRESETS
from jssl.methods._common import channels_of
from jssl.parallel.launcher import run_once
from jssl.run import build, pretrained, workdir
from jssl.run.checksums import backbone_hash
from jssl.run.writers import say
from jssl.types import TrainState

RAW = "raw pixels"
KINDS = ("trained", "untrained", RAW)
BATCH = 256  # images per batch of `embed`


class Settings(NamedTuple):
    """The flags of `jssl evaluate`.

    Attributes:
        k, temperature: of kNN.
        feature: 'backbone' or the name of an intermediate.
        preset: of the linear protocol, a key of `jssl.evaluate.PRESETS`; '' for the method's own.
        epochs: of the linear protocols, of VOC's fine-tuning and of label_efficient's first phase;
            0 for those of the preset, or of the final table.
        step: of the checkpoint; the newest by default.
        source, data_dir: data set; the run's by default.
        seed: of the protocol's random numbers: held-out examples, corruptions, classifiers.
        seeds: number of trainings of voc_detection and voc_segmentation, from `seed` on.
        lr, wd: learning rate and weight decay of voc2007_finetune; None: selected from its grid.
        limit: of a dry run: so many evenly spaced pictures of each split; None for all.
        fraction: of the labels, for label_efficient: shares such as '0.01,0.1'; '' for its own.
    """

    k: int = 20
    temperature: float = 0.1
    feature: str = BACKBONE
    preset: str = ""
    epochs: float = 0.0
    step: int | None = None
    source: str | None = None
    data_dir: str | None = None
    seed: int = 0
    seeds: int = 1
    lr: float | None = None
    wd: float | None = None
    limit: int | None = None
    fraction: str = ""


class Context:
    """A network and the data that it is evaluated on; what protocols share is computed once.

    Created by `load` from a workdir, or by `running` from a run in this process.

    Attributes:
        settings: of the protocols.
        config: of the run.
        size: side of the images in pixels.
        batch_size: images per batch of `embed`.
        sheets: pictures uint8 [H,W,3] that a protocol leaves for its files, by their names.
    """

    def __init__(
        self,
        config: ConfigDict,
        settings: Settings,
        data_config: ConfigDict,
        *,
        network: Callable[[], tuple[Callable[..., Any], TrainState]],
        untrained: Callable[[], TrainState],
        sources: Callable[[], tuple[Any, Any]],
        compiled: Callable[..., Any] | None = None,
        batch_size: int = BATCH,
        folder: Path | None = None,
    ):
        self.config, self.settings, self._data = config, settings, data_config
        self.size, self.batch_size, self._folder = config.augment.size, batch_size, folder
        self._network, self._untrained, self._sources = network, untrained, sources
        self._compiled = compiled
        self.sheets: dict[str, Any] = {}
        self._programs: dict[str, Callable[..., Any]] = {}  # by feature

    @classmethod
    def load(cls, folder: str | Path, settings: Settings) -> "Context":
        """Creates the context of a finished run; checkpoint and data are read on first use."""
        config = workdir.read_config(folder)
        section = data_config(config, settings.source, settings.data_dir)
        if settings.limit:  # kNN takes no more neighbours than there are
            settings = settings._replace(k=min(settings.k, settings.limit))
        return cls(
            config,
            settings,
            section,
            network=lambda: build.load_encoder(folder, step=settings.step),
            untrained=lambda: _first_state(config),
            sources=lambda: _labelled_sources(section),
            folder=Path(folder),
        )

    @classmethod
    def running(
        cls,
        parts: build.Experiment,
        state: TrainState,
        *,
        compiled: Callable[..., Any],
        sources: tuple[Any, Any] | None = None,
        batch_size: int = BATCH,
    ) -> "Context":
        """Creates the context of a run in this process.

        Args:
            parts: of the run.
            state: to evaluate, global.
            compiled: `parts.launcher.compile_embed(parts.method.embed)`.
            sources: (train, test) examples; those of the run by default.
            batch_size: images per batch of `embed`.
        """
        monitor = parts.config.monitor
        settings = Settings(monitor.knn_k, monitor.knn_temperature, monitor.knn_feature)
        splits = sources or (parts.probe_source, parts.test_source)
        return cls(
            parts.config,
            settings,
            parts.config.data,
            network=lambda: (parts.method.embed, state),
            untrained=lambda: build.init_state(parts, begin=False),
            sources=lambda: splits,
            compiled=compiled,
            batch_size=batch_size,
        )

    @property
    def folder(self) -> Path:
        """The workdir that was loaded."""
        if self._folder is None:
            raise ValueError("A run in this process was not loaded from a workdir.")
        return self._folder

    @functools.cached_property
    def _loaded(self) -> tuple[Callable[..., Any], TrainState]:
        return self._network()

    @property
    def embed(self) -> Callable[..., Any]:
        """`(state, images) -> (features, intermediates)`, pure."""
        return self._loaded[0]

    @property
    def state(self) -> TrainState:
        """The state of the network; read only."""
        return self._loaded[1]

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the network, see `jssl.evaluate.backbone_hash`."""
        return backbone_hash(self.state)

    @functools.cached_property
    def untrained(self) -> TrainState:
        """The state before the first step, from the run's seed."""
        return self._untrained()

    @property
    def imported(self) -> bool:
        """Whether the workdir is of published weights, which no run of ours began."""
        return self._folder is not None and bool(pretrained.weights_file(self._folder))

    @property
    def data(self) -> ConfigDict:
        """The `data` section of the evaluated data set."""
        return self._data

    @functools.cached_property
    def sources(self) -> tuple[Any, Any]:
        """The labelled train and test split."""
        train, test = self._sources()
        return self.limited(train), self.limited(test)

    def limited(self, source: Any) -> Any:
        """Returns the pictures of a source that --limit leaves: all of them without it.

        They are evenly spaced, as a source may be sorted by class.
        """
        return data.Limited(source, self.settings.limit) if self.settings.limit else source

    def other_classes(self, source: Any) -> str:
        """Describes how the classes of the run's own classifier differ from those of a source.

        Args:
            source: examples to classify.

        Returns:
            Text; '' if they are the same, as far as is known.
        """
        return other_classes(self.folder, self.config, self._data, source)

    @property
    def channels(self) -> int:
        """Number of channels of the network's pictures."""
        return channels_of(self.config)

    @property
    def num_classes(self) -> int:
        return self.sources[0].num_classes

    def transform(self, source: Any) -> Any:
        """Returns the evaluation crop for the images of a source, on the host."""
        return data.eval_transform(self._data, source, size=self.size)

    @functools.cached_property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the network's intermediates, for one image."""
        image = jax.ShapeDtypeStruct((1, self.size, self.size, self.channels), "uint8")
        return {k: v.shape for k, v in jax.eval_shape(self.embed, self.state, image)[1].items()}

    @functools.cached_property
    def logits(self) -> Callable[..., Any]:
        """The run's own classifier, compiled: `(state, images) -> float32 [B,K]`."""
        return self.compile("logits")

    @functools.cached_property
    def classified(self) -> tuple[Any, Any]:
        """Logits of the run's own classifier, float32 [M,K], and labels [M] of the test split."""
        return self.classify("trained")

    def classify(self, kind: str) -> tuple[Any, Any]:
        """Returns what `classified` is, of the 'trained' or the 'untrained' network."""
        test = self.sources[1]
        return embed_source(
            self.compile("logits"),
            self.owner(kind),
            test,
            batch_size=self.batch_size,
            feature="logits",
            transform=self.transform(test),
        )[:2]

    @property
    def probed(self) -> Callable[..., Any]:
        """`embed` for probes of single layers: AlexNet's maps pooled as in DeepCluster."""
        alexnet = self.config.model.name == "alexnet"
        return pooled_maps(self.embed) if alexnet else self.embed

    @property
    def grid_feature(self) -> str | None:
        """The intermediate that is a grid of patches; None if the method has none."""
        return methods.get(self.config.method).grid_feature

    @property
    def cached_epochs(self) -> int:
        """Epochs of classifiers on cached features: --epochs, or those of the final table."""
        return int(self.settings.epochs) or self.config.final.linear_epochs

    def compile(self, feature: str) -> Callable[..., Any]:
        """Compiles `(state, images) ->` a feature, or all of `embed`; for `embed_source`."""
        if self._compiled is not None:
            return self._compiled
        if feature not in self._programs:
            self._programs[feature] = jax.jit(select_feature(self.embed, feature))
        return self._programs[feature]

    def owner(self, kind: str) -> TrainState | None:
        """Returns the state of a kind in KINDS; None for raw pixels."""
        if kind == RAW:
            return None
        return self.state if kind == "trained" else self.untrained

    def features(self, kind: str) -> tuple[Any, Any, Any, Any]:
        """Returns train features [M,D], train labels [M], test features [Q,D], test labels [Q].

        Args:
            kind: in KINDS: of the checkpoint, the untrained network, or raw pixels, which are
                averaged to a side of 32 px if there are more.
        """
        if kind not in self._features:
            feature = BACKBONE if kind == RAW else self.settings.feature
            pixels = jax.jit(select_feature(small_pixels, BACKBONE))
            compiled = pixels if kind == RAW else self.compile(feature)
            arrays: tuple[Any, ...] = ()
            for source in self.sources:
                arrays += embed_source(
                    compiled,
                    self.owner(kind),
                    source,
                    batch_size=self.batch_size,
                    feature=feature,
                    transform=self.transform(source),
                    tell=say if kind == "trained" else None,
                )[:2]
            self._features[kind] = arrays
        return self._features[kind]

    @functools.cached_property
    def _features(self) -> dict[str, tuple[Any, Any, Any, Any]]:
        return {}


def _first_state(config: ConfigDict) -> TrainState:
    method, _ = build.make_method(config, axis_name=None)
    return run_once(lambda: build.first_state(config, method, config.batch_size))


def _labelled_sources(section: ConfigDict) -> tuple[Any, Any]:
    """Returns the train and test split; raises if their labels mean different classes."""
    train, held_out = data.make_source(section, "probe"), None
    if section.get("held_out", 0):
        whole = data.make_source(section, "train")
        _, train, held_out = data.hold_out(whole, train, section.held_out)
    use_held_out = held_out is not None and not data.has_split(section, "test")
    test: Any = held_out if use_held_out else data.make_source(section, "test")
    data.check_same(
        data.class_names(test),
        data.class_names(train),
        what=f"The train and the test split of '{test.name}'",
        advice="Type another --source.",
    )
    for split, source in (("train", train), ("test", test)):
        say(f"{split} data: {data.describe(source)}")
    return train, test


def data_config(config: ConfigDict, source: str | None, data_dir: str | None) -> ConfigDict:
    """Returns the `data` section of a run, or of another data set with its evaluation crop."""
    section = ConfigDict(config.data.to_dict())
    if source is not None and source != config.data.name:
        section = ConfigDict(data.DEFAULTS)
        section.name = source
        # they belong to the network
        for key in ("eval_crop", "eval_interpolation", "channels"):
            section[key] = config.data.get(key, data.DEFAULTS[key])
    if data_dir is not None:
        section.data_dir = data_dir
    return section


def other_classes(folder: str | Path, config: ConfigDict, chosen: ConfigDict, source: Any) -> str:
    """Describes how the classes that a run was trained on differ from those of a source.

    Args:
        folder: the workdir of the run.
        config: of the run.
        chosen: the `data` section of the source.
        source: labelled examples.

    Returns:
        Text; '' if they are the same, or cannot be compared (which is printed).
    """
    own, names = workdir.read_classes(folder) or _names_of_data(config), data.class_names(source)
    if source.num_classes and chosen != config.data and not (own and names):
        say(
            f"The classes of {source.name if own else config.data.name} have no names: the labels "
            f"of {source.name} are compared with the run's classifier by number only."
        )
    return data.difference(names, own)


def _names_of_data(config: ConfigDict) -> tuple[str, ...] | None:
    """Returns the class names in the data of a run of an older version, if the data are here."""
    try:
        return data.class_names(data.make_source(config.data, "train"))
    except (UserError, AttributeError, KeyError):
        return None


def check_preset(name: str) -> None:
    """Raises UserError for an unknown linear preset; '' is the method's own."""
    if name and name not in PRESETS:
        raise UserError(f"Unknown linear preset '{name}': {nearest(name, PRESETS)}.")
