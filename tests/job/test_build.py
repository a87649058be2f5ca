"""The main job as a call: where it writes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import tiny
from tests.tiny import table

import phloem
from phloem.engines.host import Host
from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, StateError
from phloem.job.directory import claimed
from phloem.job.lifecycle import read
from phloem.job.watch import Unwatched
from phloem.recipe import load_recipe
from phloem.rounds import events
from phloem.store.files import Store
from phloem.tensors import state_digest


class Stopped(Exception):
    """Raised by a watcher in the middle of a run."""


class StopAfter(Unwatched):
    """Lets so many rounds happen."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def round(self, record: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped


def interrupted(root: Path, after: int = 2, **sections: Any) -> Path:
    """A run that stopped after so many rounds."""
    with pytest.raises(Stopped):
        phloem.build(table(**sections), out=root, watch=StopAfter(after))
    return root


def one_sentence(error: PhloemError) -> str:
    assert error.message
    assert "\n" not in str(error)
    return str(error)


def test_a_tiny_run_learns_and_reports_what_it_did(tmp_path: Path) -> None:
    run = phloem.build(table(rounds=8), out=tmp_path / "run")
    assert run.records[-1].metric > run.records[0].metric
    assert run.summary["rounds"] == len(run.records) == 8
    assert run.summary["metric"]["value"] == run.records[-1].metric
    assert run.summary["updates_refused"] == 0
    assert {"test", "versions", "seeds", "plan", "chain", "commit", "state_digest"} <= set(run.summary)
    assert not (run.path / "private").exists()


def test_equal_recipes_and_seeds_give_equal_runs_and_another_seed_another(tmp_path: Path) -> None:
    runs = [phloem.build(table(seed=seed), out=tmp_path / str(n)) for n, seed in enumerate((5, 5, 6))]
    digests = [run.summary["state_digest"] for run in runs]
    assert digests[0] == digests[1] != digests[2]
    assert runs[0].summary["commit"] == runs[1].summary["commit"]


@pytest.mark.parametrize("running", [{"workers": 2}, {"snapshot_every": 3}, {"keep_updates": False}], ids=str)
def test_how_a_machine_runs_the_job_changes_no_result(tmp_path: Path, running: dict[str, Any]) -> None:
    runs = [
        phloem.build(table(**more), out=tmp_path / str(n)) for n, more in enumerate(({}, {"run": running}))
    ]
    for key in ("state_digest", "total_bytes", "chain", "test", "commit"):
        assert runs[0].summary[key] == runs[1].summary[key]
    assert [record.metrics for record in runs[0].records] == [record.metrics for record in runs[1].records]


def test_a_run_without_kept_updates_stores_no_frames(tmp_path: Path) -> None:
    run = phloem.build(table(run={"keep_updates": False}), out=tmp_path / "run")
    store = Store(run.path)
    blobs = [store.get(digest) for digest in store.digests()]
    assert sum(blob[:1] == b"\xb1" for blob in blobs) == 1  # the first state


def test_a_run_stops_at_its_target_and_says_when(tmp_path: Path) -> None:
    whole = phloem.build(table(rounds=10), out=tmp_path / "whole")
    target = whole.records[4].metric
    first = next(record.round for record in whole.records if record.metric >= target)
    rounds = {"stop": "target", "target": target}
    run = phloem.build(
        load_recipe(table(rounds=10), [f"rounds.{k}={v}" for k, v in rounds.items()]), out=tmp_path / "r"
    )
    assert run.summary["rounds"] == run.summary["rounds_to_target"] == first + 1
    assert run.summary["bytes_to_target"] == run.summary["total_bytes"]
    never = phloem.build(
        load_recipe(table(), ["rounds.stop=target", "rounds.target=2.0"]), out=tmp_path / "never"
    )
    assert never.summary["rounds"] == 4
    assert never.summary["rounds_to_target"] is None


@pytest.mark.parametrize("recipe", ["default codecs", "all written out"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_where_it_stopped_with_or_without_naming_the_recipe_again(
    tmp_path: Path, recipe: str, workers: int
) -> None:
    keys = table(run={"workers": workers})
    if recipe == "default codecs":
        del keys["up"], keys["down"]
    whole = phloem.build(keys, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        phloem.build(keys, out=tmp_path / "torn", watch=StopAfter(2))
    run = phloem.build(keys, resume=tmp_path / "torn")
    assert run.summary["state_digest"] == whole.summary["state_digest"]
    assert run.summary["commit"] == whole.summary["commit"]


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_run_stopped_before_its_first_snapshot_starts_over(tmp_path: Path, rounds: int) -> None:
    every = {"snapshot_every": 3}
    whole = phloem.build(table(run=every), out=tmp_path / "whole")
    torn = interrupted(tmp_path / "torn", rounds, run=every)
    assert phloem.build(table(run=every), resume=torn).summary["commit"] == whole.summary["commit"]


def test_a_resumed_run_may_use_other_workers_but_no_other_recipe(tmp_path: Path) -> None:
    whole = phloem.build(table(), out=tmp_path / "whole")
    torn = interrupted(tmp_path / "torn")
    for change in ("rounds.max=9", "seed=1", "up.block=8", "task.rate=0.2", "sites.count=4"):
        with pytest.raises(ConfigError, match="was started from another recipe") as caught:
            phloem.build(table(), changes=[change], resume=torn)
        one_sentence(caught.value)
    run = phloem.build(table(), changes=["run.workers=1", "run.snapshot_every=2"], resume=torn)
    assert run.summary["commit"] == whole.summary["commit"]


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    first = phloem.build(table(), out=tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "objects").rglob("*")}
    (tmp_path / "run" / "private").mkdir()  # as after a kill between the summary and the cleaning
    again = phloem.build(table(), resume=tmp_path / "run")
    assert state_digest(again.state) == state_digest(first.state)
    assert [vars(record) for record in again.records] == [vars(record) for record in first.records]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (tmp_path / "run" / "private").exists()


def test_a_directory_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        phloem.build(table(), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    phloem.build(table(), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="continue it with --resume"):
        phloem.build(table(), out=tmp_path / "run")


def test_a_run_from_another_version_is_refused(tmp_path: Path) -> None:
    torn = interrupted(tmp_path / "run")
    marker = json.loads((torn / "run.json").read_text())
    (torn / "run.json").write_text(json.dumps({**marker, "layout": 7}))
    with pytest.raises(StateError, match="is a run of version 7, this is version 0") as caught:
        phloem.build(table(), resume=torn)
    assert "resume it with the Phloem that made it" in one_sentence(caught.value)


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="there is no run"):
            phloem.build(table(), resume=place)
    assert list(tmp_path.iterdir()) == []


def first_blob(store: Path) -> Path:
    return next(path for path in sorted((store / "objects").glob("*/*")))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, tuple[Callable[[Path], object], type[PhloemError]]] = {
    "run.json cut": (lambda root: (root / "run.json").write_text("{"), StateError),
    "run.json of another kind": (lambda root: (root / "run.json").write_text("[]"), StateError),
    "every private blob cut": (
        lambda root: [cut(path) for path in (root / "private" / "objects").glob("*/*")],
        FormatError,
    ),
    "the snapshot missing": (
        lambda root: [path.unlink() for path in (root / "private" / "objects").glob("*/*")],
        NotFoundError,
    ),
    "the snapshot's name empty": (
        lambda root: (root / "private" / "refs" / "resume").write_text(""),
        FormatError,
    ),
    "rounds.jsonl missing": (lambda root: (root / "rounds.jsonl").unlink(), StateError),
    "rounds.jsonl garbled": (lambda root: (root / "rounds.jsonl").write_text("{]\n" * 3), StateError),
    "rounds.jsonl of other records": (
        lambda root: (root / "rounds.jsonl").write_text("{}\n" * 3),
        StateError,
    ),
    "rounds.jsonl in no text": (lambda root: (root / "rounds.jsonl").write_bytes(b"\xff\n" * 3), PhloemError),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_directory_is_one_sentence(tmp_path: Path, damage: str) -> None:
    harm, kind = DAMAGES[damage]
    torn = interrupted(tmp_path / "run")
    harm(torn)
    with pytest.raises(kind) as caught:
        phloem.build(table(), resume=torn)
    one_sentence(caught.value)


def test_a_damaged_blob_of_the_trunk_is_found_when_it_is_read(tmp_path: Path) -> None:
    run = phloem.build(table(), out=tmp_path / "run")
    store = Store(run.path)
    head = store.read("trunk")
    assert head is not None
    cut(run.path / "objects" / head[:2] / head[2:])
    with pytest.raises(FormatError, match="is damaged"):
        store.get(head)


@pytest.mark.parametrize("name", ["summary.json", "model.safetensors"])
def test_a_finished_run_with_a_damaged_file_says_which(tmp_path: Path, name: str) -> None:
    run = phloem.build(table(), out=tmp_path / "run")
    (run.path / name).write_bytes(b"{")
    with pytest.raises(StateError, match=f"{name} is damaged"):
        read(run.path)


def test_a_run_whose_task_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = interrupted(tmp_path / "run")
    first = tiny.Blobs.initial_state
    with monkeypatch.context() as changed:
        changed.setattr(tiny.Blobs, "initial_state", lambda task, seed: first(task, seed + 1))
        with pytest.raises(StateError, match="the task now gives another first state"):
            phloem.build(table(), resume=torn)
    draw = tiny.Blobs._draw
    with monkeypatch.context() as changed:
        changed.setattr(tiny.Blobs, "_draw", lambda task, label, count: draw(task, label + "!", count))
        (torn / "private" / "refs" / "resume").unlink()
        with pytest.raises(StateError, match="round 0 was made again and came out different"):
            phloem.build(table(), resume=torn)


def test_an_update_with_nan_is_refused_and_named_and_the_trunk_stays_finite(tmp_path: Path) -> None:
    run = phloem.build(table(task={"nan_site": "site-1", "fault_from": 1}), out=tmp_path / "run")
    assert [record.refused for record in run.records] == [
        {},
        *[{"site-1": "refused by the site itself: tensor 'bias' holds NaN or infinity"}] * 3,
    ]
    assert [record.accepted for record in run.records[1:]] == [["site-0", "site-2"]] * 3
    assert all(np.isfinite(array).all() for array in run.state.values())
    assert run.summary["updates_refused"] == 3
    assert run.records[2].per_site["site-1"].status == "refused"


def test_an_update_of_absurd_size_is_refused_and_named(tmp_path: Path) -> None:
    run = phloem.build(table(task={"huge_site": "site-0"}), out=tmp_path / "run")
    assert all("values beyond 2^100" in record.refused["site-0"] for record in run.records)
    assert all(np.isfinite(array).all() for array in run.state.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_whose_state_changes_shape_stops_the_run_in_a_sentence(tmp_path: Path, workers: int) -> None:
    recipe = table(task={"bad_shape_site": "site-1", "fault_from": 2}, run={"workers": workers})
    with pytest.raises(
        ConfigError, match="site 'site-1' trained a model of another shape: tensor 'bias'"
    ) as caught:
        phloem.build(recipe, out=tmp_path / "run")
    one_sentence(caught.value)
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 2


def test_all_sites_away_in_a_round_is_a_round_without_updates(tmp_path: Path) -> None:
    away = [{"site": f"site-{n}", "first": 1, "last": 2} for n in range(3)]
    run = phloem.build(table(rounds=5, sites={"away": away}), out=tmp_path / "run")
    assert [len(record.accepted) for record in run.records] == [3, 0, 0, 3, 3]
    assert [row.status for row in run.records[1].per_site.values()] == ["away"] * 3


def test_partial_participation_asks_that_share_and_the_others_follow(tmp_path: Path) -> None:
    run = phloem.build(table(count=6, sites={"participation": 0.5}), out=tmp_path / "run")
    assert [len(record.accepted) for record in run.records] == [3] * 4
    assert len({tuple(record.accepted) for record in run.records}) > 1
    assert {row.status for record in run.records for row in record.per_site.values()} == {
        "accepted",
        "silent",
    }


def test_sites_that_diverge_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = Host.deliver

    def with_a_flipped_bit(host: Host, name: str, order: bytes) -> Any:
        answer = deliver(host, name, order)
        site = host.sites[name]
        if name == "site-1" and site.at.round == 1:
            bias = site.at.state["bias"].copy()
            bias.view(np.uint32)[0] ^= 1 << 20
            site.at = dataclasses.replace(site.at, state={**site.at.state, "bias": bias})
        return answer

    monkeypatch.setattr(Host, "deliver", with_a_flipped_bit)
    with pytest.raises(
        StateError, match="site 'site-1' decoded another state than the coordinator in round 2"
    ):
        phloem.build(table(), out=tmp_path / "run")


def test_a_listener_that_raises_stops_the_run_which_can_then_be_resumed(tmp_path: Path) -> None:
    whole = phloem.build(table(), out=tmp_path / "whole")
    for kind in (events.TrunkMoved, events.UpdateReceived, events.OrderSent, events.StateReached):

        def object_in_round_2(event: events.Event, kind: type[Any] = kind) -> None:
            if isinstance(event, kind) and event.round == 2:
                raise Stopped

        out = tmp_path / kind.__name__
        with pytest.raises(Stopped):
            phloem.build(table(), out=out, emit=object_in_round_2)
        assert phloem.build(table(), resume=out).summary["commit"] == whole.summary["commit"]


def test_the_uncompressed_runs_of_a_comparison_are_in_the_summary(tmp_path: Path) -> None:
    run = phloem.build(table(compare={"rounds": {"max": 3}}), out=tmp_path / "run", compare=True)
    assert set(run.summary["compare"]) == {"fp32", "bf16"}
    assert run.summary["compare"]["fp32"]["rounds"] == 3
    assert run.summary["compare"]["fp32"]["bits_per_parameter_up"] > 32
    assert json.loads((run.path / "summary.json").read_text())["compare"] == run.summary["compare"]


def test_a_wrong_compare_section_is_found_before_the_run(tmp_path: Path) -> None:
    for compare in ({"round": {"max": 3}}, {"rounds": {"mx": 3}}):
        with pytest.raises(ConfigError, match="did you mean"):
            phloem.build(table(compare=compare), out=tmp_path / "run", compare=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"task": {"name": "tests.tiny:Blob"}}, "did you mean 'Blobs'"),
        ({"task": {"name": "tests.tini:Blobs"}}, "cannot be imported"),
        ({"task": {"featurs": 3}}, "did you mean 'features'"),
        ({"task": {"features": "many"}}, "must be a whole number"),
        ({"up": {"codec": "topc"}}, "did you mean 'topk'"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_run_leaves_nothing_behind(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        phloem.build(table(**keys), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_another_process_works_on_is_refused_and_not_disturbed(tmp_path: Path) -> None:
    whole = phloem.build(table(), out=tmp_path / "whole")

    class Meddler(Unwatched):
        def round(self, record: Any) -> None:
            with pytest.raises(StateError, match="another process is at work on the run"):
                phloem.build(table(), resume=tmp_path / "run")

    run = phloem.build(table(), out=tmp_path / "run", watch=Meddler())
    assert run.summary["commit"] == whole.summary["commit"]
    assert len(run.records) == 4


def test_a_resume_sweeps_out_what_killed_processes_left_half_written(tmp_path: Path) -> None:
    torn = interrupted(tmp_path / "run")
    folder = next((torn / "objects").iterdir())
    halves = [
        torn / ".rounds.jsonl.0a1b2c3d",
        folder / ".0123456789abcdef.0a1b2c3d",
        torn / "refs" / ".trunk.0a1b2c3d",
    ]
    for path in halves:
        path.write_bytes(b"half")
    (torn / ".gitignore").write_text("private\n")
    phloem.build(table(), resume=torn)
    assert not any(path.exists() for path in halves)
    assert (torn / ".gitignore").exists()


def test_at_the_end_every_site_holds_the_trunk_even_one_that_was_away(tmp_path: Path) -> None:
    heard: list[events.Event] = []
    away = [{"site": "site-1", "first": 2, "last": 9}]
    run = phloem.build(table(sites={"away": away}), out=tmp_path / "run", emit=heard.append)
    last = [event for event in heard if isinstance(event, events.StateReached) and event.round == 4]
    assert {event.site for event in last} == {"site-0", "site-1", "site-2"}
    assert {event.state for event in last} == {run.summary["state_digest"]}


def test_only_the_newest_snapshot_is_kept(tmp_path: Path) -> None:
    blobs = []
    for rounds in (2, 7):
        torn = interrupted(tmp_path / str(rounds), rounds, rounds=8)
        blobs.append(len(list((torn / "private" / "objects").glob("*/*"))))
    assert blobs[1] <= blobs[0] + 7  # the newest frames are part of it, older states and memories are not


def test_a_directory_in_which_another_process_begins_a_run_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    with claimed(root), pytest.raises(StateError, match="another process is at work"):
        phloem.build(table(), out=root)
    phloem.build(table(rounds=1), out=root)


def test_a_finished_run_that_is_being_compared_is_not_disturbed_by_a_resume(tmp_path: Path) -> None:
    run = phloem.build(table(rounds=1), out=tmp_path / "run")
    beside = run.path / "objects" / ".half-written.0123abcd"
    beside.touch()
    with claimed(run.path), pytest.raises(StateError, match="another process is at work"):
        phloem.build(table(rounds=1), resume=run.path)
    assert beside.exists()


@pytest.mark.parametrize("name", ["private", "objects", "refs", "compare"])
def test_a_run_directory_with_links_in_it_is_refused_and_what_they_name_is_left_alone(
    tmp_path: Path, name: str
) -> None:
    root, victim = interrupted(tmp_path / "hostile"), interrupted(tmp_path / "victim")
    before = sorted(path for path in victim.rglob("*"))
    if (root / name).exists():
        (root / name).rename(tmp_path / "aside")
    (root / name).symlink_to(victim / "private", target_is_directory=True)
    with pytest.raises(StateError, match="is a link"):
        phloem.build(table(), resume=root)
    assert sorted(path for path in victim.rglob("*")) == before


def test_a_run_is_not_continued_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.Blobs, "data_digest", "0" * 64, raising=False)
    root = interrupted(tmp_path / "run")
    monkeypatch.setattr(tiny.Blobs, "data_digest", "1" * 64, raising=False)
    with pytest.raises(StateError, match="was started with other data"):
        phloem.build(table(), resume=root)
    monkeypatch.setattr(tiny.Blobs, "data_digest", "0" * 64, raising=False)
    assert phloem.build(table(), resume=root).summary["data_digest"] == "0" * 64


def test_torch_has_its_threads_back_after_a_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        phloem.build(table(rounds=1), out=tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_frames_of_a_catching_up_site_are_counted_one_by_one(tmp_path: Path) -> None:
    away = {"count": 3, "away": [{"site": "site-1", "first": 1, "last": 1}]}
    coarse = {"codec": "sign"}  # two of its frames are less than a key-frame
    run = phloem.build(table(rounds=5, sites=away, up=coarse, down=coarse), out=tmp_path / "run")
    assert [record.per_site["site-1"].frames_down for record in run.records] == [0, 2, 1, 1, 1]
    rates = [record.bits_per_parameter_down for record in run.records]
    assert min(rates) <= run.summary["bits_per_parameter_down"] <= max(rates)
