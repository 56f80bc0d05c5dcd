"""Counts the examples and classes of a run that is compiled, with its data or without them."""

import re

from ml_collections import ConfigDict

from jssl import data, methods
from jssl.data.tfds_source import CATALOGUE
from jssl.errors import UserError
from jssl.evaluate import TRANSFER_SETS
from jssl.methods.spec import LabelledPart
from jssl.run import build

# Examples of each split, for machines without the data: ILSVRC 2012, the public 1 % and 10 % lists
# of SimCLR, and what TFDS says of the rest.
SIZES = {
    "imagenet2012": {"train": 1_281_167},
    "imagenet_1pct": {"train": 12_811},
    "imagenet_10pct": {"train": 128_116},
    "cifar10": {"train": 50_000},
    "cifar100": {"train": 50_000},
    "stl10": {"unlabelled": 100_000, "train": 5_000},
    "imagenette": {"train": 9_469},
    "imagenette320": {"train": 9_469},
    "svhn_cropped": {"train": 73_257, "extra": 531_131},
}
CLASSES = {"svhn_cropped": 10}
# Of PASCAL VOC: pictures of the default train split, trainval of 2007 and 2012, and train_aug.
VOC_EXAMPLES, VOC_CLASSES = {"boxes": 16_551, "masks": 10_582}, 20
_SLICE = re.compile(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def set_lengths(config: ConfigDict, examples: int) -> None:
    """Sets `config.run` and `num_classes` as a run does, from the data or from `SIZES`.

    Examples that are held out, and those without a label where a method learns from a part of the
    labels, are not counted. Of absent data the part is a share of all; a run takes it of each
    class, which may differ by a few examples.

    Args:
        config: the whole config, in place.
        examples: of the train split, where the data are absent; 0: from the data or `SIZES`.

    Raises:
        UserError: absent data of unknown size, or fewer examples than a batch.
    """
    section, name = config[config.method], config.data.name.partition(":")[0]  # without a version
    source = None
    if not examples or section.get("num_classes") == 0:
        try:
            source = _source(config)
        except UserError:
            if not (examples or _known(config, name)):
                raise
    part = part_of(config)
    if source is not None and not examples:
        total = len(data.labelled_part(source, **part._asdict(), seed=config.seed))
    else:
        total = round(((examples or _known(config, name)) - part.held_out) * part.fraction)
    if section.get("num_classes") == 0:
        section.num_classes = source.num_classes if source is not None else _classes(config, name)
        if not section.num_classes and methods.get(config.method).labels == "required":
            raise UserError(
                f"Method '{config.method}' needs the number of classes, and data set "
                f"'{config.data.name}' is not here. Type --config.{config.method}.num_classes=N."
            )
    advice = "Type --examples=N, or --config.batch_size=N with a smaller N."
    build.count_lengths(config, total, advice=advice)


def part_of(config: ConfigDict) -> LabelledPart:
    """Returns the part of the train split that a run learns from, of whatever key of the config."""
    hooks = methods.get(config.method).data
    part = hooks.part(config)
    if hooks.pseudo_labels:
        part = part._replace(fraction=config[config.method].label_fraction)
    return part._replace(held_out=part.held_out or config.data.held_out)


def _source(config: ConfigDict) -> data.Source:
    if kind := methods.get(config.method).data.dense:
        return data.make_dense_source(config.data, "train", kind)
    return data.make_source(config.data, "train")


def _known(config: ConfigDict, name: str) -> int:
    """Returns the number of examples of the train split of absent data, 0 if it is unknown."""
    kind = methods.get(config.method).data.dense
    if kind:
        return VOC_EXAMPLES[kind] if name == "voc" else 0
    default = CATALOGUE[name].train if name in CATALOGUE else "train"
    split = config.data.train_split or default
    sizes = dict(SIZES.get(name, {}))
    if name in TRANSFER_SETS:
        known = TRANSFER_SETS[name]
        train, validation, test = known.sizes
        own = {known.validation: validation} if known.validation else {}
        sizes |= {known.train: train + (0 if own else validation), **own, known.test: test}
        if own:
            sizes["trainval"] = train + validation
    return split_size(split, sizes)


def split_size(split: str, sizes: dict[str, int]) -> int:
    """Returns the number of examples of a split in the language of TFDS; 0 if it is unknown.

    Example:
        >>> split_size('train[4000:]+extra', {'train': 73257, 'extra': 531131})
        600388
        >>> split_size('train[:10%]', {'train': 50000}), split_size('test', {'train': 50000})
        (5000, 0)
    """
    total = 0
    for text in split.split("+"):
        match = _SLICE.fullmatch(text)
        if match is None or match[1] not in sizes:
            return 0
        size = sizes[match[1]]
        first, last, _ = slice(_row(match[2], size), _row(match[3], size)).indices(size)
        total += max(0, last - first)
    return total


def _row(text: str | None, size: int) -> int | None:
    if text is None:
        return None
    return round(int(text[:-1]) / 100 * size) if text.endswith("%") else int(text)


def _classes(config: ConfigDict, name: str) -> int:
    """Returns the number of classes of absent data, 0 if it is unknown."""
    if methods.get(config.method).data.dense:
        return VOC_CLASSES if name == "voc" else 0
    if name in TRANSFER_SETS:
        return TRANSFER_SETS[name].num_classes
    return CATALOGUE[name].num_classes if name in CATALOGUE else CLASSES.get(name, 0)
