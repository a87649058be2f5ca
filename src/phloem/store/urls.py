"""Stores that a URL names, through fsspec: what reads and writes them, and what a message may say of them."""

from __future__ import annotations

import contextlib
import os
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phloem.errors import ConfigError, NotFoundError, StoreError

#: Kinds of stores that put all of an object in place, or nothing. Of the others fsspec does not say so.
WHOLE = frozenset({"abfs", "abfss", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"})
#: What the drivers' errors mean that carry no words of the system, by the names of their types.
_MEANINGS = {
    "ClientPayloadError": "the answer was cut off",
    "ConnectTimeoutError": "the server does not answer",
    "ConnectionClosedError": "the server closed the connection",
    "EndpointConnectionError": "no connection to the server",
    "FileNotFoundError": os.strerror(2),
    "NoCredentialsError": "there are no credentials for it",
    "PartialCredentialsError": "the credentials for it are not complete",
    "PermissionError": os.strerror(13),
    "ReadTimeoutError": "the server does not answer",
    "ResponseStreamingError": "the answer was cut off",
}


class UrlStore:
    """The objects under a URL such as s3://BUCKET/PREFIX, with whatever package fsspec needs for that store.

    Paths are relative to the URL. Nothing is remembered of listings: who asks is told what is there now.

    Attributes:
        kind: the URL's scheme.
        url: for messages, without secrets.

    >>> store = UrlStore("memory://doctest/place")
    >>> store.put("a/b", b"content"), store.read("a/b", 2, 4), store.listing("a")
    (None, b'nt', {'b': 7})
    >>> store.create("a/b", b"other"), store.size("a/b")
    (False, 7)
    """

    def __init__(self, url: str) -> None:
        """Finds out what reads and writes such a store.

        Raises:
            ConfigError: no such kind of store is known, or a package that it needs is not installed.
            StoreError: it is one of those that fsspec connects to at once, and cannot be reached.
        """
        self.kind = url.partition(":")[0]
        self.url = without_secrets(url)
        self._system, self._root = _opened(url)

    @property
    def whole(self) -> bool:
        """Whether an object that is put is there whole or not at all, whatever fails."""
        return self.kind in WHOLE

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """An object, or a range of it.

        Raises:
            NotFoundError: there is none. StoreError: it cannot be read.
        """
        range_ = {} if start is None and end is None else {"start": start, "end": end}
        with self._in_words(path, "read"):
            return bytes(self._system.cat_file(self._at(path), **range_))

    def read_many(self, paths: Sequence[str], sizes: Sequence[int]) -> list[bytes | None]:
        """Whole objects, asked for at once; None for those that could not be read."""
        try:
            found = self._system.cat_ranges(
                [self._at(path) for path in paths], [0] * len(paths), list(sizes), on_error="return"
            )
        except Exception:  # of whatever package: each is asked for alone when it is needed, and says why not
            return [None] * len(paths)
        return [bytes(one) if isinstance(one, (bytes, bytearray, memoryview)) else None for one in found]

    def size(self, path: str) -> int:
        """The size of an object.

        Raises:
            NotFoundError: there is none. StoreError: it cannot be found out.
        """
        with self._in_words(path, "read"):
            self._system.invalidate_cache()
            found = self._system.info(self._at(path))
        if found.get("type") != "file":
            raise NotFoundError(f"{self.url}/{path} is not there")
        return int(found["size"])

    def has(self, path: str) -> bool:
        """Whether there is such an object."""
        with contextlib.suppress(NotFoundError):
            self.size(path)
            return True
        return False

    def listing(self, folder: str = "") -> dict[str, int]:
        """The names directly under a folder and their sizes; folders in it have size -1."""
        try:
            with self._in_words(folder, "listed"):
                self._system.invalidate_cache()
                found = self._system.ls(self._at(folder), detail=True)
        except NotFoundError:
            return {}
        here = self._below(folder)
        return {
            one["name"].rstrip("/").rpartition("/")[2]: int(one["size"] or 0) if one["type"] == "file" else -1
            for one in found
            if self._name(one["name"]) != here
        }

    def everything(self, folder: str) -> dict[str, int]:
        """All objects under a folder, by their paths from there, and their sizes."""
        try:
            with self._in_words(folder, "listed"):
                self._system.invalidate_cache()
                found = self._system.find(self._at(folder), detail=True)
        except NotFoundError:
            return {}
        start = self._below(folder) + "/"
        return {
            self._name(name).removeprefix(start): int(one["size"] or 0)
            for name, one in found.items()
            if self._name(name).startswith(start)
        }

    def put(self, path: str, content: bytes) -> None:
        """Puts an object in place, whole or not at all where the store is `whole`.

        Raises:
            StoreError: it cannot be written.
        """
        with self._in_words(path, "written"):
            self._system.pipe_file(self._at(path), content)

    def upload(self, file: Path, path: str) -> None:
        """Puts a file in place, in parts where it is large.

        Raises:
            StoreError: it cannot be written.
        """
        with self._in_words(path, "written"):
            self._system.put_file(str(file), self._at(path))

    def create(self, path: str, content: bytes) -> bool:
        """Puts an object in place if there is none, in one step; says whether it did.

        False does not mean that somebody else did: the answer to an earlier try may have been lost on its way, or
        another one may be on its way.

        Raises:
            ConfigError: the driver does not know how. StoreError: it cannot be written, and none is there.
        """
        try:
            with self._in_words(path, "written"):
                self._system.pipe_file(self._at(path), content, mode="create")
        except StoreError as error:
            if isinstance(error.__cause__, TypeError):
                raise ConfigError(f"what reads and writes {self.url} cannot create objects") from error
            # Drivers say in many ways that there is one (MinIO's answer reaches s3fs as an invalid argument); what
            # counts is what the server said, or whether it is there.
            if _status_of(error) in _NOT_CREATED or self.has(path):
                return False
            raise
        return True

    def remove(self, path: str) -> None:
        """Removes an object, if it is there.

        Raises:
            StoreError: the store refuses.
        """
        with contextlib.suppress(NotFoundError), self._in_words(path, "removed"):
            self._system.rm_file(self._at(path))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _name(self, name: str) -> str:
        return str(self._system._strip_protocol(name)).strip("/")

    def _below(self, folder: str) -> str:
        return self._name(self._at(folder))

    @contextlib.contextmanager
    def _in_words(self, path: str, what: str) -> Iterator[None]:
        """Turns the errors of whatever package into ours; their words may hold keys."""
        where = f"{self.url}/{path}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{where} cannot be {what}: {reason_of(error)}") from error
        except Exception as error:
            raise StoreError(f"{where} cannot be {what}: {reason_of(error)}") from error


def _opened(url: str) -> tuple[Any, str]:
    shown = without_secrets(url)
    if "::" in url:
        raise ConfigError(f"expected the URL of one store, found a chain of them: {shown}")
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigError("fsspec is not installed", hint="pip install 'phloem[bucket]'") from error
    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"{shown} needs another package: {error}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{shown} is no URL of a store that fsspec knows") from error
    except Exception as error:  # some connect at once
        raise StoreError(f"{shown} cannot be reached: {reason_of(error)}") from error
    return system, root.rstrip("/")


def without_secrets(url: str) -> str:
    """The URL without user, password, query and fragment.

    >>> without_secrets("s3://me:secret@bucket/models/?token=secret")
    's3://bucket/models'
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def reason_of(error: Exception) -> str:
    """Why, in words without addresses or keys: those of the system, or what the error's type means.

    >>> reason_of(OSError(28, "No space left on device"))
    'No space left on device'
    """
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    words = reason.strerror if isinstance(reason, OSError) else None
    return words or _MEANINGS.get(type(reason).__name__) or type(reason).__name__


#: HTTP: Conflict (S3, while somebody else creates it) and Precondition Failed.
_NOT_CREATED = (409, 412)


def _status_of(error: BaseException | None) -> int | None:
    """The status of the answer that an error of botocore goes back to."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return found if isinstance(found, int) else None
        error = error.__cause__
    return None
