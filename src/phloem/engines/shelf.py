"""What sites own besides the trunk, their residual and their task's memory, as one blob each in a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from phloem.errors import StateError
from phloem.store.files import Store

Tensors = dict[str, Any]

_OWED, _MEMORY = "owed/", "memory/"


class Shelf:
    """Blobs of sites in a store, by the site's name.

    A blob that the last snapshot names stays; any other goes when its site's next one is in place, so the shelf
    holds at most two per site.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._held: dict[str, str] = {}
        self._pinned: set[str] = set()

    def __contains__(self, site: str) -> bool:
        return site in self._held

    def put(self, site: str, owed: Mapping[str, Any], memory: Mapping[str, Any]) -> None:
        """Keeps what this site owns now in place of what it owned before; durable when this returns."""
        tensors = {_OWED + name: array for name, array in owed.items()}
        tensors |= {_MEMORY + name: array for name, array in memory.items()}
        # the name keeps blobs of sites that own the same apart: other processes use the store too
        digest = self.store.put(save_tensors(tensors, metadata={"site": site}))
        before = self._held.get(site)
        self._held[site] = digest
        if before is not None and before != digest and before not in self._pinned:
            self.store.forget(before)

    def adopt(self, site: str, digest: str) -> None:
        """From now on this blob, which the store has, is the site's."""
        self._held[site] = digest

    def take(self, site: str) -> tuple[Tensors, Tensors]:
        """The residual and the memory of a site."""
        tensors = read_tensors(self.store, self._held[site])
        owed = {name.removeprefix(_OWED): a for name, a in tensors.items() if name.startswith(_OWED)}
        memory = {name.removeprefix(_MEMORY): a for name, a in tensors.items() if name.startswith(_MEMORY)}
        return owed, memory

    def pin(self, sites: Iterable[str]) -> dict[str, str]:
        """The digests of these sites' blobs, which stay until the next call."""
        digests = {site: self._held[site] for site in sites}
        self._pinned = set(digests.values())
        return digests


def read_tensors(store: Store, digest: str) -> Tensors:
    """The tensors in a safetensors blob.

    Raises:
        StateError: the blob is not safetensors.
    """
    try:
        return dict(load_tensors(store.get(digest)))
    except SafetensorError as error:
        raise StateError(f"blob {digest[:12]} of the snapshot is damaged: {error}") from error
