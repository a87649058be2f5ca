"""Exports to places that are no directory: fsspec's stores, and which places there are."""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phloem.errors import ConfigError, FormatError, StoreError
from phloem.ledger.export import Bucket, Directory, Web, export, files_at
from phloem.ledger.exported import Exported
from phloem.ledger.log import Log
from phloem.tlog.keys import NOTE, Signer

SIGNER = Signer.from_seed("example.org/log", NOTE, bytes(32))
NUMBERS = itertools.count()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log.db", "example.org/log") as log:
        yield log


def grow(log: Log, size: int) -> None:
    log.append([b"entry %d" % number for number in range(log.size, size)])
    log.sign([SIGNER])


def check_grows_at(log: Log, where: str | Path) -> None:
    """Exports twice to an empty place, and reads what is there with fresh eyes."""
    for size in (300, 700):
        grow(log, size)
        assert export(log, files_at(where)).size == size
        exported = Exported(files_at(where))
        assert exported.note == log.checkpoint()
        assert exported.entries(0, size) == log.entries(0, size)


def test_a_place_is_a_path_or_a_url(tmp_path: Path) -> None:
    for where in (tmp_path / "a b", str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        files = files_at(where)
        assert isinstance(files, Directory)
        assert files.root == tmp_path / "a b"
    assert isinstance(files_at("https://example.org/log/"), Web)
    with pytest.raises(ConfigError, match=r"file:///PATH"):
        files_at("file://somewhere/else")


def test_a_log_is_exported_to_a_file_url(log: Log, tmp_path: Path) -> None:
    check_grows_at(log, f"file://{tmp_path}/out/deep")
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]


def test_a_log_is_exported_to_a_store_of_fsspec(log: Log) -> None:
    pytest.importorskip("fsspec")
    check_grows_at(log, f"memory://bucket-{next(NUMBERS)}/some/prefix/")


def test_a_put_that_fails_leaves_the_file_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    bucket = Bucket(f"memory://bucket-{next(NUMBERS)}")
    bucket.put("tile/0/000", b"old")

    def full(self: object, size: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(memory.MemoryFile, "commit", full)
        patched.setattr(memory.MemoryFileSystem, "pipe_file", lambda *args: full(None))
        with pytest.raises(StoreError, match=r"tile/0/000 cannot be written: No space left on device"):
            bucket.put("tile/0/000", b"new")
    assert bucket.get("tile/0/000") == b"old"


def test_a_store_that_may_leave_half_a_file_is_read_and_not_written(log: Log, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    grow(log, 20)
    export(log, Directory(tmp_path / "out"))
    bucket = Bucket(f"file://{tmp_path}/out")  # which `files_at` does not make of it
    assert Exported(bucket).entries(0, 20) == log.entries(0, 20)
    with pytest.raises(ConfigError, match=r"can only be read.*export to a directory, or to one of"):
        export(log, Bucket(f"file://{tmp_path}/new"))
    assert not (tmp_path / "new").exists()


def test_a_store_that_cannot_be_reached_is_said() -> None:
    pytest.importorskip("fsspec")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match=r"ftp://127.0.0.1:\d+/log cannot be reached: Connection refused"):
        files_at(f"ftp://me:secret@127.0.0.1:{port}/log")


@pytest.mark.parametrize("url", ["nothing://of/the/kind", "simplecache::memory://bucket", "memory::x://y"])
def test_what_is_no_store_is_refused_before_anything_is_asked(url: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(ConfigError):
        files_at(url)


def test_without_fsspec_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"fsspec is not installed \(pip install 'phloem\[bucket\]'\)"):
        files_at("s3://bucket/log")


def test_a_file_larger_than_any_of_a_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("phloem.ledger.export.LARGEST_FILE", 10)
    bucket = Bucket(f"memory://bucket-{next(NUMBERS)}")
    bucket.put("checkpoint", bytes(11))
    with pytest.raises(FormatError, match="is larger than 10 bytes"):
        bucket.get("checkpoint")


def test_no_message_says_a_password_or_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    urls = ("memory://me:secret@bucket/log?token=secret#secret", "nothing://me:secret@of/the/kind?secret")

    def refuse(self: object, path: str, *rest: object) -> bytes:
        raise RuntimeError(f"https://store/{path}?signature=secret was refused")

    monkeypatch.setattr(memory.MemoryFileSystem, "cat_file", refuse)
    monkeypatch.setattr(memory.MemoryFileSystem, "pipe_file", refuse)
    for url in urls:
        for ask in (lambda: files_at(url).get("checkpoint"), lambda: files_at(url).put("checkpoint", b"")):  # noqa: B023
            with pytest.raises((ConfigError, StoreError)) as caught:
                ask()
            assert "secret" not in str(caught.value)
    bucket = Bucket(urls[0])
    assert bucket.url == "memory://bucket/log"


@pytest.mark.slow
@pytest.mark.service("s3")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_log_is_exported_to_s3(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        grow(log, 1)
        with pytest.raises(StoreError, match="s3://no-such-bucket/log/tile/0/000"):
            export(log, files_at("s3://no-such-bucket/log"))
        s3fs.S3FileSystem().mkdir("bucket")
        check_grows_at(log, "s3://bucket/some/log")
        assert s3fs.S3FileSystem().exists("s3://bucket/some/log/tile/entries/000")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
