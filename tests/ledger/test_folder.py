"""A ledger's folder: made whole or not at all, written by one process, its keys for its owner."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ledger.test_settings import LINES

from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, StateError, StoreError
from phloem.ledger.folder import LedgerFolder, read_policy
from phloem.ledger.settings import LedgerSettings
from phloem.tlog.policy import Policy

ORIGIN = "example.org/clinic"


def test_a_new_folder_has_a_log_two_keys_and_a_policy(tmp_path: Path) -> None:
    folder = LedgerFolder.create(tmp_path / "a" / "ledger", ORIGIN)
    assert folder.exists
    assert sorted(one.name for one in folder.root.iterdir()) == ["keys", "log.db", "policy.txt"]
    assert (folder.log_key.name, folder.coordinator_key.name) == (ORIGIN, "coordinator")
    assert folder.log_key.verifier.public != folder.coordinator_key.verifier.public
    assert folder.policy == Policy((folder.log_key.verifier,))
    with folder.log() as log:
        assert (log.origin, log.size) == (ORIGIN, 0)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in (folder.root / "keys").iterdir()}
    assert modes == {"log.key": 0o600, "coordinator.key": 0o600}
    assert stat.S_IMODE((folder.root / "keys").stat().st_mode) == 0o700


def test_the_policy_has_the_witnesses_of_the_settings(tmp_path: Path) -> None:
    settings = LedgerSettings(witnesses=LINES[:3])
    folder = LedgerFolder.create(tmp_path / "ledger", ORIGIN, settings)
    assert folder.policy == settings.policy(folder.log_key.verifier)
    assert len(folder.policy.urls) == 3


def test_a_folder_that_has_a_log_is_not_made_again(tmp_path: Path) -> None:
    folder = LedgerFolder.create(tmp_path, ORIGIN)
    before = {one: one.read_bytes() for one in folder.root.rglob("*") if one.is_file()}
    with pytest.raises(ConfigError, match=r"there is a log in .* already"):
        LedgerFolder.create(tmp_path, "example.org/other")
    assert {one: one.read_bytes() for one in folder.root.rglob("*") if one.is_file()} == before


def test_a_folder_that_was_half_made_is_finished_with_the_keys_that_it_has(tmp_path: Path) -> None:
    """Whatever a crash left: a folder with a log is whole, any other is gone on with."""
    folder = LedgerFolder.create(tmp_path / "whole", ORIGIN)
    public = folder.log_key.verifier
    for missing in (("log.db",), ("log.db", "policy.txt"), ("log.db", "policy.txt", "keys/coordinator.key")):
        for name in missing:
            (folder.root / name).unlink(missing_ok=True)
        assert not folder.exists
        again = LedgerFolder.create(folder.root, ORIGIN)
        assert again.log_key.verifier == public
        assert again.policy.logs == (public,)
        again.log().close()


MAKER = """
import os, signal, sys
sys.path[:] = {path!r}
left = int(sys.argv[2])
from pathlib import Path
from phloem.ledger import log
from phloem.ledger.folder import LedgerFolder
def touch(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
connect = log.connect
def traced(path):
    found = connect(path)
    found.set_trace_callback(touch)  # before every statement
    return found
log.connect = traced
def count(event, details):
    if event in ("os.rename", "os.mkdir", "os.link", "open", "sqlite3.connect", "os.chmod", "os.remove"):
        if event == "open" and not (isinstance(details[2], int) and details[2] & os.O_ACCMODE):
            return
        touch()
sys.addaudithook(count)
LedgerFolder.create(Path(sys.argv[1]) / "ledger", "example.org/clinic")
print("made")
"""


@pytest.mark.slow
def test_killed_at_any_touch_of_the_disk_it_is_made_at_the_second_try(tmp_path: Path) -> None:
    for number in range(100):
        root = tmp_path / str(number)
        command = [sys.executable, "-c", MAKER.format(path=sys.path), str(root), str(number)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        folder = LedgerFolder(root / "ledger")
        if not folder.exists:
            LedgerFolder.create(root / "ledger", ORIGIN)
        with folder.log() as log:
            assert log.append([b"x"]) == range(1)
        assert folder.policy.logs == (folder.log_key.verifier,)
        if done.stdout == "made\n":
            break
        assert done.returncode == -9
    assert 20 < number < 99


def test_an_empty_file_that_a_crash_left_is_no_log(tmp_path: Path) -> None:
    folder = LedgerFolder.create(tmp_path / "ledger", ORIGIN)
    (folder.root / "log.db").write_bytes(b"")
    with pytest.raises(PhloemError) as said:
        folder.log()
    assert "log.db" in str(said.value)


def test_a_name_that_no_log_can_have_is_refused(tmp_path: Path) -> None:
    for origin in ("", "two words", "a+b", "a\nb", "\ud800"):
        with pytest.raises(FormatError):
            LedgerFolder.create(tmp_path / "ledger", origin)
        assert not LedgerFolder(tmp_path / "ledger").exists


def test_where_nothing_can_be_made_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be made"):
        LedgerFolder.create(tmp_path / "file" / "ledger", ORIGIN)
    with pytest.raises(StoreError, match=r"cannot be (made|written)"):
        LedgerFolder.create(tmp_path / "file", ORIGIN)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = LedgerFolder(tmp_path / "none")
    assert not folder.exists
    with pytest.raises(NotFoundError, match="there is no log at"):
        folder.log()
    with pytest.raises(NotFoundError, match="there is no policy at"):
        _ = folder.policy
    with pytest.raises(NotFoundError, match="there is no key at"):
        _ = folder.log_key
    with pytest.raises(StoreError, match="cannot be read"):
        read_policy(tmp_path)
    (tmp_path / "policy.txt").write_text("nonsense\n")
    with pytest.raises(FormatError, match="line 1 of the policy"):
        read_policy(tmp_path / "policy.txt")


CLAIM = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from phloem.errors import StateError
from phloem.ledger.folder import LedgerFolder
try:
    LedgerFolder(Path(sys.argv[1])).claimed().close()
    print("claimed")
except StateError as error:
    print(error)
"""


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    folder = LedgerFolder.create(tmp_path, ORIGIN)

    def asked_elsewhere() -> str:
        command = [sys.executable, "-c", CLAIM.format(path=sys.path), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    claim = folder.claimed()
    with pytest.raises(StateError, match="another process is writing"):
        folder.claimed()
    assert "another process is writing to the ledger" in asked_elsewhere()
    claim.close()
    assert asked_elsewhere() == "claimed\n"
    folder.claimed().close()


def test_a_folder_that_is_not_there_is_not_claimed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lock cannot be written"):
        LedgerFolder(tmp_path / "none").claimed()
