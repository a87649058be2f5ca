"""A log as files: what a reader with nothing but the files and a policy can check."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tlog.trees import Tree

from phloem.errors import FormatError, NotFoundError, ProofError, StateError
from phloem.ledger.export import Directory, export
from phloem.ledger.log import Log
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.merkle import leaf_hash, tree_hash
from phloem.tlog.policy import Policy
from phloem.tlog.tiles import Tile, TileReader, entries_in, hashes_in, tiles_of

SIGNER = Signer.from_seed("example.org/log", NOTE, bytes(32))
POLICY = Policy((SIGNER.verifier,))


def entry(number: int) -> bytes:
    return b"entry %d" % number


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.create(tmp_path / "log.db", "example.org/log")


def read_all(root: Path) -> tuple[Checkpoint, list[bytes]]:
    """What a stranger reads, everything checked against the signed root."""
    files = Directory(root)

    def fetch(path: str) -> bytes:
        content = files.get(path)
        if content is None:
            raise NotFoundError(path)
        return content

    checkpoint = POLICY.check(fetch("checkpoint"))
    TileReader(checkpoint.size, fetch).check(checkpoint.root)
    entries = []
    for tile in tiles_of(checkpoint.size):
        if tile.level is None:
            leaves = hashes_in(Tile(0, tile.index, tile.width), fetch(Tile(0, tile.index, tile.width).path))
            found = entries_in(tile, fetch(tile.path))
            if [leaf_hash(one) for one in found] != leaves:
                raise ProofError(f"{tile.path} has other entries than the tree")
            entries += found
    if tree_hash(len(entries), Tree(entries).read) != checkpoint.root:
        raise ProofError("the entries are not those of the checkpoint")
    return checkpoint, entries


@pytest.mark.parametrize("sizes", [[0], [1], [0, 1, 255, 256, 257], [300, 300, 1000], [70_000]])
def test_a_stranger_reads_the_log_from_its_files_however_it_grew(
    log: Log, tmp_path: Path, sizes: list[int]
) -> None:
    for size in sizes:
        log.append([entry(n) for n in range(log.size, size)])
        log.sign([SIGNER])
        assert export(log, Directory(tmp_path / "out")).size == size
        checkpoint, entries = read_all(tmp_path / "out")
        assert checkpoint.size == size
        assert entries == [entry(n) for n in range(size)]


def test_a_file_that_was_written_is_not_written_again(log: Log, tmp_path: Path) -> None:
    written: list[str] = []

    class Counted(Directory):
        def put(self, path: str, content: bytes) -> None:
            written.append(path)
            super().put(path, content)

    for size in (100, 600, 600, 700):
        log.append([entry(n) for n in range(log.size, size)])
        log.sign([SIGNER])
        export(log, Counted(tmp_path / "out"))
    assert written[-1] == "checkpoint"
    others = [path for path in written if path != "checkpoint"]
    assert len(others) == len(set(others))


def test_an_export_that_was_cut_off_is_the_older_log_and_can_be_finished(log: Log, tmp_path: Path) -> None:
    log.append([entry(n) for n in range(400)])
    log.sign([SIGNER])
    export(log, Directory(tmp_path / "out"))
    log.append([entry(n) for n in range(400, 900)])
    log.sign([SIGNER])

    class Full(Directory):
        left = 3

        def put(self, path: str, content: bytes) -> None:
            Full.left -= 1
            if Full.left < 0:
                raise StateError("the disk is full")
            super().put(path, content)

    with pytest.raises(StateError, match="full"):
        export(log, Full(tmp_path / "out"))
    assert read_all(tmp_path / "out")[0].size == 400
    export(log, Directory(tmp_path / "out"))
    assert read_all(tmp_path / "out")[0].size == 900


def test_the_files_of_another_log_or_history_are_left_alone(log: Log, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no signed checkpoint"):
        export(log, Directory(tmp_path / "out"))
    log.append([entry(n) for n in range(10)])
    log.sign([SIGNER])
    export(log, Directory(tmp_path / "out"))
    for origin, entries in (
        ("example.org/log", [entry(n + 1) for n in range(12)]),
        ("example.org/log", [entry(n) for n in range(9)]),
        ("example.org/other", [entry(n) for n in range(12)]),
    ):
        (tmp_path / "another.db").unlink(missing_ok=True)
        with Log.create(tmp_path / "another.db", origin) as another:
            another.append(entries)
            another.sign([SIGNER])
            with pytest.raises(StateError, match="the files are of"):
                export(another, Directory(tmp_path / "out"))
    assert read_all(tmp_path / "out")[0].size == 10


def test_every_byte_of_every_file_flipped_is_detected(log: Log, tmp_path: Path) -> None:
    log.append([entry(n) for n in range(259)])
    log.sign([SIGNER])
    root = tmp_path / "out"
    export(log, Directory(root))
    expected = read_all(root)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(paths) == 6
    for path in paths:
        content = path.read_bytes()
        step = 1 if len(content) < 400 else 37
        for place in range(0, len(content), step):
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with pytest.raises((FormatError, NotFoundError, ProofError)):
                read_all(root)
        path.write_bytes(content)
    assert read_all(root) == expected
