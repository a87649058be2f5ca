"""A model into a repository: coded once against the branch's head, exact from then on.

What a commit names is the *decoded* state, so whoever has the frames has the same bits. What the coding lost is
measured and written down; it is not lost to the branch: the next commit is coded against this state, so what this one
left out is part of what that one sends (a closed loop, as in video), and the error of a commit never grows with
the number of commits before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phloem.branches import chains, packs
from phloem.branches.blobs import BlobFile, blob_of
from phloem.branches.bodies import Body, Build
from phloem.branches.drafts import Draft
from phloem.branches.records import Commit, Drift
from phloem.branches.restore import Restored
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError
from phloem.files.container import FrameReader
from phloem.files.dtypes import CODED, Raw, floats
from phloem.files.encoding import encode_file
from phloem.files.sources import Tensors as Source
from phloem.files.tensorfile import Progress, TensorFile, TensorFileWriter, bytes_of, same_tensors
from phloem.tensors import TensorSpec, state_record, tensor_digest

if TYPE_CHECKING:
    from phloem.files.inspection import Inspection

LOSSLESS: Mapping[str, Any] = {"codec": "lossless"}


@dataclass(frozen=True)
class Stored:
    """What storing a state gave.

    Attributes:
        state: its id.
        drift: how far it is from the model that was given; None where nothing was lost.
        times: what restoring it costs, in times of reading it uncompressed.
        parameters: how many.
    """

    state: str
    drift: Drift | None
    times: float
    parameters: int


def store_model(
    draft: Draft,
    model: Source,
    base: Restored | None,
    coding: Mapping[str, Any],
    *,
    change_dtypes: bool = False,
    out: Path | None = None,
    progress: Progress,
) -> Stored:
    """Adds a model's state to a draft, coded against `base`; the committed state also goes to `out`, if given.

    Raises:
        ConfigError: the model has other tensors than the base, holds NaN or infinity and is not to be stored exactly,
            or the coding does not fit. FormatError, StoreError: something is damaged, or the disk failed.
    """
    scratch = draft.scratch
    if base is None:
        return _key_frame(draft, model, out, progress)
    check_same(model, base, change_dtypes=change_dtypes)
    before = scratch / "base.safetensors"
    write_state(base, before, progress)
    frame = scratch / "update.phl"
    options = dict(coding)
    lossless = options.pop("codec", "ecsq") == "lossless"
    if lossless:
        made = encode_file(model.path, frame, base=before, lossless=True, progress=progress)
    else:
        name = coding.get("codec", "ecsq")
        codec_from(
            {"codec": name, **options}
        )  # a commit may come from an enemy: a codec's own words, no others
        made = encode_file(model.path, frame, base=before, codec=name, progress=progress, **options)
    after = scratch / "state.safetensors"
    with TensorFile.open(before) as old:
        record, largest = _applied(frame, old, model, after)
    state = draft.add(packs.STATE, record)
    codec = "lossless" if lossless else "/".join(filter(None, (made.codec, made.effort)))
    size = chains.Size(model.contents.size, model.size_bytes)
    chain = list(base.chain)
    if state != base.state:  # or there is nothing new to store
        chain.append(draft.add_frame(frame, state, base.state, "file", codec))
    times = chains.times_reading(chain, size)
    if state != base.state and times > chains.most_times(chain[-1]):
        key = scratch / "key.phl"
        encode_file(after, key, lossless=True, progress=progress)
        times = chains.times_reading([draft.add_frame(key, state, None, "file", "lossless")], size)
    if out is not None:
        _copied(after, out)
    drift = None if lossless else Drift(_relative(made), largest)
    return Stored(state, drift, times, model.contents.size)


def check_same(model: Source, base: Source, *, change_dtypes: bool = False) -> None:
    """Nothing, if a model has the tensors of a base.

    Raises:
        ConfigError: a name, a shape or a type is another; it is named.
    """
    for mine, theirs in same_tensors(model, base):
        if mine.dtype != theirs.dtype and not change_dtypes:
            raise ConfigError(
                f"tensor '{mine.name}' is {mine.dtype} in {model.path} and {theirs.dtype} in {base.path}",
                hint="cast it back, or say --change-dtype if the branch is to go on in the new type",
            )


def write_state(source: Restored, path: Path, progress: Progress) -> None:
    """Writes a state to a safetensors file in the scratch directory, checked tensor by tensor."""
    done = 0
    with path.open("w+b") as file:
        writer = TensorFileWriter(file, source.contents)
        for spec, raw in source.iterate():
            writer.write(spec, raw)
            done += bytes_of(spec)
            progress(f"reading {source.path}", done, source.size_bytes)


def applied(frame: Path, base: TensorFile | None) -> Iterator[tuple[TensorSpec, Raw]]:
    """The tensors that a frame gives with its base, as `Restored` decodes them, section by section."""
    blob = blob_of(frame, frame.name)
    reader = FrameReader.open(BlobFile(blob), blob.size)  # type: ignore[arg-type]
    for place in reader.places():
        body = Body(blob, reader.codec, *place)
        build = Build()
        for spec in body.section.specs if base is not None else ():
            assert base is not None
            other = base.spec(spec.name)
            build.tensors[spec.name], build.types[spec.name] = base.read(other), other.dtype
        body.apply(build, alone=base is None)
        for spec in body.section.specs:
            yield spec, build.tensors[spec.name]


def _key_frame(draft: Draft, model: Source, out: Path | None, progress: Progress) -> Stored:
    """A model as it is."""
    frame = draft.scratch / "key.phl"
    encode_file(model.path, frame, lossless=True, progress=progress)
    rows = [(spec, tensor_digest(model.read(spec))) for spec in model.contents.specs]
    state = draft.add(packs.STATE, state_record(rows))
    encoding = draft.add_frame(frame, state, None, "file", "lossless")
    if out is not None:
        raise ConfigError("the first commit of a repository is the model itself: there is nothing to write")
    size = chains.Size(model.contents.size, model.size_bytes)
    return Stored(state, None, chains.times_reading([encoding], size), model.contents.size)


def _applied(frame: Path, old: TensorFile, model: Source, after: Path) -> tuple[bytes, float]:
    """Writes the state that a frame gives; its record, and the largest distance from the model."""
    largest, digests = 0.0, {}
    with after.open("w+b") as file:
        writer = TensorFileWriter(file, model.contents)
        for spec, raw in applied(frame, old):
            digests[spec.name] = tensor_digest(raw)
            writer.write(spec, raw)
            if spec.dtype in CODED and spec.size:
                largest = max(largest, _distance(raw, model.read(spec), spec))
    return state_record((spec, digests[spec.name]) for spec in model.contents.specs), largest


def _distance(raw: Raw, wanted: Raw, spec: TensorSpec) -> float:
    mine, theirs = floats(raw, spec.dtype), floats(wanted, spec.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(mine - theirs)
    if not np.isfinite(mine).all() and np.isfinite(theirs).all():
        raise ConfigError(
            f"tensor '{spec.name}' would leave float32's range", hint="commit it with --lossless"
        )
    return float(np.nanmax(distance, initial=0.0)) if np.isfinite(theirs).all() else 0.0


def _relative(made: Inspection) -> float:
    return float(np.sqrt(made.nmse or 0.0))


def _copied(source: Path, out: Path) -> None:
    from phloem.files.drafts import Drafts

    with Drafts(out) as drafts, source.open("rb") as file:
        draft = drafts.new()
        while piece := file.read(1 << 20):
            draft.write(piece)
        drafts.finish(draft)


def commit_of(stored: Stored, coding: Mapping[str, Any], **said: Any) -> Commit:
    """The commit of a state that was stored."""
    exact = stored.drift is None
    return Commit(state=stored.state, coding={} if exact else coding, drift=stored.drift, **said)
