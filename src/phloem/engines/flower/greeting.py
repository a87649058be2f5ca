"""The first words between a strategy and a node: versions, the plan, and where the node stands.

A greeting travels as an ordinary train or evaluate message whose only record is ours. A node with the mod answers it
itself; an app without the mod fails on it, and is then sent whole models as Flower does. Nothing large travels before
both ends know of each other: a node that holds the trunk, from an earlier round or an earlier run, says so and is
sent no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict

import phloem
from phloem import canonical
from phloem.engines.flower.records import KEY, TOKEN_BYTES, Manifest
from phloem.errors import ConfigError, FormatError
from phloem.rounds.plan import VERSION, OpenPlan

PROTOCOL = 1
"""Of greetings and payloads; both ends must have the same."""

REFUSAL = 6
"""Flower's error code for a mod that cannot go on (MOD_FAILED_PRECONDITION)."""

REFUSED = "phloem: "
"""What the reason of every error of ours begins with."""

_GREETING, _ANSWER = "greeting", "answer"


@dataclass(frozen=True)
class Greeting:
    """What a strategy tells a node that it does not know.

    Attributes:
        token: the run's token, in hexadecimal.
        site: the node's number in this run.
        round, chain, state: where the trunk stands: merges, whole chain id, digest.
    """

    token: str
    site: int
    plan: OpenPlan
    manifest: Manifest
    round: int
    chain: str
    state: str

    def records(self) -> RecordDict:
        """The greeting as a message's content."""
        table = {
            "protocol": PROTOCOL,
            "phloem": phloem.__version__,
            "token": self.token,
            "site": self.site,
            "plan": plan_to_json(self.plan),
            "manifest": self.manifest.to_json(),
            "round": self.round,
            "chain": self.chain,
            "state": self.state,
        }
        return RecordDict({KEY: ConfigRecord({_GREETING: canonical.dumps(table)})})

    @classmethod
    def read(cls, content: RecordDict) -> Greeting | None:
        """The greeting in a message; None where it is another message.

        Raises:
            ConfigError: it is of another protocol; both versions are named.
            FormatError: it is damaged.
        """
        table = _read(content, _GREETING)
        if table is None:
            return None
        _same_protocol(table, "the strategy")
        try:
            manifest = Manifest.from_json(table["manifest"])
            plan = plan_from_json(table["plan"])
            token, chain, state = (str(table[key]) for key in ("token", "chain", "state"))
            sizes = [len(bytes.fromhex(text)) for text in (token, chain, state)]
            if sizes != [TOKEN_BYTES, 32, 32] or plan.layout != manifest.layout.digest:
                raise FormatError("its token, chain, state or layout are of the wrong size")
            numbers = table["site"], table["round"]
            if not all(type(number) is int and 0 <= number < 1 << 32 for number in numbers):
                raise FormatError("its numbers are out of range")
            return cls(bytes.fromhex(token).hex(), numbers[0], plan, manifest, numbers[1], chain, state)
        except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"a strategy's greeting is damaged: {error}") from error


_PLAN_KEYS = (
    "run", "seed", "layout", "initial_state", "up", "down", "codecs", "max_frame_bytes", "digest_every", "version",
)  # fmt: skip


def plan_to_json(plan: OpenPlan) -> dict[str, Any]:
    """What of an open plan is not always the same, as JSON values."""
    return {key: value for key, value in canonical.plain(plan).items() if key in _PLAN_KEYS}


def plan_from_json(table: Any) -> OpenPlan:
    """The plan that `plan_to_json` wrote.

    Raises:
        FormatError: it is something else.
    """
    try:
        if set(table) != set(_PLAN_KEYS):
            raise FormatError("a plan has other keys than this version's")
        numbers = (table[key] for key in ("seed", "max_frame_bytes", "digest_every", "version"))
        words = (table[key] for key in ("run", "layout", "initial_state", *table["codecs"]) if key in table)
        if not all(type(number) is int for number in numbers) or table["digest_every"] < 1:
            raise FormatError("a plan's numbers are not numbers, or out of range")
        if not all(isinstance(word, str) for word in words):
            raise FormatError("a plan's names are not text")
        if len(bytes.fromhex(table["initial_state"])) != 32:
            raise FormatError("a plan's first state is not named by its digest")
        if table["version"] != VERSION:
            raise FormatError(f"expected a plan of version {VERSION}, found {table['version']}")
        return OpenPlan(sites=(), **{**table, "codecs": tuple(table["codecs"])})
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the plan is damaged: {error}") from error


@dataclass(frozen=True)
class Answer:
    """Where a node stands: a round and the chain id that it holds there; None where it holds nothing."""

    round: int | None = None
    chain: str = ""

    def records(self) -> RecordDict:
        """The answer as a message's content."""
        table = {"protocol": PROTOCOL, "phloem": phloem.__version__, "round": self.round, "chain": self.chain}
        return RecordDict({KEY: ConfigRecord({_ANSWER: canonical.dumps(table)})})

    @classmethod
    def read(cls, content: RecordDict) -> Answer | None:
        """The answer in a reply; None where it is another reply.

        Raises:
            ConfigError: it is of another protocol. FormatError: it is damaged.
        """
        table = _read(content, _ANSWER)
        if table is None:
            return None
        _same_protocol(table, "the node")
        at, chain = table.get("round"), table.get("chain")
        if not (at is None or type(at) is int) or not isinstance(chain, str):
            raise FormatError("a node's answer to the greeting is damaged")
        return cls(at, chain)


def cleaned(words: str) -> str:
    """What a node says of itself, fit for a log and a record: printable, at most 500 characters."""
    return "".join(letter if letter.isprintable() else " " for letter in words[:500])


def words_size(content: RecordDict) -> int:
    """The bytes of a greeting or an answer."""
    record = content.config_records.get(KEY, ConfigRecord())
    return sum(len(value) for value in record.values() if isinstance(value, bytes))


def _read(content: RecordDict, kind: str) -> dict[str, Any] | None:
    record = content.config_records.get(KEY)
    data = None if record is None else record.get(kind)
    if data is None:
        return None
    table = canonical.loads(data) if isinstance(data, bytes) else None
    if not isinstance(table, dict):
        raise FormatError(f"the {kind} is not a table")
    return table


def _same_protocol(table: dict[str, Any], who: str) -> None:
    theirs = table.get("protocol")
    if theirs != PROTOCOL:
        version = str(table.get("phloem"))[:20]
        raise ConfigError(
            f"{who} speaks protocol {theirs!r:.20} (phloem {version}), "
            f"expected {PROTOCOL} (phloem {phloem.__version__})",
            hint="install the same release of phloem at both ends",
        )
