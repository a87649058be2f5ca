"""What a codec is: configuration without state, and the promises that a contract suite tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

from phloem.tensors import Array, Layout

#: An earlier update of the same layout that sender and receiver both have, or None.
Held = Sequence[Array] | None


@dataclass(frozen=True, slots=True)
class Hints:
    """What an encoder may know besides the update; a codec takes what it can use.

    Attributes:
        guess: an earlier quantiser step of the same sender, where the codec searches for one.
        seed: where a codec's random numbers come from: the same seed gives the same bytes. Streams that both
            ends need travel as a seed of their own, derived one way, so a frame does not tell the private ones.
        held: an earlier decoded update that the receiver will pass to `decode` as well.
        extent: the update's largest magnitude, from a caller who has looked: there is no NaN and no infinity.
        slack: a size that misses the wanted one by no more than this share of it will do where `guess` gives it: one
            encode instead of a search, for a sender of many frames who mends the guess from one to the next.
    """

    guess: float | None = None
    seed: int = 0
    held: Held = None
    extent: float | None = None
    slack: float = 0.0


NO_HINTS = Hints()


@runtime_checkable
class Codec(Protocol):
    """Turns an update into bytes and back.

    A codec is a frozen dataclass: its fields are its configuration and their dict is its JSON. It remembers
    nothing between calls; what only the sender keeps (the residual) is `phloem.feedback`.

    Attributes:
        name: the name in recipes and reports.
        code: the byte that names the codec in a frame.
        lossless: decode(encode(x)) equals x bit for bit, for finite float32.
        unbiased: the mean of decode(encode(x)) over the codec's randomness is x.
        commutes_with_sum: bodies may be summed before decoding, by a classmethod `sum_bodies(bodies, layout)`, with
            the same result as after it.
    """

    name: ClassVar[str]
    code: ClassVar[int]
    lossless: ClassVar[bool]
    unbiased: ClassVar[bool]
    commutes_with_sum: ClassVar[bool]

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The body of a frame that carries `arrays`, contiguous float32 in the layout's order."""
        ...

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The arrays that `body` carries; everything but the layout and `held` comes from the bytes.

        Raises:
            FormatError: the bytes do not describe an update of this layout, or need another `held`.
        """
        ...

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """The codec with this configuration; unknown or missing keys raise ConfigError."""
        ...
