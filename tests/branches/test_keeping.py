"""A repository kept small: packs combined, encodings chosen again, histories squashed, and never a bit changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from tests.branches.makers import model, tuned, written

from phloem.branches import chains, committing, keeping, repacking, squashing
from phloem.branches.checking import fsck
from phloem.branches.collecting import gc
from phloem.branches.folder import Folder
from phloem.branches.repacking import repack, stored_bytes
from phloem.branches.repository import Repository
from phloem.branches.restore import Restored
from phloem.branches.squashing import squash
from phloem.branches.ways import Sizes, Ways, usable
from phloem.errors import ConfigError, ConflictError, StateError
from phloem.store import files as store_files
from phloem.tensors import State

#: A model for which reading takes some time, so that costs are as those of large ones: 0.4 ms at 500 MB/s.
SHAPES = {"embed.weight": (256, 150), "layer.weight": (100, 100), "norm.weight": (150,)}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs as if frames were opened in no time, and nothing were fast enough anyway."""
    monkeypatch.setattr(chains, "_SECONDS_PER_FRAME", 2e-6)
    monkeypatch.setattr(chains, "_FAST_SECONDS", 1e-6)


def line(repo: Repository, folder: Path, branch: str, count: int, seed: int, bits: float = 1.0) -> State:
    """So many commits on a branch."""
    state = arrays(repo, branch)
    for number in range(count):
        state = tuned(state, 1000 * seed + number)
        path = written(folder / "next.safetensors", state)
        repo.commit(path, branch=branch, bits=bits, message=f"{branch} {number}", site=f"site-{number % 2}")
    return state


def arrays(repo: Repository, ref: str) -> State:
    return {spec.name: raw.view(np.float32).reshape(spec.shape) for spec, raw in repo.restored(ref).iterate()}


def states(repo: Repository) -> dict[str, str]:
    return {entry.digest: entry.state for entry in repo.log(everything=True)}


def is_whole(repo: Repository) -> None:
    found = fsck(repo, deep=True)
    assert [one for one in found.findings if one.severity != "dangling"] == []


def times(repo: Repository, state: str) -> float:
    return Ways(usable(repo.objects).values(), Sizes(repo.objects)).times(state)


@pytest.fixture
def large(tmp_path: Path, slow: None) -> Repository:
    """A repository whose trunk is a model of some 50,000 parameters."""
    made = Repository.create(tmp_path / "large")
    made.commit(written(tmp_path / "model.safetensors", model(0, SHAPES)))
    return made


# -- packs -------------------------------------------------------------------------------------------------------------


def test_many_small_packs_become_one_and_nothing_is_lost(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MOST_SMALL", 8)
    assert not keeping.tidy(repo.folder, repo.objects)
    line(repo, tmp_path, "trunk", 7, 1)
    assert len(repo.folder.pack_names()) == 8
    line(repo, tmp_path, "trunk", 2, 2)
    assert len(repo.folder.pack_names()) == 2
    assert len(list(repo.log())) == 10
    is_whole(repo)


def test_packs_that_are_combined_are_as_old_as_the_youngest_and_only_those_of_one_day_are(
    repo: Repository, tmp_path: Path
) -> None:
    line(repo, tmp_path, "trunk", 5, 1)
    folder = repo.folder
    now = keeping.age_of(folder, folder.pack_names()[0])
    ages = [1e9, 1.1e9, now - 6 * 86400, now - 5.5 * 86400, now - 4 * 86400, now]
    for name, age in zip(sorted(folder.pack_names()), ages, strict=True):
        os.utime(folder.root / "packs" / f"{name}.pack", (age, age))
    groups = keeping.alike_in_age(folder, folder.pack_names())
    assert [len(group) for group in groups] == [2, 2, 1, 1]
    with folder.locked():
        for group in groups:
            keeping.combine(folder, repo.objects, group)
    assert sorted(keeping.age_of(folder, name) for name in folder.pack_names()) == pytest.approx(
        [ages[1], *ages[3:]]
    )
    is_whole(repo)


def test_a_pack_with_damage_in_it_is_not_combined(repo: Repository, tmp_path: Path) -> None:
    line(repo, tmp_path, "trunk", 3, 1)
    name = repo.objects.catalog.places(repo.resolve("trunk"))[0][0]
    path = repo.folder.root / "packs" / f"{name}.pack"
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(bytes(data))
    with Repository.open(repo.folder.root) as again, again.folder.locked():
        keeping.combine(again.folder, again.objects, again.folder.pack_names())
        assert len(again.folder.pack_names()) == 2
        assert name in again.folder.pack_names()
        assert path.read_bytes() == bytes(data)


def test_a_full_disk_while_packs_are_combined_is_no_matter_to_the_commit(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MOST_SMALL", 8)
    line(repo, tmp_path, "trunk", 7, 1)
    add_pack, calls = Folder.add_pack, []

    def full(self: Folder, objects: list[tuple[int, bytes]]) -> str:
        calls.append(len(objects))
        if len(calls) > 1:
            monkeypatch.setattr(store_files.os, "fsync", _no_space)
        return add_pack(self, objects)

    monkeypatch.setattr(Folder, "add_pack", full)
    line(repo, tmp_path, "trunk", 1, 2)
    assert len(calls) == 2
    monkeypatch.undo()
    monkeypatch.setattr(keeping, "_MOST_SMALL", 8)
    assert len(list(repo.log())) == 9
    assert len(repo.folder.pack_names()) == 9
    line(repo, tmp_path, "trunk", 1, 3)
    assert len(repo.folder.pack_names()) == 1
    is_whole(repo)


def _no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- repack ------------------------------------------------------------------------------------------------------------


def test_a_tip_that_costs_too_much_gets_a_way_of_its_own(large: Repository, tmp_path: Path) -> None:
    large.branch("clinic")
    line(large, tmp_path, "clinic", 6, 1)
    before, tip = states(large), large.show("clinic").state
    slow = times(large, tip)
    limit = (slow + times(large, large.show("trunk").state)) / 2
    done = repack(large, tip_times=limit)
    assert done.added == 1
    assert done.tips["clinic"] <= limit < slow
    assert done.tips["clinic"] == pytest.approx(times(large, tip))
    assert len(large.restored("clinic").chain) == 1
    assert states(large) == before
    assert (done.packs_after, len(large.folder.pack_names())) == (1, 1)
    is_whole(large)
    again = repack(large, tip_times=limit)
    assert (again.added, again.dropped, again.bytes_before, again.bytes_after) == (
        0,
        0,
        done.bytes_after,
        done.bytes_after,
    )


def test_the_difference_from_the_trunks_tip_is_taken_where_it_is_smaller(
    large: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chains._SECONDS_PER_PARAMETER, "lossless against a base", 1e-12)
    monkeypatch.setitem(chains._SECONDS_PER_PARAMETER, "ecsq/fast", 3e-9)
    monkeypatch.setattr(chains, "MOST_TIMES", 1e9)
    large.branch("clinic")
    line(large, tmp_path, "clinic", 6, 1, bits=0.3)
    limit = times(large, large.show("clinic").state) * 0.95
    done = repack(large, tip_times=limit, most_times=1e9)
    chain = large.restored("clinic").chain
    assert [one.codec for one in chain] == ["lossless", "lossless"]
    assert [one.base for one in chain] == [None, large.show("trunk").state]
    assert chain[1].frame_bytes < 0.6 * chain[0].frame_bytes
    assert done.tips["clinic"] <= limit
    is_whole(large)


def test_no_state_costs_more_than_it_may(
    large: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as careless:
        careless.setattr(chains, "MOST_TIMES", 1e9)
        line(large, tmp_path, "trunk", 12, 1)
    before = states(large)
    first, slowest = (times(large, large.show(f"trunk~{back}").state) for back in (12, 0))
    limit = first + 3.5 * (slowest - first) / 12  # three differences on a key-frame, and not four
    done = repack(large, tip_times=limit, most_times=limit)
    assert done.most <= limit < slowest
    assert max(times(large, state) for state in before.values()) == pytest.approx(done.most)
    assert states(large) == before
    assert done.added == 3  # for the tip, and for every fourth before it
    is_whole(large)


def test_key_frames_that_nothing_needs_are_dropped(
    large: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of tips that are none any more, on a line where far fewer do."""
    line(large, tmp_path, "trunk", 12, 1)
    with monkeypatch.context() as lavish:
        lavish.setattr(repacking, "_WORTH", 1e9)
        repack(large, tip_times=0.0, most_times=0.0)  # everything gets one
    before, keys = states(large), _keys(large)
    assert len(keys) == 13
    done = repack(large, tip_times=1e9, most_times=1e9)
    assert (done.added, done.dropped, len(_keys(large))) == (0, 12, 1)
    assert done.bytes_after == stored_bytes(large.folder) < done.bytes_before / 4
    assert states(large) == before
    is_whole(large)
    third = max(times(large, state) for state in before.values()) / 3
    base = times(large, large.show("trunk~12").state)
    done = repack(large, tip_times=1e9, most_times=third + base)
    assert 1 <= done.added <= 3
    is_whole(large)


def _keys(repo: Repository) -> list[str]:
    return [one.state for _, one in repo.objects.catalog.all_encodings() if one.base is None]


def test_what_no_name_leads_to_is_left_to_gc(large: Repository, tmp_path: Path) -> None:
    large.branch("clinic")
    line(large, tmp_path, "clinic", 3, 1)
    head = large.remove_branch("clinic", force=True)
    repack(large)
    large.branch("again", head)
    is_whole(large)
    large.remove_branch("again", force=True)
    assert gc(large, grace_seconds=0.0).commits == 3


def test_a_new_encoding_that_does_not_give_its_state_is_thrown_away(
    large: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large.branch("clinic")
    line(large, tmp_path, "clinic", 3, 1)
    before = large.objects.catalog.digests()

    def wrong(path: Path, base: object) -> object:
        for spec, raw in committing.applied(path, None):
            raw = raw.copy()
            raw[0] ^= 1
            yield spec, raw

    monkeypatch.setattr(repacking, "applied", wrong)
    with pytest.raises(StateError, match="does not give it, so it was thrown away"):
        repack(large, tip_times=0.0)
    assert large.objects.catalog.digests() == before
    is_whole(large)


def test_a_repack_of_a_damaged_repository_removes_nothing(large: Repository, tmp_path: Path) -> None:
    large.branch("clinic")
    line(large, tmp_path, "clinic", 3, 1)
    frame = large.restored("clinic~1").chain[-1].frame
    [(name, row)] = large.objects.catalog.places(frame)
    path = large.folder.root / "packs" / f"{name}.pack"
    data = bytearray(path.read_bytes())
    data[row.offset + 100] ^= 1
    path.write_bytes(bytes(data))
    done = repack(large, tip_times=0.0)
    assert done.dropped == 0
    assert path.read_bytes() == bytes(data)
    large.folder.remove_pack(name)
    with pytest.raises(StateError, match="nothing was removed"):
        repack(large)


def test_an_empty_repository_is_repacked_and_collected_into_itself(tmp_path: Path) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        done = repack(repo)
        assert (done.bytes_before, done.bytes_after, done.tips, done.most) == (0, 0, {}, 0.0)
        assert gc(repo).bytes == 0
        assert fsck(repo).whole


def test_a_reader_that_is_about_to_take_a_dropped_encoding_takes_another(
    large: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line(large, tmp_path, "trunk", 2, 1)
    with monkeypatch.context() as lavish:
        lavish.setattr(repacking, "_WORTH", 1e9)
        repack(large, tip_times=0.0, most_times=0.0)  # everything gets a key-frame
    state = large.show("trunk").state
    with Repository.open(large.folder.root) as reader:
        cheapest, asked = chains.cheapest, []

        def later(*words: object) -> object:
            found = cheapest(*words)  # type: ignore[arg-type]
            if not asked:
                assert repack(large, tip_times=1e9, most_times=1e9).dropped == 2
            asked.append(found)
            return found

        monkeypatch.setattr("phloem.branches.restore.cheapest", later)
        assert sum(1 for _ in Restored(reader.objects, state).iterate()) == 3
    assert len(asked) == 2


# -- squash ------------------------------------------------------------------------------------------------------------


def test_a_squash_keeps_the_state_and_says_what_it_was(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 5, 1)
    old = repo.resolve("clinic")
    state, trunk = repo.show("clinic").state, repo.resolve("trunk")
    first = repo.resolve("clinic~4")
    done = squash(repo, "clinic", "trunk", author="Ada")
    commit = repo.show("clinic")
    assert (done.commit, done.branch, done.squashed, done.still_named) == (
        repo.resolve("clinic"),
        "clinic",
        5,
        {},
    )
    assert (commit.state, commit.parents, commit.kind, commit.author) == (state, (trunk,), "update", "Ada")
    assert (commit.coding, commit.drift) == ({}, None)
    assert commit.message.splitlines() == [
        "Squash 5 commits of clinic",
        "",
        "5 commits, kept bit for bit:",
        f"first: {first[:12]} {repo.objects.entry(first).time} clinic 0",
        f"last: {old[:12]} {repo.objects.entry(old).time} clinic 4",
        "sites: site-0 (3), site-1 (2)",
    ]
    smallest = min(repo.objects.encodings(state), key=lambda one: one.frame_bytes)
    assert done.bytes > smallest.frame_bytes
    gc(repo, grace_seconds=0.0)
    assert {entry.subject for entry in repo.log("clinic")} == {
        "Squash 5 commits of clinic",
        "the model that all start from",
    }
    is_whole(repo)


def test_of_a_difference_and_a_key_frame_a_squash_takes_the_smaller(repo: Repository, tmp_path: Path) -> None:
    repo.branch("near")
    line(repo, tmp_path, "near", 2, 1)
    squash(repo, "near", "trunk")
    repo.branch("far", "trunk")
    for number in range(2):
        repo.commit(written(tmp_path / "a.safetensors", model(7 + number)), branch="far", bits=8.0)
    squash(repo, "far", "trunk")
    gc(repo, grace_seconds=0.0)
    assert [one.base for one in repo.objects.encodings(repo.show("near").state)] == [repo.show("trunk").state]
    assert [one.base for one in repo.objects.encodings(repo.show("far").state)] == [None]
    is_whole(repo)


def test_a_whole_history_becomes_one_commit(repo: Repository, tmp_path: Path) -> None:
    line(repo, tmp_path, "trunk", 3, 1)
    state = repo.show("trunk").state
    done = squash(repo, message="the model of the spring\n\nwith love")
    commit = repo.show("trunk")
    assert (commit.state, commit.parents, commit.kind, done.squashed) == (state, (), "import", 4)
    assert commit.message.startswith("the model of the spring\n\nwith love\n\n4 commits, kept bit for bit:\n")
    assert gc(repo, grace_seconds=0.0).commits == 4
    assert len(repo.objects.catalog.commits()) == 1
    is_whole(repo)


def test_what_others_came_from_stays_and_is_said(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 4, 1)
    repo.branch("other", "clinic~1")
    repo.tag("v1", "clinic~2")
    done = squash(repo, "clinic", "trunk")
    assert done.still_named == {"other": 3, "tag: v1": 2}
    assert gc(repo, grace_seconds=0.0).commits == 1
    assert len(list(repo.log("other"))) == 4
    is_whole(repo)


def test_a_state_that_has_a_key_frame_needs_nothing_more(repo: Repository, tmp_path: Path) -> None:
    line(repo, tmp_path, "trunk", 3, 1)
    repack(repo, tip_times=0.0)
    with repo.folder.scratch() as scratch:
        from phloem.branches.drafts import Draft

        draft = Draft(repo.folder, repo.objects, scratch)
        path = written(scratch / "m.safetensors", arrays(repo, "trunk"))
        state = repo.show("trunk").state
        one = repacking.lossless(repo.objects, scratch / "key", path, state, None, None, lambda *_: None)
        assert one is not None
        draft.add_frame(scratch / "key", state, None, "file", "lossless")
        draft.publish()
    assert squash(repo, "trunk").bytes == 0
    is_whole(repo)


def test_where_there_is_nothing_to_squash_it_says_so(repo: Repository, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to squash on 'trunk': it is 1 commit"):
        squash(repo)
    line(repo, tmp_path, "trunk", 1, 1)
    with pytest.raises(ConfigError, match="nothing to squash"):
        squash(repo, "trunk", "trunk~1")
    with pytest.raises(ConfigError, match="nothing to squash"):
        squash(repo, "trunk", "trunk")
    repo.branch("old", "trunk~1")
    line(repo, tmp_path, "old", 2, 2)
    with pytest.raises(ConfigError, match="did not come from"):
        squash(repo, "old", "trunk")
    with pytest.raises(ConfigError, match="did you mean 'trunk'"):
        squash(repo, "trunck")
    with pytest.raises(ConfigError, match="author"):
        squash(repo, "old", author="")


def test_a_branch_that_moves_meanwhile_is_not_squashed(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line(repo, tmp_path, "trunk", 3, 1)
    store = squashing._store

    def later(*words: object) -> None:
        store(*words)  # type: ignore[arg-type]
        line(repo, tmp_path, "trunk", 1, 2)

    monkeypatch.setattr(squashing, "_store", later)
    with pytest.raises(ConflictError, match="moved"):
        squash(repo)
    assert len(list(repo.log())) == 5
    is_whole(repo)


def test_metrics_files_and_examples_come_along(repo: Repository, tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"n": {number}}}')
        written(folder / "model.safetensors", tuned(model(), number), {"format": "pt"})
        repo.commit(folder, examples=100, site="clinic", metrics={"loss": 1.0 - number / 2})
    squash(repo, "trunk", "trunk~2")
    commit = repo.show("trunk")
    assert (commit.examples, commit.site, commit.metrics) == (200, "clinic", {"loss": 0.5})
    assert repo.objects.get(commit.files["config.json"]) == b'{"n": 1}'
    assert commit.metadata == {"format": "pt"}
