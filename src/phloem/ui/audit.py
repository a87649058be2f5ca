"""An audit as one self-contained page, for somebody who is no programmer: to read, print, sign and file."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence

from phloem.ledger.audit import Audit
from phloem.ledger.findings import MEANINGS, NOTE, Finding, Verdict
from phloem.tlog.policy import NONE
from phloem.ui.audit_checks import Circumstances, checks_table, trust_table
from phloem.ui.audit_run import run_section
from phloem.ui.audit_style import AUDIT_STYLE
from phloem.ui.audit_text import bdi, code, count, moment
from phloem.ui.audit_words import LIMITS, MEANS, VERDICTS
from phloem.ui.document import document
from phloem.ui.markup import Markup, element, joined

SHOWN_FINDINGS = 20  # of one name
SHOWN_RUNS = 20
_STYLES = {Verdict.VALID: "valid", Verdict.UNDECIDED: "undecided", Verdict.INVALID: "invalid"}
_ORDER = (Verdict.INVALID, Verdict.UNDECIDED, Verdict.VALID)


def audit_page(audit: Audit, made: Circumstances) -> str:
    """The page's text."""
    runs = sorted(audit.runs, key=lambda name: (name != made.run, name))
    left = len(runs) - SHOWN_RUNS
    return document(
        f"{made.run or audit.origin or 'log'} · ledger audit",
        AUDIT_STYLE,
        element("h1", "Audit of the ledger ", bdi(audit.origin or _place(made.where))),
        _verdict(audit, made),
        _facts(audit),
        element("h2", "What was checked"),
        checks_table(audit, made),
        element("h2", "By whose trust"),
        trust_table(audit, made),
        element("h2", "What was found"),
        _findings(audit),
        *(
            run_section(name, audit.runs[name], _flags(audit, name), made.policy)
            for name in runs[:SHOWN_RUNS]
        ),
        element("p", f"… and {count(left, 'run')} more, checked alike.") if left > 0 else None,
        element("h2", "What this does not show"),
        element("ul", *(element("li", text) for text in LIMITS)),
        element("h2", "Check it again"),
        _again(audit, made),
        _signing(),
    )


def _flags(audit: Audit, run: str) -> Counter[int]:
    """How much was found about each of a run's rounds; in a log of several runs, as far as an entry says of which."""
    flags: Counter[int] = Counter()
    rounds = audit.runs[run].history.rounds
    for found in audit.findings.rows:
        row = None if found.round is None or found.name == NOTE else rounds.get(found.round)
        if row is not None and (
            len(audit.runs) == 1 or found.entry in row.updates or found.entry in (row.entry, row.merge)
        ):
            flags[row.number] += 1
    return flags


def _verdict(audit: Audit, made: Circumstances) -> Markup:
    verdict = audit.verdict
    wrong = sum(n for name, n in audit.findings.counts.items() if Finding(name, "").verdict is verdict)
    entries = count(audit.size, "entry", "entries")
    words = {
        Verdict.VALID: f"nothing wrong in {entries}.",
        Verdict.UNDECIDED: f"{count(wrong, 'thing')} to clear up in {entries}.",
        Verdict.INVALID: f"{count(wrong, 'thing')} wrong in {entries}.",
    }[verdict]
    title = str(verdict).capitalize()
    cares = _cares(audit, made)
    return element(
        "section",
        element("p", element("b", f"{title}:"), f" {words}", class_="headline"),
        element("p", VERDICTS[verdict]),
        element("p", "Bear in mind:") if cares else None,
        element("ul", *(element("li", text) for text in cares)) if cares else None,
        class_=f"verdict {_STYLES[verdict]}",
    )


def _cares(audit: Audit, made: Circumstances) -> list[str]:
    """What weakens the verdict, whatever it is."""
    cares = []
    if not made.own:
        cares.append(
            "It was judged by the log's own policy, which only shows that the log agrees with itself. Judge it by "
            "yours: --policy."
        )
    if made.policy.quorum == NONE:
        cares.append(
            "The policy asks for no witness. Whoever holds the log's key could show others another history; only "
            "checkpoints that somebody kept would tell."
        )
    if audit.vouched < audit.size:
        number = count(audit.size - audit.vouched, "entry is", "entries are")
        cares.append(f"{number} under no checkpoint that the policy believes.")
    if audit.replayed is None:
        cares.append("The merges were not computed again (--replay): what they led to is taken from the log.")
    if audit.opened < audit.committed:
        number = count(audit.committed - audit.opened, "sent frame")
        fine = audit.opened and "missing-payload" not in audit.findings.counts
        cares.append(
            f"{number} of {audit.committed:,} were not at hand to be compared with the log"
            + ("; no merge uses them." if fine else ".")
        )
    return cares


def _facts(audit: Audit) -> Markup:
    runs = audit.runs.values()
    merged, sent = (
        sum(sum(run.sites.values()) for run in runs),
        sum(run.counts.get("update", 0) for run in runs),
    )
    again = "not computed" if audit.replayed is None else f"{audit.replayed:,}"
    cells = [
        ("Entries", f"{audit.size:,}", f"{audit.vouched:,} under a signed checkpoint"),
        ("Rounds merged", f"{sum(run.rounds for run in runs):,}", count(len(audit.runs), "run")),
        ("Updates merged", f"{merged:,}", f"of {sent:,} that were sent"),
        ("Merges computed again", again, "bit for bit as logged" if audit.replayed else ""),
        ("Frames compared", f"{audit.opened:,}", f"of {audit.committed:,} that were sent"),
        ("Checkpoints compared", f"{audit.checkpoints:,}", ""),
    ]
    rows = (
        element("div", element("dt", what), element("dd", value, element("small", note) if note else None))
        for what, value, note in cells
    )
    return element("dl", *rows, class_="facts")


# -- findings ----------------------------------------------------------------------------------------------------


def _findings(audit: Audit) -> Markup:
    rows: dict[str, list[Finding]] = {}
    for row in audit.findings.rows:
        rows.setdefault(row.name, []).append(row)
    serious = [name for name in MEANINGS if name in rows and name != NOTE]
    serious.sort(key=lambda name: _ORDER.index(rows[name][0].verdict))
    parts: list[Markup] = [_finding(name, rows[name], audit.findings.counts[name]) for name in serious]
    if not serious:
        parts.append(element("p", "Nothing is wrong."))
    if NOTE in rows:
        parts.append(_finding(NOTE, rows[NOTE], audit.findings.counts[NOTE]))
    return joined(*parts)


def _finding(name: str, rows: Sequence[Finding], number: int) -> Markup:
    title, means = MEANS.get(name, (name, ""))
    verdict = rows[0].verdict
    style = {Verdict.INVALID: "bad", Verdict.UNDECIDED: "doubt"}.get(verdict)
    weight = {Verdict.INVALID: "makes the log invalid", Verdict.UNDECIDED: "leaves it undecided"}.get(verdict)
    head = element(
        "h3",
        element("span", title, class_=style),
        f" · {number:,}" if number > 1 else None,
    )
    short = (
        element("span", code(name), f": {MEANINGS.get(name, '')}; {weight}.", class_="soft")
        if weight
        else None
    )
    more = number - SHOWN_FINDINGS
    return joined(
        head,
        element("p", *_marked(means), element("br") if short else None, short),
        element("ul", *(element("li", *_where(row), _said(row.words)) for row in rows[:SHOWN_FINDINGS])),
        element("p", f"… and {more:,} more: phloem ledger audit --json.", class_="soft")
        if more > 0
        else None,
    )


def _said(words: str) -> Markup:
    """A finding's words, in which names of others stand."""
    return element("bdi", words, dir="ltr")


def _where(row: Finding) -> list[object]:
    places = [] if row.entry is None else [f"entry {row.entry}"]
    if row.round is not None and f"round {row.round}" not in row.words:
        places.append(f"round {row.round}")
    return [element("span", ", ".join(places), class_="soft"), ": "] if places else []


def _marked(text: str) -> list[object]:
    """The text with what stands in backquotes as code."""
    pieces = text.split("`")
    return [code(piece) if place % 2 else piece for place, piece in enumerate(pieces)]


# -- again -------------------------------------------------------------------------------------------------------


def _again(audit: Audit, made: Circumstances) -> Markup:
    words = ["phloem", "ledger", "audit", _place(made.where), "--policy", "policy.txt"]
    words += ["--seen", "kept.txt"] if audit.newest else []
    words += ["--replay"] if made.replay else []
    policy = made.policy.pack().decode("utf-8", "backslashreplace")
    parts: list[Markup | None] = [
        element("p", "Nobody need believe this page. Install Phloem on a machine that you trust, and run"),
        element("pre", element("code", shlex.join(words))),
        element(
            "p",
            "policy.txt says whom you trust: get the keys from their owners, not from the log. This audit was judged "
            "by",
        ),
        element("pre", element("code", policy)),
    ]
    if audit.newest:
        kept = audit.newest.decode("utf-8", "backslashreplace")
        parts += [
            element(
                "p",
                "kept.txt is the newest checkpoint of this audit. Keep it: whoever has it can tell at any later time "
                "whether the log was rewritten since.",
            ),
            element("pre", element("code", kept)),
        ]
    parts.append(
        element(
            "p",
            "Without Phloem: the log is c2sp.org/tlog-checkpoint and tlog-tiles, witnesses are tlog-cosignature, "
            "entries are DSSE envelopes around in-toto statements; other programs read them.",
            class_="soft",
        )
    )
    time = "" if made.time is None else f" on {moment(made.time)}, by the clock of the machine that ran it"
    parts.append(element("p", f"Made by {made.software}{time}.", class_="soft"))
    return joined(*parts)


def _place(where: str) -> str:
    """The ledger as the auditor named it, without a password or a token that a URL may hold."""
    if "://" not in where:
        return where
    return re.sub(r"://[^/@]*@", "://", re.split(r"[?#]", where)[0])


def _signing() -> Markup:
    """Room for a signature, on paper alone."""
    cells = (element("td", word) for word in ("Audited by", "Date", "Signature"))
    return element("table", element("tbody", element("tr", *cells)), class_="words sign", aria_hidden="true")
