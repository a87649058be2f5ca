"""Trees by the definitions of RFC 6962 section 2.1, word for word and slow; and one that keeps its nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from phloem.tlog.merkle import Node, added_hashes, added_nodes, leaf_hash


def mth(entries: Sequence[bytes]) -> bytes:
    """MTH(D[n])."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def proof(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n])."""
    return subproof(m, entries, True)


def subproof(m: int, entries: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = split(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


def split(n: int) -> int:
    """The largest power of two below n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


class Tree:
    """A tree that keeps every node, and counts how often it was asked."""

    def __init__(self, entries: Sequence[bytes] = ()) -> None:
        self.nodes: dict[Node, bytes] = {}
        self.size = self.reads = 0
        for entry in entries:
            self.append(entry)

    def append(self, entry: bytes) -> None:
        hashes = added_hashes(self.size, leaf_hash(entry), self.read)
        self.nodes.update(zip(added_nodes(self.size), hashes, strict=True))
        self.size += 1

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        self.reads += 1
        return [self.nodes[node] for node in nodes]
