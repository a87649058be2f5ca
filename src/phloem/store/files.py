"""A store in a directory: blobs named by their SHA-256, references moved by compare-and-swap.

    objects/ab/cdef…    a blob; the name is the digest of the content, so a blob never changes
    refs/NAME           one line: the digest that NAME stands for now

A blob is written beside its place, flushed to the disk and renamed; readers never see half of one. A reference
moves only from the value that the writer read, under a lock that dies with its process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from phloem import canonical
from phloem.errors import ConflictError, FormatError, NotFoundError, StoreError


class Store:
    """Blobs and references in one directory.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> digest = store.put(b"content")
    >>> store.get(digest), store.swap("trunk", None, digest)
    (b'content', None)
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        with _in_words(f"the store at {self.root}"):
            (self.root / "objects").mkdir(parents=True, exist_ok=True)
            (self.root / "refs").mkdir(exist_ok=True)

    def put(self, blob: bytes) -> str:
        """Keeps `blob` and gives its digest; durable when this returns.

        Raises:
            StoreError: the disk is full or refuses; nothing is half-written.
        """
        digest = canonical.digest(blob)
        path = self._path(digest)
        with _in_words(f"a blob of {len(blob)} bytes in {self.root}"):
            if not path.exists() or path.read_bytes() != blob:  # a damaged one is put right
                if not path.parent.exists():
                    path.parent.mkdir(exist_ok=True)
                    sync(path.parent.parent)
                write_durably(path, blob)
        return digest

    def get(self, digest: str) -> bytes:
        """The blob of that name.

        Raises:
            NotFoundError: there is none. FormatError: the content no longer fits its name (bit rot).
        """
        try:
            with _in_words(f"blob {digest[:12]}"):
                blob = self._path(digest).read_bytes()
        except NotFoundError as error:
            raise NotFoundError(f"the store at {self.root} has no blob {digest[:12]}") from error
        if canonical.digest(blob) != digest:
            raise FormatError(f"blob {digest[:12]} in {self.root} is damaged: its content has another digest")
        return blob

    def __contains__(self, digest: str) -> bool:
        return self._path(digest).exists()

    def digests(self) -> Iterator[str]:
        """The names of all blobs."""
        for folder in sorted((self.root / "objects").iterdir()):
            for path in sorted(folder.iterdir()):
                if len(path.name) == 62:
                    yield folder.name + path.name

    def forget(self, digest: str) -> None:
        """Removes a blob, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._path(digest).unlink()

    def read(self, name: str) -> str | None:
        """The digest that reference `name` stands for, or None."""
        try:
            text = (self.root / "refs" / name).read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"reference '{name}' in {self.root} cannot be read: {error}") from error
        return text

    def swap(self, name: str, old: str | None, new: str) -> None:
        """Moves reference `name` from `old` to `new`; durable when this returns.

        Raises:
            ConflictError: it no longer stands for `old`.
        """
        with _in_words(f"reference '{name}' in {self.root}"), (self.root / "refs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            now = self.read(name)
            if now != old:
                raise ConflictError(f"reference '{name}' moved to {now}, expected {old}")
            write_durably(self.root / "refs" / name, new.encode() + b"\n")

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise FormatError(f"expected a SHA-256 digest in hexadecimal, found {digest!r:.80}")
        return self.root / "objects" / digest[:2] / digest[2:]


def write_durably(path: Path, content: bytes, mode: int = 0o666, *, new: bool = False) -> None:
    """Puts `content` at `path` so that a crash leaves the old file or the new one, never a mixture.

    The file is at no time open to more than `mode` says. With `new` nothing that is there is replaced, whoever put it
    there a moment ago: that is a FileExistsError.
    """
    beside = path.with_name(f".{path.name[:16]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _put_new(beside, path)
        else:
            beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync(path.parent)


def _put_new(beside: Path, path: Path) -> None:
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: there nobody is kept from coming in between
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        beside.replace(path)
    else:
        beside.unlink()


def sync(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Turns the system's errors into ours, with the reason in words."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"{what} does not exist") from error
    except OSError as error:
        hint = "free some space and resume the run" if error.errno == errno.ENOSPC else None
        raise StoreError(f"{what} could not be read or written: {error.strerror}", hint=hint) from error
