"""What the ledger attaches to messages: read strictly, whatever somebody sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger import golden
from tests.ledger.samples import COORDINATOR, POLICY, RUN, check_words, notice, word
from tests.ledger.test_record import CLAIMS, RECORDS, SEEN

from phloem.errors import FormatError
from phloem.ledger.notice import Covered, Introduction, Notice, Own, Word

PLACES = st.integers(0, (1 << 64) - 1)
HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple)
MORE = st.lists(st.tuples(PLACES, HASHES), max_size=4).map(tuple)
NOTICES = st.builds(
    Notice,
    st.none() | RECORDS,
    st.just(b"") | st.binary(min_size=4, max_size=4),
    st.none()
    | st.builds(Introduction, st.text(max_size=400), st.binary(max_size=600), st.text(max_size=400)),
    st.none() | st.builds(Covered, st.binary(max_size=300), PLACES, HASHES, PLACES, HASHES, MORE),
    st.none() | st.builds(Own, PLACES, HASHES),
)
WORDS = st.builds(Word, st.none() | RECORDS, st.none() | CLAIMS, st.none() | SEEN)


@given(NOTICES)
def test_every_notice_comes_back(found: Notice) -> None:
    assert Notice.unpack(found.pack()) == found


@given(WORDS)
def test_every_word_comes_back(found: Word) -> None:
    assert Word.unpack(found.pack()) == found


def test_who_has_nothing_to_say_sends_nothing() -> None:
    assert Word().pack() == b""
    assert Word.unpack(b"") == Word()
    with pytest.raises(FormatError, match="says nothing"):
        Word.unpack(b"\x22\x00")


def test_the_golden_notice_and_word_are_these_parts_by_hand() -> None:
    found = golden.read("notice.bin")
    intro = [RUN.encode(), POLICY.pack(), str(COORDINATOR.verifier).encode()]
    head = b"\x21\x5f" + b"".join(bytes([len(part)]) + part for part in intro) + bytes.fromhex("43f838a2")
    assert found.startswith(head)
    assert Notice.unpack(found) == notice()
    said = golden.read("word.bin")
    assert said[:2] == b"\x22\x0d"
    assert said[2:].startswith(golden.read("claim.bin") + golden.read("record.bin") + b"\x09")
    assert Word.unpack(said) == word()


@pytest.mark.parametrize("kind", [Notice, Word])
def test_cut_short_at_every_length_it_is_refused_and_so_is_what_follows_it(
    kind: type[Notice] | type[Word],
) -> None:
    data = golden.read("notice.bin" if kind is Notice else "word.bin")
    for size in range(1, len(data)):
        with pytest.raises(FormatError):
            kind.unpack(data[:size])
    with pytest.raises(FormatError, match="after its end"):
        kind.unpack(data + b"\0")


def test_nothing_at_all_is_no_notice() -> None:
    with pytest.raises(FormatError, match="a notice ends after 0 bytes"):
        Notice.unpack(b"")


@pytest.mark.parametrize("kind", [Notice, Word])
@given(st.binary(max_size=200))
def test_whatever_comes_is_the_one_or_refused(kind: type[Notice] | type[Word], data: bytes) -> None:
    for head in (b"", b"\x21", b"\x22", b"\x21\x5f", b"\x22\x0d", b"\x21\x01", b"\x21\x08", b"\x22\x01"):
        try:
            found = kind.unpack(head + data)
        except FormatError as error:
            check_words(error)
        else:
            assert found.pack() == head + data


@pytest.mark.parametrize("kind", [Notice, Word])
def test_every_bit_of_it_makes_another_or_none(kind: type[Notice] | type[Word]) -> None:
    data = golden.read("notice.bin" if kind is Notice else "word.bin")
    good = kind.unpack(data)
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        try:
            assert kind.unpack(bytes(changed)) != good
        except FormatError as error:
            check_words(error)


def test_another_kind_of_message_and_unknown_flags_are_refused() -> None:
    with pytest.raises(FormatError, match="expected a notice of the ledger, found a message of kind 0x22"):
        Notice.unpack(golden.read("word.bin"))
    with pytest.raises(FormatError, match="expected a word of the ledger, found a message of kind 0x21"):
        Word.unpack(golden.read("notice.bin"))
    with pytest.raises(FormatError, match="unknown flags 0x20"):
        Notice.unpack(b"\x21\x20")
    for flags in (2, 16, 0x80):
        with pytest.raises(FormatError, match="unknown flags"):
            Word.unpack(bytes([0x22, flags]))


def test_lengths_that_nobody_could_hold_are_refused_at_once() -> None:
    huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    for data in (b"\x21\x01" + huge, b"\x21\x08" + huge, b"\x21\x08\x00\x00" + huge, b"\x21\x10\x00" + huge):
        with pytest.raises(FormatError, match="inside a field"):
            Notice.unpack(data)
