"""Pictures in array_record files: encoded pictures, or tf.train.Examples that hold them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource

from jssl.data.decode import PictureError
from jssl.data.heif import is_heif
from jssl.data.items import reason_of
from jssl.errors import UserError

KEYS = (b"image/encoded", b"image")  # features of an Example that may hold the picture
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*",
          b"P2", b"P3", b"P5", b"P6")  # fmt: skip
MAX_FEATURES = 10_000  # of an Example


class Records:
    """The records of several array_record files, in order.

    Args:
        paths: of the files; random access is fast if they were written with group_size:1.

    Raises:
        UserError: a file that cannot be opened, or without records.
    """

    def __init__(self, paths: Sequence[str]):
        for path in paths:
            _check(path)
        self._records = ArrayRecordDataSource(list(paths))

    def __len__(self) -> int:
        return len(self._records)

    def picture(self, index: int, name: str) -> bytes:
        """Returns the bytes of a picture.

        Raises:
            PictureError: the record cannot be read, or holds no picture.
        """
        try:
            record = self._records[index]
        except Exception as error:  # the reader's own
            reason = reason_of(error)
            raise PictureError(f"Picture '{name}' cannot be read: {reason}.") from error
        if record.startswith(STARTS) or is_heif(record):
            return record
        return picture_in_example(record, name)


def _check(path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"Shard '{path}' is no regular file.")
    try:
        source = ArrayRecordDataSource(path)
        count = len(source)
        if count:
            source[0]
    except Exception as error:
        reason = reason_of(error)
        raise UserError(
            f"Shard '{path}' cannot be read: {reason}. Expected a whole array_record file."
        ) from error
    if not count:
        raise UserError(
            f"Shard '{path}' holds no records: it is empty or cut short. Copy it again."
        )


def picture_in_example(record: bytes, name: str) -> bytes:
    """Returns the picture in a serialized tf.train.Example: its feature image/encoded, or image.

    Args:
        record: the message.
        name: of the example, for messages.

    Raises:
        PictureError: another message, or none of the features.

    Example:
        >>> feature = b'\\n\\x05image' + b'\\x12\\x06' + b'\\n\\x04' + b'\\n\\x02AB'
        >>> features = b'\\n' + bytes([len(feature)]) + feature
        >>> picture_in_example(b'\\n' + bytes([len(features)]) + features, 'first')
        b'AB'

    Reference:
        https://protobuf.dev/programming-guides/encoding/; tensorflow/core/example/example.proto.
    """
    values: dict[bytes, bytes] = {}
    try:
        for features in _fields(record, 1):
            for number, entry in enumerate(_fields(features, 1)):
                if number >= MAX_FEATURES:
                    raise ValueError(f"it has more than {MAX_FEATURES:,} features")
                key = next(_fields(entry, 1), b"")
                if key in KEYS:
                    feature = next(_fields(entry, 2), b"")
                    values[key] = next(_fields(next(_fields(feature, 1), b""), 1), b"")
    except ValueError as error:
        raise PictureError(
            f"Picture '{name}' is neither an encoded picture nor a tf.train.Example: {error}."
        ) from error
    for key in KEYS:
        if values.get(key):
            return values[key]
    raise PictureError(
        f"Picture '{name}' is a record without a picture: expected the bytes of a picture, or a "
        "tf.train.Example with the feature image/encoded or image."
    )


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """Yields the content of each length-delimited field with a number."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            _, place = _varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            size, place = _varint(message, place)
            if place + size > len(message):
                raise ValueError("a field is longer than its message")
            if tag >> 3 == wanted:
                yield message[place : place + size]
            place += size
        else:
            raise ValueError(f"a field has the unknown type {kind}")
    if place > len(message):
        raise ValueError("it is cut short")


def _varint(message: Any, place: int) -> tuple[int, int]:
    """Returns a number, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it is cut short")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number has more than ten bytes")
