"""`phloem ledger`, `key` and `payload` as people type them: what they print where, and how they leave."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.cli.calls import Call, Said, finish, start, write_recipe
from tests.ledger.samples import countersigned
from tests.ledger.witnesses import WITNESS
from tests.tiny import ROOT

import phloem as package
from phloem.ledger.entry import Entry, Seen
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.keys import read_key, write_key
from phloem.ledger.log import Log
from phloem.ledger.record import Claim
from phloem.ledger.salts import Salts
from phloem.store.files import Store
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer, VerifierKey
from phloem.tlog.merkle import tree_hash
from phloem.tlog.note import Note, signed
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt

VALID, INVALID, UNDECIDED, WRONG_CALL = 0, 1, 2, 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a ledger; its sites' keys are kept beside it, as nodes would keep them."""
    root = tmp_path_factory.mktemp("built")
    recipe = write_recipe(root / "tiny.toml", rounds=3, ledger={"receipts": "strict"})
    package.build(recipe, out=root / "run")
    return root / "run"


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be spoiled."""
    shutil.copytree(built, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def policy(built: Path) -> Path:
    return built / "ledger" / "policy.txt"


def entries(root: Path) -> list[Entry]:
    with Log(root / "ledger" / "log.db") as log:
        return [Entry.unpack(data) for data in log.entries(0, log.size)]


def place_of(root: Path, kind: str, number: int = 0) -> int:
    """The place of an entry of this kind."""
    return [n for n, one in enumerate(entries(root)) if one.statement.kind == kind][number]


def errs(said: Said, code: int, words: str) -> None:
    """The call left with this code, with one sentence about it, and without data."""
    assert said.code == code, said.err
    assert len(said.errors) == 1, said.err
    assert words in said.errors[0]
    assert "Traceback" not in said.err
    assert said.out == ""
    assert all(line.isprintable() for line in said.err.splitlines())


def note_of(root: Path, size: int, signer: Signer | None = None) -> bytes:
    """A checkpoint of the first entries, signed by the log or somebody else."""
    folder = LedgerFolder(root / "ledger")
    with folder.log() as log:
        checkpoint = Checkpoint(log.origin, size, tree_hash(size, log.read))
        return signed(checkpoint.pack(), [signer or folder.log_key])


# -- help ----------------------------------------------------------------------------------------------------------

COMMANDS = {
    "ledger": (
        "init",
        "append",
        "checkpoint",
        "prove",
        "show",
        "verify",
        "consistency",
        "evidence",
        "audit",
        "export",
    ),
    "key": ("new", "rotate"),
    "payload": ("open", "erase"),
}


@pytest.mark.parametrize("group", sorted(COMMANDS))
def test_the_help_of_a_group_teaches_with_examples_and_exit_codes(phloem: Call, group: str) -> None:
    said = phloem(group, "--help")
    assert said.code == 0
    assert f"phloem {group} " in said.out
    for command in COMMANDS[group]:
        assert command in said.out
    if group != "key":
        assert "Exit codes: 0" in said.out
    for command in COMMANDS[group]:
        told = phloem(group, command, "--help")
        assert told.code == 0
        assert f"phloem {group} {command}" in told.out
    assert phloem(group).out.startswith("Usage: ") or "Usage:" in phloem(group).out + phloem(group).err


WRONG_WORDS = (
    "ledger nonsense", "ledger audit", "ledger audit run --nonsense", "ledger prove run", "ledger prove run x",
    "ledger prove run -1", "ledger init folder", "ledger verify", "ledger show run --round x", "key nonsense",
    "key new", "key new ant", "key rotate folder", "payload open", "payload open run x", "payload erase run 1",
)  # fmt: skip


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_a_call_with_wrong_words_leaves_with_3(phloem: Call, words: str) -> None:
    said = phloem(*words.split())
    assert said.code == WRONG_CALL
    assert len(said.errors) == 1
    assert said.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("checkpoint",), ("prove", 0), ("show",), ("audit",), ("export", "to"), ("append", "complaint"),
        ("append", "gossip"),
    ],
)  # fmt: skip
def test_where_there_is_no_ledger_every_command_says_so(
    phloem: Call, tmp_path: Path, words: tuple[Any, ...]
) -> None:
    command, *more = words
    for where in (tmp_path / "none", tmp_path):
        said = phloem("ledger", command, where, *more)
        assert said.code == WRONG_CALL, said.err
        assert len(said.errors) == 1
        assert said.out == ""


def test_what_is_not_installed_is_no_traceback(built: Path) -> None:
    said = finish(start("ledger", "show", built, 0))
    assert said.code == 0


# -- init, key new -------------------------------------------------------------------------------------------------


def test_init_makes_a_folder_and_prints_its_policy(phloem: Call, tmp_path: Path) -> None:
    folder = tmp_path / "consortium"
    witness = f"north {WITNESS.verifier} http://127.0.0.1:8420"
    said = phloem(
        "ledger", "init", folder, "--origin", "fl.example.org/c", "--witness", witness, "--quorum", 1
    )
    assert said.code == 0
    policy = Policy.parse(said.out.encode())
    assert policy.logs[0].name == "fl.example.org/c"
    assert list(policy.witnesses) == ["north"]
    assert (folder / "policy.txt").read_text() == said.out
    assert str(folder) in said.err
    for key in ("log.key", "coordinator.key"):
        path = folder / "keys" / key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip().split("+", 4)[4] not in said.out + said.err
    errs(phloem("ledger", "init", folder, "--origin", "fl.example.org/c"), WRONG_CALL, "there is a log in")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--origin", "two words"), "without spaces"),
        (("--origin", ""), "without spaces"),
        (("--origin", "o", "--quorum", 1), "'quorum' is at most the number of witnesses"),
        (("--origin", "o", "--witness", "nonsense"), "expected a witness as 'NAME KEY URL'"),
    ],
)
def test_a_ledger_that_cannot_be_is_not_made(
    phloem: Call, tmp_path: Path, words: tuple[Any, ...], expected: str
) -> None:
    errs(phloem("ledger", "init", tmp_path / "folder", *words), WRONG_CALL, expected)
    assert not (tmp_path / "folder" / "log.db").exists()


def test_a_new_key_is_in_a_file_and_its_public_half_on_standard_output(phloem: Call, tmp_path: Path) -> None:
    for words, type_ in (((), NOTE), (("--cosigner",), COSIGNATURE)):
        path = tmp_path / f"{type_}.key"
        said = phloem("key", "new", "ant", "-o", path, *words)
        assert said.code == 0
        key = VerifierKey.parse(said.out.strip())
        assert (key.name, key.type) == ("ant", type_)
        assert read_key(path).verifier == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip().split("+", 4)[4] not in said.out + said.err
        errs(phloem("key", "new", "ant", "-o", path), WRONG_CALL, "exists already")
        assert read_key(path).verifier == key
    errs(phloem("key", "new", "two words", "-o", tmp_path / "x.key"), WRONG_CALL, "without spaces")
    (tmp_path / "file").write_text("x")
    errs(phloem("key", "new", "ant", "-o", tmp_path / "file" / "x.key"), UNDECIDED, "cannot be written")


def test_a_site_s_key_is_rotated_where_its_node_keeps_it(phloem: Call, tmp_path: Path) -> None:
    old = Signer.new("ant")
    write_key(tmp_path / "ant.key", old)
    said = phloem("key", "rotate", tmp_path, "ant")
    assert said.code == 0
    assert read_key(tmp_path / "ant.next.key").verifier == VerifierKey.parse(said.out.strip())
    assert read_key(tmp_path / "ant.key").verifier == old.verifier
    assert "with its next reply" in said.err
    errs(phloem("key", "rotate", tmp_path, "ant"), WRONG_CALL, "exists already")
    errs(phloem("key", "rotate", tmp_path, "bee"), UNDECIDED, "there is no key")
    (tmp_path / "ant.key").chmod(0o644)
    errs(phloem("key", "rotate", tmp_path, "ant"), WRONG_CALL, "others than its owner")


# -- show ----------------------------------------------------------------------------------------------------------


def test_show_prints_a_line_for_every_entry(phloem: Call, built: Path) -> None:
    said = phloem("ledger", "show", built)
    assert said.code == 0
    assert said.err == ""
    lines = said.out.splitlines()
    assert len(lines) == len(entries(built))
    assert lines[0].startswith("entry 0: 'coordinator' began the run 'tiny-")
    rows = [json.loads(line) for line in phloem("ledger", "show", built, "--json").out.splitlines()]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert [row["kind"] for row in rows] == [one.statement.kind for one in entries(built)]
    asked = phloem("ledger", "show", built, "--kind", "update", "--from", "site-1", "--round", 2, "--json")
    (only,) = [json.loads(line) for line in asked.out.splitlines()]
    assert (only["kind"], only["from"], only["round"]) == ("update", "site-1", 2)
    assert phloem("ledger", "show", built, 0, 2).out.splitlines() == [lines[0], lines[2]]
    errs(phloem("ledger", "show", built, 9999), UNDECIDED, "has no entry 9999")


# -- prove, verify -------------------------------------------------------------------------------------------------


def test_a_receipt_is_proved_and_verified(phloem: Call, built: Path, policy: Path, tmp_path: Path) -> None:
    place = place_of(built, "update", 1)
    said = phloem("ledger", "prove", built, place, "-o", tmp_path / "r.tlog-proof")
    assert (said.code, said.out) == (0, "")
    receipt = Receipt.unpack((tmp_path / "r.tlog-proof").read_bytes())
    assert receipt.index == place
    (tmp_path / "entry.json").write_bytes(entries(built)[place].pack())
    words = ("ledger", "verify", tmp_path / "r.tlog-proof", tmp_path / "entry.json")
    said = phloem(*words, "--policy", policy)
    assert said.code == VALID
    assert "sent an update" in said.out
    assert said.out.splitlines()[-1] == "valid"
    found = json.loads(phloem(*words, "--policy", policy, "--json").out)
    assert found["verdict"] == "valid"
    assert found["entries"][0]["index"] == place
    errs(phloem(*words), WRONG_CALL, "whom is to be trusted?")
    errs(
        phloem("ledger", "verify", tmp_path / "r.tlog-proof", "--policy", policy),
        WRONG_CALL,
        "a receipt is of an entry",
    )
    (tmp_path / "entry.json").write_bytes(entries(built)[place + 1].pack())
    errs(phloem(*words, "--policy", policy), INVALID, "leads to another root")
    (tmp_path / "entry.json").unlink()
    errs(phloem(*words, "--policy", policy), UNDECIDED, "there is no file")


def test_a_receipt_goes_to_standard_output_without_o(built: Path) -> None:
    said = finish(start("ledger", "prove", built, 0))
    assert (said.code, said.err) == (0, "")
    assert Receipt.unpack(said.out.encode()).index == 0


def test_a_bundle_is_proved_and_verified(phloem: Call, built: Path, policy: Path, tmp_path: Path) -> None:
    place = place_of(built, "update", 1)
    file = tmp_path / "proof.flproof"
    assert (
        phloem(
            "ledger",
            "prove",
            built,
            place,
            place + 1,
            "-o",
            file,
        ).code
        == 0
    )
    said = phloem("ledger", "verify", file, "--policy", policy)
    assert said.code == VALID
    assert said.out.splitlines()[-1] == "valid"
    assert "payload opened" not in said.out
    site = entries(built)[place].statement.sender
    key = next(
        e.statement["key"]
        for e in entries(built)
        if e.statement.kind == "member" and e.statement.sender == site
    )
    assert phloem("ledger", "verify", file, "--policy", policy, "--member", f"{site}={key}").code == VALID
    stranger = Signer.new(site).verifier
    said = phloem("ledger", "verify", file, "--policy", policy, "--member", f"{site}={stranger}", "--json")
    assert said.code == INVALID
    found = json.loads(said.out)
    assert found["verdict"] == "invalid"
    assert {row["name"] for row in found["findings"]} == {"forged-sender", "note"}
    errs(
        phloem("ledger", "verify", file, "--policy", policy, "--member", "nonsense"),
        WRONG_CALL,
        "--member NAME=KEY",
    )
    own = phloem("ledger", "verify", file, "--json")
    assert own.code == UNDECIDED
    assert json.loads(own.out)["verdict"] == "cannot decide"
    (tmp_path / "other.txt").write_text(f"log {stranger}\nquorum none\n")
    assert phloem("ledger", "verify", file, "--policy", tmp_path / "other.txt").code == INVALID
    errs(phloem("ledger", "verify", file, "--policy", tmp_path / "none.txt"), UNDECIDED, "there is no policy")
    (tmp_path / "other.txt").write_text("nonsense\n")
    errs(
        phloem("ledger", "verify", file, "--policy", tmp_path / "other.txt"), INVALID, "line 1 of the policy"
    )


def test_a_bundle_with_what_was_sent_shows_it(
    phloem: Call, built: Path, policy: Path, tmp_path: Path
) -> None:
    place = place_of(built, "update", 1)
    file = tmp_path / "proof.flproof"
    assert phloem("ledger", "prove", built, place, "-o", file, "--payload").code == 0
    said = phloem("ledger", "verify", file, "--policy", policy)
    assert said.code == VALID
    assert "(payload opened)" in said.out
    with zipfile.ZipFile(file) as archive:
        frame = archive.read(f"payload/{place}")
    assert entries(built)[place].statement["bytes"] == len(frame)
    phloem("payload", "open", built, place, "-o", tmp_path / "frame")
    assert (tmp_path / "frame").read_bytes() == frame


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((0, 1), WRONG_CALL, "go into a bundle"),
        ((0, "--payload"), WRONG_CALL, "go into a bundle"),
        ((9999,), UNDECIDED, "has entry 9999 yet"),
        ((9999, "-o", "x.flproof"), UNDECIDED, "has no entry 9999"),
        ((0, "--payload", "-o", "x.flproof"), UNDECIDED, "is of kind 'genesis' and has no payload"),
        ((0, "-o", "none/x.flproof"), UNDECIDED, "cannot be written"),
    ],
)
def test_what_cannot_be_proved_is_said_in_a_sentence(
    phloem: Call,
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[Any, ...],
    code: int,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    errs(phloem("ledger", "prove", built, *words), code, expected)
    assert not list(tmp_path.glob("*.flproof"))


def test_damaged_files_are_invalid(phloem: Call, built: Path, policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "proof.flproof"
    phloem("ledger", "prove", built, place_of(built, "update"), "-o", file)
    data = file.read_bytes()
    for damaged in (data[:-1], data[:100], data + b"x", data.replace(b"sig", b"sog"), b"PK"):
        file.write_bytes(damaged)
        errs(phloem("ledger", "verify", file, "--policy", policy), INVALID, "bundle")
    for text in (b"", b"hello", b"c2sp.org/tlog-proof@v1\n", b"\xff\xfe"):
        file.write_bytes(text)
        said = phloem("ledger", "verify", file, policy, "--policy", policy)
        errs(said, INVALID, "")
    errs(phloem("ledger", "verify", tmp_path / "none", "--policy", policy), UNDECIDED, "there is no file")
    errs(phloem("ledger", "verify", tmp_path, "--policy", policy), UNDECIDED, "cannot be read")


def test_a_checkpoint_is_verified(phloem: Call, run: Path, policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.txt"
    said = phloem("ledger", "checkpoint", run, "-o", file)
    assert (said.code, said.out) == (0, "")
    assert Checkpoint.unpack(Note.unpack(file.read_bytes()).text).size == len(entries(run))
    said = phloem("ledger", "verify", file, "--policy", policy)
    assert said.code == VALID
    assert "signed as the policy demands" in said.out
    file.write_bytes(note_of(run, 3, Signer.new(LedgerFolder(run / "ledger").log_key.name)))
    errs(
        phloem("ledger", "verify", file, "--policy", policy), INVALID, "is not signed by a log of the policy"
    )


def test_a_checkpoint_goes_to_standard_output_and_missing_witnesses_to_standard_error(run: Path) -> None:
    said = finish(start("ledger", "checkpoint", run))
    assert (said.code, said.err) == (0, "")
    assert Note.unpack(said.out.encode())
    text = (run / "ledger" / "policy.txt").read_text()
    line = f"witness w {WITNESS.verifier} http://127.0.0.1:1\ngroup q 1 w\nquorum q\n"
    (run / "ledger" / "policy.txt").write_text(text.replace("quorum none\n", line))
    said = finish(start("ledger", "checkpoint", run))
    assert said.code == 0
    assert "note: witness 'w' did not sign: " in said.err
    assert Note.unpack(said.out.encode())


# -- consistency, evidence -----------------------------------------------------------------------------------------


def test_a_log_that_only_grew_is_consistent_with_what_was_kept(
    phloem: Call, run: Path, policy: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.txt"
    for size in (1, 5, len(entries(run))):
        kept.write_bytes(note_of(run, size))
        said = phloem("ledger", "consistency", kept, run, "--policy", policy)
        assert said.code == VALID
        assert f"grew from {size} entries to" in said.out
    found = json.loads(phloem("ledger", "consistency", kept, run, "--policy", policy, "--json").out)
    assert found["verdict"] == "valid"
    own = phloem("ledger", "consistency", kept, run)
    assert own.code == VALID
    assert "judged by the log's own policy" in own.out
    phloem("ledger", "prove", run, 0, "-o", tmp_path / "r.tlog-proof")
    assert phloem("ledger", "consistency", tmp_path / "r.tlog-proof", run, "--policy", policy).code == VALID
    errs(
        phloem("ledger", "consistency", tmp_path / "none", run, "--policy", policy),
        UNDECIDED,
        "there is no file",
    )
    errs(
        phloem("ledger", "consistency", kept, tmp_path / "none", "--policy", policy),
        WRONG_CALL,
        "there is no ledger",
    )


def forked(run: Path, tmp_path: Path) -> Path:
    """The same log with the same key, which has told somebody else another last entry."""
    folder = LedgerFolder(run / "ledger")
    other = tmp_path / "fork"
    shutil.copytree(folder.root, other)
    (other / "log.db").unlink()
    for name in ("log.db-wal", "log.db-shm", "run.json"):
        (other / name).unlink(missing_ok=True)
    with folder.log() as log, Log.create(other / "log.db", log.origin) as fork:
        rows = log.entries(0, log.size)
        fork.append([*rows[:-1], b"another"])
        fork.sign([folder.log_key])
    return other


def test_a_log_that_forked_is_invalid_and_makes_evidence(
    phloem: Call, run: Path, policy: Path, tmp_path: Path
) -> None:
    fork, kept = forked(run, tmp_path), tmp_path / "kept.txt"
    kept.write_bytes(note_of(run, len(entries(run))))
    phloem("ledger", "checkpoint", run)
    said = phloem("ledger", "consistency", kept, fork, "--policy", policy, "--json")
    assert said.code == INVALID
    assert json.loads(said.out)["verdict"] == "invalid"
    assert "forked-history" in phloem("ledger", "consistency", kept, fork, "--policy", policy).out
    evidence = tmp_path / "evidence.txt"
    assert phloem("ledger", "evidence", run, fork, "-o", evidence).code == 0
    said = phloem("ledger", "evidence", evidence, "--policy", policy)
    assert said.code == VALID
    assert "two histories" in said.out
    errs(phloem("ledger", "evidence", evidence), WRONG_CALL, "whose key is the log's?")
    other = tmp_path / "other.txt"
    other.write_text(f"log {Signer.new('x').verifier}\nquorum none\n")
    errs(phloem("ledger", "evidence", evidence, "--policy", other), INVALID, "")
    errs(phloem("ledger", "evidence", kept, "--policy", policy), INVALID, "is no evidence")
    errs(phloem("ledger", "evidence", run, run), INVALID, "both can be true")
    errs(phloem("ledger", "evidence", kept, kept), INVALID, "both can be true")
    errs(phloem("ledger", "evidence", tmp_path / "none", run), WRONG_CALL, "there is no ledger")


def test_a_log_without_a_checkpoint_cannot_be_judged(phloem: Call, tmp_path: Path) -> None:
    phloem("ledger", "init", tmp_path / "new", "--origin", "o")
    kept = tmp_path / "kept.txt"
    folder = LedgerFolder(tmp_path / "new")
    kept.write_bytes(signed(Checkpoint("o", 0, Seen().root).pack(), [folder.log_key]))
    errs(phloem("ledger", "consistency", kept, tmp_path / "new"), UNDECIDED, "has signed no checkpoint yet")
    errs(phloem("ledger", "evidence", tmp_path / "new", kept), UNDECIDED, "has signed no checkpoint yet")
    errs(phloem("ledger", "prove", tmp_path / "new", 0), UNDECIDED, "no checkpoint")


# -- audit ---------------------------------------------------------------------------------------------------------


def test_an_audit_of_a_run_is_valid_and_replays_it(
    phloem: Call, built: Path, policy: Path, tmp_path: Path
) -> None:
    said = phloem("ledger", "audit", built, "--replay", "--policy", policy)
    assert said.code == VALID, said.out + said.err
    assert said.out.splitlines()[-1] == "valid"
    assert "3 merges came out as logged, bit for bit" in said.out
    said = phloem("ledger", "audit", built, "--json", "--html", tmp_path / "audit.html")
    assert said.code == VALID
    found = json.loads(said.out)
    assert (found["verdict"], found["entries"]) == ("valid", len(entries(built)))
    assert said.err.splitlines()[-1] == "valid"
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")


def test_a_spoiled_log_is_invalid_by_name(phloem: Call, run: Path, policy: Path) -> None:
    with Log(run / "ledger" / "log.db") as log:
        log._database.execute("UPDATE entry SET bytes = ? WHERE idx = 4", (b"{}",))
    said = phloem("ledger", "audit", run, "--json", "--policy", policy)
    assert said.code == INVALID
    names = {row["name"] for row in json.loads(said.out)["findings"]}
    assert {"damaged-entry", "rewritten-history"} <= names


def test_a_hostile_entry_does_not_speak_for_the_audit(phloem: Call, run: Path, tmp_path: Path) -> None:
    """Neither control characters nor lines of its own reach the terminal, the JSON or the page."""
    hostile = [
        b'{"\\ud800\\nvalid\\u001b[2J":1}',
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":[],"sig":""}]}',
        b"\xff\xfe\x00valid\nvalid\n",
    ]
    with Log(run / "ledger" / "log.db") as log:
        log.append(hostile)
    said = phloem("ledger", "audit", run, "--html", tmp_path / "audit.html")
    assert said.code == INVALID
    assert said.out.splitlines().count("valid") == 0
    assert said.out.splitlines()[-1] == "invalid"
    assert all(line.isprintable() for line in said.out.splitlines())
    assert (tmp_path / "audit.html").exists()
    assert json.loads(phloem("ledger", "audit", run, "--json").out)["verdict"] == "invalid"
    errs(phloem("ledger", "show", run, len(entries_readable(run))), INVALID, "expected an entry")


def entries_readable(root: Path) -> list[bytes]:
    """All entries up to the first that cannot be read."""
    with Log(root / "ledger" / "log.db") as log:
        rows = log.entries(0, log.size)
    return rows[: len(rows) - 3]


def test_what_an_audit_lacks_leaves_with_2(phloem: Call, run: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.txt"
    text = (run / "ledger" / "policy.txt").read_text()
    line = f"witness w {WITNESS.verifier}\ngroup q 1 w\nquorum q\n"
    policy.write_text(text.replace("quorum none\n", line))
    said = phloem("ledger", "audit", run, "--policy", policy, "--json")
    assert said.code == UNDECIDED
    assert json.loads(said.out)["verdict"] == "cannot decide"
    shutil.rmtree(run / "objects")
    (run / "objects").mkdir()
    said = phloem("ledger", "audit", run, "--replay")
    assert said.code == UNDECIDED
    assert "missing-payload" in said.out
    errs(
        phloem("ledger", "audit", run / "ledger", "--replay"),
        WRONG_CALL,
        "--replay needs the frames of a run",
    )


def test_what_somebody_kept_counts_against_a_log(
    phloem: Call, run: Path, policy: Path, tmp_path: Path
) -> None:
    fork, kept = forked(run, tmp_path), tmp_path / "kept.txt"
    kept.write_bytes(note_of(run, len(entries(run))))
    good = phloem("ledger", "audit", run, "--policy", policy, "--seen", kept)
    assert good.code == VALID
    said = phloem("ledger", "audit", fork, "--policy", policy, "--seen", kept)
    assert said.code == INVALID
    assert "rewritten-history" in said.out


def test_an_export_is_audited_by_whoever_has_a_policy(
    phloem: Call, built: Path, policy: Path, tmp_path: Path
) -> None:
    said = phloem("ledger", "export", built, tmp_path / "public")
    assert (said.code, said.out) == (0, "")
    assert f"{len(entries(built))} entries of 'phloem/tiny-" in said.err
    assert phloem("ledger", "audit", tmp_path / "public", "--policy", policy).code == VALID
    errs(phloem("ledger", "audit", tmp_path / "public"), WRONG_CALL, "whom is to be trusted?")
    for words in (("prove", 0), ("checkpoint",), ("export", tmp_path / "again")):
        command, *more = words
        errs(
            phloem("ledger", command, tmp_path / "public", *more),
            WRONG_CALL,
            "is an export of a log, not the log",
        )


# -- append, payload -----------------------------------------------------------------------------------------------


def key_of_site(run: Path, name: str = "site-1") -> Path:
    """A key that is a member's: the run's own sites' keys are gone with its private part."""
    folder = LedgerFolder(run / "ledger")
    signer = Signer.new("late")
    said = entries(run)
    claim = Claim.made(said[0].statement.run, 0, said[-1].statement.time, Seen(), "software", signer)
    entry = countersigned(claim.entry(said[0].statement.run, "late", None), folder.coordinator_key)
    with folder.log() as log:
        log.append([entry.pack()])
    path = run.parent / f"{name}-late.key"
    write_key(path, signer)
    return path


def test_a_member_complains(phloem: Call, run: Path, tmp_path: Path) -> None:
    key, evidence = key_of_site(run), tmp_path / "evidence.bin"
    evidence.write_bytes(b"what it rests on")
    words = ("ledger", "append", run, "complaint", "--key", key, "--evidence", evidence)
    good = ("--set", "against=coordinator", "--set", "about=our update of round 3 is not in the log")
    said = phloem(*words, *good)
    assert (said.code, said.err) == (0, "")
    place = int(said.out)
    found = entries(run)[place]
    assert (found.statement.kind, found.statement.sender, found.statement.seq) == ("complaint", "late", 1)
    assert int(phloem(*words, *good).out) == place + 1
    assert entries(run)[place + 1].statement.seq == 2
    phloem("ledger", "checkpoint", run)
    audit = phloem("ledger", "audit", run)
    assert audit.code == UNDECIDED
    assert "complaint: " in audit.out
    assert "forged-sender" not in audit.out


def test_who_is_no_member_cannot_spoil_a_log_with_a_complaint(
    phloem: Call, run: Path, tmp_path: Path
) -> None:
    evidence = tmp_path / "evidence.bin"
    evidence.write_bytes(b"x")
    size = len(entries(run))
    good = ("--set", "against=coordinator", "--set", "about=words", "--evidence", evidence)
    for name in ("stranger", "site-1", "coordinator"):
        write_key(tmp_path / f"{name}.key", Signer.new(name))
        said = phloem("ledger", "append", run, "complaint", "--key", tmp_path / f"{name}.key", *good)
        errs(said, WRONG_CALL, f"'{name}' is no member")
    assert len(entries(run)) == size


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("gossip",), WRONG_CALL, "no entry of kind 'gossip' is made by hand"),
        (("complaint",), WRONG_CALL, "a complaint needs the --key"),
        (("complaint", "--key", "KEY"), WRONG_CALL, "and --evidence"),
        (("complaint", "--key", "none", "--evidence", "FILE"), UNDECIDED, "there is no key"),
        (("complaint", "--key", "KEY", "--evidence", "FILE"), WRONG_CALL, "--set against=NAME"),
        (
            ("complaint", "--key", "KEY", "--evidence", "FILE", "--set", "about"),
            WRONG_CALL,
            "--set FIELD=TEXT",
        ),
        (
            ("complaint", "--key", "KEY", "--evidence", "none", "--set", "about=a", "--set", "against=b"),
            UNDECIDED,
            "there is no file",
        ),
        (
            ("complaint", "--key", "KEY", "--evidence", "FILE", "--set", "about=", "--set", "against=b"),
            WRONG_CALL,
            "'about' must be a text",
        ),
        (
            ("complaint", "--key", "KEY", "--evidence", "FILE", "--set", "about=a\nb", "--set", "against=b"),
            WRONG_CALL,
            "'about' must be a text",
        ),
        (("anchor",), WRONG_CALL, "an anchor's entry needs --proof and --checkpoint"),
        (("anchor", "--proof", "none", "--checkpoint", "none"), UNDECIDED, "there is no file"),
        (("anchor", "--proof", "FILE", "--checkpoint", "FILE"), INVALID, ""),
    ],
)
def test_what_cannot_be_appended_is_not(
    phloem: Call, run: Path, tmp_path: Path, words: tuple[str, ...], code: int, expected: str
) -> None:
    key, file = key_of_site(run), tmp_path / "file"
    file.write_bytes(b"x")
    size = len(entries(run))
    places = {"KEY": str(key), "FILE": str(file)}
    errs(phloem("ledger", "append", run, *(places.get(word, word) for word in words)), code, expected)
    assert len(entries(run)) == size


def test_a_payload_is_opened_if_it_is_what_was_committed_to(phloem: Call, run: Path, tmp_path: Path) -> None:
    place = place_of(run, "update", 2)
    said = phloem("payload", "open", run, place, "-o", tmp_path / "frame")
    assert (said.code, said.out) == (VALID, "")
    size = entries(run)[place].statement["bytes"]
    assert f"{size:,} bytes of entry {place} are what was committed to" in said.err
    assert (tmp_path / "frame").stat().st_size == size
    errs(phloem("payload", "open", run, 0), UNDECIDED, "has no payload")
    errs(phloem("payload", "open", run, 9999), UNDECIDED, "has no entries 9999")
    errs(phloem("payload", "open", run / "ledger", place), WRONG_CALL, "payloads are a run's")
    errs(phloem("payload", "open", tmp_path / "none", place), WRONG_CALL, "there is no ledger")
    commit = entries(run)[place].statement["commit"]
    salts = Salts(run / "ledger" / "salts.db")
    found = salts.get(commit)
    salts.close()
    assert found is not None
    store = Store(run)
    path = run / "objects" / found.content[:2] / found.content[2:]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    errs(phloem("payload", "open", run, place), INVALID, "is not what was committed to")
    store.forget(found.content)
    errs(phloem("payload", "open", run, place), UNDECIDED, "is not here, or has been destroyed")


def test_an_erased_payload_is_nowhere_and_the_log_says_why(
    phloem: Call, run: Path, policy: Path, tmp_path: Path
) -> None:
    place = place_of(run, "update", 2)
    said = entries(run)[place].statement
    salts = Salts(run / "ledger" / "salts.db")
    gone = [salts.get(said[name]) for name in ("commit", "weight")]
    salts.close()
    frame = Store(run).get(gone[0].content) if gone[0] is not None else b""
    erased = phloem("payload", "erase", run, place, "--reason", "asked by a patient")
    assert (erased.code, erased.out) == (0, "")
    everything = [path for path in run.rglob("*") if path.is_file()]
    for salt in gone:
        assert salt is not None
        holders = [path for path in everything if salt.salt in path.read_bytes()]
        assert holders == []
    assert not [path for path in everything if frame in path.read_bytes()]
    last = entries(run)[-1].statement
    assert (last.kind, last["entry"], last["reason"]) == ("erasure", place, "asked by a patient")
    errs(phloem("payload", "open", run, place), UNDECIDED, "is not here, or has been destroyed")
    errs(phloem("payload", "erase", run, place, "--reason", "again"), UNDECIDED, "is not here")
    errs(phloem("ledger", "prove", run, place, "--payload", "-o", tmp_path / "x.flproof"), UNDECIDED, "")
    phloem("ledger", "checkpoint", run)
    assert phloem("ledger", "prove", run, place, "-o", tmp_path / "x.flproof").code == 0
    assert phloem("ledger", "verify", tmp_path / "x.flproof", "--policy", policy).code == VALID
    audit = phloem("ledger", "audit", run, "--policy", policy)
    assert audit.code == VALID, audit.out
    assert "asked by a patient" in audit.out


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(Store, "forget", 0), (Salts, "destroy", 0), (Salts, "destroy", 1)],
)
def test_an_erasure_that_could_not_be_finished_is_finished_at_the_second_try(
    phloem: Call, run: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: int
) -> None:
    place = place_of(run, "update", 2)
    said, size = entries(run)[place].statement, len(entries(run))
    left, real = [number], getattr(owner, name)

    def dying(self: Any, *words: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise package.PhloemError("a power cut")
        real(self, *words)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dying)
        assert phloem("payload", "erase", run, place, "--reason", "asked").code == INVALID
    assert phloem("payload", "erase", run, place, "--reason", "asked").code == 0
    salts = Salts(run / "ledger" / "salts.db")
    assert [salts.get(said[name]) for name in ("commit", "weight")] == [None, None]
    salts.close()
    errs(phloem("payload", "open", run, place), UNDECIDED, "is not here, or has been destroyed")
    phloem("ledger", "checkpoint", run)
    assert phloem("ledger", "audit", run).code == VALID
    assert len(entries(run)) == size + 1  # the log says it once


@pytest.mark.parametrize("reason", ["", "a\nb", "x" * 401])
def test_a_reason_is_a_few_words(phloem: Call, run: Path, reason: str) -> None:
    place = place_of(run, "update", 2)
    errs(phloem("payload", "erase", run, place, "--reason", reason), WRONG_CALL, "'reason' must be a text")
    assert phloem("payload", "open", run, place).code == VALID


def test_what_has_no_payload_is_not_erased(phloem: Call, run: Path) -> None:
    size = len(entries(run))
    errs(phloem("payload", "erase", run, 0, "--reason", "x"), UNDECIDED, "or the entry has none")
    errs(phloem("payload", "erase", run, 9999, "--reason", "x"), UNDECIDED, "has no entries")
    assert len(entries(run)) == size


def test_nobody_writes_where_a_run_writes(phloem: Call, run: Path) -> None:
    claim = LedgerFolder(run / "ledger").claimed()
    for words in (
        ("ledger", "checkpoint", run),
        ("payload", "erase", run, place_of(run, "update"), "--reason", "x"),
    ):
        said = phloem(*words)
        assert said.code == INVALID or said.code == UNDECIDED
        assert "another process is writing" in said.err
        assert len(said.errors) == 1
    assert phloem("ledger", "audit", run).code == VALID  # reading is always allowed
    claim.close()


# -- a run ---------------------------------------------------------------------------------------------------------


def test_a_run_that_was_interrupted_goes_on_in_the_same_log(phloem: Call, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", rounds=2, ledger={"receipts": "lagged 2"})
    assert phloem("build", recipe, "--out", tmp_path / "run").code == 0
    where = json.loads((tmp_path / "run" / "ledger" / "run.json").read_text())
    assert where["run"].startswith("tiny-")
    assert phloem("ledger", "audit", tmp_path / "run", "--replay").code == VALID
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ledger"]["entries"] == len(entries(tmp_path / "run"))


def test_a_run_in_a_folder_of_its_own_is_found_from_everywhere(
    phloem: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe names the folder from where the run was started."""
    monkeypatch.chdir(tmp_path)
    assert phloem("ledger", "init", "consortium", "--origin", "fl.example.org/c").code == 0
    for name in ("one", "two"):
        recipe = write_recipe(tmp_path / f"{name}.toml", rounds=2, name=name, ledger={"folder": "consortium"})
        assert phloem("build", recipe, "--out", name).code == 0
    monkeypatch.chdir(ROOT)
    for name in ("one", "two"):
        assert phloem("ledger", "audit", tmp_path / name, "--replay").code == VALID
    said = phloem("ledger", "audit", tmp_path / "consortium", "--json")
    assert said.code == VALID
    assert len(json.loads(said.out)["runs"]) == 2


def test_a_run_without_a_ledger_says_how_to_have_one(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    assert phloem("build", recipe, "--out", tmp_path / "run").code == 0
    errs(phloem("ledger", "audit", tmp_path / "run"), WRONG_CALL, "there is no ledger at")
