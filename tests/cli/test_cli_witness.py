"""`phloem witness` as its operator sees it, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.calls import Said, finish
from tests.ledger.witnesses import (
    FORK,
    LOG,
    ORIGIN,
    Served,
    new_witness,
    note_of,
    post,
    request,
    start,
)
from tests.tiny import ROOT

from phloem.errors import ConfigError, FormatError, NotFoundError
from phloem.ledger.evidence import Evidence
from phloem.tlog.keys import COSIGNATURE, VerifierKey
from phloem.tlog.note import Note
from phloem.tlog.policy import Policy


def said(*words: object) -> Said:
    return finish(start("witness", *words))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    new_witness(tmp_path / "w1", "witness.example.org/w1").close()
    return tmp_path / "w1"


def test_init_prints_a_line_for_a_policy_and_nothing_secret(tmp_path: Path) -> None:
    made = said("init", tmp_path / "w1", "--name", "witness.example.org/w1")
    assert made.code == 0, made.err
    policy = Policy.parse(f"log {LOG.verifier}\n{made.out}quorum witness.example.org/w1\n".encode())
    key = policy.witnesses["witness.example.org/w1"]
    assert (key.name, key.type) == ("witness.example.org/w1", COSIGNATURE)
    secret = (tmp_path / "w1" / "key").read_text().strip()
    assert secret.split("+", 4)[4] not in made.out + made.err
    assert f"phloem witness serve {tmp_path / 'w1'}" in made.err

    again = said("init", tmp_path / "w1", "--name", "witness.example.org/w1")
    assert again.code != 0
    assert len(again.errors) == 1
    assert "exists already" in again.err
    assert (tmp_path / "w1" / "key").read_text().strip() == secret

    other = said("init", tmp_path / "w2", "--name", "w2", "--json")
    found = json.loads(other.out)
    assert found["name"] == "w2"
    assert VerifierKey.parse(found["key"]).name == "w2"


def test_a_witness_is_served_asked_shown_and_ended(directory: Path, tmp_path: Path) -> None:
    key = VerifierKey.parse(said("show", directory).out.split()[1])
    policy = tmp_path / "policy.txt"
    policy.write_text(f"log {LOG.verifier}\nwitness w1 {key}\nquorum w1\n")
    with Served(directory) as served:
        status, body = post(served.port, request(0, 20))
        assert status == 200
        assert key in Note.unpack(note_of(20) + body).verified([key])
        assert post(served.port, request(20, 20, FORK))[0] == 422
        assert post(served.port, request(20, 40, FORK))[0] == 422

        shown = said("show", directory)  # while it is served
        assert shown.code == 0
        lines = shown.out.splitlines()
        assert lines[:2] == [f"witness {key}", f"{ORIGIN}: 20 entries cosigned"]
        assert "TWO TREES of 20 entries" in lines[2]
        assert "40 entries were not shown to continue the 20" in lines[3]
        code, words = served.end(signal.SIGTERM)
    assert code == 0
    assert words.splitlines()[-1] == "ended"
    assert "example.org/log, 20 entries: cosigned" in words
    assert "Traceback" not in words

    found = json.loads(said("show", directory, "--json").out)
    assert found["key"] == str(key)
    assert [(one["origin"], one["size"]) for one in found["logs"]] == [(ORIGIN, 20)]
    proof, suspicion = found["misbehaviour"]
    assert "two histories" in Evidence.unpack(proof["evidence"].encode()).check([LOG.verifier])
    assert (suspicion["proof"], suspicion["evidence"]) == (False, None)
    assert "PRIVATE" not in json.dumps(found)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_in_peace(directory: Path, end: signal.Signals) -> None:
    with Served(directory) as served:
        post(served.port, request(0, 3))
        code, words = served.end(end)
    assert (code, words.splitlines()[-1]) == (0, "ended")


def test_a_policy_names_the_logs_and_a_witness_that_it_lacks_is_told(directory: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.txt"
    policy.write_text(f"log {LOG.verifier}\nquorum none\n")
    process = start("witness", "serve", directory, "--policy", policy, "--port", 0)
    assert process.stderr is not None
    assert "does not name this witness" in process.stderr.readline()
    line = process.stderr.readline()
    assert re.search(rf"listens on http://127\.0\.0\.1:\d+ for {ORIGIN}; Ctrl-C ends it", line)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["serve", "DIR"], "no log is named"),
        (["serve", "DIR", "--log", "nonsense"], "--log: expected a verifier key"),
        (["serve", "DIR", "--policy", "missing.txt"], "there is no policy at missing.txt"),
        (["serve", "DIR", "--policy", "DIR/key"], "holds a private key"),
        (["serve", "DIR", "--log", "PRIVATE+KEY+a+00000000+AAAA"], "--log: expected a verifier key"),
        (["serve", "DIR", "--policy", str(ROOT / "README.md")], "of the policy: expected log"),
        (["serve", "nothing", "--log", str(LOG.verifier)], "there is no witness in nothing"),
        (["serve", "DIR", "--log", str(LOG.verifier), "--port", "70000"], "70000"),
        (["serve", "DIR", "--log", str(LOG.verifier), "--bind", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["show", "nothing"], "there is no witness database at"),
        (["init", "new"], "--name"),
        (["init", "new", "--name", "two words"], "without spaces"),
        (["init", "DIR/key/below", "--name", "w"], "no witness could be made in"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_a_hint(directory: Path, words: list[str], expected: str) -> None:
    found = said(*(word.replace("DIR", str(directory)) for word in words))
    assert found.code not in (0, 130)
    assert found.out == ""
    assert len(found.errors) == 1
    assert expected in found.err
    assert "Traceback" not in found.err
    secret = (directory / "key").read_text().strip().split("+", 4)[4]
    assert not [place for place in range(len(secret) - 7) if secret[place : place + 8] in found.err]


def test_the_errors_are_of_the_kinds_that_exit_codes_go_by(directory: Path, tmp_path: Path) -> None:
    from phloem.cli.witness import init_command, serve_command, show_command

    with pytest.raises(ConfigError):
        serve_command(directory)
    with pytest.raises(NotFoundError):
        show_command(tmp_path / "nothing")
    with pytest.raises(NotFoundError):
        serve_command(directory, policy=tmp_path / "nothing")
    with pytest.raises(FormatError):
        serve_command(directory, policy=ROOT / "README.md")
    with pytest.raises(ConfigError):
        init_command(directory, "w")


def test_a_key_that_others_may_read_is_refused(directory: Path) -> None:
    (directory / "key").chmod(0o644)
    found = said("serve", directory, "--log", LOG.verifier)
    assert found.code != 0
    assert f"chmod 600 {directory / 'key'}" in found.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["phloem witness init", "phloem witness serve", "phloem witness show", "c2sp.org/tlog-witness"]),
        (["init"], ["Example", "one database, for ever", "backup"]),
        (["serve"], ["Examples", "--policy", "--log", "TLS", "Exit code"]),
        (["show"], ["Examples", "--json", "evidence"]),
    ],
)
def test_help_teaches(words: list[str], expected: list[str]) -> None:
    found = said(*words, "--help")
    assert found.code == 0
    for word in expected:
        assert word in found.out


def test_help_and_the_ledger_load_nothing_heavy() -> None:
    heavy = "numpy", "torch", "web3", "flwr", "sklearn"
    code = (
        "import sys\nfrom phloem.cli import witness\n"
        "assert 'cryptography' not in sys.modules and 'http.server' not in sys.modules\n"
        "import phloem.ledger.witness_server, phloem.ledger.quorum, phloem.ledger.evidence\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stdout.strip() == "[]"
