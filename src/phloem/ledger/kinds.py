"""The kinds of entries, and the form of each of their fields.

    genesis        a run begins: who coordinates it, under which plan, policy and rule about receipts
    member         somebody is let in, changes key, or is put out
    round-open     the trunk that a round starts from, and who is asked to train
    broadcast      the frame that brings the trunk to the sites; all get the same
    update         a site's frame, made from that trunk
    received       what the coordinator says to an update: taken, or why not
    aggregate      which updates were merged, which were left out and why, and the trunk that came of it
    eval           a commitment to what was measured
    complaint      a member says what another did wrong
    erasure        the salt and the payload of an entry have been destroyed
    anchor         a checkpoint has been written down elsewhere
    model-release  a model has been given out

A hash is 64 hexadecimal digits. A commitment is one too, with a salt that is not in the log (`commitments`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from phloem.errors import FormatError

ADD, ROTATE, REVOKE = "add", "rotate", "revoke"
COORDINATOR, SITE = "coordinator", "site"
TAKEN = "taken"
NO_UPDATE = "no update"  # what a merge says of a site that was asked and sent nothing
HELD, DELTA, KEY_FRAME = "held", "delta", "key-frame"
"""What a broadcast is: nothing, for sites that hold the trunk already; a step from the one before; or all of it."""

_LARGEST = (1 << 53) - 1  # what every JSON reader takes exactly
_LONGEST = 400
_HEX = frozenset("0123456789abcdef")
Check = Callable[[Any, str], None]


def check_text(value: Any, where: str) -> None:
    """Nothing, if `value` is a printable text of 1 to 400 characters.

    Raises:
        FormatError: it is not.
    """
    if type(value) is not str or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise FormatError(f"{where} must be a text of 1 to {_LONGEST} printable characters")


def check_number(value: Any, where: str) -> None:
    """Nothing, if `value` is a whole number from 0 to 2^53 - 1.

    Raises:
        FormatError: it is not.
    """
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise FormatError(f"{where} must be a whole number from 0 to 2^53 - 1")


def check_hash(value: Any, where: str) -> None:
    """Nothing, if `value` is 32 bytes in hexadecimal.

    Raises:
        FormatError: it is not.
    """
    if type(value) is not str or len(value) != 64 or not _HEX.issuperset(value):
        raise FormatError(f"{where} must be 64 hexadecimal digits")


def _one_of(*words: str) -> Check:
    def check(value: Any, where: str) -> None:
        if value not in words:
            raise FormatError(f"{where} must be one of {', '.join(words)}")

    return check


def _base(value: Any, where: str) -> None:
    """The trunk at a point: its chain id, and the state's digest where both ends have it."""
    if type(value) is not dict or not {"chain"} <= set(value) <= {"chain", "state"}:
        raise FormatError(f"{where} must have a 'chain' and may have a 'state'")
    for name, found in value.items():
        check_hash(found, f"{where}.{name}")


def _names(value: Any, where: str) -> None:
    if type(value) is not list or sorted(set(map(str, value))) != value:
        raise FormatError(f"{where} must be a list of different names, sorted")
    for name in value:
        check_text(name, where)


def _numbers(value: Any, where: str) -> None:
    if type(value) is not list:
        raise FormatError(f"{where} must be a list of entries")
    for number in value:
        check_number(number, where)
    if sorted(set(value)) != value:
        raise FormatError(f"{where} must be a list of different entries, in order")


def _excluded(value: Any, where: str) -> None:
    """Rows of a site, a reason, and the entry of the update where there is one."""
    if type(value) is not list:
        raise FormatError(f"{where} must be a list")
    for row in value:
        if type(row) is not dict or not {"reason", "site"} <= set(row) <= {"reason", "site", "entry"}:
            raise FormatError(f"{where} must be rows of 'site', 'reason' and perhaps 'entry'")
        check_text(row["site"], where)
        check_text(row["reason"], where)
        if "entry" in row:
            check_number(row["entry"], where)


@dataclass(frozen=True)
class Kind:
    """The fields of a kind in the predicate, and those that are its subjects: (name, algorithm, field)."""

    fields: Mapping[str, Check]
    subjects: tuple[tuple[str, str, str], ...]
    optional: frozenset[str] = frozenset()

    @cached_property
    def in_subject(self) -> frozenset[str]:
        """The fields that are subjects."""
        return frozenset(field for _, _, field in self.subjects)

    @cached_property
    def checks(self) -> Mapping[str, Check]:
        """The form of every field."""
        return {**self.fields, **dict.fromkeys(self.in_subject, check_hash)}


_FRAME = {
    "base": _base,
    "bytes": check_number,
    "codec": check_text,
    "rawBytes": check_number,
    "round": check_number,
}
_COMMIT = ("frame", "hmacSha256", "commit")

KINDS: Mapping[str, Kind] = {
    "genesis": Kind(
        {
            "key": check_text,
            "name": check_text,
            "origin": check_text,
            "policy": check_hash,
            "receipts": check_text,
            "retention": check_text,
            "software": check_text,
        },
        (("plan", "sha256", "plan"),),
    ),
    "member": Kind(
        {
            "action": _one_of(ADD, ROTATE, REVOKE),
            "key": check_text,
            "name": check_text,
            "role": _one_of(COORDINATOR, SITE),
            "software": check_text,
        },
        (("key", "sha256", "fingerprint"),),
        frozenset({"software"}),
    ),
    "round-open": Kind(
        {"asked": _names, "base": _base, "reached": _names, "round": check_number},
        (("plan", "sha256", "plan"),),
    ),
    "broadcast": Kind({**_FRAME, "form": _one_of(HELD, DELTA, KEY_FRAME)}, (_COMMIT,)),
    "update": Kind({**_FRAME, "to": check_text}, (_COMMIT, ("weight", "hmacSha256", "weight"))),
    "received": Kind(
        {"entry": check_number, "outcome": check_text, "round": check_number},
        (("update", "sha256", "leaf"),),
    ),
    "aggregate": Kind(
        {
            "base": _base,
            "excluded": _excluded,
            "inputs": _numbers,
            "output": _base,
            "round": check_number,
            "rule": check_hash,
        },
        (("weights", "hmacSha256", "weights"),),
    ),
    "eval": Kind({"part": check_text, "round": check_number}, (("metrics", "hmacSha256", "metrics"),)),
    "complaint": Kind({"about": check_text, "against": check_text}, (("evidence", "sha256", "evidence"),)),
    "erasure": Kind({"entry": check_number, "reason": check_text}, (("entry", "sha256", "leaf"),)),
    "anchor": Kind(
        {"root": check_hash, "size": check_number, "system": check_text}, (("proof", "sha256", "proof"),)
    ),
    "model-release": Kind(
        {"base": _base, "file": check_text, "round": check_number}, (("model", "sha256", "digest"),)
    ),
}
