from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phloem.engines.flower.keeper import Kept
from phloem.errors import StoreError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")

# A child in a session of its own, whose parent is gone at once, beside one that ignores the request to end.
DETACHED = (
    "(setsid sh -c 'echo detached; exec sleep 600' &); trap '' TERM; echo started; sleep 600; sleep 600"
)


def marked(mark: str) -> list[int]:
    """The processes with this environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def wait_for(path: Path, *words: str) -> None:
    limit = time.monotonic() + 30
    while not (path.exists() and all(word in path.read_text() for word in words)):
        assert time.monotonic() < limit, f"{path} never said {words}"


def wait_until(mark: str, count: Callable[[int], bool]) -> None:
    limit = time.monotonic() + 30
    while not count(len(marked(mark))):
        assert time.monotonic() < limit, f"{marked(mark)} run"


def wait_until_ended(program: Kept) -> int:
    limit = time.monotonic() + 30
    while (code := program.exit_code()) is None:
        assert time.monotonic() < limit, "the program never ended"
    program.stop()
    return code


def kept(command: list[str], tmp_path: Path) -> Kept:
    return Kept(command, {**os.environ, "MARK": str(tmp_path)}, tmp_path / "log")


def test_the_exit_code_is_the_programs(tmp_path: Path) -> None:
    program = kept(["sh", "-c", "exit 7"], tmp_path)
    assert wait_until_ended(program) == 7


def test_a_program_is_asked_to_end_before_it_is_ended(tmp_path: Path) -> None:
    program = kept(
        ["sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"], tmp_path
    )
    wait_for(tmp_path / "log", "up")
    assert program.exit_code() is None
    program.stop()
    assert program.exit_code() == 3
    assert "bye" in (tmp_path / "log").read_text()


def test_nothing_of_a_killed_program_is_left(tmp_path: Path) -> None:
    program = kept(["sh", "-c", DETACHED], tmp_path)
    try:
        wait_for(tmp_path / "log", "detached", "started")
        wait_until(str(tmp_path), lambda count: count >= 4)  # the keeper, the shell and two that sleep
    finally:
        program.kill()
    assert marked(str(tmp_path)) == []
    assert program.exit_code() == 128 + signal.SIGKILL


def test_what_a_program_left_when_it_ended_by_itself_is_ended_too(tmp_path: Path) -> None:
    program = kept(["sh", "-c", "(setsid sleep 600 &); exit 0"], tmp_path)
    assert wait_until_ended(program) == 0
    assert marked(str(tmp_path)) == []


@pytest.mark.parametrize("who", ["starter", "keeper"])
def test_nothing_is_left_of_a_program_whose_starter_or_keeper_was_killed(tmp_path: Path, who: str) -> None:
    log = tmp_path / "log"
    code = (
        f"import os, signal, sys; sys.path[:] = {sys.path!r}; log = {str(log)!r}\n"
        "from pathlib import Path\n"
        "from phloem.engines.flower.keeper import Kept\n"
        "kept = Kept(['sh', '-c', 'echo started; exec sleep 600'], dict(os.environ), Path(log))\n"
        "while b'started' not in Path(log).read_bytes(): pass\n"
        f"os.kill(os.getpid() if {who!r} == 'starter' else kept._keeper.pid, signal.SIGKILL)\n"
        "kept.stop()\n"
    )
    environment = {**os.environ, "MARK": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    assert "started" in log.read_text()
    wait_until(str(tmp_path), lambda count: count == 0)


def test_ctrl_c_in_the_terminal_does_not_reach_the_program(tmp_path: Path) -> None:
    program = kept(["sh", "-c", "echo up; exec sleep 600"], tmp_path)
    wait_for(tmp_path / "log", "up")
    assert os.getpgid(0) not in {os.getpgid(process) for process in marked(str(tmp_path))}
    program.kill()


def test_the_log_is_for_its_owner_only_and_is_appended_to(tmp_path: Path) -> None:
    for word in ("one", "two"):
        wait_until_ended(kept(["echo", word], tmp_path))
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not be started"):
        Kept(["true"], {}, tmp_path / "missing" / "log")
