"""A frame back to a safetensors file, section by section, or to arrays in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phloem.codecs.lossless import needs_base
from phloem.errors import ConfigError, FormatError
from phloem.files.container import FrameReader
from phloem.files.drafts import Drafts, in_words
from phloem.files.dtypes import CODED, Raw, floats, restored
from phloem.files.exact import decode_exact
from phloem.files.models import open_model
from phloem.files.pair import base_tensors
from phloem.files.sections import Section
from phloem.files.sources import Tensors
from phloem.files.tensorfile import Progress, TensorFile, TensorFileWriter, bytes_of, silent, state_digest_of
from phloem.tensors import Array

#: A frame without a base may claim this many parameters, or this many per byte: a few bytes may stand for any
#: number of zeros, and real updates take more than 0.002 bits per parameter.
LEAST_LIMIT, MOST_PARAMETERS_PER_BYTE = 1 << 24, 4000
#: What `phloem.decode` takes if it is not told otherwise.
MOST_PARAMETERS = 1 << 31


@dataclass(frozen=True)
class Decoded:
    """What `decode_file` wrote.

    Attributes:
        tensors, parameters, bytes: how many; the bytes are those of the safetensors file.
        digest: the state digest of what was written.
    """

    tensors: int
    parameters: int
    bytes: int
    digest: str


def decode_file(
    frame: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    max_parameters: int | None = None,
    progress: Progress = silent,
) -> Decoded:
    """Writes the safetensors file that a frame and its base give, and gives back what was written.

    Tensors have the types of the model that was encoded. The base is a file or a directory, as it was then. Memory is
    bounded by the largest tensor. An existing `out` is replaced once the new file is whole.

    Raises:
        ConfigError: a file is missing, or the base is not the one that the frame was made against.
        FormatError: the frame is damaged, or claims more than `max_parameters` (by default 4,000 per byte of the
            frame, or 2^24 if that is more; with a base there is no limit). StoreError: the disk failed.
    """
    path, out = Path(frame), Path(out)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        reader = FrameReader.open(file, path.stat().st_size)
        theirs = _open_base(reader, base, stack, progress)
        if theirs is None:
            _refuse_more(reader, max_parameters)
        drafts = stack.enter_context(Drafts(out))
        stack.enter_context(in_words(out))
        draft = drafts.new()
        writer = TensorFileWriter(draft, reader.contents)
        done, total = 0, sum(map(bytes_of, reader.contents.specs))
        for section, body in reader.bodies():
            _restore(reader, section, body, theirs, writer)
            done += sum(map(bytes_of, section.specs))
            progress("decoding", done, total)
        drafts.finish(draft)
    with TensorFile.open(out) as written:
        contents = written.contents
        return Decoded(
            len(contents.specs), contents.size, out.stat().st_size, state_digest_of(written, progress)
        )


def decode_frame(frame: bytes, *, max_parameters: int = MOST_PARAMETERS) -> dict[str, Any]:
    """The update in a stand-alone frame by name: float tensors as float32, others in their own types.

    Raises:
        FormatError: the frame is damaged, or claims more than `max_parameters`.
        ConfigError: it carries no layout, or has tensors that only its base makes whole.
    """
    reader = FrameReader.open(io.BytesIO(frame), len(frame))
    _refuse_more(reader, max_parameters)
    found: dict[str, Any] = {}
    for section, body in reader.bodies():
        if not section.exact:
            arrays = _decoded(reader, section, body)
            found.update(zip((spec.name for spec in section.specs), arrays, strict=True))
            continue
        if reader.head.base is not None and needs_base(body):
            raise ConfigError(
                f"tensor '{section.specs[0].name}' is coded against its base",
                hint="write the frame to a file: phloem.decode_file takes the base",
            )
        raws = _exact(section, body, None)
        for spec, raw in zip(section.specs, raws, strict=True):
            if spec.dtype in CODED:
                values = floats(raw, spec.dtype).astype(np.float32)
            else:
                kind = spec.dtype if hasattr(np, spec.dtype) or spec.dtype == "bool" else "uint8"
                values = raw.view(np.dtype(kind)).copy()
            found[spec.name] = values.reshape(spec.shape)
    return {spec.name: found[spec.name] for spec in reader.contents.specs}


def _open_base(
    reader: FrameReader, base: str | Path | None, stack: contextlib.ExitStack, progress: Progress
) -> Tensors | None:
    """The base, whose digest is the one that the frame names."""
    wanted = reader.head.base
    if base is None:
        if wanted is not None:
            raise ConfigError(
                f"the frame was made against a base, of the state digest {wanted[:16]}…",
                hint="pass that file with --base",
            )
        return None
    if wanted is None:
        raise ConfigError("the frame was made without a base", hint="decode it without --base")
    file = stack.enter_context(open_model(base))
    digest = state_digest_of(file, progress)
    if digest != wanted:
        raise ConfigError(
            f"{base} is not the base of this frame: expected the state {wanted[:16]}…, found {digest[:16]}…",
            hint="pass the file that was the base when the frame was encoded",
        )
    names = {spec.name: spec.shape for spec in file.contents.specs}
    if names != {spec.name: spec.shape for spec in reader.contents.specs}:
        raise FormatError("the frame's tensors are not those of its base")
    for spec in reader.contents.specs:
        other = file.spec(spec.name).dtype
        if spec.dtype != other and not {spec.dtype, other} <= set(CODED):
            raise FormatError(
                f"tensor '{spec.name}' has type {spec.dtype} in the frame, and {other} in its base"
            )
    return file


def _refuse_more(reader: FrameReader, most: int | None) -> None:
    limit = max(LEAST_LIMIT, MOST_PARAMETERS_PER_BYTE * reader.size_bytes) if most is None else most
    if reader.contents.size > limit:
        raise FormatError(
            f"the frame claims {reader.contents.size} parameters, more than {limit}",
            hint="if you trust its sender, in Python: decode_file(..., max_parameters=...)",
        )


def _decoded(reader: FrameReader, section: Section, body: bytes) -> list[Array]:
    with _memory_permitting(section):
        return reader.codec.decode(body, section.layout)


def _exact(section: Section, body: bytes, bases: list[Raw] | None) -> list[Raw]:
    with _memory_permitting(section):
        return decode_exact(body, section.specs, [bytes_of(spec) for spec in section.specs], bases)


@contextlib.contextmanager
def _memory_permitting(section: Section) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise FormatError(f"a section claims {section.size} parameters, more than fit in memory") from error


def _restore(
    reader: FrameReader, section: Section, body: bytes, base: Tensors | None, writer: TensorFileWriter
) -> None:
    """Decodes one section and writes its tensors."""
    if section.exact:
        bases = None if base is None else base_tensors(base, section.specs)
        for spec, raw in zip(section.specs, _exact(section, body, bases), strict=True):
            writer.write(spec, raw)
        return
    for spec, update in zip(section.specs, _decoded(reader, section, body), strict=True):
        if base is None:
            writer.write(spec, restored(update, spec.dtype, None, spec.dtype))
        else:
            other = base.spec(spec.name)
            writer.write(spec, restored(update, spec.dtype, base.read(other), other.dtype))
