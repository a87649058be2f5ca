"""What a stand-alone frame holds, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem import canonical
from phloem.codecs.base import Codec
from phloem.codecs.ecsq import Ecsq
from phloem.errors import ConfigError
from phloem.files.container import FrameReader
from phloem.files.sections import Section
from phloem.kernels.steps import STEP_BYTES

#: What an `ecsq` body's flags say of the model that coded it.
_MODEL_FLAGS = 12
_EFFORTS = {0: "fast", 4: "balanced", 8: "best", 12: "best"}


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a frame.

    Attributes:
        section: which body it lies in, counted from 0; `section_bytes` is the size of that body, for all its tensors.
        codec: what coded it; "lossless" for tensors that travel exactly.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parameters: int
    codec: str
    section: int
    section_bytes: int


@dataclass(frozen=True)
class Inspection:
    """What a frame holds; its fields are those of `phloem inspect --json`.

    Attributes:
        parameters: elements of all tensors.
        bytes: of the whole file.
        bits_per_parameter: 8 · bytes ÷ parameters, everything counted.
        codec: what coded the float tensors.
        effort: how hard the encoder worked, for codecs that have efforts.
        nmse: Σ(restored − new)² ÷ Σ(new − base)² over the float tensors, 0 if lossless, None if not measured.
        base_digest: the state digest of the base, None for a frame without one.
        tensors: a row per tensor, sorted by name.
    """

    parameters: int
    bytes: int
    bits_per_parameter: float
    codec: str
    effort: str | None
    nmse: float | None
    base_digest: str | None
    tensors: tuple[TensorRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's own types."""
        plain: dict[str, Any] = canonical.plain(self)
        return plain


def inspect_file(frame: str | Path) -> Inspection:
    """What the frame in a file holds.

    Raises:
        ConfigError: there is no such file, or the frame carries no layout. FormatError: it is damaged.
    """
    path = Path(frame)
    try:
        with path.open("rb") as file:
            return inspect(FrameReader.open(file, path.stat().st_size))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def inspect(reader: FrameReader) -> Inspection:
    """What an open frame holds."""
    rows, effort = [], None
    for number, (section, body) in enumerate(reader.bodies()):
        if not section.exact:
            effort = effort or effort_of(reader.codec, body)
        rows += _rows(section, number, len(body), reader.codec.name)
    parameters = reader.contents.size
    return Inspection(
        parameters=parameters,
        bytes=reader.size_bytes,
        bits_per_parameter=8.0 * reader.size_bytes / parameters if parameters else 0.0,
        codec=reader.codec.name,
        effort=effort or ("fast" if reader.codec.code == Ecsq.code else None),
        nmse=0.0 if reader.codec.lossless else reader.error,
        base_digest=reader.head.base,
        tensors=tuple(sorted(rows, key=lambda row: row.name)),
    )


def effort_of(codec: type[Codec], body: bytes) -> str | None:
    """The effort that a body was made with, for codecs that have efforts; None for nothing but zeros."""
    if codec.code != Ecsq.code or len(body) <= STEP_BYTES:
        return None
    return _EFFORTS[body[STEP_BYTES - 1] & _MODEL_FLAGS]


def _rows(section: Section, number: int, size: int, codec: str) -> list[TensorRow]:
    name = "lossless" if section.exact else codec
    return [
        TensorRow(spec.name, spec.dtype, spec.shape, spec.size, name, number, size) for spec in section.specs
    ]
