"""Tiles: a log as files that never change, each with 256 hashes or entries.

Source: c2sp.org/tlog-tiles.

    checkpoint                   the newest signed checkpoint, the only file that changes
    tile/LEVEL/N[.p/WIDTH]       up to 256 hashes, each of a complete subtree of 256^LEVEL entries
    tile/entries/N[.p/WIDTH]     up to 256 entries, each after its length in two bytes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from phloem.errors import FormatError, ProofError
from phloem.tlog.merkle import HASH_BYTES, LARGEST_SIZE, Node, ReadHashes, node_hash, tree_hash

WIDTH = 256
HEIGHT = 8
LARGEST_ENTRY = (1 << 16) - 1
CHECKPOINT = "checkpoint"
_HIGHEST = 63
_PATH = re.compile(r"tile/(entries|\d{1,2})/((?:x\d{3}/)*\d{3})(?:\.p/(\d{1,3}))?")

ReadFile = Callable[[str], bytes]
"""Gives the content of a file of the log by its path."""


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One file of hashes, or of entries where `level` is None; `width` of them."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Where the file lies.

        >>> Tile(1, 1234067).path, Tile(None, 0, 3).path
        ('tile/1/x001/x234/067', 'tile/entries/000.p/3')
        """
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
        where = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        kind = "entries" if self.level is None else str(self.level)
        return f"tile/{kind}/{where}" + ("" if self.width == WIDTH else f".p/{self.width}")

    @classmethod
    def parse(cls, path: str) -> Tile:
        """The tile at a path.

        Raises:
            FormatError: no tile lies there.
        """
        found = _PATH.fullmatch(path)
        if found is not None and path.isascii() and len(found[2]) < 40:
            level = None if found[1] == "entries" else int(found[1])
            width = WIDTH if found[3] is None else int(found[3])
            tile = cls(level, int(found[2].replace("x", "").replace("/", "")), width)
            if 1 <= width <= WIDTH and (level or 0) <= _HIGHEST and tile.path == path:
                return tile
        raise FormatError(f"expected the path of a tile, found {path!r:.120}")


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """Every tile and bundle of a log of `size` entries that one of `since` entries does not have yet."""
    level = 0
    while size >> HEIGHT * level:
        now, before = size >> HEIGHT * level, since >> HEIGHT * level
        for index in range(before // WIDTH, -(-now // WIDTH)):
            width = min(WIDTH, now - index * WIDTH)
            if now > before:
                yield Tile(level, index, width)
                if level == 0:
                    yield Tile(None, index, width)
        level += 1


def nodes_of(tile: Tile) -> list[Node]:
    """The nodes whose hashes a tile has, in their order."""
    assert tile.level is not None
    start = tile.index * WIDTH
    return [Node(HEIGHT * tile.level, start + place) for place in range(tile.width)]


def hashes_in(tile: Tile, content: bytes) -> list[bytes]:
    """The hashes in a tile's file.

    Raises:
        FormatError: it is of another size.
    """
    if len(content) != tile.width * HASH_BYTES:
        raise FormatError(f"{tile.path} has {len(content)} bytes, expected {tile.width * HASH_BYTES}")
    return [content[place : place + HASH_BYTES] for place in range(0, len(content), HASH_BYTES)]


def pack_bundle(entries: Sequence[bytes]) -> bytes:
    """The content of a file of entries.

    Raises:
        FormatError: an entry is longer than 65,535 bytes.
    """
    for entry in entries:
        if len(entry) > LARGEST_ENTRY:
            raise FormatError(f"an entry of {len(entry)} bytes is longer than {LARGEST_ENTRY}")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def entries_in(tile: Tile, content: bytes) -> list[bytes]:
    """The entries in a file of them.

    Raises:
        FormatError: it ends inside an entry, or holds more or fewer than `tile.width`.
    """
    entries: list[bytes] = []
    place = 0
    while place < len(content) and len(entries) <= tile.width:
        size = int.from_bytes(content[place : place + 2], "big")
        entry = content[place + 2 : place + 2 + size]
        if place + 2 > len(content) or len(entry) != size:
            raise FormatError(f"{tile.path} ends inside an entry")
        entries.append(entry)
        place += 2 + size
    if place != len(content) or len(entries) != tile.width:
        raise FormatError(f"{tile.path} does not hold {tile.width} entries")
    return entries


class TileReader:
    """Reads the nodes of a log of `size` entries from its tiles, each of which is fetched once.

    The hashes are whatever the files say: `check` compares them with a root.
    """

    def __init__(self, size: int, read: ReadFile) -> None:
        if not 0 <= size <= LARGEST_SIZE:
            raise FormatError(f"a log of {size} entries is larger than any")
        self.size, self._read = size, read
        self._tiles: dict[Tile, list[bytes]] = {}

    def __call__(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of these nodes."""
        return [self._node(node) for node in nodes]

    def check(self, root: bytes) -> None:
        """Nothing, if the tiles that the right edge is made of give this root.

        Raises:
            ProofError: they give another.
        """
        if tree_hash(self.size, self) != root:
            raise ProofError(f"the tiles of {self.size} entries do not give the checkpoint's root")

    def _node(self, node: Node) -> bytes:
        level, above = divmod(node.level, HEIGHT)
        first = node.number << above
        hashes = self._tile(level, first // WIDTH)[first % WIDTH :][: 1 << above]
        while len(hashes) > 1:
            hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    def _tile(self, level: int, index: int) -> list[bytes]:
        width = min(WIDTH, (self.size >> HEIGHT * level) - index * WIDTH)
        tile = Tile(level, index, width)
        if tile not in self._tiles:
            self._tiles[tile] = hashes_in(tile, self._read(tile.path))
        return self._tiles[tile]


def pack_tile(tile: Tile, read: ReadHashes) -> bytes:
    """The content of a tile of hashes, made from nodes."""
    return b"".join(read(nodes_of(tile)))
