"""What workers keep on their disks: whatever dies when, a run goes on from the newest merge and owes what it owed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.torch import small
from tests.engines.torch.ranks import KILLED, Ended, Here, Start

from phloem import canonical
from phloem.engines.torch.commits import Trunk, numbers_for
from phloem.errors import StateError
from phloem.store.files import Store
from phloem.store.snapshot import load_snapshot
from phloem.torch import LocalSGD
from phloem.wire import frame as frames

EVERY = 2


def flat(arrays: Any) -> Any:
    """All values of a list of arrays."""
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


class Watched(LocalSGD):
    """Notes what it owes, sends and reaches, in NumPy files; and dies where it is told to."""

    def __init__(self, here: Here, log: str, die: dict[str, Any], *args: Any, **options: Any) -> None:
        self.here, self.log, self.die = here, log, die
        super().__init__(*args, **options)
        self.note("began", owed=self.owed(), trunk=self.trunk())

    def owed(self) -> Any:
        owed = self._site.at.residual.owed
        size = self._layout.size
        return np.zeros(size) if owed is None else flat(owed)

    def trunk(self) -> Any:
        return flat(self._layout.arrays(self._coordinator.state))

    def note(self, what: str, **arrays: Any) -> None:
        path = self.here.folder / f"{self.log}-{self.worker}-{what}.npz"
        np.savez(path, round=self.round, **arrays)

    def dies_at(self, place: str) -> None:
        die = self.die
        if die and self.here.rank in die["ranks"] and (place, self.round) == (die["place"], die["round"]):
            self.here.die()

    def merge(self) -> Any:
        self.dies_at("training")
        return self.noted(super().merge)

    def _finish(self) -> None:
        self.noted(super()._finish)

    def noted(self, merge: Any) -> Any:
        trained = flat(self._layout.arrays(self._trained()))
        number, trunk, owed = self.round, self.trunk(), self.owed()
        again = (
            self._site.at.residual.sent is not None
        )  # an update from before a crash, which nobody has merged
        merged = merge()
        after = {"owed": self.owed(), "trunk": self.trunk()}
        self.note(f"merge-{number}", trained=trained - trunk, again=again, before=owed, **after)
        return merged

    def _keep_own(self, disk: Any) -> None:
        residual = self._site.at.residual
        if residual.sent is not None:
            decoded = flat(frames.unpack(residual.sent, self._layout).decode())
            self.note("sent", whole=flat(residual.owed), decoded=decoded)
        swap = disk._own.swap

        def swapped(*args: Any) -> None:
            self.dies_at("writing")
            swap(*args)

        disk._own.swap = swapped
        super()._keep_own(disk)
        self.dies_at("written down")

    def _keep_trunk(self, disk: Any) -> None:
        if self.round:
            self.dies_at("merged")
        super()._keep_trunk(disk)


def runs(
    here: Here,
    *,
    log: str,
    rounds: int,
    begin: int = 0,
    hosts: list[str],
    die: dict[str, Any] | None = None,
    kind: str = "plain",
    **options: Any,
) -> None:
    """Rounds of local steps; every rank has the folder of its host."""
    here.begin()
    model = small.built(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    place = here.folder / hosts[here.rank % len(hosts)]
    options = {"bits": 0.3, "division": 0.0, "every": EVERY, "timeout_seconds": 60, **options}
    local = Watched(here, log, die or {}, model, optimizer, folder=place, **options)
    here.say(worker=local.worker, began=local.round)
    for step in range(begin * EVERY, (begin + rounds) * EVERY):
        optimizer.zero_grad()
        small.loss_of(model, local.worker, step).backward()
        optimizer.step()
        local.step()
        here.say(round=local.round)
    here.say(
        model=small.digest(model.parameters()),
        moments=small.digest(t for p in model.parameters() for _, t in sorted(optimizer.state[p].items())),
    )
    dist.destroy_process_group()


class Book:
    """What workers noted under the name of one log."""

    def __init__(self, folder: Path, log: str) -> None:
        self.folder, self.log = folder, log

    def of(self, worker: int, what: str) -> dict[str, Any]:
        with np.load(self.folder / f"{self.log}-{worker}-{what}.npz") as file:
            return dict(file)

    def has(self, worker: int, what: str) -> bool:
        return (self.folder / f"{self.log}-{worker}-{what}.npz").exists()

    def nothing_is_lost(self, workers: list[int], numbers: range) -> None:
        """In every round the trunk took what the workers owed and trained, less what they owe now.

        What was on its way when others died is part of what a worker owes.
        """
        trunk = first = self.of(workers[0], "began")["trunk"]
        owed = {worker: self.of(worker, "began")["owed"] for worker in workers}
        for number in numbers:
            rows = {worker: self.of(worker, f"merge-{number}") for worker in workers}
            taken = np.zeros_like(trunk)
            for worker, row in rows.items():
                np.testing.assert_array_equal(row["trunk"], rows[workers[0]]["trunk"])
                np.testing.assert_array_equal(row["before"], owed[worker])
                trained = 0.0 if row["again"] else row["trained"]
                taken += (row["before"] + trained - row["owed"]) / len(workers)
                owed[worker] = row["owed"]
            step = rows[workers[0]]["trunk"] - trunk
            np.testing.assert_allclose(step, taken, atol=1e-6)
            trunk = rows[workers[0]]["trunk"]
        assert np.abs(trunk - first).max() > 1e-3


def finished(ended: list[Ended]) -> list[int]:
    """The workers, all of which hold the same model."""
    assert len({one.said["model"] for one in ended}) == 1
    return [one.said["worker"] for one in ended]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_bit_moments_and_all(ranks: Start, tmp_path: Path) -> None:
    whole = ranks(2, runs, log="whole", rounds=4, hosts=["whole"])
    ranks(2, runs, log="first", rounds=2, hosts=["run"])
    last = ranks(2, runs, log="second", rounds=2, begin=2, hosts=["run"])
    for one, other in zip(whole, last, strict=True):
        assert one.said["model"] == other.said["model"]
        assert one.said["moments"] == other.said["moments"]
    assert last[0].said["began"] == 2
    Book(tmp_path, "whole").nothing_is_lost([0, 1], range(4))


PLACES = ["training", "writing", "written down", "merged"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "dying", "count"),
    [
        *((place, [2], count) for place in PLACES for count in (2, 3, 4)),
        ("written down", [0, 1, 2], 3),
        ("merged", [0, 1, 2], 3),
        ("merged", [1, 2], 3),
        ("merged", [0, 1], 3),
    ],
)
def test_whatever_dies_when_the_newest_merge_and_all_that_is_owed_are_kept(
    ranks: Start, tmp_path: Path, place: str, dying: list[int], count: int
) -> None:
    number = 2 if place == "merged" else 1
    die = {"ranks": dying, "place": place, "round": number}
    ended = ranks(3, runs, log="first", rounds=5, hosts=["run"], die=die)
    for rank, one in enumerate(ended):
        assert (one.code == KILLED) == (rank in dying), one.err
        assert rank in dying or "is gone" in one.error
    newest = 2 if place == "merged" and len(dying) < 3 else 1
    again = ranks(count, runs, log="second", rounds=3, begin=newest, hosts=["run"])
    workers = finished(again)
    assert workers == list(range(count))
    first, second = Book(tmp_path, "first"), Book(tmp_path, "second")
    # what was on its way when they died is merged first, without those whose update was not whole on the disk
    began = newest + any(int(first.of(worker, "sent")["round"]) == newest for worker in workers if worker < 3)
    assert again[0].said["began"] == began
    assert again[0].said["round"] == began + 3
    for worker in workers:
        owes = second.of(worker, "began")["owed"]
        if worker == 3:
            assert not owes.any(), "it is new"
            continue
        sent, kept = first.of(worker, "sent"), place != "writing" or worker not in dying
        if not kept:  # its update of round 1 was never whole on the disk, that of round 0 was
            wanted = first.of(worker, "merge-0")["owed"]
        else:
            wanted = sent["whole"] - sent["decoded"]
        np.testing.assert_allclose(owes, wanted, atol=1e-7)
        assert owes.any()
    second.nothing_is_lost(workers, range(began, began + 3))


@pytest.mark.slow
def test_what_is_trained_after_a_crash_is_not_thrown_away(ranks: Start, tmp_path: Path) -> None:
    die = {"ranks": [1], "place": "written down", "round": 1}
    ranks(2, runs, log="first", rounds=5, hosts=["run"], die=die)
    ranks(2, runs, log="second", rounds=2, begin=1, hosts=["run"])
    second = Book(tmp_path, "second")
    assert second.of(0, "merge-1")["again"], "what was on its way is merged at once"
    row = second.of(0, "merge-2")
    assert not row["again"], "two steps were trained, and an older update took their place"
    assert row["trained"].any()


@pytest.mark.slow
def test_the_newest_merge_counts_also_where_its_worker_does_not_come_back(
    ranks: Start, tmp_path: Path
) -> None:
    """Only worker 2 wrote the merge down before all died; the others see its folder, for they share it."""
    die = {"ranks": [0, 1], "place": "merged", "round": 2}
    ranks(3, runs, log="first", rounds=5, hosts=["run"], die=die)
    again = ranks(2, runs, log="second", rounds=1, begin=2, hosts=["run"])
    assert finished(again) == [0, 1]
    assert again[0].said["began"] == 2
    Book(tmp_path, "second").nothing_is_lost([0, 1], range(2, 3))
    third = ranks(3, runs, log="third", rounds=1, begin=3, hosts=["run"])
    assert finished(third) == [0, 1, 2]
    assert third[0].said["began"] == 3


@pytest.mark.slow
def test_a_worker_that_was_away_owes_what_it_owed(ranks: Start, tmp_path: Path) -> None:
    ranks(3, runs, log="first", rounds=2, hosts=["run"])
    ranks(2, runs, log="second", rounds=3, begin=2, hosts=["run"])
    ended = ranks(3, runs, log="third", rounds=2, begin=5, hosts=["run"])
    assert finished(ended) == [0, 1, 2]
    owed = Book(tmp_path, "first").of(2, "merge-1")["owed"]
    assert owed.any()
    np.testing.assert_array_equal(Book(tmp_path, "third").of(2, "began")["owed"], owed)
    Book(tmp_path, "third").nothing_is_lost([0, 1, 2], range(5, 7))


@pytest.mark.slow
def test_hosts_have_folders_of_their_own_and_an_empty_one_is_given_the_trunk(
    ranks: Start, tmp_path: Path
) -> None:
    hosts = ["host-a", "host-b", "host-c"]
    ranks(3, runs, log="first", rounds=2, hosts=hosts)
    shutil.rmtree(tmp_path / "host-b")
    again = ranks(3, runs, log="second", rounds=2, begin=2, hosts=hosts)
    assert finished(again) == [0, 1, 2]
    assert [one.said["began"] for one in again] == [2, 2, 2]
    first, second = Book(tmp_path, "first"), Book(tmp_path, "second")
    for worker in (0, 2):
        np.testing.assert_array_equal(second.of(worker, "began")["owed"], first.of(worker, "merge-1")["owed"])
    assert not second.of(1, "began")["owed"].any()
    second.nothing_is_lost([0, 1, 2], range(2, 4))


@pytest.mark.slow
def test_hosts_in_another_order_bring_their_workers(ranks: Start, tmp_path: Path) -> None:
    ranks(3, runs, log="first", rounds=2, hosts=["host-a", "host-b", "host-c"])
    again = ranks(4, runs, log="second", rounds=2, begin=2, hosts=["host-c", "host-new", "host-a", "host-b"])
    assert finished(again) == [2, 3, 0, 1]
    for worker in range(3):
        owed = Book(tmp_path, "first").of(worker, "merge-1")["owed"]
        np.testing.assert_array_equal(Book(tmp_path, "second").of(worker, "began")["owed"], owed)
    Book(tmp_path, "second").nothing_is_lost([0, 1, 2, 3], range(2, 4))


@pytest.mark.slow
def test_other_settings_than_the_folders_are_named_at_every_rank(ranks: Start) -> None:
    ranks(2, runs, log="first", rounds=1, hosts=["run"])
    for one in ranks(2, runs, log="second", rounds=1, hosts=["run"], bits=0.7):
        assert one.error.startswith("StateError: the run in the folder has up = ")
        assert "go on with its settings" in one.error


# -- one rank, in this process -----------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process is the only rank."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def local_in(
    folder: Path, kind: str = "plain", rounds: int = 0, momentum: float = 0.9, **options: Any
) -> LocalSGD:
    """A run in a folder, and so many rounds of it."""
    model = small.built(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    local = LocalSGD(model, optimizer, **{"bits": 0.5, "every": 1, "folder": folder, **options})
    for step in range(rounds):
        optimizer.zero_grad()
        small.loss_of(model, 0, step).backward()
        optimizer.step()
        local.step()
    return local


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 0.6}, "up = "),
        ({"bits": None, "codec": "topk"}, "codecs = |up = "),
        ({"outer": "nesterov"}, "merge = "),
        ({"division": 0.5}, "merge = "),
        ({"clip_norm": 2.0}, "clip_norm = None, this call 2.0"),
        ({"seed": 4}, "seed = 0, this call 4"),
        ({"kind": "norm"}, "layout = "),
    ],
)
def test_settings_that_changed_are_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    local_in(tmp_path / "run", rounds=1)
    with pytest.raises(StateError, match=f"the run in the folder has ({words})"):
        local_in(tmp_path / "run", **options)
    assert local_in(tmp_path / "run", every=7).round == 1, "steps between merges may change"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", ["trunk", "own"])
def test_a_commit_of_another_version_is_named(tmp_path: Path, kind: str) -> None:
    local_in(tmp_path / "run", rounds=1)
    store = Store(tmp_path / "run" / "worker-0" / kind)
    found = load_snapshot(store, kind)
    assert found is not None
    digest = store.put(canonical.dumps({**found, "version": 99}))
    store.swap(kind, store.read(kind), digest)
    with pytest.raises(StateError, match="is of version 99, and this is version 1"):
        local_in(tmp_path / "run")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", ["trunk", "own"])
@pytest.mark.parametrize("how", ["cut", "missing", "no digest"])
def test_a_damaged_file_is_named_whichever_it_is(tmp_path: Path, kind: str, how: str) -> None:
    local_in(tmp_path / "run", rounds=2)
    root = tmp_path / "run" / "worker-0" / kind
    paths = sorted((root / "objects").rglob("*")) if how != "no digest" else [root / "refs" / kind]
    files = [path for path in paths if path.is_file()]
    assert len(files) >= 4 or how == "no digest"
    for path in files:
        content = path.read_bytes()
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2])
        with pytest.raises(StateError, match=f"worker-0/{kind}"):
            local_in(tmp_path / "run")
        path.write_bytes(content)
    assert local_in(tmp_path / "run").round == 2


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", ["plain", "bf16", "norm"])
def test_every_kind_of_model_is_kept_with_its_moments(tmp_path: Path, kind: str) -> None:
    local = local_in(tmp_path / "run", kind, rounds=2)
    model, optimizer = local._model, local._optimizer
    again = local_in(tmp_path / "run", kind)
    assert again.round == 2
    for one, other in zip(model.parameters(), again._model.parameters(), strict=True):
        assert torch.equal(one, other)
        mine, restored = (
            optimizer.state[one]["momentum_buffer"],
            again._optimizer.state[other]["momentum_buffer"],
        )
        assert torch.equal(mine, restored)
        assert mine.dtype == restored.dtype


@pytest.mark.usefixtures("alone")
def test_an_optimizer_without_moments_and_a_folder_without_a_run_are_fine(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("ours")
    local_in(tmp_path / "run", rounds=2, momentum=0.0)
    assert local_in(tmp_path / "run", momentum=0.0).round == 2


def test_a_trunk_travels_whole() -> None:
    arrays = {"merge/steps": np.array(3.0, np.float32)}
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "e": np.zeros((0, 2), np.float32)}
    trunk = Trunk({"plan": 1}, {"round": 3, "chain": "ab"}, arrays, state, (b"frame", b""))
    found = Trunk.unpack(trunk.pack())
    assert (found.plan, found.facts, found.recent, found.round) == (trunk.plan, trunk.facts, trunk.recent, 3)
    for name, array in state.items():
        np.testing.assert_array_equal(found.state[name], array)
    assert json.dumps(sorted(found.arrays)) == json.dumps(["merge/steps"])


KNOWN = st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True).map(sorted), min_size=1, max_size=6)


@given(KNOWN)
def test_every_rank_gets_one_number_and_nobody_anothers(known: list[list[int]]) -> None:
    chosen = numbers_for(known)
    assert len(set(chosen)) == len(known)
    everywhere = {number for numbers in known for number in numbers}
    for rank, number in enumerate(chosen):
        assert number in known[rank] or number not in everywhere


def test_numbers_stay_with_their_folders() -> None:
    assert numbers_for([[], [], []]) == [0, 1, 2]
    assert numbers_for([[0, 1, 2]] * 2) == [0, 1]
    assert numbers_for([[0, 1]] * 4) == [0, 1, 2, 3]
    assert numbers_for([[1], [0], []]) == [1, 0, 2]
    assert numbers_for([[5], [5]]) == [5, 1] or numbers_for([[5], [5]]) == [0, 1]
