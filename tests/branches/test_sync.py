"""Push, pull and clone: what travels and what does not, whose branches move, and what a hostile place cannot do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.branches.test_bucket import (
    S3,
    elsewhere,
    filled,
    grow,
    s3_test,
    same_states,
    serving,
    tensors,
    with_branch,
    write_model,
)

from phloem import canonical
from phloem.branches import packs, sync
from phloem.branches.bucket import Bucket
from phloem.branches.checking import fsck
from phloem.branches.drafts import Draft
from phloem.branches.places import add_remote, remote_url, remotes, remove_remote
from phloem.branches.planning import oldest_first, route
from phloem.branches.records import Commit, Encoding
from phloem.branches.refs import Refs
from phloem.branches.repository import Repository
from phloem.branches.restore import Restored
from phloem.branches.sync import clone, pull, push
from phloem.errors import ConfigError, ConflictError, FormatError, NotFoundError, PhloemError, StoreError
from phloem.files.encoding import encode_file
from phloem.store.urls import UrlStore

PLACES = ("memory", "directory")
TIME = "2026-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place."""
    return elsewhere() if request.param == "memory" else f"{tmp_path}/far away/models"


def held(where: str) -> dict[str, int]:
    """The packs and frames of a place, and their sizes."""
    if where.startswith("memory"):
        store = UrlStore(where)
        return {f"{d}/{n}": size for d in ("packs", "frames") for n, size in store.everything(d).items()}
    root = Path(where)
    found = [path for name in ("packs", "frames") for path in (root / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.stat().st_size for path in found}


def names_at(where: str) -> Refs:
    with Repository.open(where) as far:
        return far.refs


def forged(
    repo: Repository, branch: str, *, adding: Mapping[int, list[bytes]] | None = None, **said: Any
) -> str:
    """A commit of the state that a branch has, with something else about it."""
    head = repo.resolve(branch)
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        for kind, contents in (adding or {}).items():
            for content in contents:
                if kind == packs.FRAME:
                    draft.add_blob(content)
                else:
                    draft.add(kind, content)
        commit = Commit(
            **{
                "kind": "update",
                "parents": (head,),
                "state": repo.show(branch).state,
                "author": "a",
                "time": TIME,
                "message": "m",
                **said,
            }
        )
        return repo.publish(draft, commit, branch, head)


# -- what travels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 320], ids=["small frames", "large frames"])
def test_what_was_pushed_is_cloned_bit_by_bit_and_every_byte_is_counted(
    where: str, size: int, tmp_path: Path
) -> None:
    with filled(tmp_path / "here", size=size) as repo:
        first = push(repo, where)
        assert first.moved == {"trunk": (None, repo.resolve("trunk"))}
        assert first.bytes == sum(held(where).values())
        grow(repo, [11, 12], size=size)
        second = push(repo, where)
        assert second.moved == {"trunk": (repo.resolve("trunk~2"), repo.resolve("trunk"))}
        assert first.bytes + second.bytes == sum(held(where).values())
        assert second.bytes < first.bytes / 5
        third = push(repo, where)
        assert (third.moved, third.objects, third.bytes, third.there) == ({}, 0, 0, 0)
        with clone(where, tmp_path / "there" / ".phloem") as copy:
            same_states(repo, copy, tmp_path)
            assert fsck(copy, deep=True).findings == ()
            assert copy.refs.current == "trunk"
            assert copy.refs.remotes == {"origin": {"trunk": repo.resolve("trunk")}}
            assert remote_url(copy, "origin") == where
            again = pull(copy, "origin")
            assert (again.moved, again.bytes, again.diverged) == ({}, 0, ())
        assert repo.refs.remotes == {first.place: {"trunk": repo.resolve("trunk")}}
        with Repository.open(where) as far:
            assert fsck(far, deep=True).findings == ()


@s3_test
def test_what_was_pushed_to_s3_is_cloned_and_every_byte_is_counted(s3: S3, tmp_path: Path) -> None:
    where = s3.bucket()
    with filled(tmp_path / "here", size=320) as repo:
        sent = push(repo, where).bytes
        for seed in (11, 12):
            grow(repo, [seed], size=320)
            sent += push(repo, where).bytes
        assert sent == sum(s3.sizes(where, "packs").values()) + sum(s3.sizes(where, "frames").values())
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)
        with pytest.raises(ConfigError, match="there is no repository at s3://no-such-bucket/x"):
            clone("s3://no-such-bucket/x", tmp_path / "other")
        with pytest.raises(StoreError, match="s3://no-such-bucket/x"):
            push(repo, "s3://no-such-bucket/x")


def test_a_file_url_is_a_directory(tmp_path: Path) -> None:
    where = f"file://{tmp_path}/far%20away/models"
    with filled(tmp_path / "here") as repo:
        assert push(repo, where).bytes == sum(held(str(tmp_path / "far away/models")).values())
        with clone(where, tmp_path / "there") as copy, Repository.open(tmp_path / "far away/models") as far:
            same_states(repo, copy, tmp_path)
            same_states(repo, far, tmp_path)


def test_key_frames_that_only_make_restoring_faster_stay_behind(where: str, tmp_path: Path) -> None:
    with filled(tmp_path / "here", commits=4) as repo:
        states = [entry.state for entry in repo.log()]
        for number, state in enumerate(states[:-1]):
            model, frame = tmp_path / f"{number}.safetensors", tmp_path / f"{number}.phl"
            repo.checkout(f"trunk~{number}", model)
            encode_file(model, frame, lossless=True)
            with repo.folder.scratch() as scratch:
                draft = Draft(repo.folder, repo.objects, scratch)
                draft.add_frame(frame.read_bytes(), state, None, "file", "lossless")
                draft.publish()
        assert [len(repo.objects.encodings(state)) for state in states] == [2, 2, 2, 1]
        pushed = push(repo, where)
        with clone(where, tmp_path / "there") as copy:
            assert [[one.base for one in copy.objects.encodings(state)] for state in states] == [
                [states[1]],
                [states[2]],
                [states[3]],
                [None],
            ]
        # A commit, a state, an encoding and a frame each.
        assert (pushed.objects, pushed.there) == (16, 0)


def test_a_branch_that_goes_on_from_a_known_commit_sends_what_it_adds(where: str, tmp_path: Path) -> None:
    with filled(tmp_path / "here") as repo:
        push(repo, where)
        repo.branch("clinic", "trunk~1")
        grow(repo, [20], "clinic")
        pushed = push(repo, where, ["clinic"])
        assert pushed.objects == 4
        assert names_at(where).branches == repo.refs.branches
        assert names_at(where).current == "trunk"


def test_a_state_that_is_there_under_another_commit_is_not_sent_again(where: str, tmp_path: Path) -> None:
    with filled(tmp_path / "here") as repo:
        push(repo, where)
        forged(repo, "trunk")
        assert push(repo, where).objects == 1
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)


def test_a_state_is_sent_against_one_that_is_there_even_if_no_commit_names_it_here(tmp_path: Path) -> None:
    """Of several ways to a state the one is taken that costs the fewest bytes from what the other side has."""

    def encoding(state: str, base: str | None, size: int) -> Encoding:
        return Encoding(state, base, f"{size:064}", "file", "x", size)

    table = {
        "d": [encoding("d", None, 1000), encoding("d", "c", 10), encoding("d", "a", 500)],
        "c": [encoding("c", "b", 10), encoding("c", None, 900), encoding("c", "d", 1)],
        "b": [encoding("b", "a", 10), encoding("b", None, 900)],
        "a": [encoding("a", None, 900)],
    }

    def edges(state: str) -> list[tuple[int, Encoding]]:
        return [(one.frame_bytes, one) for one in table.get(state, [])]

    def steps(known: set[str]) -> list[str]:
        return [f"{one.base or ''}{one.state}" for one in route("d", edges, known)]

    assert steps({"d"}) == []
    assert steps({"c"}) == ["cd"]
    assert steps({"a"}) == ["ab", "bc", "cd"]
    assert steps({"a", "b"}) == ["bc", "cd"]
    assert steps(set()) == ["c", "cd"]
    table["c"] = [encoding("c", "d", 1), encoding("c", "e", 1)]
    table["d"] = [encoding("d", "c", 1)]
    with pytest.raises(NotFoundError, match="nothing there gives the state d"):
        steps({"a"})


def test_tags_files_and_what_recipes_name_travel(where: str, tmp_path: Path) -> None:
    small, large = b"a site's frame", np.random.default_rng(5).bytes(300_000)
    config = b'{"hidden": 64}'
    recipe = {
        "frames": [canonical.digest(small), {"site": "b", "frame": canonical.digest(large)}],
        "nothing": "a" * 64,
        "text": "z" * 64,
    }
    with filled(tmp_path / "here", 1) as repo:
        forged(
            repo,
            "trunk",
            adding={packs.FRAME: [small, large], packs.FILE: [config]},
            kind="round",
            recipe=recipe,
            files={"config.json": canonical.digest(config)},
        )
        repo.tag("v1")
        repo.tag("v0", "trunk~1")
        first = push(repo, where, tags=["v1"])
        assert first.tags == ("v1",)
        assert sum(held(where).values()) == first.bytes
        assert push(repo, where, tags=["v1", "v0"]).tags == ("v0",)
        assert push(repo, where, tags=["v1", "v0"]).tags == ()
        with clone(where, tmp_path / "there") as copy:
            assert copy.refs.tags == repo.refs.tags
            assert copy.show("v1") == repo.show("v1")
            assert copy.objects.blob(canonical.digest(small)) == small
            assert copy.objects.blob(canonical.digest(large)) == large
            assert copy.objects.get(canonical.digest(config)) == config


def test_histories_with_merges_arrive_parents_first(where: str, tmp_path: Path) -> None:
    with filled(tmp_path / "here", 1) as repo:
        for name in ("a", "b"):
            repo.branch(name)
            grow(repo, [ord(name)], name)
        merge = forged(repo, "a", kind="merge", parents=(repo.resolve("a"), repo.resolve("b")))
        forged(repo, "a")
        order = list(oldest_first(repo.objects, [repo.resolve("a")], set()))
        assert len(order) == 5
        assert order.index(merge) == 3
        push(repo, where, ["a"])
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path, "a")
            assert copy.refs.branches.keys() == {"a"}
            assert copy.refs.current == "a"


def test_commits_that_a_recipe_names_travel_like_parents(where: str, tmp_path: Path) -> None:
    with filled(tmp_path / "here", 1) as repo:
        repo.branch("beside")
        (beside,) = grow(repo, [5], "beside")
        forged(repo, "trunk", kind="merge", recipe={"branches": [{"commit": beside}], "base": "e" * 64})
        push(repo, where)
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)
            assert copy.show(beside) == repo.show(beside)
            assert copy.refs.branches.keys() == {"trunk"}
            tensors(copy, beside, tmp_path / "out.safetensors")


def test_many_objects_go_in_packs_of_a_size(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phloem.branches.transfer._PACK_BYTES", 1000)
    told: list[tuple[str, int, int]] = []
    with filled(tmp_path / "here", 5) as repo:
        push(repo, where, progress=lambda *row: told.append(row))
        assert len(held(where)) > 4
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)
    assert told[-1][1] == told[-1][2]
    assert [row[1] for row in told] == sorted(row[1] for row in told)
    assert "pushing to" in told[0][0]


def test_large_frames_are_sent_from_their_files(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phloem.branches.transfer._IN_MEMORY_BYTES", 1 << 18)
    monkeypatch.setattr("phloem.branches.receiving._PIECE_BYTES", 1000)
    with filled(tmp_path / "here", 1, size=320) as repo:
        push(repo, where)
        frame = next(name for name in held(where) if name.startswith("frames"))
        mine = repo.folder.root / frame
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)
            assert (copy.folder.root / frame).read_bytes() == mine.read_bytes()
        data = bytearray(mine.read_bytes())
        data[1000] ^= 1
        mine.write_bytes(bytes(data))
        with pytest.raises(FormatError, match="is damaged: its content has another digest"):
            push(repo, elsewhere())


def test_more_frames_than_are_asked_for_are_listed(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phloem.branches.planning._MOST_ASKED", 1)
    with filled(tmp_path / "here", 3, size=320) as repo:
        push(repo, where)
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)


def test_a_directory_that_is_pushed_to_and_pulled_into_again_and_again_stays_tidy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(tmp_path / "far")
    with filled(tmp_path / "here", 1) as repo:
        push(repo, where)
        with clone(where, tmp_path / "there") as copy:
            monkeypatch.setattr("phloem.branches.keeping._MOST_SMALL", 3)
            for seed in range(20, 30):
                grow(repo, [seed])
                push(repo, where)
                pull(copy, "origin")
            assert len(copy.folder.pack_names()) < 6
            assert len([name for name in held(where) if name.startswith("packs")]) < 6
            same_states(repo, copy, tmp_path)


@pytest.mark.parametrize("size", [64, 320], ids=["small frames", "large frames"])
def test_what_rotted_here_is_brought_back_from_another_place(where: str, size: int, tmp_path: Path) -> None:
    with filled(tmp_path / "here", size=size) as repo:
        push(repo, where)
        rotten = (
            next(path for path in (repo.folder.root / "frames").rglob("*") if path.is_file())
            if size > 64
            else None
        )
        for path in [rotten] if rotten else (repo.folder.root / "packs").iterdir():
            data = bytearray(path.read_bytes())
            data[len(data) // 3] ^= 1
            path.write_bytes(bytes(data))
    with Repository.open(tmp_path / "here") as repo, Repository.open(where) as far:
        assert not fsck(repo, deep=True).whole
        assert fsck(repo, deep=True, repair_from=far).whole
        same_states(repo, far, tmp_path)


def test_packs_that_were_opened_once_are_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = elsewhere()
    with filled(tmp_path / "here") as repo:
        push(repo, where)
        with clone(where, tmp_path / "there") as copy:
            grow(repo, [30])
            push(repo, where)
            asked: list[str] = []
            read = UrlStore.read

            def counted(self: UrlStore, path: str, *rest: int) -> bytes:
                asked.append(path)
                return read(self, path, *rest)

            monkeypatch.setattr(UrlStore, "read", counted)
            pull(copy, "origin")
            assert len({path for path in asked if path.startswith("packs/")}) == 1
            asked.clear()
            pull(copy, "origin")
            assert not [path for path in asked if path.startswith("packs/")]


# -- whose branches move -------------------------------------------------------------------------------------


def two(where: str, tmp_path: Path) -> tuple[Repository, Repository]:
    """Two repositories with one history, which a place has as well and both call "origin"."""
    first = filled(tmp_path / "first", 2)
    push(first, where)
    add_remote(first, "origin", where)
    return first, clone(where, tmp_path / "second" / ".phloem")


def test_who_pushes_second_is_told_to_pull_first(where: str, tmp_path: Path) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        (mine,) = grow(first, [40])
        (theirs,) = grow(second, [41])
        push(first, "origin")
        before = held(where)
        with pytest.raises(
            ConfigError,
            match=r"branch 'trunk' at .* stands for .*, which the one here did not come from "
            r"\(phloem pull origin, merge origin/trunk, and push again\)",
        ):
            push(second, "origin")
        assert held(where) == before
        assert names_at(where).branches["trunk"] == mine
        pulled = pull(second, "origin")
        assert (pulled.moved, pulled.diverged) == ({}, ("trunk",))
        assert pulled.hints == ("phloem merge origin/trunk --into trunk",)
        assert second.resolve("trunk") == theirs
        assert second.resolve("origin/trunk") == mine
        merged = forged(second, "trunk", kind="merge", parents=(theirs, mine))
        assert push(second, "origin").moved == {"trunk": (mine, merged)}
        assert pull(first, "origin").moved == {"trunk": (mine, merged)}
        same_states(first, second, tmp_path)


def test_with_force_a_branch_goes_elsewhere(where: str, tmp_path: Path) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        (mine,) = grow(first, [40])
        grow(second, [41])
        push(first, "origin")
        assert push(second, "origin", force=True).moved == {"trunk": (mine, second.resolve("trunk"))}
        assert names_at(where).branches["trunk"] == second.resolve("trunk")
        assert pull(first, "origin").diverged == ("trunk",)


def test_a_place_that_is_ahead_is_not_set_back(where: str, tmp_path: Path) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        grow(first, [40])
        push(first, "origin")
        pull(second, "origin")
        second.branch("trunk", "trunk~1", move=True)
        with pytest.raises(ConfigError, match="did not come from"):
            push(second, "origin")


def test_a_pull_moves_what_it_can_and_makes_what_was_asked_for(where: str, tmp_path: Path) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        first.branch("clinic")
        (clinic,) = grow(first, [50], "clinic")
        (trunk,) = grow(first, [51])
        push(first, "origin", ["trunk", "clinic"])
        second.branch("mine")
        (mine,) = grow(second, [52], "mine")
        pulled = pull(second, "origin")
        assert pulled.moved == {"trunk": (second.resolve("trunk~1"), trunk)}
        assert pulled.seen == {"trunk": trunk, "clinic": clinic}
        assert second.refs.branches == {"trunk": trunk, "mine": mine}
        assert second.refs.remotes == {"origin": {"trunk": trunk, "clinic": clinic}}
        pulled = pull(second, "origin", ["clinic"])
        assert (pulled.moved, pulled.bytes) == ({"clinic": (None, clinic)}, 0)
        (ahead,) = grow(second, [53])
        assert pull(second, "origin").moved == {}
        assert second.resolve("trunk") == ahead
        with pytest.raises(
            ConfigError, match=r"there is no branch, tag or commit 'clinics'.*did you mean 'clinic'"
        ):
            pull(second, "origin", ["clinics"])


def test_some_branches_are_pulled_and_not_the_others(where: str, tmp_path: Path) -> None:
    with filled(tmp_path / "here", 1) as repo:
        for name in ("a", "b"):
            repo.branch(name)
            grow(repo, [ord(name)], name)
            repo.tag(f"tag-{name}", name)
        push(repo, where, ["trunk", "a", "b"], ["tag-a", "tag-b"])
        with Repository.create(tmp_path / "there") as other:
            pulled = pull(other, where, ["a"])
            assert pulled.moved == {"a": (None, repo.resolve("a"))}
            assert (pulled.tags, other.refs.current) == (("tag-a",), "a")
            assert other.objects.catalog.commit(repo.resolve("b")) is None
            place = pulled.place
            assert other.refs.remotes == {place: {"a": repo.resolve("a")}}
            pull(other, where, ["trunk"])
            assert other.refs.remotes == {place: {"a": repo.resolve("a"), "trunk": repo.resolve("trunk")}}


def test_tags_do_not_move(where: str, tmp_path: Path) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        first.tag("v1", "trunk")
        second.tag("v1", "trunk~1")
        push(first, "origin", tags=["v1"])
        with pytest.raises(ConfigError, match=r"tag 'v1' stands for .* at .*choose another name"):
            push(second, "origin", tags=["v1"])
        pulled = pull(second, "origin")
        assert (pulled.tags, pulled.kept_tags) == ((), ("v1",))
        assert second.refs.tags == {"v1": second.resolve("trunk~1")}
        assert push(second, "origin", tags=["v1"], force=True).tags == ("v1",)


def test_branches_that_are_gone_there_are_gone_from_memory(tmp_path: Path) -> None:
    where = elsewhere()
    first, second = two(where, tmp_path)
    with first, second:
        first.branch("b")
        push(first, "origin", ["b"])
        pull(second, "origin", ["b"])
        Bucket(where).move(lambda refs: refs.with_branch("b", None))
        pull(second, "origin")
        assert second.refs.remotes["origin"].keys() == {"trunk"}
        assert "b" in second.refs.branches


def test_what_cannot_be_pushed_or_pulled_is_said(tmp_path: Path) -> None:
    where = elsewhere()
    with Repository.create(tmp_path / "empty") as empty:
        with pytest.raises(ConfigError, match="has no commits yet"):
            push(empty, where)
        with pytest.raises(ConfigError, match="there is no repository at memory"):
            pull(empty, where)
        with pytest.raises(ConfigError, match="there is no repository in"):
            pull(empty, tmp_path / "none")
    with filled(tmp_path / "here", 1) as repo:
        with pytest.raises(ConfigError, match="there is no branch, tag or commit 'trunc'"):
            push(repo, where, ["trunc"])
        with pytest.raises(ConfigError, match="no branch, tag or commit 'v1'"):
            push(repo, where, tags=["v1"])
        with pytest.raises(ConfigError, match="is this very repository"):
            push(repo, tmp_path / "here")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("x")
        with pytest.raises(ConfigError, match="is something else than a repository"):
            push(repo, tmp_path / "full")
        with pytest.raises(ConfigError, match="expected file:///PATH"):
            push(repo, "file://here/models")
        push(repo, where)
        with Repository.open(where) as far:
            with pytest.raises(ConfigError, match="commits are made in a directory"):
                push(far, elsewhere())
            with pytest.raises(ConfigError, match="commits are made in a directory"):
                pull(far, str(tmp_path / "here"))


def test_a_place_with_nothing_in_it_is_pulled_from(tmp_path: Path) -> None:
    Repository.create(tmp_path / "empty").close()
    with clone(tmp_path / "empty", tmp_path / "copy") as copy:
        assert copy.refs == Refs(remotes={"origin": {}})
        grow(copy, [1])
        assert push(copy, "origin").moved == {"trunk": (None, copy.resolve("trunk"))}


def test_a_clone_that_was_cut_short_is_gone_on_with(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "here") as repo:
        push(repo, where)
        with monkeypatch.context() as patched:
            patched.setattr(sync, "pull", lambda *rest, **more: (_ for _ in ()).throw(StoreError("gone")))
            with pytest.raises(StoreError, match="gone"):
                clone(where, tmp_path / "there")
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)
        clone(where, tmp_path / "there").close()
        with pytest.raises(ConfigError, match=r"there is a repository in .* already"):
            clone(elsewhere(), tmp_path / "there")


# -- names of places -----------------------------------------------------------------------------------------


def test_places_have_names_in_the_settings(tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path / "here", 1) as repo:
        assert remotes(repo) == {}
        add_remote(repo, "origin", where)
        add_remote(repo, "origin", where)
        add_remote(repo, "disk", tmp_path / "disk")
        with Repository.open(tmp_path / "here") as again:
            assert remotes(again) == {"origin": where, "disk": str(tmp_path / "disk")}
        with pytest.raises(ConfigError, match="'origin' is the name of memory://bucket"):
            add_remote(repo, "origin", "s3://other")
        for name in ("a/b", "", "a b", "..", "f" * 64):
            with pytest.raises(ConfigError, match="no remote can be called"):
                add_remote(repo, name, where)
        with pytest.raises(ConfigError, match=r"there is no remote 'orign'.*did you mean 'origin'"):
            push(repo, "orign")
        assert push(repo, "origin").place == push(repo, where + "/").place == "origin"
        assert push(repo, "disk").place == push(repo, str(tmp_path / "disk")).place == "disk"
        assert repo.refs.remotes.keys() == {"origin", "disk"}
        remove_remote(repo, "disk")
        assert repo.refs.remotes.keys() == remotes(repo).keys() == {"origin"}
        with pytest.raises(ConfigError, match="there is no remote 'disk'"):
            remove_remote(repo, "disk")


def test_a_place_without_a_name_gets_one_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "here", 1) as repo:
        add_remote(repo, "models", "s3://somewhere/models")
        assert push(repo, elsewhere()).place.startswith("models-")  # which is another's
        assert push(repo, tmp_path / "a b..c").place == "a-b-c"
        (tmp_path / "work").mkdir()
        Repository.create(tmp_path / "work" / ".phloem").close()
        assert push(repo, tmp_path / "work").place == "work"
        assert names_at(str(tmp_path / "work" / ".phloem")).branches.keys() == {"trunk"}
        monkeypatch.chdir(tmp_path)
        assert push(repo, "work").place == "work"


def test_a_secret_in_a_url_is_used_and_not_said(tmp_path: Path) -> None:
    name = elsewhere().removeprefix("memory://")
    url = f"memory://me:secret@{name}?token=secret"
    with filled(tmp_path / "here", 1) as repo:
        assert "secret" not in str(push(repo, url))
        add_remote(repo, "origin", url)
        with pytest.raises(ConfigError) as caught:
            add_remote(repo, "origin", "s3://other")
        assert "secret" not in str(caught.value)


# -- interrupted, and at the same time -----------------------------------------------------------------------


def cut_short(monkeypatch: pytest.MonkeyPatch, name: str) -> pytest.MonkeyPatch:
    def stop(*rest: object, **more: object) -> None:
        raise StoreError("the power went")

    monkeypatch.setattr(name, stop)
    return monkeypatch


@pytest.mark.parametrize("size", [64, 320], ids=["small frames", "large frames"])
def test_what_was_sent_before_an_interruption_is_not_sent_again(
    where: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "here", size=size) as repo:
        with monkeypatch.context() as patched, pytest.raises(StoreError, match="the power went"):
            push(repo, where) if cut_short(patched, "phloem.branches.sync._move") else None
        assert names_at(where) == Refs()
        before = held(where)
        pushed = push(repo, where)
        assert (pushed.objects, pushed.bytes, pushed.there) == (0, 0, 12)
        assert held(where) == before
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)


def test_frames_that_were_sent_before_an_interruption_are_not_sent_again(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "here", 1, size=320) as repo:
        with monkeypatch.context() as patched, pytest.raises(StoreError, match="the power went"):
            push(repo, where) if cut_short(patched, "phloem.branches.transfer._content") else None
        before = held(where)
        assert [name[:6] for name in before] == ["frames"]
        pushed = push(repo, where)
        assert pushed.bytes + sum(before.values()) == sum(held(where).values())
        assert pushed.bytes < 2000
        with clone(where, tmp_path / "there") as copy:
            same_states(repo, copy, tmp_path)


def test_a_pull_goes_on_where_it_stopped_in_the_middle_of_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = elsewhere()
    monkeypatch.setattr("phloem.branches.receiving._PIECE_BYTES", 10_000)
    monkeypatch.setattr("phloem.branches.ranges.WHOLE_BYTES", 1000)
    monkeypatch.setattr("phloem.branches.ranges._PAGE_BYTES", 1000)
    with filled(tmp_path / "here", 1, size=320) as repo:
        push(repo, where)
        (digest,) = Bucket(where).frames()
        asked: list[tuple[int, int]] = []
        read = UrlStore.read

        def counted(self: UrlStore, path: str, start: int = 0, end: int = 0) -> bytes:
            if path.startswith("frames/"):
                if len(asked) == 7:
                    raise StoreError("the server went away")
                asked.append((start, end))
            return read(self, path, start, end)

        with monkeypatch.context() as patched:
            patched.setattr(UrlStore, "read", counted)
            with pytest.raises(StoreError, match="the server went away"):
                clone(where, tmp_path / "there")
            part = tmp_path / "there" / "tmp" / f"{digest}.part"
            assert part.stat().st_size == 70_000
            asked[:] = [(0, 0)] * 8
            with clone(where, tmp_path / "there") as copy:
                assert asked[8] == (70_000, 80_000)
                same_states(repo, copy, tmp_path)
        assert not part.exists()


@pytest.mark.parametrize("left", [b"something else", bytes(10**6)], ids=["shorter", "longer"])
def test_what_lies_where_a_frame_was_being_fetched_is_not_believed(left: bytes, tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path / "here", 1, size=320) as repo:
        push(repo, where)
        (digest,) = Bucket(where).frames()
        with Repository.create(tmp_path / "there") as other:
            (other.folder.root / "tmp" / f"{digest}.part").write_bytes(left)
            pull(other, where)
            same_states(repo, other, tmp_path)
            assert not list((other.folder.root / "tmp").iterdir())


def meanwhile(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    """Does something once, when a push has sent all and is about to move names."""
    move = sync._move

    def late(*rest: Any) -> None:
        monkeypatch.setattr(sync, "_move", move)
        what()
        move(*rest)

    monkeypatch.setattr(sync, "_move", late)


def test_of_two_who_push_one_branch_at_once_one_wins_and_the_other_loses_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        (mine,) = grow(first, [60])
        (theirs,) = grow(second, [61])
        meanwhile(monkeypatch, lambda: push(second, "origin"))
        with pytest.raises(
            ConflictError, match=r"branch 'trunk' at .* moved to .* meanwhile \(phloem pull origin, merge"
        ):
            push(first, "origin")
        assert names_at(where).branches["trunk"] == theirs
        assert first.resolve("trunk") == mine
        pull(first, "origin")
        merged = forged(first, "trunk", kind="merge", parents=(mine, theirs))
        pushed = push(first, "origin")
        assert pushed.moved == {"trunk": (theirs, merged)}
        assert pushed.there == 4  # what the first try had sent
        with clone(where, tmp_path / "third") as copy:
            same_states(first, copy, tmp_path)


def test_two_who_push_different_branches_at_once_both_win(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        for repo, name, seed in ((first, "a", 70), (second, "b", 71)):
            repo.branch(name)
            grow(repo, [seed], name)
        meanwhile(monkeypatch, lambda: push(second, "origin", ["b"]))
        push(first, "origin", ["a"])
        assert names_at(where).branches.keys() == {"trunk", "a", "b"}


def test_two_who_push_the_same_at_once_both_win(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two(where, tmp_path)
    with first, second:
        grow(first, [60])
        push(first, elsewhere())
        pull(second, str(first.folder.root))
        meanwhile(monkeypatch, lambda: push(second, "origin"))
        push(first, "origin")
        assert names_at(where).branches["trunk"] == first.resolve("trunk") == second.resolve("trunk")


def test_what_is_removed_before_the_names_move_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gc in the other directory, between what was sent and the names that lead to it."""
    where = str(tmp_path / "far")
    with filled(tmp_path / "here") as repo:
        meanwhile(monkeypatch, lambda: [path.unlink() for path in (tmp_path / "far/packs").glob("*.pack")])
        with pytest.raises(NotFoundError, match=r"lacks .*run the command again"):
            push(repo, where)
        assert names_at(where) == Refs()
        push(repo, where)
        with Repository.create(tmp_path / "there") as other:
            meanwhile(
                monkeypatch, lambda: [path.unlink() for path in (tmp_path / "there/packs").glob("*.pack")]
            )
            with pytest.raises(NotFoundError, match="run the command again"):
                pull(other, where)
            assert other.refs == Refs()
            pull(other, where)
            same_states(repo, other, tmp_path)


def test_frames_that_are_removed_before_the_names_move_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = elsewhere()
    with filled(tmp_path / "here", 1, size=320) as repo:
        store = UrlStore(where)
        meanwhile(monkeypatch, lambda: [store.remove(f"frames/{n}") for n in store.everything("frames")])
        with pytest.raises(NotFoundError, match="nothing there gives the state"):
            push(repo, where)
        assert names_at(where) == Refs()


# -- a hostile place -----------------------------------------------------------------------------------------


class Hostile:
    """A place that can hold anything."""

    def __init__(self, tmp_path: Path, size: int = 64) -> None:
        self.where = elsewhere()
        with filled(tmp_path / "honest", 2, size=size) as repo:
            push(repo, self.where)
            self.trunk = repo.resolve("trunk")
            self.commit = repo.show("trunk")
            self.encodings = repo.objects.encodings(self.commit.state)
            self.record = repo.objects.get(self.commit.state)
        self.bucket = Bucket(self.where)
        self.store = UrlStore(self.where)

    def add(self, *objects: tuple[int, bytes]) -> None:
        self.bucket.add_pack(objects)

    def head(self, commit: Commit | str, branch: str = "trunk") -> None:
        """Makes a branch stand for a commit, which is added."""
        if isinstance(commit, Commit):
            self.add((packs.COMMIT, commit.pack()))
            commit = canonical.digest(commit.pack())
        self.bucket.move(with_branch(branch, commit))

    def refused(self, tmp_path: Path, error: type[PhloemError], words: str) -> None:
        """A pull of it is refused in words, and leaves the repository as it was."""
        with filled(tmp_path / "victim", 1) as victim:
            before = victim.refs
            with pytest.raises(error, match=words):
                pull(victim, self.where)
            assert victim.refs == before
            tensors(victim, "trunk", tmp_path / "out.safetensors")


def other_state(hostile: Hostile) -> tuple[str, bytes]:
    """A state that differs in one tensor's digest, and its record."""
    record = canonical.loads(hostile.record)
    record["tensors"][0][3] = "0" * 64
    data = canonical.dumps(record)
    return canonical.digest(data), data


def test_a_name_that_stands_for_a_commit_that_is_not_there_is_refused(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    hostile.head("e" * 64)
    hostile.refused(tmp_path, NotFoundError, "lacks the commit eeeeeeeeeeee, which its history needs")


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    hostile.head(replace(hostile.commit, parents=(hostile.trunk, "e" * 64)))
    hostile.refused(tmp_path, NotFoundError, "lacks the commit eeeeeeeeeeee")


def test_a_missing_file_of_a_commit_is_refused(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    hostile.head(replace(hostile.commit, files={"config.json": "e" * 64}))
    hostile.refused(tmp_path, NotFoundError, "lacks eeeeeeeeeeee, which its history needs")


def test_a_state_without_a_record_is_refused(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    hostile.head(replace(hostile.commit, state="e" * 64))
    hostile.refused(tmp_path, NotFoundError, "nothing there gives the state eeeeeeeeeeee")
    hostile.add((packs.ENCODING, replace(hostile.encodings[0], state="e" * 64).pack()))
    hostile.refused(tmp_path / "again", NotFoundError, "lacks eeeeeeeeeeee")


def test_encodings_in_a_circle_are_refused(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    one, other = other_state(hostile)
    hostile.add((packs.STATE, other))
    for state, base in ((one, "d" * 64), ("d" * 64, one)):
        hostile.add((packs.ENCODING, replace(hostile.encodings[0], state=state, base=base).pack()))
    hostile.head(replace(hostile.commit, state=one))
    hostile.refused(tmp_path, NotFoundError, "nothing there gives the state")


def test_a_frame_of_another_size_or_content_is_refused(tmp_path: Path) -> None:
    for number, (size, claim) in enumerate(
        ((300_000, 0), (300_000, 1), (5000, 1), (5000, 10**15), (5000, 300_000))
    ):
        hostile = Hostile(tmp_path / str(number))
        state, record = other_state(hostile)
        digest = "d" * 64
        if size > 1 << 18:
            hostile.store.put(f"frames/{digest[:2]}/{digest[2:]}", bytes(size))
        else:
            digest = canonical.digest(bytes(size))
            hostile.add((packs.FRAME, bytes(size)))
        one = replace(hostile.encodings[0], state=state, base=None, frame=digest, frame_bytes=size + claim)
        hostile.add((packs.STATE, record), (packs.ENCODING, one.pack()))
        hostile.head(replace(hostile.commit, state=state))
        words = r"has \d+ bytes, expected \d+" if claim else "is damaged: its content has another digest"
        hostile.refused(tmp_path / str(number), FormatError, words)
        assert not list((tmp_path / str(number) / "victim/.phloem/tmp").iterdir())


def test_a_state_whose_frames_give_other_bits_comes_and_is_refused_when_it_is_read(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    state, record = other_state(hostile)
    hostile.add((packs.STATE, record))
    for one in hostile.encodings:
        hostile.add((packs.ENCODING, replace(one, state=state).pack()))
    hostile.head(replace(hostile.commit, state=state), "other")
    with clone(hostile.where, tmp_path / "victim") as victim:
        tensors(victim, "trunk", tmp_path / "out.safetensors")
        with pytest.raises(FormatError):
            tensors(victim, "other", tmp_path / "other.safetensors")
        assert not (tmp_path / "other.safetensors").exists()


def test_encodings_of_states_that_are_here_are_not_taken_in(tmp_path: Path) -> None:
    """A cheaper and wrong one would make a state unreadable that was readable."""
    hostile = Hostile(tmp_path)
    with clone(hostile.where, tmp_path / "victim") as victim:
        state = victim.show("trunk").state
        before = victim.objects.encodings(state)
        junk = b"junk"
        bad = Encoding(state, None, canonical.digest(junk), "file", "lossless", len(junk))
        hostile.add((packs.FRAME, junk), (packs.ENCODING, bad.pack()))
        recipe = {"a": canonical.digest(bad.pack()), "b": canonical.digest(junk)}
        hostile.head(replace(hostile.commit, parents=(hostile.trunk,), recipe=recipe))
        pull(victim, "origin")
        assert victim.objects.encodings(state) == before
        tensors(victim, "trunk", tmp_path / "out.safetensors")


def test_a_record_under_another_kind_gets_its_own_when_it_comes_as_one(tmp_path: Path) -> None:
    """A commit that came as somebody's file first is a commit all the same when a branch leads to it."""
    hostile = Hostile(tmp_path)
    later = replace(hostile.commit, parents=(hostile.trunk,), message="later")
    hostile.add((packs.FILE, later.pack()))
    hostile.head(
        replace(
            hostile.commit, parents=(hostile.trunk,), files={"config.json": canonical.digest(later.pack())}
        )
    )
    with clone(hostile.where, tmp_path / "victim") as victim:
        hostile.add((packs.COMMIT, later.pack()), (packs.FILE, b"so that the pack is another one"))
        hostile.head(later, "later")
        pull(victim, "origin", ["later"])
        assert victim.show("later") == later


def test_a_branch_or_tag_that_is_called_like_a_commit_is_refused(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path)
    hostile.bucket.move(lambda refs: refs.with_tag("a" * 64, hostile.trunk))
    hostile.refused(tmp_path, FormatError, r"no branch can be called '(a+)'")


def test_an_object_that_claims_to_be_larger_than_any_record_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = Hostile(tmp_path)
    monkeypatch.setattr("phloem.branches.planning.LARGEST_RECORD", 2000)
    big = b"x" * 3000
    hostile.add((packs.FRAME, big))
    hostile.head(replace(hostile.commit, files={"config.json": canonical.digest(big)}))
    hostile.refused(tmp_path, FormatError, "is larger than any record")


def flipped(tmp_path: Path, step: int) -> None:
    """A clone of a place with one bit wrong somewhere is refused, or gives the same bits as ever."""
    with Repository.create(tmp_path / "honest") as repo:
        repo.commit(write_model(tmp_path / "0.safetensors", 0, 3))
        repo.commit(write_model(tmp_path / "1.safetensors", 1, 3))
        where = elsewhere()
        push(repo, where)
        wanted = [
            {
                name: raw.tobytes()
                for name, raw in tensors(repo, one.digest, tmp_path / "out.safetensors").items()
            }
            for one in repo.log()
        ]
    store = UrlStore(where)
    (name,) = store.listing("packs")
    whole = store.read(f"packs/{name}")
    refused = 0
    victim = tmp_path / "victim-0"
    for at in range(0, len(whole), step):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        store.put(f"packs/{name}", bytes(data))
        shutil.rmtree(victim / "catalogs", ignore_errors=True)  # what it remembers of packs that never change
        try:
            copy = clone(where, victim)
        except (FormatError, NotFoundError):
            refused += 1
            continue
        with copy:
            for entry, state in zip(copy.log(), wanted, strict=True):
                restored = Restored(copy.objects, entry.state)
                assert {spec.name: raw.tobytes() for spec, raw in restored.iterate()} == state
        victim = tmp_path / f"victim-{at + 1}"
    assert refused > 0.9 * len(range(0, len(whole), step))


def test_a_wrong_bit_in_a_pack_is_refused_or_harmless(tmp_path: Path) -> None:
    flipped(tmp_path, 61)


@pytest.mark.slow
def test_a_wrong_bit_anywhere_in_a_pack_is_refused_or_harmless(tmp_path: Path) -> None:
    flipped(tmp_path, 1)


# -- figures, and many steps ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_small_commits_cost_little_more_than_their_frames(tmp_path: Path) -> None:
    where = elsewhere()
    with filled(tmp_path / "here", 1, size=256) as repo:
        push(repo, where)
        digests = grow(repo, range(1, 101), size=256)
        states = [repo.objects.entry(digest).state for digest in digests]
        frames = sum(
            min(one.frame_bytes for one in repo.objects.encodings(state) if one.base is not None)
            for state in states
        )
        pushed = push(repo, where)
        assert pushed.objects == 400
        print(f"100 commits of {256 * 256 + 256} parameters: frames {frames}, pushed {pushed.bytes} bytes")
        assert frames < pushed.bytes < frames + 100 * 1000
        assert len(UrlStore(where).listing("packs")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_commits_pushes_and_pulls_loses_nothing(seed: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(seed)
    hub = (elsewhere(), str(tmp_path / "hub"))[seed % 2]
    with filled(tmp_path / "origin", 1) as repo:
        push(repo, hub)
    repos = [clone(hub, tmp_path / f"site-{number}" / ".phloem") for number in range(3)]
    seeds, pushed = iter(range(100, 10_000)), set()
    for _ in range(60):
        repo = repos[numbers.integers(3)]
        branch = ("trunk", "a", "b")[numbers.integers(3)]
        action = numbers.integers(4)
        if branch not in repo.refs.branches:
            repo.branch(branch)
        if action == 0:
            grow(repo, [next(seeds)], branch)
        elif action == 1:
            pulled = pull(repo, "origin")
            for name in pulled.diverged:
                heads = repo.resolve(name), repo.resolve(f"origin/{name}")
                forged(repo, name, kind="merge", parents=heads)
        else:
            try:
                pushed.add(repo.resolve(branch))
                push(repo, "origin", [branch])
            except ConfigError:
                pushed.discard(repo.resolve(branch))
    with clone(hub, tmp_path / "last") as copy:
        everything = {entry.digest for entry in copy.log(everything=True)}
        assert pushed <= everything
        for entry in copy.log(everything=True):
            tensors(copy, entry.digest, tmp_path / "out.safetensors")
    for repo in repos:
        repo.close()
