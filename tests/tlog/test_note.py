from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError, FormatError, ProofError
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer, VerifierKey, cosigned_time
from phloem.tlog.note import Note, opened, signed

ALICE = Signer.from_seed("example.org/alice", NOTE, bytes(range(32)))
BOB = Signer.from_seed("example.org/bob", NOTE, bytes(32))
CAROL = Signer.from_seed("example.org/carol", COSIGNATURE, bytes([7]) * 32)
TEXT = b"a text\n\nwith an empty line\n"


def test_a_note_opens_with_each_key_that_signed_it() -> None:
    data = signed(TEXT, [ALICE, CAROL], lambda: 1_700_000_000)
    for keys in ([ALICE.verifier], [CAROL.verifier], [BOB.verifier, ALICE.verifier, CAROL.verifier]):
        text, good = opened(data, keys)
        assert text == TEXT
        assert set(good) == set(keys) - {BOB.verifier}
    assert cosigned_time(opened(data, [CAROL.verifier])[1][CAROL.verifier]) == 1_700_000_000


def test_a_note_that_nobody_known_signed_is_not_opened() -> None:
    data = signed(TEXT, [ALICE])
    for keys in ([], [BOB.verifier], [VerifierKey("other", NOTE, ALICE.verifier.public)]):
        with pytest.raises(ProofError, match="no key that is known"):
            opened(data, keys)


def test_a_bad_signature_of_a_known_key_spoils_the_note_however_many_are_good() -> None:
    note = Note.unpack(signed(TEXT, [ALICE, BOB]))
    other = Note.unpack(signed(b"another\n", [BOB]))
    mixed = Note(TEXT, (note.signatures[0], other.signatures[0])).pack()
    with pytest.raises(ProofError, match=r"example\.org/bob"):
        opened(mixed, [ALICE.verifier, BOB.verifier])
    assert opened(mixed, [ALICE.verifier])[0] == TEXT


def test_every_byte_of_a_note_matters() -> None:
    data = signed(TEXT, [ALICE, CAROL], lambda: 5)
    keys = [ALICE.verifier, CAROL.verifier]
    for place in range(len(data)):
        for bit in (1, 0x20, 0x80):
            changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                text, good = opened(changed, keys)
            except (FormatError, ProofError):
                continue
            assert text == TEXT  # a changed name or id is an unknown key, whose signature is ignored
            assert len(good) == 1
            assert place > len(TEXT)


def test_to_sign_again_replaces_the_older_signature() -> None:
    once = Note.unpack(signed(TEXT, [ALICE, CAROL], lambda: 5))
    twice = once.signed([CAROL], lambda: 6)
    assert len(twice.signatures) == 2
    assert cosigned_time(twice.verified([CAROL.verifier])[CAROL.verifier]) == 6


LINE = str(Note.unpack(signed(TEXT, [ALICE])).signatures[0]).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        TEXT,
        TEXT + b"\n",
        LINE,
        TEXT + LINE,
        TEXT + b"\n" + LINE[:-1],
        TEXT + b"\r\n" + LINE,
        TEXT + b"\n" + LINE.replace(b"\n", b"\r\n"),
        TEXT + b"\n" + LINE + LINE,
        TEXT + b"\n" + LINE + b"\n",
        TEXT + b"\n" + LINE.replace("—".encode(), b"-"),
        TEXT + b"\n" + LINE.replace(b" ", b"  ", 1),
        TEXT + b"\n" + LINE.replace(b"alice", b"al+ce"),
        TEXT + b"\n" + LINE.replace(b"alice", "al\u2003ice".encode()),
        TEXT + b"\n" + LINE.replace(b"=", b""),
        TEXT + b"\n" + "— example.org/alice AAAAAA==\n".encode(),
        TEXT + b"\n" + "— example.org/alice \n".encode(),
        TEXT + b"\n" + "—  AAAAAAAA\n".encode(),
        b"tab\there\n\n" + LINE,
        b"nul\0\n\n" + LINE,
        b"\xff\n\n" + LINE,
        b"x" * (1 << 20) + b"\n\n" + LINE,
        TEXT + b"\n" + b"".join(f"— k{i} AAAAAAAA\n".encode() for i in range(65)),
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Note.unpack(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_note_or_an_error_in_words(data: bytes) -> None:
    for whole in (data, TEXT + b"\n" + data, TEXT + b"\n" + "— a ".encode() + data + b"\n"):
        with contextlib.suppress(FormatError):
            assert Note.unpack(whole).pack() == whole


@pytest.mark.parametrize("text", [b"no newline", b"", b"tab\there\n", b"\xff\n"])
def test_no_such_text_is_signed(text: bytes) -> None:
    with pytest.raises(FormatError):
        signed(text, [ALICE])


def test_a_cosigner_needs_a_time() -> None:
    with pytest.raises(ConfigError, match="need a time"):
        signed(TEXT, [CAROL])


def test_keys_come_back_from_their_texts() -> None:
    for signer in (ALICE, CAROL, Signer.new("fresh")):
        assert VerifierKey.parse(str(signer.verifier)) == signer.verifier
        again = Signer.parse(signer.export())
        assert again.verifier == signer.verifier
        assert again.sign(TEXT, lambda: 1) == signer.sign(TEXT, lambda: 1)


def test_a_private_key_is_not_shown() -> None:
    seed = ALICE.export().rpartition("+")[2]
    assert seed not in repr(ALICE)
    for damaged in (ALICE.export()[:-4], ALICE.export().replace("alice", "bob"), "PRIVATE+KEY+x"):
        with pytest.raises(FormatError) as caught:
            Signer.parse(damaged)
        assert seed[:10] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        "a+00000000+",
        "a+0000000+AQ==",
        str(ALICE.verifier)[:-1],
        str(ALICE.verifier) + "=",
        str(ALICE.verifier).replace("alice", "alicf"),
        str(ALICE.verifier).replace("+", "++", 1),
        str(ALICE.verifier).upper(),
        " " + str(ALICE.verifier),
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        VerifierKey.parse(text)
