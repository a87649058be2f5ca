"""What an audit checked, and by whose trust: two tables on its page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from phloem.ledger.audit import Audit
from phloem.ledger.findings import Finding, Verdict
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, cosigned_time
from phloem.tlog.note import Note
from phloem.tlog.policy import NONE, Policy
from phloem.ui.audit_text import bdi, code, count, key_code, moment, names, pairs
from phloem.ui.audit_words import CHECKS, Check
from phloem.ui.markup import Markup, element, joined


@dataclass(frozen=True)
class Circumstances:
    """How an audit was made, as far as its page says it.

    Attributes:
        policy: by which it was judged.
        own: whether that is the auditor's own, and not the log's.
        where: the ledger, as the auditor named it.
        run: the run that was asked for, where the ledger is a run's.
        replay: whether the merges were to be computed again.
        seen: how many checkpoints the auditor brought.
        anchors: how many anchors.
        time: when it was made, in seconds since 1970.
        software: what made it.
    """

    policy: Policy
    own: bool = False
    where: str = "RUN"
    run: str | None = None
    replay: bool = False
    seen: int = 0
    anchors: int = 0
    time: float | None = None
    software: str = "Phloem"


def checks_table(audit: Audit, made: Circumstances) -> Markup:
    """Every question that an audit answers, with its answer."""
    rows = []
    for check in CHECKS:
        rows.append(_check_row(check.question, check.how, *_status(check, audit, made)))
        if "wrong-aggregate" in check.names:
            rows.append(_check_row(*_replayed(audit, made)))
    return element("table", element("tbody", *rows), class_="words checks")


def _check_row(question: str, how: str, style: str, status: str) -> Markup:
    mark = {"good": "✓ ", "bad": "✗ ", "doubt": "? "}.get(style, "– ")
    return element(
        "tr",
        element("td", question, element("small", how)),
        element("td", element("span", mark, status, class_=style), class_="status"),
    )


def _status(check: Check, audit: Audit, made: Circumstances) -> tuple[str, str]:
    counts = audit.findings.counts
    found = {name: counts[name] for name in check.names if counts[name]}
    verdicts = {Finding(name, "").verdict for name in found}
    if found:
        number = count(sum(found.values()), "finding")
        if Verdict.INVALID in verdicts:
            return "bad", f"no: {number}"
        return "doubt", f"open: {number}"
    kinds: Counter[str] = Counter()
    for run in audit.runs.values():
        kinds.update(run.counts)
    if "swapped-payload" in check.names:
        return ("good", f"yes: {audit.opened:,} frames") if audit.opened else ("none", "not checked")
    for name, kind in (("wrong-release", "model-release"), ("rolled-back-anchor", "anchor")):
        if name in check.names and not kinds[kind] and not (kind == "anchor" and made.anchors):
            return "none", "there is none"
    if not audit.size:
        return "none", "nothing to check"
    if "rewritten-history" in check.names and not audit.vouched:
        return "doubt", "open: nobody vouches"
    return "good", "yes"


def _replayed(audit: Audit, made: Circumstances) -> tuple[str, str, str, str]:
    question, how = (
        "Every merge, computed again, gives the same model",
        "The merges of the run were made again from the stored frames, and compared bit for bit.",
    )
    if audit.replayed is None:
        return question, how, "none", "not tried: no frames" if made.replay else "not asked for"
    runs = [audit.runs[made.run]] if made.run in audit.runs else list(audit.runs.values())
    rounds = sum(run.rounds for run in runs)
    if audit.replayed < rounds:
        style = "bad" if audit.findings.counts["wrong-aggregate"] else "doubt"
        return question, how, style, f"only {audit.replayed:,} of {rounds:,}"
    return question, how, "good", f"yes: {count(audit.replayed, 'merge')}"


# -- trust -------------------------------------------------------------------------------------------------------


def trust_table(audit: Audit, made: Circumstances) -> Markup:
    """Whom the verdict trusts: the policy, the log's key, witnesses, and the checkpoints that were compared."""
    policy = made.policy
    rows: list[tuple[str, object]] = [
        (
            "Policy",
            "the auditor's own"
            if made.own
            else element("span", "the log's own, not the auditor's", class_="doubt"),
        ),
        ("Log", joined(*(element("div", key_code(_text(key))) for key in policy.logs))),
        ("Witnesses", _witnesses(audit, policy)),
    ]
    if audit.newest:
        times = _cosigned(audit.newest, policy)
        signed = [joined(bdi(_text(name)), f" at {moment(time)}") for name, time in times]
        rows.append(
            (
                "Newest checkpoint",
                joined(
                    f"{count(audit.vouched, 'entry', 'entries')}, signed by the log",
                    *(part for words in signed for part in (", by ", words)),
                    element("small", "root ", code(_root(audit.newest))),
                ),
            )
        )
    else:
        rows.append(("Newest checkpoint", element("span", "none that the policy believes", class_="doubt")))
    if audit.vouched < audit.size:
        rows.append(("Root of everything read", code(audit.root.hex())))
    brought = count(made.seen, "checkpoint") if made.seen else "no checkpoint"
    kept = f"{brought} that the auditor brought, and {audit.checkpoints - made.seen:,} of the log itself"
    kept += f", and {count(made.anchors, 'anchor')}" if made.anchors else ""
    rows.append(("Compared with", kept))
    return pairs(rows, "trust")


def _witnesses(audit: Audit, policy: Policy) -> Markup:
    if policy.quorum == NONE:
        return element("span", "none: the policy asks for none", class_="doubt")
    lines = [joined("asked for: ", bdi(_text(policy.quorum)))]
    for name, group in policy.groups.items():
        members = names([_text(member) for member in group.members])
        lines.append(joined(bdi(_text(name)), f" is at least {group.wanted} of ", members))
    keys = [(element("div", bdi(_text(n)), " ", key_code(_text(k)))) for n, k in policy.witnesses.items()]
    return joined(*(element("div", line) for line in lines), *keys)


def _cosigned(note: bytes, policy: Policy) -> list[tuple[str, int]]:
    """The witnesses under a checkpoint that was verified, and when they signed."""
    rows = {(one.name, one.id): one.signature for one in Note.unpack(note).signatures}
    return [
        (name, cosigned_time(rows[key.name, key.id]))
        for name, key in sorted(policy.witnesses.items())
        if (key.name, key.id) in rows and key.type == COSIGNATURE
    ]


def _root(note: bytes) -> str:
    return Checkpoint.unpack(Note.unpack(note).text).root.hex()


def _text(value: object) -> str:
    """A name out of a policy, which need be no UTF-8, as text."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
