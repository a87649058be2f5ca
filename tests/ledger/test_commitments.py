"""A commitment is HMAC-SHA-256 with a salt of its own: it binds, and tells nothing."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from phloem.ledger.commitments import (
    FRAME,
    METRICS,
    SALT_BYTES,
    WEIGHT,
    commitment,
    commitment_to,
    new_salt,
    salt_for,
)

SALTS = st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES)
CONTEXTS = (FRAME, WEIGHT, METRICS)


def by_hand(salt: bytes, context: bytes, content: bytes) -> str:
    """RFC 2104 section 2, with SHA-256 and blocks of 64 bytes."""
    key = salt.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
    inner.update(context + b"/v1\0" + hashlib.sha256(content).digest())
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner.digest()).hexdigest()


def test_the_hmac_by_hand_is_that_of_rfc_4231() -> None:
    """Its second test case, so that the oracle is right."""
    key, data = b"Jefe".ljust(64, b"\0"), b"what do ya want for nothing?"
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + data).digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).hexdigest()
    assert outer == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert outer == hmac.digest(b"Jefe", data, "sha256").hex()


@given(SALTS, st.sampled_from(CONTEXTS), st.binary(max_size=200))
def test_a_commitment_is_what_rfc_2104_says(salt: bytes, context: str, content: bytes) -> None:
    assert commitment(salt, context, content) == by_hand(salt, context.encode(), content)
    assert commitment_to(salt, context, hashlib.sha256(content).digest()) == commitment(
        salt, context, content
    )


def test_some_commitments_stay_these_for_ever() -> None:
    assert commitment(bytes(32), FRAME, b"abc") == (
        "83b10abd3892fc467ea659278e9d5c23a7b4ebd29093cf66881d09a90be1ed47"
    )
    assert {context: commitment(bytes(range(32)), context, b"") for context in CONTEXTS} == {
        "frame": "f49e14618404710b6eca555057f223f7892b5ac8693b9cea3c14141eb03f26e0",
        "weight": "875c863aed5d43e534c2bc664999613d4e9cd04b8f84d973608cb39106c74cc4",
        "metrics": "e5563e2e82b25dc949688c29d3daf20b8394e1bca3d2c6083289420c222511d4",
    }


@given(SALTS, SALTS, st.binary(max_size=50), st.binary(max_size=50))
def test_salt_context_and_content_all_count(one: bytes, other: bytes, first: bytes, second: bytes) -> None:
    found = {
        (salt, context, content): commitment(salt, context, content)
        for salt in (one, other)
        for context in CONTEXTS
        for content in (first, second)
    }
    assert len(set(found.values())) == len(found)
    assert all(len(value) == 64 for value in found.values())


@given(SALTS)
def test_an_entry_s_salts_come_from_its_random_bytes_and_not_from_each_other(secret: bytes) -> None:
    salts = {context: salt_for(secret, context) for context in CONTEXTS}
    assert len({secret, *salts.values()}) == len(CONTEXTS) + 1
    assert {len(salt) for salt in salts.values()} == {SALT_BYTES}
    for context, salt in salts.items():
        assert salt == hmac.new(secret, context.encode() + b"/salt", hashlib.sha256).digest()
        assert all(salt_for(salt, other) not in salts.values() for other in CONTEXTS)


def test_the_same_content_is_not_recognised_under_two_salts() -> None:
    salts = {new_salt() for _ in range(100)}
    assert {len(salt) for salt in salts} == {SALT_BYTES}
    assert len({commitment(salt, FRAME, b"the same") for salt in salts}) == len(salts) == 100
