"""Headers of an EVM chain's blocks: the bytes whose Keccak-256 is the block's hash, and what they say.

Source: Ethereum yellow paper, section 4.4 (fifteen fields); EIP-1559, 4895, 4844, 4788 and 7685 (those that follow).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phloem.errors import FormatError

HASH_BYTES = 32
_NUMBER = 0  # instead of a length: a number, without leading zeros
_ANY = -1

# In the order in which they are hashed; a block without a field has none of the later ones either.
_FIELDS = (
    ("parentHash", HASH_BYTES),
    ("sha3Uncles", HASH_BYTES),
    ("miner", 20),
    ("stateRoot", HASH_BYTES),
    ("transactionsRoot", HASH_BYTES),
    ("receiptsRoot", HASH_BYTES),
    ("logsBloom", 256),
    ("difficulty", _NUMBER),
    ("number", _NUMBER),
    ("gasLimit", _NUMBER),
    ("gasUsed", _NUMBER),
    ("timestamp", _NUMBER),
    ("extraData", _ANY),
    ("mixHash", HASH_BYTES),
    ("nonce", 8),
    ("baseFeePerGas", _NUMBER),
    ("withdrawalsRoot", HASH_BYTES),
    ("blobGasUsed", _NUMBER),
    ("excessBlobGas", _NUMBER),
    ("parentBeaconBlockRoot", HASH_BYTES),
    ("requestsHash", HASH_BYTES),
)
_ALWAYS = 15
_STATE_ROOT, _BLOCK, _TIMESTAMP = 3, 8, 11
_LARGEST_NUMBER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Header:
    """What a block's header says of it; `hash` is the block's hash, `time` in seconds since 1970."""

    hash: bytes
    number: int
    time: int
    state_root: bytes


def keccak(data: bytes) -> bytes:
    """The Keccak-256 of `data`."""
    from eth_hash.auto import keccak as hashed

    return bytes(hashed(data))


def unpack_header(packed: bytes) -> Header:
    """What a header says. Fields that later versions of Ethereum may append are not looked at.

    Raises:
        FormatError: it is no header.
    """
    fields = unpack_rlp(packed, "the block's header")
    if not isinstance(fields, list) or len(fields) < _ALWAYS or not all(isinstance(f, bytes) for f in fields):
        raise FormatError(f"the block's header is no list of {_ALWAYS} fields or more")
    for value, (name, size) in zip(fields, _FIELDS, strict=False):
        if (size > 0 and len(value) != size) or (size == _NUMBER and value[:1] == b"\0"):
            raise FormatError(f"the block's header has a '{name}' of {len(value)} bytes")
    number, time = (int.from_bytes(fields[place], "big") for place in (_BLOCK, _TIMESTAMP))
    if max(number, time) > _LARGEST_NUMBER:
        raise FormatError("the block's header has a number or a time beyond 64 bits")
    return Header(keccak(packed), number, time, fields[_STATE_ROOT])


def pack_header(block: Mapping[str, Any]) -> bytes:
    """The header of a block that a node describes in JSON (`eth_getBlockByNumber`).

    Raises:
        FormatError: a field is missing, or its bytes do not have the hash that the node says: the chain has fields that
            are not known here, or hashes its headers in a way of its own.
    """
    import rlp

    fields = []
    for place, (name, size) in enumerate(_FIELDS):
        text = block.get(name)
        if text is None and place >= _ALWAYS:
            break
        if not isinstance(text, str) or not text.startswith("0x"):
            raise FormatError(f"the node's block has no field '{name}'")
        digits = text[2:].lstrip("0") if size == _NUMBER else text[2:]
        try:
            fields.append(bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits))
        except ValueError as error:
            raise FormatError(f"the node's block has a field '{name}' that is not hexadecimal") from error
    packed = bytes(rlp.encode(fields))
    if "0x" + keccak(packed).hex() != block.get("hash"):
        raise FormatError(
            "the node's block does not have the hash that its fields give",
            hint="the chain's headers have fields that this version does not know",
        )
    return packed


def unpack_rlp(data: bytes, what: str) -> Any:
    """The bytes, or the list of such values, that `data` is the RLP of.

    Raises:
        FormatError: it is no RLP.
    """
    import rlp

    try:
        return rlp.decode(data)
    except (rlp.exceptions.RLPException, RecursionError, ValueError, TypeError) as error:
        raise FormatError(f"{what} is damaged: it is no RLP") from error
