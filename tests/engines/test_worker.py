"""Workers as real processes: what they do when they, or the process that started them, are ended."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import ROOT, table

from phloem.engines.worker import WorkerHost, receive, send
from phloem.recipe import load_recipe

# A task whose workers say that they are at work and then never stop by themselves.
ENDLESS = """
import os, sys, threading
from tests.tiny import Blobs

class Endless(Blobs):
    def shard(self, site):
        print("reading", site, file=sys.stderr, flush=True)
        threading.Event().wait()
"""
PARENT = """
import os, signal, sys
from tests.tiny import table
from phloem.engines import local, worker
from phloem.recipe import load_recipe

def interrupted(host):
    os.killpg(0, signal.SIGINT)  # as the terminal does, while the workers are at their first imports
    signal.pause()

if sys.argv[1] == "at once":
    worker.WorkerHost.opened = interrupted
recipe = load_recipe(table(count=2, run={"workers": 2}, task={"name": "endless:Endless"}))
try:
    local.LocalEngine(recipe)
except KeyboardInterrupt:
    sys.exit(130)
"""


class Parent:
    """A process in a group of its own that opens two endless workers."""

    def __init__(self, folder: Path, when: str) -> None:
        (folder / "endless.py").write_text(ENDLESS)
        path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "src")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, when],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )

    def hears(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def rest(self) -> str:
        """What it and its workers still say. The pipe ends with the last process that holds it."""
        return self.process.communicate(timeout=60)[1]


def test_ctrl_c_in_the_workers_first_moments_leaves_no_process_and_no_traceback(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "at once")
    assert parent.rest() == ""
    assert parent.process.returncode == 130


def test_ctrl_c_while_workers_read_their_data_ends_them_without_a_word(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "later")
    assert {parent.hears(), parent.hears()} == {"reading site-0\n", "reading site-1\n"}
    os.killpg(parent.process.pid, signal.SIGINT)
    assert parent.rest() == ""
    assert parent.process.returncode == 130


def test_workers_end_with_a_parent_that_is_killed_even_in_the_middle_of_their_work(tmp_path: Path) -> None:
    parent = Parent(tmp_path, "later")
    assert {parent.hears(), parent.hears()} == {"reading site-0\n", "reading site-1\n"}
    parent.process.kill()
    assert parent.rest() == ""


def test_a_worker_is_not_in_the_terminals_session_and_ignores_an_interrupt() -> None:
    host = WorkerHost(load_recipe(table()), ["site-0"])
    try:
        assert os.getsid(host.process.pid) == host.process.pid != os.getsid(0)
        host.opened()
        host.process.send_signal(signal.SIGINT)
        host._send({"do": "open", "recipe": load_recipe(table()).to_json(), "sites": [], "kernels": "auto"})
        host.opened()
    finally:
        host.close()
    assert host.process.returncode == 0


def test_a_worker_that_nobody_listens_to_ends_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    host = WorkerHost(load_recipe(table()), ["site-0"])
    assert host.process.stdout is not None
    host.process.stdout.close()
    assert host.process.wait(timeout=60) == 1
    host.close()
    assert capfd.readouterr().err == ""


def test_a_message_may_be_longer_than_four_gibibytes() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return (1 << 32) + 5

    class Stream(io.BytesIO):
        def write(self, data: object) -> int:
            return 0 if isinstance(data, Long) else super().write(data)  # type: ignore[arg-type]

    stream = Stream()
    send(stream, {}, Long())
    assert stream.getvalue() == (2).to_bytes(8, "little") + b"{}" + ((1 << 32) + 5).to_bytes(8, "little")


def test_a_message_comes_back_whole_or_not_at_all() -> None:
    stream = io.BytesIO()
    send(stream, {"do": "x"}, b"payload")
    whole = stream.getvalue()
    assert receive(io.BytesIO(whole)) == ({"do": "x"}, b"payload")
    for size in range(len(whole)):
        assert receive(io.BytesIO(whole[:size])) is None
