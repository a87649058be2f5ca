"""Which files a model's directory has, and which tensors lie in which."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from phloem.errors import ConfigError
from phloem.files.adapters import BASE, CONFIG, WEIGHTS, extra_name, owner_of
from phloem.files.models import INDEX, SINGLE
from phloem.files.tensorfile import bytes_of
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents

_MOST_SHARDS = 99_999  # their names have five digits


@dataclass(frozen=True)
class Target:
    """A file with tensors.

    Attributes:
        contents: what is in it.
        names: what the source calls these tensors.
    """

    contents: Contents
    names: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The files of a directory by name; those of adapters are "NAME/…".

    Attributes:
        targets: the files with tensors.
        beside: what the others hold.
    """

    targets: Mapping[str, Target]
    beside: Mapping[str, bytes]


def plan_of(parts: Mapping[str, Contents], companions: Mapping[str, bytes], shard_bytes: int | None) -> Plan:
    """The plan for what belongs to the base and to each adapter, with the companions of these.

    Raises:
        ConfigError: shards of that size cannot be, an adapter's name is that of a file, or its configuration is
            missing.
    """
    targets: dict[str, Target] = {}
    beside: dict[str, bytes] = {}
    for owner, contents in parts.items():
        if owner == BASE:
            targets |= _shards(contents, shard_bytes)
        else:
            names = tuple(extra_name(owner, spec.name) for spec in contents.specs)
            targets[f"{owner}/{WEIGHTS}"] = Target(contents, names)
    for name, data in companions.items():
        owner, own = owner_of(name)
        if owner in parts:
            beside[own if owner == BASE else f"{owner}/{own}"] = data
    if len(targets) > len(parts):
        beside[INDEX] = index_of(targets)
    for owner in parts:
        if owner != BASE and f"{owner}/{CONFIG}" not in beside:
            raise ConfigError(
                f"the adapter '{owner}' comes without its {CONFIG}, and nothing loads it without",
                hint=f"give it as the companion '{extra_name(owner, CONFIG)}', or leave adapters out",
            )
    _refuse_same_names({name for name in (*targets, *beside) if "/" not in name}, parts)
    return Plan(targets, beside)


def index_of(targets: Mapping[str, Target]) -> bytes:
    """The index of the base's shards among these files, as transformers writes it."""
    shards = {name: target.contents for name, target in targets.items() if "/" not in name}
    total = sum(bytes_of(spec) for contents in shards.values() for spec in contents.specs)
    where = {spec.name: name for name, contents in shards.items() for spec in contents.specs}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _shards(contents: Contents, shard_bytes: int | None) -> dict[str, Target]:
    """The base's files: one, or as many as are needed."""
    if shard_bytes is not None and shard_bytes < 1:
        raise ConfigError(f"shard_bytes: expected a number of bytes, found {shard_bytes}")
    groups = list(_groups(contents.specs, shard_bytes))
    if len(groups) > _MOST_SHARDS:
        raise ConfigError(
            f"shard_bytes: {shard_bytes} bytes make {len(groups)} shards, more than {_MOST_SHARDS}"
        )
    found = {}
    for number, specs in enumerate(groups, 1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        found[name] = Target(Contents(specs, contents.metadata), tuple(spec.name for spec in specs))
    return found


def _groups(specs: Sequence[TensorSpec], most: int | None) -> Iterator[tuple[TensorSpec, ...]]:
    """Stretches of tensors that have at most so many bytes, or are a single one."""
    group: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if group and most is not None and size + bytes_of(spec) > most:
            yield tuple(group)
            group, size = [], 0
        group.append(spec)
        size += bytes_of(spec)
    yield tuple(group)


def _refuse_same_names(files: Collection[str], owners: Iterable[str]) -> None:
    """Refuses an adapter whose directory some file system would take for a file or for another adapter's."""
    seen = {name.casefold() for name in files}
    for owner in owners:
        if owner.casefold() in seen:
            raise ConfigError(
                f"the adapter '{owner}' would be in the way of a file or an adapter of that name",
                hint="give it another name",
            )
        seen.add(owner.casefold())
