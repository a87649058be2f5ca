"""`model`: a whole model in one body: zeros as a mask, the other weights by one codec, vectors by another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from phloem import varint
from phloem.codecs.base import NO_HINTS, Codec, Held, Hints
from phloem.codecs.config import FromConfig
from phloem.codecs.lossless import decode_bytes, encode_bytes
from phloem.errors import ConfigError, FormatError
from phloem.masks import ABSENT, Kept, Mask, everything
from phloem.tensors import Array, Layout

_NO_MASK, _PLUS, _MINUS = 0, 1, 2
_ZEROS = {_PLUS: np.float32(0.0), _MINUS: ABSENT}
#: A mask costs at most 1 bit per weight and near p·log2(1/p) for a small share p of zeros, and saves p times the
#: bits of a weight: below one zero in 128 it cannot pay at 8 bits.
_FEWEST_ZEROS = 1 / 128


@dataclass(frozen=True)
class Model(FromConfig):
    """A whole model (not an update): matrices by `weights`, tensors of fewer than two dimensions by `vectors`.

    Zero weights of matrices take no place among the others: where they are many, an entropy-coded mask says where
    they are, and only the others travel. Biases and norms are few and
    sensitive, so they are kept exactly unless told otherwise. With the defaults it is exact to the bit; that is
    how the whole state of a pruned model travels.

    Args:
        weights, vectors: the two codecs, as their configurations.
        mask: whether zeros may be sent as a mask; `ecsq` codes zeros well by itself.

    Body:
        byte 0      0 no mask · 1 the masked weights are +0.0 · 2 they are −0.0
        byte 1, 2   the codes of the two codecs, neither of them this one
        if a mask   varint n · n bytes, the body in `lossless` (as bytes, "U8") of a bit for every weight of the
                    matrices in the layout's order, lowest bit first, 1 where it is kept, 0 in the padding
        if vectors  varint m · m bytes, the body of the tensors of fewer than two dimensions
        rest        the body of the matrices' kept weights, if there are matrices, in the layout `Kept.layout`

    >>> import numpy as np
    >>> layout = Layout.of({"w": np.zeros((4, 4))})
    >>> body = Model().encode([np.eye(4, dtype=np.float32)], layout)
    >>> bool((Model.decode(body, layout)[0] == np.eye(4)).all())
    True
    """

    weights: dict[str, Any] = field(default_factory=lambda: {"codec": "lossless"})
    vectors: dict[str, Any] = field(default_factory=lambda: {"codec": "lossless"})
    mask: bool = True

    name: ClassVar[str] = "model"
    code: ClassVar[int] = 18
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    commutes_with_sum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for key in ("weights", "vectors"):
            config = getattr(self, key)
            if not isinstance(config, Mapping):
                raise ConfigError(f"codec 'model': '{key}' must be a codec's table, found {config!r:.60}")
            if config.get("codec") == self.name:
                raise ConfigError(f"codec 'model': '{key}' must be another codec")
            _codec(config)

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The mask, the vectors, the weights."""
        hints = Hints(
            guess=hints.guess, seed=hints.seed
        )  # the others are of the whole layout, not of its parts
        matrices, vectors = _parts(layout)
        weights, others = _codec(self.weights), _codec(self.vectors)
        inner = _sub(layout, matrices)
        chosen = [arrays[place] for place in matrices]
        kind, kept = _without_zeros(chosen, inner) if self.mask else (_NO_MASK, everything(inner))
        body = bytearray([kind, weights.code, others.code])
        if kind != _NO_MASK:
            body += _sized(_packed_mask(kept))
        if vectors:
            some = [arrays[place] for place in vectors]
            body += _sized(others.encode(some, _sub(layout, vectors), hints))
        if matrices:
            body += weights.encode(kept.gather(chosen), kept.layout, hints)
        return bytes(body)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The tensors again; masked weights come back as the zero that they were."""
        if len(body) < 3:
            raise FormatError(f"model: expected at least 3 bytes, found {len(body)}")
        matrices, vectors = _parts(layout)
        found: dict[int, Array] = {}
        inner, position = _sub(layout, matrices), 3
        kind, kept = body[0], everything(inner)
        if kind not in (_NO_MASK, *_ZEROS) or (kind != _NO_MASK and not matrices):
            raise FormatError(f"model: there is no mask of kind {kind}")
        if kind != _NO_MASK:
            part, position = _take(body, position)
            kept = _masked(_unpacked_mask(part, inner), inner)
        if vectors:
            part, position = _take(body, position)
            decoded = _class(body[2]).decode(part, _sub(layout, vectors))
            found.update(zip(vectors, decoded, strict=True))
        else:
            _class(body[2])
        weights = _class(body[1])
        if matrices:
            decoded = weights.decode(body[position:], kept.layout)
            zero = _ZEROS.get(kind, ABSENT)
            found.update(zip(matrices, kept.scatter(decoded, zero), strict=True))
        elif position != len(body):
            raise FormatError(f"model: the body goes on for {len(body) - position} bytes after its end")
        return [found[place] for place in range(len(layout.specs))]


def _parts(layout: Layout) -> tuple[list[int], list[int]]:
    """The places of the matrices, and of the other tensors."""
    places: tuple[list[int], list[int]] = ([], [])
    for place, spec in enumerate(layout.specs):
        places[len(spec.shape) < 2].append(place)
    return places


def _sub(layout: Layout, places: Sequence[int]) -> Layout:
    return Layout(tuple(layout.specs[place] for place in places))


def _without_zeros(arrays: Sequence[Array], layout: Layout) -> tuple[int, Kept]:
    """The zero that is the more frequent one, and what is kept without it."""
    counts = {
        kind: sum(int(np.count_nonzero(array.view(np.uint32) == _bits(kind))) for array in arrays)
        for kind in _ZEROS
    }
    kind = _MINUS if counts[_MINUS] > counts[_PLUS] else _PLUS
    if counts[kind] < max(1.0, _FEWEST_ZEROS * layout.size):
        return _NO_MASK, everything(layout)
    return kind, _masked([(array.view(np.uint32) != _bits(kind)).reshape(-1) for array in arrays], layout)


def _masked(flags: Sequence[Mask], layout: Layout) -> Kept:
    return Kept(layout, tuple(None if flag.all() else flag for flag in flags))


def _packed_mask(kept: Kept) -> bytes:
    flags = [
        np.ones(spec.size, np.bool_) if mask is None else mask
        for spec, mask in zip(kept.whole.specs, kept.masks, strict=True)
    ]
    return encode_bytes(np.packbits(np.concatenate(flags), bitorder="little"), "U8")


def _unpacked_mask(data: bytes, layout: Layout) -> list[Mask]:
    bits = decode_bytes(data, "U8", -(-layout.size // 8))
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").view(np.bool_)
    if flags[layout.size :].any():
        raise FormatError("model: the mask's padding must be zero")
    return np.split(flags[: layout.size], np.cumsum([spec.size for spec in layout.specs])[:-1])


def _bits(kind: int) -> np.uint32:
    return np.uint32(0x80000000 if kind == _MINUS else 0)


def _sized(data: bytes) -> bytes:
    return varint.pack(len(data)) + data


def _take(body: bytes, position: int) -> tuple[bytes, int]:
    size, position = varint.unpack(body, position)
    if size > len(body) - position:
        raise FormatError(f"model: expected a part of {size} bytes, found {len(body) - position}")
    return body[position : position + size], position + size


def _codec(config: Mapping[str, Any]) -> Codec:
    from phloem.codecs.registry import codec_from  # the registry names this codec too

    return codec_from(config)


def _class(code: int) -> type[Codec]:
    from phloem.codecs.registry import codec_for_code

    if code == Model.code:
        raise FormatError("model: a model inside a model")
    return codec_for_code(code)
