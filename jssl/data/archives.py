"""Unpacks the official archives of FGVC-Aircraft and Birdsnap for `jssl.data.listed`."""

import gzip
import lzma
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from jssl.data.listed import LISTS, SPLITS, ListedSource, is_prepared
from jssl.data.tfds_source import default_data_dir, prepare_command
from jssl.data.unpack import MemberError, unpack
from jssl.errors import UserError
from jssl.regular import FileError

WHERE = {
    "fgvc_aircraft": "fgvc-aircraft-2013b.tar.gz from the page of the data set, "
    "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    "birdsnap": "birdsnap.tgz of Birdsnap 1.1, https://thomasberg.org, whose get_birdsnap.py (for "
    "Python 2) fetches the pictures into download/images beside it; many addresses are dead. Pack "
    "the folder again when it is done",
}


def prepare_archive(name: str, data_dir: str = "", archive: str = "") -> str:
    """Unpacks the official archive of a data set unless it is already there.

    It is unpacked to a temporary folder, checked, then renamed; see `jssl.data.unpack` for which
    members are refused.

    Args:
        name: 'fgvc_aircraft' or 'birdsnap'.
        data_dir: target folder; '' means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        archive: a tar file, compressed or not.

    Returns:
        The folder of the data set.

    Raises:
        UserError: no archive, one that is unreadable or of another data set, or no pictures.
    """
    data_dir = data_dir or default_data_dir()
    place = Path(data_dir).expanduser() / name
    if not is_prepared(name, data_dir):
        if not archive:
            raise UserError(
                f"Data set '{name}' is not in TFDS: it is read from its official archive, "
                f"{WHERE[name]}. Type {prepare_command(name, data_dir)} --archive=FILE"
            )
        _unpack(name, Path(archive).expanduser(), place)
    for split in SPLITS[name]:
        source = ListedSource(name, split, data_dir=data_dir)
        missing = f", {source.missing} that the list names are not here" if source.missing else ""
        print(f"{name} {split}: {len(source)} pictures{missing}.")
    return str(place)


def _unpack(name: str, archive: Path, place: Path) -> None:
    if place.exists():
        raise UserError(
            f"'{place}' exists, but lacks {' or '.join(LISTS[name])}: it was not made by this "
            "command, which would not overwrite it. Move it away."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place.parent))
    try:
        unpack(archive, temporary)
        lists = sorted(temporary.rglob(LISTS[name][0]))
        if len(lists) != 1:
            raise UserError(
                f"'{archive}' holds {len(lists)} files {LISTS[name][0]}, expected one: it is not "
                f"the archive of '{name}', {WHERE[name]}."
            )
        # What the archive calls its top folder does not matter.
        lists[0].parents[len(Path(LISTS[name][0]).parts) - 1].rename(temporary / "complete")
        (temporary / "complete").rename(place)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.ReadError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The archive '{archive}' is cut short or damaged, as of a broken download: {reason}. "
            f"Fetch it again; expected {WHERE[name]}."
        ) from error
    except (MemberError, FileError, UnicodeError, OSError, tarfile.TarError) as error:
        raise UserError(
            f"The archive '{archive}' cannot be unpacked: {error}. Expected {WHERE[name]}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
