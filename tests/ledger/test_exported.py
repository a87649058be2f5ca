"""The reader of an exported log: it hands out what the checkpoint vouches for, and nothing else."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tlog.trees import Tree

from phloem.errors import FormatError, NotFoundError, ProofError
from phloem.ledger.export import Directory, export
from phloem.ledger.exported import Exported
from phloem.ledger.log import Log
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.merkle import (
    Node,
    check_consistency,
    leaf_hash,
    prove_consistency,
    tree_hash,
)
from phloem.tlog.note import signed
from phloem.tlog.policy import Policy
from phloem.tlog.tiles import Tile

ORIGIN = "example.org/log"
SIGNER = Signer.from_seed(ORIGIN, NOTE, bytes(32))
POLICY = Policy((SIGNER.verifier,))


def entry(number: int) -> bytes:
    return b"entry %d" % number


class Memory:
    """Files in memory, which counts those that were read."""

    def __init__(self, files: Memory | None = None) -> None:
        self.files: dict[str, bytes] = dict(files.files) if files is not None else {}
        self.reads = 0

    def get(self, path: str) -> bytes | None:
        self.reads += 1
        return self.files.get(path)

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def flip(self, path: str, bit: int) -> None:
        changed = bytearray(self.files[path])
        changed[bit // 8] ^= 1 << bit % 8
        self.files[path] = bytes(changed)


def grow(log: Log, files: Memory, size: int) -> bytes:
    """The checkpoint of a log of that size, exported."""
    log.append([entry(number) for number in range(log.size, size)])
    note = log.sign([SIGNER])
    export(log, files)
    return note


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.create(tmp_path / "log.db", ORIGIN)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    """The files of 70,000 entries, which have tiles of three levels."""
    files = Memory()
    with Log.create(tmp_path_factory.mktemp("large") / "log.db", ORIGIN) as log:
        grow(log, files, 70_000)
    return files


def read_all(files: Memory, note: bytes | None = None) -> tuple[Checkpoint, list[bytes], list[bytes]]:
    """Everything that a reader can ask for: checkpoint, entries, and the hashes of all nodes."""
    exported = Exported(files, note)
    checkpoint = POLICY.check(exported.note)
    size = exported.size
    nodes = [Node(level, n) for level in range(size.bit_length()) for n in range(size >> level)]
    return checkpoint, exported.entries(0, size), exported.read(nodes)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 513])
def test_a_reader_finds_what_is_in_the_log(log: Log, size: int) -> None:
    files = Memory()
    note = grow(log, files, size)
    exported = Exported(files)
    assert (exported.note, exported.origin, exported.size) == (note, ORIGIN, size)
    assert exported.checkpoint == Checkpoint.unpack(POLICY.check(note).pack())
    expected = Tree([entry(number) for number in range(size)])
    _, entries, hashes = read_all(files)
    assert entries == [entry(number) for number in range(size)]
    assert sorted(hashes) == sorted(expected.nodes.values())
    for start, end in ((0, size), (0, 1), (size - 1, size), (100, 300), (255, 257), (3, 3)):
        if 0 <= start <= end <= size:
            assert exported.entries(start, end) == log.entries(start, end)
    for index in {0, size // 2, size - 1} & set(range(size)):
        receipt = exported.receipt(index)
        assert receipt == log.receipt(index)
        receipt.check(leaf_hash(entry(index)), POLICY)


def test_proofs_of_both_kinds_come_from_tiles_of_three_levels(large: Memory) -> None:
    exported = Exported(large)
    root = exported.checkpoint.root
    for index in (0, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999):
        assert exported.entries(index, index + 1) == [entry(index)]
        exported.receipt(index).check(leaf_hash(entry(index)), POLICY)
    for old in (1, 255, 256, 65_536, 65_537, 69_999):
        before = tree_hash(old, exported.read)
        check_consistency(
            old, exported.size, before, root, prove_consistency(old, exported.size, exported.read)
        )


def test_one_entry_costs_the_few_files_on_its_way(large: Memory) -> None:
    large.reads = 0
    Exported(large).entries(1000, 1001)
    # the checkpoint, the bundle, its tile and the full one above it, and the three tiles that are not full
    assert large.reads == 7


def test_tiles_beyond_those_that_are_kept_are_read_and_checked_again(
    large: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phloem.ledger.exported._MOST_TILES", 3)
    exported = Exported(large)
    for index in (0, 5000, 40_000, 69_000, 0):
        assert exported.entries(index, index + 2) == [entry(index), entry(index + 1)]


def test_what_the_checkpoint_does_not_cover_is_not_there(log: Log) -> None:
    files = Memory()
    with pytest.raises(NotFoundError, match="no file 'checkpoint'"):
        Exported(files)
    grow(log, files, 300)
    exported = Exported(files)
    for start, end in ((0, 301), (300, 301), (-1, 2)):
        with pytest.raises(NotFoundError, match="has 300 entries"):
            exported.entries(start, end)
    for node in (Node(0, 300), Node(8, 1), Node(9, 0), Node(70, 0), Node(0, -1)):
        with pytest.raises(NotFoundError, match="has 300 entries"):
            exported.read([node])
    with pytest.raises(NotFoundError, match="has 300 entries"):
        exported.receipt(300)


# -- changed files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_every_byte_of_every_file_flipped_is_found(log: Log, step: int) -> None:
    files = Memory()
    grow(log, files, 262)
    expected = read_all(files)
    assert len(files.files) == 6
    for path, content in list(files.files.items()):
        for place in range(0, len(content), step if len(content) > 400 else 1):
            files.flip(path, 8 * place + place % 8)
            with pytest.raises((FormatError, NotFoundError, ProofError)):
                read_all(files)
            files.files[path] = content
    assert read_all(files) == expected


@pytest.mark.parametrize("path", ["tile/0/272", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"])
def test_a_hash_changed_in_any_level_is_found(large: Memory, path: str) -> None:
    files = Memory(large)
    files.flip(path, 0)
    with pytest.raises(ProofError):
        Exported(files).entries(0, 70_000)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-1],
    "cut off by a hash": lambda content: content[:-32],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "longer by a hash": lambda content: content + bytes(32),
    "twice": lambda content: content + content,
    "compressed": gzip.compress,
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_another_length_are_refused(log: Log, change: str) -> None:
    files = Memory()
    grow(log, files, 300)
    for path, content in list(files.files.items()):
        files.put(path, CHANGES[change](content))
        with pytest.raises((FormatError, ProofError)) as caught:
            read_all(files)
        if change == "compressed" and path != "checkpoint":
            assert "compressed" in str(caught.value)
        files.put(path, content)
    read_all(files)


def test_a_missing_file_is_named(log: Log) -> None:
    files = Memory()
    grow(log, files, 300)
    for path, content in list(files.files.items()):
        del files.files[path]
        with pytest.raises(NotFoundError, match=re.escape(path)):
            read_all(files)
        files.put(path, content)


def test_whole_files_in_each_others_place_are_refused(large: Memory) -> None:
    for one, other in (
        ("tile/0/000", "tile/0/001"),
        ("tile/0/000", "tile/1/000"),
        ("tile/entries/000", "tile/entries/001"),
    ):
        files = Memory(large)
        files.put(one, large.files[other])
        files.put(other, large.files[one])
        with pytest.raises((FormatError, ProofError)):
            Exported(files).entries(0, 1)


def test_a_checkpoint_of_another_history_does_not_fit_the_files(log: Log, tmp_path: Path) -> None:
    files = Memory()
    grow(log, files, 300)
    with Log.create(tmp_path / "other.db", ORIGIN) as other:
        other.append([entry(number + 1) for number in range(300)])
        files.put("checkpoint", other.sign([SIGNER]))
    for ask in (lambda: Exported(files).entries(0, 1), lambda: Exported(files).read([Node(0, 299)])):
        with pytest.raises(ProofError, match="do not give the checkpoint's root"):
            ask()


def test_a_size_that_is_a_lie_costs_nothing(log: Log) -> None:
    files = Memory()
    grow(log, files, 300)
    for size in (0, 1, 299, 301, 1 << 20, (1 << 63) - 1):
        files.put("checkpoint", signed(Checkpoint(ORIGIN, size, tree_hash(300, log.read)).pack(), [SIGNER]))
        files.reads = 0
        with pytest.raises((NotFoundError, ProofError)):
            Exported(files).entries(0, max(size, 1))
        assert files.reads < 20


# -- an export that goes on ----------------------------------------------------------------------------------------


class Watched(Memory):
    """Before every file that is put, somebody reads the whole log as `expected` has it."""

    expected: bytes | None = None

    def put(self, path: str, content: bytes) -> None:
        if self.expected is not None:
            exported = Exported(self)
            assert exported.note == self.expected
            assert exported.entries(0, exported.size) == [entry(number) for number in range(exported.size)]
        super().put(path, content)


def test_an_earlier_checkpoint_stays_readable_while_and_after_the_log_grows(log: Log) -> None:
    files = Watched()
    notes = {}
    for size in (1, 200, 255, 256, 400, 513, 800):
        files.expected = notes[size] = grow(log, files, size)
    for size, note in notes.items():
        assert read_all(files, note)[1] == [entry(number) for number in range(size)]


def test_a_tile_that_is_full_by_now_stands_in_for_the_part_that_was_deleted(log: Log) -> None:
    files = Memory()
    note = grow(log, files, 200)
    grow(log, files, 256)
    for tile in (Tile(0, 0, 200), Tile(None, 0, 200)):
        del files.files[tile.path]
    assert read_all(files, note)[1] == [entry(number) for number in range(200)]
    files.flip(Tile(0, 0).path, 0)
    with pytest.raises(ProofError):
        read_all(files, note)


def test_files_on_a_disk_are_read_the_same_way(log: Log, tmp_path: Path) -> None:
    log.append([entry(number) for number in range(300)])
    log.sign([SIGNER])
    export(log, Directory(tmp_path / "out"))
    assert Exported(Directory(tmp_path / "out")).entries(250, 300) == log.entries(250, 300)
    with (tmp_path / "out" / "tile/entries/000").open("r+b") as file:
        file.truncate(1 << 40)  # a file that no memory holds
    with pytest.raises(FormatError, match="is larger than 16777472 bytes"):
        Exported(Directory(tmp_path / "out")).entries(0, 1)


def test_a_reader_loads_neither_numpy_nor_fsspec() -> None:
    code = (
        "import sys, phloem.ledger.exported\n"
        "print(sorted({'numpy', 'torch', 'fsspec', 'web3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
