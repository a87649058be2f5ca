"""Elements as byte planes, plain or as differences from a base. The specification of `lossless` planes.

Elements are unsigned integers of 1, 2, 4 or 8 bytes; `exponent_bits` says where a float keeps its exponent, 0 is
for integers and for plain single bytes. Plane p holds byte p (lowest first) of every element, after one of two maps:

* *Plain*. Integers and single bytes stay. Of floats of 2 and 4 bytes the upper nine bits turn left by one: the
  sign moves under the eight bits below it, so that a float32's or bfloat16's exponent is the highest plane. Of
  floats of 8 bytes the upper twelve bits, sign s, exponent eee (3 bits) EEEEEEEE (8 bits), become EEEEEEEE eee s:
  the exponents of one tensor differ in their lower bits.
* *Difference* from the element of the base at the same place. Floats are first put in order as integers (all
  bits flipped where the sign is set, else the sign bit set); then (element − base) modulo 2^bits, as a signed
  number d, becomes 2d for d ≥ 0, else −2d − 1. Elements are then ordered by the *class* of their base, and within
  a class stay in their order; each class is coded by itself, since a difference of given size is more units in the
  last place where the base is small. The class of a float is its exponent field (of 8-byte floats that less 800,
  held between 0 and 255); integers have one class. Classes are joined from the lowest up until each holds at
  least 8,192 elements; a rest that holds fewer joins the last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]

_SMALLEST_CLASS = 8192


def planes_split(words: Words, exponent_bits: int) -> Bytes:
    """The plain planes. Shape: (bytes of an element, elements)."""
    return _planes(_turned(words) if exponent_bits else words)


def planes_merge(planes: Bytes, out: Words, exponent_bits: int) -> None:
    """Fills `out` with the elements of plain planes."""
    words = _words(planes)
    out[:] = _turned_back(words) if exponent_bits else words


def differences_ends(base: Words, exponent_bits: int) -> list[int]:
    """Where each class of this base ends in the planes of differences."""
    return _ends(_classes(base, exponent_bits))


def differences_split(words: Words, base: Words, exponent_bits: int) -> Bytes:
    """The planes of the differences, in class order. Shape: (bytes of an element, elements)."""
    kind = words.dtype.type
    change = _ordered(words, exponent_bits) - _ordered(base, exponent_bits)
    top = kind(8 * words.itemsize - 1)
    folded = (change << kind(1)) ^ (kind(0) - (change >> top))
    return _planes(folded[np.argsort(_classes(base, exponent_bits), kind="stable")])


def differences_merge(planes: Bytes, base: Words, out: Words, exponent_bits: int) -> None:
    """Fills `out` with the elements whose differences from `base` these planes hold."""
    kind = out.dtype.type
    folded = np.empty_like(out)
    folded[np.argsort(_classes(base, exponent_bits), kind="stable")] = _words(planes)
    change = (folded >> kind(1)) ^ (kind(0) - (folded & kind(1)))
    value = _ordered(base, exponent_bits) + change
    if exponent_bits:
        sign = kind(1 << (8 * out.itemsize - 1))
        value = np.where(value & sign, value ^ sign, ~value)
    out[:] = value


def _planes(words: Words) -> Bytes:
    little = words.astype(f"<u{words.itemsize}", copy=False)
    return np.ascontiguousarray(little.view(np.uint8).reshape(words.size, words.itemsize).T)


def _words(planes: Bytes) -> Words:
    size = planes.shape[0]
    words: Words = np.ascontiguousarray(planes.T).view(f"<u{size}").reshape(-1).astype(f"u{size}")
    return words


def _turned(words: Words) -> Words:
    kind = words.dtype.type
    if words.itemsize == 1:
        return words
    if words.itemsize == 8:
        low, high, sign = words & kind((1 << 60) - (1 << 52)), words >> kind(60), words >> kind(63)
        high = high & kind(7)
        wide: Words = (low << kind(4)) | (high << kind(53)) | (sign << kind(52)) | _below(words, 52)
        return wide
    below = 8 * words.itemsize - 9
    exponent = (words >> kind(below)) & kind(255)
    sign = words >> kind(below + 8)
    turned: Words = (exponent << kind(below + 1)) | (sign << kind(below)) | _below(words, below)
    return turned


def _turned_back(words: Words) -> Words:
    kind = words.dtype.type
    if words.itemsize == 1:
        return words
    if words.itemsize == 8:
        low, high = words >> kind(56), (words >> kind(53)) & kind(7)
        sign = (words >> kind(52)) & kind(1)
        wide: Words = (sign << kind(63)) | (high << kind(60)) | (low << kind(52)) | _below(words, 52)
        return wide
    below = 8 * words.itemsize - 9
    sign = (words >> kind(below)) & kind(1)
    exponent = words >> kind(below + 1)
    upright: Words = (sign << kind(below + 8)) | (exponent << kind(below)) | _below(words, below)
    return upright


def _below(words: Words, bits: int) -> Words:
    low: Words = words & words.dtype.type((1 << bits) - 1)
    return low


def _ordered(words: Words, exponent_bits: int) -> Words:
    if not exponent_bits:
        return words
    sign = words.dtype.type(1 << (8 * words.itemsize - 1))
    return np.where(words & sign, ~words, words | sign)


def _classes(base: Words, exponent_bits: int) -> Bytes:
    if not exponent_bits:
        return np.zeros(base.size, np.uint8)
    shift = 8 * base.itemsize - 1 - exponent_bits
    field = ((base >> base.dtype.type(shift)) & base.dtype.type((1 << exponent_bits) - 1)).astype(np.int64)
    return np.clip(field - 800 if base.itemsize == 8 else field, 0, 255).astype(np.uint8)


def _ends(classes: Bytes) -> list[int]:
    ends: list[int] = []
    start = position = 0
    for count in np.bincount(classes, minlength=256).tolist():
        position += count
        if position - start >= _SMALLEST_CLASS:
            ends.append(position)
            start = position
    if position > start:
        ends[-1:] = [position]
    return ends
