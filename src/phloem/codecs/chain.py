"""`chain`: codecs one after another: transforms, one quantiser, byte coders.

Specification. The body is a byte n, 1 to 8, the n codes of the stages, and a payload. The codes are those of any
number of transforms (`topk`, `threshold`, `randomk`, `hadamard`, `lowrank`), at most one other codec, which stands
for `none` where it is left out, and any number of byte coders (`zstd`), in this order. The payload is what the byte
coders make, the first one applied first, of: each transform's bytes, in order, and then the quantiser's body for the
layout that the last transform leaves. What byte coders hold is never more than 16 bytes per parameter, 4096 per
tensor and 65,536 together, so a small frame cannot become a large allocation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from phloem import canonical
from phloem.codecs.base import NO_HINTS, Codec, Held, Hints
from phloem.codecs.bytecoder import Zstd
from phloem.codecs.casts import NoCompression
from phloem.codecs.config import FromConfig
from phloem.codecs.stages import STAGES, configured
from phloem.codecs.transform import Opened, Transform
from phloem.errors import ConfigError, FormatError
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout

MOST_STAGES = 8

_BY_NAME = {stage.name: stage for stage in STAGES}
_BY_CODE = {stage.code: stage for stage in STAGES}


@dataclass(frozen=True)
class Chain(FromConfig):
    """The update through its stages: first what selects or rotates, then what quantises, then what codes bytes.

    Args:
        stages: the stages' configurations in this order, such as `[{"codec": "topk", "fraction": 0.01}, {"codec":
            "int8"}, {"codec": "zstd"}]`. Codecs are taken as well; in Python `chain(TopK(0.01), Int8(), Zstd())`.

    It is unbiased if all its stages are, and lossless if all are. Source: the grammar of Xu et al., GRACE, 2021, and of
    optax's `chain`.

    >>> Chain([{"codec": "topk", "fraction": 0.5}, {"codec": "int8"}]).names
    ('topk', 'int8')
    """

    stages: Sequence[Mapping[str, Any]]

    name: ClassVar[str] = "chain"
    code: ClassVar[int] = 7
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.stages, (str, Mapping)) or not isinstance(self.stages, Iterable):
            raise ConfigError(
                f"codec 'chain': 'stages' must be a list of codecs, found {self.stages!r:.60}",
                hint='for example stages = [{ codec = "topk", fraction = 0.01 }, { codec = "int8" }]',
            )
        codecs = [_codec(stage) for stage in self.stages]
        reason = _disorder([type(codec) for codec in codecs])
        if reason:
            raise ConfigError(
                f"codec 'chain': {reason}",
                hint="the order is: transforms, at most one quantiser, byte coders",
            )
        object.__setattr__(self, "stages", tuple(_table(codec) for codec in codecs))
        # What a chain promises depends on its stages; a codec's class promises for all its configurations.
        object.__setattr__(self, "lossless", all(codec.lossless for codec in codecs))
        object.__setattr__(self, "unbiased", all(codec.unbiased for codec in codecs))

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names."""
        return tuple(stage["codec"] for stage in self.stages)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The stages' codes, and what they make of the update together."""
        codecs = [configured(stage, _BY_NAME) for stage in self.stages]
        payload, carried, inner, quantised = b"", list(arrays), layout, False
        for number, codec in enumerate(codecs):
            own = replace(hints, seed=seed_for(hints.seed, self.name, number), held=None)
            if isinstance(codec, Transform):
                applied = codec.apply(carried, inner, own)
                payload, carried, inner = payload + applied.side, applied.arrays, applied.layout
                continue
            if not quantised:
                last = NoCompression() if isinstance(codec, Zstd) else codec
                payload, quantised = payload + last.encode(carried, inner, own), True
            if isinstance(codec, Zstd):
                payload = codec.pack(payload)
        if not quantised:
            payload += NoCompression().encode(carried, inner)
        return bytes([len(codecs), *(codec.code for codec in codecs)]) + payload

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """What the stages, undone from the last to the first, give back."""
        codecs, payload = _read_stages(body)
        most = 16 * layout.size + 4096 * len(layout.specs) + 65_536
        for codec in reversed(codecs):
            if issubclass(codec, Zstd):
                payload = codec.unpack(payload, most)
        opened: list[Opened] = []
        start, inner = 0, layout
        quantiser: type[Codec] = NoCompression
        for codec in codecs:
            if issubclass(codec, Transform):
                transform, start = codec.open(payload, start, inner)
                opened.append(transform)
                inner = transform.layout
            elif not issubclass(codec, Zstd):
                quantiser = codec
        arrays = quantiser.decode(payload[start:], inner)
        for transform in reversed(opened):
            arrays = transform.undo(arrays)
        return arrays


def chain(*codecs: Codec) -> Chain:
    """The chain of these codecs.

    >>> from phloem.codecs.classical import Int8, TopK, Zstd
    >>> chain(TopK(0.01), Int8(), Zstd()).names
    ('topk', 'int8', 'zstd')
    """
    return Chain([_table(codec) for codec in codecs])


def _table(codec: Codec) -> dict[str, Any]:
    """The codec's configuration as a recipe writes it."""
    fields = canonical.plain(codec).items()
    return {"codec": codec.name, **{key: value for key, value in fields if value is not None}}


def _codec(stage: Any) -> Codec:
    if isinstance(stage, Mapping):
        if stage.get("codec") == Chain.name:
            raise ConfigError(
                "codec 'chain': a chain is no stage of a chain", hint="write its stages instead"
            )
        return configured(stage, _BY_NAME)
    if isinstance(stage, STAGES):
        return stage
    raise ConfigError(f"codec 'chain': a stage must be a table with 'codec', found {stage!r:.60}")


def _read_stages(body: bytes) -> tuple[list[type[Codec]], bytes]:
    """The stages' classes, and the payload."""
    count = body[0] if body else 0
    if not 1 <= count <= MOST_STAGES or len(body) < 1 + count:
        raise FormatError(f"chain: expected 1 to {MOST_STAGES} stages")
    codes = body[1 : 1 + count]
    for code in codes:
        if code not in _BY_CODE:
            raise FormatError(f"chain: no codec that can be a stage has the code {code}")
    codecs = [_BY_CODE[code] for code in codes]
    reason = _disorder(codecs)
    if reason:
        raise FormatError(f"chain: {reason}")
    return codecs, body[1 + count :]


def _disorder(codecs: Sequence[type[Codec]]) -> str | None:
    """Why these stages make no chain, or None."""
    if not 1 <= len(codecs) <= MOST_STAGES:
        return f"expected 1 to {MOST_STAGES} stages, found {len(codecs)}"
    before: type[Codec] | None = None
    for codec in codecs:
        if before is not None and _rank(codec) < _rank(before):
            return f"'{codec.name}' cannot work on what '{before.name}' makes"
        if before is not None and _rank(codec) == _rank(before) == 1:
            return f"'{before.name}' and '{codec.name}' are both quantisers"
        before = codec
    return None


def _rank(codec: type[Codec]) -> int:
    return 0 if issubclass(codec, Transform) else 2 if issubclass(codec, Zstd) else 1
