"""Keys that sign and verify notes: Ed25519, for notes themselves (type 1) and for timestamped cosignatures (type 4).

Source: c2sp.org/signed-note (key ids, verifier keys), c2sp.org/tlog-cosignature (type 4); RFC 8032 (Ed25519). The
written form of a private key is Go's (golang.org/x/mod/sumdb/note).

A cosignature says when its cosigner saw the tree: `time` seconds since 1970 are part of what it signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from phloem.errors import ConfigError, FormatError
from phloem.tlog.text import from_base64, to_base64

NOTE, COSIGNATURE = 0x01, 0x04
"""Types of signatures."""

_KEY_BYTES = 32
_TIME_BYTES = 8
_SIGNATURE_BYTES = 64
_LARGEST_TIME = (1 << 63) - 1
_PRIVATE = "PRIVATE+KEY"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name and the type under which it signs.

    >>> key = VerifierKey("example.org/log", NOTE, bytes(32))
    >>> VerifierKey.parse(str(key)) == key
    True
    """

    name: str
    type: int
    public: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.type not in (NOTE, COSIGNATURE) or len(self.public) != _KEY_BYTES:
            raise FormatError(f"key '{self.name}': expected an Ed25519 key of type 1 or 4")

    @property
    def id(self) -> bytes:
        """The four bytes by which signatures name the key."""
        return key_id(self.name, self.type, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes([self.type]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key that `str` writes.

        Raises:
            FormatError: it is no such text, the id is another key's, or the type is not known.
        """
        name, id_, data = _three_parts(text, "a verifier key")
        decoded = from_base64(data, f"key '{name:.80}'")
        if not decoded:
            raise FormatError(f"key '{name:.80}' is empty")
        found = cls(name, decoded[0], decoded[1:])
        if found.id.hex() != id_:
            raise FormatError(f"key '{name:.80}' has the id {id_:.16}, expected {found.id.hex()}")
        return found

    def verifies(self, text: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over the note's text (for type 4 with the time that it names)."""
        if self.type == COSIGNATURE:
            if len(signature) != _TIME_BYTES + _SIGNATURE_BYTES:
                return False
            time = int.from_bytes(signature[:_TIME_BYTES], "big")
            if time > _LARGEST_TIME:
                return False
            text, signature = cosigned(text, time), signature[_TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except InvalidSignature:
            return False
        return True


def cosigned_time(signature: bytes) -> int:
    """When a cosignature of type 4 was made, in seconds since 1970."""
    return int.from_bytes(signature[:_TIME_BYTES], "big")


def cosigned(text: bytes, time: int) -> bytes:
    """What a cosignature of this time signs."""
    return b"cosignature/v1\ntime %d\n" % time + text


@dataclass(frozen=True)
class Signer:
    """A private key with the name and the type under which it signs; `repr` does not show it."""

    name: str
    type: int
    _key: Ed25519PrivateKey

    @classmethod
    def new(cls, name: str, type_: int = NOTE) -> Signer:
        """A fresh key."""
        check_name(name)
        return cls(name, type_, Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, name: str, type_: int, seed: bytes) -> Signer:
        """The key of a 32-byte seed (RFC 8032's private key)."""
        check_name(name)
        if len(seed) != _KEY_BYTES or type_ not in (NOTE, COSIGNATURE):
            raise FormatError(f"key '{name}': expected a seed of {_KEY_BYTES} bytes and type 1 or 4")
        return cls(name, type_, Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def parse(cls, text: str) -> Signer:
        """The key that `export` writes.

        Raises:
            FormatError: it is no such text. The message does not repeat it.
        """
        if not text.startswith(f"{_PRIVATE}+"):
            raise FormatError(f"expected a private key, which begins with {_PRIVATE}+")
        name, id_, data = _three_parts(text.removeprefix(f"{_PRIVATE}+"), "a private key")
        try:
            decoded = from_base64(data, "it")
        except FormatError:
            decoded = b""
        if not decoded:
            raise FormatError(f"the private key of '{name:.80}' is damaged")
        found = cls.from_seed(name, decoded[0], decoded[1:])
        if found.verifier.id.hex() != id_:
            raise FormatError(f"the private key of '{name:.80}' has another id than its own")
        return found

    def export(self) -> str:
        """The key as a line of text, to be kept where nobody else reads."""
        seed = bytes([self.type]) + self._key.private_bytes_raw()
        return f"{_PRIVATE}+{self.name}+{self.verifier.id.hex()}+{to_base64(seed)}"

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, self.type, self._key.public_key().public_bytes_raw())

    def sign(self, text: bytes, time: Callable[[], int] | None = None) -> bytes:
        """The signature over a note's text; a cosignature needs the `time`.

        Raises:
            ConfigError: it is a cosigner's key, and no time is given.
        """
        if self.type != COSIGNATURE:
            return self._key.sign(text)
        if time is None:
            raise ConfigError(f"key '{self.name}' makes cosignatures, which need a time")
        now = time()
        return now.to_bytes(_TIME_BYTES, "big") + self._key.sign(cosigned(text, now))

    def __repr__(self) -> str:
        return f"Signer({self.verifier})"


def key_id(name: str, type_: int, public: bytes) -> bytes:
    """The id of a key of any type."""
    return sha256(name.encode() + b"\n" + bytes([type_]) + public).digest()[:4]


def check_name(name: str) -> None:
    """Nothing, if a key may have this name.

    Raises:
        FormatError: it is empty, or holds a space, a plus, a control character, or what UTF-8 does not have.
    """
    odd = any(
        letter.isspace() or letter == "+" or letter < " " or "\ud800" <= letter < "\ue000" for letter in name
    )
    if odd or not name:
        raise FormatError(f"expected a key's name without spaces and plus signs, found {name!r:.80}")


def _three_parts(text: str, what: str) -> tuple[str, str, str]:
    parts = text.split("+", 2)
    if len(parts) != 3 or len(parts[1]) != 8 or not set(parts[1]) <= set("0123456789abcdef"):
        raise FormatError(f"expected {what} of the form name+id+base64")
    return parts[0], parts[1], parts[2]
