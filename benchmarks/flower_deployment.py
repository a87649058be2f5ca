"""A Flower deployment over emulated lines: a SuperLink, a SuperNode per site, and runs of flower_app.

    with Deployment(10, Link(10e6, 10e6, 0.04), python) as deployment:
        run = deployment.run({"mode": "plain", "model": "resnet50", "rounds": 2})

Every site and the server have a network namespace of their own (`links`). TLS and node authentication are on,
telemetry is off. Bytes are the kernel's, read at the server's end of every line when the server's app says that a
round begins, has trained, or ends; it waits meanwhile, and the clock of the round stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from links import Count, Link, Network
from phloem.engines.flower.certificates import make_authority, make_node_key
from phloem.engines.flower.processes import SuperLink, SuperNode

APP = Path(__file__).with_name("flower_app")
_LOOK_SECONDS = 0.02  # between two looks at the marks
_PROGRAMS = {"server app": "flwr-serverapp", "SuperLink": "flower-superlink"}


@dataclasses.dataclass
class Run:
    """What one run was like: marks with counters, the sites' notes, peak memory at the server, Flower's own count."""

    marks: list[dict[str, Any]]
    notes: list[dict[str, Any]]
    peak_bytes: dict[str, int]
    flower_bytes: tuple[int, int]  # from the nodes to the server, and back
    folder: Path


class Deployment:
    """`sites` nodes on lines like `link`, with Flower's programs of the environment that `python` belongs to."""

    def __init__(self, sites: int, link: Link, python: Path | None = None) -> None:
        self.network = Network({f"site {i}": link for i in range(sites)})
        self.python = Path(sys.executable) if python is None else python
        self.warm = python is None  # another environment's Flower starts as it always does
        self.nodes: dict[int, int] = {}  # the site that a node is
        self._runs = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self.folder = Path(tempfile.mkdtemp(prefix="phloem-flower-"))
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            undo.enter_context(self.network)
            undo.enter_context(_programs_of(self.python))
            host = self.network.server_host
            authority = make_authority(self.folder / "keys", [host])
            with self.network.inside("server"):
                self.link = undo.enter_context(SuperLink(self.folder / "superlink", authority, host=host))
                self._server = os.stat("/proc/thread-self/ns/net").st_ino
            supernodes = []
            undo.callback(_stop, supernodes)
            for site, name in enumerate(self.network.links):
                key = make_node_key(self.folder / "keys", f"site-{site}")
                with self.network.inside("server"):
                    self.nodes[self.link.register(key.public)] = site
                with self.network.inside(name):
                    settings = {"site": site}
                    node = SuperNode(
                        self.folder / f"site-{site}",
                        self.link.address,
                        authority.ca_certificate,
                        key.private,
                        settings,
                        warm=self.warm,
                    )
                    node.start()
                supernodes.append(node)
            for node in supernodes:
                node.wait_connected(120.0)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def idle(self, seconds: float) -> dict[str, Any]:
        """What polling and heartbeats put on a site's line while nothing is done, per second."""
        before = self.network.counts()
        time.sleep(seconds)
        moved = difference(before, self.network.counts())
        return {
            "seconds": seconds,
            **{way: [count[way] / seconds for count in moved] for way in ("up_bytes", "down_bytes")},
        }

    def run(self, config: Mapping[str, Any]) -> Run:
        """One run of the app; `config` overrides its defaults.

        Raises:
            RuntimeError: the run failed; the message has its log.
        """
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        folder.mkdir()
        (folder / "read").write_text("0", "ascii")
        (folder / "marks.jsonl").touch()
        settings = {"sites": len(self.nodes), **config, "folder": str(folder)}
        self._forget_peaks()
        with self.network.inside("server"):
            number = self.link.run(APP, settings)
        peaks: dict[str, int] = {}
        marks = []
        for mark in self._marks(folder, number):
            marks.append(mark)
            for name, pid in self._pids().items():
                peaks[name] = max(peaks.get(name, 0), _status(pid, "VmHWM"))
        with self.network.inside("server"):
            state = self.link.wait_finished(number, 60.0)
        notes = [
            json.loads(line)
            for path in sorted(folder.glob("site-*.jsonl"))
            for line in path.read_text("utf-8").splitlines()
        ]
        return Run(marks, notes, peaks, (state.inbound_bytes, state.outbound_bytes), folder)

    def _marks(self, folder: Path, number: int) -> Iterator[dict[str, Any]]:
        """The marks as they come, with counters where they ask for them, until the app says that it is done."""
        ended = re.compile(rf"Finished task \d+ of run {number}\b")
        said, count, looked = "", 0, time.monotonic()
        with (folder / "marks.jsonl").open(encoding="utf-8") as file:
            while True:
                said += file.readline()
                if said.endswith("\n"):
                    mark, said = json.loads(said), ""
                    count += 1
                    if mark.get("counters"):
                        mark["counters"] = self.network.counts()
                        mark["processor"] = processor()
                        beside = folder / "read.new"
                        beside.write_text(str(count), "ascii")
                        beside.replace(folder / "read")
                    yield mark
                    if mark["mark"] == "done":
                        return
                    continue
                time.sleep(_LOOK_SECONDS)
                if time.monotonic() - looked > 2.0:
                    looked = time.monotonic()
                    if not self.link.alive or ended.search(self.link.output()):
                        raise RuntimeError(f"the run ended early: {self._log(number)}")

    def _log(self, number: int) -> str:
        with contextlib.suppress(Exception), self.network.inside("server"):
            return self.link.log(number)[-4000:]
        return self.link.output()[-4000:]

    def _pids(self) -> dict[str, int]:
        """The server's two programs, found in its namespace by their command lines."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and (folder / "ns/net").stat().st_ino == self._server:
                    words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    for name, program in _PROGRAMS.items():
                        if any(Path(word).name == program for word in words[:2]):
                            found[name] = int(folder.name)
        return found

    def _forget_peaks(self) -> None:
        for pid in self._pids().values():
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")  # VmHWM starts anew


def difference(before: Mapping[str, Count], after: Mapping[str, Count]) -> list[dict[str, int]]:
    """What crossed every site's line between two readings, in the order of sites."""
    fields = [field.name for field in dataclasses.fields(Count)]
    return [{f: getattr(after[s], f) - getattr(before[s], f) for f in fields} for s in after]


def processor() -> dict[str, float]:
    """Seconds of all processors so far: busy, idle, and stolen by other guests of the machine."""
    line = Path("/proc/stat").read_text("ascii").splitlines()[0].split()[1:]
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in line[:8]]
    return {"busy": sum(ticks[:3]) + sum(ticks[5:7]), "idle": ticks[3] + ticks[4], "steal": ticks[7]}


def _status(pid: int, key: str) -> int:
    with contextlib.suppress(OSError):
        found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
        return int(found[1]) * 1024 if found else 0
    return 0


def _stop(nodes: list[SuperNode]) -> None:
    for node in nodes:
        node.ask_to_stop()
    for node in nodes:
        node.stop()


@contextlib.contextmanager
def _programs_of(python: Path) -> Iterator[None]:
    """Flower's programs are looked for beside `python` meanwhile."""
    ours, sys.executable = sys.executable, str(python)
    try:
        yield
    finally:
        sys.executable = ours
