"""Reads data sets of TensorFlow Datasets, with random access and without TensorFlow.

Only the array_record format, through `tfds.data_source`. Preparing a set once, with
`python -m jssl.data.prepare NAME`, needs TensorFlow; reading it does not.
"""

import hashlib
import importlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jssl.data.decode import Picture, PictureError
from jssl.errors import UserError, nearest


class DataSet(NamedTuple):
    """A catalogue entry.

    Attributes:
        tfds: its name in TFDS, with the variant.
        image_size: usual training size, in pixels.
        num_classes: number of labels.
        train, probe, test: TFDS splits to train on, to fit probes on (labelled), to evaluate on.
        label: the feature of the label.
    """

    tfds: str
    image_size: int
    num_classes: int
    train: str = "train"
    probe: str = "train"
    test: str = "test"
    label: str = "label"


CATALOGUE: dict[str, DataSet] = {
    "cifar10": DataSet("cifar10", 32, 10),
    "cifar100": DataSet("cifar100", 32, 100),
    # 100,000 pictures without labels; the 5,000 labelled ones fit the probes.
    "stl10": DataSet("stl10", 96, 10, train="unlabelled"),
    "imagenette": DataSet("imagenette/160px-v2", 128, 10, test="validation"),
    "imagenette320": DataSet("imagenette/320px-v2", 224, 10, test="validation"),
    "imagenet2012": DataSet("imagenet2012", 224, 1000, test="validation"),
    # Of the transfer table, `jssl.evaluate.TRANSFER_SETS`.
    "food101": DataSet("food101", 224, 101, test="validation"),
    "sun397": DataSet("sun397/standard-part1-120k", 224, 397),
    "cars": DataSet("cars196", 224, 196),
    "voc2007": DataSet("voc/2007", 224, 0),  # any number of labels each: `VocSource`
    "dtd": DataSet("dtd", 224, 47),
    "pets": DataSet("oxford_iiit_pet", 224, 37),
    "caltech101": DataSet("caltech101", 224, 102),
    "flowers": DataSet("oxford_flowers102", 224, 102),
    # The public lists of SimCLR with labels for 1 % and 10 % of ImageNet.
    "imagenet_1pct": DataSet("imagenet2012_subset/1pct", 224, 1000, test="validation"),
    "imagenet_10pct": DataSet("imagenet2012_subset/10pct", 224, 1000, test="validation"),
}


# Data sets with their own readers, not TFDS.
OWN = ("photos", "digits", "synthetic", "synthetic_scenes", "synthetic_video", "arrays", "folder",
       "python", "hf")  # fmt: skip
OFFICIAL = ("fgvc_aircraft", "birdsnap")  # of their authors' archives


def default_data_dir() -> str:
    """Returns the default folder of TFDS data: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return os.environ.get("TFDS_DATA_DIR") or str(Path("~/tensorflow_datasets").expanduser())


def known_names() -> list[str]:
    """Returns the names of the catalogue and of TFDS."""
    return sorted({*CATALOGUE, *_tfds().list_builders(with_community_datasets=False)})


def find(name: str) -> DataSet:
    """Returns the catalogue entry, or a new one for another data set of TFDS.

    Args:
        name: of the catalogue or of TFDS, optionally with a version: 'cifar10:3.0.2'.

    Raises:
        UserError: an unknown name (suggests the nearest), or an invalid version.

    Example:
        >>> find('cifar10').num_classes, find('stl10').train
        (10, 'unlabelled')
    """
    base, colon, version = name.partition(":")
    if colon and not re.fullmatch(r"\d+(\.(\d+|\*)){2}", version):
        raise UserError(
            f"Data set '{name}' is of version '{version}': expected three numbers. "
            f"Type {base}:1.0.0 with numbers of a version, or {base} for the newest."
        )
    if base in CATALOGUE:
        return CATALOGUE[base]._replace(tfds=CATALOGUE[base].tfds + colon + version)
    known = known_names()
    if base.split("/")[0] not in known:
        own = (*OWN, *OFFICIAL)
        close = nearest(base, [*own, *known]).split(" Choices")[0]
        hint = f"{close} " if close.startswith("did you mean") else ""
        raise UserError(
            f"Unknown data set '{name}': {hint}Choices: {', '.join([*own, *CATALOGUE])}, or any "
            "name of TFDS with the features image and label. "
            "Type python -m jssl.data.prepare --list to see them all."
        )
    return DataSet(name, 0, 0)


def make_builder(name: str, data_dir: str) -> Any:
    """Returns the TFDS builder of a data set, in array_record; reads and downloads nothing."""
    dataset = find(name)
    data_dir = data_dir or default_data_dir()
    if "://" in data_dir:
        raise UserError(
            f"Found data_dir={data_dir}: expected a folder. Mount the bucket and type "
            f"--config.data.data_dir=/mnt/{data_dir.partition('://')[2]}."
        )
    try:
        return _tfds().builder(dataset.tfds, data_dir=data_dir, file_format="array_record")
    except AssertionError as error:
        if "cannot be loaded at version" not in str(error):
            raise
        known = str(error).rpartition("only: ")[2]
        raise UserError(
            f"Data set '{name}' is not of a version that TFDS has: it has {known} Type "
            f"{name.partition(':')[0]} for the newest."
        ) from error
    except ValueError as error:
        if "File format is already set" in str(error):
            raise UserError(
                f"Data set '{name}' in '{data_dir}' was prepared in another file format; expected "
                "array_record, the only one with random access to sub-splits. Type "
                f"{prepare_command(name, data_dir + '_array_record')}"
            ) from error
        if "BuilderConfig" in str(error):
            base = re.split("[/:]", name)[0]
            variants = _tfds().builder_cls(base).builder_configs
            names = [f"{base}/{variant}" for variant in variants]
            raise UserError(
                f"Data set '{name}' is not a variant of TFDS: {nearest(name, names)}."
            ) from error
        raise


def prepare_command(name: str, data_dir: str) -> str:
    """Returns the command that prepares a data set.

    Example:
        >>> prepare_command('cifar10', '/data')
        'python -m jssl.data.prepare cifar10 --data_dir=/data'
    """
    return f"python -m jssl.data.prepare {name} --data_dir={data_dir}"


class TfdsSource:
    """One split of a prepared TFDS data set; pictures are decoded on demand.

    Args:
        name: a name of `CATALOGUE` or of TFDS.
        split: a TFDS split, such as 'train', 'train[:10%]' or 'train+unlabelled'.
        data_dir: where it was prepared; '' means `default_data_dir()`.
        on_error: what the pipeline does with a picture that cannot be used: 'stop' or 'skip'.
        **reading: the attributes of `Picture`.

    Raises:
        UserError: not prepared (names the command), unknown split, no image feature.
    """

    def __init__(
        self, name: str, split: str, *, data_dir: str = "", on_error: str = "stop", **reading: Any
    ):
        dataset, builder = find(name), make_builder(name, data_dir)
        data_dir = data_dir or default_data_dir()
        if not builder.is_prepared():
            raise UserError(
                f"Data set '{name}' is not prepared in '{data_dir}'; expected "
                f"'{builder.data_dir}'. Type {prepare_command(name, data_dir)}"
            )
        features = builder.info.features
        if "image" not in features:
            raise UserError(
                f"Data set '{name}' has the features {', '.join(features)}; expected 'image'."
            )
        for part in re.findall(r"(?:^|\+)\s*([^\[+\s]+)", split):
            if part not in builder.info.splits:
                raise UserError(
                    f"Data set '{name}' has no split '{part}': "
                    f"{nearest(part, builder.info.splits)}. "
                    "Type for example --config.data.test_split=SPLIT."
                )
        # Other features, such as regression targets or several labels, have no class.
        label: Any = features[dataset.label] if dataset.label in features else None
        labelled = isinstance(label, _tfds().features.ClassLabel) and "unlabel" not in split
        self.name = name
        self.on_error = on_error
        self.num_classes = label.num_classes if labelled else 0
        names = tuple(label.names) if labelled else ()
        # A builder without class names uses the numbers as names.
        self.class_names = None if names and names == tuple(map(str, range(len(names)))) else names
        shape = features["image"].shape
        channels = reading.get("channels", 3)
        self.image_shape = (*shape[:2], channels) if None not in shape[:2] else None
        self._label = dataset.label if labelled else ""
        self._split, self._reading = split, reading
        self._info = f"{builder.info.full_name} {split}"
        self._folder, self._prepare = builder.data_dir, prepare_command(name, data_dir)
        skip = _tfds().decode.SkipDecoding()
        self._records = builder.as_data_source(split, decoders={"image": skip})
        # (file, first, end) of every range of records: to find overlaps with another split.
        self.ranges = [
            (Path(i.filename).name, i.skip, i.skip + i.take)
            for i in builder.info.splits[split].file_instructions
        ]

    def __len__(self) -> int:
        return len(self._records)

    def encoded(self, index: int) -> dict[str, Any]:
        """Returns `source[index]` with the image as a `Picture`, not yet decoded."""
        record = self._record(int(index))
        file = record.get("file_name", record.get("id", ""))
        file = file.decode() if isinstance(file, bytes) else str(file)
        name = f"{self.name} {self._split} example {index}" + (f" ({file})" if file else "")
        return {
            "image": Picture(record["image"], name, **self._reading),
            "label": np.int32(record[self._label] if self._label else -1),
            "index": np.int32(index),
        }

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._read(index)
        except RuntimeError as error:
            shard, first, end = self._shard_of(index)
            reason = str(error).splitlines()[0]
        # If the other end of the shard cannot be read either, the whole file is damaged.
        try:
            self._read(first if index > first else end - 1)
        except RuntimeError:
            raise UserError(
                f"Shard '{Path(self._folder) / shard}' of data set '{self.name}' cannot be read: "
                f"{reason}. It is cut short, damaged or gone; expected records {first} to "
                f"{end - 1} of '{self._split}' in it. Copy it again, or delete the folder and type "
                f"{self._prepare}"
            ) from None
        raise PictureError(
            f"Picture '{self.name} {self._split} example {index}' cannot be read from shard "
            f"'{shard}': {reason}."
        )

    def _read(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        if record["image"] is None:  # a file cut right after its first block reads as None
            raise RuntimeError("the record is empty")
        return record

    def _shard_of(self, index: int) -> tuple[str, int, int]:
        """Returns the file of an example, and the range of examples in it: [first, end)."""
        first = 0
        for file, start, stop in self.ranges:
            end = first + stop - start
            if index < end:
                return file, first, end
            first = end
        raise IndexError(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.encoded(index)
        return {**example, "image": example["image"].pixels()}

    def fingerprint(self) -> str:
        """Returns a hash of the name, variant, version, split and number of examples."""
        return hashlib.sha256(f"{self._info} {len(self)}".encode()).hexdigest()[:16]


def _tfds() -> Any:
    return importlib.import_module("tensorflow_datasets")  # slow import
