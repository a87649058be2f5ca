"""A log as files that any web server can hand out: tiles, entries, and the newest checkpoint, which is written last.

Source: c2sp.org/tlog-tiles. Every file but the checkpoint is written once and never changed, so that who reads while a
log is exported sees a whole one, older or newer.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from phloem.errors import ConfigError, FormatError, NotFoundError, ProofError, StateError, StoreError
from phloem.ledger.log import Log
from phloem.store.files import write_durably
from phloem.store.urls import WHOLE, UrlStore, reason_of, without_secrets
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.merkle import check_consistency, prove_consistency
from phloem.tlog.note import Note
from phloem.tlog.tiles import CHECKPOINT, LARGEST_ENTRY, WIDTH, pack_bundle, pack_tile, tiles_of

LARGEST_FILE = WIDTH * (2 + LARGEST_ENTRY)  # a full bundle of the longest entries

Content = TypeVar("Content", bytes, bytearray)

_PIECE = 1 << 16


class Files(Protocol):
    """Where a log's files lie: a directory, a bucket, a web server."""

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Puts a file in place, whole or not at all; durable when this returns."""
        ...


def files_at(where: str | Path) -> Files:
    """The files in a directory, or at a URL: file:, http: and https: (to read), or one of fsspec's, such as s3:.

    Raises:
        ConfigError: it is no such URL, or a package that it needs is not installed.
    """
    scheme, mark, rest = str(where).partition("://")
    if not mark:
        return Directory(Path(where))
    if scheme == "file":
        if not rest.startswith("/"):
            raise ConfigError(f"expected file:///PATH, found file://{rest:.80}")
        return Directory(Path(unquote(rest)))
    return Web(str(where)) if scheme in ("http", "https") else Bucket(str(where))


class Directory:
    """Files in a directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            FormatError: it is larger than any of a log's. StoreError: it cannot be read.
        """
        try:
            with (self.root / path).open("rb") as file:
                return _no_larger(file.read(LARGEST_FILE + 1), f"{self.root / path}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.root / path} cannot be read: {error.strerror}") from error

    def put(self, path: str, content: bytes) -> None:
        """Puts a file in place, whole or not at all; durable when this returns."""
        place = self.root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_durably(place, content)
        except OSError as error:
            raise StoreError(f"{place} cannot be written: {error.strerror}") from error


class Bucket:
    """Files at a URL that fsspec knows, such as s3://BUCKET/PREFIX, with whatever package it needs for that store.

    Only stores that put an object whole are written to.
    """

    def __init__(self, url: str) -> None:
        """Finds out what reads and writes such a store.

        Raises:
            ConfigError: no such kind of store is known, or a package that it needs is not installed.
            StoreError: it is one of those that fsspec connects to at once, and cannot be reached.
        """
        self._store = UrlStore(url)
        self.url = self._store.url

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            content = self._store.read(path)
        except NotFoundError:
            return None
        return _no_larger(content, f"{self.url}/{path}")

    def put(self, path: str, content: bytes) -> None:
        """Puts a file in place, whole or not at all.

        Raises:
            ConfigError: this kind of store does not say that it does so. StoreError: it cannot be written.
        """
        if not self._store.whole:
            raise ConfigError(
                f"files at {self.url} can only be read: {self._store.kind} may leave half of one when it fails",
                hint=f"export to a directory, or to one of {', '.join(sorted(WHOLE))}",
            )
        self._store.put(path, content)


class Web:
    """Files that a web server hands out; nothing can be put there."""

    def __init__(self, url: str, timeout_seconds: float = 30.0) -> None:
        """Asks nothing of the server yet.

        Raises:
            ConfigError: it is no URL of the form https://HOST/PATH, or has a password or a query.
        """
        self.url = without_secrets(url)
        try:
            parts = urlsplit(url)
            whole = bool(parts.hostname) and parts.port != 0 and self.url == url.rstrip("/")
        except ValueError:  # a port that is no number, half an IPv6 address
            whole = False
        if not whole:
            raise ConfigError(
                f"expected a URL of the form https://HOST/PATH, without password or query, found {self.url:.120}"
            )
        self._timeout_seconds = timeout_seconds  # for a whole file

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            FormatError: it is larger than any of a log's. StoreError: the server does not answer, in time.
        """
        request = urllib.request.Request(  # noqa: S310  # `files_at` lets http and https pass only
            f"{self.url}/{path}", headers={"Accept-Encoding": "gzip, identity", "User-Agent": "phloem"}
        )
        until = time.monotonic() + self._timeout_seconds
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_seconds) as answer:  # noqa: S310
                return self._content(answer, until, path)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                return None
            raise StoreError(f"{self.url}/{path} cannot be read: the server says {error.code}") from error
        except StoreError:
            raise
        except (OSError, HTTPException, zlib.error) as error:
            raise StoreError(f"{self.url}/{path} cannot be read: {reason_of(error)}") from error

    def put(self, path: str, content: bytes) -> None:
        """Nothing.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.url} is a web server, to which nothing can be exported")

    def _content(self, answer: HTTPResponse, until: float, path: str) -> bytes:
        where = f"{self.url}/{path}"
        pieces, expected = bytearray(), answer.length
        while len(pieces) != expected and (piece := answer.read1(_PIECE)):
            pieces += piece
            _no_larger(pieces, where)
            if time.monotonic() > until:
                raise StoreError(f"{where} did not come within {self._timeout_seconds:g} seconds")
        if expected is not None and len(pieces) != expected:
            raise StoreError(f"{where} was cut off")
        if answer.headers.get("Content-Encoding") != "gzip":
            return bytes(pieces)
        stream = zlib.decompressobj(wbits=31)
        content = _no_larger(stream.decompress(pieces, LARGEST_FILE + 1), where)
        if not stream.eof:
            raise StoreError(f"{where} was cut off")
        return content


def _no_larger(content: Content, where: str) -> Content:
    if len(content) > LARGEST_FILE:
        raise FormatError(f"{where} is larger than {LARGEST_FILE} bytes, which no file of a log is")
    return content


def export(log: Log, files: Files) -> Checkpoint:
    """Brings `files` up to the log's newest signed checkpoint, and says which that is.

    Raises:
        NotFoundError: the log has signed none yet.
        StateError: the files are of another log, or of one that this log did not grow from; nothing is written.
    """
    note = log.checkpoint()
    if note is None:
        raise NotFoundError(f"the log at {log.path} has no signed checkpoint yet", hint="sign one first")
    newest = Checkpoint.unpack(Note.unpack(note).text)
    since = _exported(log, newest, files)
    for tile in tiles_of(newest.size, since):
        if tile.level is None:
            first = tile.index * WIDTH
            files.put(tile.path, pack_bundle(log.entries(first, first + tile.width)))
        else:
            files.put(tile.path, pack_tile(tile, log.read))
    if files.get(CHECKPOINT) != note:
        files.put(CHECKPOINT, note)
    return newest


def _exported(log: Log, newest: Checkpoint, files: Files) -> int:
    """How many entries the files have, of those that this log has as well."""
    before = files.get(CHECKPOINT)
    if before is None:
        return 0
    found = Checkpoint.unpack(Note.unpack(before).text)
    if found.origin != log.origin or found.size > newest.size:
        raise StateError(
            f"the files are of the log '{found.origin}' with {found.size} entries, not of this one"
        )
    proof = prove_consistency(found.size, newest.size, log.read) if found.size else []
    try:
        check_consistency(found.size, newest.size, found.root, newest.root, proof)
    except ProofError as error:
        raise StateError(f"the files are of another history of '{log.origin}': {error.message}") from error
    return found.size
