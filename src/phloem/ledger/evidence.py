"""Evidence that a log showed two histories: two checkpoints that it signed, and why both cannot be true.

Of one size and two roots the checkpoints speak for themselves. Of two sizes, an impossible consistency proof cannot be
shown; what can be is an entry that is one under the first checkpoint and another under the second, by an inclusion
proof each. Whoever has the log's public key can check either, with no log at hand.

    phloem/evidence@v1
    index 17                                     the entry that differs; without it the sizes must be equal
    first BASE64                                 its leaf hash under the first checkpoint
    BASE64                                       the inclusion proof, a hash a line
    second BASE64                                its leaf hash under the second
    BASE64
                                                 an empty line
    the first checkpoint                         a signed note
                                                 an empty line
    the second checkpoint
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phloem.errors import FormatError, ProofError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import VerifierKey
from phloem.tlog.merkle import (
    LARGEST_SIZE,
    Node,
    ReadHashes,
    check_inclusion,
    prove_inclusion,
    tree_hash,
)
from phloem.tlog.note import LARGEST_NOTE, Note
from phloem.tlog.text import from_decimal, hash_from_base64, to_base64

FIRST_LINE = "phloem/evidence@v1"
_MOST_HASHES = 63


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A leaf hash and the inclusion proof that puts it where it is."""

    leaf: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The entry at `index` is `first` under the first checkpoint and `second` under the second."""

    index: int
    first: Inclusion
    second: Inclusion


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two checkpoints of one log; `difference` says why they disagree, where their sizes and roots do not."""

    first_note: bytes
    second_note: bytes
    difference: Difference | None = None

    def pack(self) -> bytes:
        """The evidence as it is written, to a file that people can read."""
        lines = [FIRST_LINE]
        if self.difference is not None:
            lines.append(f"index {self.difference.index}")
            for word, one in (("first", self.difference.first), ("second", self.difference.second)):
                lines += [f"{word} {to_base64(one.leaf)}", *map(to_base64, one.hashes)]
        head = "".join(f"{line}\n" for line in lines).encode()
        return b"\n".join((head, self.first_note, self.second_note))

    @classmethod
    def unpack(cls, data: bytes) -> Evidence:
        """The evidence in a file; `check` says whether it shows anything.

        Raises:
            FormatError: it is none.
        """
        if len(data) > 3 * LARGEST_NOTE:
            raise FormatError(f"evidence of {len(data)} bytes is too large")
        head, *parts = data.split(
            b"\n\n"
        )  # neither a checkpoint's text nor its signatures have an empty line
        if len(parts) != 4:
            raise FormatError("evidence has two signed checkpoints, each after an empty line")
        first, second = b"\n\n".join(parts[:2]) + b"\n", b"\n\n".join(parts[2:])
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise FormatError("the head of evidence is not ASCII") from error
        if lines.pop(0) != FIRST_LINE:
            raise FormatError(f"expected evidence, which begins with {FIRST_LINE}")
        for note in (first, second):
            Checkpoint.unpack(Note.unpack(note).text)
        return cls(first, second, _difference(lines) if lines else None)

    def check(self, keys: Iterable[VerifierKey]) -> str:
        """What the evidence shows of the log that one of `keys` belongs to, as a sentence.

        Raises:
            ProofError: it shows nothing. FormatError: its notes are no checkpoints.
        """
        notes = Note.unpack(self.first_note), Note.unpack(self.second_note)
        first, second = (Checkpoint.unpack(note.text) for note in notes)
        if first.origin != second.origin:
            raise ProofError(f"two logs, '{first.origin:.80}' and '{second.origin:.80}', need not agree")
        own = [key for key in keys if key.name == first.origin]
        one, other = (note.verified(own) for note in notes)
        key = next((key for key in own if key in one and key in other), None)
        if key is None:
            raise ProofError(f"no known key of the log '{first.origin:.80}' signed both checkpoints")
        if self.difference is not None:
            what = self._check_difference(self.difference, first, second)
        elif first.size != second.size:
            raise ProofError(
                f"checkpoints of {first.size} and {second.size} entries may both be true: "
                "nothing shows an entry that differs"
            )
        elif first.root == second.root:
            raise ProofError(f"both checkpoints of {first.size} entries have the same root")
        else:
            what = f"two different trees of {first.size} entries"
        return f"the log '{first.origin}' signed {what}, with the key {key}: it showed two histories"

    @staticmethod
    def _check_difference(found: Difference, first: Checkpoint, second: Checkpoint) -> str:
        check_inclusion(found.index, first.size, found.first.leaf, found.first.hashes, first.root)
        check_inclusion(found.index, second.size, found.second.leaf, found.second.hashes, second.root)
        if found.first.leaf == found.second.leaf:
            raise ProofError(f"entry {found.index} is the same under both checkpoints")
        return (
            f"a tree of {first.size} entries and one of {second.size} in which entry {found.index} is another"
        )


def find_evidence(
    first: ReadHashes, first_note: bytes, second: ReadHashes, second_note: bytes
) -> Evidence | None:
    """Evidence from two copies of a log and a checkpoint of each; None if one continues the other.

    Each reader has the nodes of its checkpoint's tree. About twice the logarithm of the size is read from each.

    Raises:
        FormatError: the notes are no checkpoints. ProofError: they are of two logs, or a reader is not of its own.
    """
    one, other = (Checkpoint.unpack(Note.unpack(note).text) for note in (first_note, second_note))
    if one.origin != other.origin:
        raise ProofError(f"two logs, '{one.origin:.80}' and '{other.origin:.80}', need not agree")
    for checkpoint, read in ((one, first), (other, second)):
        if tree_hash(checkpoint.size, read) != checkpoint.root:
            raise ProofError(f"the copy with {checkpoint.size} entries does not have its checkpoint's root")
    if one.size == other.size:
        return Evidence(first_note, second_note) if one.root != other.root else None
    index = _first_difference(min(one.size, other.size), first, second)
    if index is None:
        return None
    difference = Difference(index, _inclusion(index, one, first), _inclusion(index, other, second))
    return Evidence(first_note, second_note, difference)


def _first_difference(size: int, first: ReadHashes, second: ReadHashes) -> int | None:
    """The first of `size` entries that differs, found from the complete subtrees that both trees have."""
    for top in _complete_subtrees(size):
        if first([top]) == second([top]):
            continue
        node = top
        while node.level:
            left = Node(node.level - 1, 2 * node.number)
            node = left if first([left]) != second([left]) else Node(left.level, left.number + 1)
        return node.number
    return None


def _complete_subtrees(size: int) -> list[Node]:
    """The largest complete subtrees of a tree's first `size` entries, from the left."""
    nodes, start = [], 0
    while start < size:
        level = (size - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def _inclusion(index: int, checkpoint: Checkpoint, read: ReadHashes) -> Inclusion:
    leaf = read([Node(0, index)])[0]
    proof = prove_inclusion(index, checkpoint.size, read)
    try:
        check_inclusion(index, checkpoint.size, leaf, proof, checkpoint.root)
    except ProofError as error:
        raise ProofError(
            f"a copy with {checkpoint.size} entries has nodes that do not fit: {error}"
        ) from error
    return Inclusion(leaf, tuple(proof))


def _difference(lines: Sequence[str]) -> Difference:
    index, first, *rest = [*lines, ""]
    middle = next((place for place, line in enumerate(rest) if line.startswith("second ")), None)
    if not index.startswith("index ") or middle is None:
        raise FormatError("evidence of a difference has lines index, first and second")
    number = from_decimal(index.removeprefix("index "), "an entry's index", LARGEST_SIZE - 1)
    return Difference(
        number,
        _unpack_inclusion("first ", [first, *rest[:middle]]),
        _unpack_inclusion("second ", rest[middle:-1]),
    )


def _unpack_inclusion(word: str, lines: Sequence[str]) -> Inclusion:
    if not lines[0].startswith(word) or len(lines) - 1 > _MOST_HASHES:
        raise FormatError(f"expected '{word}' with a leaf hash, and at most {_MOST_HASHES} hashes after it")
    leaf = hash_from_base64(lines[0].removeprefix(word), "a leaf hash")
    return Inclusion(leaf, tuple(map(hash_from_base64, lines[1:])))
