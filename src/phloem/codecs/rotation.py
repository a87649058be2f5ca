"""Random rotations: signs and Walsh-Hadamard transforms of blocks, and `hadamard`, the codec that is nothing else.

Specification. A vector is cut into as many blocks of the largest size as fit; what remains is cut into smaller powers
of two, the larger first, down to the smallest size allowed. (Where that is more than one value, as in `eden`, zeros
fill the last block.) A round turns over signs by a stream of random bits, then transforms every block of 2^m
and multiplies it by 2^−⌊m/2⌋. Round r takes stream r of the seed. The inverse undoes the rounds from the last to the
first: transform, factor 2^−⌈m/2⌉, then signs; so factors are exact, and both together are 2^−m. (A block of odd m is
√2 times too long between them.) Operations and their order: `phloem.kernels.hadamard`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from phloem.codecs.base import Hints
from phloem.codecs.config import check_whole
from phloem.codecs.split import damped, join, read_damping, require_finite, restored, split, take
from phloem.codecs.transform import Applied, Opened, Transform
from phloem.errors import ConfigError, FormatError
from phloem.kernels import backend
from phloem.kernels.streams import stream
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout, TensorSpec

LARGEST_BLOCK = 1 << 16
_MOST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Blocks:
    """`count` blocks of `size` values each, from `start` on."""

    start: int
    size: int
    count: int

    @property
    def end(self) -> int:
        """The position after them."""
        return self.start + self.size * self.count


def cut(length: int, largest: int, smallest: int = 1) -> list[Blocks]:
    """The blocks of a vector; they end at the first multiple of `smallest` from `length` on.

    >>> [(blocks.size, blocks.count) for blocks in cut(23, 8)]
    [(8, 2), (4, 1), (2, 1), (1, 1)]
    """
    found, start, size = [], 0, largest
    rest = -(-length // smallest) * smallest
    while rest:
        count, rest = divmod(rest, size)
        if count:
            found.append(Blocks(start, size, count))
            start += size * count
        size //= 2
    return found


def rotate(vector: Array, blocks: Sequence[Blocks], seed: int, rounds: int) -> None:
    """Rotates the vector in place."""
    kernels = backend()
    for number in range(rounds):
        kernels.flip(vector, stream(seed, number))
        for part in blocks:
            half = (part.size.bit_length() - 1) // 2
            kernels.hadamard(vector[part.start : part.end], part.size, 2.0**-half)


def rotate_back(vector: Array, blocks: Sequence[Blocks], seed: int, rounds: int, factor: float = 1.0) -> None:
    """Undoes `rotate` in place, and multiplies by a power of two in every round."""
    kernels = backend()
    for number in reversed(range(rounds)):
        for part in blocks:
            half = part.size.bit_length() // 2
            kernels.hadamard(vector[part.start : part.end], part.size, factor * 2.0**-half)
        kernels.flip(vector, stream(seed, number))


def check_block(owner: str, block: int, smallest: int) -> None:
    """Refuses a block size that is not a power of two from `smallest` to 2^16."""
    check_whole(owner, "block", block, smallest, LARGEST_BLOCK)
    if block & (block - 1):
        raise ConfigError(f"{owner}: 'block' must be a power of two, found {block}")


def read_block(body: bytes, start: int, smallest: int, codec: str) -> tuple[int, int]:
    """The block size whose logarithm is the byte at `start`, and the position after it."""
    exponent = body[start] if start < len(body) else 255
    if exponent > 16 or 1 << exponent < smallest:
        raise FormatError(f"{codec}: expected blocks of {smallest} to 2^16 values")
    return 1 << exponent, start + 1


@dataclass(frozen=True)
class Hadamard(Transform):
    """The randomly rotated update, for a quantiser that follows in a `chain`: spikes become noise.

    Rotation makes every source nearly Gaussian. That suits few levels without entropy coding, and unbiased
    ones; it costs bits where an entropy coder and error feedback do the work. Error: float32 rounding. Source:
    Suresh et al., Distributed mean estimation with limited communication, 2017, §3 (in blocks, without padding).
    """

    block: int = 4096
    rounds: int = 1

    name: ClassVar[str] = "hadamard"
    code: ClassVar[int] = 20
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_block("codec 'hadamard'", self.block, 2)
        check_whole("codec 'hadamard'", "rounds", self.rounds, 1, _MOST_ROUNDS)

    def apply(self, arrays: Sequence[Array], layout: Layout, hints: Hints) -> Applied:
        """log2(block), rounds, damping, seed; one tensor, the rotated vector."""
        seed = seed_for(hints.seed, self.name)
        damping, vector = damped(join(arrays))
        rotated = vector.copy()
        rotate(rotated, cut(layout.size, self.block), seed, self.rounds)
        side = bytes([self.block.bit_length() - 1, self.rounds, damping]) + seed.to_bytes(8, "little")
        return Applied(side, [rotated], _rotated_layout(layout))

    @classmethod
    def open(cls, body: bytes, start: int, layout: Layout) -> tuple[Opened, int]:
        """The vector, rotated back."""
        block, start = read_block(body, start, 2, cls.name)
        rounds = body[start] if start < len(body) else 0
        if not 1 <= rounds <= _MOST_ROUNDS:
            raise FormatError(f"hadamard: expected 1 to {_MOST_ROUNDS} rounds, found {rounds}")
        damping, start = read_damping(body, start + 1, cls.name)
        end = take(body, start, 8, cls.name)
        seed = int.from_bytes(body[start:end], "little")

        def undo(arrays: list[Array]) -> list[Array]:
            vector = arrays[0]
            rotate_back(vector, cut(layout.size, block), seed, rounds)
            return split(require_finite(restored(vector, damping), cls.name), layout)

        return Opened(_rotated_layout(layout), undo), end


def _rotated_layout(layout: Layout) -> Layout:
    return Layout((TensorSpec("rotated", (layout.size,)),))
