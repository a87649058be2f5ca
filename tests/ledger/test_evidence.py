"""Evidence against a log: found from two copies, checked from nothing but the log's key, and not to be forged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.ledger.witnesses import LOG, ORIGIN
from tests.tlog.trees import Tree, path

from phloem.errors import FormatError, PhloemError, ProofError
from phloem.ledger.evidence import FIRST_LINE, Difference, Evidence, Inclusion, find_evidence
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer
from phloem.tlog.merkle import EMPTY_ROOT, Node, leaf_hash, tree_hash
from phloem.tlog.note import Note, signed

KEYS = [LOG.verifier]


def tree(size: int, differs_from: int | None = None) -> Tree:
    """A tree whose entries are others from `differs_from` on."""
    start = size if differs_from is None else differs_from
    return Tree([b"%d" % n if n < start else b"other %d" % n for n in range(size)])


def note_of(of: Tree, size: int | None = None, signer: Signer = LOG) -> bytes:
    size = of.size if size is None else size
    return signed(Checkpoint(ORIGIN, size, tree_hash(size, of.read)).pack(), [signer])


def between(one: Tree, other: Tree) -> Evidence | None:
    return find_evidence(one.read, note_of(one), other.read, note_of(other))


def a_difference() -> Evidence:
    found = between(tree(20), tree(33, 13))
    assert found is not None
    return found


def a_size_twice() -> Evidence:
    found = between(tree(20), tree(20, 13))
    assert found is not None
    return found


# -- found ---------------------------------------------------------------------------------------------------------


def test_every_fork_of_small_trees_is_found_at_its_first_entry_and_shown() -> None:
    for size in range(1, 18):
        for other in range(1, 18):
            for at in range(other):
                found = between(tree(size), tree(other, at))
                if at >= min(size, other):
                    assert found is None or size == other
                    continue
                assert found is not None
                if size == other:
                    assert found.difference is None
                else:
                    assert found.difference is not None
                    assert found.difference.index == at
                assert "two histories" in found.check(KEYS)
                assert Evidence.unpack(found.pack()) == found


def test_a_log_that_only_grew_gives_no_evidence() -> None:
    for size in range(18):
        for other in range(18):
            assert between(tree(size), tree(other)) is None


def test_to_find_it_little_is_read_of_a_large_log() -> None:
    one, other = tree(5000), tree(7001, 3210)
    first, second = note_of(one), note_of(other)
    asked: list[Node] = []

    def counted(of: Tree, nodes: Sequence[Node]) -> list[bytes]:
        asked.extend(nodes)
        return of.read(nodes)

    found = find_evidence(
        lambda nodes: counted(one, nodes), first, lambda nodes: counted(other, nodes), second
    )
    assert found is not None
    assert found.difference is not None
    assert found.difference.index == 3210
    assert len(asked) < 200
    assert found.check(KEYS).count("3210") == 1


def test_the_finding_says_what_happened_in_a_sentence() -> None:
    assert a_size_twice().check(KEYS) == (
        f"the log '{ORIGIN}' signed two different trees of 20 entries, with the key {LOG.verifier}: "
        "it showed two histories"
    )
    assert a_difference().check(KEYS) == (
        f"the log '{ORIGIN}' signed a tree of 20 entries and one of 33 in which entry 13 is another, "
        f"with the key {LOG.verifier}: it showed two histories"
    )


def test_what_is_not_the_checkpoints_tree_is_no_ground_for_evidence() -> None:
    one, other = tree(20), tree(33, 13)
    with pytest.raises(ProofError, match="does not have its checkpoint's root"):
        find_evidence(one.read, note_of(one), tree(33, 12).read, note_of(other))
    note = signed(Checkpoint("example.org/other", 20, tree_hash(20, one.read)).pack(), [LOG])
    with pytest.raises(ProofError, match="two logs"):
        find_evidence(one.read, note, other.read, note_of(other))
    other.nodes[Node(0, 13)] = leaf_hash(b"neither")
    with pytest.raises(ProofError, match="nodes that do not fit"):
        find_evidence(one.read, note_of(one), other.read, note_of(other))


def test_two_empty_trees_with_different_roots_are_a_lie() -> None:
    notes = [signed(Checkpoint(ORIGIN, 0, root).pack(), [LOG]) for root in (EMPTY_ROOT, bytes(32))]
    assert "two different trees of 0 entries" in Evidence(*notes).check(KEYS)


# -- the file ------------------------------------------------------------------------------------------------------


def test_the_file_can_be_read_by_people() -> None:
    evidence = a_difference()
    lines = evidence.pack().decode().split("\n")
    assert lines[:2] == [FIRST_LINE, "index 13"]
    assert lines[2].startswith("first ")
    assert [line.partition(" ")[0] for line in lines].count("second") == 1
    assert lines.count(ORIGIN) == 2
    assert a_size_twice().pack() == f"{FIRST_LINE}\n\n".encode() + b"\n".join(
        (a_size_twice().first_note, a_size_twice().second_note)
    )


def test_cosignatures_on_the_notes_come_along() -> None:
    witness = Signer.from_seed("w", COSIGNATURE, bytes(32))
    found = a_difference()
    more = Evidence(
        found.first_note,
        Note.unpack(found.second_note).signed([witness], lambda: 1).pack(),
        found.difference,
    )
    assert Evidence.unpack(more.pack()) == more
    more.check(KEYS)


@pytest.mark.parametrize("evidence", [a_difference(), a_size_twice()], ids=["difference", "size"])
def test_every_byte_changed_left_out_or_added_is_noticed(evidence: Evidence) -> None:
    data = evidence.pack()
    for place in range(len(data)):
        for changed in (
            data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :],
            data[:place] + data[place + 1 :],
            data[:place],
            data[:place] + b"A" + data[place:],
        ):
            with pytest.raises((FormatError, ProofError)):
                Evidence.unpack(changed).check(KEYS)
    for longer in (data + b"x", data + b"\n", b"\n" + data):
        with pytest.raises((FormatError, ProofError)):
            Evidence.unpack(longer).check(KEYS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n\n\n\n\n\n\n",
        b"\xff" * 100,
        b"phloem/evidence@v2" + a_difference().pack()[18:],
        a_difference().pack().replace(b"index 13\n", b""),
        a_difference().pack().replace(b"index 13\n", b"index 013\n"),
        a_difference().pack().replace(b"index 13\n", b"index 13\n\n"),
        a_difference().pack().replace(b"index 13\n", b"index 13\nindex 13\n"),
        a_difference().pack().replace(b"second ", b"third "),
        a_difference().pack().replace(b"second ", b"second  "),
        a_difference().pack().replace(b"first ", b"second "),
        a_difference().pack().replace(b"second ", (b"A" * 43 + b"=\n") * 64 + b"second "),
        f"{FIRST_LINE}\nindex 1".encode() + a_size_twice().pack()[18:],
        f"{FIRST_LINE}\nsecond 1".encode() + a_size_twice().pack()[18:],
        a_size_twice().pack().replace(b"\n", b"\r\n"),
        a_size_twice().pack() + b"x" * (4 << 20),
        FIRST_LINE.encode() + b"\n\n" + signed(b"no checkpoint\n", [LOG]) + b"\n" + a_size_twice().first_note,
    ],
)
def test_what_is_no_evidence_is_no_evidence(data: bytes) -> None:
    with pytest.raises(FormatError):
        Evidence.unpack(data)


# -- forged --------------------------------------------------------------------------------------------------------


def test_an_honest_log_cannot_be_accused() -> None:
    """With any index, leaf and path of hashes of its trees."""
    one, other = tree(6), tree(7)
    first, second = note_of(one), note_of(other)
    entries = [b"%d" % n for n in range(7)]
    everything = [*set(one.nodes.values()), *set(other.nodes.values())]
    with pytest.raises(ProofError, match="may both be true"):
        Evidence(first, second).check(KEYS)
    with pytest.raises(ProofError, match="the same root"):
        Evidence(first, first).check(KEYS)
    for index in range(7):
        for leaf in everything:
            for other_leaf in everything:
                difference = Difference(
                    index,
                    Inclusion(leaf, tuple(path(index, entries[:6])) if index < 6 else ()),
                    Inclusion(other_leaf, tuple(path(index, entries))),
                )
                with pytest.raises(ProofError):
                    Evidence(first, second, difference).check(KEYS)


def test_a_node_cannot_stand_for_a_leaf() -> None:
    one, other = tree(8), tree(9)
    inner = Inclusion(one.nodes[Node(1, 0)], tuple(path(0, [b"%d" % n for n in range(8)])[1:]))
    honest = Inclusion(leaf_hash(b"0"), tuple(path(0, [b"%d" % n for n in range(9)])))
    with pytest.raises(ProofError):
        Evidence(note_of(one), note_of(other), Difference(0, inner, honest)).check(KEYS)


@pytest.mark.parametrize("evidence", [a_difference(), a_size_twice()], ids=["difference", "size"])
def test_only_what_one_key_of_the_log_signed_counts(evidence: Evidence) -> None:
    stranger = Signer.new(ORIGIN, NOTE)
    with pytest.raises(ProofError, match="no known key"):
        evidence.check([])
    with pytest.raises(ProofError, match="no known key"):
        evidence.check([stranger.verifier])
    mixed = Evidence(
        signed(Note.unpack(evidence.first_note).text, [stranger]), evidence.second_note, evidence.difference
    )
    with pytest.raises(ProofError, match="no known key"):
        mixed.check([LOG.verifier, stranger.verifier])
    other_name = Signer.from_seed("example.org/other", NOTE, bytes(32))
    with pytest.raises(ProofError, match="no known key"):
        evidence.check([other_name.verifier])


def test_two_logs_need_not_agree() -> None:
    text = Note.unpack(a_size_twice().first_note).text.replace(ORIGIN.encode(), b"example.org/other")
    with pytest.raises(ProofError, match="two logs"):
        Evidence(signed(text, [LOG]), a_size_twice().second_note).check(KEYS)


def test_whatever_is_wrong_is_said_in_one_sentence() -> None:
    for data in (b"", b"\n\n" * 4, a_size_twice().pack()[:-3]):
        with pytest.raises(PhloemError) as found:
            Evidence.unpack(data)
        assert found.value.message
        assert "\n" not in found.value.message
