"""One run on an audit's page: its rules, its members and keys, its rounds, and what happened beside them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256

from phloem.ledger.history import EVENTS_KEPT, Event, History, Part, Round
from phloem.ledger.kinds import DELTA, HELD, KEY_FRAME
from phloem.ledger.rules import RunRules
from phloem.tlog.policy import Policy
from phloem.ui.audit_grid import grid
from phloem.ui.audit_text import NAMES, bdi, code, count, folded, key_code, moment, more, names, pairs, table
from phloem.ui.audit_words import KINDS, RULES
from phloem.ui.figures import size_text, unbroken
from phloem.ui.markup import Markup, element, joined

GROUP = 100  # rounds in one table
_ROWS = 200  # of a table of members, sites or events
_FORMS = {HELD: "nothing: held already", DELTA: "", KEY_FRAME: "whole model"}


def run_section(name: str, run: RunRules, flags: Mapping[int, int], policy: Policy) -> Markup:
    """What the log has of a run; `flags` count what was found about its rounds."""
    history = run.history
    return joined(
        element("h2", "Run ", bdi(name)),
        _rules(run, policy),
        element("h3", "Members and their keys"),
        _members(run),
        element("h3", "Rounds and sites"),
        _rounds(history, flags),
        _sites(history),
        _events(history),
        _kinds(run.counts),
    )


def _rules(run: RunRules, policy: Policy) -> Markup:
    genesis, history = run.genesis, run.history
    receipts = str(genesis["receipts"])
    told = str(genesis["policy"])
    same = told == sha256(policy.pack()).hexdigest()
    words = RULES.get(receipts, "a site trains on if its newest receipt is not older than so many rounds")
    released = [event for event in history.events if event.kind == "model-release"]
    rows: list[tuple[str, object]] = [
        ("Coordinator", bdi(genesis.sender)),
        ("From, to", f"{moment(history.first)} to {moment(history.last)}, as the senders claim"),
        ("Receipts", joined(bdi(receipts), element("small", words))),
        ("To be kept for", bdi(genesis["retention"])),
        (
            "Plan",
            joined(code(genesis["plan"]), element("small", "what all agreed on before the first round")),
        ),
        (
            "Policy that its members were told",
            joined(
                code(told),
                element("small", "the same as this audit's" if same else "not the one of this audit"),
            ),
        ),
        ("Software", bdi(genesis["software"])),
    ]
    rows += [("Model given out", _release(event)) for event in released[-3:]]
    return pairs(rows, "trust")


def _release(event: Event) -> Markup:
    said = event.fields
    return joined(
        bdi(said["file"]),
        element("small", f"entry {event.entry}, after {count(int(str(said['round'])), 'round')}; SHA-256 "),
        code(said["digest"]),
    )


def _members(run: RunRules) -> Markup:
    rows, counts = [], Counter[str]()
    for event in run.history.events:
        if event.kind not in ("genesis", "member"):
            continue
        said = event.fields
        name, key = str(said["name"]), str(said["key"])
        action = str(said.get("action", "add"))
        counts[action] += 1
        held = run.members.key_of(name)
        rows.append(
            (
                bdi(name),
                str(said.get("role", "coordinator")),
                {"add": "let in", "rotate": "new key", "revoke": "put out"}.get(action, action),
                joined(f"entry {event.entry}", element("small", moment(event.time))),
                joined(
                    key_code(key),
                    None if held is not None and str(held) == key else element("small", "counts no more"),
                ),
                _compared(run, name, key),
            )
        )
    heads = ("Member", "Part", "What", "When", "Public key", "Compared by you")
    return joined(
        element(
            "p",
            f"{count(len(run.members.names), 'member')} at the end. A key is only as good as the way by which you "
            "learned it: ask a member for its key by telephone, and give it with --member.",
        ),
        folded(
            f"{count(len(rows), 'key')} and changes of keys",
            table(heads, rows[:_ROWS], "keys"),
            len(rows) > 40,
        ),
        more(len(rows) - _ROWS),
    )


def _compared(run: RunRules, name: str, key: str) -> Markup:
    """Whether the auditor knows this key of the member, or one that it was changed from or to."""
    wanted = run.pinned.get(name)
    if wanted is None:
        return element("span", "–")
    if wanted == key:
        return element("span", "as you named it", class_="good")
    if wanted in run.members.keys_of(name):
        return element("span", "changed from or to the one that you named")
    return element("span", "not the one that you named", class_="bad")


def _rounds(history: History, flags: Mapping[int, int]) -> Markup:
    rounds = sorted(history.rounds.values(), key=lambda row: row.number)
    closing = [row for row in rounds if not row.asked and row.merge is None]
    shown = [row for row in rounds if row.asked or row.merge is not None]
    if not shown:
        return element("p", "No round was opened.")
    words = "Numbers are the log's, which counts rounds from 0. Times are the coordinator's claims."
    if closing:
        words += (
            f" A last model was sent out after round {closing[-1].number - 1}, and nobody was asked to train."
        )
    if history.rounds_left:
        words += f" The newest {len(rounds):,} rounds are shown; {history.rounds_left:,} older ones were checked alike."
    groups = [shown[at : at + GROUP] for at in range(0, len(shown), GROUP)]
    if len(groups) > 1:
        words += " Of the tables that are folded up, those that you open are printed."
    tables = [
        folded(
            f"Rounds {group[0].number} to {group[-1].number}: {_sums(group)}",
            _round_table(group, frozenset(history.sites), flags),
            len(groups) > 1,
        )
        for group in groups
    ]
    full = [row for row in rounds[-10 * GROUP :] if row.output is not None]
    return joined(
        element("p", words),
        grid(shown, flags),
        *tables,
        folded("The models of all rounds, in full", _identifiers(full), True) if full else None,
    )


def _sums(group: Sequence[Round]) -> str:
    counts = Counter(part for row in group for part in row.parts().values())
    return ", ".join(f"{counts[part]:,} {part}" for part in Part if counts[part])


def _round_table(group: Sequence[Round], everybody: frozenset[str], flags: Mapping[int, int]) -> Markup:
    heads = ("Round", "Asked", "Merged", "Left out, and why", "From sites", "To each site", "Model after")
    rows = [
        (
            joined(
                str(row.number),
                element("small", moment(row.time).removesuffix(" UTC")),
                element("small", f"opened {row.opened} times", class_="doubt") if row.opened > 1 else None,
                element("small", count(flags[row.number], "finding"), class_="bad")
                if row.number in flags
                else None,
            ),
            _asked(frozenset(row.asked), everybody),
            _merged(row),
            _left_out(row),
            unbroken(size_text(row.up)),
            _down(row),
            _short(row),
        )
        for row in group
    ]
    return table(heads, rows, "rounds", (4, 5))


def _asked(asked: frozenset[str], everybody: frozenset[str]) -> object:
    missing = everybody - asked
    if not missing:
        return f"all {len(asked):,}" if len(asked) > 1 else names(asked)
    if len(asked) > 3 and len(missing) <= 3:
        return joined(f"{len(asked):,}: all but ", names(missing))
    return joined(f"{len(asked):,}: " if len(asked) > 1 else None, names(asked))


def _merged(row: Round) -> object:
    if row.merge is None:
        return "not merged"
    if row.merged == frozenset(row.asked):
        return f"all {len(row.merged):,}" if len(row.merged) > 1 else names(row.merged)
    return joined(f"{len(row.merged):,}: ", names(row.merged)) if row.merged else "nobody"


def _left_out(row: Round) -> Markup:
    groups: dict[str, list[str]] = defaultdict(list)
    for site, part in row.parts().items():
        if part is Part.LEFT_OUT:
            groups[row.reason(site) or "no reason given"].append(site)
        elif part is Part.ABSENT:
            groups["no update came"].append(site)
    shown = [
        element("div", names(sites), ": ", bdi(reason)) for reason, sites in list(groups.items())[:NAMES]
    ]
    more = len(groups) - NAMES
    return (
        joined(*shown, element("div", f"… and {more} more reasons") if more > 0 else None)
        if shown
        else Markup("–")
    )


def _down(row: Round) -> Markup:
    lines = []
    for form, size in sorted(row.down.items()):
        words = _FORMS.get(form, form)
        if form == HELD:
            lines.append(element("div", "–", title="the sites held the model already"))
        else:
            lines.append(
                element("div", unbroken(size_text(size)), element("small", words) if words else None)
            )
    return joined(*lines) if lines else Markup("–")


def _short(row: Round) -> Markup:
    if row.output is None:
        return Markup("–")
    chain = row.output["chain"]
    return joined(element("code", chain[:12], "…", title=chain), element("small", f"entry {row.merge}"))


def _identifiers(rows: Sequence[Round]) -> Markup:
    cells = [
        (str(row.number), joined(code(row.output["chain"])), code(row.output.get("state", "–")))
        for row in rows
        if row.output is not None
    ]
    return table(("After round", "Chain: the whole history up to it", "State: its content"), cells, "keys")


def _sites(history: History) -> Markup:
    cells = [
        (
            bdi(name),
            f"{site.asked:,}",
            f"{site.sent:,}",
            f"{site.merged:,}",
            unbroken(size_text(site.up)),
        )
        for name, site in sorted(history.sites.items())
    ]
    heads = ("Site", "Rounds asked", "Updates sent", "Merged", "Bytes sent")
    made = table(heads, cells[:_ROWS], "sites", (1, 2, 3, 4))
    words = f"{count(len(cells), 'site')}: how often each was asked, sent and was merged"
    return joined(
        element("h3", "Every site, in all rounds"),
        folded(words, made, len(cells) > 40),
        more(len(cells) - _ROWS),
    )


def _events(history: History) -> Markup | None:
    rows = [
        (f"entry {event.entry}", moment(event.time), bdi(event.sender), _event_words(event))
        for event in history.events
        if event.kind in ("complaint", "erasure", "anchor", "model-release")
    ]
    if not rows:
        return None
    left = history.events_left
    note = f"The first {EVENTS_KEPT:,} are kept; {left:,} later ones were checked alike." if left else None
    return joined(
        element("h3", "Beside the rounds"),
        table(("Entry", "When, as claimed", "By", "What"), rows[:_ROWS], "events"),
        more(len(rows) - _ROWS),
        element("p", note, class_="soft") if note else None,
    )


def _event_words(event: Event) -> Markup:
    said = event.fields
    if event.kind == "complaint":
        return joined("complains about ", bdi(said["against"]), ": ", bdi(said["about"]))
    if event.kind == "erasure":
        return joined(f"destroyed what entry {said['entry']} commits to: ", bdi(said["reason"]))
    if event.kind == "anchor":
        return joined(f"the tree of {said['size']:,} entries was written down in ", bdi(said["system"]))
    return joined("gave out the model ", bdi(said["file"]))


def _kinds(counts: Mapping[str, int]) -> Markup:
    rows = [(code(kind), words, f"{counts[kind]:,}") for kind, words in KINDS.items() if counts.get(kind)]
    made = table(("Kind", "What it says", "Entries"), rows, "kinds", (2,))
    words = f"Its {count(sum(counts.values()), 'entry', 'entries')}, by kind"
    return element("details", element("summary", words), made)
