from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.ui.test_report_in_a_browser import _chromium as chromium

import phloem.ledger
from phloem.ledger.audit import Audit, Auditor
from phloem.ledger.entry import Seen, Statement
from phloem.ledger.findings import MEANINGS, NOTE, Findings, Verdict
from phloem.ledger.history import CELLS_KEPT, EVENTS_KEPT, ROUNDS_KEPT, History, Part
from phloem.ledger.kinds import KINDS as KINDS_OF_ENTRIES
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, Signer
from phloem.tlog.keys import NOTE as NOTE_KEY
from phloem.tlog.merkle import leaf_hash
from phloem.tlog.note import signed
from phloem.tlog.policy import Group, Policy
from phloem.ui.audit import SHOWN_FINDINGS, audit_page
from phloem.ui.audit_checks import Circumstances
from phloem.ui.audit_words import CHECKS, KINDS, MEANS, VERDICTS

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
ORIGIN = "example.org/log"
TIME = 1_800_000_000


def key(name: str, type_: int = NOTE_KEY) -> Signer:
    return Signer.from_seed(name, type_, sha256(name.encode()).digest())


LOG, NORTH, WEST = key(ORIGIN), key("north.example", COSIGNATURE), key("west.example", COSIGNATURE)
ALONE = Policy((LOG.verifier,))
WITNESSED = Policy(
    (LOG.verifier,),
    {"north": NORTH.verifier, "west": WEST.verifier},
    {"both": Group(2, ("north", "west"))},
    "both",
)


class Written:
    """A log that is made by hand, whose statements need not be lawful."""

    def __init__(self, run: str = "run", policy: Policy = ALONE) -> None:
        self.run, self.entries_, self.seq = run, list[bytes](), dict[str, int]()
        self.trunk = 0
        self.begin(policy)

    def begin(self, policy: Policy) -> None:
        self.say(
            "coordinator",
            "genesis",
            key=str(key("coordinator").verifier),
            name="coordinator",
            origin=ORIGIN,
            plan=digest("plan"),
            policy=sha256(policy.pack()).hexdigest(),
            receipts="audit-only",
            retention="6 years",
            software="pkg:pypi/phloem@0",
        )

    @property
    def size(self) -> int:
        return len(self.entries_)

    def entries(self, start: int, end: int) -> list[bytes]:
        return self.entries_[start:end]

    def say(self, sender: str, kind: str, *others: Signer, **fields: Any) -> int:
        seq = self.seq[sender] = self.seq.get(sender, -1) + 1
        said = Statement(kind, self.run, sender, seq, TIME + self.size, Seen(), fields)
        self.entries_.append(said.signed(key(sender), *others).pack())
        return self.size - 1

    def let_in(self, *sites: str) -> None:
        for name in sites:
            public = key(name).verifier
            fields = {"action": "add", "fingerprint": sha256(public.public).hexdigest(), "key": str(public)}
            self.say(name, "member", key("coordinator"), **fields, name=name, role="site")

    @property
    def base(self) -> dict[str, str]:
        return {"chain": digest(f"chain {self.trunk}"), "state": digest(f"state {self.trunk}")}

    def open(self, number: int, asked: Sequence[str]) -> None:
        names = sorted(asked)
        self.say(
            "coordinator",
            "round-open",
            asked=names,
            base=self.base,
            plan=digest("plan"),
            reached=names,
            round=number,
        )
        frame = {"base": self.base, "bytes": 50, "codec": "none", "rawBytes": 400, "round": number}
        self.say("coordinator", "broadcast", **frame, form="delta", commit=digest("frame"))

    def update(self, number: int, site: str, outcome: str = "taken") -> int:
        frame = {"base": self.base, "bytes": 100, "codec": "none", "rawBytes": 400, "round": number}
        place = self.say(
            site, "update", **frame, to="coordinator", commit=digest("frame"), weight=digest("weight")
        )
        self.answer(number, place, outcome)
        return place

    def answer(self, number: int, place: int, outcome: str) -> None:
        leaf = leaf_hash(self.entries_[place]).hex()
        self.say("coordinator", "received", entry=place, leaf=leaf, outcome=outcome, round=number)

    def merge(self, number: int, inputs: Sequence[int], reasons: Mapping[str, str] | None = None) -> None:
        base = self.base
        self.trunk += 1
        self.say(
            "coordinator",
            "aggregate",
            base=base,
            excluded=[{"reason": why, "site": site} for site, why in sorted((reasons or {}).items())],
            inputs=sorted(inputs),
            output=self.base,
            round=number,
            rule=digest("rule"),
            weights=digest("weights"),
        )

    def round(self, number: int, merged: Sequence[str], refused: Mapping[str, str] | None = None) -> None:
        """A round in which these are merged, and others refused or (with "no update") silent."""
        others = dict(refused or {})
        self.open(number, [*merged, *others])
        for site, why in others.items():
            if why != "no update":
                self.update(number, site, why)
        self.merge(number, [self.update(number, site) for site in merged], others)

    def checkpoint(self, *witnesses: Signer) -> bytes:
        from phloem.ledger.audit import Tree

        tree = Tree()
        for entry in self.entries_:
            tree.add(leaf_hash(entry))
        root = tree.root_at(tree.size)
        assert root is not None
        text = Checkpoint(ORIGIN, tree.size, root).pack()
        return signed(text, [LOG, *witnesses], lambda: TIME + self.size)

    def audit(self, policy: Policy = ALONE, notes: Sequence[bytes] | None = None, **options: Any) -> Audit:
        return Auditor(policy, **options).run(self, [self.checkpoint()] if notes is None else notes)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def hospitals() -> Written:
    """Two rounds of three sites: one update is refused in the second, one site is silent."""
    made = Written()
    made.let_in("aachen", "bergen", "coimbra")
    made.round(0, ["aachen", "bergen", "coimbra"])
    made.round(1, ["aachen"], {"bergen": "late by 1 round(s)", "coimbra": "no update"})
    return made


class Outline(HTMLParser):
    """The elements of a page, each closed where it should be, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "hr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(audit: Audit, policy: Policy = ALONE, **options: Any) -> Outline:
    return Outline(audit_page(audit, Circumstances(policy, **options)))


# -- the page ----------------------------------------------------------------------------------------------------


def test_a_valid_log_says_so_first_and_what_it_rests_on() -> None:
    found = hospitals().audit()
    assert found.verdict is Verdict.VALID
    text = page(found).text
    assert "Valid: nothing wrong in 20 entries." in text
    for words in (
        VERDICTS[Verdict.VALID],
        "log's own policy, which only shows that the log agrees with itself",
        "The policy asks for no witness.",
        "The merges were not computed again",
        "What this does not show",
        "That no update was poisoned",
        "phloem ledger audit RUN --policy policy.txt --seen kept.txt",
        str(LOG.verifier),
        found.root.hex(),
    ):
        assert words in text, words


def test_what_weakens_a_verdict_is_gone_where_it_is_cured() -> None:
    made = hospitals()
    note = made.checkpoint(NORTH, WEST)
    found = made.audit(WITNESSED, [note], members={"aachen": str(key("aachen").verifier)})
    found.replayed, found.opened = 2, found.committed
    text = page(found, WITNESSED, own=True, seen=1, run="run", replay=True).text
    assert found.verdict is Verdict.VALID
    assert "Bear in mind" not in text
    assert "the auditor's own" in text
    assert "both is at least 2 of north , west" in text
    assert "north at 2027-01-15 08:00:20 UTC" in text
    assert "yes: 2 merges" in text
    assert "as you named it" in text
    assert "1 checkpoint that the auditor brought, and 0 of the log itself" in text
    assert "--seen kept.txt --replay" in text
    assert note.decode() in " ".join(page(found, WITNESSED).words)


def test_a_round_says_who_was_asked_merged_and_left_out_and_why() -> None:
    text = page(hospitals().audit()).text
    assert "all 3 all 3 –" in text
    assert "all 3 1: aachen bergen : late by 1 round(s) coimbra : no update came" in text
    chain = digest("chain 2")
    assert f"{chain[:12]}…" in text
    assert chain in text


def test_a_late_update_counts_as_left_out_though_the_merge_did_not_know_it_yet() -> None:
    made = Written()
    made.let_in("aachen", "bergen")
    made.open(0, ["aachen", "bergen"])
    made.merge(0, [made.update(0, "aachen")], {"bergen": "no update"})
    made.trunk -= 1
    made.update(0, "bergen", "late by 1 round(s)")
    row = made.audit().runs["run"].history.rounds[0]
    assert row.parts() == {"aachen": Part.MERGED, "bergen": Part.LEFT_OUT}
    assert row.reason("bergen") == "late by 1 round(s)"


@pytest.mark.parametrize("name", MEANINGS)
def test_every_finding_has_a_name_a_meaning_and_what_to_do(name: str) -> None:
    found = hospitals().audit()
    found.findings.add(name, "these words", 3, 1)
    text = page(found).text
    title, means = MEANS[name]
    assert title in text
    assert means.replace("`", " ").replace("  ", " ") in text.replace("  ", " ")
    assert "entry 3, round 1 : these words" in text
    if name == NOTE:
        assert "Valid:" in text
    else:
        assert MEANINGS[name] in text
        words = "Cannot decide: 1 thing" if found.verdict is Verdict.UNDECIDED else "Invalid: 1 thing wrong"
        assert words in text
        assert ("no: 1 finding" in text) or ("open: 1 finding" in text)
        assert ("1 finding" in text.split("Rounds and sites")[1]) == (name != NOTE)


def test_every_name_that_the_code_finds_has_a_meaning_and_belongs_to_one_check() -> None:
    said = set[str]()
    for folder in ("ledger", "job", "cli"):
        for path in (Path(phloem.ledger.__file__).parents[1] / folder).rglob("*.py"):
            said |= set(re.findall(r"\.add\(\s*\"([a-z-]+)\"", path.read_text("utf-8")))
    assert len(said) > 15
    assert said <= MEANINGS.keys()
    assert MEANS.keys() == MEANINGS.keys()
    checked = [name for check in CHECKS for name in check.names]
    assert sorted(checked) == sorted(MEANINGS.keys() - {NOTE})
    assert KINDS.keys() == KINDS_OF_ENTRIES.keys()


def test_of_many_findings_the_first_are_shown_and_the_rest_counted() -> None:
    found = hospitals().audit()
    for place in range(5000):
        found.findings.add("missing-entry", f"number {place} is gone", place)
    text = page(found).text
    assert "Invalid: 5,000 things wrong" in text
    assert f"number {SHOWN_FINDINGS - 1} is gone" in text
    assert f"number {SHOWN_FINDINGS} is gone" not in text
    assert "… and 4,980 more" in text


def test_what_is_worst_comes_first() -> None:
    found = hospitals().audit()
    for name in ("note", "complaint", "wrong-release", "no-quorum", "damaged-entry"):
        found.findings.add(name, "words")
    text = page(found).text.split("What was found")[-1]
    order = [
        text.index(MEANS[name][0])
        for name in ("damaged-entry", "wrong-release", "no-quorum", "complaint", "note")
    ]
    assert order == sorted(order)


def test_a_log_without_anything_has_a_page() -> None:
    text = page(Auditor(ALONE).run(Nothing(), [])).text
    assert "nothing wrong in 0 entries" in text
    assert "nothing to check" in text
    assert "none that the policy believes" in text


class Nothing:
    size = 0

    def entries(self, start: int, end: int) -> list[bytes]:
        return []


def test_a_forged_checkpoint_is_neither_the_newest_nor_vouches() -> None:
    made, other = hospitals(), hospitals()
    other.round(2, ["aachen"])
    found = made.audit(ALONE, [made.checkpoint(), other.checkpoint()])
    assert found.vouched == made.size
    assert found.newest == made.checkpoint()
    assert "Invalid: 1 thing wrong" in page(found).text


@pytest.mark.parametrize(("name", "status"), [("wrong-aggregate", "✗ only"), ("missing-payload", "? only")])
def test_a_replay_that_stops_says_how_far_it_came(name: str, status: str) -> None:
    found = hospitals().audit()
    found.findings.add(name, "round 1 cannot be merged again", 9, 1)
    found.replayed = 1
    text = page(found, run="run", replay=True).text
    assert f"{status} 1 of 2" in text.replace("✗  ", "✗ ").replace("?  ", "? ")


def test_in_a_log_of_several_runs_only_the_run_that_a_finding_is_about_is_marked() -> None:
    made = hospitals()
    made.run, made.seq, made.trunk = "other", {}, 0
    made.begin(ALONE)
    made.let_in("aachen")
    made.round(0, ["aachen"])
    found = made.audit()
    assert found.verdict is Verdict.VALID
    found.findings.add("dropped-update", "words", found.runs["other"].history.rounds[0].merge, 0)
    first, second = page(found, run="run").text.split("Run other")
    assert "1 finding" in second
    assert "1 finding" not in first.split("Run run")[1]


def test_an_anchor_that_the_auditor_brought_was_compared() -> None:
    found = hospitals().audit()
    assert "– there is none" in page(found).text.replace("–  ", "– ")
    text = page(found, anchors=2, seen=1).text
    assert "2 anchors" in text
    assert text.count("there is none") == 1  # no model was given out


# -- hostile logs ------------------------------------------------------------------------------------------------


def test_nothing_from_a_log_becomes_markup() -> None:
    made = Written(run=EVIL)
    made.let_in("aachen", "bergen")
    made.round(0, ["aachen"], {"bergen": EVIL})
    made.open(1, [EVIL, "aachen"])
    made.merge(1, [made.update(1, "aachen")], {EVIL: EVIL})
    made.say("aachen", "complaint", about=EVIL, against=EVIL, evidence=digest(EVIL))
    made.say("coordinator", "erasure", entry=3, reason=EVIL, leaf=digest(EVIL))
    made.say("coordinator", "anchor", root=digest(EVIL), size=1, system=EVIL, proof=digest(EVIL))
    made.say("coordinator", "model-release", base=made.base, file=EVIL, round=2, digest=digest(EVIL))
    found = made.audit()
    found.findings.add("unlawful", EVIL)
    made_how = Circumstances(ALONE, where=EVIL, run=EVIL, software=EVIL, replay=True)
    text = audit_page(found, made_how)
    assert not {tag for tag, _ in Outline(text).tags} & {"script", "img"}
    assert "<script" not in text
    assert "<img" not in text
    for tag, attributes in Outline(text).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text
    assert "@import" not in text


def test_a_policy_of_bytes_that_are_no_text_can_be_written_down() -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    policy = Policy((LOG.verifier,), {name: NORTH.verifier}, {"one": Group(1, (name,))}, "one")
    made = hospitals()
    text = audit_page(made.audit(policy, [made.checkpoint(NORTH)]), Circumstances(policy))
    assert "\\xff\\xfe" in text
    text.encode("utf-8")


def test_a_page_keeps_the_password_of_a_url_to_itself() -> None:
    found = Auditor(ALONE).run(Nothing(), [])
    text = audit_page(found, Circumstances(ALONE, where="https://me:secret@logs.example.org/a?sig=secret"))
    assert "secret" not in text
    assert "https://logs.example.org/a" in text


def test_a_time_that_no_calendar_has_is_written_as_a_number() -> None:
    made = Written()
    made.let_in("aachen")
    said = Statement(
        "complaint",
        "run",
        "aachen",
        1,
        1 << 52,
        Seen(),
        {"about": "x", "against": "y", "evidence": digest("z")},
    )
    made.entries_.append(said.signed(key("aachen")).pack())
    assert "4503599627370496 s after 1970" in page(made.audit()).text


def test_a_site_that_says_what_only_the_coordinator_may_leaves_no_trace_in_the_rounds() -> None:
    made = Written()
    made.let_in("aachen", "bergen")
    made.round(0, ["aachen", "bergen"])
    base = {"asked": ["bergen"], "base": made.base, "plan": digest("plan"), "reached": ["bergen"]}
    made.say("aachen", "round-open", **base, round=1)
    row = made.audit().runs["run"].history
    assert list(row.rounds) == [0]
    assert row.sites["bergen"].asked == 1


def test_a_name_of_300_letters_breaks_no_table() -> None:
    long = "a" * 300
    made = Written()
    made.let_in("aachen", long)
    made.round(0, ["aachen", long])
    audit = made.audit()
    assert audit.verdict is Verdict.VALID
    text = audit_page(audit, Circumstances(ALONE))
    assert f">{'a' * 14}…</text>" in text
    assert f"<td><bdi>{long}" not in text  # a name that is broken nowhere would push all else off the page
    assert f'<bdi class="long">{long}</bdi>' in text


@pytest.mark.service("chromium")
def test_a_browser_prints_the_page_and_runs_nothing_in_it(tmp_path: Path) -> None:
    made = hospitals()
    made.round(2, ["aachen"], {"bergen": "<script>document.title='hit'</script>"})
    path, paper = tmp_path / "audit.html", tmp_path / "audit.pdf"
    path.write_text(audit_page(made.audit(), Circumstances(ALONE)), encoding="utf-8")
    dom = chromium(tmp_path / "profile", "--dump-dom", path.as_uri()).decode()
    assert "<title>example.org/log · ledger audit</title>" in dom
    assert "<script" not in dom
    chromium(tmp_path / "profile", f"--print-to-pdf={paper}", path.as_uri())
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert len(data) > 30_000


# -- long runs ---------------------------------------------------------------------------------------------------


def fed(rounds: int, sites: Sequence[str]) -> History:
    """A history of that many rounds, without signatures."""
    history, base = History(), {"chain": digest("chain")}

    def take(kind: str, sender: str, index: int, fields: Mapping[str, Any]) -> None:
        history.take(index, Statement(kind, "run", sender, 0, TIME, Seen(), fields), "coordinator")

    for number in range(rounds):
        start = number * (len(sites) + 2)
        take("round-open", "coordinator", start, {"asked": list(sites), "base": base, "round": number})
        for place, site in enumerate(sites, start + 1):
            take("update", site, place, {"bytes": 10, "rawBytes": 40, "round": number})
        inputs = list(range(start + 1, start + 1 + len(sites) - number % 2))
        excluded = [{"site": sites[-1], "reason": "late"}] if number % 2 else []
        fields = {"inputs": inputs, "excluded": excluded, "output": base, "round": number}
        take("aggregate", "coordinator", start + len(sites) + 1, fields)
    return history


def test_of_long_runs_the_newest_rounds_are_kept_and_the_page_says_so() -> None:
    found = hospitals().audit()
    found.runs["run"].history = fed(ROUNDS_KEPT + 500, ["aachen", "bergen"])
    history = found.runs["run"].history
    assert len(history.rounds) == ROUNDS_KEPT
    assert min(history.rounds) == 500
    assert history.sites["aachen"].merged == ROUNDS_KEPT + 500
    assert history.sites["bergen"].merged == (ROUNDS_KEPT + 500) // 2
    text = audit_page(found, Circumstances(ALONE))
    outline = Outline(text)
    assert "The newest 2,000 rounds are shown; 500 older ones were checked alike." in outline.text
    assert "Rounds 500 to 599: 150 merged, 50 left out" in outline.text
    assert "Each column stands for 9 rounds" in outline.text
    assert len(text) < 3_000_000


def test_the_names_that_a_history_keeps_are_bounded_however_many_a_round_has() -> None:
    history = fed(300, [f"site-{n:04}" for n in range(1000)])
    cells = sum(row.cells for row in history.rounds.values())
    assert cells == history._cells <= CELLS_KEPT
    assert len(history.rounds) + history.rounds_left == 300
    found = hospitals().audit()
    found.runs["run"].history = history
    text = audit_page(found, Circumstances(ALONE))
    assert "Of 1,000 sites, the 40 with the most to see are drawn." in Outline(text).text
    assert "all 1,000" in text
    assert "999: " in text
    assert "and 987 more" in text
    assert len(text) < 3_000_000


def test_a_history_keeps_the_first_events_and_counts_the_others() -> None:
    history = History()
    fields = {"about": "x", "against": "y", "evidence": digest("z")}
    for index in range(EVENTS_KEPT + 7):
        history.take(index, Statement("complaint", "run", "a", index, TIME, Seen(), fields), "coordinator")
    assert (len(history.events), history.events_left) == (EVENTS_KEPT, 7)


def test_a_round_that_is_opened_again_counts_once_and_says_so() -> None:
    made = Written()
    made.let_in("aachen", "bergen")
    made.open(0, ["aachen", "bergen"])
    first = made.update(0, "aachen")
    made.open(0, ["aachen", "bergen"])
    made.merge(0, [first], {"bergen": "no update"})
    found = made.audit()
    history = found.runs["run"].history
    assert history.sites["aachen"].asked == 1
    assert history.rounds[0].opened == 2
    assert history.rounds[0].parts() == {"aachen": Part.MERGED, "bergen": Part.ABSENT}
    assert "opened 2 times" in page(found).text


def test_a_round_that_was_never_merged_is_open() -> None:
    made = Written()
    made.let_in("aachen", "bergen")
    made.open(0, ["aachen", "bergen"])
    made.update(0, "aachen")
    history = made.audit().runs["run"].history
    assert set(history.rounds[0].parts().values()) == {Part.OPEN}
    assert "in a round that was never merged" in page(made.audit()).text


def test_findings_keep_no_more_rows_than_they_say() -> None:
    findings = Findings()
    for _ in range(3000):
        findings.add("unlawful", "words")
    assert len(findings.rows) == 1000
    assert findings.counts["unlawful"] == 3000
