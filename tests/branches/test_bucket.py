"""A repository in a store of objects: what lies there, how it is read, and how its names move without a lock.

Helpers of the tests of push and pull are here as well: small models, and a local S3 server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from phloem import canonical
from phloem.branches import packs
from phloem.branches.bucket import Bucket
from phloem.branches.folder import Folder
from phloem.branches.numbered import KEPT, Numbered, Version
from phloem.branches.ranges import Pages, Remote
from phloem.branches.refs import Refs
from phloem.branches.repository import Repository
from phloem.branches.sync import push
from phloem.errors import ConfigError, ConflictError, FormatError, NotFoundError, StateError, StoreError
from phloem.store.urls import UrlStore

pytest.importorskip("fsspec")
NUMBERS = itertools.count()
COMMIT = "c" * 64


def elsewhere() -> str:
    """An empty place in memory."""
    return f"memory://bucket-{next(NUMBERS)}/models"


def write_model(path: Path, seed: int, size: int = 64) -> Path:
    """A model whose values stay near those of seed 0, as fine-tuned ones do."""
    base = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    change = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    save_file({"layer": base + np.float32(1e-3 * (seed > 0)) * change, "bias": change[0]}, path)
    return path


def grow(repo: Repository, seeds: Iterable[int], branch: str | None = None, size: int = 64) -> list[str]:
    """Commits a model for each seed, and gives the commits."""
    folder = repo.folder.root.parent
    return [
        repo.commit(write_model(folder / f"{seed}.safetensors", seed, size), branch=branch).digest
        for seed in seeds
    ]


def filled(root: Path, commits: int = 3, size: int = 64) -> Repository:
    root.mkdir(parents=True, exist_ok=True)
    repo = Repository.create(root / ".phloem")
    grow(repo, range(commits), size=size)
    return repo


def tensors(repo: Repository, text: str, out: Path) -> dict[str, np.ndarray[Any, Any]]:
    repo.checkout(text, out)
    found: dict[str, np.ndarray[Any, Any]] = load_file(out)
    return found


def same_states(one: Repository, other: Repository, tmp_path: Path, text: str = "trunk") -> None:
    """Every commit of a branch gives the same bits in both."""
    assert list(one.log(text)) == list(other.log(text))
    for entry in one.log(text):
        mine = tensors(one, entry.digest, tmp_path / "mine.safetensors")
        theirs = tensors(other, entry.digest, tmp_path / "theirs.safetensors")
        assert {name: raw.tobytes() for name, raw in mine.items()} == {
            n: raw.tobytes() for n, raw in theirs.items()
        }


class S3:
    """A local S3 server. It answers one request at a time, so that what it finds out and what it writes are one step.

    (moto looks first and writes then: of its threads two may both find that there is no object.)
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self._application = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.creates_over = False  # takes no notice of If-None-Match, as old servers do not
        self.asked: list[tuple[str, str]] = []
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with self._lock:
            self.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            if self.creates_over:
                environ.pop("HTTP_IF_NONE_MATCH", None)
            return list(self._application(environ, start_response))

    def bucket(self) -> str:
        """A new bucket, and a prefix in it."""
        import s3fs

        name = f"bucket-{next(NUMBERS)}"
        s3fs.S3FileSystem().mkdir(name)
        return f"s3://{name}/some/models"

    def sizes(self, url: str, under: str = "") -> dict[str, int]:
        """What the server holds there."""
        import s3fs

        system = s3fs.S3FileSystem()
        system.invalidate_cache()
        found = system.find(f"{url}/{under}", detail=True)
        start = url.removeprefix("s3://") + "/"
        return {name.removeprefix(start): one["size"] for name, one in found.items()}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving() -> Iterator[S3]:
    """A server that s3fs finds."""
    import s3fs

    server = S3()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in server.environment.items():
            patched.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield server
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            with contextlib.suppress(OSError):
                server.stop()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


S3_TEST = (
    pytest.mark.service("s3"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
)


def s3_test(function: Any) -> Any:
    """Marks what needs the server; botocore and aiohttp warn of things that are not ours."""
    for mark in S3_TEST:
        function = mark(function)
    return function


def with_branch(name: str, commit: str = COMMIT) -> Any:
    return lambda refs: refs.with_branch(name, commit)


# -- what lies there -----------------------------------------------------------------------------------------


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path, size=320) as repo:
        push(repo, where)
        grow(repo, [7], size=320)
        push(repo, where)
    store = UrlStore(where)
    found = store.everything("")
    assert json.loads(store.read("phloem.json")) == {"format": "phloem repository", "version": 1}
    assert sorted(name for name in found if name.startswith("refs/")) == [
        "refs/00000001.json",
        "refs/00000002.json",
    ]
    assert len([name for name in found if name.startswith("packs/")]) == 2
    for name in (name for name in found if name.startswith("packs/")):
        assert packs.index(Bucket(where).pack(name[6:70]), name[6:70])
    large = [name for name in found if name.startswith("frames/")]
    assert large
    for name in large:
        assert canonical.digest(store.read(name)) == name.removeprefix("frames/").replace("/", "")
    assert len(found) == 1 + 2 + 2 + len(large)
    newest = canonical.loads(store.read("refs/00000002.json"))
    assert newest["before"] == [canonical.digest(store.read("refs/00000001.json"))]
    assert set(newest) == {"before", "names", "number", "version"}


def test_a_repository_elsewhere_is_read_without_a_copy_of_it(tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path, size=320) as repo:
        repo.branch("clinic")
        grow(repo, [9], "clinic", size=320)
        push(repo, where, ["trunk", "clinic"])
        with Repository.open(where) as far:
            same_states(repo, far, tmp_path, "clinic")
            assert far.show("clinic~1") == repo.show("trunk")
            assert far.refs.branches == repo.refs.branches
            with pytest.raises(ConfigError, match="commits are made in a directory"):
                far.commit(tmp_path / "0.safetensors")


def test_a_copy_of_a_directory_is_read_and_not_pushed_to(tmp_path: Path) -> None:
    with filled(tmp_path, size=320) as repo:
        where = elsewhere()
        store = UrlStore(where)
        for path in repo.folder.root.rglob("*"):
            if path.is_file():
                store.put(str(path.relative_to(repo.folder.root)), path.read_bytes())
        for url in (where, f"file://{repo.folder.root}"):
            with Repository.open(url) as far:
                same_states(repo, far, tmp_path)
        repo.branch("other", "trunk~1")
        with pytest.raises(ConfigError, match="a copy of a repository's directory, which can only be read"):
            push(repo, where, ["other"])


def test_what_is_no_repository_is_refused_in_words(tmp_path: Path) -> None:
    where = elsewhere()
    with pytest.raises(ConfigError, match=r"there is no repository at memory://bucket-\d+/models"):
        Repository.open(where)
    store = UrlStore(where)
    store.put("something", b"else")
    with filled(tmp_path, 1) as repo, pytest.raises(ConfigError, match="there is something else at"):
        push(repo, where)
    store.put("phloem.json", b'{"format":"phloem repository","version":9}')
    with pytest.raises(StateError, match="is of version 9, this is version 1"):
        Bucket(where)
    store.put("phloem.json", b'{"format":"something","version":1}')
    with pytest.raises(ConfigError, match="is of something else"):
        Bucket(where)
    store.put("phloem.json", b"\xff{")
    with pytest.raises(StateError, match="it is no JSON"):
        Bucket(where)
    with pytest.raises(ConfigError, match="a web server does not list what it has"):
        Repository.open("https://example.org/models")
    with pytest.raises(ConfigError, match="no URL of a store that fsspec knows"):
        Repository.open("nothing://of/the/kind")


def test_a_store_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match=r"ftp://127.0.0.1:\d+/models cannot be reached: Connection refused"):
        Repository.open(f"ftp://me:secret@127.0.0.1:{port}/models")


def test_a_store_that_may_leave_half_an_object_is_not_written_to(tmp_path: Path) -> None:
    bucket = Bucket(f"file://{tmp_path}/bucket", new=True)
    with pytest.raises(ConfigError, match=r"can only be read: file may leave half .*push to a directory"):
        bucket.add_pack([(packs.FILE, b"content")])
    assert not (tmp_path / "bucket").exists()


def test_no_message_says_a_password_or_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    url = f"memory://me:secret@bucket-{next(NUMBERS)}/models?token=secret#secret"
    with filled(tmp_path, 1) as repo:
        assert "secret" not in str(push(repo, url))

        def refuse(self: object, path: str, *rest: object, **more: object) -> bytes:
            raise RuntimeError(f"https://store/{path}?signature=secret was refused")

        for name in ("cat_file", "pipe_file", "ls", "find", "info"):
            with monkeypatch.context() as patched:
                patched.setattr(memory.MemoryFileSystem, name, refuse)
                grow(repo, [next(NUMBERS)])
                with pytest.raises(StoreError) as caught:
                    (push(repo, url), Bucket(url).frames())
                assert "secret" not in str(caught.value)
                assert "memory://bucket" in str(caught.value)


# -- blobs ---------------------------------------------------------------------------------------------------


def test_ranges_are_those_of_the_object_whatever_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phloem.branches.ranges._PAGE_BYTES", 16)
    for size in (0, 5, 40, 200):
        content = np.random.default_rng(size).bytes(size)
        asked: list[tuple[int, int]] = []

        def fetch(path: str, start: int, end: int, content: bytes = content, asked: Any = asked) -> bytes:
            asked.append((start, end))
            return content[start:end]

        for whole in (40, 100):
            monkeypatch.setattr("phloem.branches.ranges.WHOLE_BYTES", whole)
            blob = Remote("a", size, "the pack a", fetch, Pages(64))
            asked.clear()
            for offset in range(0, size + 1, 3):
                for many in (0, 1, 7, 15, 16, 50):
                    if offset + many <= size:
                        assert blob.read(offset, many) == content[offset : offset + many]
                    else:
                        with pytest.raises(StoreError, match="the pack a ends before byte"):
                            blob.read(offset, many)
            if 0 < size <= whole and size <= 64:
                assert asked == [(0, size)]  # read once, whole


def test_what_is_remembered_has_a_limit() -> None:
    pages = Pages(100)
    for number in range(50):
        pages.put("a", bytes(30), number)
    assert [number for number in range(50) if pages.get("a", number) is not None] == [47, 48, 49]
    pages.put("a", bytes(90), 49)
    assert pages.get("a", 48) is None


def test_an_object_of_another_size_than_its_place_says_is_not_taken(tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path, 1) as repo:
        push(repo, where)
    bucket = Bucket(where)
    name = bucket.pack_names()[0]
    UrlStore(where).put(f"packs/{name}.pack", b"short")
    with pytest.raises(StoreError, match="has another size than its place says"):
        bucket.pack(name).read(0, 100)
    assert Bucket(where).pack(name).size == 5
    UrlStore(where).remove(f"packs/{name}.pack")
    with pytest.raises(NotFoundError):
        bucket.pack(name).read(0, 100)
    with pytest.raises(NotFoundError):
        Bucket(where).pack(name)
    with pytest.raises(NotFoundError):
        bucket.frame("a" * 64)
    for path in ("../../etc/passwd", "A" * 64, ""):
        with pytest.raises(FormatError):
            bucket.frame(path)
        with pytest.raises(FormatError):
            bucket.pack(path)


def test_names_in_a_listing_that_are_none_of_ours_are_not_looked_at(tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path, 1) as repo:
        push(repo, where)
    store, before = UrlStore(where), Bucket(where).pack_names()
    for name in (
        "packs/..pack",
        "packs/" + "A" * 64 + ".pack",
        f"packs/{COMMIT}.pack.part",
        f"packs/x/{COMMIT}.pack",
    ):
        store.put(name, b"x")
    for name in ("frames/ab/short", f"frames/abc/{COMMIT[:61]}", f"frames/{COMMIT}"):
        store.put(name, b"x")
    for name in ("refs/9.json", "refs/000000099.json", "refs/00000099.json.part", "refs/0000009a.json"):
        store.put(name, b"x")
    bucket = Bucket(where)
    assert (bucket.pack_names(), bucket.frames()) == (before, {})
    assert bucket.refs().branches.keys() == {"trunk"}


def test_more_packs_than_any_repository_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    for number in range(4):
        bucket.add_pack([(packs.FILE, b"%d" % number)])
    monkeypatch.setattr("phloem.branches.bucket._MOST_PACKS", 3)
    with pytest.raises(FormatError, match="lists 4 packs, more than any repository has"):
        bucket.pack_names()


def test_many_small_packs_are_fetched_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    where = elsewhere()
    bucket = Bucket(where, new=True)
    names = sorted(bucket.add_pack([(packs.FILE, b"%d" % number)]) for number in range(100))
    asked: list[int] = []
    many = memory.MemoryFileSystem.cat_ranges

    def counted(self: object, paths: list[str], *rest: object, **more: object) -> object:
        asked.append(len(paths))
        return many(self, paths, *rest, **more)

    monkeypatch.setattr(memory.MemoryFileSystem, "cat_ranges", counted)
    far = Bucket(where)
    assert sorted(far.pack_names()) == names
    for name in names:
        assert packs.index(far.pack(name), name)
    assert asked == [32, 32, 32, 4]
    asked.clear()
    far = Bucket(where)
    far.pack_names()
    far.known = frozenset(names[:-3])
    assert packs.index(far.pack(names[-3]), names[-3])
    assert asked == [3]  # those that are known already are not fetched ahead

    def broken(self: object, paths: list[str], *rest: object, **more: object) -> list[Exception]:
        return [RuntimeError("no")] * len(paths)

    monkeypatch.setattr(memory.MemoryFileSystem, "cat_ranges", broken)
    far = Bucket(where)
    assert all(packs.index(far.pack(name), name) for name in far.pack_names())  # one by one


# -- names ---------------------------------------------------------------------------------------------------


def test_names_move_by_numbered_versions_of_which_the_newest_are_kept() -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    assert bucket.refs() == Refs()
    for number in range(40):
        bucket.move(with_branch(f"b{number}"))
        assert bucket.refs().branches == {f"b{n}": COMMIT for n in range(number + 1)}
    found = sorted(UrlStore(where).listing("refs"))
    assert found == [f"{number:08}.json" for number in range(41 - KEPT, 41)]
    bucket.move(lambda refs: refs)  # nothing to do
    assert sorted(UrlStore(where).listing("refs")) == found


def test_who_is_slower_applies_the_change_to_what_is_there_by_then() -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    seen = []

    def slow(refs: Refs) -> Refs:
        seen.append(dict(refs.branches))
        if len(seen) < 4:
            Bucket(where).move(with_branch(f"fast{len(seen)}"))
        return refs.with_branch("slow", COMMIT)

    Bucket(where, new=True).move(with_branch("first"))
    bucket.move(slow)
    assert [len(one) for one in seen] == [1, 2, 3, 4]
    assert sorted(Bucket(where).refs().branches) == ["fast1", "fast2", "fast3", "first", "slow"]


def test_who_is_slower_may_give_up_and_nothing_has_moved() -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    bucket.move(with_branch("b"))

    def slow(refs: Refs) -> Refs:
        if refs.branches["b"] != COMMIT:
            raise ConflictError("it moved")
        Bucket(where).move(with_branch("b", "d" * 64))
        return refs.with_branch("b", "e" * 64)

    with pytest.raises(ConflictError, match="it moved"):
        bucket.move(slow)
    assert Bucket(where).refs().branches == {"b": "d" * 64}


@pytest.mark.parametrize("moves", [KEPT - 1, KEPT, KEPT + 1, 3 * KEPT, 70])
def test_a_writer_that_slept_while_its_number_came_and_went_loses_nothing_of_others(moves: int) -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    bucket.move(with_branch("first"))
    tried: list[int] = []

    def slow(refs: Refs) -> Refs:
        tried.append(len(refs.branches))
        if len(tried) == 1:
            for number in range(moves):
                Bucket(where).move(with_branch(f"b{number}"))
        return refs.with_branch("slow", COMMIT)

    bucket.move(slow)
    assert tried == [1, moves + 1]
    assert len(Bucket(where).refs().branches) == moves + 2
    assert "00000002.json" not in UrlStore(where).listing("refs") or moves < KEPT


def test_a_version_is_known_to_count_although_others_went_on_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the creation of a version and the look at what holds then, others may move names many times."""
    where = elsewhere()
    bucket = Bucket(where, new=True)
    bucket.make_ready()
    newest, calls = Numbered.newest, []

    def late(self: Numbered) -> Version:
        calls.append(self)
        if len(calls) == 2:
            for number in range(KEPT + 10):
                Bucket(where).move(with_branch(f"b{number}"))
        return newest(self)

    monkeypatch.setattr(
        Numbered, "newest", lambda self: late(self) if self is bucket._names else newest(self)
    )
    applied = []
    bucket.move(lambda refs: applied.append(1) or refs.with_branch("mine", COMMIT))  # type: ignore[func-returns-value]
    assert applied == [1]
    assert len(Bucket(where).refs().branches) == KEPT + 11


def test_an_answer_that_was_lost_is_no_conflict_with_oneself(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    where = elsewhere()
    bucket = Bucket(where, new=True)
    bucket.make_ready()
    pipe = memory.MemoryFileSystem.pipe_file

    def lost(self: object, path: str, value: bytes, **more: Any) -> None:
        pipe(self, path, value, **more)
        if "/refs/" in path:
            raise TimeoutError("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(memory.MemoryFileSystem, "pipe_file", lost)
        bucket.move(with_branch("b"))
    assert list(UrlStore(where).listing("refs")) == ["00000001.json"]
    assert Bucket(where).refs().branches == {"b": COMMIT}


def test_what_a_killed_slow_writer_left_is_in_nobodys_way() -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    for number in range(KEPT + 5):
        bucket.move(with_branch(f"b{number}"))
    store = UrlStore(where)
    stale = Numbered(store).newest()
    assert store.create("refs/00000002.json", Version(1, "0" * 64, (), Refs()).next(Refs()))
    assert Numbered(store).newest() == stale
    bucket.move(with_branch("next"))
    assert "00000002.json" not in store.listing("refs")
    assert len(bucket.refs().branches) == KEPT + 6


def test_two_who_move_names_all_the_time_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phloem.branches.numbered._MOST_TRIES", 5)
    where = elsewhere()
    bucket, other = Bucket(where, new=True), Bucket(where, new=True)
    numbers = itertools.count()

    def never_first(refs: Refs) -> Refs:
        other.move(with_branch(f"b{next(numbers)}"))
        return refs.with_branch("mine", COMMIT)

    with pytest.raises(ConflictError, match="move all the time: 5 tries were too late"):
        bucket.move(never_first)
    assert "mine" not in bucket.refs().branches


DAMAGE = {
    "cut": lambda data: data[:-5],
    "empty": lambda data: b"",
    "of another number": lambda data: data.replace(b'"number":2', b'"number":3'),
    "a path for a name": lambda data: data.replace(b'"trunk"', b'"../trunk"'),
    "a text for a commit": lambda data: data.replace(COMMIT.encode(), b"nonsense"),
    "spaced": lambda data: data.replace(b":", b": "),
    "a list": lambda data: b"[]",
    "other keys": lambda data: b'{"number":2}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_of_names_is_refused_and_the_one_before_it_is_there(damage: str) -> None:
    where = elsewhere()
    bucket = Bucket(where, new=True)
    bucket.move(with_branch("trunk"))
    bucket.move(with_branch("other"))
    store = UrlStore(where)
    store.put("refs/00000002.json", DAMAGE[damage](store.read("refs/00000002.json")))
    with pytest.raises(
        StateError, match=r"refs/00000002.json is damaged: .*without refs/00000002.json the names"
    ):
        bucket.refs()
    with pytest.raises(StateError):
        bucket.move(with_branch("third"))
    store.remove("refs/00000002.json")
    assert bucket.refs().branches == {"trunk": COMMIT}


def test_a_table_of_names_larger_than_any_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    where = elsewhere()
    Bucket(where, new=True).move(with_branch("trunk"))
    monkeypatch.setattr("phloem.branches.numbered.LARGEST", 50)
    with pytest.raises(StateError, match=r"it claims \d+ bytes, more than any has"):
        Bucket(where).refs()


# -- stores that keep writers apart, and others --------------------------------------------------------------


def over(memory: Any) -> Any:
    """A pipe_file that writes over what is there, as that of old drivers does: they take no notice of `mode`."""
    pipe = memory.MemoryFileSystem.pipe_file
    return lambda self, path, value, **more: pipe(self, path, value)


def test_a_store_that_does_not_keep_writers_apart_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    where = elsewhere()
    with filled(tmp_path, 1) as repo:
        with monkeypatch.context() as patched:
            patched.setattr(memory.MemoryFileSystem, "pipe_file", over(memory))
            with pytest.raises(
                ConfigError, match=r"does not keep two who push at once .*say alone if nobody else"
            ):
                push(repo, where)
            assert list(UrlStore(where).everything("")) == ["phloem.json"]
            push(repo, where, alone=True)
            grow(repo, [3])
            push(repo, where, alone=True)
            grow(repo, [4])
            with pytest.raises(ConfigError, match="does not keep two who push at once"):
                push(repo, where)
        with Repository.open(where) as far:
            assert far.resolve("trunk") == repo.resolve("trunk~1")
        push(repo, where)  # with a driver that does


def test_kinds_of_stores_that_look_first_and_write_then_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(elsewhere(), new=True)
    monkeypatch.setattr(bucket._store, "kind", "oss")
    with pytest.raises(ConfigError, match="does not keep two who push at once"):
        bucket.move(with_branch("b"))


def test_a_driver_that_knows_no_modes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    pipe = memory.MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        memory.MemoryFileSystem, "pipe_file", lambda self, path, value: pipe(self, path, value)
    )
    with pytest.raises(ConfigError, match="cannot create objects"):
        Bucket(elsewhere(), new=True).move(with_branch("b"))


class Answer(Exception):
    """An error as botocore has it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize("status", [None, 409, 412])
def test_whatever_a_driver_says_when_there_is_an_object_it_is_tried_again(
    status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers' words for it are not those that the driver looks for; S3 may say 409 before anything is there."""
    memory = pytest.importorskip("fsspec.implementations.memory")
    where = elsewhere()
    bucket = Bucket(where, new=True)
    bucket.move(with_branch("first"))
    pipe, tried = memory.MemoryFileSystem.pipe_file, []

    def refuse(self: object, path: str, value: bytes, **more: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(memory.MemoryFileSystem, "pipe_file", pipe)
            if len(tried) == 3:
                pipe(self, path, value, **more)
                return
            tried.append(path)
            if status is None:
                Bucket(where).move(with_branch(f"faster{len(tried)}"))
        cause = None if status is None else Answer(status)
        raise OSError(22, "At least one of the pre-conditions you specified did not hold") from cause

    monkeypatch.setattr(memory.MemoryFileSystem, "pipe_file", refuse)
    bucket.move(with_branch("mine"))
    assert len(tried) == 3
    assert len(bucket.refs().branches) == (5 if status is None else 2)


def test_a_store_that_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    bucket = Bucket(elsewhere(), new=True)

    def refuse(self: object, path: str, value: bytes, **more: object) -> None:
        raise PermissionError

    monkeypatch.setattr(memory.MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(StoreError, match=r"phloem.json cannot be written: Permission denied"):
        bucket.move(with_branch("b"))


def test_what_cannot_be_pruned_stays_and_the_names_move(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")
    bucket = Bucket(elsewhere(), new=True)

    def refuse(self: object, path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(memory.MemoryFileSystem, "_rm", refuse)
    for number in range(KEPT + 5):
        bucket.move(with_branch(f"b{number}"))
    assert len(bucket.refs().branches) == KEPT + 5


# -- S3 ------------------------------------------------------------------------------------------------------


@s3_test
def test_s3_creates_an_object_only_where_there_is_none(s3: S3) -> None:
    store = UrlStore(s3.bucket())
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert store.read("a/b") == b"first"
    assert (store.size("a/b"), store.has("a"), store.listing("a")) == (5, False, {"b": 5})
    s3.creates_over = True
    try:
        assert store.create("a/b", b"third")
    finally:
        s3.creates_over = False
    with pytest.raises(
        StoreError, match=r"s3://no-such-bucket/x/a cannot be written: No such file or directory"
    ):
        UrlStore("s3://no-such-bucket/x").create("a", b"")


@s3_test
def test_an_s3_server_that_takes_no_notice_of_conditions_is_refused(s3: S3, tmp_path: Path) -> None:
    where = s3.bucket()
    with filled(tmp_path, 1) as repo:
        s3.creates_over = True
        try:
            with pytest.raises(ConfigError, match="does not keep two who push at once"):
                push(repo, where)
            push(repo, where, alone=True)
        finally:
            s3.creates_over = False
        with Repository.open(where) as far:
            same_states(repo, far, tmp_path)


@s3_test
def test_names_on_s3_move_by_many_threads_and_none_is_lost(s3: S3) -> None:
    where = s3.bucket()
    Bucket(where, new=True).move(with_branch("trunk"))

    def work(number: int) -> None:
        bucket = Bucket(where)
        for step in range(4):
            bucket.move(with_branch(f"b{number}-{step}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Bucket(where).refs().branches) == 17
    assert max(UrlStore(where).listing("refs")) == "00000017.json"


@s3_test
def test_a_repository_on_s3_is_read_by_ranges(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = s3.bucket()
    with filled(tmp_path, 2, size=320) as repo:
        push(repo, where)
        for whole, page in ((8 << 20, 1 << 20), (1000, 512)):
            monkeypatch.setattr("phloem.branches.ranges.WHOLE_BYTES", whole)
            monkeypatch.setattr("phloem.branches.bucket.WHOLE_BYTES", whole)
            monkeypatch.setattr("phloem.branches.ranges._PAGE_BYTES", page)
            with Repository.open(where) as far:
                same_states(repo, far, tmp_path)


def test_a_folder_and_a_bucket_are_places_alike(tmp_path: Path) -> None:
    """What `Objects` asks of a place, both answer."""
    places = [Folder.create(tmp_path / "folder"), Bucket(elsewhere(), new=True)]
    for place in places:
        name = place.add_pack([(packs.FILE, b"content")])
        assert place.pack_names() == [name]
        assert place.pack(name).read(0, 8) == b"PHLOEMP\x01"
        assert (place.frames(), place.refs()) == ({}, Refs())
        with pytest.raises(NotFoundError):
            place.pack("a" * 64)
