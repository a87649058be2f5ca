"""Adapters beside a base model: the tensors of adapter NAME are the base's extra tensors "adapter:NAME/…".

Torch names parameters by attributes joined with dots, so no model has such names by chance; an adapter is refused where
the base has tensors of one of that name. An adapter's metadata come along in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.errors import ConfigError
from phloem.files.dtypes import Raw
from phloem.files.folders import file_in
from phloem.files.sources import Tensors
from phloem.files.tensorfile import TensorFile, bytes_of
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents

#: The files of an adapter, as PEFT writes them.
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PICKLE = "adapter_model.bin"
#: Who owns the tensors that belong to no adapter.
BASE = ""
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"  # also the name of a directory
_EXTRA = re.compile(rf"adapter:({_NAME})/(.+)", re.DOTALL)


def extra_name(adapter: str, name: str) -> str:
    """What a tensor of an adapter is called beside its base.

    >>> extra_name("french", "layers.0.lora_A.weight")
    'adapter:french/layers.0.lora_A.weight'
    """
    return f"adapter:{adapter}/{name}"


def owner_of(name: str) -> tuple[str, str]:
    """The adapter that a tensor belongs to, and its name there; `BASE` and the very name for any other.

    >>> owner_of("adapter:french/layers.0.lora_A.weight"), owner_of("layers.0.weight")
    (('french', 'layers.0.lora_A.weight'), ('', 'layers.0.weight'))
    """
    found = _EXTRA.fullmatch(name)
    return (found[1], found[2]) if found else (BASE, name)


def split(contents: Contents) -> dict[str, Contents]:
    """What belongs to the base and to each adapter, under the names that tensors have there; the base first."""
    specs: dict[str, list[TensorSpec]] = {}
    texts: dict[str, dict[str, str]] = {}
    for spec in contents.specs:
        owner, name = owner_of(spec.name)
        specs.setdefault(owner, []).append(TensorSpec(name, spec.shape, spec.dtype))
    for key, text in contents.metadata.items():
        owner, name = owner_of(key)
        texts.setdefault(owner, {})[name] = text
    return {owner: Contents(tuple(specs[owner]), texts.get(owner, {})) for owner in sorted(specs)}


def open_adapter(name: str, folder: Path) -> TensorFile:
    """The weights in an adapter's directory.

    Raises:
        ConfigError: the name or the directory is none of an adapter. FormatError: its file is damaged.
    """
    if not re.fullmatch(_NAME, name):
        raise ConfigError(
            f"an adapter's name has up to 64 letters, digits and _ . - and begins with no sign, found '{name:.80}'"
        )
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no directory, so it holds no adapter", hint=f"name the one with {WEIGHTS} in it"
        )
    weights = file_in(folder, WEIGHTS)
    if weights is None and file_in(folder, _PICKLE) is not None:
        return TensorFile.open(folder / _PICKLE)  # which says how it is converted
    for path, needed in ((weights, WEIGHTS), (file_in(folder, CONFIG), CONFIG)):
        if path is None:
            raise ConfigError(
                f"{folder} has no {needed}, so it holds no adapter", hint=f"it has {WEIGHTS} and {CONFIG}"
            )
    return TensorFile.open(folder / WEIGHTS)


@dataclass
class Joined:
    """A base and its adapters as one source of tensors.

    Attributes:
        path: the base's.
        contents: the base's tensors, and those of adapters by their extra names.
    """

    path: Path
    contents: Contents
    _parts: tuple[Tensors, ...] = field(repr=False)
    _owners: dict[str, tuple[Tensors, TensorSpec]] = field(repr=False)

    @classmethod
    def of(cls, base: Tensors, adapters: Mapping[str, Tensors]) -> Self:
        """Open parts together; closing this closes them.

        Raises:
            ConfigError: the base has tensors of an adapter of that name already.
        """
        owners = {spec.name: (base, spec) for spec in base.contents.specs}
        metadata, taken = dict(base.contents.metadata), {owner_of(name)[0] for name in owners}
        for name, adapter in adapters.items():
            if name in taken:
                raise ConfigError(
                    f"{base.path} has tensors of an adapter '{name}' already",
                    hint="give the other another name",
                )
            for spec in adapter.contents.specs:
                owners[extra_name(name, spec.name)] = adapter, spec
            metadata |= {extra_name(name, key): text for key, text in adapter.contents.metadata.items()}
        specs = (TensorSpec(name, spec.shape, spec.dtype) for name, (_, spec) in sorted(owners.items()))
        return cls(base.path, Contents(tuple(specs), metadata), (base, *adapters.values()), owners)

    @property
    def size_bytes(self) -> int:
        """The size of all tensors."""
        return sum(bytes_of(spec) for spec in self.contents.specs)

    def spec(self, name: str) -> TensorSpec:
        """The tensor of this name, which must be there."""
        spec = self._owners[name][1]
        return TensorSpec(name, spec.shape, spec.dtype)

    def read(self, spec: TensorSpec) -> Raw:
        """The bytes of one tensor. Shape: (size,)."""
        part, own = self._owners[spec.name]
        return part.read(own)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._parts:
            part.__exit__(kind, error, trace)
