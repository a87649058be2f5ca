"""Records and claims: small, and both ends make the very same entry of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger import golden
from tests.ledger.samples import (
    ANT,
    ANT_NEXT,
    BEE,
    BROADCAST,
    COORDINATOR,
    DIGESTS,
    FRAME_BYTES,
    NUMBERS,
    RUN,
    SALT,
    SOFTWARE,
    TIME,
    UPDATE,
    claim,
    digest,
    entry,
    record,
    statement,
)

from phloem import varint
from phloem.errors import FormatError, ProofError
from phloem.ledger.entry import Entry, Seen, Statement, key_name
from phloem.ledger.exchange import Base, Carried, Sent, codec_words
from phloem.ledger.record import (
    LARGEST_RECORD,
    Claim,
    Fields,
    Record,
    member_statement,
    pack_hashes,
    pack_string,
)
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer

LARGEST = (1 << 53) - 1  # that an entry takes
SIGNATURES = st.binary(min_size=64, max_size=64)
SEEN = st.builds(Seen, NUMBERS, st.binary(min_size=32, max_size=32))
RECORDS = st.builds(Record, NUMBERS, NUMBERS, st.binary(min_size=32, max_size=32), SEEN, SIGNATURES)
CLAIMS = st.builds(
    Claim, NUMBERS, NUMBERS, SEEN, st.text(max_size=400), st.text(max_size=400),
    st.lists(SIGNATURES, min_size=1, max_size=2).map(tuple),
)  # fmt: skip
BASES = st.builds(Base, DIGESTS, st.none() | DIGESTS)


def read(data: bytes) -> Record:
    fields = Fields(data, "a record")
    found = Record.read(fields)
    fields.end()
    return found


def read_claim(data: bytes) -> Claim:
    fields = Fields(data, "a claim")
    found = Claim.read(fields)
    fields.end()
    return found


# -- bytes ---------------------------------------------------------------------------------------------------------


def test_the_golden_record_is_its_fields_by_hand() -> None:
    data = golden.read("record.bin")
    head = bytes([7]) + bytes.fromhex("80f2d6ca06")  # seq; time, low seven bits first
    seen = bytes([5]) + bytes.fromhex(digest("root 5"))
    assert data[:-64] == head + SALT + seen
    assert data[-64:] == ANT.sign(
        b"DSSEv1 28 application/vnd.in-toto+json %d %s"
        % (len(entry("update").payload), entry("update").payload)
    )
    assert read(data) == record()
    assert len(data) == 135


def test_the_golden_claim_is_its_fields_by_hand() -> None:
    data = golden.read("claim.bin")
    head = bytes([8]) + bytes.fromhex("80f2d6ca06") + bytes([5]) + bytes.fromhex(digest("root 5"))
    key = str(ANT_NEXT.verifier).encode()
    texts = bytes([len(SOFTWARE)]) + SOFTWARE.encode() + bytes([len(key)]) + key
    assert data[:-128] == head + texts + bytes([2])
    assert read_claim(data) == claim()
    rotated = claim().entry(RUN, "ant", ANT.verifier)
    assert [signature for _, signature in rotated.signatures] == [data[-128:-64], data[-64:]]


@given(RECORDS)
def test_every_record_comes_back_and_is_no_longer_than_it_may_be(found: Record) -> None:
    data = found.pack()
    assert read(data) == found
    assert len(data) <= LARGEST_RECORD


def test_no_record_of_an_entry_is_longer_than_152_bytes() -> None:
    """Its length depends on three numbers, grows with each, and an entry takes none of more than 53 bits."""
    lengths = [len(varint.pack(1 << bit)) for bit in range(53)]
    assert lengths == sorted(lengths)
    assert len(varint.pack(LARGEST)) == lengths[-1] == 8
    largest = Record(LARGEST, LARGEST, SALT, Seen(LARGEST, bytes(32)), bytes(64))
    assert len(largest.pack()) == 3 * 8 + 32 + 32 + 64 == 152 <= LARGEST_RECORD
    for one in ("seq", "time"):
        with pytest.raises(FormatError, match="2\\^53"):
            replace(largest, **{one: LARGEST + 1}).entry(RUN, ANT.verifier, UPDATE, "coordinator")
    with pytest.raises(FormatError, match="2\\^53"):
        replace(largest, prev=Seen(LARGEST + 1)).entry(RUN, ANT.verifier, UPDATE, "coordinator")
    # Even what is refused then, all that can be written down at all, is no longer:
    widest = Record(2**64 - 1, 2**64 - 1, SALT, Seen(2**64 - 1), bytes(64))
    assert len(widest.pack()) == 3 * 10 + 128 <= LARGEST_RECORD


@given(CLAIMS)
def test_every_claim_comes_back(found: Claim) -> None:
    assert read_claim(found.pack()) == found


@pytest.mark.parametrize("name", ["record.bin", "claim.bin"])
def test_what_is_cut_short_or_goes_on_is_refused(name: str) -> None:
    data, take = golden.read(name), read if name == "record.bin" else read_claim
    for size in range(len(data)):
        with pytest.raises(FormatError, match=r"ends after|end inside|one signature or two"):
            take(data[:size])
    with pytest.raises(FormatError, match="goes on for 1 bytes after its end"):
        take(data + b"\0")


def test_a_claim_with_texts_that_are_none_is_refused() -> None:
    good = claim()
    for count in (0, 3, 255):
        data = bytearray(good.pack())
        data[-129] = count & 0x7F
        with pytest.raises(FormatError, match="one signature or two"):
            read_claim(bytes(data))
    long = replace(good, software="x" * 401).pack()
    with pytest.raises(FormatError, match="more than 400 characters"):
        read_claim(long)
    head = varint.pack(1) + varint.pack(1) + varint.pack(0) + bytes(32)
    with pytest.raises(FormatError, match="not UTF-8"):
        read_claim(head + pack_string(b"\xff") + pack_string(b"") + b"\1" + bytes(64))
    with pytest.raises(FormatError, match="ends after"):
        read_claim(head + varint.pack(1 << 62))


def test_numbers_have_one_spelling() -> None:
    data = golden.read("record.bin")
    with pytest.raises(FormatError, match="longer than it needs"):
        read(bytes([0x87, 0x00]) + data[1:])
    with pytest.raises(FormatError, match="longer than it needs"):
        read(bytes([0xFF] * 9 + [2]) + data[1:])


def test_hashes_that_are_not_there_are_not_waited_for() -> None:
    fields = Fields(varint.pack(1 << 63) + bytes(320), "a notice")
    with pytest.raises(FormatError, match="a notice ends after 330 bytes, inside a field"):
        fields.hashes()
    assert Fields(pack_hashes([bytes(32)] * 3), "").hashes() == (bytes(32),) * 3


# -- both ends -----------------------------------------------------------------------------------------------------


@given(
    st.builds(Sent, NUMBERS, BASES, st.binary(max_size=50), st.just("int8"), NUMBERS, st.just(""), NUMBERS),
    NUMBERS, NUMBERS, SEEN, st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_sender_and_receiver_make_the_same_entry_of_an_update(
    sent: Sent, seq: int, time: int, seen: Seen, salt: bytes
) -> None:
    said = Statement("update", RUN, "ant", seq, time, seen, sent.fields(salt, "coordinator"))
    made = said.signed(ANT)
    travelled = read(Record.of(made, salt).pack())
    again = travelled.entry(RUN, ANT.verifier, sent, "coordinator")
    assert again.pack() == made.pack()
    assert again.leaf == made.leaf


@pytest.mark.parametrize("form", ["held", "delta", "key-frame"])
def test_sender_and_receiver_make_the_same_entry_of_a_broadcast(form: str) -> None:
    sent = replace(BROADCAST, form=form)
    said = Statement("broadcast", RUN, "coordinator", 3, TIME, Seen(), sent.fields(SALT, ""))
    made = said.signed(COORDINATOR)
    again = read(Record.of(made, SALT).pack()).entry(RUN, COORDINATOR.verifier, sent, "")
    assert again.pack() == made.pack()


@pytest.mark.parametrize(
    "change",
    [
        {"round": 4},
        {"base": Base(digest("another"), digest("state 3"))},
        {"base": Base(digest("chain 3"))},
        {"frame": FRAME_BYTES + b"!"},
        {"codec": "int8"},
        {"raw_bytes": 4_001},
        {"examples": 161},
        {"form": "delta"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_receiver_that_was_sent_something_else_makes_no_entry(change: dict[str, object]) -> None:
    other = replace(UPDATE, **change)
    with pytest.raises(ProofError, match="not over this entry"):
        record().entry(RUN, ANT.verifier, other, "coordinator")


def test_neither_run_nor_receiver_nor_sender_nor_field_may_differ() -> None:
    made = record()
    assert made.entry(RUN, ANT.verifier, UPDATE, "coordinator").pack() == entry("update").pack()
    for run, key, to in (
        ("another", ANT.verifier, "coordinator"),
        (RUN, ANT_NEXT.verifier, "coordinator"),
        (RUN, BEE.verifier, "coordinator"),
        (RUN, ANT.verifier, "bee"),
    ):
        with pytest.raises(ProofError):
            made.entry(run, key, UPDATE, to)
    for other in (
        replace(made, seq=8),
        replace(made, time=TIME + 1),
        replace(made, salt=bytes(32)),
        replace(made, prev=Seen(6, made.prev.root)),
        replace(made, prev=Seen(5, bytes(32))),
        replace(made, signature=bytes(64)),
    ):
        with pytest.raises(ProofError):
            other.entry(RUN, ANT.verifier, UPDATE, "coordinator")


def test_every_bit_of_a_record_counts() -> None:
    data = golden.read("record.bin")
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises((FormatError, ProofError)):
            read(bytes(changed)).entry(RUN, ANT.verifier, UPDATE, "coordinator")


# -- claims --------------------------------------------------------------------------------------------------------


def test_a_claim_to_be_let_in_is_the_entry_that_the_site_signed() -> None:
    made = Claim.made(RUN, 0, TIME, Seen(), SOFTWARE, ANT)
    found = read_claim(made.pack()).entry(RUN, "ant", None)
    said = member_statement(RUN, "ant", 0, TIME, Seen(), ANT.verifier, "add", SOFTWARE)
    assert found.statement == said
    assert [name for name, _ in found.signatures] == [key_name(ANT.verifier)]
    assert Entry.unpack(found.pack()) == found
    assert found.statement["fingerprint"] == statement("member")["fingerprint"]


def test_a_claim_to_another_key_is_signed_with_both() -> None:
    found = read_claim(claim().pack()).entry(RUN, "ant", ANT.verifier)
    assert found.statement["action"] == "rotate"
    assert found.statement["key"] == str(ANT_NEXT.verifier)
    found.check_signed_by(ANT.verifier)
    found.check_signed_by(ANT_NEXT.verifier)


def test_a_claim_without_software_says_nothing_of_it() -> None:
    found = Claim.made(RUN, 0, TIME, Seen(), "", ANT).entry(RUN, "ant", None)
    assert "software" not in found.statement.fields


def test_claims_that_are_not_granted() -> None:
    first, change = Claim.made(RUN, 0, TIME, Seen(), SOFTWARE, ANT), claim()
    with pytest.raises(ProofError, match="'bee' claims a key of 'ant'"):
        first.entry(RUN, "bee", None)
    with pytest.raises(ProofError, match="needs the old key's and its own signature"):
        first.entry(RUN, "ant", BEE.verifier)
    with pytest.raises(ProofError, match="needs its own signature"):
        change.entry(RUN, "ant", None)
    with pytest.raises(ProofError, match="not over this entry"):
        first.entry("another", "ant", None)
    with pytest.raises(ProofError, match="not over this entry"):  # somebody else's key as the old one
        change.entry(RUN, "ant", Signer.from_seed("ant", NOTE, bytes(32)).verifier)
    for other in (
        replace(first, seq=1),
        replace(first, time=0),
        replace(first, software="another"),
        replace(first, prev=Seen(1)),
        replace(first, key=str(ANT_NEXT.verifier)),
        replace(first, signatures=(bytes(64),)),
        replace(change, signatures=(change.signatures[0], bytes(64))),
        replace(change, signatures=(bytes(64), change.signatures[1])),
        replace(change, signatures=change.signatures[::-1]),
    ):
        old = ANT.verifier if len(other.signatures) == 2 else None
        with pytest.raises(ProofError, match="not over this entry"):
            other.entry(RUN, "ant", old)


def test_a_claim_with_a_key_that_is_none_or_a_cosigner_s_is_refused() -> None:
    made = Claim.made(RUN, 0, TIME, Seen(), SOFTWARE, ANT)
    for key in ("", "ant", "ant+00000000+AAAA", "a nt+00000000+AAAA", "ant+43f838a2+"):
        with pytest.raises(FormatError):
            replace(made, key=key).entry(RUN, "ant", None)
    cosigner = Signer.from_seed("ant", COSIGNATURE, bytes(32))
    with pytest.raises(ProofError):
        replace(made, key=str(cosigner.verifier)).entry(RUN, "ant", None)
    with pytest.raises(FormatError, match="'software' must be a text"):
        replace(made, software="\x1b[2J").entry(RUN, "ant", None)


# -- what is sent --------------------------------------------------------------------------------------------------


def test_a_codec_is_named_by_its_configuration_or_its_hash() -> None:
    short, long = b'{"codec":"int8"}', b'{"codec":"' + b"x" * 400 + b'"}'
    assert codec_words(short) == short.decode()
    assert codec_words(long).startswith("sha256:")
    assert codec_words(long) != codec_words(long + b" ")


def test_what_is_sent_says_of_which_kind_its_entry_is() -> None:
    assert (UPDATE.kind, BROADCAST.kind) == ("update", "broadcast")
    assert UPDATE.fields(SALT, "coordinator") == dict(statement("update").fields)
    assert BROADCAST.fields(SALT, "") == dict(statement("broadcast").fields)
    assert Base("a").to_json() == {"chain": "a"}
    assert Carried("held") == Carried("held", b"", "none")
