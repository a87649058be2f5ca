"""The contract that keeps a log's newest checkpoint: its interface, its code, and where it keeps what.

`Anchor.vy` is the source and `Anchor.json` what the compiler named in it makes of it (`tools/compile_contract.py`; a
test compiles it again). Proofs stay bound to the code that they were made with: once contracts are deployed, a new
version is a new pair of files beside this one.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from phloem import canonical

SIZE_SLOT, ROOT_SLOT = 1, 2
ADDRESS_BYTES = 20
_WORD_BYTES = 32


def interface() -> list[dict[str, Any]]:
    """The contract's ABI."""
    found: list[dict[str, Any]] = _compiled()["abi"]
    return found


def creation_code() -> bytes:
    """What a deployment runs; the origin's digest is its argument."""
    return bytes.fromhex(_compiled()["bytecode"])


def deployed_code(owner: bytes, origin_hash: bytes, chain: int) -> bytes:
    """The code of the contract of this owner and this log on this chain.

    It ends with the three values that the constructor fixed, a word each: no storage and no second look is needed to
    know them, the code's hash is enough.
    """
    words = (owner, origin_hash, chain.to_bytes(_WORD_BYTES, "big"))
    return bytes.fromhex(_compiled()["runtime"]) + b"".join(word.rjust(_WORD_BYTES, b"\0") for word in words)


def fixed_values(code: bytes) -> tuple[bytes, bytes, int] | None:
    """The owner, the origin's digest and the chain in a contract's code; None if it is not this contract's."""
    tail = code[-3 * _WORD_BYTES :]
    if len(tail) != 3 * _WORD_BYTES:
        return None
    owner = tail[_WORD_BYTES - ADDRESS_BYTES : _WORD_BYTES]
    found = (owner, tail[_WORD_BYTES : 2 * _WORD_BYTES], int.from_bytes(tail[2 * _WORD_BYTES :], "big"))
    return found if deployed_code(*found) == code else None


@functools.cache
def _compiled() -> dict[str, Any]:
    found: dict[str, Any] = canonical.loads(resources.files(__package__).joinpath("Anchor.json").read_bytes())
    return found
