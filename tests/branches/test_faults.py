"""Processes killed at every touch of the disk, disks that are full, and many who work in one repository at once.

The deeds below are done in processes of their own, which are forked from one that has loaded everything. Each is done
over and over on copies of one repository, and stopped a touch of the disk later each time.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.branches.makers import model, tuned, written

from phloem.branches import keeping
from phloem.branches.catalog import Catalog
from phloem.branches.checking import fsck
from phloem.branches.collecting import gc
from phloem.branches.repacking import repack
from phloem.branches.repository import Repository
from phloem.branches.squashing import squash
from phloem.errors import ConfigError, StoreError

#: Large enough for a key-frame to lie in a file of its own.
SHAPES = {"embed.weight": (300, 300), "norm.weight": (300,)}


# -- what is done ------------------------------------------------------------------------------------------------------


def commit(repo: Repository, folder: Path) -> None:
    """Two commits: one with a small frame, one with a large."""
    for number, lossless in enumerate((False, True)):
        with contextlib.suppress(ConfigError):  # it was made before the process was killed
            given = tuned(model(0, SHAPES), 50 + number)
            repo.commit(written(folder / "next.safetensors", given), branch="clinic", lossless=lossless)


def branch(repo: Repository, folder: Path) -> None:
    """Names that are made, moved and removed."""
    repo.branch("new", "clinic~1", move=True)
    repo.tag("v2", "clinic")
    repo.switch("new")
    repo.switch("trunk")
    repo.remove_branch("new")


def collect(repo: Repository, folder: Path) -> None:
    """What has no name goes."""
    gc(repo, grace_seconds=0.0)
    assert gc(repo, grace_seconds=0.0).bytes == 0


def choose(repo: Repository, folder: Path) -> None:
    """Key-frames come, and go again."""
    repack(repo, tip_times=0.0)
    repack(repo, tip_times=1e9, most_times=1e9)


def one_commit(repo: Repository, folder: Path) -> None:
    """A branch without its history."""
    with contextlib.suppress(ConfigError):  # it was done before the process was killed
        squash(repo, "clinic", "trunk~1")


def combine(repo: Repository, folder: Path) -> None:
    """One pack of many."""
    keeping._MOST_SMALL = 1
    keeping.tidy(repo.folder, repo.objects)
    assert len(repo.folder.pack_names()) == 1


def mended(repo: Repository, folder: Path) -> None:
    """Damage that is put right from a copy."""
    with Repository.open(folder.parent / "template" / ".phloem") as whole:
        fsck(repo, repair_from=whole, rebuild_names=True)


DEEDS: dict[str, Callable[[Repository, Path], None]] = {
    one.__name__: one for one in (commit, branch, collect, choose, one_commit, combine, mended)
}


def template(folder: Path) -> Path:
    """A repository with branches, a tag, key-frames that are not needed, and commits that have no name."""
    with Repository.create(folder / ".phloem") as repo:
        state = model(0, SHAPES)
        repo.commit(written(folder / "next.safetensors", state))
        repo.commit(written(folder / "next.safetensors", tuned(state, 9)), bits=1.0)
        repo.tag("v1")
        for name, bits in (("clinic", 1.0), ("gone", None)):
            repo.branch(name)
            for number in range(2):
                state = tuned(state, number)
                path = written(folder / "next.safetensors", state)
                repo.commit(path, branch=name, bits=bits, lossless=bits is None)
        repo.remove_branch("gone", force=True)
    return folder / ".phloem"


def damage(root: Path) -> None:
    """Bit rot in a pack, in a frame and in the names."""
    for path in [*sorted(root.glob("packs/*"))[:1], *sorted(root.glob("frames/*/*"))[:1], root / "refs.json"]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


# -- how it is stopped -------------------------------------------------------------------------------------------------

TOUCHES = {
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.remove",
    "os.truncate",
    "os.utime",
    "sqlite3.connect",
}
#: What takes space; and how a process says that it did all it had to, though there was none.
FULL, ANYWAY, NO_SPACE = False, 8, 7
FILLING = {"os.mkdir", "os.link", "open", "fsync"}


def armed(left: int, stop: Callable[[str], None]) -> None:
    """From the touch of the disk on that comes after so many others, `stop` is called at each."""

    def touch(event: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            stop(event)

    def count(event: str, details: Any) -> None:
        if event == "open":
            if isinstance(details[2], int) and details[2] & os.O_ACCMODE:
                touch(event)
        elif event in TOUCHES:
            touch(event)

    fsync, connected = os.fsync, Catalog._connected

    def synced(descriptor: int) -> None:
        touch("fsync")
        fsync(descriptor)

    def traced(path: str) -> sqlite3.Connection:
        found = connected(path)
        found.set_trace_callback(lambda statement: touch("sqlite"))
        return found

    os.fsync = synced
    Catalog._connected = staticmethod(traced)  # type: ignore[method-assign]
    sys.addaudithook(count)


def kill(event: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(event: str) -> None:
    global FULL
    if event in FILLING:
        FULL = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forked(work: Callable[[], None]) -> int:
    """Does something in a process of its own; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = ANYWAY if FULL else 0
        except StoreError as error:
            code = NO_SPACE if "No space" in str(error) else 1
        finally:
            if code == 1:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def check(root: Path) -> None:
    """Every name leads to a whole commit whose state is restored, whatever happened."""
    with Repository.open(root) as repo:
        found = fsck(repo, deep=True)
        wrong = [one for one in found.findings if one.severity in ("damaged", "missing")]
        assert not wrong, wrong
        assert {"trunk", "clinic"} <= repo.refs.branches.keys()
        assert "v1" in repo.refs.tags


def stopped(name: str, folder: Path, stop: Callable[[str], None], step: int = 1) -> int:
    """Does a deed until it is done before it is stopped; gives how often it was stopped."""
    deed = DEEDS[name]
    made = folder / "template" / ".phloem"
    for times, left in enumerate(itertools.count(0, step)):
        root = folder / f"{name}-{left}" / ".phloem"
        shutil.copytree(made, root)
        if deed is mended:
            damage(root)

        def work(root: Path = root, left: int = left) -> None:
            with Repository.open(root) as repo:
                armed(left, stop)
                deed(repo, root.parent)

        def after(root: Path = root) -> None:
            if deed is mended:
                with Repository.open(root) as repo:
                    deed(repo, root.parent)
            check(root)
            with Repository.open(root) as repo:
                deed(repo, root.parent)
                check(root)
                gc(repo, grace_seconds=0.0)
            check(root)
            assert not list((root / "tmp").glob("[!.]*"))

        code = forked(work)
        if code not in (0, -9, NO_SPACE, ANYWAY) or forked(after):
            raise AssertionError(f"{name}, stopped after {left} touches: {code}")
        shutil.rmtree(root.parent)
        if not code:
            return times
    raise AssertionError


def run(folder: Path, how: str, names: list[str], step: int = 1) -> dict[str, int]:
    code = (
        f"import sys, json; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from tests.branches import test_faults as faults\n"
        f"folder = Path({str(folder)!r})\n"
        f"stop = faults.{how}\n"
        f"print(json.dumps({{name: faults.stopped(name, folder, stop, {step}) for name in {names!r}}}))\n"
    )
    template(folder / "template")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_commit_that_is_killed_leaves_everything_as_it_was_or_is_made(tmp_path: Path) -> None:
    assert run(tmp_path, "kill", ["commit", "branch"], step=23).keys() == {"commit", "branch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEEDS))
def test_killed_at_any_touch_of_the_disk_nothing_is_lost(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, "kill", [name])[name] > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEEDS))
def test_a_disk_that_is_full_from_any_moment_on_is_said_and_nothing_is_lost(
    tmp_path: Path, name: str
) -> None:
    assert run(tmp_path, "fill", [name])[name] > 5
