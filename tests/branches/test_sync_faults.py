"""Push and pull as real processes: killed at any touch of a disk or a server, several at once, and servers that die."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.branches.test_bucket import S3, filled, s3_test, same_states, serving

from phloem.branches.repository import Repository
from phloem.branches.sync import clone, push
from phloem.errors import StoreError
from phloem.store.urls import UrlStore


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


# One process that only imports, and forks another for each try: the first is killed at its n-th touch, the second finds
# both sides whole and does it again.
KILLED = """
import os, signal, sys
sys.path[:] = {path!r}
what, here, places, first, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
from pathlib import Path
from phloem.branches import receiving, restore, sync
from phloem.branches.repository import Repository
from phloem.errors import ConfigError
from phloem.files import writing
from phloem.store.urls import UrlStore
if places.startswith("s3:"):
    import s3fs, aiobotocore.session
receiving._PIECE_BYTES = 100_000
left = None

def touch(*_):
    global left
    if left is not None:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def count(event, details):
    if event in ("os.rename", "os.mkdir", "os.link", "open", "sqlite3.connect", "os.remove"):
        if event == "open" and not (isinstance(details[2], int) and details[2] & os.O_ACCMODE):
            return
        if event == "open" and isinstance(details[0], str) and details[0].startswith("/dev/"):
            return
        touch()

sys.addaudithook(count)

def counted(method):
    def wrapper(*rest, **more):
        touch()
        return method(*rest, **more)
    return wrapper

for name in ("read", "read_many", "size", "listing", "everything", "put", "upload", "create", "remove"):
    setattr(UrlStore, name, counted(getattr(UrlStore, name)))

def check(where, *, whole):
    # All that names lead to is there, and gives the right bits.
    try:
        far = Repository.open(where)
    except ConfigError as error:
        assert not whole and "there is no repository" in str(error), error
        return
    with far:
        heads = set(far.refs.branches.values())
        assert not whole or heads, "the names have not moved"
        for entry in far.log(everything=True):
            for _ in restore.Restored(far.objects, entry.state).iterate():
                pass

def work(number):
    if what == "push":
        with Repository.open(here) as repo:
            sync.push(repo, f"{{places}}/{{number}}")
    else:
        sync.clone(here, f"{{places}}/{{number}}").close()

def forked(function):
    child = os.fork()
    if not child:
        code = 1
        try:
            function()
            code = 0
        except BaseException as error:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def killed(number):
    global left
    left = number
    work(number)

def again(number):
    check(f"{{places}}/{{number}}", whole=False)
    check(here, whole=True)
    work(number)
    check(f"{{places}}/{{number}}", whole=True)

number = first
while True:
    code = forked(lambda: killed(number))
    assert code in (0, -9), code
    assert forked(lambda: again(number)) == 0, f"after touch {{number}}"
    if code == 0:
        break
    number += step
print("touches", number)
"""


def killed_at_every_touch(what: str, here: str, places: str, first: int = 0, step: int = 1) -> int:
    """Does something, killed at any touch, and once more; gives how many touches there are."""
    command = [sys.executable, "-c", KILLED.format(path=sys.path), what, here, places, str(first), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_a_push_to_a_directory_is_killed_at_any_touch_and_done_again(tmp_path: Path) -> None:
    filled(tmp_path / "here", 2, size=320).close()
    (tmp_path / "places").mkdir()
    assert killed_at_every_touch("push", f"{tmp_path}/here", f"{tmp_path}/places") > 20


@pytest.mark.slow
def test_a_clone_of_a_directory_is_killed_at_any_touch_and_done_again(tmp_path: Path) -> None:
    filled(tmp_path / "here", 2, size=320).close()
    (tmp_path / "places").mkdir()
    assert killed_at_every_touch("pull", f"{tmp_path}/here", f"{tmp_path}/places") > 20


@pytest.mark.parametrize("what", ["push", "pull"])
def test_one_that_is_killed_now_and_then_is_done_again(what: str, tmp_path: Path) -> None:
    """The two above at every ninth touch."""
    filled(tmp_path / "here", 2, size=320).close()
    (tmp_path / "places").mkdir()
    assert killed_at_every_touch(what, f"{tmp_path}/here", f"{tmp_path}/places", 3, 9) > 20


@pytest.mark.slow
@s3_test
def test_a_push_to_s3_is_killed_at_any_touch_and_done_again(s3: S3, tmp_path: Path) -> None:
    filled(tmp_path / "here", 2, size=320).close()
    assert killed_at_every_touch("push", f"{tmp_path}/here", s3.bucket()) > 15


@pytest.mark.slow
@s3_test
def test_a_clone_from_s3_is_killed_at_any_touch_and_done_again(s3: S3, tmp_path: Path) -> None:
    where = s3.bucket()
    with filled(tmp_path / "here", 2, size=320) as repo:
        push(repo, where)
    (tmp_path / "places").mkdir()
    assert killed_at_every_touch("pull", where, f"{tmp_path}/places") > 30


# -- several at once -----------------------------------------------------------------------------------------

PUSHER = """
import sys
sys.path[:] = {path!r}
where, root, number, branch = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
from pathlib import Path
from phloem.branches.sync import clone, pull, push
from phloem.errors import ConfigError, ConflictError
from tests.branches.test_bucket import write_model
with clone(where, Path(root) / ".phloem") as repo:
    if branch not in repo.refs.branches:
        repo.branch(branch)
    print("ready", flush=True)
    sys.stdin.readline()
    late = 0
    for step in range(5):
        seed = 1000 * (number + 1) + step
        model = write_model(Path(root) / "model.safetensors", seed)
        while True:
            repo.commit(model, branch=branch, message=f"{{number}}-{{step}}")
            try:
                push(repo, "origin", [branch])
                break
            except (ConfigError, ConflictError) as error:
                assert "merge" in str(error), error
                late += 1
                pulled = pull(repo, "origin")
                assert pulled.diverged == (branch,)
                repo.branch(branch, f"origin/{{branch}}", move=True)  # the commit is made again, on top of theirs
    print("late", late)
"""


def pushers(where: str, root: Path, branches: list[str]) -> int:
    """Starts a process for each branch, all at once; gives how often one was late."""
    running = []
    for number, branch in enumerate(branches):
        (root / str(number)).mkdir()
        command = [
            sys.executable,
            "-c",
            PUSHER.format(path=sys.path),
            where,
            f"{root}/{number}",
            str(number),
            branch,
        ]
        running.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        )
    late = 0
    for process in running:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said == "ready\n", process.communicate()[1][-3000:]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        out, err = process.communicate()
        assert process.returncode == 0, err[-3000:]
        late += int(out.split()[-1])
    return late


@pytest.mark.slow
@s3_test
def test_four_who_push_four_branches_to_s3_at_once_all_win(s3: S3, tmp_path: Path) -> None:
    where = s3.bucket()
    with filled(tmp_path / "here", 1) as repo:
        push(repo, where)
    assert pushers(where, tmp_path, ["a", "b", "c", "d"]) == 0
    with clone(where, tmp_path / "last") as copy, Repository.open(where) as far:
        assert copy.refs.branches.keys() == {"trunk", "a", "b", "c", "d"}
        for number, branch in enumerate("abcd"):
            subjects = [entry.subject for entry in copy.log(branch)]
            assert subjects == [f"{number}-{step}" for step in reversed(range(5))] + ["0.safetensors"]
            same_states(copy, far, tmp_path, branch)
    assert max(s3.sizes(where, "refs")) == "refs/00000021.json"


@pytest.mark.slow
@s3_test
def test_four_who_push_one_branch_to_s3_at_once_lose_nothing(s3: S3, tmp_path: Path) -> None:
    where = s3.bucket()
    with filled(tmp_path / "here", 1) as repo:
        push(repo, where)
    late = pushers(where, tmp_path, ["trunk"] * 4)
    with clone(where, tmp_path / "last") as copy, Repository.open(where) as far:
        subjects = Counter(entry.subject for entry in copy.log())
        wanted = {f"{number}-{step}" for number in range(4) for step in range(5)} | {"0.safetensors"}
        assert subjects == dict.fromkeys(wanted, 1)
        same_states(copy, far, tmp_path)
    # Every move of the names is one commit: a late one moved nothing.
    assert max(s3.sizes(where, "refs")) == "refs/00000021.json"
    assert late > 0


@pytest.mark.slow
def test_four_who_push_one_branch_to_a_directory_at_once_lose_nothing(tmp_path: Path) -> None:
    where = f"{tmp_path}/far"
    with filled(tmp_path / "here", 1) as repo:
        push(repo, where)
    pushers(where, tmp_path, ["trunk"] * 4)
    with Repository.open(where) as far:
        subjects = Counter(entry.subject for entry in far.log())
        assert subjects == dict.fromkeys(
            {f"{number}-{step}" for number in range(4) for step in range(5)} | {"0.safetensors"}, 1
        )


# -- servers that die ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("puts", [0, 1, 2, 3])
@s3_test
def test_a_server_that_dies_in_the_middle_of_a_push_is_said_and_it_is_done_again(
    puts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server, filled(tmp_path / "here", 2, size=320) as repo:
        where = server.bucket()
        done = 0

        def dying(method: str) -> None:
            original = getattr(UrlStore, method)

            def wrapper(self: UrlStore, *rest: object) -> object:
                nonlocal done
                if done == puts:
                    server.stop()
                done += 1
                return original(self, *rest)

            monkeypatch.setattr(UrlStore, method, wrapper)

        with monkeypatch.context():
            for method in ("put", "create"):
                dying(method)
            with pytest.raises(
                StoreError, match=r"s3://.* cannot be (read|written): no connection to the server"
            ):
                push(repo, where)
        monkeypatch.undo()
        with serving() as again:  # another server with the same buckets
            before = sum(again.sizes(where, "frames").values())
            pushed = push(repo, where)
            assert pushed.bytes + before == sum(again.sizes(where, "packs").values()) + sum(
                again.sizes(where, "frames").values()
            )
            assert (before > 0) == (puts >= 3)
            with clone(where, tmp_path / "copy") as copy:
                same_states(repo, copy, tmp_path)


@pytest.mark.slow
@s3_test
def test_a_server_that_dies_in_the_middle_of_a_pull_is_said_and_it_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server, filled(tmp_path / "here", 2, size=320) as repo:
        where = server.bucket()
        push(repo, where)
        monkeypatch.setattr("phloem.branches.receiving._PIECE_BYTES", 50_000)
        monkeypatch.setattr("phloem.branches.ranges.WHOLE_BYTES", 1000)
        monkeypatch.setattr("phloem.branches.ranges._PAGE_BYTES", 1000)
        read, asked = UrlStore.read, []

        def dying(self: UrlStore, path: str, *rest: int) -> bytes:
            if path.startswith("frames/"):
                asked.append(rest)
                if len(asked) == 4:
                    server.stop()
            return read(self, path, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(UrlStore, "read", dying)
            with pytest.raises(
                StoreError, match=r"s3://.*/frames/.* cannot be read: no connection to the server"
            ):
                clone(where, tmp_path / "copy")
        (part,) = (tmp_path / "copy" / "tmp").iterdir()
        assert part.stat().st_size == 150_000
        with serving(), clone(where, tmp_path / "copy") as copy:
            same_states(repo, copy, tmp_path)
            assert not part.exists()


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    """The other directory's disk is full at any file that is written there."""
    script = """
import errno, os, sys
sys.path[:] = {path!r}
from phloem.branches.repository import Repository
from phloem.branches.sync import push
from phloem.errors import StoreError
left = int(sys.argv[3])
original = os.open
def full(path, flags, *rest, **more):
    global left
    if sys.argv[2] in str(path) and flags & os.O_ACCMODE:
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return original(path, flags, *rest, **more)
os.open = full
with Repository.open(sys.argv[1]) as repo:
    try:
        push(repo, sys.argv[2])
        print("done")
    except StoreError as error:
        assert "No space left on device" in str(error) and "free some space" in str(error), error
        print("full")
"""
    with filled(tmp_path / "here", 1, size=320) as repo:
        for number in range(12):
            where = f"{tmp_path}/far-{number}"
            command = [
                sys.executable,
                "-c",
                script.format(path=sys.path),
                f"{tmp_path}/here",
                where,
                str(number),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.stdout in ("full\n", "done\n"), done.stderr
            push(repo, where)
            with Repository.open(where) as far:
                assert far.resolve("trunk") == repo.resolve("trunk")
            if done.stdout == "done\n":
                break
        assert number > 2
