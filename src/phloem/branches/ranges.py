"""Bytes of objects elsewhere, by ranges: small ones come whole, large ones in pages or, much at once, as asked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from phloem.errors import StoreError

#: Objects up to this size are read whole, once: a request costs as much as a few hundred kilobytes.
WHOLE_BYTES = 8 << 20
_PAGE_BYTES = 1 << 20
_KEPT_BYTES = 128 << 20


class Pages:
    """What was read, up to some bytes: what was not used for longest is forgotten first. For any thread."""

    def __init__(self, most_bytes: int = _KEPT_BYTES) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, number: int = 0) -> bytes | None:
        """A page of an object, if it is still here."""
        with self._lock:
            found = self._kept.get((path, number))
            if found is not None:
                self._kept.move_to_end((path, number))
            return found

    def put(self, path: str, content: bytes, number: int = 0) -> None:
        """Keeps a page."""
        with self._lock:
            self._bytes += len(content) - len(self._kept.pop((path, number), b""))
            self._kept[path, number] = content
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])


@dataclass(frozen=True)
class Remote:
    """An object elsewhere as a blob.

    Attributes:
        path: how the store calls it.
        fetch: reads a range of it: path, first byte, one past the last.
    """

    path: str
    size: int
    name: str
    fetch: Callable[[str, int, int], bytes]
    pages: Pages

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
            NotFoundError: the object is gone. StoreError: it ends before, or cannot be read.
        """
        if not 0 <= offset <= offset + size <= self.size:
            raise StoreError(f"{self.name} ends before byte {offset + size}")
        each = self.size if self.size <= WHOLE_BYTES else _PAGE_BYTES
        if not size:
            return b""
        if size >= each and self.size > WHOLE_BYTES:
            return self._fetched(offset, offset + size)
        first, last = offset // each, (offset + size - 1) // each
        found = b"".join(self._page(number, each) for number in range(first, last + 1))
        return found[offset - first * each :][:size]

    def _page(self, number: int, each: int) -> bytes:
        found = self.pages.get(self.path, number)
        if found is None or len(found) != min(each, self.size - number * each):
            found = self._fetched(number * each, min((number + 1) * each, self.size))
            self.pages.put(self.path, found, number)
        return found

    def _fetched(self, start: int, end: int) -> bytes:
        found = self.fetch(self.path, start, end)
        if len(found) != end - start:
            raise StoreError(f"{self.name} has another size than its place says")
        return found
