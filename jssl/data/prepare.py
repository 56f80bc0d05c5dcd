"""Downloads a TFDS data set and writes it as array_record, once: python -m jssl.data.prepare NAME.

Reading the result needs no TensorFlow; writing it does: pip install 'jssl[prepare]'.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from jssl.data.archives import prepare_archive
from jssl.data.listed import SPLITS
from jssl.data.tfds_source import (
    CATALOGUE,
    OWN,
    default_data_dir,
    known_names,
    make_builder,
)
from jssl.errors import UserError


def prepare(name: str, data_dir: str = "", archive: str = "") -> str:
    """Downloads and prepares a data set unless it is already there.

    Args:
        name: of the catalogue, or of TFDS with its variant, 'imagenette/160px-v2', or
            'fgvc_aircraft' or 'birdsnap', which TFDS lacks.
        data_dir: target folder; '' means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        archive: the official archive of a data set that TFDS lacks.

    Returns:
        The folder of the prepared data set.

    Raises:
        UserError: unknown name, TensorFlow is missing, or files that need a manual download.
    """
    if name in OWN:
        raise UserError(
            f"Data set '{name}' needs no preparing. Type --config.data.name={name} to use it."
        )
    if name in SPLITS:
        return prepare_archive(name, data_dir, archive)
    if archive:
        raise UserError(
            f"Data set '{name}' is prepared by TFDS; --archive is for {' and '.join(SPLITS)}. "
            "Type the command without it."
        )
    builder = make_builder(name, data_dir)
    if builder.is_prepared():
        return str(builder.data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"Preparing '{name}' needs TensorFlow, which is not installed (reading needs none). "
            "Type pip install 'jssl[prepare]'"
        )
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # TFDS asks for a manual download, as for ImageNet
        if "manual" not in str(error).lower():
            raise
        raise UserError(f"Data set '{name}' cannot be downloaded by a program. {error}") from error
    return str(builder.data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 after a UserError."""
    parser = argparse.ArgumentParser(prog="python -m jssl.data.prepare", description=__doc__)
    parser.add_argument("name", nargs="?", help="data set, e.g. cifar10")
    parser.add_argument("--data_dir", default="", help=f"where to; default {default_data_dir()}")
    parser.add_argument("--archive", default="", help=f"official archive of {', '.join(SPLITS)}")
    parser.add_argument("--list", action="store_true", help="list the known names and stop")
    options = parser.parse_args(arguments)
    if options.list:
        print("In jssl's catalogue:", *CATALOGUE, *SPLITS, sep="\n  ")
        print("Others in TFDS:", *(n for n in known_names() if n not in CATALOGUE), sep="\n  ")
        return 0
    try:
        if not options.name:
            raise UserError("No data set was named. Type python -m jssl.data.prepare cifar10")
        folder = prepare(options.name, options.data_dir, options.archive)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    where = options.data_dir or default_data_dir()
    print(
        f"'{options.name}' is ready in {folder}\n"
        f"Type --config.data.name={options.name} --config.data.data_dir={where} to use it."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
