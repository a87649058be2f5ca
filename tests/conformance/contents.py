"""The head of a stand-alone frame: docs/format.md, "Stand-alone frames"."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from dataclasses import dataclass

from tests.conformance.reader import Reader, Refused, Shape, require

LARGEST_TABLE = 4 << 20
MOST_TENSORS = 65_536
DTYPES = (
    "float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2", "bool", "uint8", "int8",
    "uint16", "int16", "uint32", "int32", "uint64", "int64", "complex64", "float8_e8m0fnu",
)  # fmt: skip
PRESET = (
    b"word_embeddings.position_embeddings.token_type_embeddings.intermediate.attention.self.query.key.value."
    b"output.dense.LayerNorm.pooler.classifier.features.running_mean.running_var.num_batches_tracked."
    b"downsample.encoder.decoder.blocks.qkv.proj.norm1.norm2.net.linear1.linear2.fc1.fc2.conv3.bn3.layer1.0."
    b"conv1.bn1.conv2.bn2.fc.weight\xfelm_head.model.embed_tokens.weight\xfemodel.layers.0.self_attn.q_proj."
    b"k_proj.v_proj.o_proj.mlp.gate_proj.up_proj.down_proj.input_layernorm.post_attention_layernorm.weight\xfe"
    b"transformer.h.0.attn.c_attn.c_proj.ln_1.ln_2.mlp.c_fc.wte.wpe.ln_f.bias\xfe.weight\xfe"
)
BASE, ERROR, SECTIONS = 1, 2, 4


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, shape and dtype."""

    name: str
    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True)
class Head:
    """What a stand-alone frame says of itself."""

    tensors: list[Tensor]
    metadata: dict[str, str]
    base: bytes | None
    flags: int


def canonical(value: object) -> bytes:
    """Canonical JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def read_head(data: bytes) -> Head:
    """The head that these bytes are."""
    reader = Reader(data)
    flags = reader.byte()
    require(flags < 8, "unknown flags")
    base = reader.take(32) if flags & BASE else None
    inflater = zlib.decompressobj(-15, PRESET)
    try:
        table = inflater.decompress(reader.rest(), LARGEST_TABLE + 1)
    except zlib.error as error:
        raise Refused("the table does not inflate") from error
    require(len(table) <= LARGEST_TABLE and inflater.eof and not inflater.unused_data, "another table's end")
    tensors, metadata = read_table(Reader(table))
    return Head(tensors, metadata, base, flags)


def read_table(reader: Reader) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors and the metadata."""
    count = reader.number()
    require(1 <= count <= MOST_TENSORS, "no such number of tensors")
    names = read_names(reader, count)
    raw = [name.encode() for name in names]
    require(all(a < b for a, b in itertools.pairwise(raw)), "names are not sorted")
    shapes = [read_shape(reader) for _ in names]
    more = reader.at < len(reader.data)
    dtypes: list[str] = [] if more else ["float32"] * count
    while len(dtypes) < count:
        code, run = reader.byte(), reader.number()
        require(code < len(DTYPES) and 1 <= run <= count - len(dtypes), "no such dtypes")
        dtypes += [DTYPES[code]] * run
    metadata = read_metadata(reader.rest())
    return [Tensor(*row) for row in zip(names, shapes, dtypes, strict=True)], metadata


def read_metadata(data: bytes) -> dict[str, str]:
    """An object of texts in canonical JSON."""
    if not data:
        return {}
    try:
        found = json.loads(data)
        again = canonical(found)
    except (ValueError, RecursionError) as error:
        raise Refused("the metadata is not JSON") from error
    require(again == data, "the metadata is not canonical")
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise Refused("the metadata is not an object of texts")
    return found


def read_names(reader: Reader, count: int) -> list[str]:
    """All names."""
    names: list[str] = []
    size = 0
    while len(names) < count:
        if reader.data[reader.at : reader.at + 1] == b"\xfd":
            reader.byte()
            run, back, field, value = (reader.number() for _ in range(4))
            require(1 <= run <= count - len(names) and 1 <= back <= len(names), "no such names to repeat")
        else:
            run, back, field, value = 1, 0, 0, 0
        for _ in range(run):
            names.append(replaced(names[-back], field, value) if back else read_name(reader))
            size += len(names[-1].encode())
            require(size <= LARGEST_TABLE, "the names are too long")
    return names


def read_name(reader: Reader) -> str:
    """A name to its end."""
    end = reader.data.find(b"\xfe", reader.at)
    require(end >= 0, "ends inside a name")
    raw = reader.take(end - reader.at)
    reader.byte()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Refused("a name is not UTF-8") from error


def replaced(name: str, field: int, value: int) -> str:
    """The name with its run of digits number `field` replaced."""
    runs = list(re.finditer("[0-9]+", name))
    require(field < len(runs), "no such number in a name")
    return name[: runs[field].start()] + str(value) + name[runs[field].end() :]


def read_shape(reader: Reader) -> Shape:
    """A shape."""
    dimensions = reader.byte()
    require(dimensions <= 16, "too many dimensions")
    shape = tuple(reader.number() for _ in range(dimensions))
    elements = 1
    for size in shape:
        elements *= max(size, 1)
    require(elements < 1 << 48, "too many elements")
    return shape
