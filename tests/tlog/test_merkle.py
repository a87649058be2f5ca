from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tlog.trees import Tree, mth, path, proof

from phloem.errors import ConfigError, ProofError
from phloem.tlog.merkle import (
    EMPTY_ROOT,
    added_nodes,
    check_consistency,
    check_inclusion,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    tree_hash,
)

MOST = 70
ENTRIES = [b"entry %d" % number for number in range(MOST)]
TREE = Tree(ENTRIES)
ROOTS = [mth(ENTRIES[:size]) for size in range(MOST + 1)]


def test_the_root_of_every_size_is_that_of_the_definition() -> None:
    assert [tree_hash(size, TREE.read) for size in range(MOST + 1)] == ROOTS
    assert ROOTS[0] == EMPTY_ROOT


def test_every_inclusion_proof_is_that_of_the_definition_and_holds() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            found = prove_inclusion(index, size, TREE.read)
            assert found == path(index, ENTRIES[:size])
            check_inclusion(index, size, leaf_hash(ENTRIES[index]), found, ROOTS[size])


def test_every_consistency_proof_is_that_of_the_definition_and_holds() -> None:
    for size in range(1, MOST + 1):
        for old in range(1, size + 1):
            found = prove_consistency(old, size, TREE.read)
            assert found == proof(old, ENTRIES[:size])
            check_consistency(old, size, ROOTS[old], ROOTS[size], found)


def test_proofs_in_larger_trees_are_those_of_the_definition() -> None:
    draw = random.Random(1)
    entries = [b"%d" % number for number in range(2100)]
    tree = Tree(entries)
    for _ in range(60):
        size = draw.choice(
            [draw.randrange(2, len(entries)), 1 << draw.randrange(1, 12), 1024 + draw.randrange(3)]
        )
        index, old = draw.randrange(size), draw.randrange(1, size + 1)
        assert prove_inclusion(index, size, tree.read) == path(index, entries[:size])
        assert prove_consistency(old, size, tree.read) == proof(old, entries[:size])


def test_a_proof_asks_for_its_nodes_once() -> None:
    tree = Tree(ENTRIES)
    tree.reads = 0
    prove_inclusion(11, MOST, tree.read)
    prove_consistency(11, MOST, tree.read)
    tree_hash(MOST, tree.read)
    assert tree.reads == 3


def test_all_nodes_added_one_by_one_are_all_complete_subtrees() -> None:
    added = [node for index in range(MOST) for node in added_nodes(index)]
    assert len(added) == len(set(added))
    assert set(added) == {(level, i) for level in range(8) for i in range(MOST >> level)}


def test_a_proof_holds_for_nothing_else() -> None:
    draw = random.Random(0)
    for _ in range(400):
        size = draw.randrange(2, MOST + 1)
        index = draw.randrange(size)
        found = prove_inclusion(index, size, TREE.read)
        leaf = leaf_hash(ENTRIES[index])
        other = draw.choice([i for i in range(MOST + 2) if i != index])
        for wrong in (
            (other, size, leaf, found, ROOTS[size]),
            (index, size, leaf_hash(b"other"), found, ROOTS[size]),
            (index, size, leaf, found, ROOTS[size - 1]),
            (index, size, leaf, [*found, leaf], ROOTS[size]),
            (index, size, leaf, found[:-1], ROOTS[size]),
            (index, size, leaf, found[::-1], ROOTS[size]) if len(set(found)) > 1 else None,
        ):
            if wrong is not None:
                with pytest.raises(ProofError):
                    check_inclusion(*wrong)


@given(st.integers(1, MOST - 1), st.integers(0, MOST), st.data())
def test_one_flipped_bit_anywhere_is_found(old: int, more: int, data: st.DataObject) -> None:
    size = min(old + more, MOST)
    found = prove_consistency(old, size, TREE.read)
    parts = [ROOTS[old], ROOTS[size], *found]
    check_consistency(old, size, parts[0], parts[1], parts[2:])
    place = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, 255))
    parts[place] = (int.from_bytes(parts[place]) ^ 1 << bit).to_bytes(32)
    with pytest.raises(ProofError):
        check_consistency(old, size, parts[0], parts[1], parts[2:])


def test_of_the_empty_tree_nothing_is_proved() -> None:
    check_consistency(0, 5, EMPTY_ROOT, ROOTS[5], [])
    check_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    for wrong in (
        (0, 5, ROOTS[1], ROOTS[5], []),
        (0, 0, EMPTY_ROOT, ROOTS[1], []),
        (0, 5, EMPTY_ROOT, ROOTS[5], [ROOTS[1]]),
    ):
        with pytest.raises(ProofError):
            check_consistency(*wrong)


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (1, 1), (0, 0)])
def test_no_proof_of_an_entry_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ConfigError, match="expected an entry below"):
        prove_inclusion(index, size, TREE.read)
    with pytest.raises(ProofError):
        check_inclusion(index, size, ROOTS[1], [], ROOTS[1])


@pytest.mark.parametrize(("old", "size"), [(0, 1), (2, 1), (-1, 1)])
def test_no_proof_from_a_size_that_was_not(old: int, size: int) -> None:
    with pytest.raises(ConfigError, match="expected an earlier size"):
        prove_consistency(old, size, TREE.read)


def test_hashes_of_other_lengths_and_giant_sizes_are_refused() -> None:
    with pytest.raises(ProofError, match="32 bytes"):
        check_inclusion(0, 2, ROOTS[1], [b"short"], ROOTS[2])
    with pytest.raises(ProofError, match="no entry"):
        check_inclusion(0, 1 << 63, ROOTS[1], [ROOTS[1]] * 63, ROOTS[2])
    with pytest.raises(ProofError, match="does not begin"):
        check_consistency(1, 1 << 63, ROOTS[1], ROOTS[2], [ROOTS[1]] * 63)
