"""Models as users have them: a safetensors file, or a directory as Hugging Face's libraries write it.

A directory holds `model.safetensors`, or shards and an index of them, `model.safetensors.index.json`:

    {"metadata": {"total_size": 123}, "weight_map": {"layers.0.weight": "model-00001-of-00002.safetensors", …}}

Index and shards must agree. Where they do not, libraries take different tensors (transformers and vLLM all that lie in
a shard, others only what the index names there), so nobody knows which model that is.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phloem.canonical import shallow
from phloem.errors import ConfigError, FormatError, StoreError
from phloem.files.adapters import WEIGHTS as ADAPTER
from phloem.files.adapters import Joined, open_adapter
from phloem.files.dtypes import Raw
from phloem.files.folders import file_in, names_in, read_at_most
from phloem.files.sources import Tensors, shown
from phloem.files.tensorfile import TensorFile, bytes_of
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents

#: The names that transformers looks for.
SUFFIX = ".safetensors"
SINGLE, INDEX = f"model{SUFFIX}", f"model{SUFFIX}.index.json"
LARGEST_INDEX_BYTES = 64 << 20  # half a million tensors
_MOST_OPEN = 8  # shards
_AGAIN = "libraries differ in what they take then: write the index again, from the shards"
_CONVERT = (
    "python -c \"import glob, json, torch; from safetensors.torch import save_file; d = '{0}/'; m = {{}}; "
    "[(t := torch.load(p, weights_only=True), n := 'model' + p[len(d) + 13:-3] + 'safetensors', "
    "save_file({{k: v.clone().contiguous() for k, v in t.items()}}, d + n, {{'format': 'pt'}}), "
    "m.update(dict.fromkeys(t, n))) for p in sorted(glob.glob(d + 'pytorch_model*.bin'))]; "
    "json.dump({{'metadata': {{}}, 'weight_map': m}}, open(d + 'model.safetensors.index.json', 'w'))\""
)


def open_model(path: str | Path, adapters: Mapping[str, str | Path] | None = None) -> Tensors:
    """The tensors of a safetensors file or of a model's directory, to be used in a `with` statement.

    Memory is bounded by the largest tensor that is read, and few files are open at a time.

    Args:
        path: the file or the directory.
        adapters: directories of LoRA adapters by name. Their tensors come along as "adapter:NAME/…".

    Raises:
        ConfigError: there is no such model, or an adapter's name is taken. FormatError: a file is damaged, or the
            directory's index and its shards contradict each other.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        model: Tensors = stack.enter_context(_open_folder(path) if path.is_dir() else TensorFile.open(path))
        if adapters:
            opened = {
                name: stack.enter_context(open_adapter(name, Path(folder)))
                for name, folder in adapters.items()
            }
            model = Joined.of(model, opened)
        stack.pop_all()  # whoever called closes them
    return model


@dataclass
class Shards:
    """The open tensors of a directory with an index; few of its files are open at any time.

    Attributes:
        path: the directory.
        contents: the tensors of all shards, and the metadata that these have alike.
    """

    path: Path
    contents: Contents
    _specs: dict[str, TensorSpec] = field(repr=False)
    _owners: dict[str, Path] = field(repr=False)
    _stamps: dict[Path, tuple[int, ...]] = field(repr=False)
    _open: dict[Path, TensorFile] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path, named: Mapping[str, str]) -> Self:
        """The model in a directory whose index names these shards by tensor.

        Raises:
            ConfigError: a shard is no file of that directory. FormatError: a file is damaged, or they contradict
                the index or each other.
        """
        specs: dict[str, TensorSpec] = {}
        owners: dict[str, Path] = {}
        stamps: dict[Path, tuple[int, ...]] = {}
        metadata: list[Mapping[str, str]] = []
        for shard in sorted(set(named.values())):
            path = file_in(folder, shard)
            if path is None:
                raise FormatError(
                    f"{folder} has no file '{shard}', which its index names",
                    hint="was the model copied or downloaded to its end?",
                )
            stamps[path] = _stamp(path)
            with TensorFile.open(path) as file:
                for spec in file.contents.specs:
                    _check(spec.name, path, named.get(spec.name), owners.get(spec.name))
                    specs[spec.name], owners[spec.name] = spec, path
                metadata.append(file.contents.metadata)
        for name, shard in named.items():
            if name not in owners:
                raise FormatError(
                    f"the index of {folder} says that tensor '{shown(name)}' lies in {shard}, which has none",
                    hint=_AGAIN,
                )
        alike = {key: text for key, text in metadata[0].items() if all(m.get(key) == text for m in metadata)}
        ordered = tuple(spec for _, spec in sorted(specs.items()))
        return cls(folder, Contents(ordered, alike), specs, owners, stamps)

    @property
    def size_bytes(self) -> int:
        """The size of all tensors."""
        return sum(bytes_of(spec) for spec in self.contents.specs)

    def spec(self, name: str) -> TensorSpec:
        """The tensor of this name, which must be there."""
        return self._specs[name]

    def read(self, spec: TensorSpec) -> Raw:
        """The bytes of one tensor. Shape: (size,).

        Raises:
            StoreError: the disk fails, or a file is another now.
        """
        return self._file(self._owners[spec.name]).read(spec)

    def _file(self, path: Path) -> TensorFile:
        """The shard, opened again if it is none of those used last."""
        file = self._open.pop(path, None)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                self._forget(next(iter(self._open)))
            file = TensorFile.open(path)
            if _stamp(path) != self._stamps[path]:
                file.__exit__(None, None, None)
                raise StoreError(f"{path} was written to while the model was read")
        self._open[path] = file
        return file

    def _forget(self, path: Path) -> None:
        self._open.pop(path).__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in list(self._open):
            self._forget(path)


def _open_folder(folder: Path) -> Tensors:
    """The model in a directory."""
    index, single = file_in(folder, INDEX), file_in(folder, SINGLE)
    if index is None:
        if single is None:
            raise _no_model(folder)
        return TensorFile.open(single)
    named = _read_index(index)
    if single is not None and SINGLE not in named.values():
        raise ConfigError(
            f"{folder} holds {SINGLE} and an index of other files, which may be two models",
            hint=f"name {single} itself, or move one of both away",
        )
    return Shards.open(folder, named)


def _read_index(path: Path) -> dict[str, str]:
    """Which file each tensor lies in, as an index says."""
    data = read_at_most(path, LARGEST_INDEX_BYTES)
    if data is None:
        raise FormatError(f"{path} has more than {LARGEST_INDEX_BYTES >> 20} MiB, which no index needs")
    try:
        index = json.loads(shallow(data).decode(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not the JSON of an index: {error}") from error
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise FormatError(f"expected {path} to have a 'weight_map' from tensors to files")
    for file in set(named.values()):
        if not file.endswith(SUFFIX) or len(file) > 255 or not file.isprintable() or set(file) & set("/\\"):
            raise FormatError(
                f"{path} names '{shown(file)}', where the name of a {SUFFIX} file of that very directory belongs"
            )
    return named


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Libraries keep the last of several, or the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = collections.Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has '{shown(twice)}' twice")
    return found


def _check(name: str, path: Path, named: str | None, earlier: Path | None) -> None:
    """Refuses a tensor of a shard that the index, or another shard, contradicts."""
    if earlier is not None:
        said = f"tensor '{shown(name)}' lies in {earlier.name} and again in {path}"
    elif named is None:
        said = f"{path} holds a tensor '{shown(name)}' that its index does not name"
    elif named != path.name:
        said = f"tensor '{shown(name)}' lies in {path}, and its index says {named}"
    else:
        return
    raise FormatError(said, hint=_AGAIN)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to or replaced."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _no_model(folder: Path) -> ConfigError:
    """What to say of a directory without weights that we read."""
    names = names_in(folder)
    pickles = [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]
    others = [name for name in names if name.endswith(SUFFIX)]
    if pickles:
        return ConfigError(
            f"the weights in {folder} are pickles ({shown(pickles[0])}), and reading one may run its sender's code",
            hint=f"convert them once: {_CONVERT.format(folder)}",
        )
    if ADAPTER in others:
        return ConfigError(
            f"{folder} holds an adapter and no model",
            hint=f"give it beside its base model, or name {folder / ADAPTER} itself",
        )
    found = f"found {', '.join(map(shown, others[:3]))}" if others else f"found no {SUFFIX} file"
    hint = f"name a file, such as {folder / shown(others[0])}" if others else None
    return ConfigError(f"expected {SINGLE} or {INDEX} in {folder}, {found}", hint=hint)
