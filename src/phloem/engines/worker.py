"""A host in a process of its own: started by `WorkerHost` and driven over its standard input and output.

Every message is a length (8 bytes, little-endian), that many bytes of JSON, a length, that many raw bytes. An event
travels to the parent before it takes effect and waits for its answer. What a task prints goes to standard error.

A worker is in a session of its own, so that Ctrl-C at the terminal reaches the parent only. It ends when its input
does, without a word and in the middle of a training too: the parent closed it, or is no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from phloem import errors, kernels
from phloem.engines.base import Answer
from phloem.engines.host import Host
from phloem.errors import PhloemError, StateError
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.store.files import Store

_LENGTH = 8  # a model's frame may be more than 4 GiB


def send(stream: IO[bytes], head: dict[str, Any], payload: bytes = b"") -> None:
    """Writes one message."""
    text = json.dumps(head).encode()
    stream.write(len(text).to_bytes(_LENGTH, "little") + text + len(payload).to_bytes(_LENGTH, "little"))
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Reads one message; None at the end of the stream, also where that is inside a message."""
    parts = []
    for _ in range(2):
        size = stream.read(_LENGTH)
        part = stream.read(int.from_bytes(size, "little"))
        if len(size) < _LENGTH or len(part) < int.from_bytes(size, "little"):
            return None
        parts.append(part)
    return json.loads(parts[0]), parts[1]


class WorkerHost:
    """The parent's side: a host with the same calls as `Host`, in another process."""

    def __init__(self, recipe: Recipe, sites: Sequence[str], emit: events.Emit = events.ignore) -> None:
        self.sites, self.emit = list(sites), emit
        start = f"import sys; sys.path[:] = {sys.path!r}; from phloem.engines.worker import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # not in the terminal's group: its Ctrl-C would hit the imports
        )
        backend = kernels.backend_name()
        try:
            self._send({"do": "open", "recipe": recipe.to_json(), "sites": self.sites, "kernels": backend})
        except BaseException:
            self.kill()
            self.close()
            raise

    def opened(self) -> None:
        """Waits until the sites have their data."""
        self._answer()

    def deliver(self, name: str, order: bytes) -> Answer:
        """As `Host.deliver`."""
        self._send({"do": "deliver", "site": name}, order)
        head, message = self._answer()
        return Answer(message, head["train_seconds"], head["codec_seconds"], head["metrics"])

    def join_ledger(self, folder: Path) -> None:
        """As `Host.join_ledger`."""
        self._send({"do": "ledger", "folder": str(folder)})
        self._answer()

    def spill_to(self, store: Store) -> None:
        """As `Host.spill_to`."""
        self._send({"do": "spill", "store": str(store.root)})
        self._answer()

    def save(self, store: Store) -> dict[str, dict[str, Any]]:
        """As `Host.save`."""
        self._send({"do": "save", "store": str(store.root)})
        saved: dict[str, dict[str, Any]] = self._answer()[0]["saved"]
        return saved

    def load(self, store: Store, saved: dict[str, dict[str, Any]]) -> None:
        """As `Host.load`."""
        self._send({"do": "load", "store": str(store.root), "saved": saved})
        self._answer()

    def close(self) -> None:
        """Ends the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):  # it died with a message half read
                    stream.close()
        self.process.wait()

    def kill(self) -> None:
        """Ends the process in the middle of whatever it does."""
        self.process.kill()

    def _send(self, head: dict[str, Any], payload: bytes = b"") -> None:
        assert self.process.stdin is not None
        try:
            send(self.process.stdin, head, payload)
        except BrokenPipeError as error:
            raise self._died() from error

    def _answer(self) -> tuple[dict[str, Any], bytes]:
        assert self.process.stdout is not None
        while True:
            message = receive(self.process.stdout)
            if message is None:
                raise self._died()
            head, payload = message
            if "event" not in head:
                break
            self.emit(getattr(events, head["event"])(**head["fields"]))
            self._send({"do": "go on"})
        if "error" in head:
            kind = getattr(errors, head["error"], StateError)
            raise kind(head["message"], hint=head["hint"])
        return head, payload

    def _died(self) -> StateError:
        code = self.process.wait()
        return StateError(
            f"the worker with {', '.join(self.sites)} ended with exit code {code}",
            hint="its own message is above; resume the run once the cause is gone",
        )


def _do(
    host: Host | None, head: dict[str, Any], payload: bytes, emit: events.Emit
) -> tuple[Host | None, dict[str, Any], bytes]:
    if head["do"] == "open":
        kernels.use(head["kernels"])
        return Host(Recipe.from_json(head["recipe"]), head["sites"], emit), {}, b""
    assert host is not None
    if head["do"] == "deliver":
        answer = host.deliver(head["site"], payload)
        facts = {
            "train_seconds": answer.train_seconds,
            "codec_seconds": answer.codec_seconds,
            "metrics": answer.metrics,
        }
        return host, facts, answer.message
    if head["do"] == "ledger":
        host.join_ledger(Path(head["folder"]))
        return host, {}, b""
    store = Store(head["store"])
    if head["do"] == "save":
        return host, {"saved": host.save(store)}, b""
    if head["do"] == "spill":
        host.spill_to(store)
    else:
        host.load(store, head["saved"])
    return host, {}, b""


def _end_with_input() -> None:
    """Ends this process once nobody can write to its input, whatever its main thread does."""
    if hasattr(select, "poll"):  # elsewhere it ends when it next reads or writes
        hung_up = select.poll()
        hung_up.register(0, 0)  # asks for nothing, which leaves the end of the other side
        hung_up.poll()
        os._exit(0)


def main() -> None:
    """Serves one host until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process or its input
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a task prints must not get between our messages
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # and must not be lost when the process ends
    threading.Thread(target=_end_with_input, daemon=True).start()
    requests = sys.stdin.buffer
    host: Host | None = None

    def answer(head: dict[str, Any], payload: bytes = b"") -> None:
        try:
            send(replies, head, payload)
        except BrokenPipeError:  # nobody listens any more; leaving otherwise would try to write once again
            os._exit(1)

    def emit(event: events.Event) -> None:
        answer({"event": type(event).__name__, "fields": dataclasses.asdict(event)})
        if receive(requests) is None:
            raise SystemExit(1)  # the parent stopped the exchange

    while (message := receive(requests)) is not None:
        try:
            host, head, payload = _do(host, *message, emit)
        except PhloemError as error:
            head = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
            payload = b""
        answer(head, payload)


if __name__ == "__main__":
    main()
