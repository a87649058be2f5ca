"""Which encodings give a state, and what it costs to follow them: the shortest way from a key-frame.

The cost is in seconds of a machine that reads 500 MB/s and decodes on two cores. It decides where key-frames are
worth their bytes (when they would be cheaper than what there is), never what a state is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from phloem.branches.records import Encoding
from phloem.errors import NotFoundError
from phloem.files.sections import MOST_PARAMETERS
from phloem.tensors import TensorSpec

READ_BYTES_PER_SECOND = 500e6
#: Seconds of one core, measured on AVX-512: per parameter by codec, per byte hashed, per frame.
_SECONDS_PER_PARAMETER = {
    "ecsq/fast": 0.25e-9,
    "ecsq/balanced": 15e-9,
    "ecsq/best": 30e-9,
    "lossless": 1.7e-9,
    "lossless against a base": 10e-9,
}
_SECONDS_PER_PARAMETER_ELSE = 5e-9
_SECONDS_PER_BYTE_HASHED = 1.0e-9
_SECONDS_PER_FRAME = 5e-4
_CORES = 2
#: A state that costs more than this many times reading it uncompressed gets a key-frame.
MOST_TIMES = 2.0
#: An exact difference is there to save bytes, and slow to decode: what it gives may cost so many times more than that.
EXACT_FACTOR = 4.0
#: What takes less than twice this is fast enough for anyone: small models need not be faster still.
_FAST_SECONDS = 0.03


@dataclass(frozen=True)
class Size:
    """How large a state is: what costs depend on."""

    parameters: int
    bytes: int

    @classmethod
    def of(cls, rows: Iterable[tuple[TensorSpec, str]], item_bytes: Callable[[TensorSpec], int]) -> Size:
        """The size of a state with these tensors."""
        specs = [spec for spec, _ in rows]
        return cls(sum(spec.size for spec in specs), sum(map(item_bytes, specs)))

    @property
    def read_seconds(self) -> float:
        """How long reading it uncompressed takes."""
        return self.bytes / READ_BYTES_PER_SECOND

    @property
    def cores(self) -> int:
        """How many cores find something to do: sections are decoded side by side."""
        return min(_CORES, max(1, -(-self.parameters // MOST_PARAMETERS)))


def exact_difference(one: Encoding) -> bool:
    """Whether an encoding is lossless against another state."""
    return one.codec == "lossless" and one.base is not None


def most_times(one: Encoding) -> float:
    """What a state whose smallest encoding is this may cost, in times of reading it uncompressed."""
    return MOST_TIMES * (EXACT_FACTOR if exact_difference(one) else 1.0)


def cost_of(encoding: Encoding, size: Size) -> float:
    """The seconds that one step of a chain takes."""
    codec = "lossless against a base" if exact_difference(encoding) else encoding.codec
    each = _SECONDS_PER_PARAMETER.get(codec, _SECONDS_PER_PARAMETER_ELSE)
    return (
        encoding.frame_bytes / READ_BYTES_PER_SECOND
        + each * size.parameters / size.cores
        + _SECONDS_PER_FRAME
    )


def times_reading(chain: Sequence[Encoding], size: Size) -> float:
    """What following a chain and checking what comes out costs, in times of reading the state uncompressed.

    A state that is read faster than anyone notices counts as one that just is not.
    """
    hashing = _SECONDS_PER_BYTE_HASHED * size.bytes / size.cores
    return (sum(cost_of(one, size) for one in chain) + hashing) / max(size.read_seconds, _FAST_SECONDS)


def cheapest(
    state: str,
    size: Size,
    encodings: Callable[[str], Iterable[Encoding]],
    without: frozenset[str] = frozenset(),
) -> list[Encoding]:
    """The cheapest chain that gives a state: a key-frame first, then what is decoded against what comes before.

    `without` are frames that must not be used.

    Raises:
        NotFoundError: there is none.
    """
    best: dict[str, tuple[float, Encoding | None]] = {state: (0.0, None)}
    queue: list[tuple[float, str]] = [(0.0, state)]
    ends: tuple[float, Encoding] | None = None
    while queue:
        cost, here = heapq.heappop(queue)
        if cost > best[here][0]:
            continue
        if ends is not None and cost >= ends[0]:
            break
        for one in encodings(here):
            if one.frame in without:
                continue
            reached = cost + cost_of(one, size)
            if one.base is None:
                if ends is None or reached < ends[0]:
                    ends = (reached, one)
            elif one.base not in best or reached < best[one.base][0]:
                best[one.base] = (reached, one)
                heapq.heappush(queue, (reached, one.base))
    if ends is None:
        raise NotFoundError(
            f"nothing in the repository gives the state {state[:12]}", hint="phloem fsck says what is missing"
        )
    chain, at = [ends[1]], ends[1].state
    while at != state:
        step = best[at][1]
        assert step is not None
        chain.append(step)
        at = step.state
    return chain
