"""Writes checkpoints as TensorFlow's tensor bundle does, for names of which none is stored."""

import struct

import ml_dtypes
import numpy as np

from jssl.convert.crc32c import masked

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "bfloat16": 14,
         "float16": 19}  # fmt: skip


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value) if value else b""


def text(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def block(entries):
    """Entries without shared prefixes, one restart; and the trailer."""
    data = b"".join(
        b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    data += struct.pack("<II", 0, 1)
    return data, b"\0" + struct.pack("<I", masked(data + b"\0"))


def checkpoint_file(prefix, tensors):
    """Writes PREFIX.index and PREFIX.data-00000-of-00001."""
    entries, content = [(b"", number(1, 1) + text(3, number(1, 1)))], b""
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        raw = array.tobytes()
        dims = b"".join(text(2, number(1, size)) for size in array.shape)
        proto = number(1, TYPES[str(array.dtype)]) + text(2, dims) + number(4, len(content))
        proto += number(5, len(raw)) + varint(6 << 3 | 5) + struct.pack("<I", masked(raw))
        entries.append((name.encode(), proto))
        content += raw
    table, trailer = block(entries)
    meta, meta_trailer = block([])
    handle = varint(0) + varint(len(table))
    meta_handle = varint(len(table) + 5) + varint(len(meta))
    index, index_trailer = block([(b"\xff", handle)])
    start = len(table) + len(meta) + 10
    footer = (meta_handle + varint(start) + varint(len(index))).ljust(40, b"\0")
    whole = table + trailer + meta + meta_trailer + index + index_trailer
    whole += footer + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{prefix.name}.index").write_bytes(whole)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(content)


BFLOAT16 = ml_dtypes.bfloat16
