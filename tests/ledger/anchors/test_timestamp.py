"""Proofs of the kind `rfc3161`, offline, with a token whose signer's certificate has long expired."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.ledger.anchors.notes import needs_tsa, note

from phloem import canonical
from phloem.errors import FormatError, NotFoundError, PhloemError, ProofError
from phloem.ledger.anchors.base import Anchored, Trust, hexed
from phloem.ledger.anchors.der import with_sorted_certificates
from phloem.ledger.anchors.proof import anchored, verify_anchor

GOLDEN = Path(__file__).parent / "golden"
DATA = (GOLDEN / "rfc3161.json").read_bytes()
NOTE = (GOLDEN / "checkpoint").read_bytes()
TRUST = Trust(tsa_roots=(GOLDEN / "roots.pem").read_bytes())
RESPONSE = bytes.fromhex(json.loads(DATA)["response"].removeprefix("0x"))
REFUSED = (FormatError, ProofError)

pytestmark = needs_tsa


def with_response(response: bytes) -> bytes:
    return canonical.dumps(json.loads(DATA) | {"response": hexed(response)})


def test_a_token_holds_after_its_certificate_is_over() -> None:
    found = verify_anchor(DATA, NOTE, TRUST)
    assert (found.size, found.kind) == (70_000, "rfc3161")
    assert found.details["authority"] == "CN=Test Authority"


def test_another_checkpoint_is_refused_or_undecided() -> None:
    with pytest.raises(ProofError, match="two histories"):
        verify_anchor(DATA, note(70_000, bytes(32)), TRUST)
    with pytest.raises(NotFoundError, match="later checkpoint"):
        verify_anchor(DATA, note(69_999), TRUST)
    with pytest.raises(ProofError, match="earlier checkpoint"):
        verify_anchor(DATA, note(70_001), TRUST)
    with pytest.raises(ProofError, match="another log"):
        verify_anchor(DATA, note(70_000, origin="example.org/other"), TRUST)


def test_another_text_than_what_was_stamped_is_refused() -> None:
    fields = json.loads(DATA)
    for text in (fields["text"].replace("70000", "70001"), fields["text"] + "more\n"):
        with pytest.raises(ProofError, match="over another text"):
            anchored(canonical.dumps(fields | {"text": text}), TRUST)
    for text in ("", "no checkpoint", "a\n1\n\n", "\ud800\n1\nAAAA\n"):
        with pytest.raises(PhloemError):
            anchored(json.dumps(fields | {"text": text}).encode(), TRUST)


def test_every_altered_byte_of_a_token_is_refused_or_means_the_same() -> None:
    good, draw = anchored(DATA, TRUST), random.Random(2)
    same = 0
    for place in range(len(RESPONSE)):
        flipped = RESPONSE[place] ^ draw.randrange(1, 256)
        altered = bytes([*RESPONSE[:place], flipped, *RESPONSE[place + 1 :]])
        same += _is_good_or_refused(with_response(altered), good)
    assert same <= 20  # version numbers and the name of an algorithm that nobody reads


def test_every_altered_byte_of_the_file_is_refused_or_means_the_same() -> None:
    good, draw = anchored(DATA, TRUST), random.Random(3)
    for place in [*range(200), *draw.sample(range(len(DATA)), 400)]:
        altered = bytes([*DATA[:place], DATA[place] ^ draw.choice((1, 2, 4, 8, 16)), *DATA[place + 1 :]])
        _is_good_or_refused(altered, good)


def test_bytes_exchanged_repeated_and_left_out_are_refused_or_mean_the_same() -> None:
    good, draw = anchored(DATA, TRUST), random.Random(4)
    for _ in range(300):
        start = draw.randrange(len(RESPONSE))
        end = min(len(RESPONSE), start + draw.randrange(1, 40))
        altered = draw.choice(
            (
                RESPONSE[:start] + RESPONSE[end:],
                RESPONSE[:end] + RESPONSE[start:],
                RESPONSE[:start] + draw.randbytes(end - start) + RESPONSE[end:],
            )
        )
        _is_good_or_refused(with_response(altered), good)


def test_a_token_cut_or_lengthened_is_refused() -> None:
    for length in range(0, len(RESPONSE), 5):
        with pytest.raises(REFUSED):
            anchored(with_response(RESPONSE[:length]), TRUST)
    with pytest.raises(REFUSED):
        anchored(with_response(RESPONSE + b"\0"), TRUST)


def _is_good_or_refused(data: bytes, good: Anchored) -> bool:
    try:
        found = anchored(data, TRUST)
    except REFUSED:
        return False
    assert found == good
    return True


# -- the order of certificates -----------------------------------------------------------------------------------


def test_certificates_are_sorted_and_nothing_else_is_touched() -> None:
    once = with_sorted_certificates(RESPONSE)
    assert sorted(once) == sorted(RESPONSE)
    assert with_sorted_certificates(once) == once


def test_what_is_no_time_stamp_is_left_as_it_is_or_refused() -> None:
    for data in (b"", b"\x02\x01\x00", b"\x30\x03\x02\x01\x00", b"\x30\x05\x30\x03\x02\x01\x02"):
        assert with_sorted_certificates(data) == data
    for data in (
        b"\x30",
        b"\x30\x00",
        b"\x30\x80",
        b"\x30\x85\0\0\0\0\1",
        b"\x30\x05\x30",
        b"\x30\x84\xff\xff\xff\xff",
    ):
        with pytest.raises(FormatError):
            with_sorted_certificates(data)
