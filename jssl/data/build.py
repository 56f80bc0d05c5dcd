"""Builds the source and its transforms from `config.data`."""

from collections.abc import Callable
from typing import Any

from jssl.data import (
    folder,
    hf_source,
    layout,
    listed,
    python_source,
    scenes,
    shards,
    sources,
    tfds_source,
)
from jssl.data.channels import check_range
from jssl.data.crop import CentreCrop, HostCrop
from jssl.data.decode import BITS
from jssl.data.dense_build import DENSE_NAMES
from jssl.data.items import without_limit
from jssl.errors import UserError, nearest

# config.data, with the default of each key.
DEFAULTS: dict[str, Any] = {
    # photos | digits | synthetic | synthetic_scenes | synthetic_video | arrays | folder | cifar10
    # ... imagenet2012 | fgvc_aircraft | birdsnap | TFDS name; python: an object, of jssl.train
    # hf:OWNER/NAME[:CONFIG] | hf: Hugging Face, in its cache or in data_dir
    # shards:GLOB: WebDataset tar files or array_record files; the splits are further patterns
    "name": "photos",
    "data_dir": "",  # the folder of pictures, or where TFDS data lies ('': ~/tensorflow_datasets)
    "train_split": "",  # a TFDS split or sub-folder to train on; '': the data set's own
    # Labelled training examples that are not trained with: the best checkpoint is chosen on them,
    # and without a test split the table at the end is theirs
    "held_out": 0,
    "image_column": "",  # hf: of the pictures; '': the only one
    "label_column": "",  # hf: of the labels; '': the only one; none: no labels
    "layout": "auto",  # of a folder: auto | splits | classes | flat | nested
    "probe_split": "",  # the labelled split that kNN and linear probes are fitted on; '': as above
    "test_split": "",  # the split for evaluation
    "tile": 32,  # photos: side of a tile, 32 | 64 | 96
    "num_examples": 1024,  # synthetic: size of the train split
    "image_size": 0,  # side to which the host resizes pictures of unequal size; 0: the views' size
    # Random crops: device (of pictures of one size) | torchvision | tf (of the original picture);
    # '': torchvision for pictures that differ in size, else device
    "host_crop": "",
    "workers": 0,  # processes that read and decode; 0: threads of this process
    "threads": 0,  # that read and decode, in each process; 0: one a core, at most 8
    "on_error": "stop",  # an unusable picture: stop | skip (replace it, log and count it)
    "exif_orientation": "",  # apply | ignore | '': apply to the user's own pictures
    "bits": 0,  # valid bits of 16-bit samples: 0: as the file declares | 9 to 16, such as 12
    "max_megabytes": 1024,  # largest size of a picture file
    # 3: red, green, blue; 1: grey; others: .npy files, arrays, and with 4 pictures with alpha
    "channels": 3,
    # () or (low, high): the levels of 16 bits that become 0 and 255, such as (0, 4095)
    "range": (),
    "eval_crop": 0.875,  # pictures that differ in size: share of the short side that is judged
    "eval_interpolation": "bicubic",  # bicubic | bilinear
}
SPLITS = ("train", "probe", "test")
PREFIXES = ("hf:", shards.PREFIX)
POLICIES = ("stop", "skip")
SYNTHETIC = {
    "synthetic": sources.synthetic_source,
    "synthetic_scenes": scenes.synthetic_scenes,
    "synthetic_video": scenes.synthetic_video,
}


def make_source(config: Any, split: str) -> sources.Source:
    """Returns the source of one split of the data set in `config.data`.

    Args:
        config: ConfigDict with the keys of `DEFAULTS`.
        split: 'train', 'probe' (labelled, to fit probes on; the train split unless the data set
            or the config has another) or 'test'.

    Raises:
        UserError: unknown data set, split, policy or tile; or an error of the source.

    Example:
        >>> from ml_collections import ConfigDict
        >>> source = make_source(ConfigDict(DEFAULTS), 'test')
        >>> source.name, len(source), source.num_classes
        ('photos', 1200, 16)
    """
    if split not in SPLITS:
        raise UserError(f"Unknown split '{split}': {nearest(split, SPLITS)}.")
    if config.name in DENSE_NAMES and not is_own(config.name):
        raise UserError(
            f"Data set '{config.name}' has boxes or masks, expected whole pictures, labelled or "
            "not. Type another data set, such as photos."
        )
    reading = check_reading(config)
    part = "test" if split == "test" else "train"
    channels = reading["channels"]
    if config.name == "photos":
        return sources.in_channels(sources.photos_source(part, tile=config.tile), channels)
    if config.name == "digits":
        return sources.in_channels(sources.digits_source(part), channels)
    if config.name in SYNTHETIC:
        made = SYNTHETIC[config.name](
            part, size=config.image_size or 32, num_examples=config.num_examples
        )
        return sources.in_channels(made, channels)
    if config.name == "arrays":
        return scenes.arrays_source(
            config.data_dir, part, channels=channels, levels=reading["levels"]
        )
    if is_own(config.name):
        return _users_own(config, split, reading)
    if config.name in listed.SPLITS:
        return listed.ListedSource(
            config.name,
            _listed_split(config, split),
            data_dir=config.data_dir,
            on_error=config.on_error,
            **reading,
        )
    return tfds_source.TfdsSource(
        config.name,
        _tfds_split(config, split),
        data_dir=config.data_dir,
        on_error=config.on_error,
        **without_limit(reading),
    )


def is_own(name: str) -> bool:
    """Whether a data set of `config.data.name` is one that the user brings.

    Example:
        >>> is_own('folder'), is_own('hf:me/pets'), is_own('photos')
        (True, True, False)
    """
    return name in ("python", "folder", "hf") or name.startswith(PREFIXES)


def _users_own(config: Any, split: str, reading: dict[str, Any]) -> sources.Source:
    """Returns the source of a data set that the user brings."""
    if config.name == "python":
        return python_source.provided_source(config, split, **reading)
    if config.name.startswith(shards.PREFIX):
        pattern, others = shards.patterns_of(config, split)
        return shards.ShardSource(
            pattern, others=others, data_dir=config.data_dir, on_error=config.on_error, **reading
        )
    if is_hf(config.name):
        return hf_source.HfSource(
            config.name,
            split,
            _own_split(config, split),
            data_dir=config.data_dir,
            on_error=config.on_error,
            image_column=config.get("image_column", ""),  # older workdirs have no such key
            label_column=config.get("label_column", ""),
            **reading,
        )
    if not config.data_dir:
        raise UserError(
            "Data set 'folder' needs a folder of pictures; data.data_dir is empty. "
            "Type --config.data.data_dir=FOLDER."
        )
    return folder.FolderSource(
        config.data_dir,
        split,
        splits=_subfolders(config),
        layout=config.get("layout", DEFAULTS["layout"]),  # older workdirs have no such key
        on_error=config.on_error,
        **reading,
    )


def check_reading(config: Any) -> dict[str, Any]:
    """Checks the keys of `config.data` that say how pictures are read.

    Returns:
        The keys of `Picture.read`.

    Raises:
        UserError: an unknown policy or layout, or a number outside its range.
    """
    if config.on_error not in POLICIES:
        raise UserError(
            f"Unknown policy data.on_error='{config.on_error}': "
            f"{nearest(config.on_error, POLICIES)}."
        )
    folder_layout = config.get("layout", DEFAULTS["layout"])  # older workdirs have no such key
    if folder_layout not in layout.LAYOUTS:
        raise UserError(
            f"Unknown data.layout='{folder_layout}': {nearest(folder_layout, layout.LAYOUTS)}."
        )
    reading = reading_of(config, own_pictures=is_own(config.name))
    if reading["bits"] not in BITS or reading["max_megabytes"] < 1:
        raise UserError(
            f"Found data.bits={reading['bits']} and data.max_megabytes={reading['max_megabytes']}; "
            "expected bits of 0 or 9 to 16, and at least 1 megabyte. Type for example "
            "--config.data.bits=12."
        )
    if reading["channels"] < 1:
        raise UserError(
            f"Found data.channels={reading['channels']}: expected 3 (colours), 1 (grey) or more. "
            "Type for example --config.data.channels=1."
        )
    check_range(reading["levels"], reading["bits"])
    return reading


def reading_of(config: Any, *, own_pictures: bool) -> dict[str, Any]:
    """Returns the keys of `Picture.read`: bits, max_megabytes, channels, levels and upright.

    Args:
        config: a `data` section.
        own_pictures: whether they are the user's own, whose EXIF orientation is applied by default.
            That of public data sets is not: the official pipelines ignore it.
    """
    orientation = config.get("exif_orientation", DEFAULTS["exif_orientation"])
    return {
        # Older workdirs lack some of these keys.
        **{key: config.get(key, DEFAULTS[key]) for key in ("bits", "max_megabytes", "channels")},
        "levels": tuple(config.get("range", DEFAULTS["range"])),
        "upright": own_pictures if orientation == "" else orientation == "apply",
    }


def is_tfds(name: str) -> bool:
    """Whether a data set of `config.data.name` is read through TFDS.

    Example:
        >>> is_tfds('imagenet2012'), is_tfds('photos'), is_tfds('birdsnap')
        (True, False, False)
    """
    own = (*tfds_source.OWN, *tfds_source.OFFICIAL)
    return name not in own and not is_hf(name) and not name.startswith(shards.PREFIX)


def is_hf(name: str) -> bool:
    """Whether a data set of `config.data.name` is read by Hugging Face `datasets`."""
    return name == "hf" or name.startswith("hf:")


def _own_split(config: Any, split: str) -> str:
    """Returns the typed name of a split; that of the train split for the probe."""
    return config[f"{split}_split"] or (config.train_split if split == "probe" else "")


def _subfolders(config: Any) -> dict[str, str]:
    return {split: config[f"{split}_split"] for split in SPLITS}


def _listed_split(config: Any, split: str) -> str:
    own = "test" if split == "test" else listed.LARGEST[config.name]
    return _own_split(config, split) or own


def _tfds_split(config: Any, split: str) -> str:
    own = tfds_source.find(config.name)
    # Where both use one split, the probe is fitted on the training examples: train[:10%], say.
    shared = config.train_split if split == "probe" and own.probe == own.train else ""
    return config[f"{split}_split"] or shared or getattr(own, split)


def has_split(config: Any, split: str) -> bool:
    """Whether the data set has the split; only pictures of one's own may lack 'test'."""
    if config.name == "python":
        return python_source.has_provided(split)
    if config.name.startswith(shards.PREFIX):
        return split != "test" or bool(config.test_split)
    if is_hf(config.name):
        return split != "test" or hf_source.has_split(
            config.name, config.data_dir, config.test_split
        )
    if config.name != "folder" or not config.data_dir:
        return True
    folder_layout = config.get("layout", DEFAULTS["layout"])
    return folder.has_split(config.data_dir, split, _subfolders(config), folder_layout)


def train_transform(
    config: Any, source: sources.Source, *, size: int, views: int = 2, **crop: Any
) -> Callable | None:
    """Returns the host transform of training examples, applied before device augmentation.

    Args:
        config: ConfigDict with the keys of `DEFAULTS`.
        source: of the examples.
        size: side of a view in pixels.
        views: number V of views of the method.
        **crop: `area`, `ratio` and `interpolation` of `HostCrop`.

    Returns:
        With a `config.host_crop` of the host: a `HostCrop` to uint8 [V,size,size,3]. Without: None
        where the pictures have one shape already, else a `CentreCrop` to `config.image_size` (or
        `size`).

    Example:
        >>> from ml_collections import ConfigDict
        >>> config = ConfigDict({**DEFAULTS, 'host_crop': 'tf'})
        >>> train_transform(config, make_source(config, 'train'), size=24).sampler
        'tf'
    """
    if config.host_crop not in ("", "device"):
        return HostCrop(size, views=views, sampler=config.host_crop, **crop)
    if source.image_shape is not None:
        return None
    side = config.image_size or size
    return CentreCrop(side, resize=side)


def resolve_crop(config: Any, source: sources.Source, *, random: bool = True) -> str:
    """Returns `config.host_crop`, or what '' means for a source: 'torchvision' or 'device'.

    Args:
        config: ConfigDict with the keys of `DEFAULTS`.
        source: of the training examples.
        random: whether the crops are random resized ones, which the host can make.

    Example:
        >>> from ml_collections import ConfigDict
        >>> config = ConfigDict(DEFAULTS)
        >>> resolve_crop(config, make_source(config, 'train'))
        'device'
    """
    if config.host_crop:
        return config.host_crop
    resized = source.image_shape is not None or config.image_size
    return "device" if resized or not random else "torchvision"


def eval_transform(config: Any, source: sources.Source, *, size: int) -> Callable | None:
    """Returns the host transform for evaluation: to one square picture [size,size,C].

    None if the pictures have that shape already. Pictures of one other shape are resized (the
    central square if they are not square). Pictures of different shapes: short side to `size` /
    `eval_crop`, rounded down (256 for 224), then a centre crop, as in the official ImageNet
    evaluations. Antialiased.
    """
    if source.image_shape is not None and source.image_shape[:2] == (size, size):
        return None
    fixed = source.image_shape is not None
    resize = size if fixed else int(size / config.get("eval_crop", DEFAULTS["eval_crop"]))
    interpolation = config.get("eval_interpolation", DEFAULTS["eval_interpolation"])
    return CentreCrop(size, resize=resize, interpolation=interpolation)
