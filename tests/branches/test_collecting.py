"""What no name leads to is removed, as many bytes as were predicted, and nothing else ever is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.branches.makers import model, tuned, written

from phloem import canonical
from phloem.branches import collecting, keeping, packs
from phloem.branches.checking import fsck
from phloem.branches.collecting import Collected, gc
from phloem.branches.drafts import Draft
from phloem.branches.objects import SMALL_FRAME
from phloem.branches.records import Commit, Encoding
from phloem.branches.refs import Refs
from phloem.branches.repository import Repository
from phloem.branches.squashing import squash
from phloem.errors import ConflictError, PhloemError, StateError
from phloem.tensors import State

LARGE = {"embed.weight": (400, 300), "norm.weight": (300,)}


def stored(repo: Repository) -> int:
    """The bytes that the disk has for a repository, but for what is derived and the lock."""
    return sum(
        path.stat().st_size
        for path in repo.folder.root.rglob("*")
        if path.is_file() and not path.name.startswith("catalog.db") and path.name != "lock"
    )


def collected(repo: Repository, grace_seconds: float = 0.0) -> Collected:
    """What a gc removed, which is what a dry one predicted and what the disk has less."""
    before = stored(repo)
    foreseen = gc(repo, dry_run=True, grace_seconds=grace_seconds)
    assert stored(repo) == before
    done = gc(repo, grace_seconds=grace_seconds)
    assert (foreseen.bytes, foreseen.commits, foreseen.frames) == (done.bytes, done.commits, done.frames)
    assert (foreseen.states, foreseen.encodings, foreseen.files) == (done.states, done.encodings, done.files)
    assert before - stored(repo) == done.bytes
    assert gc(repo, grace_seconds=grace_seconds).bytes == 0
    return done


def line(
    repo: Repository, folder: Path, branch: str, count: int, seed: int, start: State | None = None
) -> State:
    """So many commits on a branch."""
    state = start if start is not None else model()
    for number in range(count):
        state = tuned(state, 1000 * seed + number)
        repo.commit(
            written(folder / "next.safetensors", state), branch=branch, bits=1.0, message=f"{branch} {number}"
        )
    return state


def is_whole(repo: Repository) -> None:
    found = fsck(repo, deep=True)
    assert [one for one in found.findings if one.severity != "dangling"] == []


def test_nothing_is_removed_where_everything_has_a_name(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 3, 1)
    repo.tag("v1", "clinic~1")
    assert collected(repo) == Collected(0, 0, 0, 0, 0, 0, 0, (), dry_run=False)


def test_a_branch_that_was_removed_goes_with_all_that_was_its_own(repo: Repository, tmp_path: Path) -> None:
    before = set(repo.objects.catalog.digests())
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 3, 1)
    repo.remove_branch("clinic", force=True)
    done = collected(repo)
    assert (done.commits, done.states, done.encodings, done.frames) == (3, 3, 3, 3)
    assert repo.objects.catalog.digests().keys() == before
    is_whole(repo)


def test_a_tag_or_the_branch_of_another_place_keeps_what_it_leads_to(
    repo: Repository, tmp_path: Path
) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 4, 1)
    middle, third = repo.resolve("clinic~2"), repo.resolve("clinic~1")
    repo.tag("v1", middle)
    repo.folder.move(lambda refs: refs.with_remote("far", {"trunk": third, "other": "f" * 64}))
    repo.remove_branch("clinic", force=True)
    assert collected(repo).commits == 1
    repo.folder.move(lambda refs: refs.with_remote("far", {}))
    assert collected(repo).commits == 1
    repo.remove_tag("v1")
    assert collected(repo).commits == 2
    is_whole(repo)


def test_large_frames_go_as_well(tmp_path: Path) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        state = model(0, LARGE)
        repo.commit(written(tmp_path / "a.safetensors", state))
        repo.branch("clinic")
        repo.commit(written(tmp_path / "b.safetensors", tuned(state, 1)), branch="clinic", lossless=True)
        assert len(repo.folder.frames()) == 2
        repo.remove_branch("clinic", force=True)
        done = collected(repo)
        assert (done.frames, len(repo.folder.frames())) == (1, 1)
        assert done.bytes > SMALL_FRAME
        is_whole(repo)


def test_what_is_younger_than_the_grace_period_stays_with_all_that_it_needs(
    repo: Repository, tmp_path: Path
) -> None:
    """A commit without a name yet, on top of one that is old and without a name."""
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 2, 1)
    names = repo.objects.catalog.pack_names()
    old = names[:-1]  # all but the newest commit's
    for name in old:
        os.utime(repo.folder.root / "packs" / f"{name}.pack", (1e9, 1e9))
    head = repo.remove_branch("clinic", force=True)
    assert collected(repo, 3600.0).bytes == 0
    repo.branch("found", head)
    is_whole(repo)
    repo.remove_branch("found", force=True)
    os.utime(repo.folder.root / "packs" / f"{names[-1]}.pack", (1e9, 1e9))
    assert collected(repo, 3600.0).commits == 2


def test_a_young_large_frame_stays_though_nothing_names_it_yet(repo: Repository, tmp_path: Path) -> None:
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        digest = draft.add_blob(np.arange(SMALL_FRAME, dtype=np.uint32).tobytes())
        draft.publish()
    assert collected(repo, 3600.0).bytes == 0
    os.utime(repo.folder.frame_path(digest), (1e9, 1e9))
    assert collected(repo, 3600.0).bytes == 4 * SMALL_FRAME


def test_chains_through_commits_that_are_gone_stay_where_there_is_no_other_way(
    repo: Repository, tmp_path: Path
) -> None:
    """Only the last state of a branch is named by another history, but it is built on those before it."""
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 4, 1)
    state = repo.show("clinic").state
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        commit = Commit("import", (), state, "Ada", "2026-01-02T03:04:05Z", "the last state only")
        repo.publish(draft, commit, "lonely", None)
    repo.remove_branch("clinic", force=True)
    done = collected(repo)
    assert (done.commits, done.states, done.frames) == (4, 0, 0)
    is_whole(repo)
    repo.remove_branch("lonely", force=True)
    assert collected(repo).states == 4
    is_whole(repo)


def test_after_a_squash_the_old_frames_go(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 5, 1)
    squash(repo, "clinic", "trunk")
    done = collected(repo)
    assert (done.commits, done.states, done.encodings, done.frames) == (5, 4, 5, 5)
    assert len(repo.restored("clinic").chain) <= 2
    is_whole(repo)


def test_a_way_through_what_is_gone_stays_if_all_others_are_too_slow(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 3, 1)
    squash(repo, "clinic", "trunk")
    monkeypatch.setattr(collecting, "MOST_TIMES", 0.0)
    times = collecting.Ways(
        [one for _, one in repo.objects.catalog.all_encodings()], collecting.Sizes(repo.objects)
    )
    cheapest = times.chain(repo.show("clinic").state)
    gc(repo, grace_seconds=0.0)
    kept = {one for _, one in repo.objects.catalog.all_encodings()}
    assert set(cheapest) <= kept
    is_whole(repo)


def test_what_recipes_name_stays(repo: Repository, tmp_path: Path) -> None:
    """Commits that a merge can be made again from, and frames and files that a round names."""
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 2, 1)
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        small, large = draft.add_blob(b"a site's frame"), draft.add_blob(bytes(SMALL_FRAME + 1))
        plan, stray = draft.add(packs.FILE, b"the plan"), draft.add(packs.FILE, b"of nobody")
        recipe = {
            "base": repo.resolve("clinic"),
            "inputs": [{"frame": small}, {"frame": large}],
            "plan": plan,
        }
        head = repo.resolve("trunk")
        commit = Commit(
            "round", (head,), repo.show("trunk").state, "Ada", "2026-01-02T03:04:05Z", "r", recipe=recipe
        )
        repo.publish(draft, commit, "trunk", head)
    repo.remove_branch("clinic", force=True)
    done = collected(repo)
    assert (done.commits, done.files, done.frames) == (0, 1, 0)
    for digest in (small, large, plan):
        repo.objects.blob(digest)
    assert not repo.objects.has(stray)
    assert len(repo.objects.catalog.commits()) == 4
    is_whole(repo)


def test_files_of_commits_stay_and_those_of_gone_commits_go(repo: Repository, tmp_path: Path) -> None:
    for name, branch in (("kept", "trunk"), ("gone", "clinic")):
        if branch != "trunk":
            repo.branch(branch)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"{name}": 1}}')
        written(folder / "model.safetensors", tuned(model(), len(name) + len(branch)))
        repo.commit(folder, branch=branch)
    repo.remove_branch("clinic", force=True)
    assert collected(repo).files == 1
    assert repo.objects.get(repo.show("trunk").files["config.json"]) == b'{"kept": 1}'


def test_with_something_missing_nothing_is_removed(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 2, 1)
    repo.branch("gone")
    line(repo, tmp_path, "gone", 1, 2)
    repo.remove_branch("gone", force=True)
    name = repo.objects.catalog.places(repo.resolve("clinic~1"))[0][0]
    path = repo.folder.root / "packs" / f"{name}.pack"
    data = path.read_bytes()
    path.unlink()
    with Repository.open(repo.folder.root) as again:
        before = stored(again)
        for dry_run in (True, False):
            with pytest.raises(StateError, match=r"the commit .* is missing: nothing was removed"):
                gc(again, grace_seconds=0.0, dry_run=dry_run)
        assert stored(again) == before
        path.write_bytes(data)
        is_whole(again)
        assert gc(again, grace_seconds=0.0).commits == 1
        frame = again.restored("clinic~1").chain[-1].frame
        row = next(row for pack, row in again.objects.catalog.places(frame))
        contents = keeping.contents_of(again.folder, again.objects, name)
        assert contents is not None
        again.folder.add_pack([one for one in contents if one[0] != packs.FRAME])
        again.folder.remove_pack(name)
        assert row.kind == packs.FRAME
        with pytest.raises(StateError, match="nothing gives the state"):
            gc(again, grace_seconds=0.0)


def test_a_damaged_table_of_names_removes_nothing(repo: Repository) -> None:
    path = repo.folder.root / "refs.json"
    path.write_bytes(path.read_bytes().replace(b"trunk", b"trunj"))
    before = stored(repo)
    with pytest.raises(StateError, match="fsck"):
        gc(repo, grace_seconds=0.0)
    assert stored(repo) == before


def test_a_pack_with_damage_in_it_is_left_as_it_is(repo: Repository, tmp_path: Path) -> None:
    """What is dead in it stays until fsck mended it: perhaps somebody can make more of the rest."""
    repo.branch("a")
    repo.branch("b")
    for branch, seed in (("a", 1), ("b", 2)):
        line(repo, tmp_path, branch, 1, seed)
    folder = repo.folder
    with folder.locked():
        keeping.combine(folder, repo.objects, repo.objects.catalog.pack_names())
    [name] = folder.pack_names()
    frame = repo.restored("a").chain[-1].frame
    [(_, row)] = repo.objects.catalog.places(frame)
    path = folder.root / "packs" / f"{name}.pack"
    data = bytearray(path.read_bytes())
    data[row.offset + 20] ^= 1
    path.write_bytes(bytes(data))
    repo.remove_branch("b", force=True)
    done = collected(repo)
    assert (done.bytes, done.kept) == (0, (name,))
    found = fsck(repo)
    assert ("damaged", "frame", frame) in {(one.severity, one.kind, one.digest) for one in found.findings}


def test_packs_that_a_killed_process_left_twice_are_removed_once(repo: Repository, tmp_path: Path) -> None:
    line(repo, tmp_path, "trunk", 3, 1)
    contents = [keeping.contents_of(repo.folder, repo.objects, name) for name in repo.folder.pack_names()]
    repo.folder.add_pack([one for each in contents if each is not None for one in each])
    repo.objects.refresh()
    assert len(repo.folder.pack_names()) == 5
    assert collected(repo, 3600.0).packs > 0
    assert len(repo.folder.pack_names()) in (1, 4)
    is_whole(repo)


@pytest.mark.parametrize("order", [1, -1])
def test_a_pack_that_was_written_again_and_not_yet_removed_is_written_again(
    repo: Repository, tmp_path: Path, order: int
) -> None:
    """A gc was killed between the two: the new pack holds nothing that the old one has not."""
    repo.branch("gone")
    line(repo, tmp_path, "gone", 2, 1)
    line(repo, tmp_path, "trunk", 1, 2)
    repo.remove_branch("gone", force=True)
    before = repo.folder.pack_names()
    everything = [
        one for name in before for one in keeping.contents_of(repo.folder, repo.objects, name) or ()
    ]
    live = sorted(
        (one for one in everything if canonical.digest(one[1]) in live_objects(repo)),
        key=lambda one: canonical.digest(one[1]),
    )
    for objects in (everything, live)[::order]:
        repo.folder.add_pack(objects)
        repo.objects.refresh()
    for name in before:
        repo.folder.remove_pack(name)
    repo.objects.refresh()
    assert len(repo.folder.pack_names()) == 2
    assert collected(repo).commits == 2
    assert repo.folder.pack_names() == [packs.pack(live)[0]]
    is_whole(repo)


def live_objects(repo: Repository) -> set[str]:
    return collecting.live_in(repo.folder, repo.objects, repo.refs, float("inf")).objects()


def test_a_damaged_pack_that_is_written_again_is_put_right(repo: Repository, tmp_path: Path) -> None:
    """Or what it is to take the place of would be removed, and be lost."""
    line(repo, tmp_path, "trunk", 2, 1)
    before = repo.folder.pack_names()
    made = repo.folder.add_pack(
        [one for name in before for one in keeping.contents_of(repo.folder, repo.objects, name) or ()]
    )
    path = repo.folder.root / "packs" / f"{made}.pack"
    right = path.read_bytes()
    for at in (20, len(right) - 3):
        altered = bytearray(right)
        altered[at] ^= 1
        path.write_bytes(bytes(altered))
    repo.objects.refresh()
    with repo.folder.locked():
        keeping.combine(repo.folder, repo.objects, before)
    assert (repo.folder.pack_names(), path.read_bytes()) == ([made], right)
    is_whole(repo)


def test_a_damaged_frame_that_is_committed_again_is_put_right(tmp_path: Path) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        state = model(0, LARGE)
        repo.commit(written(tmp_path / "a.safetensors", state))
        [digest] = repo.folder.frames()
        place = repo.folder.frame_path(digest)
        right = place.read_bytes()
        place.write_bytes(right[:-1] + b"?")
        with repo.folder.scratch() as scratch:
            (scratch / "frame").write_bytes(right)
            repo.folder.add_frame(scratch / "frame", digest)
        assert place.read_bytes() == right
        is_whole(repo)


def test_what_is_in_the_making_of_dead_processes_is_swept(repo: Repository) -> None:
    left = repo.folder.root / "tmp" / "1-dead"
    left.mkdir()
    (left / "base.safetensors").write_bytes(bytes(1000))
    assert collected(repo, 3600.0).bytes == 1000


def test_a_pack_that_is_written_again_is_as_old_as_before(repo: Repository, tmp_path: Path) -> None:
    repo.branch("a")
    line(repo, tmp_path, "a", 1, 1)
    with repo.folder.locked():
        keeping.combine(repo.folder, repo.objects, repo.objects.catalog.pack_names())
    [name] = repo.folder.pack_names()
    os.utime(repo.folder.root / "packs" / f"{name}.pack", (1e9, 1e9))
    repo.remove_branch("a", force=True)
    assert collected(repo, 3600.0).commits == 1
    [made] = repo.folder.pack_names()
    assert made != name
    assert keeping.age_of(repo.folder, made) == 1e9


# -- at the same time ----------------------------------------------------------------------------------------------


def between(monkeypatch: pytest.MonkeyPatch, repo: Repository, what: Callable[[], object]) -> None:
    """Does something after a commit's objects are there and before its name moves."""
    move = type(repo.folder).move

    def later(self: object, change: Callable[[Refs], Refs]) -> Refs:
        monkeypatch.undo()
        what()
        return move(repo.folder, change)

    monkeypatch.setattr(type(repo.folder), "move", later)


def test_a_commit_whose_pack_a_gc_took_does_not_get_its_name(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = repo.resolve("trunk")
    path = written(tmp_path / "a.safetensors", tuned(model(), 1))
    with Repository.open(repo.folder.root) as other:
        between(monkeypatch, repo, lambda: gc(other, grace_seconds=0.0))
        with pytest.raises(StateError, match="a gc removed it") as said:
            repo.commit(path)
        assert "make the commit again" in str(said.value)
        assert (repo.resolve("trunk"), other.resolve("trunk")) == (head, head)
    repo.commit(path)
    is_whole(repo)


def test_a_commit_in_the_grace_period_gets_its_name(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.open(repo.folder.root) as other:
        between(monkeypatch, repo, lambda: gc(other))
        made = repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)))
        assert repo.resolve("trunk") == made.digest
    is_whole(repo)


@pytest.mark.parametrize("kind", ["state", "frame", "file"])
def test_a_commit_that_found_its_objects_here_and_lost_them_to_a_gc_is_refused(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Objects of a commit without a name are not written again; a gc may take them a moment later."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    written(folder / "model.safetensors", tuned(model(), 1))
    repo.branch("first")
    repo.commit(folder, branch="first", message="one")
    repo.remove_branch("first", force=True)
    if kind == "file":  # another state, the same file
        written(folder / "model.safetensors", tuned(model(), 2))
    elif kind == "state":  # the same state, coded in another way
        again = {
            s.name: raw.view(np.float32).reshape(s.shape) for s, raw in repo.restored(_head(repo)).iterate()
        }
        written(folder / "model.safetensors", again)
    with Repository.open(repo.folder.root) as other:
        between(monkeypatch, repo, lambda: gc(other, grace_seconds=0.0))
        with pytest.raises(StateError, match="lacks"):
            repo.commit(folder, message="two", lossless=kind == "state")
    made = repo.commit(folder, message="three", lossless=kind == "state")
    assert repo.resolve("trunk") == made.digest
    is_whole(repo)


def _head(repo: Repository) -> str:
    commits = repo.objects.catalog.commits()
    return next(digest for digest, entry in commits.items() if entry.parents)


def test_a_commit_that_was_found_gets_no_name_once_a_gc_took_it(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 2, 1)
    head = repo.remove_branch("clinic", force=True)
    with Repository.open(repo.folder.root) as other:
        for name in (lambda: repo.branch("again", head), lambda: repo.tag("again", head)):
            between(monkeypatch, repo, lambda: gc(other, grace_seconds=0.0))
            with pytest.raises(PhloemError):
                name()
    assert set(repo.refs.branches) | set(repo.refs.tags) == {"trunk"}
    is_whole(repo)


def test_a_commit_of_which_parts_are_gone_gets_no_name(repo: Repository, tmp_path: Path) -> None:
    """As a gc that was killed leaves it."""
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 2, 1)
    parent = repo.resolve("clinic~1")
    head = repo.remove_branch("clinic", force=True)
    repo.folder.remove_pack(repo.objects.catalog.places(parent)[0][0])
    with pytest.raises(StateError, match="lacks"):
        repo.branch("again", head)
    assert "again" not in repo.refs.branches


def test_of_two_who_commit_to_one_branch_the_second_is_told_and_keeps_the_commit(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.open(repo.folder.root) as other:
        path = written(tmp_path / "b.safetensors", tuned(model(), 2))
        between(monkeypatch, repo, lambda: other.commit(path))
        with pytest.raises(ConflictError, match="the commit is kept") as said:
            repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)))
        digest = str(said.value).split("trunk-2 ")[1][:12]
        gc(other)
        repo.branch("mine", digest)
    is_whole(repo)


def test_readers_find_what_others_committed_and_combined_meanwhile(repo: Repository, tmp_path: Path) -> None:
    with Repository.open(repo.folder.root) as reader:
        for number in range(3):
            line(repo, tmp_path, "trunk", 1, number)
            with repo.folder.locked():
                keeping.combine(repo.folder, repo.objects, repo.objects.catalog.pack_names())
            assert next(entry.digest for entry in reader.log()) == repo.resolve("trunk")
            assert reader.show("@").subject == "trunk 0"
            assert sum(1 for _ in reader.restored("@~1").iterate()) == 4


def test_the_encodings_of_what_stays_stay(repo: Repository, tmp_path: Path) -> None:
    """`repack` decides which of several are worth their bytes."""
    line(repo, tmp_path, "trunk", 1, 1)
    state, base = repo.show("trunk").state, repo.show("trunk~1").state
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        draft.add_frame(b"no frame at all", state, None, "file", "lossless")
        draft.add_frame(b"nor this", state, "d" * 64, "file", "lossless")
        draft.publish()
    done = collected(repo)
    assert (done.encodings, done.frames) == (1, 1)
    assert {one.base for one in repo.objects.encodings(state)} == {base, None}
    assert all(isinstance(one, Encoding) for one in repo.objects.encodings(state))
