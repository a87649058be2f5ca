"""Merkle trees over a list of entries: roots, proofs, and what proofs prove.

Source: RFC 6962 section 2.1 and RFC 9162 section 2.1, with SHA-256.

Every hash that anybody needs is folded from hashes of complete subtrees, the *nodes*. A store of nodes is one
function, `ReadHashes`; which nodes a question needs is computed apart from folding them:

    append      `added_hashes(index, leaf, read)` are the new nodes
    root        `tree_hash(size, read)`
    prove       `prove_inclusion(index, size, read)`, `prove_consistency(old, size, read)`
    check       `check_inclusion`, `check_consistency` need no tree at all, only roots
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from phloem.errors import ConfigError, ProofError

HASH_BYTES = 32
LARGEST_SIZE = (1 << 63) - 1
EMPTY_ROOT = sha256(b"").digest()


class Node(NamedTuple):
    """The complete subtree over the entries from number·2^level to before (number + 1)·2^level."""

    level: int
    number: int


_node = functools.partial(tuple.__new__, Node)  # `Node`, of a pair, in half the time
ReadHashes = Callable[[Sequence[Node]], Sequence[bytes]]
"""Gives the hash of each of these nodes, in their order."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node with these children."""
    return sha256(b"\x01" + left + right).digest()


# -- made from a tree ----------------------------------------------------------------------------------------------


def added_nodes(index: int) -> list[Node]:
    """The nodes that are complete once entry `index` is there, and were not before: its leaf first, then upwards."""
    return [Node(level, index >> level) for level in range(_trailing_zeros(index + 1) + 1)]


def added_hashes(index: int, leaf: bytes, read: ReadHashes) -> list[bytes]:
    """The hashes of `added_nodes(index)`, where the entry's own is `leaf`."""
    hashes = [leaf]
    lefts = read([Node(node.level - 1, 2 * node.number) for node in added_nodes(index)[1:]])
    for left in lefts:
        hashes.append(node_hash(left, hashes[-1]))
    return hashes


def tree_hash(size: int, read: ReadHashes) -> bytes:
    """The root over the first `size` entries."""
    return _fold(tuple(read(_cover(0, size)))) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, read: ReadHashes) -> list[bytes]:
    """The proof that the tree over `size` entries has entry `index` (RFC 9162 section 2.1.3.1).

    Raises:
        ConfigError: there is no such entry.
    """
    if not 0 <= index < size:
        raise ConfigError(f"expected an entry below {size}, the tree's size, found {index}")
    return _siblings([], Node(0, index), size, read)


def prove_consistency(old: int, size: int, read: ReadHashes) -> list[bytes]:
    """The proof that the first `old` of `size` entries are the tree of that size (RFC 9162 section 2.1.4.1).

    It is the way to the root from the last of the nodes that the old tree is folded from.

    Raises:
        ConfigError: `old` is not from 1 to `size`: every tree begins with the empty one, and none with a larger one.
    """
    if not 0 < old <= size:
        raise ConfigError(f"expected an earlier size from 1 to {size}, found {old}")
    if old == size:
        return []
    level = _trailing_zeros(old)
    last = Node(level, (old >> level) - 1)
    whole = last.number == 0  # the old tree is that node, whose hash the checker has
    return _siblings([] if whole else [last], last, size, read)


def _siblings(first: list[Node], node: Node, size: int, read: ReadHashes) -> list[bytes]:
    """The hashes of the nodes in `first`, then of the siblings on the way from a node to the root of `size` entries.

    Where the way meets the way from the last entry, what stands on the right may be no node and is folded from several.
    Below that every sibling is a node; above it there are only left ones, which are nodes as well.
    """
    level, number = node
    meet = (number ^ ((size - 1) >> level)).bit_length()  # so many levels up; 0: it is the same way
    nodes = first + [_node((level + up, (number >> up) ^ 1)) for up in range(meet - 1)]
    begin = len(nodes)
    if meet:
        nodes += _cover(((number >> (meet - 1)) ^ 1) << (level + meet - 1), size)
    end = len(nodes)
    lefts = [up for up in range(meet, number.bit_length()) if (number >> up) & 1]
    nodes += [_node((level + up, (number >> up) - 1)) for up in lefts]
    hashes = list(read(nodes))  # all at once
    if end - begin > 1:
        hashes[begin:end] = [_fold(tuple(hashes[begin:end]))]
    return hashes


# Both are remembered: proofs in one tree have the same right edge.
@functools.lru_cache(maxsize=256)
def _cover(start: int, end: int) -> tuple[Node, ...]:
    """The nodes that a subtree over these entries is folded from, the largest first."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return tuple(nodes)


@functools.lru_cache(maxsize=256)
def _fold(hashes: tuple[bytes, ...]) -> bytes:
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


# -- checked without a tree ----------------------------------------------------------------------------------------


def check_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Nothing, if `proof` shows that the tree with `root` has the leaf hash `leaf` at `index`.

    Source: RFC 9162 section 2.1.3.2.

    Raises:
        ProofError: it does not show that.
    """
    _check_hashes([leaf, root, *proof])
    if not 0 <= index < size <= LARGEST_SIZE:
        raise ProofError(f"a tree of {size} entries has no entry {index}")
    place, last, folded = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError(
                f"an inclusion proof of {len(proof)} hashes is too long for entry {index} of {size}"
            )
        if place & 1 or place == last:
            folded = node_hash(sibling, folded)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            folded = node_hash(folded, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(
            f"an inclusion proof of {len(proof)} hashes is too short for entry {index} of {size}"
        )
    if folded != root:
        raise ProofError(f"the inclusion proof of entry {index} of {size} leads to another root")


def check_consistency(old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    """Nothing, if `proof` shows that the tree with `root` begins with the one of `old` entries and `old_root`.

    Source: RFC 9162 section 2.1.4.2. Of the empty tree nothing needs to be shown, and no proof is taken.

    Raises:
        ProofError: it does not show that.
    """
    _check_hashes([old_root, root, *proof])
    what = f"the consistency proof from {old} to {size} entries"
    if not 0 <= old <= size <= LARGEST_SIZE:
        raise ProofError(f"a tree of {size} entries does not begin with one of {old}")
    if old == 0 and old_root != EMPTY_ROOT:
        raise ProofError("the root of no entries is not that of the empty tree")
    if old == size and old_root != root:
        raise ProofError(f"two trees of {size} entries have different roots")
    if old in (0, size):
        if proof:
            raise ProofError(f"{what} has {len(proof)} hashes, and there is nothing to prove")
        return
    hashes = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not hashes:
        raise ProofError(f"{what} is empty")
    before, after = _folded_twice(old, size, hashes, what)
    if before != old_root:
        raise ProofError(f"{what} leads to another root of the first {old}")
    if after != root:
        raise ProofError(f"{what} leads to another root of all {size}")


def _folded_twice(old: int, size: int, hashes: Sequence[bytes], what: str) -> tuple[bytes, bytes]:
    """The roots of both sizes that the hashes of a consistency proof, the first subtree's first, lead to."""
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ProofError(f"{what} is too long")
        if place & 1 or place == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofError(f"{what} is too short")
    return before, after


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for found in hashes:
        if len(found) != HASH_BYTES:
            raise ProofError(f"expected hashes of {HASH_BYTES} bytes, found one of {len(found)}")


def _trailing_zeros(n: int) -> int:
    return (n & -n).bit_length() - 1
