"""Warm starts for a node's app: one process that has imported everything, and forks for every message.

Flower starts `flwr-clientapp` anew for every message, and that imports Flower, the app and what the app needs: seconds
of a processor, for a round of a small model the most part of its time. `SuperNode` starts its program through this
module instead:

    warm ── flower-supernode ── flower-superexec ── flwr-clientapp (`warm_client`, found first on the PATH)
      └──── a fork for every message, which runs Flower's own `flwr-clientapp`

A fork has the arguments, folder, environment and files of the process that asked for it, a fresh state of random
numbers, and ends with it. What a fork imported besides, of the packages in `PACKAGES`, the next ones find imported.
The app's own modules are imported by each fork, from the bundle that came with its message. Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from phloem.engines.flower import warm_client

PROGRAM = "flwr-clientapp"
PACKAGES = frozenset(
    ["flwr", "joblib", "numpy", "pandas", "phloem", "safetensors", "scipy", "sklearn", "torch", "zstandard"]
)
"""What may be imported before a fork: packages that start no thread when they are imported."""

_ALWAYS = ("flwr.app", "flwr.clientapp", "phloem.engines.flower.mod")
_SET_PDEATHSIG = 1  # <sys/prctl.h>
_ASK_SECONDS = 10.0  # for one request to arrive


def command(program: Path, arguments: Sequence[str], folder: Path) -> list[str]:
    """The command that runs `program` with warm starts, made in `folder`; just the program where there are none."""
    if not possible():
        return [str(program), *arguments]
    boot = f"import sys; sys.path[:] = {sys.path!r}; from phloem.engines.flower.warm import main; main()"
    return [sys.executable, "-c", boot, str(folder), str(program), *arguments]


def possible() -> bool:
    """Whether this machine's processes can be forked and watched as this module does."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


@dataclass
class _Fork:
    """A process that runs Flower's program, a file that is readable once it ended, and the line to who asked for it."""

    process: BaseProcess
    ended: int
    line: socket.socket


class Nursery:
    """Forks for whoever asks at `folder`/ask."""

    def __init__(self, folder: Path, entry: Callable[[], Any]) -> None:
        self.folder, self.entry = folder, entry
        self.door = socket.socket(socket.AF_UNIX)
        with contextlib.chdir(folder):  # a socket's path may have a hundred letters, a folder's more
            self.door.bind("ask")
        self.door.listen(64)
        self.forks: list[_Fork] = []
        self._fork = multiprocessing.get_context("fork")
        self._paths = tuple(os.path.realpath(path) + os.sep for path in sys.path if path)

    def serve(self, until: int) -> None:
        """Answers until the file `until` is readable."""
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(until, selectors.EVENT_READ)
                selector.register(self.door, selectors.EVENT_READ)
                for fork in self.forks:
                    selector.register(fork.line, selectors.EVENT_READ)
                    selector.register(fork.ended, selectors.EVENT_READ)
                ready = {key.fileobj for key, _ in selector.select()}
            if until in ready:
                return
            for fork in list(self.forks):
                if fork.line in ready:  # who asked is gone
                    fork.process.kill()
                if fork.line in ready or fork.ended in ready:
                    self._bury(fork)
            if self.door in ready:
                self._admit()

    def _bury(self, fork: _Fork) -> None:
        """Answers for a fork that ended, and imports what it had to."""
        fork.process.join()
        os.close(fork.ended)
        code = fork.process.exitcode or 0
        with contextlib.suppress(OSError):
            fork.line.sendall(b"%d" % (code if code >= 0 else 128 - code))
        fork.line.close()
        self.forks.remove(fork)
        imported = self.folder / f"{fork.process.pid}"
        if imported.exists():
            names = imported.read_text("utf-8").split()
            imported.unlink()
            load(names)

    def _admit(self) -> None:
        line, _ = self.door.accept()
        files: list[int] = []
        try:
            line.settimeout(_ASK_SECONDS)
            size, files, _, _ = socket.recv_fds(line, 4, 3)
            asked = json.loads(_exactly(line, int.from_bytes(size, "big")))
            line.settimeout(None)
            process = self._fork.Process(target=self._live, args=(asked, line, files))
            process.start()
        except (OSError, ValueError, KeyError) as error:
            print(f"phloem: a process was asked for in vain: {error}", file=sys.stderr)  # noqa: T201
            line.close()
        else:
            assert process.pid is not None
            self.forks.append(_Fork(process, os.pidfd_open(process.pid), line))
        finally:
            for file in files:
                os.close(file)

    def _live(self, asked: dict[str, Any], line: socket.socket, files: list[int]) -> None:
        """In the fork: becomes the process that was asked for."""
        _die_with_parent()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self.door, line, *(fork.line for fork in self.forks)):
            end.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        files.clear()
        os.environ.clear()  # noqa: TID251 - of a process that this one stands in for
        os.environ.update(asked["environment"])  # noqa: TID251
        os.chdir(asked["folder"])
        sys.argv = list(asked["arguments"])
        multiprocessing.current_process().name = "MainProcess"
        _draw_anew()
        before = set(sys.modules)
        try:
            self.entry()
        finally:
            names = filter(self._others_may_have, sorted(set(sys.modules) - before))
            (self.folder / f"{os.getpid()}").write_text(" ".join(names), "utf-8")
            atexit._run_exitfuncs()

    def _others_may_have(self, name: str) -> bool:
        """Whether a module that a fork imported is the one that every fork would import: an app may have its own."""
        file = getattr(sys.modules[name], "__file__", None)
        here = isinstance(file, str) and os.path.realpath(file).startswith(self._paths)
        return here and name.partition(".")[0] in PACKAGES


def load(names: list[str]) -> None:
    """Imports these modules for all later forks, as far as they can be."""
    for name in names:
        with contextlib.suppress(Exception):  # a module that only its app can import
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection in a fork would touch, and so copy, every page


def main() -> None:
    """Runs the command in the arguments, with warm starts, until it ends; ends as it does."""
    folder, program, *arguments = sys.argv[1:]
    entry = next(iter(importlib.metadata.entry_points(group="console_scripts", name=PROGRAM)))
    inherited, places = os.environ, os.get_exec_path()  # noqa: TID251 - handed on, not read
    try:
        nursery = Nursery(_made(Path(folder), Path(program).with_name(PROGRAM)), lambda: entry.load()())
    except OSError as error:  # a file system without sockets, for one
        print(f"phloem: no warm starts in {folder}: {error.strerror}", file=sys.stderr)  # noqa: T201
        os.execv(program, [program, *arguments])
    environment = {**inherited, "PATH": os.pathsep.join([str(nursery.folder / "bin"), *places])}
    node = subprocess.Popen([program, *arguments], env=environment, preexec_fn=_die_with_parent)
    signal.signal(signal.SIGTERM, lambda number, _: node.send_signal(number))
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends it to the node as well
    warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)  # BLAS's own
    entry.load()
    load(list(_ALWAYS))
    nursery.serve(os.pidfd_open(node.pid))
    code = node.wait()
    shutil.rmtree(nursery.folder, ignore_errors=True)
    os._exit(code if code >= 0 else 128 - code)


def _made(folder: Path, program: Path) -> Path:
    """The folder, for this user only, with a `flwr-clientapp` in `bin` that asks there; anew after a crash."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    words = [sys.executable, "-I", "-S", warm_client.__file__, str(folder), str(program)]
    shim = folder / "bin" / PROGRAM
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', "utf-8")
    shim.chmod(0o700)
    return folder


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _draw_anew() -> None:
    """Random numbers of the fork's own, as a new process has: Python sees to `random` itself."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _exactly(line: socket.socket, size: int) -> bytes:
    """The next `size` bytes."""
    found = bytearray()
    while len(found) < size:
        part = line.recv(size - len(found))
        if not part:
            raise ValueError("the request ended early")
        found += part
    return bytes(found)


if __name__ == "__main__":
    main()
