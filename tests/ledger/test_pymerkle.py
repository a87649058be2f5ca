"""Our trees against pymerkle's, another implementation of RFC 9162: the same roots, and proofs that the other believes.

It counts entries from one, puts the leaf into an inclusion proof, and says with each hash on which side it stands. Its
consistency proof is the way up from the first new entry, where that of the RFC is the way up from the last old node.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.tlog.trees import Tree, split

from phloem.errors import ProofError
from phloem.tlog.merkle import (
    check_consistency,
    check_inclusion,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    tree_hash,
)

pymerkle = pytest.importorskip(
    "pymerkle", reason="pymerkle, a second implementation of trees, is not installed"
)

MOST = 300
ENTRIES = [b"entry %d" % number for number in range(MOST)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
TREE = Tree(ENTRIES)
ROOTS = [tree_hash(size, TREE.read) for size in range(MOST + 1)]


@pytest.fixture(scope="module")
def other() -> Any:
    """Their tree of the same entries."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in ENTRIES:
        tree.append_entry(entry)
    return tree


def pairs(draw: random.Random, few: int = 40, many: int = 1500) -> list[tuple[int, int]]:
    """All (number, size) with number < size ≤ few, and some of the larger ones."""
    small = [(number, size) for size in range(1, few + 1) for number in range(size)]
    sizes = [draw.randrange(few + 1, MOST + 1) for _ in range(many)]
    return small + [(draw.randrange(size), size) for size in sizes]


def sides(index: int, size: int) -> list[int]:
    """For each sibling on the way up from an entry, whether it stands on the left."""
    if size == 1:
        return []
    k = split(size)
    return [*sides(index, k), 0] if index < k else [*sides(index - k, size - k), 1]


def their_inclusion(index: int, size: int, proof: list[bytes]) -> Any:
    return pymerkle.MerkleProof.deserialize(
        {
            "type": "inclusion",
            "metadata": {"algorithm": "sha256", "security": True, "size": size, "index": index + 1},
            "rule": [*sides(index, size), 0],
            "path": [found.hex() for found in (LEAVES[index], *proof)],
        }
    )


def their_consistency(old: int, size: int, proof: list[bytes]) -> Any:
    """`proof` is that the tree of `size` entries has entry `old`, the first new one."""
    left = sides(old, size) if old < size else []
    return pymerkle.MerkleProof.deserialize(
        {
            "type": "consistency",
            "metadata": {"algorithm": "sha256", "security": True, "size": size, "prior_size": old},
            "rule": [*left, 0],
            "subset": [int(old == size), *left],
            "path": [found.hex() for found in (LEAVES[old] if old < size else ROOTS[size], *proof)],
        }
    )


def our_consistency(old: int, size: int, path: list[bytes]) -> list[bytes]:
    """The RFC's proof, out of theirs."""
    if old == size:
        return []
    first = 1 + sides(old, size).index(1)  # in the path; what stands before it is one right sibling
    right = path[0]
    for found in path[1:first]:
        right = node_hash(right, found)
    whole = old & (old - 1) == 0
    return [*([] if whole else [path[first]]), right, *path[first + 1 :]]


def test_the_roots_of_all_sizes_are_the_same(other: Any) -> None:
    assert [other.get_root(size) for size in range(MOST + 1)] == ROOTS
    assert [other.get_leaf(number + 1) for number in range(MOST)] == LEAVES


def test_their_proofs_hold_for_us(other: Any) -> None:
    for index, size in pairs(random.Random(1)):
        path = other.prove_inclusion(index + 1, size).path
        assert path[0] == LEAVES[index]
        assert path[1:] == prove_inclusion(index, size, TREE.read)
        check_inclusion(index, size, path[0], path[1:], ROOTS[size])
    for before, size in pairs(random.Random(2)):
        old = before + 1
        path = other.prove_consistency(old, size).path
        proof = our_consistency(old, size, path)
        assert proof == prove_consistency(old, size, TREE.read)
        check_consistency(old, size, ROOTS[old], ROOTS[size], proof)


def test_our_proofs_hold_for_them(other: Any) -> None:
    for index, size in pairs(random.Random(3)):
        proof = their_inclusion(index, size, prove_inclusion(index, size, TREE.read))
        assert proof.serialize() == other.prove_inclusion(index + 1, size).serialize()
        pymerkle.verify_inclusion(LEAVES[index], ROOTS[size], proof, index=index + 1, size=size)
    for before, size in pairs(random.Random(4)):
        old = before + 1
        way = prove_inclusion(old, size, TREE.read) if old < size else []
        proof = their_consistency(old, size, way)
        assert proof.serialize() == other.prove_consistency(old, size).serialize()
        pymerkle.verify_consistency(ROOTS[old], ROOTS[size], proof, prior_size=old, later_size=size)


def test_what_one_refuses_the_other_refuses() -> None:
    draw = random.Random(5)
    for index, size in pairs(draw, few=12, many=150):
        proof = prove_inclusion(index, size, TREE.read)
        if not proof:
            continue
        place = draw.randrange(len(proof))
        for wrong in (
            [*proof[:place], bytes(32), *proof[place + 1 :]],
            proof[:place] + proof[place + 1 :],
            [*proof, proof[-1]],
        ):
            with pytest.raises(pymerkle.InvalidProof):
                pymerkle.verify_inclusion(LEAVES[index], ROOTS[size], their_inclusion(index, size, wrong))
            with pytest.raises(ProofError):
                check_inclusion(index, size, LEAVES[index], wrong, ROOTS[size])
        with pytest.raises(pymerkle.InvalidProof):
            pymerkle.verify_inclusion(LEAVES[index], ROOTS[size - 1], their_inclusion(index, size, proof))
