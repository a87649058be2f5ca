"""The source text of Python's own standard library, as installed, dealt to sites by package.

Nothing is downloaded. The text differs a little between Python releases, so the digest is part of a run's
record.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError

Bytes = npt.NDArray[np.uint8]

LEFT_OUT = frozenset(
    (
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "pydoc_data",
        "encodings",
    )
)
"""Folders that are not the library's own code: installed packages, tests, demos, generated tables."""

MADE_BY_THE_BUILD = "_sysconfigdata"
"""Files that start so list the paths of the machine that built Python: private, and different everywhere."""


@dataclass(frozen=True)
class SourceFile:
    """One file's path under the library, with forward slashes, and its text."""

    path: str
    text: bytes

    @property
    def package(self) -> str:
        """The top-level package or module that the file belongs to."""
        return PurePosixPath(self.path).parts[0].removesuffix(".py")


def standard_library() -> list[SourceFile]:
    """The library's source files in order of path, line ends as one newline.

    Raises:
        ConfigError: this Python comes without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if LEFT_OUT.isdisjoint(parts) and "-" not in parts[0] and not path.name.startswith(MADE_BY_THE_BUILD):
            text = path.read_bytes().replace(b"\r\n", b"\n")
            if text:
                files.append(SourceFile("/".join(parts), text))
    if sum(len(file.text) for file in files) < 1_000_000:
        raise ConfigError(
            f"Python's library at '{root}' has no source files", hint="use a Python that ships them"
        )
    return sorted(files, key=lambda file: file.path)


def digest(files: Sequence[SourceFile]) -> str:
    """SHA-256 over every path and text, each with its length before it, in hexadecimal."""
    total = hashlib.sha256()
    for file in files:
        for piece in (file.path.encode(), file.text):
            total.update(len(piece).to_bytes(8, "little") + piece)
    return total.hexdigest()


def by_package(files: Sequence[SourceFile], sites: Sequence[str]) -> dict[str, list[SourceFile]]:
    """Each site's files: whole packages, the largest first to the site that has the least text so far.

    Raises:
        ConfigError: there are more sites than packages.
    """
    packages: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        packages[file.package].append(file)
    if len(sites) > len(packages):
        raise ConfigError(
            f"{len(packages)} packages cannot be dealt to {len(sites)} sites", hint="name fewer sites"
        )
    sizes = {name: sum(len(file.text) for file in held) for name, held in packages.items()}
    dealt: dict[str, list[SourceFile]] = {site: [] for site in sites}
    loads = dict.fromkeys(sites, 0)
    for name in sorted(packages, key=lambda name: (-sizes[name], name)):
        site = min(sites, key=lambda site: loads[site])  # ties to the first listed
        dealt[site] += packages[name]
        loads[site] += sizes[name]
    return {site: sorted(held, key=lambda file: file.path) for site, held in dealt.items()}


def split_files(
    files: Sequence[SourceFile], share: float, rng: np.random.Generator
) -> tuple[list[SourceFile], list[SourceFile], list[SourceFile]]:
    """Training, stopping and test files: random files until each held-out part has `share` of the bytes."""
    wanted = share * sum(len(file.text) for file in files)
    held: tuple[list[SourceFile], list[SourceFile]] = ([], [])
    order = [files[i] for i in rng.permutation(len(files))]
    for part in held:
        while order and sum(len(file.text) for file in part) < wanted:
            part.append(order.pop())
    return order, held[0], held[1]


def joined(files: Sequence[SourceFile]) -> Bytes:
    """All text in one array, a zero byte between files."""
    return np.frombuffer(b"\0".join(file.text for file in files), np.uint8)


def blocks(text: Bytes, length: int, count: int) -> Bytes:
    """`count` evenly spaced blocks of `length` bytes, (count, length); they overlap in a short text.

    Raises:
        ConfigError: the text is shorter than one block.
    """
    if len(text) < length:
        raise ConfigError(
            f"{len(text)} bytes of held-out text are less than a block of {length}", hint="fewer sites"
        )
    starts = np.linspace(0, len(text) - length, count).astype(np.int64)
    chosen: Bytes = text[starts[:, None] + np.arange(length)]
    return chosen
