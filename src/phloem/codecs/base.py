"""What a codec is: configuration without state, and the promises that a contract suite tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, Self, runtime_checkable

from phloem.tensors import Array, Layout


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
        commutes_with_sum: payloads may be summed before decoding, with the same result as after it.
    """

    name: ClassVar[str]
    code: ClassVar[int]
    lossless: ClassVar[bool]
    unbiased: ClassVar[bool]
    commutes_with_sum: ClassVar[bool]

    def encode(self, arrays: Sequence[Array], layout: Layout, guess: float | None = None) -> bytes:
        """The body of a frame that carries `arrays`, contiguous float32 in the layout's order.

        `guess` is an earlier quantiser step of the same sender, where the codec searches for one.
        """
        ...

    @classmethod
    def decode(cls, body: bytes, layout: Layout) -> list[Array]:
        """The arrays that `body` carries; everything but the layout comes from the bytes.

        Raises:
            FormatError: the bytes do not describe an update of this layout.
        """
        ...

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """The codec with this configuration; unknown or missing keys raise ConfigError."""
        ...
