"""Signed commits: who made one, with the keys of the ledger (`phloem key new`).

What is signed is a line that says so, then the commit's record without its signature (its one canonical form).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from phloem.errors import FormatError, ProofError
from phloem.tlog.keys import NOTE, Signer, VerifierKey
from phloem.tlog.text import from_base64, to_base64

_CONTEXT = b"phloem.commit/v1\n"


def signing_with(signer: Signer) -> Callable[[bytes], dict[str, str]]:
    """What signs commits with this key."""
    if signer.type != NOTE:
        raise FormatError(f"the key of '{signer.name}' is a witness's, which signs no commits")
    return lambda record: {
        "key": str(signer.verifier),
        "signature": to_base64(signer.sign(_CONTEXT + record)),
    }


def signer_of(record: bytes, signature: Mapping[str, str]) -> VerifierKey:
    """The key that signed a record, as its signature says and proves; whether to trust it is another question.

    Raises:
        FormatError: it is no signature. ProofError: it does not hold.
    """
    if set(signature) != {"key", "signature"}:
        raise FormatError("a commit's signature is a key and a signature")
    key = VerifierKey.parse(signature["key"])
    if key.type != NOTE or not key.verifies(
        _CONTEXT + record, from_base64(signature["signature"], "a commit's signature")
    ):
        raise ProofError(
            f"the signature of '{key.name}' does not hold: the commit was altered, or never theirs"
        )
    return key


def check_trusted(key: VerifierKey, trusted: Sequence[VerifierKey]) -> None:
    """Nothing, if a key is one of those that are trusted.

    Raises:
        ProofError: it is not.
    """
    if key not in trusted:
        raise ProofError(f"it was signed by '{key.name}' with a key that is not among those to trust")
