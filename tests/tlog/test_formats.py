"""Checkpoints, tiles, receipts and policies: written, read back, and refused where they are none."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tlog.trees import Tree, mth

from phloem.errors import FormatError, ProofError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer
from phloem.tlog.merkle import Node, leaf_hash, prove_consistency, prove_inclusion, tree_hash
from phloem.tlog.note import Note, signed
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt
from phloem.tlog.text import from_base64, from_decimal
from phloem.tlog.tiles import Tile, TileReader, entries_in, hashes_in, pack_bundle, pack_tile, tiles_of

LOG = Signer.from_seed("example.org/log", NOTE, bytes(32))
WITNESSES = [Signer.from_seed(f"w{n}.example", COSIGNATURE, bytes([n]) * 32) for n in range(1, 6)]
ROOT = mth([b"one"])


# -- numbers and base64 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "00", "01", "-1", "+1", " 1", "1 ", "1_0", "1.0", "0x1", "١", "9223372036854775808", "9" * 5000],
)
def test_numbers_have_one_spelling_and_an_end(text: str) -> None:
    with pytest.raises(FormatError):
        from_decimal(text, "it")


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAA", "AA=", "AB==", "AAB=", "A A=", "AAAA\n", "AAAA====", "-_8=", "ÄÄÄÄ"]
)
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(FormatError):
        from_base64(text, "it")


@given(st.integers(0, (1 << 63) - 1), st.binary(max_size=50))
def test_numbers_and_base64_come_back(number: int, data: bytes) -> None:
    from phloem.tlog.text import to_base64

    assert from_decimal(str(number), "it") == number
    assert from_base64(to_base64(data), "it", len(data)) == data


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [(), ("one", "two words")])
def test_a_checkpoint_comes_back(extensions: tuple[str, ...]) -> None:
    checkpoint = Checkpoint("example.org/log", 12, ROOT, extensions)
    assert Checkpoint.unpack(checkpoint.pack()) == checkpoint


GOOD = Checkpoint("o", 12, ROOT).pack()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"o\n", b"o\n12\n", GOOD[:-1], GOOD + b"\n", GOOD + b"x", b"\n" + GOOD, GOOD.replace(b"12", b"012"),
        GOOD.replace(b"12", b"-1"), GOOD.replace(b"12", b"9223372036854775808"), GOOD.replace(b"=", b""),
        GOOD.replace(b"o\n", b"\n"), GOOD.replace(b"o", b"\xff"), b"o\n12\nAAAA\n", GOOD.replace(b"\n", b"\r\n"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        Checkpoint.unpack(text)


# -- tiles ---------------------------------------------------------------------------------------------------------


def test_paths_are_those_of_the_specification() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(63, 5, 255).path == "tile/63/005.p/255"
    assert Tile(None, 999999, 1).path == "tile/entries/x999/999.p/1"


def test_a_log_of_70000_entries_has_the_tiles_of_the_specification() -> None:
    tiles = [tile for tile in tiles_of(70_000) if tile.level is not None]
    full = {level: sum(t.level == level and t.width == 256 for t in tiles) for level in range(3)}
    partial = {t.level: t.width for t in tiles if t.width < 256}
    assert full == {0: 273, 1: 1, 2: 0}
    assert partial == {0: 112, 1: 17, 2: 1}


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_a_grown_log_gets_the_tiles_that_it_lacks(since: int, more: int) -> None:
    assert set(tiles_of(since + more, since)) | set(tiles_of(since)) >= set(tiles_of(since + more))
    assert not set(tiles_of(since + more, since)) & set(tiles_of(since))


@given(st.integers(0, 1 << 40), st.sampled_from([None, 0, 7, 63]), st.integers(1, 256))
def test_paths_come_back(index: int, level: int | None, width: int) -> None:
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "tile", "tile/0", "tile/0/0", "tile/0/0001", "tile/00/000", "tile/64/000", "tile/0/001/000",
        "tile/0/x000/000",
        "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/../000", "/tile/0/000",
        "tile/0/000/", "tile/0/000\n", "tile/data/000", "tile/0/٠٠٠", "tile/0/" + "x001/" * 40 + "000",
    ],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(FormatError):
        Tile.parse(path)


SIZE = 70_000
ENTRIES = [b"%d" % number for number in range(SIZE)]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ENTRIES)


def test_nodes_read_from_tiles_are_those_of_the_tree_and_each_file_is_read_once(tree: Tree) -> None:
    files = {tile.path: pack_tile(tile, tree.read) for tile in tiles_of(SIZE) if tile.level is not None}
    read: list[str] = []

    def fetch(path: str) -> bytes:
        read.append(path)
        return files[path]

    reader = TileReader(SIZE, fetch)
    root = tree_hash(SIZE, tree.read)
    reader.check(root)
    draw = random.Random(1)
    for _ in range(50):
        index, old = draw.randrange(SIZE), draw.randrange(1, SIZE)
        assert prove_inclusion(index, SIZE, reader) == prove_inclusion(index, SIZE, tree.read)
        assert prove_consistency(old, SIZE, reader) == prove_consistency(old, SIZE, tree.read)
    assert len(read) == len(set(read))
    with pytest.raises(ProofError, match="do not give the checkpoint's root"):
        reader.check(ROOT)


def test_a_tile_of_another_size_is_refused() -> None:
    for size in (0, 31, 33, 8192):
        with pytest.raises(FormatError, match="expected 32"):
            hashes_in(Tile(0, 0, 1), bytes(size))


def test_bundles_come_back_and_damaged_ones_are_refused() -> None:
    entries = [b"", b"one", b"x" * 65_535]
    tile, content = Tile(None, 0, 3), pack_bundle(entries)
    assert entries_in(tile, content) == entries
    for damaged in (
        content[:-1],
        content + b"\0",
        content + b"\0\0",
        content[:1],
        b"",
        pack_bundle(entries[:2]),
    ):
        with pytest.raises(FormatError):
            entries_in(tile, damaged)
    with pytest.raises(FormatError, match="65536 bytes"):
        pack_bundle([b"x" * 65_536])


def test_a_reader_of_a_giant_log_reads_what_it_needs_only() -> None:
    paths: list[str] = []

    def fetch(path: str) -> bytes:
        paths.append(path)
        return bytes(32 * Tile.parse(path).width)

    size = (1 << 63) - 1
    TileReader(size, fetch)([Node(0, 5)])
    assert paths == ["tile/0/000"]
    assert len(prove_inclusion(size - 1, size, TileReader(size, fetch))) == 62
    with pytest.raises(FormatError):
        TileReader(1 << 63, fetch)


# -- policies ------------------------------------------------------------------------------------------------------


def policy_text(*lines: str) -> bytes:
    first = [f"log {LOG.verifier} https://example.org/log"]
    first += [f"witness w{n} {signer.verifier}" for n, signer in enumerate(WITNESSES)]
    return "".join(f"{line}\n" for line in [*first, *lines]).encode()


def checkpoint_by(*signers: Signer, size: int = 1) -> bytes:
    return signed(Checkpoint("example.org/log", size, ROOT).pack(), [LOG, *signers], lambda: 1_700_000_000)


@pytest.mark.parametrize(
    ("lines", "enough", "too_few"),
    [
        (["quorum none"], [], None),
        (["quorum w1"], [1], [0, 2, 3, 4]),
        (["group g any w0 w1", "quorum g"], [1], [2, 3, 4]),
        (["group g all w0 w1", "quorum g"], [0, 1], [0, 2, 3, 4]),
        (["group g 2 w0 w1 w2", "quorum g"], [0, 2], [1, 3, 4]),
        (
            ["group a 2 w0 w1 w2", "group b any w3 w4", "group both all a b", "quorum both"],
            [0, 1, 4],
            [0, 1, 2],
        ),
    ],
)
def test_a_quorum_is_reached_or_not(lines: list[str], enough: list[int], too_few: list[int] | None) -> None:
    policy = Policy.parse(policy_text(*lines))
    assert policy.check(checkpoint_by(*(WITNESSES[n] for n in enough))).size == 1
    if too_few is not None:
        with pytest.raises(ProofError, match="lacks the quorum"):
            policy.check(checkpoint_by(*(WITNESSES[n] for n in too_few)))


def test_a_policy_comes_back() -> None:
    policy = Policy.parse(policy_text("  # a comment", "", "\tgroup g  2\tw0 w1 w2 ", "quorum g"))
    assert Policy.parse(policy.pack()) == policy
    assert policy.urls == {LOG.verifier: "https://example.org/log"}


def test_names_and_urls_of_a_policy_may_be_any_bytes_and_keys_may_not() -> None:
    witness = str(WITNESSES[0].verifier).encode()
    text = b"log %s http://\xff/\nwitness \xfe\xff %s\nquorum \xfe\xff\n" % (
        str(LOG.verifier).encode(),
        witness,
    )
    assert Policy.parse(text).pack() == text
    with pytest.raises(FormatError, match="without spaces"):
        Policy.parse(b"log \xff+00000000+AQ==\nquorum none\n")


def test_a_checkpoint_of_another_log_or_under_another_name_is_refused() -> None:
    policy = Policy.parse(policy_text("quorum none"))
    other = Signer.from_seed("example.org/other", NOTE, bytes([9]) * 32)
    text = Checkpoint("example.org/log", 1, ROOT).pack()
    for note in (signed(text, [other]), signed(Checkpoint("example.org/other", 1, ROOT).pack(), [LOG])):
        with pytest.raises(ProofError, match="not signed by a log"):
            policy.check(note)
    with pytest.raises(FormatError):
        policy.check(signed(b"no checkpoint\n", [LOG]))


def test_one_bad_cosignature_of_a_known_witness_spoils_the_checkpoint() -> None:
    policy = Policy.parse(policy_text("quorum none"))
    good, other = Note.unpack(checkpoint_by()), Note.unpack(checkpoint_by(WITNESSES[0], size=2))
    mixed = Note(good.text, (*good.signatures, other.signatures[-1])).pack()
    with pytest.raises(ProofError, match=r"w1\.example"):
        policy.check(mixed)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["quorum"],
        ["quorum w9"],
        ["quorum none", "quorum none"],
        ["quorum g", "group g any w0"],
        ["group g any", "quorum g"],
        ["group g 0 w0", "quorum g"],
        ["group g 2 w0", "quorum g"],
        ["group g 01 w0", "quorum g"],
        ["group g any w0 w0", "quorum g"],
        ["group g any g", "quorum g"],
        ["group g any none", "quorum g"],
        ["group a any w0", "group b any w0", "quorum b"],
        ["group w0 any w1", "quorum w0"],
        ["group none any w1", "quorum none"],
        ["witness w0 x", "quorum none"],
        [f"witness again {WITNESSES[0].verifier}", "quorum none"],
        [f"witness again {LOG.verifier}", "quorum none"],
        [f"log {LOG.verifier}", "quorum none"],
        [f"log {LOG.verifier} a b", "quorum none"],
        ["nonsense", "quorum none"],
        ["quorum none\r"],
        ["quorum none\0"],
        ["quorum\u00a0none"],
    ],
)
def test_what_is_no_policy_is_refused(lines: list[str]) -> None:
    with pytest.raises(FormatError):
        Policy.parse(policy_text(*lines))


def test_a_policy_of_a_thousand_nested_groups_is_judged_and_a_larger_one_refused() -> None:
    lines = ["group g0 any w0", *(f"group g{n} all g{n - 1}" for n in range(1, 1000)), "quorum g999"]
    policy = Policy.parse(policy_text(*lines))
    assert policy.check(checkpoint_by(WITNESSES[0])).size == 1
    more = [f"group h{n} any w{n}" for n in range(1, 5)] + [f"group i{n} any h1" for n in range(40)]
    with pytest.raises(FormatError):
        Policy.parse(policy_text(*lines[:-1], *more, "quorum none"))


# -- receipts ------------------------------------------------------------------------------------------------------


def receipt_of(tree: Tree, index: int, extra: bytes | None = None) -> Receipt:
    size = 70_000
    checkpoint = Checkpoint("example.org/log", size, tree_hash(size, tree.read))
    note = signed(checkpoint.pack(), [LOG, *WITNESSES[:3]], lambda: 1_700_000_000)
    return Receipt(index, tuple(prove_inclusion(index, size, tree.read)), note, extra)


POLICY = Policy.parse(policy_text("group g 2 w0 w1 w2", "quorum g"))


def test_a_receipt_comes_back_holds_and_is_small(tree: Tree) -> None:
    for extra in (None, b"", b"anything"):
        receipt = receipt_of(tree, 12_345, extra)
        data = receipt.pack()
        assert Receipt.unpack(data) == receipt
        assert receipt.check(leaf_hash(ENTRIES[12_345]), POLICY).size == SIZE
        assert len(data) < 4_000


def test_a_receipt_holds_for_no_other_entry_index_or_quorum(tree: Tree) -> None:
    receipt = receipt_of(tree, 5)
    leaf = leaf_hash(ENTRIES[5])
    with pytest.raises(ProofError, match="another root"):
        receipt.check(leaf_hash(ENTRIES[6]), POLICY)
    for index in (4, 6, SIZE, SIZE - 1):
        with pytest.raises(ProofError):
            replace(receipt, index=index).check(leaf, POLICY)
    note = Note.unpack(receipt.note)
    with pytest.raises(ProofError, match="lacks the quorum"):
        replace(receipt, note=Note(note.text, note.signatures[:2]).pack()).check(leaf, POLICY)


def test_every_byte_of_a_receipt_flipped_is_detected_or_changes_nothing(tree: Tree) -> None:
    receipt = receipt_of(tree, 5, b"extra")
    leaf, data = leaf_hash(ENTRIES[5]), receipt.pack()
    unchanged = 0
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            found = Receipt.unpack(changed)
            checkpoint = found.check(leaf, POLICY)
        except (FormatError, ProofError):
            continue
        unchanged += 1
        assert (found.index, found.hashes) == (receipt.index, receipt.hashes)
        assert checkpoint == Checkpoint.unpack(Note.unpack(receipt.note).text)
    assert unchanged < 100  # the extra data, which is nobody's word, and one cosignature more than the quorum


@pytest.mark.parametrize("change", [
    lambda d: b"", lambda d: d[1:], lambda d: d.replace(b"v1", b"v2"), lambda d: d.replace(b"index 5", b"index 05"),
    lambda d: d.replace(b"index 5\n", b""), lambda d: d.replace(b"index 5", b"index 9223372036854775807"),
    lambda d: d.replace(b"\n", b"\r\n"), lambda d: d.replace(b"index", b"extra AAAA\nextra AAAA\nindex"),
    lambda d: d.replace(b"index 5\n", b"index 5\n" + b"A" * 43 + b"=\n" * 64), lambda d: d + b"\n",
    lambda d: d + b"x" * 3_000_000,
    lambda d: d.replace(b"\n\nexample", b"\nexample"),
])  # fmt: skip
def test_what_is_no_receipt_is_refused(tree: Tree, change: object) -> None:
    with pytest.raises(FormatError):
        Receipt.unpack(change(receipt_of(tree, 5).pack()))  # type: ignore[operator]
