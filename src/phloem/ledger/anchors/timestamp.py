"""Anchors of the kind `rfc3161`: a time-stamping authority's signature over a checkpoint's digest and the time.

What is stamped is the SHA-256 of the note's text, without its signatures: cosignatures may still be added. The
authority's answer is kept as it came, so that `openssl ts -verify` reads it as well. Certificates need to have been
valid at the time of the stamp; whether one was revoked since is not asked, because that would need a network.

Source: RFC 3161 (section 2.4: request and response), RFC 5652 (section 5.1: where certificates lie).
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, ProofError
from phloem.ledger.anchors.base import RFC3161, VERSION, Anchored, Trust, hash_of_origin, hexed, unhexed
from phloem.ledger.anchors.der import with_sorted_certificates
from phloem.tlog.checkpoint import Checkpoint

_SHA256 = "2.16.840.1.101.3.4.2.1"
_GRANTED = 0
_STATUS = {1: "granted with changes", 2: "rejected", 3: "waiting", 4: "revocation warning", 5: "revoked"}


@dataclass(frozen=True)
class TimestampProof:
    """The fields of a proof file: the note's text, and the authority's answer (DER, in hexadecimal)."""

    kind: str
    version: int
    text: str
    response: str


@dataclass(frozen=True)
class Query:
    """A request, and the number in it that the answer must repeat."""

    data: bytes
    nonce: int


def query(text: bytes) -> Query:
    """The request for a time stamp over a note's text, with a nonce of its own."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    builder = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256)
    request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
    return Query(bytes(request.as_bytes()), int(request.nonce))


def proof_of(text: bytes, asked: Query, answer: bytes) -> TimestampProof:
    """The proof that an authority's answer is, if it is the answer to what was asked.

    Raises:
        FormatError: it is no answer. ProofError: it is a refusal, or the answer to another request.
    """
    proof = TimestampProof(RFC3161, VERSION, text.decode(), hexed(answer))
    shown(proof)
    with _reading():
        nonce = _decoded(proof).tst_info.nonce
    if nonce != asked.nonce:
        raise ProofError("the time stamp does not repeat the number that was asked with it")
    return proof


def shown(proof: TimestampProof) -> Anchored:
    """What the proof shows to who believes its authority.

    Raises:
        FormatError: a field is damaged. ProofError: nothing was stamped, or something else was.
    """
    text = proof.text.encode("utf-8", "surrogatepass")
    checkpoint = Checkpoint.unpack(text)
    with _reading():
        response = _decoded(proof)
        info = response.tst_info
        imprint = info.message_imprint
        if imprint.hash_algorithm.dotted_string != _SHA256:
            raise ProofError("the time stamp is over another digest than SHA-256")
        if imprint.message != sha256(text).digest():
            raise ProofError("the time stamp is over another text than this checkpoint's")
        low, high = _times(info)
        details = {
            "authority": _signer(response).subject.rfc4514_string(),
            "policy": info.policy.dotted_string,
            "serial": str(info.serial_number),
        }
    return Anchored(
        RFC3161, hash_of_origin(checkpoint.origin), checkpoint.size, checkpoint.root, low, high, details
    )


def believe(proof: TimestampProof, trust: Trust) -> None:
    """Nothing, if an authority that the reader believes signed the time stamp.

    Raises:
        ProofError: the signature, a certificate or the policy is not what it must be.
        NotFoundError: the reader names no authority. ConfigError: what names them cannot be read.
    """
    from rfc3161_client import VerifierBuilder

    with _reading():
        response = _decoded(proof)
        policy = response.tst_info.policy.dotted_string
    if trust.tsa_policy is not None and policy != trust.tsa_policy:
        raise ProofError(f"the time stamp was made under the policy {policy}, not {trust.tsa_policy}")
    if trust.tsa_roots is None:
        raise NotFoundError(
            "whose signature the time stamp has is not known",
            hint="everything else holds; give the authority's root certificates (PEM) with --tsa-roots",
        )
    verifier = VerifierBuilder(roots=_certificates(trust.tsa_roots)).build()
    with _reading():
        try:
            verifier.verify(response, sha256(proof.text.encode()).digest())
        except (
            Exception
        ) as error:  # whatever it is that does not fit, the time stamp is not shown to be theirs
            raise ProofError(
                "the time stamp is not signed by an authority under these root certificates",
                hint=_reason(error),
            ) from error


def _reason(error: Exception) -> str:
    """What a verifier found: of OpenSSL's errors the one that says most."""
    found = re.search(r'data: "Verify error: ([^"]+)"', str(error)) or re.search(
        r'.*reason: "([^"]+)"', str(error)
    )
    return found[1] if found else f"{error}"[:200]


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Whatever the libraries stumble over in foreign bytes, in our words: parts are parsed when they are asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about certificates that are merely odd
        try:
            yield
        except PhloemError:
            raise
        except Exception as error:
            raise FormatError("the time stamp is damaged") from error


def _decoded(proof: TimestampProof) -> Any:
    """The parts of an authority's answer that grants a time stamp."""
    from rfc3161_client import decode_timestamp_response

    answer = with_sorted_certificates(unhexed(proof.response, "the time stamp"))
    try:
        response = decode_timestamp_response(answer)
    except ValueError as error:
        raise FormatError("expected an answer of a time-stamping authority, found something else") from error
    if response.status != _GRANTED:
        status = _STATUS.get(response.status, f"status {response.status}")
        why = "; ".join(f"{text!r}" for text in response.status_string)
        raise ProofError(f"the authority did not stamp: {status}", hint=why[:200] or None)
    return response


def _signer(response: Any) -> Any:
    """The certificate of who signed: the only one that the signature names."""
    from cryptography import x509

    certificates = [x509.load_der_x509_certificate(data) for data in response.signed_data.certificates]
    signers = {(signer.issuer, signer.serial_number) for signer in response.signed_data.signer_infos}
    named = [one for one in certificates if (one.issuer, one.serial_number) in signers]
    if len(signers) != 1 or len(named) != 1:
        raise ProofError("the time stamp does not come with the one certificate of who signed it")
    return named[0]


def _times(info: Any) -> tuple[int, int]:
    """Between which seconds the authority's clock stood."""
    accuracy = timedelta(0)
    if info.accuracy is not None:
        found = info.accuracy
        accuracy = timedelta(
            seconds=found.seconds or 0, milliseconds=found.millis or 0, microseconds=found.micros or 0
        )
    since = (info.gen_time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    return math.floor(since - accuracy.total_seconds()), math.ceil(since + accuracy.total_seconds())


def _certificates(roots: bytes) -> list[Any]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        raise ConfigError("the root certificates are not certificates in PEM form") from error
