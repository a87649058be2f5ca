"""Messages between ranks: all told apart, all with a limit of bytes and of time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.engines.torch.ranks import KILLED, Here, Start

from phloem.engines.torch.peers import Peers
from phloem.errors import ConfigError, StateError


def refusal(call: object) -> str:
    """The words of the error that a call raises."""
    assert callable(call)
    try:
        call()
    except (ConfigError, StateError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def talks(here: Here) -> None:
    """Everything that needs no rank to fail."""
    here.begin()
    peers = Peers(seconds=30.0)
    here.say(gathered=[text.decode() for text in peers.gather(f"rank {here.rank}".encode(), 100)])
    here.say(empty=[len(text) for text in peers.gather(b"x" * here.rank, 100)])

    tags = [peers.tag() for _ in range(6)]
    found: dict[int, list[int]] = {}

    def exchange(tag: int) -> None:
        found[tag] = [len(text) for text in peers.gather(b"y" * (1000 * tag + here.rank), 10_000, tag)]

    order = tags if here.rank == 0 else tags[::-1]  # threads need not agree about what comes first
    threads = [threading.Thread(target=exchange, args=(tag,)) for tag in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    here.say(at_once=all(found[tag] == [1000 * tag + rank for rank in range(here.world)] for tag in tags))

    facts = {"every": 30, "rate": 0.5}
    peers.agree("nothing", facts)
    here.say(
        other=refusal(lambda: peers.agree("the run", {**facts, "every": 30 + 7 * (here.rank == 1)})),
        more=refusal(lambda: peers.agree("the run", facts | ({"new": 1} if here.rank == 1 else {}))),
        fewer=refusal(lambda: peers.agree("the run", {} if here.rank == 1 else {"rate": 0.5})),
    )
    here.say(sent=peers.traffic.sent, received=peers.traffic.received)
    last = here.world - 1
    if here.rank in (0, last):
        few = Peers(dist.new_group([0, last], use_local_synchronization=True), 30.0)
        here.say(
            part=[few.rank, few.world, [text.decode() for text in few.gather(str(here.rank).encode(), 9)]]
        )
    dist.barrier()
    dist.destroy_process_group()


def test_ranks_gather_at_once_in_any_order_and_say_who_disagrees(ranks: Start) -> None:
    ended = ranks(3, talks)
    for rank, said in enumerate(one.said for one in ended):
        assert said["gathered"] == ["rank 0", "rank 1", "rank 2"]
        assert said["empty"] == [0, 1, 2]
        assert said["at_once"]
        assert said["other"].startswith(
            "ConfigError: the ranks disagree about the run: every is 37 at rank 1, 30 at rank 0"
        )
        assert "new is 1 at rank 1, None at rank 0" in said["more"]
        assert "rate is None at rank 1, 0.5 at rank 0" in said["fewer"]
        assert said["sent"] > 2 * 21_000 + 5 * rank
    assert sum(one.said["sent"] for one in ended) == sum(one.said["received"] for one in ended)
    assert ended[0].said["part"] == [0, 2, ["0", "2"]]
    assert ended[2].said["part"] == [1, 2, ["0", "2"]]
    assert "part" not in ended[1].said


def too_much(here: Here) -> None:
    here.begin()
    peers = Peers(seconds=5.0)
    peers.gather(b"x" * (104 if here.rank == 1 else 10), 100)


def test_a_message_larger_than_allowed_ends_no_process_but_in_an_error(ranks: Start) -> None:
    receiver, sender = ranks(2, too_much)
    assert receiver.error.startswith("StateError: rank ")
    assert "rank 1" in receiver.error
    assert "104 bytes" in sender.error
    assert "100" in sender.error


def waits(here: Here, *, how: str) -> None:
    here.begin()
    peers = Peers(seconds=2.0 if how == "silent" else 60.0)
    peers.gather(b"here", 10)
    if here.rank == here.world - 1:
        if how == "silent":
            here.fall_silent()
        here.die()
    peers.gather(b"still here", 10)


@pytest.mark.slow
def test_a_silent_rank_is_named_once_its_time_is_over(ranks: Start) -> None:
    ended = ranks(2, waits, how="silent", silent=[1])
    assert ended[0].error.startswith("StateError: rank 0: rank 1 sent nothing (2.")
    assert "raise timeout_seconds" in ended[0].error


def test_a_killed_rank_is_named_at_once(ranks: Start) -> None:
    ended = ranks(3, waits, how="dies")
    assert ended[2].code == KILLED
    for one in ended[:2]:
        assert one.error.startswith("StateError: rank ")
        assert "is gone" in one.error
        assert one.heard["failed"] - ended[2].heard["died"] < 20.0
    assert any("rank 2 is gone" in one.error for one in ended[:2])


def missing(here: Here) -> None:
    here.begin()
    if here.rank == 1:
        here.fall_silent()
    Peers(seconds=2.0)


@pytest.mark.slow
def test_a_rank_that_never_comes_is_noticed(ranks: Start) -> None:
    ended = ranks(2, missing, silent=[1])
    assert ended[0].error.startswith("StateError: rank 0: no group of 2 ranks came about in 2 s")


def test_without_torch_distributed_the_hint_says_how_to_start_it() -> None:
    with pytest.raises(ConfigError, match=r"init_process_group first"):
        Peers()


def test_one_rank_alone_needs_no_others(tmp_path: Path) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        peers = Peers()
        assert peers.gather(b"me", 10) == [b"me"]
        peers.agree("everything", {"a": 1})
        assert peers.traffic.sent == 0
        assert torch.distributed.get_world_size() == 1
    finally:
        dist.destroy_process_group()
