"""Two safetensors files to a frame: what it should cost or lose is met over the whole file, tensor by tensor."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from phloem import varint
from phloem.codecs.base import Codec, Hints
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.lossless import Lossless
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError
from phloem.files.adapters import owner_of
from phloem.files.container import FrameWriter
from phloem.files.drafts import Drafts, in_words
from phloem.files.exact import encode_exact
from phloem.files.inspection import Inspection, inspect_file
from phloem.files.models import open_model
from phloem.files.pair import Pair
from phloem.files.sections import Section, sections
from phloem.files.targets import EMPTY_BODY_BYTES, Survey, Whole, at_step, meet, not_enough
from phloem.files.tensorfile import Progress, bytes_of, silent, state_digest_of
from phloem.wire.contents import Contents, Head

_MOST_IN_MEMORY = 1 << 24  # exact bodies beyond this wait on the disk between passes
_FRAME_BYTES = 2 + 4 + 2 + 4  # first bytes, length of the head, measured error, checksum
_LARGEST_ERROR = 1e30


def encode_file(
    new: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    lossless: bool = False,
    codec: str = "ecsq",
    progress: Progress = silent,
    **options: Any,
) -> Inspection:
    """Writes the frame that takes one model to another, and gives back what is in it.

    Float tensors (float64, float32, float16, bfloat16) are coded by the codec, all at one step; other tensors
    travel exactly. Memory is bounded by the largest tensor. An existing `out` is replaced once the frame is whole.

    Args:
        new: the model to encode: a safetensors file, or a directory with one or with shards and their index.
        out: where the frame goes.
        base: the model that the receiver has; without it the tensors themselves are encoded.
        lossless: every bit of every tensor.
        codec: the codec's name.
        progress: told what is being done, and how far it is.
        **options: the codec's fields: for "ecsq" one of bits, bytes (both of the whole file), nmse and step, and
            perhaps effort.

    Raises:
        ConfigError: a file is missing, they hold different tensors, a tensor holds NaN or infinity, or the options
            do not fit the codec or cannot be met. FormatError: a file is damaged. StoreError: the disk failed.
    """
    if lossless and (codec != "ecsq" or options):
        given = codec if codec != "ecsq" else next(iter(options))
        raise ConfigError(f"lossless coding has no '{given}'", hint="give one of the two")
    chosen: Codec = Lossless() if lossless else codec_from({"codec": codec, **options})
    out = Path(out)
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(open_model(new))
        theirs = None if base is None else stack.enter_context(open_model(base))
        drafts = stack.enter_context(Drafts(out))
        folder = os.path.dirname(os.path.realpath(out))
        spool: IO[bytes] = stack.enter_context(
            tempfile.SpooledTemporaryFile(max_size=_MOST_IN_MEMORY, dir=folder)
        )
        stack.enter_context(in_words(out))
        work = _Work(Pair(mine, theirs), chosen, drafts, progress, spool)
        drafts.finish(work.encoded().draft)
    return inspect_file(out)


@dataclass
class _Work:
    """One call of `encode_file`."""

    pair: Pair
    codec: Codec
    drafts: Drafts
    progress: Progress
    spool: IO[bytes]
    spooled: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        contents, base = self.pair.new.contents, self.pair.base
        if self.codec.code != Lossless.code:
            contents = Contents(contents.specs, _still_true(contents.metadata))
        self.parts = sections(contents.specs, lossless=self.codec.code == Lossless.code)
        self.coded = [section for section in self.parts if not section.exact]
        self.total = self.pair.new.size_bytes
        self.head = Head(
            contents,
            None if base is None else state_digest_of(base, self.progress),
            has_error=bool(self.coded),
            has_sections=len(self.parts) > 1,
        )

    def encoded(self) -> Whole:
        """The whole frame, in a draft."""
        codec = self.codec
        if not self.coded or not isinstance(codec, Ecsq) or codec.step is not None:
            only = self.one_pass(codec, "encoding")
            if isinstance(codec, Ecsq) and codec.bytes is not None and only.size_bytes > codec.bytes:
                raise not_enough(codec.bytes, only.size_bytes, self.head.contents.size)
            return only
        for section in self.parts:
            if section.exact:  # once, whatever the number of passes
                body = self.exact(section)
                self.spool.write(body)
                self.spooled.append(len(body))
        beside = _FRAME_BYTES + len(self.head.pack()) + EMPTY_BODY_BYTES * (len(self.coded) - 1)
        beside += sum(size + len(varint.pack(size)) for size in self.spooled)
        survey = Survey.of(self.pair, self.coded, self.progress)
        passes = iter(range(1, 1000))
        return meet(
            codec,
            lambda step: self.one_pass(at_step(codec, step), f"encoding, pass {next(passes)}"),
            self.drafts.forget,
            survey,
            self.head.contents.size,
            beside,
        )

    def one_pass(self, codec: Codec, what: str) -> Whole:
        """Encodes all sections."""
        draft = self.drafts.new()
        writer = FrameWriter(draft, codec.code, self.head)
        done, lost, power = 0, 0.0, 0.0
        exact = iter(self.spooled)
        self.spool.seek(0)
        for number, section in enumerate(self.parts):
            if section.exact:
                writer.section(self.spool.read(next(exact)) if self.spooled else self.exact(section))
            else:
                body, sums = self.lossy(codec, section, number)
                writer.section(body)
                lost, power = lost + sums[0], power + sums[1]
            done += sum(map(bytes_of, section.specs))
            self.progress(what, done, self.total)
        error = None
        if self.coded:
            error = min(lost / power, _LARGEST_ERROR) if power else min(lost, _LARGEST_ERROR)
        writer.finish(error)
        return Whole(draft, writer.size_bytes, error)

    def exact(self, section: Section) -> bytes:
        """The body of an exact section."""
        new = [self.pair.new.read(spec) for spec in section.specs]
        return encode_exact(new, section.specs[0].dtype, self.pair.bases(section.specs))

    def lossy(self, codec: Codec, section: Section, number: int) -> tuple[bytes, tuple[float, float]]:
        """The body of another section, and its sums for the measured error."""
        layout = section.layout
        updates = self.pair.updates(section)
        body = codec.encode(updates, layout, Hints(seed=number))
        del updates
        decoded = codec.decode(body, layout)
        sums = [self.pair.lost(spec, array) for spec, array in zip(section.specs, decoded, strict=True)]
        return body, (sum(part[0] for part in sums), sum(part[1] for part in sums))


def _still_true(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file's metadata say whatever the values: libraries ask for the format; a digest would be wrong."""
    return {key: text for key, text in metadata.items() if owner_of(key)[1] == "format"}
