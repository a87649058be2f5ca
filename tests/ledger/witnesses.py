"""What the tests of witnesses share: a log with an honest and a forked history, and witnesses as real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.tlog.trees import Tree

from phloem.ledger.witness import Witness, create_witness, open_witness
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer, VerifierKey
from phloem.tlog.merkle import prove_consistency, tree_hash
from phloem.tlog.note import signed
from phloem.tlog.witness import Request

ORIGIN = "example.org/log"
LOG = Signer.from_seed(ORIGIN, NOTE, bytes(32))
WITNESS = Signer.from_seed("witness.example/w", COSIGNATURE, bytes([1]) * 32)
TREE = Tree([b"%d" % n for n in range(3000)])
FORK = Tree([b"%d" % n for n in range(10)] + [b"other %d" % n for n in range(30)])

COMMAND = f"""
import sys
sys.path[:] = {sys.path!r}
from phloem.cli import main as command, witness
if witness.group not in [one.typer_instance for one in command.app.registered_groups]:
    witness.add_to(command.app)
command.main()
"""
"""`phloem`, with the command group that is tested."""


def note_of(size: int, tree: Tree = TREE, signer: Signer = LOG) -> bytes:
    return signed(Checkpoint(ORIGIN, size, tree_hash(size, tree.read)).pack(), [signer])


def request(old: int, size: int, tree: Tree = TREE) -> bytes:
    proof = prove_consistency(old, size, tree.read) if 0 < old <= size else []
    return Request(old, tuple(proof), note_of(size, tree)).pack()


def new_witness(directory: Path, name: str = "witness.example/w") -> Witness:
    create_witness(directory, name)
    return open_witness(directory, [LOG.verifier])


def start(*words: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={name: word for name, word in os.environ.items() if not name.lower().endswith("_proxy")},
    )


class Served:
    """`phloem witness serve` in a process of its own, until the end of a `with`."""

    def __init__(self, directory: Path, log: VerifierKey = LOG.verifier) -> None:
        self.process = start("witness", "serve", directory, "--log", log, "--port", 0)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        assert found, said + self.process.stderr.read()
        self.url, self.port = found[0], int(found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)

    def end(self, with_: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code, and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(with_)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def post(port: int, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to one request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/add-checkpoint", body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
