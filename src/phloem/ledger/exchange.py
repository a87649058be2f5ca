"""What rounds tell the ledger of an exchange. Nothing here needs a library for signatures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from phloem.ledger.commitments import FRAME, WEIGHT, commitment, commitment_to, salt_for

_LONGEST = 400


def codec_words(config: bytes) -> str:
    """How an entry names a codec's configuration, which is canonical JSON."""
    text = config.decode()
    return text if len(text) <= _LONGEST else f"sha256:{sha256(config).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Base:
    """The trunk at a point: its chain id, and the state's digest where both ends have it, both in hexadecimal."""

    chain: str
    state: str | None = None

    def to_json(self) -> dict[str, str]:
        """As an entry has it."""
        return {"chain": self.chain} | ({} if self.state is None else {"state": self.state})


@dataclass(frozen=True)
class Sent:
    """A frame on its way: what the entry about it says, besides who says so.

    Attributes:
        base: the trunk that an update was made from; that a broadcast brings.
        codec: what made it, in words.
        raw_bytes: what it would take as float32.
        form: of a broadcast.
        examples: what an update weighs; the entry only has a commitment to it.
        sha256: of the frame, in hexadecimal, where it is known already.
    """

    round: int
    base: Base
    frame: bytes
    codec: str
    raw_bytes: int
    form: str = ""
    examples: int = 0
    sha256: str = ""

    def fields(self, secret: bytes, to: str) -> dict[str, Any]:
        """The fields of the entry that is made with these random bytes."""
        found: dict[str, Any] = {
            "base": self.base.to_json(),
            "bytes": len(self.frame),
            "codec": self.codec,
            "commit": self.commitment(salt_for(secret, FRAME)),
            "rawBytes": self.raw_bytes,
            "round": self.round,
        }
        if self.form:
            return {**found, "form": self.form}
        weight = commitment(salt_for(secret, WEIGHT), WEIGHT, b"%d" % self.examples)
        return {**found, "to": to, "weight": weight}

    @cached_property
    def digest(self) -> bytes:
        """The frame's SHA-256; large frames are read once for it."""
        return bytes.fromhex(self.sha256) if self.sha256 else sha256(self.frame).digest()

    def commitment(self, salt: bytes) -> str:
        """The commitment to the frame."""
        return commitment_to(salt, FRAME, self.digest)

    @property
    def kind(self) -> str:
        """The kind of the entry."""
        return "broadcast" if self.form else "update"


@dataclass(frozen=True, slots=True)
class Carried:
    """What an order carries: the form of its frame, the frame, its codec's name, and its digest where it is known."""

    form: str
    frame: bytes = b""
    codec: str = "none"
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """An update that is merged, and what it weighs."""

    site: str
    examples: int
