from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem import canonical
from phloem.errors import ConflictError, FormatError, NotFoundError, StoreError
from phloem.store import files
from phloem.store.files import Store, write_durably


@given(blobs=st.lists(st.binary(max_size=50), max_size=6))
def test_blobs_come_back_by_the_digest_of_their_content(
    tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    digests = [store.put(blob) for blob in blobs]
    assert digests == [canonical.digest(blob) for blob in blobs]
    assert [store.get(digest) for digest in digests] == blobs
    assert list(store.digests()) == sorted(set(digests))
    assert all(digest in store for digest in digests)


def test_putting_twice_keeps_one_file_untouched(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"once")
    path = tmp_path / "objects" / digest[:2] / digest[2:]
    inode = path.stat().st_ino
    assert store.put(b"once") == digest
    assert path.stat().st_ino == inode


def test_a_blob_that_is_not_there_is_named(tmp_path: Path) -> None:
    digest = canonical.digest(b"never put")
    store = Store(tmp_path)
    assert digest not in store
    with pytest.raises(NotFoundError, match=f"no blob {digest[:12]}"):
        store.get(digest)
    store.forget(digest)


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"content")
    path = tmp_path / "objects" / digest[:2] / digest[2:]
    for damage in (b"c0ntent", b"conten", b"content\0", b""):
        path.write_bytes(damage)
        with pytest.raises(FormatError, match="is damaged"):
            store.get(digest)


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "ab" * 31, "AB" * 32, "ab" * 31 + "/x", "ab" * 32 + "\n"]
)
def test_a_name_that_is_no_digest_never_reaches_the_disk(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="expected a SHA-256"):
        Store(tmp_path).get(name)


def test_a_reference_moves_only_from_the_value_that_was_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = store.put(b"1"), store.put(b"2")
    assert store.read("trunk") is None
    store.swap("trunk", None, one)
    assert store.read("trunk") == one
    for stale in (None, two):
        with pytest.raises(ConflictError, match="'trunk' moved"):
            store.swap("trunk", stale, two)
    assert store.read("trunk") == one
    store.swap("trunk", one, two)
    assert Store(tmp_path).read("trunk") == two


def test_of_many_writers_with_the_same_old_value_exactly_one_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digests = [store.put(bytes([n])) for n in range(6)]
    code = (
        "import sys\n"
        "from phloem.store.files import Store\n"
        "from phloem.errors import ConflictError\n"
        "try: Store(sys.argv[1]).swap('trunk', None, sys.argv[2])\n"
        "except ConflictError: sys.exit(3)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), digest]) for digest in digests]
    codes = [writer.wait() for writer in writers]
    assert sorted(codes) == [0, 3, 3, 3, 3, 3]
    assert store.read("trunk") == digests[codes.index(0)]


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_a_sentence_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        store.put(b"blob")
    assert caught.value.hint == "free some space and resume the run"
    assert list(store.digests()) == []
    with pytest.raises(StoreError, match="No space left on device"):
        store.swap("trunk", None, canonical.digest(b"blob"))
    assert store.read("trunk") is None


def test_a_store_where_a_file_is_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="the store at"):
        Store(tmp_path / "file")


def test_what_a_killed_writer_left_behind_is_no_blob(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"content")
    (tmp_path / "objects" / digest[:2] / f".{digest[2:18]}.01234567").write_bytes(b"half")
    assert list(store.digests()) == [digest]


@pytest.mark.parametrize("damage", [b"", b"rotten!"])
def test_a_damaged_blob_is_put_right_when_its_content_comes_again(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    digest = store.put(b"content")
    (tmp_path / "objects" / digest[:2] / digest[2:]).write_bytes(damage)
    assert store.put(b"content") == digest
    assert store.get(digest) == b"content"
