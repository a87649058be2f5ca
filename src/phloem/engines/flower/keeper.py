"""A program that cannot outlive who started it: `Kept`, the starter's side, and `main`, the keeper beside it.

    starter ── pipe ── keeper ── program ── whatever the program starts

The keeper is in a session of its own, so that Ctrl-C at the terminal reaches the starter only. It ends the program
when its input ends: the starter closed it, or is no more, killed with SIGKILL too. On Linux the keeper adopts what
the program leaves behind, also in other sessions and groups, and ends that as well before it ends itself; should
the keeper be killed, the kernel kills the program. Elsewhere it ends the program and its process group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from phloem.errors import StateError, StoreError

_GRACE_SECONDS = 10.0  # from the request to end to SIGKILL
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>


class Kept:
    """A running program with all that it starts; what it prints is appended to `log`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        boot = (
            f"import sys; sys.path[:] = {sys.path!r}; from phloem.engines.flower.keeper import main; main()"
        )
        try:
            with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
                self._keeper = subprocess.Popen(
                    [sys.executable, "-c", boot, *command],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise StoreError(
                f"{command[0]} could not be started with its log {log}: {error.strerror}"
            ) from error

    def exit_code(self) -> int | None:
        """The program's, 128 and more after a signal; None while it runs."""
        return self._keeper.poll()

    def ask_to_stop(self) -> None:
        """Lets the program end in its own way; does not wait."""
        if self._keeper.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.close()

    def kill(self) -> None:
        """Ends the program and all that it started at once, as a crash would."""
        if self._keeper.stdin and not self._keeper.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.write(b"k")
                self._keeper.stdin.flush()
        self.stop()

    def stop(self) -> None:
        """Lets the program end in its own way, and waits until nothing of it runs any more.

        Raises:
            StateError: something of it cannot be ended.
        """
        self.ask_to_stop()
        try:
            self._keeper.wait(3 * _GRACE_SECONDS)
        except subprocess.TimeoutExpired as error:
            os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait()
            raise StateError(f"the programs of process group {self._keeper.pid} did not end") from error


def main() -> None:
    """Runs the command in the arguments until it or the input ends, and leaves nothing behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux = ctypes.CDLL(None) if sys.platform == "linux" else None
    if linux:
        linux.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = os.getpid()

    def prepare() -> None:  # between fork and exec, with one thread in the process
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if linux:
            linux.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(1)

    started = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=prepare)
    program = started.pid
    signal.signal(signal.SIGTERM, lambda *_: os.kill(program, signal.SIGTERM))
    threading.Thread(target=_end_with_input, args=(program,), daemon=True).start()
    while True:  # not by `started`, which must not take the status: what was adopted is waited for too
        ended, status = os.waitpid(-1, 0)
        if ended == program:
            break
    code = os.waitstatus_to_exitcode(status)
    _end_the_rest()
    os._exit(code if code >= 0 else 128 - code)


def _end_with_input(program: int) -> None:
    """Ends the program once the input does: by a request and a while to follow it, or at once after a byte."""
    with contextlib.suppress(ProcessLookupError):
        if not os.read(0, 1):
            os.kill(program, signal.SIGTERM)
            time.sleep(_GRACE_SECONDS)
        os.kill(program, signal.SIGKILL)


def _end_the_rest() -> None:
    """Kills what the program left, generation by generation: its children become ours when it dies."""
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # none left
        while True:
            for child in _children():
                os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(folder.name))
    return found


if __name__ == "__main__":
    main()
