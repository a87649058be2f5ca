"""An exported log as its reader sees it: nothing is handed out that the checkpoint does not vouch for.

A tile that is full must have the hash that stands for it in the tile above, which was checked before; those that are
not full must give the checkpoint's root together. Entries must have the hashes in their tile. So the files may come
from anybody. Whom the checkpoint itself comes from is for a policy to say: `policy.check(Exported(files).note)`.

Source: c2sp.org/tlog-tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from phloem.errors import FormatError, NotFoundError, ProofError
from phloem.ledger.export import Files
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.merkle import Node, leaf_hash, node_hash, prove_inclusion
from phloem.tlog.note import Note
from phloem.tlog.proof import Receipt
from phloem.tlog.tiles import CHECKPOINT, HEIGHT, WIDTH, Tile, TileReader, entries_in, hashes_in

_MOST_TILES = 1 << 10  # in memory
_GZIP = b"\x1f\x8b"


class Exported:
    """The log in `files`, as its newest checkpoint has it, or as `note` has it, an earlier one.

    `note` is the checkpoint, signed by whomever; `checkpoint` is what it says.
    """

    def __init__(self, files: Files, note: bytes | None = None) -> None:
        """Reads the checkpoint and nothing else.

        Raises:
            NotFoundError: there is none. FormatError: it is none. StoreError: it cannot be read.
        """
        found = files.get(CHECKPOINT) if note is None else note
        if found is None:
            raise NotFoundError(f"there is no file '{CHECKPOINT}'", hint="is this an exported log?")
        self.note = found
        self.checkpoint = Checkpoint.unpack(Note.unpack(found).text)
        self._files = files
        self._tiles: TileReader | None = None
        self._fetched = 0
        self._bundle: tuple[int, list[bytes]] = (-1, [])  # the last one

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.checkpoint.origin

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.checkpoint.size

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of these nodes (`phloem.tlog.merkle.ReadHashes`).

        Raises:
            NotFoundError: the checkpoint does not cover one, or a file is missing.
            FormatError: a file is no tile. ProofError: it is not one of this checkpoint's tree.
        """
        for level, number in nodes:
            self._check_covered(number << level, (number + 1) << level)
        return self._checked_tiles()(nodes)

    def entries(self, start: int, end: int) -> list[bytes]:
        """The entries from `start` to before `end`.

        Raises:
            NotFoundError: the checkpoint does not cover them, or a file is missing.
            FormatError: a file is no tile or bundle. ProofError: it is not one of this checkpoint's tree.
        """
        if start >= end:
            return []
        self._check_covered(start, end)
        entries: list[bytes] = []
        for index in range(start // WIDTH, -(-end // WIDTH)):
            first = index * WIDTH
            entries += self._entries_of(index)[max(start - first, 0) : end - first]
        return entries

    def receipt(self, index: int) -> Receipt:
        """That the checkpoint has the entry at `index`.

        Raises:
            What `read` raises.
        """
        self._check_covered(index, index + 1)
        return Receipt(index, tuple(prove_inclusion(index, self.size, self.read)), self.note)

    def _check_covered(self, start: int, end: int) -> None:
        if not 0 <= start < end <= self.size:
            raise NotFoundError(
                f"the checkpoint has {self.size} entries, which do not include {start} to {end - 1}"
            )

    def _entries_of(self, index: int) -> list[bytes]:
        """All entries of a bundle."""
        if self._bundle[0] == index:
            return self._bundle[1]
        first = index * WIDTH
        bundle = Tile(None, index, min(WIDTH, self.size - first))
        leaves = self.read([Node(0, first + place) for place in range(bundle.width)])
        entries = self._items(bundle, entries_in)
        for place, (entry, leaf) in enumerate(zip(entries, leaves, strict=True)):
            if leaf_hash(entry) != leaf:
                raise ProofError(f"entry {first + place} in {bundle.path} is not the one that was logged")
        self._bundle = (index, entries)
        return entries

    def _checked_tiles(self) -> TileReader:
        """The tiles that were read so far, but not too many; those that are not full were checked together."""
        if self._tiles is None or self._fetched > _MOST_TILES:
            self._fetched = 0
            tiles = TileReader(self.size, self._read_file)
            tiles.check(self.checkpoint.root)  # reads all of those, and no other
            self._tiles = tiles
        return self._tiles

    def _read_file(self, path: str) -> bytes:
        """The content of a tile's file, which is checked if it is full."""
        tile = Tile.parse(path)
        hashes = self._items(tile, hashes_in)
        if tile.width == WIDTH:
            assert tile.level is not None
            (expected,) = self._checked_tiles()([Node(HEIGHT * (tile.level + 1), tile.index)])
            folded = hashes
            while len(folded) > 1:
                folded = [node_hash(a, b) for a, b in zip(folded[::2], folded[1::2], strict=True)]
            if folded != [expected]:
                raise ProofError(f"{path} is not the tile that the log had there")
        self._fetched += 1
        return b"".join(hashes)

    def _items(self, tile: Tile, items_in: Callable[[Tile, bytes], list[bytes]]) -> list[bytes]:
        """What a tile's file holds: hashes or entries."""
        content = self._files.get(tile.path)
        if content is None and tile.width < WIDTH:  # may be deleted once the full one is there
            full = replace(tile, width=WIDTH)
            content = self._files.get(full.path)
            if content is not None:
                return self._unpacked(full, content, items_in)[: tile.width]
        if content is None:
            raise NotFoundError(f"the file {tile.path} of the exported log is missing")
        return self._unpacked(tile, content, items_in)

    @staticmethod
    def _unpacked(tile: Tile, content: bytes, items_in: Callable[[Tile, bytes], list[bytes]]) -> list[bytes]:
        try:
            return items_in(tile, content)
        except FormatError as error:
            hint = "it seems to be compressed: decompress it" if content.startswith(_GZIP) else None
            raise FormatError(error.message, hint=hint) from error
