"""Time stamps over HTTP from an authority that is `openssl ts`, and what openssl makes of ours."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ledger.anchors.authorities import POLICY, Authority
from tests.ledger.anchors.notes import ORIGIN, ROOT, SIGNER, checkpoint, needs_tsa, note

from phloem import canonical
from phloem.errors import ConfigError, FormatError, NotFoundError, ProofError, StoreError
from phloem.ledger.anchors import timestamp
from phloem.ledger.anchors.authority import stamp
from phloem.ledger.anchors.base import Trust, hash_of_origin, hexed, unhexed
from phloem.ledger.anchors.proof import verify_anchor
from phloem.ledger.anchors.timestamp import TimestampProof
from phloem.tlog.keys import COSIGNATURE, Signer
from phloem.tlog.note import Note

pytestmark = [needs_tsa, pytest.mark.service("openssl")]

TEXT = checkpoint().pack()


@pytest.fixture(autouse=True)
def _as_it_was(authority: Authority) -> Iterator[None]:
    answer = authority.answer
    yield
    authority.answer = answer


def test_a_checkpoint_is_stamped_and_verified_against_the_roots_only(authority: Authority) -> None:
    proof = stamp(authority.url, TEXT)
    found = verify_anchor(canonical.dumps(proof), note(), Trust(tsa_roots=authority.roots))
    assert (found.kind, found.origin_hash) == ("rfc3161", hash_of_origin(ORIGIN))
    assert (found.size, found.root) == (21, ROOT)
    assert found.when_high - found.when_low in (3, 4)  # a second and a half both ways, in whole seconds
    assert found.details["authority"] == "CN=Test Authority"
    assert found.details["policy"] == POLICY


def test_cosignatures_added_later_do_not_matter(authority: Authority) -> None:
    data = canonical.dumps(stamp(authority.url, TEXT))
    witness = Signer.from_seed("witness.example.org", COSIGNATURE, bytes(32))
    cosigned = Note.unpack(note()).signed([witness], lambda: 1_790_000_000).pack()
    assert cosigned != note()
    assert verify_anchor(data, cosigned, Trust(tsa_roots=authority.roots)).size == 21
    assert SIGNER.name in cosigned.decode()


def test_openssl_verifies_what_we_keep(authority: Authority) -> None:
    proof = stamp(authority.url, TEXT)
    folder = authority.folder
    (folder / "kept.tsr").write_bytes(unhexed(proof.response, "the time stamp"))
    (folder / "text").write_bytes(proof.text.encode())
    assert "Verification: OK" in authority.openssl(
        "-verify", "-in", "kept.tsr", "-data", "text", "-CAfile", "root.pem"
    )


def test_we_verify_what_openssl_asked_for_and_made(authority: Authority) -> None:
    folder = authority.folder
    (folder / "text").write_bytes(TEXT)
    authority.openssl("-query", "-data", "text", "-sha256", "-cert", "-no_nonce", "-out", "own.tsq")
    answer = authority.stamp((folder / "own.tsq").read_bytes())
    proof = TimestampProof("rfc3161", 1, TEXT.decode(), hexed(answer))
    assert verify_anchor(canonical.dumps(proof), note(), Trust(tsa_roots=authority.roots)).size == 21


def test_a_time_stamp_over_another_digest_or_without_a_certificate_is_refused(authority: Authority) -> None:
    folder = authority.folder
    (folder / "text").write_bytes(TEXT)
    for words, why in ((("-sha512", "-cert"), "another digest"), (("-sha256",), "one certificate")):
        authority.openssl("-query", "-data", "text", *words, "-out", "own.tsq")
        answer = authority.stamp((folder / "own.tsq").read_bytes())
        with pytest.raises(ProofError, match=why):
            timestamp.shown(TimestampProof("rfc3161", 1, TEXT.decode(), hexed(answer)))


# -- who signed --------------------------------------------------------------------------------------------------


def test_roots_of_somebody_else_or_none_or_no_certificates(authority: Authority) -> None:
    data = canonical.dumps(stamp(authority.url, TEXT))
    with pytest.raises(ProofError, match="not signed by an authority under these root certificates"):
        verify_anchor(data, note(), Trust(tsa_roots=authority.others))
    signer = (authority.folder / "signer.pem").read_bytes()
    with pytest.raises(ProofError, match="not signed by an authority"):
        verify_anchor(data, note(), Trust(tsa_roots=signer))  # trusted for itself, not as a root
    with pytest.raises(NotFoundError, match="whose signature the time stamp has is not known"):
        verify_anchor(data, note(), Trust())
    for wrong in (b"", b"no PEM", authority.roots[:200]):
        with pytest.raises(ConfigError, match="PEM"):
            verify_anchor(data, note(), Trust(tsa_roots=wrong))
    both = authority.others + authority.roots
    assert verify_anchor(data, note(), Trust(tsa_roots=both)).size == 21


def test_a_policy_is_compared_where_one_is_asked_for(authority: Authority) -> None:
    data = canonical.dumps(stamp(authority.url, TEXT))
    trust = Trust(tsa_roots=authority.roots, tsa_policy=POLICY)
    assert verify_anchor(data, note(), trust).size == 21
    with pytest.raises(ProofError, match=f"under the policy {POLICY}, not 1.2.3.4.5"):
        verify_anchor(data, note(), Trust(tsa_roots=authority.roots, tsa_policy="1.2.3.4.5"))


def test_a_certificate_that_was_over_when_it_signed_is_refused(tmp_path: Path) -> None:
    late = Authority(tmp_path, hours=0)
    answer = late.stamp(timestamp.query(TEXT).data)
    data = canonical.dumps(TimestampProof("rfc3161", 1, TEXT.decode(), hexed(answer)))
    with pytest.raises(ProofError, match="not signed by an authority") as caught:
        verify_anchor(data, note(), Trust(tsa_roots=late.roots))
    assert "expired" in str(caught.value)


def test_certificates_come_in_any_order_or_the_intermediate_not_at_all(tmp_path: Path) -> None:
    for n in range(4):  # keys are drawn anew, and with them the order
        other = Authority(tmp_path / str(n))
        answer = other.stamp(timestamp.query(TEXT).data)
        data = canonical.dumps(TimestampProof("rfc3161", 1, TEXT.decode(), hexed(answer)))
        assert verify_anchor(data, note(), Trust(tsa_roots=other.roots)).size == 21
    alone = Authority(tmp_path / "alone", chain=False)
    answer = alone.stamp(timestamp.query(TEXT).data)
    data = canonical.dumps(TimestampProof("rfc3161", 1, TEXT.decode(), hexed(answer)))
    with pytest.raises(ProofError, match="not signed by an authority"):
        verify_anchor(data, note(), Trust(tsa_roots=alone.roots))
    with_it = alone.roots + (alone.folder / "middle.pem").read_bytes()
    assert verify_anchor(data, note(), Trust(tsa_roots=with_it)).size == 21


# -- what an authority may answer --------------------------------------------------------------------------------


def test_an_old_answer_and_one_over_another_text_are_refused(authority: Authority) -> None:
    old = authority.stamp(timestamp.query(TEXT).data)
    authority.answer = lambda request: (200, old)
    with pytest.raises(ProofError, match="does not repeat the number"):
        stamp(authority.url, TEXT)
    other = authority.stamp(timestamp.query(b"another\n").data)
    authority.answer = lambda request: (200, other)
    with pytest.raises(ProofError, match="over another text"):
        stamp(authority.url, TEXT)


def test_a_refusal_says_why(authority: Authority) -> None:
    (authority.folder / "text").write_bytes(TEXT)
    authority.openssl("-query", "-data", "text", "-sha1", "-out", "weak.tsq")
    weak = (authority.folder / "weak.tsq").read_bytes()
    authority.answer = lambda request: (200, authority.stamp(weak))
    with pytest.raises(ProofError, match="did not stamp: rejected") as caught:
        stamp(authority.url, TEXT)
    assert "not supported" in str(caught.value)


@pytest.mark.parametrize("status", [302, 307, 400, 404, 500, 503])
def test_an_error_of_the_server_is_told(authority: Authority, status: int) -> None:
    authority.answer = lambda request: (status, b"")
    with pytest.raises(StoreError, match=f"HTTP status {status}"):
        stamp(authority.url, TEXT)


@pytest.mark.parametrize("body", [b"", b"<html>", b"0" * 100, b"\x30\x80", b"\x30\x03\x02\x01\x00"])
def test_an_answer_that_is_no_time_stamp_is_refused(authority: Authority, body: bytes) -> None:
    authority.answer = lambda request: (200, body)
    with pytest.raises(FormatError):
        stamp(authority.url, TEXT)


def test_an_answer_without_end_is_cut(authority: Authority) -> None:
    authority.answer = lambda request: (200, bytes(1 << 20))
    with pytest.raises(FormatError, match="more than"):
        stamp(authority.url, TEXT)


def test_nobody_at_the_address_is_told_without_what_is_secret_in_it() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(StoreError, match=f"at 127.0.0.1:{port} cannot be reached") as caught:
        stamp(f"http://user:pass@127.0.0.1:{port}/secret", TEXT)
    assert "pass" not in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="time-stamping authority"):
        stamp("file:///etc/passwd", TEXT)
