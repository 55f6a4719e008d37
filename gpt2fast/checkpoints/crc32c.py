"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) of gigabytes, with NumPy alone.

A CRC is the remainder of a message, as polynomial over GF(2), divided by

    P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11
        + x^10 + x^9 + x^8 + x^6 + 1

and P divides x^5685 + x^1362 + x^426 + 1: found by search, and well balanced. Squaring a polynomial
over GF(2) doubles its exponents, so P divides x^(5685 n) + x^(1362 n) + x^(426 n) + 1 too, for n =
8 (bytes) and 64 (words). An item at the front of the message may therefore be removed if it is
XORed into the items that follow it at the distances 5685 - 1362, 5685 - 426 and 5685: three XORs of
long arrays, until 5685 bytes are left for the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_REFLECTED = 0x82F63B78  # P, lowest power in the highest bit, without x^32
_DISTANCES = (5685 - 1362, 5685 - 426, 5685)
_LEFT = _DISTANCES[-1]
_STEP = _DISTANCES[0]  # as many items can go at once without meeting each other
_SLAB = 4 * _STEP  # words; with what follows them, 180 KB: level-2 cache


def _byte_table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (_REFLECTED if value & 1 else 0) for value in table]
    return tuple(table)


_TABLE = _byte_table()


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of contiguous bytes; of none it is 0."""
    octets: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    if octets.size <= _LEFT:
        return _remainder(octets.tobytes(), 0xFFFFFFFF) ^ 0xFFFFFFFF
    n_words = max(0, octets.size // 8 - _LEFT)
    words = octets[: 8 * n_words].view("<u8")
    work = np.zeros(_SLAB + _LEFT, "<u8")
    work[0] = 0xFFFFFFFF  # the CRC's start value inverts the first 32 bits
    for start in range(0, n_words, _SLAB):
        slab = words[start : start + _SLAB]
        work[: slab.size] ^= slab
        _fold(work, slab.size)
        work[:_LEFT] = work[slab.size : slab.size + _LEFT]
        work[_LEFT:] = 0
    rest = octets[8 * n_words :].copy()
    carry = work[:_LEFT].view(np.uint8)[: rest.size]
    rest[: carry.size] ^= carry
    _fold(rest, rest.size - _LEFT)
    return _remainder(rest[-_LEFT:].tobytes(), 0) ^ 0xFFFFFFFF


def _fold(items: NDArray[Any], n: int) -> None:
    """XOR the first `n` items into those at the three distances; they count as gone."""
    for start in range(0, n, _STEP):
        gone = items[start : min(start + _STEP, n)]
        for distance in _DISTANCES:
            items[start + distance : start + distance + gone.size] ^= gone


def _remainder(octets: bytes, crc: int) -> int:
    for octet in octets:
        crc = crc >> 8 ^ _TABLE[(crc ^ octet) & 0xFF]
    return crc
