"""Ranks as real processes: forked from one that has torch loaded already, so that they start in milliseconds.

    def adds(here: Here, *, more: int) -> None:            # at the top of a test module
        here.begin()
        here.say(sum=here.rank + more)

    def test_it(ranks: Start) -> None:
        assert [rank.said["sum"] for rank in ranks(2, adds, more=1)] == [1, 2]

`python -m tests.engines.torch.ranks` is the process that forks. A rank ends as any interpreter does, so one that
cannot is noticed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[3]
REFUSED = 3  # the exit code of a rank whose function raised a PhloemError: it has said which one
KILLED = -signal.SIGKILL
SECONDS = 120.0


@dataclass(frozen=True)
class Here:
    """What a rank's function is given."""

    rank: int
    world: int
    folder: Path  # of the test: shared by all ranks
    meeting: str

    def begin(self) -> None:
        """Starts torch.distributed."""
        import torch.distributed as dist

        dist.init_process_group(
            "gloo", f"file://{self.folder / self.meeting}", rank=self.rank, world_size=self.world
        )

    def say(self, **row: Any) -> None:
        """Tells the test something; a line for each call."""
        path = self.folder / f"{self.meeting}.{self.rank}.jsonl"
        with path.open("a") as file:
            print(json.dumps(row), file=file)

    def die(self) -> None:
        """As `kill -9` does it: nothing is flushed, closed or said."""
        self.say(died=time.monotonic())
        os.kill(os.getpid(), signal.SIGKILL)

    def fall_silent(self) -> None:
        """Lives on and does nothing, until the test's other ranks have ended."""
        while True:
            signal.pause()


@dataclass(frozen=True)
class Ended:
    """How a rank ended, and what it said."""

    code: int
    rows: list[dict[str, Any]]
    err: str

    @property
    def said(self) -> dict[str, Any]:
        """All rows in one."""
        assert self.code == 0, f"exit code {self.code}; {self.rows}\n{self.err}"
        return self.heard

    @property
    def heard(self) -> dict[str, Any]:
        """All rows in one, also of a rank that has failed."""
        return {key: value for row in self.rows for key, value in row.items()}

    @property
    def error(self) -> str:
        """The PhloemError that it ended with: type and message."""
        assert self.code == REFUSED, f"exit code {self.code}; {self.rows}\n{self.err}"
        return f"{self.heard['error']}: {self.heard['message']}"


class Start(Protocol):
    """Starts ranks and waits for all of them."""

    def __call__(
        self,
        count: int,
        function: Callable[..., None],
        *,
        silent: Collection[int] = (),
        seconds: float = SECONDS,
        **options: Any,
    ) -> list[Ended]:
        """How each ended; those in `silent` are killed once the others have, all of them after `seconds`."""
        ...


class Forks:
    """The process that forks."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engines.torch.ranks"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._runs = 0

    def start(
        self,
        folder: Path,
        count: int,
        function: Callable[..., None],
        options: dict[str, Any],
        silent: Collection[int],
        seconds: float,
    ) -> list[Ended]:
        """As `Start`."""
        self._runs += 1
        meeting = f"meeting-{self._runs}"
        module = f"tests.engines.torch.{Path(function.__code__.co_filename).stem}"
        request = {
            "module": module,
            "function": function.__name__,
            "count": count,
            "folder": str(folder),
            "meeting": meeting,
            "options": options,
            "seconds": seconds,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        lines = self._lines()
        pids: list[int] = next(row for row in lines if row)["pids"]
        codes: dict[int, int] = {}
        limit = time.monotonic() + seconds + 5.0  # ranks say where they hang a little earlier
        while len(codes) < count:
            due = set(range(count)) - codes.keys() <= set(silent) or time.monotonic() > limit
            for rank, pid in enumerate(pids) if due else ():
                if rank not in codes:  # the process that forks has not reaped it: the number is its own still
                    os.kill(pid, signal.SIGKILL)
            row = next(lines)
            if row:
                codes[row["rank"]] = row["code"]
        return [self._ended(folder / f"{meeting}.{rank}", codes[rank]) for rank in range(count)]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What the process says; something empty every now and then."""
        assert self._process.stdout is not None
        rest = b""
        while True:
            while b"\n" in rest:
                line, _, rest = rest.partition(b"\n")
                yield json.loads(line)
            if select.select([self._process.stdout], [], [], 1.0)[0]:
                more = os.read(self._process.stdout.fileno(), 1 << 16)
                assert more, f"the process that forks has ended: {self._process.wait()}"
                rest += more
            elif rest == b"":
                yield {}

    @staticmethod
    def _ended(stem: Path, code: int) -> Ended:
        said = stem.with_name(stem.name + ".jsonl")
        rows = [json.loads(line) for line in said.read_text().splitlines()] if said.exists() else []
        return Ended(code, rows, stem.with_name(stem.name + ".err").read_text())

    def close(self) -> None:
        """Ends it; its ranks have ended before."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


# -- the process that forks ------------------------------------------------------------------------------------


def serve() -> int:
    """Forks ranks as it is told to; gives a rank's exit code in the rank."""
    for module in ("pytest", "hypothesis", "torch._dynamo", "phloem.torch"):  # DDP loads the third
        importlib.import_module(module)
    with contextlib.suppress(FileNotFoundError):
        assert len(os.listdir("/proc/self/task")) == 1, "a fork takes no threads along"
    gc.freeze()  # ranks end three times as fast
    for line in sys.stdin:
        request = json.loads(line)
        ranks = {}
        for rank in range(request["count"]):
            pid = os.fork()
            if pid == 0:
                return _be(rank, request)
            ranks[pid] = rank
        print(json.dumps({"pids": list(ranks)}), flush=True)
        while ranks:
            pid, status = os.wait()
            row = {"rank": ranks.pop(pid), "code": os.waitstatus_to_exitcode(status)}
            print(json.dumps(row), flush=True)
    return 0


def _be(rank: int, request: dict[str, Any]) -> int:
    here = Here(rank, request["count"], Path(request["folder"]), request["meeting"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    err = os.open(here.folder / f"{here.meeting}.{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((nothing, 0), (err, 1), (err, 2)):
        os.dup2(source, target)
    faulthandler.enable()
    faulthandler.dump_traceback_later(request["seconds"], exit=True)
    signal.alarm(int(request["seconds"]) + 60)  # if the test itself was killed
    warnings.simplefilter("error")
    from phloem.errors import PhloemError

    try:
        module = importlib.import_module(request["module"])
        getattr(module, request["function"])(here, **request["options"])
    except PhloemError as error:
        here.say(error=type(error).__name__, message=str(error), failed=time.monotonic())
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve())
