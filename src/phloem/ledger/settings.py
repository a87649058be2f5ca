"""`[ledger]` of a recipe: whether a run keeps a ledger, and what sites ask of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phloem.errors import ConfigError, FormatError

if TYPE_CHECKING:  # what a recipe without a ledger does not need
    from phloem.tlog.keys import VerifierKey
    from phloem.tlog.policy import Policy

_NOTE, _COSIGNATURE = 1, 4  # types of keys (`phloem.tlog.keys`)
STRICT, AUDIT_ONLY = "strict", "audit-only"
_LAGGED = re.compile(r"lagged ([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class LedgerSettings:
    """How a run keeps its ledger.

    Attributes:
        receipts: a site trains only on a trunk for which it holds a receipt: "strict", of this very round;
            "lagged K", of one of the last K rounds; "audit-only", none: whoever audits the run finds out later.
        witnesses: who cosigns the log's checkpoints, as "NAME VERIFIER-KEY URL".
        quorum: how many of them must have signed a checkpoint; 0 is more than half.
        members: the keys that sites must have, by name; others are let in with the key that they come with.
        folder: where the log lies, as `phloem ledger init` made it; by default it is made in the run's directory.
        retention: how long the log is to be kept, in words; it stands in the run's first entry.
    """

    receipts: str = STRICT
    witnesses: list[str] = field(default_factory=list)
    quorum: int = 0
    members: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    retention: str = "6 years"

    def __post_init__(self) -> None:
        lag_of(self.receipts)
        if not 0 <= self.quorum <= len(self.witnesses):
            raise ConfigError(
                f"[ledger]: 'quorum' is at most the number of witnesses, {len(self.witnesses)}, found {self.quorum}"
            )
        if not self.retention.isprintable() or not 0 < len(self.retention) <= 100:
            raise ConfigError("[ledger]: 'retention' must be a few words, such as '6 years'")
        for name, text in self.members.items():
            _key(text, _NOTE, f"[ledger.members]: '{name}'", name)
        if not self.folder.isprintable():
            raise ConfigError(f"[ledger]: 'folder' must be a path, found {self.folder!r:.80}")
        self._check_policy()

    def _check_policy(self) -> None:
        """Nothing, if the witnesses make a policy that can be read again."""
        if not self.witnesses:
            return
        from phloem.tlog.keys import VerifierKey
        from phloem.tlog.policy import Policy

        try:
            Policy.parse(self.policy(VerifierKey("log", _NOTE, bytes(32))).pack())
        except FormatError as error:
            raise ConfigError(f"[ledger]: 'witnesses' make no policy: {error.message}") from error

    @property
    def lag(self) -> int | None:
        """For how many rounds a receipt lasts; None where none is asked for."""
        return lag_of(self.receipts)

    def witness_keys(self) -> dict[str, tuple[VerifierKey, str]]:
        """Key and URL of every witness, by its name in policies."""
        found: dict[str, tuple[VerifierKey, str]] = {}
        for line in self.witnesses:
            words = str(line).split()
            if len(words) != 3 or words[0] in found:
                raise ConfigError(
                    f"[ledger]: expected a witness as 'NAME KEY URL', each name once, found {line!r:.120}",
                    hint="`phloem witness init` prints the line",
                )
            name, key, url = words
            found[name] = (_key(key, _COSIGNATURE, f"[ledger]: witness '{name}'"), url)
        return found

    def policy(self, log: VerifierKey) -> Policy:
        """Whom to trust, with this key of the log."""
        from phloem.tlog.policy import NONE, Group, Policy

        found = self.witness_keys()
        groups: Mapping[str, Group] = {}
        if found:
            groups = {"quorum": Group(self.quorum or len(found) // 2 + 1, tuple(found))}
        witnesses = {name: key for name, (key, _) in found.items()}
        urls = dict(found.values())
        return Policy((log,), witnesses, groups, "quorum" if found else NONE, urls)


def lag_of(receipts: str) -> int | None:
    """For how many rounds a receipt lasts under this rule; None where none is asked for.

    Raises:
        ConfigError: there is no such rule.

    >>> lag_of("strict"), lag_of("lagged 8"), lag_of("audit-only")
    (0, 8, None)
    """
    if receipts in (STRICT, AUDIT_ONLY):
        return 0 if receipts == STRICT else None
    match = _LAGGED.fullmatch(receipts)
    if match is None:
        raise ConfigError(
            f"[ledger]: 'receipts' is '{STRICT}', 'lagged K' or '{AUDIT_ONLY}', found {receipts!r:.40}"
        )
    return int(match[1])


def _key(text: str, type_: int, where: str, name: str | None = None) -> VerifierKey:
    from phloem.tlog.keys import VerifierKey

    if not isinstance(text, str):
        raise ConfigError(f"{where} must be a text, found {text!r:.60}")
    try:
        key = VerifierKey.parse(text)
    except FormatError as error:
        raise ConfigError(f"{where}: {error.message}") from error
    if key.type != type_ or (name is not None and key.name != name):
        raise ConfigError(f"{where}: the key is of another type, or another's", hint="see `phloem key new`")
    return key
