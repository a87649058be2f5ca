"""Runs that keep a ledger: they end with the same bits as without, and an audit with replay says that all is valid."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.job.auditing import audited, names
from tests.job.test_kill import drawn_writes, finish, process, written
from tests.tiny import table

import phloem
from phloem.errors import ConfigError, StateError
from phloem.job.ledger import ledger_of
from phloem.job.runner import Run
from phloem.tlog.keys import COSIGNATURE, Signer

STRICT = {"receipts": "strict"}
FAULTS: dict[str, Any] = {
    "sites": {"dropout": 0.3, "late": 0.3, "away": [{"site": "site-1", "first": 1, "last": 3}]},
    "server": {"name": "nesterov", "learning_rate": 0.7},
}


def frames_of(run: Run) -> Any:
    """What two runs have in common whether or not they keep a ledger."""
    rows = [(r.accepted, r.bytes_up, r.bytes_down, r.metric, r.state) for r in run.records]
    return run.summary["state_digest"], run.summary["chain"], rows


@pytest.mark.parametrize("receipts", ["strict", "lagged 3", "lagged 8", "audit-only"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_with_a_ledger_ends_with_the_same_bits_and_its_audit_is_valid(
    receipts: str, workers: int, tmp_path: Path
) -> None:
    same = {**FAULTS, "run": {"workers": workers}}
    without = phloem.build(table(rounds=14, **same), out=tmp_path / "without")
    run = phloem.build(table(rounds=14, ledger={"receipts": receipts}, **same), out=tmp_path / "with")
    assert frames_of(run) == frames_of(without)
    found = audited(run.path)
    assert (str(found.verdict), names(found), found.replayed) == ("valid", set(), 14)
    assert found.vouched == found.size == run.summary["ledger"]["entries"]
    assert found.root.hex() == run.summary["ledger"]["root"]
    (rules,) = found.runs.values()
    accepted = [site for record in run.records for site in record.accepted]
    assert rules.sites == {site: accepted.count(site) for site in set(accepted)}


def test_the_bytes_of_the_ledger_are_control_bytes_and_counted(tmp_path: Path) -> None:
    without = phloem.build(table(rounds=4), out=tmp_path / "without")
    run = phloem.build(table(rounds=4, ledger=STRICT), out=tmp_path / "with")
    for record, before in zip(run.records, without.records, strict=True):
        # the length of an attachment, which stands in front of it, takes a byte more where there is one
        messages = sum(row.frames_down + 1 for row in record.per_site.values())
        assert 0 <= record.control_bytes - before.control_bytes - record.ledger_bytes <= 2 * messages
        assert before.ledger_bytes == 0 < record.ledger_bytes
    assert run.summary["ledger"]["bytes_on_the_wire"] == sum(r.ledger_bytes for r in run.records)


def test_a_longer_lag_sends_fewer_receipts(tmp_path: Path) -> None:
    spent = [
        phloem.build(table(rounds=12, ledger={"receipts": receipts}), out=tmp_path / receipts).summary
        for receipts in ("strict", "lagged 6", "audit-only")
    ]
    sizes = [one["ledger"]["bytes_on_the_wire"] for one in spent]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize("fault", ["nan_site", "huge_site", "idle_site"])
def test_a_site_that_fails_is_left_out_with_its_reason_and_the_audit_is_valid(
    fault: str, tmp_path: Path
) -> None:
    run = phloem.build(
        table(rounds=4, ledger=STRICT, task={"name": "tests.tiny:Blobs", fault: "site-1"}), out=tmp_path / "r"
    )
    found = audited(run.path)
    assert (str(found.verdict), names(found)) == ("valid", set())
    assert "site-1" not in next(iter(found.runs.values())).sites


def test_nothing_of_frames_weights_or_metrics_is_in_the_log(tmp_path: Path) -> None:
    run = phloem.build(table(rounds=3, ledger=STRICT), out=tmp_path / "run")
    folder, _ = ledger_of(run.path)
    content = (folder.root / "log.db").read_bytes()
    with folder.log() as log:
        content += b"".join(log.entries(0, log.size))
    for blob in (run.path / "objects").glob("*/*"):
        data = blob.read_bytes()
        assert data not in content
        assert (blob.parent.name + blob.name).encode() not in content, "an unsalted digest of a frame"
    for record in run.records:
        assert repr(record.metric).encode() not in content
    assert b"PRIVATE" not in content
    assert b"examples" not in content


@pytest.mark.parametrize("snapshot_every", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("label", ["one", pytest.param("two", marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_keeps_one_whole_ledger(
    label: str, snapshot_every: int, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"ledger": STRICT, "run": {"snapshot_every": snapshot_every}}
    recipe, out = written(tmp_path / "recipe.json", rounds=6, **more), tmp_path / "run"
    died = 0
    for number in drawn_writes(label, 5, 150):
        code = process(recipe, out, str(number)).wait()
        assert code in (0, -signal.SIGKILL)
        died += code != 0
    finish(recipe, out)
    assert died >= 3
    plain = tmp_path / "plain"
    finish(written(tmp_path / "plain.json", rounds=6), plain)
    ends = [json.loads((root / "summary.json").read_text()) for root in (out, plain)]
    assert ends[0]["state_digest"] == ends[1]["state_digest"]
    found = audited(out)
    assert (str(found.verdict), names(found), found.replayed) == ("valid", set(), 6)


def test_a_frame_that_somebody_changed_in_the_run_is_a_swapped_payload(tmp_path: Path) -> None:
    run = phloem.build(table(rounds=3, ledger=STRICT), out=tmp_path / "run")
    folder, _ = ledger_of(run.path)
    with folder.log() as log:
        entries = log.entries(0, log.size)
    from phloem.ledger.entry import Entry
    from phloem.ledger.salts import Salts

    commit = next(e["commit"] for e in (Entry.unpack(d).statement for d in entries) if e.kind == "update")
    salt = Salts(folder.root / "salts.db").get(commit)
    assert salt is not None
    blob = run.path / "objects" / salt.content[:2] / salt.content[2:]
    data = bytearray(blob.read_bytes())
    data[-6] ^= 1
    blob.write_bytes(data)
    found = audited(run.path)
    assert str(found.verdict) == "invalid"
    assert "swapped-payload" in names(found)


# -- witnesses that are not there ----------------------------------------------------------------------------------


def nobody_at() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def with_absent_witness(receipts: str) -> dict[str, Any]:
    key = Signer.new("absent.example", COSIGNATURE).verifier
    return {"receipts": receipts, "witnesses": [f"absent {key} {nobody_at()}"]}


@pytest.mark.parametrize("receipts", ["strict", "lagged 3"])
def test_without_its_witnesses_a_run_ends_before_a_site_would_train_on_what_nobody_saw(
    receipts: str, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match="lacks the quorum"):
        phloem.build(table(rounds=4, ledger=with_absent_witness(receipts)), out=tmp_path / "run")


def test_under_audit_only_a_run_goes_on_without_its_witnesses_and_says_so_and_the_audit_cannot_decide(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = phloem.build(table(rounds=3, ledger=with_absent_witness("audit-only")), out=tmp_path / "run")
    found = audited(run.path)
    assert (str(found.verdict), names(found)) == ("cannot decide", {"no-quorum"})
    assert "the run goes on under the rule 'audit-only'" in caplog.text


# -- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"receipts": "sometimes"}, "'receipts' is 'strict', 'lagged K' or 'audit-only'"),
        ({"quorum": 1}, "at most the number of witnesses"),
        ({"witnesses": ["north"]}, "NAME KEY URL"),
        ({"members": {"site-9": "x"}}, "the key"),
        ({"members": {"site-0": 5}}, "must be a text"),
        ({"recipts": "strict"}, "no key 'recipts'"),
    ],
    ids=str,
)
def test_a_wrong_section_is_refused_in_words(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match="ledger") as caught:
        phloem.recipe.load_recipe(table(ledger=section))
    assert words in str(caught.value) or "base64" in str(caught.value)


def test_a_ledger_that_was_made_before_is_used_by_several_runs(tmp_path: Path) -> None:
    from phloem.ledger.folder import LedgerFolder

    LedgerFolder.create(tmp_path / "ledger", "example.org/consortium")
    section = {**STRICT, "folder": str(tmp_path / "ledger")}
    runs = [phloem.build(table(rounds=2, ledger=section), out=tmp_path / name) for name in ("a", "b")]
    for run in runs:
        found = audited(run.path)
        assert (str(found.verdict), names(found), found.replayed) == ("valid", set(), 2)
        assert found.origin == "example.org/consortium"
    assert len(found.runs) == 2
