"""Computes CRC-32C, the checksum of TensorFlow's checkpoints, many bytes at a time.

RFC 3720, https://www.rfc-editor.org/rfc/rfc3720, appendix B.4. A checksum is linear over GF(2), so
parts of a message are read side by side, and their checksums are joined afterwards:

    crc(A + B) = shift(crc(A), len(B)) ^ crc(B)      with a register that starts at 0
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_PARTS = 4096  # read side by side
_MASK = 0xA282EAD8  # TensorFlow stores the checksum turned and with this added


@functools.cache
def _table() -> np.ndarray:
    """The register after one byte, uint32 [256]."""
    values: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = (values >> 1) ^ np.where(values & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return values


def _zero_bytes(length: int) -> np.ndarray:
    """The linear map of `length` zero bytes, see `_apply`."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, step = bits, _table()[bits & 0xFF] ^ (bits >> 8)
    while length:
        if length & 1:
            result = _apply(step, result)
        step = _apply(step, step)
        length >>= 1
    return result


def _apply(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Applies a linear map, given as its values of the 32 bits, to uint32 values."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where((values >> np.uint32(bit)) & 1, matrix[bit], np.uint32(0))
    return result


def crc32c(data: bytes) -> int:
    """Computes the CRC-32C of bytes.

    Example:
        >>> hex(crc32c(b'123456789'))
        '0xe3069283'
    """
    if len(data) < 4:
        register, table = 0xFFFFFFFF, _table()
        for byte in data:
            register = int(table[(register ^ byte) & 0xFF]) ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    length = -(-len(data) // _PARTS)
    message = np.zeros(_PARTS * length, np.uint8)  # zeros in front change nothing
    start = len(message) - len(data)
    message[start:] = np.frombuffer(data, np.uint8)
    message[start : start + 4] ^= 0xFF  # as a register that starts at all ones
    registers, table = np.zeros(_PARTS, np.uint32), _table()
    for column in np.ascontiguousarray(message.reshape(_PARTS, length).T):
        registers = table[(registers ^ column) & 0xFF] ^ (registers >> 8)
    matrix = _zero_bytes(length)
    while len(registers) > 1:  # joins neighbours: each part is then twice as long
        registers = _apply(matrix, registers[::2]) ^ registers[1::2]
        matrix = _apply(matrix, matrix)
    return int(registers[0]) ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """The checksum of bytes as TensorFlow stores it.

    Example:
        >>> masked(b'') == 0xA282EAD8
        True

    Reference: https://github.com/tensorflow/tensorflow, tsl/lib/hash/crc32c.h.
    """
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
