"""Models written as users have them: to a safetensors file, or to a directory that Hugging Face's libraries load.

Tensors are written in the order in which they come, each to its place, so that memory is bounded by the largest.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem import canonical
from phloem.errors import ConfigError, FormatError
from phloem.files.adapters import owner_of, split
from phloem.files.casting import cast, type_of
from phloem.files.companions import check
from phloem.files.drafts import Drafts, in_words
from phloem.files.dtypes import CODED, Raw
from phloem.files.modeldir import FolderDraft
from phloem.files.plans import plan_of
from phloem.files.sources import Stream, Tensors, matching, shown
from phloem.files.tensorfile import Progress, TensorFileWriter, bytes_of, silent
from phloem.store.files import sync
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents

_SUFFIX = ".safetensors"
_RESERVED = "__metadata__"  # of the format


@dataclass(frozen=True)
class Written:
    """What `write_model` wrote.

    Attributes:
        path: the file or the directory.
        files: the files with tensors: their names in the directory, or that of the file.
        tensors, parameters, bytes: how many; the bytes are those of the files with tensors.
        beyond: how many values a narrower type could not hold, so that they became its largest finite value.
    """

    path: str
    files: tuple[str, ...]
    tensors: int
    parameters: int
    bytes: int
    beyond: int

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's own types."""
        plain: dict[str, Any] = canonical.plain(self)
        return plain


def write_model(
    source: Tensors | Stream,
    out: str | Path,
    *,
    only: str | None = None,
    dtype: str | None = None,
    adapters: bool = True,
    shard_bytes: int | None = None,
    companions: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> Written:
    """Writes tensors as a model, and gives back what was written. The model appears once it is whole.

    A path that ends in `.safetensors` is a file, and takes the place of one that is there. Any other, one that ends
    in a slash, and a directory that is there already are a directory: `model.safetensors`, or shards and their index,
    and beside them the companions and a directory for each adapter.

    Args:
        source: tensors to read, or a stream that gives each of them once, in any order.
        out: where the model goes.
        only: a regular expression; tensors in whose names it is not found are left out.
        dtype: "bf16", "fp16" or "fp32", which tensors of a float type (float64, float32, float16, bfloat16) become.
        adapters: whether tensors "adapter:NAME/…" are written: to a file under these names, in a directory to
            `NAME/adapter_model.safetensors` under their own.
        shard_bytes: no shard of a directory has more bytes of tensors, unless it is a single tensor.
        companions: what `companions` found, for a directory; a file has none.
        metadata: what the files say of themselves, those of an adapter as "adapter:NAME/…". By default what the
            source says; where tensors are left out or change their type only the "format", which older versions of
            transformers ask for.
        replace: a directory that holds a model, and nothing else, may give way to this one.
        progress: told what is being done, and how far it is.

    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from phloem.files.models import open_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_file({"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}, folder / "m.safetensors")
    >>> with open_model(folder / "m.safetensors") as model:
    ...     made = write_model(model, folder / "m", dtype="fp16", shard_bytes=8)
    >>> made.files, made.beyond
    (('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'), 0)

    Raises:
        ConfigError: an argument means nothing, or `out` may not be written. FormatError: the source is damaged, or
            gives other tensors than it said. StoreError: the disk failed.
    """
    chosen = _chosen(source.contents, only, dtype, adapters=adapters, metadata=metadata)
    check(companions or {})
    path, ends = Path(out), str(out)[-1:]
    if path.suffix != _SUFFIX or ends in ("/", os.sep) or path.is_dir():
        plan = plan_of(split(chosen), companions or {}, shard_bytes)
        with FolderDraft(path, replace=replace) as folder, in_words(path):
            places: _Places = {}
            for name, target in plan.targets.items():
                writer = TensorFileWriter(folder.new(name), target.contents)
                places |= {n: (writer, s) for n, s in zip(target.names, target.contents.specs, strict=True)}
            beyond = _fill(source, places, progress)
            for name, data in plan.beside.items():
                folder.new(name).write(data)
            folder.finish()
        files = {name: path / name for name in plan.targets}
    elif shard_bytes is not None:
        raise ConfigError("shard_bytes: a file has no shards", hint=f"name a directory, without {_SUFFIX}")
    else:
        with Drafts(path) as drafts, in_words(path):
            draft = drafts.new()
            writer = TensorFileWriter(draft, chosen)
            beyond = _fill(source, {spec.name: (writer, spec) for spec in chosen.specs}, progress)
            drafts.finish(draft)
            sync(Path(os.path.realpath(path)).parent)
        files = {path.name: path}
    size = sum(file.stat().st_size for file in files.values())
    return Written(str(out), tuple(files), len(chosen.specs), chosen.size, size, beyond)


#: Where each tensor of the source goes, and what it is there.
_Places = dict[str, tuple[TensorFileWriter, TensorSpec]]


def _chosen(
    contents: Contents,
    only: str | None,
    dtype: str | None,
    *,
    adapters: bool,
    metadata: Mapping[str, str] | None,
) -> Contents:
    """What is written: tensors by the source's names, in the types that they get, and metadata."""
    kept = contents if only is None else matching(contents, only)
    specs = [spec for spec in kept.specs if adapters or not owner_of(spec.name)[0]]
    if not specs:
        raise ConfigError(
            "nothing is left to write: all tensors are those of adapters", hint="take adapters too"
        )
    for spec in specs:
        if owner_of(spec.name)[1] == _RESERVED:
            raise ConfigError(f"no safetensors file can hold a tensor '{spec.name}', a name that it reserves")
    if dtype is not None:
        to = type_of(dtype)
        specs = [dataclasses.replace(spec, dtype=to) if spec.dtype in CODED else spec for spec in specs]
    if metadata is None:
        owners = {owner_of(spec.name)[0] for spec in specs}
        changed = {owner_of(spec.name)[0] for spec in set(contents.specs) - set(specs)}
        metadata = {
            key: text
            for key, text in contents.metadata.items()
            for owner, own in (owner_of(key),)
            if owner in owners and (owner not in changed or own == "format")
        }
    return Contents(tuple(specs), dict(metadata))


def _fill(source: Tensors | Stream, places: _Places, progress: Progress) -> int:
    """Writes every tensor to its place, and counts the values that its type there could not hold."""
    left = {spec.name: spec for spec in source.contents.specs if spec.name in places}
    done, total, beyond = 0, sum(map(bytes_of, left.values())), 0
    for spec, raw in _given(source, left):
        if spec.name not in places:
            continue
        if left.pop(spec.name, None) != spec or raw.size != bytes_of(spec):
            raise FormatError(f"tensor '{shown(spec.name)}' came twice, or is not what the source said of it")
        writer, wanted = places[spec.name]
        if wanted.dtype != spec.dtype:
            raw, more = cast(raw, spec.dtype, wanted.dtype)
            beyond += more
        writer.write(wanted, raw)
        del raw  # before the next one is read
        done += bytes_of(spec)
        progress("writing", done, total)
    if left:
        raise FormatError(f"tensor '{shown(min(left))}' did not come, which the source said it has")
    return beyond


def _given(source: Tensors | Stream, wanted: Mapping[str, TensorSpec]) -> Iterator[tuple[TensorSpec, Raw]]:
    """The wanted tensors, in the source's own order if it has one."""
    if isinstance(source, Stream):
        all_of_them = len(wanted) == len(source.contents.specs)
        yield from source.iterate(None if all_of_them else set(wanted))
    else:
        for spec in list(wanted.values()):
            yield spec, source.read(spec)
