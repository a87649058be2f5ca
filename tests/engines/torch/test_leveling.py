"""`bits="auto"`: every rank chooses the same levels, from what the rounds before took on the wire."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from tests.engines.torch import small
from tests.engines.torch.ranks import Here, Start
from tests.engines.torch.test_commits import Book, finished, runs

from phloem import tcp
from phloem.engines.torch.leveling import _TIMES, Leveling, exchange_seconds, round_trip_seconds
from phloem.errors import ConfigError, StateError
from phloem.planner.levels import LADDER, UP
from phloem.rounds.plan import Choice
from phloem.rounds.result import Received, RoundResult
from phloem.torch import LocalSGD
from phloem.wire.messages import Report

EVERY = 40


def place(words: str) -> int:
    """Of a level in the ladder, by what is said of it."""
    return next(n for n, level in enumerate(LADDER) if words in level.keys)


# -- real ranks --------------------------------------------------------------------------------------------------


def adapts(
    here: Here, *, rounds: int, kept: bool = False, more: int = 1, nan: int = -1, deaf: Sequence[int] = ()
) -> None:
    """Rounds at chosen levels. The last rank takes `more` times as long; in round `nan` it breaks its weights.

    Ranks in `deaf` find no sockets.
    """
    here.begin()
    if here.rank in deaf:
        tcp._listed = list
    model = small.built("wide")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    folder = here.folder / f"host-{here.rank}" if kept else None
    local = LocalSGD(model, optimizer, every=EVERY, bits="auto", folder=folder)
    assert local._leveling is not None
    controller = local._leveling.controller
    lines = {name: site.up.seconds(1000) for name, site in controller.sites.items()}
    here.say(began=local.round, knows=lines, worker=local.worker)
    last = here.rank == here.world - 1
    for _ in range(rounds):
        number = local.round
        for step in range(number * EVERY, (number + 1) * EVERY):
            for _ in range(more if last else 1):
                optimizer.zero_grad()
                small.loss_of(model, local.worker, step).backward()
            optimizer.step()
            if last and number == nan:
                with torch.no_grad():
                    next(model.parameters())[0, 0] = math.nan
            merged = local.step()
        assert merged is not None
        row = {
            "level": merged.level,
            "refused": {str(worker): why for worker, why in merged.refused.items()},
            "model": small.digest(model.parameters()),
            "lines": {name: site.up.seconds(1000) for name, site in controller.sites.items()},
            "round trips": [site.up.round_trip for site in controller.sites.values()],
            "train": {name: site.train for name, site in controller.sites.items()},
        }
        here.say(**{f"round {merged.round}": row})
    dist.destroy_process_group()


def rounds_of(ended: list[Any]) -> list[dict[str, Any]]:
    """What was said of every round, alike at every rank."""
    rows = [{name: row for name, row in one.said.items() if name.startswith("round")} for one in ended]
    for one in rows:
        assert one == rows[0]
    return list(rows[0].values())


def test_levels_become_finer_on_a_fast_line_and_are_the_same_at_every_rank(ranks: Start) -> None:
    found = [row["level"] for row in rounds_of(ranks(2, adapts, rounds=4))]
    assert found[0] == "0.5 fast", "86,710 parameters in 6 kB"
    assert min(map(place, found)) < place("0.5 fast")


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")
@pytest.mark.parametrize(("deaf", "heard"), [((), True), ((0, 2), True), ((0, 1, 2), False)])
def test_ranks_choose_alike_where_some_or_none_of_them_hear_of_round_trips(
    ranks: Start, deaf: tuple[int, ...], heard: bool
) -> None:
    found = []
    for row in rounds_of(ranks(3, adapts, rounds=8, deaf=deaf)):
        assert len(set(row["round trips"])) == 1
        found += row["round trips"][:1]
    # clocks are not so exact that every exchange over loopback takes some time
    assert any(0 < round_trip < 0.1 for round_trip in found) == heard


@pytest.mark.slow
def test_waiting_for_a_rank_that_trains_for_long_is_no_time_on_the_line(ranks: Start) -> None:
    row = rounds_of(ranks(3, adapts, rounds=3, more=20))[-1]
    waited = row["train"]["2"] - row["train"]["0"]
    assert waited > row["train"]["0"]
    assert max(row["lines"].values()) < 0.25 * waited


@pytest.mark.slow
def test_a_rank_whose_update_is_refused_is_there_again_in_the_next_round(ranks: Start) -> None:
    rows = rounds_of(ranks(2, adapts, rounds=4, nan=1))
    assert [list(row["refused"]) for row in rows] == [[], ["1"], [], []]


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_knew_of_its_lines_at_any_number_of_ranks(ranks: Start) -> None:
    first = ranks(2, adapts, rounds=4, kept=True)
    knew = rounds_of(first)[-1]["lines"]
    assert all(knew.values())
    for count in (2, 3):
        ended = ranks(count, adapts, rounds=1, kept=True)
        assert [one.said["worker"] for one in ended] == list(range(count))
        assert all(one.said["began"] == 2 + count for one in ended)
        assert all(one.said["knows"].keys() == {"0", "1"} for one in ended)
        if count == 2:
            assert all(one.said["knows"] == knew for one in ended)
        rounds_of(ended)
    alone = ranks(1, adapts, rounds=2, kept=True)
    assert alone[0].said["began"] == 6
    assert [row["level"] for row in rounds_of(alone)] == ["none", "none"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "dying", "count"),
    [("training", [2], 3), ("written down", [2], 2), ("written down", [0, 1, 2], 3), ("merged", [0, 1], 4)],
)
def test_whatever_dies_when_nothing_is_lost(
    ranks: Start, tmp_path: Path, where: str, dying: list[int], count: int
) -> None:
    number = 2 if where == "merged" else 1
    die = {"ranks": dying, "place": where, "round": number}
    options: dict[str, Any] = {"hosts": ["run"], "bits": "auto"}
    ranks(3, runs, log="first", rounds=5, die=die, **options)
    newest = 2 if where == "merged" else 1
    again = ranks(count, runs, log="second", rounds=3, begin=newest, **options)
    workers = finished(again)
    assert workers == list(range(count))
    began = again[0].said["began"]
    first = Book(tmp_path, "first")  # what was on its way is merged at once
    assert began == newest + any(int(first.of(n, "sent")["round"]) == newest for n in workers if n < 3)
    Book(tmp_path, "second").nothing_is_lost(workers, range(began, began + 3))


def disagrees(here: Here) -> None:
    here.begin()
    model = small.built("wide")
    bits = "auto" if here.rank == 0 else 0.05
    LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.01), bits=bits, timeout_seconds=20)


def test_a_rank_with_fixed_bits_beside_one_that_chooses_is_named_at_both(ranks: Start) -> None:
    for one in ranks(2, disagrees):
        assert "the ranks disagree about local SGD: the codec is {" in one.error
        assert "at rank 1, 'auto' at rank 0" in one.error


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process is the only rank."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_levels_are_chosen_where_nobody_says_otherwise() -> None:
    model = small.built("one")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert LocalSGD(model, optimizer).merge().level == "none", "a rank alone sends everything"
    for options in ({"bits": 0.05}, {"codec": "topk"}):
        assert LocalSGD(model, optimizer, **options).merge().level == ""


def has_momentum(here: Here) -> None:
    here.begin()
    model = small.built("wide")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    local = LocalSGD(model, optimizer, outer="nesterov", timeout_seconds=20)
    here.say(levels=[merged.level for _ in range(3) if (merged := local.merge())])
    dist.destroy_process_group()


def test_with_momentum_outside_no_level_is_coarser_than_two_bits(ranks: Start) -> None:
    for one in ranks(2, has_momentum):
        assert len(one.said["levels"]) == 3
        assert max(map(place, one.said["levels"])) <= place("2 fast")


@pytest.mark.usefixtures("alone")
def test_words_that_mean_nothing_and_options_that_contradict_are_refused() -> None:
    model = small.built("one")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"bits": "fast"}, "'bits' must be a number or 'auto', found 'fast'"),
        ({"bits": "auto", "codec": "topk"}, "'bits' and 'codec' say both what frames are like"),
        ({"bits": "auto", "effort": "balanced"}, "'effort' goes with a number of bits"),
    ]
    for options, words in wrong:
        with pytest.raises(ConfigError, match=words):
            LocalSGD(model, torch.optim.SGD(model.parameters(), lr=0.01), **options)


@pytest.mark.usefixtures("alone")
def test_a_run_with_fixed_bits_does_not_go_on_with_chosen_ones(tmp_path: Path) -> None:
    model = small.built("one")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert LocalSGD(model, optimizer, bits=0.05, folder=tmp_path / "run").merge().level == ""
    with pytest.raises(StateError, match="the run in the folder has codecs = "):
        LocalSGD(model, optimizer, bits="auto", folder=tmp_path / "run")


# -- the same on lines that are made up --------------------------------------------------------------------------


def played(bytes_per_second: float, *, train: float, rounds: int = 12, world: int = 4) -> list[list[str]]:
    """The levels of every round, by rank: a million parameters, on a line that has just so many bytes per second."""
    parameters, names = 1_000_000, [str(rank) for rank in range(world)]
    told: list[bytes] = []
    wire = SimpleNamespace(world=world, gather=lambda message, most: told)
    ranks = [Leveling(cast("Any", wire), parameters) for _ in names]
    said = []
    for number in range(rounds):
        for one in ranks:
            one.opened(number, names, parameters)
        said.append([one.words(0) for one in ranks])
        level, option = ranks[0].controller.decide(number, names).up["0"]
        frame = bytes(int(LADDER[level].options[option].bytes(UP, parameters)))
        size = len(frame) + 60
        seconds = 0.02 + (world - 1) * size / bytes_per_second
        trained = [train * (1 + place) for place in range(world)]
        told[:] = [_TIMES.pack(ready, seconds + max(trained) - ready, 0.0) for ready in trained]
        result = RoundResult(
            number,
            tuple(Received(name, 1, frame) for name in names),
            {},
            b"",
            "",
            None,
            0.0,
            {},
            Choice({"codec": "none"}),
            1.0,
            {name: Report(0.5, each, 0.01, 0.0) for name, each in zip(names, trained, strict=True)},
        )
        for one in ranks:
            one.meet(0.0, 0.0, dict.fromkeys(names, size), result)
    return said


@pytest.mark.parametrize(
    ("bytes_per_second", "train", "finest", "coarsest"),
    [
        (1e9, 30.0, "none", "2 fast"),
        (1e6, 2.0, "0.5 fast", "0.05 fast"),
        (1e4, 2.0, "0.05 fast", "0.02 fast"),
    ],
)
def test_levels_follow_the_line_and_every_rank_says_the_same(
    bytes_per_second: float, train: float, finest: str, coarsest: str
) -> None:
    said = played(bytes_per_second, train=train)
    assert all(len(set(one)) == 1 for one in said)
    assert said[0][0] == "0.05 fast", "a few kilobytes"
    assert place(finest) <= place(said[-1][0]) <= place(coarsest)


def test_one_rank_that_says_nonsense_of_its_round_trip_moves_nobody() -> None:
    assert round_trip_seconds([0.04, 0.05, 0.041, 1e9]) == 0.041
    assert round_trip_seconds([0.04, math.nan, -1.0, 0.0, math.inf]) == 0.04
    assert round_trip_seconds([0.0, math.nan]) == 0.0


def test_who_was_ready_early_did_not_wait_for_the_line() -> None:
    assert exchange_seconds([(0.1, 5.3), (5.1, 0.3), (2.1, 3.3)]) == pytest.approx(0.3)
    assert exchange_seconds([(0.0, 0.1), (5.0, 0.0)]) > 0.0, "a clock that jumps is no reason to stop"
