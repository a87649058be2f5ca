"""What a stand-alone frame says of itself: names, shapes and dtypes of its tensors, and what it is a difference to.

For a GPT of 50 tensors that takes some 110 bytes.

The head of a stand-alone frame:

    byte 0      flags: 0x01 the base's digest follows · 0x02 the measured error stands before the last checksum
                · 0x04 the body is in sections
    if 0x01     32 bytes: the state digest of the base
    ...         the table, one raw DEFLATE stream (RFC 1951) that may refer back into `PRESET`

The table, before it is deflated ("number" is unsigned LEB128):

    number      how many tensors, sorted by the UTF-8 bytes of their names
    names       until all are named: UTF-8 · 0xFE
                or 0xFD · n · back · field · value, four numbers: the next n names are those `back` places before
                them, with their digits number `field` (runs of 0–9, counted from 0) replaced by `value` in decimal
    shapes      per tensor: one byte, the number of dimensions · that many numbers
    dtypes      runs, until all have one: one byte, the dtype's code · number, how many tensors. The rest of the
                table may be missing: then all are float32
    metadata    the rest, if any: canonical JSON, a table of texts, as in a safetensors file

No byte of UTF-8 is 0xF8 or more, so nothing needs to be escaped.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from phloem import canonical, varint
from phloem.errors import ConfigError, FormatError
from phloem.tensors import DTYPES, MAX_DIMENSIONS, Layout, TensorSpec

#: What a frame may bring along, so that a small one is not much work: the table before it is deflated.
LARGEST_TABLE_BYTES = 4 << 20
MOST_TENSORS = 65_536
_LARGEST_TENSOR = 1 << 48  # elements, as in `tensors`
#: Words that names are often made of; later words are cheaper to refer to. Part of the format.
PRESET = (
    b"word_embeddings.position_embeddings.token_type_embeddings.intermediate.attention.self.query.key.value."
    b"output.dense.LayerNorm.pooler.classifier.features.running_mean.running_var.num_batches_tracked."
    b"downsample.encoder.decoder.blocks.qkv.proj.norm1.norm2.net.linear1.linear2.fc1.fc2.conv3.bn3.layer1.0."
    b"conv1.bn1.conv2.bn2.fc.weight\xfelm_head.model.embed_tokens.weight\xfemodel.layers.0.self_attn.q_proj."
    b"k_proj.v_proj.o_proj.mlp.gate_proj.up_proj.down_proj.input_layernorm.post_attention_layernorm.weight\xfe"
    b"transformer.h.0.attn.c_attn.c_proj.ln_1.ln_2.mlp.c_fc.wte.wpe.ln_f.bias\xfe.weight\xfe"
)
_HAS_BASE, HAS_ERROR, HAS_SECTIONS = 1, 2, 4
_REPEAT, _END_OF_NAME = 0xFD, 0xFE
_LOOK_BACK = 8  # how many names of the same pattern the packer tries to continue from
_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class Contents:
    """The tensors of a stand-alone frame, sorted by name, and the metadata of the file that they came from."""

    specs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout) -> Contents:
        """The contents of a float32 update."""
        return cls(layout.specs)

    @property
    def size(self) -> int:
        """The number of parameters: elements of all tensors together."""
        return sum(spec.size for spec in self.specs)

    @property
    def layout(self) -> Layout:
        """The names and shapes, as codecs see them: all float32."""
        return Layout(tuple(TensorSpec(spec.name, spec.shape) for spec in self.specs))


@dataclass(frozen=True)
class Head:
    """What stands before the body of a stand-alone frame.

    Attributes:
        contents: the tensors.
        base: the state digest of the base, or None where the tensors themselves were encoded.
        has_error: whether the measured error stands before the last checksum.
        has_sections: whether the body is in sections.
    """

    contents: Contents
    base: str | None = None
    has_error: bool = False
    has_sections: bool = False

    def pack(self) -> bytes:
        """The head in bytes.

        Raises:
            ConfigError: more tensors or longer names than a frame carries.
        """
        flags = _HAS_BASE * (self.base is not None) | HAS_ERROR * self.has_error
        flags |= HAS_SECTIONS * self.has_sections
        table = pack_table(self.contents)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, PRESET)
        return bytes([flags]) + bytes.fromhex(self.base or "") + packer.compress(table) + packer.flush()

    @classmethod
    def unpack(cls, data: bytes) -> Head:
        """The head that `data` is, to its last byte.

        Raises:
            FormatError: it is not one, or its table would be larger than a frame may bring.
        """
        if not data or data[0] & ~(_HAS_BASE | HAS_ERROR | HAS_SECTIONS):
            raise FormatError("the frame's head has flags that this version does not know")
        start = 33 if data[0] & _HAS_BASE else 1
        if len(data) < start:
            raise FormatError("the frame ends inside its base's digest")
        found = _unpacked(data[start:])
        contents = Contents(found.specs, dict(found.metadata))  # the caller's own: the other is shared
        base = data[1:33].hex() if data[0] & _HAS_BASE else None
        return cls(contents, base, bool(data[0] & HAS_ERROR), bool(data[0] & HAS_SECTIONS))


@lru_cache(maxsize=2)
def _unpacked(packed: bytes) -> Contents:
    """The table of a head; frames of one model follow one another, and all have the same."""
    return unpack_table(_inflate(packed))


def pack_table(contents: Contents) -> bytes:
    """The table of these tensors, not yet deflated.

    Raises:
        ConfigError: more than a frame carries, or a name that UTF-8 cannot write.
    """
    specs = contents.specs
    try:
        table = varint.pack(len(specs)) + _pack_names([spec.name for spec in specs])
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"a tensor's name is not a text that UTF-8 can write: {error.object!r:.60}"
        ) from error
    table += b"".join(bytes([len(s.shape)]) + b"".join(map(varint.pack, s.shape)) for s in specs)
    if contents.metadata or any(spec.dtype != "float32" for spec in specs):
        for dtype, run in itertools.groupby(specs, lambda spec: spec.dtype):
            table += bytes([DTYPES.index(dtype)]) + varint.pack(sum(1 for _ in run))
        table += canonical.dumps(contents.metadata) if contents.metadata else b""
    names = sum(len(spec.name.encode()) for spec in specs)
    if max(len(table), names) > LARGEST_TABLE_BYTES or len(specs) > MOST_TENSORS:
        raise ConfigError(
            f"the update has {len(specs)} tensors and a table of {max(len(table), names)} bytes for their names "
            f"and shapes; a frame carries at most {MOST_TENSORS} in {LARGEST_TABLE_BYTES >> 20} MiB",
            hint="encode parts of the update",
        )
    return table


def unpack_table(table: bytes) -> Contents:
    """The tensors that a table lists.

    Raises:
        FormatError: it is no table, to its last byte.
    """
    count, at = varint.unpack(table, 0)
    if not 0 < count <= MOST_TENSORS:
        raise FormatError(f"expected a frame of 1 to {MOST_TENSORS} tensors, found {count}")
    names, at = _unpack_names(table, at, count)
    if any(left >= right for left, right in itertools.pairwise(name.encode() for name in names)):
        raise FormatError("a frame lists its tensors sorted by name, each name once")
    shapes = []
    for name in names:
        shape, at = _unpack_shape(table, at, name)
        shapes.append(shape)
    dtypes: list[str] = [] if at < len(table) else ["float32"] * count
    while len(dtypes) < count:
        code = table[at] if at < len(table) else 255
        run, at = varint.unpack(table, at + 1)
        if code >= len(DTYPES) or not 0 < run <= count - len(dtypes):
            raise FormatError("expected the dtypes of a frame's tensors, found other bytes")
        dtypes += [DTYPES[code]] * run
    metadata = canonical.loads(table[at:]) if at < len(table) else {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError("expected a frame's metadata to be a table of texts")
    return Contents(tuple(map(TensorSpec, names, shapes, dtypes)), metadata)


def _pack_names(names: list[str]) -> bytes:
    fields = [_DIGITS.split(name) for name in names]
    patterns = [_DIGITS.sub("#", name) for name in names]
    seen: defaultdict[str, list[int]] = defaultdict(list)
    packed, at = bytearray(), 0
    while at < len(names):
        best = (1, 0, 0, 0)
        for earlier in seen[patterns[at]][: -_LOOK_BACK - 1 : -1]:
            run, place, value = _run(fields, at, at - earlier)
            if run > best[0] or (run == best[0] == 2 and best[1] == 0):
                best = (run, at - earlier, place, value)
        run = best[0]
        if run >= 2:
            packed += bytes([_REPEAT]) + b"".join(map(varint.pack, best))
        else:
            packed += names[at].encode() + bytes([_END_OF_NAME])
        for place in range(at, at + run):
            seen[patterns[place]].append(place)
        at += run
    return bytes(packed)


def _run(fields: list[list[str]], at: int, back: int) -> tuple[int, int, int]:
    """How many names from `at` on repeat those `back` before them with one number changed: which, and to what."""
    changes: tuple[int, str] | None = None
    run = 0
    for here in range(at, len(fields)):
        now, then = fields[here], fields[here - back]
        differ = [place for place, pair in enumerate(zip(now, then, strict=False)) if pair[0] != pair[1]]
        if len(now) != len(then) or len(differ) != 1 or differ[0] % 2 == 0:
            break
        change = (differ[0], now[differ[0]])
        if (changes or change) != change:
            break
        changes, run = change, run + 1
    if changes is None or len(changes[1]) > 18 or str(int(changes[1])) != changes[1]:
        return 0, 0, 0
    return run, changes[0] // 2, int(changes[1])


def _unpack_names(table: bytes, at: int, count: int) -> tuple[list[str], int]:
    names: list[str] = []
    size = 0
    while len(names) < count:
        if at < len(table) and table[at] == _REPEAT:
            at += 1
            (run, at), back, place, value = varint.unpack(table, at), 0, 0, 0
            back, at = varint.unpack(table, at)
            place, at = varint.unpack(table, at)
            value, at = varint.unpack(table, at)
            if not 0 < run <= count - len(names) or not 0 < back <= len(names):
                raise FormatError("a frame's names repeat more than there are")
            more: Iterator[str] = (_replaced(names[-back], place, value) for _ in range(run))
        else:
            end = table.find(_END_OF_NAME, at)
            if end < 0:
                raise FormatError("the frame ends inside a tensor's name")
            try:
                more = iter([table[at:end].decode()])
            except UnicodeDecodeError as error:
                raise FormatError("a tensor's name is not UTF-8") from error
            at = end + 1
        for name in more:
            size += len(name.encode())
            if size > LARGEST_TABLE_BYTES:
                raise FormatError(f"the frame's names take more than {LARGEST_TABLE_BYTES >> 20} MiB")
            names.append(name)
    return names, at


def _replaced(name: str, place: int, value: int) -> str:
    fields = _DIGITS.split(name)
    if 2 * place + 1 >= len(fields):
        raise FormatError("a frame's names repeat with a number that is not there")
    fields[2 * place + 1] = str(value)
    return "".join(fields)


def _unpack_shape(table: bytes, at: int, name: str) -> tuple[tuple[int, ...], int]:
    dimensions = table[at] if at < len(table) else 255
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"expected the shape of '{name:.60}', found other bytes")
    shape, elements = [], 1
    at += 1
    for _ in range(dimensions):
        size, at = varint.unpack(table, at)
        elements *= max(size, 1)
        shape.append(size)
    if elements >= _LARGEST_TENSOR:
        raise FormatError(f"the shape of '{name:.60}' is more than any memory holds")
    return tuple(shape), at


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj(-15, PRESET)
    try:
        table = inflater.decompress(packed, LARGEST_TABLE_BYTES + 1)
    except zlib.error as error:
        raise FormatError(f"the frame's table does not inflate: {error}") from error
    if len(table) > LARGEST_TABLE_BYTES or not inflater.eof or inflater.unused_data:
        raise FormatError("the frame's table is cut short, followed by other bytes, or larger than 4 MiB")
    return table
