"""One point to stand again on: facts as JSON, and the blobs that they name, in a store of their own."""

from __future__ import annotations

from typing import Any

from phloem import canonical
from phloem.store.files import Store


def save_snapshot(store: Store, name: str, snapshot: dict[str, Any]) -> None:
    """Makes `snapshot` (facts, and digests of blobs in `store`) what `name` stands for; forgets all other blobs.

    A crash leaves the snapshot before or this one, never a mixture.
    """
    before = store.read(name)
    digest = store.put(canonical.dumps(snapshot))
    store.swap(name, before, digest)
    needed = {digest, *named_digests(snapshot)}
    for blob in list(store.digests()):
        if blob not in needed:
            store.forget(blob)


def load_snapshot(store: Store, name: str) -> dict[str, Any] | None:
    """What `save_snapshot` saved last under `name`, or None before the first.

    Raises:
        FormatError: the snapshot is damaged.
    """
    digest = store.read(name)
    if digest is None:
        return None
    snapshot: dict[str, Any] = canonical.loads(store.get(digest))
    return snapshot


def named_digests(value: Any) -> set[str]:
    """Every string in `value` that may name a blob."""
    if isinstance(value, dict):
        return set().union(*(named_digests(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(named_digests(item) for item in value))
    return {value} if isinstance(value, str) and len(value) == 64 else set()
