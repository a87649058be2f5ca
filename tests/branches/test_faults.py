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
from tests.tiny import ROOT

from phloem.branches import keeping
from phloem.branches.catalog import Catalog
from phloem.branches.checking import fsck
from phloem.branches.collecting import gc
from phloem.branches.repacking import repack
from phloem.branches.repository import Repository
from phloem.branches.squashing import squash
from phloem.errors import ConfigError, ConflictError, NotFoundError, PhloemError, StateError, StoreError

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
    assert len(repo.folder.pack_names()) == 1 or FULL


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
        with repo.folder.locked():  # packs with both in them, and others
            keeping.combine(repo.folder, repo.objects, repo.objects.catalog.pack_names()[1:-1])
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
#: Within a transaction one moment is as good as another.
_STATEMENTS = ("BEGIN", "COMMIT", "CREATE", "PRAGMA journal", "PRAGMA user_version =")
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
        if path != ":memory:":
            found.set_trace_callback(lambda said: touch("sqlite") if said.startswith(_STATEMENTS) else None)
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
        except PhloemError as error:
            code = NO_SPACE if "No space" in str(error) else 1
        finally:
            if code == 1:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def check(root: Path, *, deep: bool = False) -> None:
    """Every name leads to a whole commit whose state is restored, whatever happened."""
    with Repository.open(root) as repo:
        found = fsck(repo, deep=deep)
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
            armed(left, stop)
            with Repository.open(root) as repo:
                deed(repo, root.parent)

        def after(root: Path = root) -> None:
            if deed is mended:
                with Repository.open(root) as repo:
                    deed(repo, root.parent)
            check(root, deep=True)
            with Repository.open(root) as repo:
                deed(repo, root.parent)
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
        f"import sys, json; sys.path[:] = {[str(ROOT), *sys.path]!r}\n"
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
    assert run(tmp_path, "kill", ["commit", "branch"], step=37).keys() == {"commit", "branch"}


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


# -- many at once ------------------------------------------------------------------------------------------------------


def committer(root: Path, name: str, seed: int, count: int) -> list[str]:
    """Makes commits on a branch, again when others were faster; gives those that were reported as made."""
    made, number = [], 0
    folder = root.parent / f"{name}-{seed}"
    folder.mkdir()
    with Repository.open(root) as repo:
        while len(made) < count:
            path = written(folder / "model.safetensors", tuned(model(), 1000 * seed + number))
            number += 1
            try:
                made.append(repo.commit(path, branch=name, bits=1.0, message=f"{seed} {number}").digest)
            except (ConflictError, StateError):  # moved meanwhile; or taken by a gc that allows for no grace
                continue
    return made


def keeper(root: Path, stop: Path) -> int:
    """Combines, collects and chooses until it is told to stop; gives how often it did all of it."""
    keeping._MOST_SMALL = 2
    for times in itertools.count():
        if stop.exists():
            return times
        with Repository.open(root) as repo:
            keeping.tidy(repo.folder, repo.objects)
            try:
                gc(repo, grace_seconds=0.0)
                repack(repo, tip_times=0.0 if times % 2 else 1e9, most_times=2.0 if times % 2 else 1e9)
            except (StateError, NotFoundError) as error:  # a branch may move while it is looked at
                print(error, file=sys.stderr)
    raise AssertionError


def reader(root: Path, stop: Path) -> int:
    """Reads histories and states until it is told to stop; gives how many states it saw."""
    seen = 0
    with Repository.open(root) as repo:
        while not stop.exists():
            for name in sorted(repo.refs.branches):
                history = list(repo.log(name))
                assert history[-1].kind == "import"
                assert all(left.parents == (right.digest,) for left, right in itertools.pairwise(history))
                with repo.restored(name) as state:
                    assert sum(1 for _ in state.iterate()) == 4
                seen += 1
    return seen


ROLES = {one.__name__: one for one in (committer, keeper, reader)}


def start(role: str, *words: object) -> subprocess.Popen[str]:
    code = (
        f"import sys, json; sys.path[:] = {[str(ROOT), *sys.path]!r}\n"
        "from pathlib import Path\n"
        "from tests.branches import test_faults as faults\n"
        f"print(json.dumps(faults.ROLES[{role!r}](*[{', '.join(map(_written, words))}])))\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _written(word: object) -> str:
    return f"Path({str(word)!r})" if isinstance(word, Path) else repr(word)


def ended(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-4000:]
    return json.loads(out)


def together(tmp_path: Path, sharing: int, alone: int, count: int) -> None:
    root, stop = tmp_path / ".phloem", tmp_path / "stop"
    with Repository.create(root) as repo:
        repo.commit(written(tmp_path / "model.safetensors", model()))
        repo.branch("shared")
        for number in range(alone):
            repo.branch(f"own-{number}")
    beside = [start("keeper", root, stop), start("reader", root, stop)]
    works = [("shared", start("committer", root, "shared", 1 + n, count)) for n in range(sharing)]
    works += [(f"own-{n}", start("committer", root, f"own-{n}", 100 + n, count)) for n in range(alone)]
    try:
        made = [(name, ended(process)) for name, process in works]
    finally:
        stop.touch()
        seen = [process.communicate(timeout=600) for process in beside]
    for process, (_, err) in zip(beside, seen, strict=True):
        assert process.returncode == 0, err[-4000:]
    assert all(json.loads(out) > 0 for out, _ in seen)
    with Repository.open(root) as repo:
        for name, digests in made:
            assert set(digests) <= {entry.digest for entry in repo.log(name)}
            assert len(digests) == count
        assert len(list(repo.log("shared"))) == sharing * count + 1
        found = fsck(repo, deep=True)
        assert found.whole, found.findings


def test_two_who_commit_to_one_branch_while_a_third_collects_lose_nothing(tmp_path: Path) -> None:
    together(tmp_path, 2, 0, 3)


@pytest.mark.slow
def test_many_who_commit_read_collect_and_repack_at_once_lose_nothing(tmp_path: Path) -> None:
    together(tmp_path, 4, 4, 12)


# -- where nothing can be written ------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = template(tmp_path)
    for path in root.glob("catalog.db*"):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    opened, connected = os.open, sqlite3.connect

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(root) in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *rest, **named)

    def unwritable(path: str, **options: Any) -> sqlite3.Connection:
        return connected(
            path if path == ":memory:" else f"file:{path}?mode=ro", uri=path != ":memory:", **options
        )

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(sqlite3, "connect", unwritable)
    with Repository.open(root) as repo:
        assert len(list(repo.log("clinic"))) == 4
        assert repo.show("v1").kind == "update"
        assert sum(1 for _ in repo.restored("clinic~1").iterate()) == 2
        repo.checkout("clinic", tmp_path / "out.safetensors")
        assert fsck(repo, deep=True).whole
        assert gc(repo, dry_run=True, grace_seconds=0.0).commits == 2
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_directory_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    root = template(tmp_path)
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        with Repository.open(root) as repo:
            assert fsck(repo, deep=True).whole
            for deed in (
                lambda: repo.branch("new"),
                lambda: gc(repo),
                lambda: repack(repo),
                lambda: repo.commit(tmp_path / "next.safetensors"),
            ):
                with pytest.raises(StoreError, match="could not be written"):
                    deed()
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


def test_an_object_that_the_disk_cannot_read_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = template(tmp_path)
    with Repository.open(root) as repo:
        frame = repo.restored("clinic").chain[-1].frame
        [(name, row)] = repo.objects.catalog.places(frame)
        inode = (root / "packs" / f"{name}.pack").stat().st_ino
        pread = os.pread

        def failing(descriptor: int, size: int, offset: int) -> bytes:
            if os.fstat(descriptor).st_ino == inode and offset <= row.offset + 50 < offset + size:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pread(descriptor, size, offset)

        monkeypatch.setattr(os, "pread", failing)
        found = fsck(repo)
        assert {(one.kind, one.digest) for one in found.findings if one.severity == "damaged"} == {
            ("frame", frame)
        }
        assert sum(1 for _ in repo.restored("clinic~1").iterate()) == 2
        with pytest.raises(PhloemError, match="fsck"):
            repo.restored("clinic")
