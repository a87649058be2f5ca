"""Whom to trust: logs, witnesses, and how many of the witnesses must have signed a checkpoint.

Source: c2sp.org/tlog-policy.

    log VKEY [URL]
    witness NAME VKEY [URL]
    group NAME any|all|K MEMBER…
    quorum NAME|none
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from phloem.errors import FormatError, ProofError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, VerifierKey
from phloem.tlog.note import Note
from phloem.tlog.text import from_decimal

NONE = "none"
_LARGEST = 1 << 20
_MOST_NAMES = 1024
_OCTETS = "surrogateescape"  # names and URLs are bytes that need be no UTF-8


@dataclass(frozen=True)
class Group:
    """At least `wanted` of the members, which are witnesses and groups."""

    wanted: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """What a checkpoint must carry to be believed. `urls` are by key."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str = NONE
    urls: Mapping[VerifierKey, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """The policy in a file.

        Raises:
            FormatError: a line that is none of the four, a name that is not known yet, a key or a member twice.
        """
        return _Parser(data).policy()

    def pack(self) -> bytes:
        """The policy as a file."""
        lines = [" ".join(["log", str(key), *self._url(key)]) for key in self.logs]
        lines += [" ".join(["witness", name, str(k), *self._url(k)]) for name, k in self.witnesses.items()]
        lines += [f"group {name} {g.wanted} {' '.join(g.members)}" for name, g in self.groups.items()]
        text = "".join(f"{line}\n" for line in [*lines, f"quorum {self.quorum}"])
        return text.encode("utf-8", _OCTETS)

    def _url(self, key: VerifierKey) -> list[str]:
        return [self.urls[key]] if key in self.urls else []

    def check(self, note: bytes) -> Checkpoint:
        """The checkpoint in `note`, signed by one of the logs and cosigned as the quorum demands.

        Raises:
            FormatError: it is no checkpoint. ProofError: it is not signed so, or a signature is bad.
        """
        found = Note.unpack(note)
        checkpoint = Checkpoint.unpack(found.text)
        good = found.verified([*self.logs, *self.witnesses.values()])
        if not any(key in good and key.name == checkpoint.origin for key in self.logs):
            raise ProofError(
                f"the checkpoint of '{checkpoint.origin:.80}' is not signed by a log of the policy"
            )
        signed = {name for name, key in self.witnesses.items() if key in good}
        if not self.quorum_of(signed):
            raise ProofError(
                f"the checkpoint of {checkpoint.size} entries lacks the quorum '{self.quorum}': "
                f"cosigned by {', '.join(sorted(signed)) or 'nobody'}"
            )
        return checkpoint

    def quorum_of(self, witnesses: Iterable[str]) -> bool:
        """Whether these witnesses are a quorum."""
        reached = {NONE, *witnesses}
        for name, group in self.groups.items():  # each names only what stands above it
            if sum(member in reached for member in group.members) >= group.wanted:
                reached.add(name)
        return self.quorum in reached


class _Parser:
    def __init__(self, data: bytes) -> None:
        if len(data) > _LARGEST:
            raise FormatError(f"a policy of {len(data)} bytes is larger than {_LARGEST}")
        if any((byte < 0x20 and byte not in b"\t\n") or byte == 0x7F for byte in data):
            raise FormatError("a policy holds control characters")
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.urls: dict[VerifierKey, str] = {}
        self.members: set[str] = set()
        self.quorum: str | None = None
        for number, line in enumerate(data.decode("utf-8", _OCTETS).split("\n"), 1):
            words = line.replace("\t", " ").split(" ")
            words = [word for word in words if word]
            if words and not words[0].startswith("#"):
                try:
                    self._read(words)
                except FormatError as error:
                    raise FormatError(f"line {number} of the policy: {error.message}") from error

    def policy(self) -> Policy:
        if self.quorum is None:
            raise FormatError("a policy needs a line 'quorum'")
        return Policy(tuple(self.logs), self.witnesses, self.groups, self.quorum, self.urls)

    def _read(self, words: list[str]) -> None:
        match words:
            case ["log", key, *url] if len(url) <= 1:
                self.logs.append(self._key(key, (NOTE, COSIGNATURE), self.logs, url))
            case ["witness", name, key, *url] if len(url) <= 1:
                self._check_new(name)
                self.witnesses[name] = self._key(key, (COSIGNATURE,), self.witnesses.values(), url)
            case ["group", name, wanted, *members] if members:
                self._check_new(name)
                self.groups[name] = self._group(wanted, members)
            case ["quorum", name] if self.quorum is None:
                if name != NONE:
                    self._check_known(name)
                self.quorum = name
            case _:
                raise FormatError(
                    f"expected log, witness, group or one quorum, found a line of {len(words)} words"
                )

    def _key(
        self, text: str, types: tuple[int, ...], known: Iterable[VerifierKey], url: list[str]
    ) -> VerifierKey:
        key = VerifierKey.parse(text)
        if key.type not in types:
            raise FormatError(f"key '{key.name:.80}' is of type {key.type}, which does not belong here")
        if any(key.public == other.public for other in known):
            raise FormatError(f"key '{key.name:.80}' stands there twice")
        if url:
            self.urls[key] = url[0]
        return key

    def _group(self, wanted: str, members: list[str]) -> Group:
        for name in members:
            self._check_known(name)
            if name in self.members:
                raise FormatError(f"'{name:.80}' is a member twice")
            self.members.add(name)
        count = {"any": 1, "all": len(members)}.get(wanted) or from_decimal(wanted, "a group's threshold")
        if not 1 <= count <= len(members):
            raise FormatError(f"expected a threshold from 1 to {len(members)}, found {count}")
        return Group(count, tuple(members))

    def _check_new(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise FormatError(f"the name '{name:.80}' is taken")
        if len(self.witnesses) + len(self.groups) >= _MOST_NAMES:
            raise FormatError(f"more than {_MOST_NAMES} names")

    def _check_known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise FormatError(f"'{name:.80}' is neither a witness nor a group that stands above")
