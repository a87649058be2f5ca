"""The strategy's half against replies that were changed on the way: named errors, and a trunk as before."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from tests.engines.flower.inside import Inside, arrays_in, grid_of, model, record, same

import phloem.flower
from phloem import canonical
from phloem.engines.flower.exchange import Exchange, Taken
from phloem.engines.flower.greeting import REFUSAL, REFUSED, Answer
from phloem.engines.flower.records import packed, unpacked

pytestmark = pytest.mark.service("flower")


class Kept(phloem.flower.Compressed):
    """Keeps the exchange and the replies as they stood before a round was merged."""

    kept: dict[int, tuple[Exchange, list[Message]]]

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        merge = self._exchange.coordinator.merger
        self.kept[server_round] = copy.deepcopy(self._exchange, {id(merge): merge}), replies
        return super().aggregate_train(server_round, replies)


@pytest.fixture(scope="module")
def second_round(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exchange, Message]:
    strategy = Kept(FedAvg(), bits=1.0)
    strategy.kept = {}
    random.seed(0)
    strategy.start(grid_of(tmp_path_factory.mktemp("nodes"), (1, 2)), record(model()), num_rounds=2)
    exchange, replies = strategy.kept[2]
    return exchange, next(reply for reply in replies if reply.metadata.src_node_id == 1)


def changed(payload: bytes) -> Iterator[bytes]:
    for place in range(len(payload)):
        for bit in (0, 4, 7):
            yield payload[:place] + bytes([payload[place] ^ (1 << bit)]) + payload[place + 1 :]
    for end in range(len(payload)):
        yield payload[:end]
    yield payload + b"\0"
    yield payload + payload


def test_a_reply_with_any_byte_changed_is_refused_or_stands_for_the_same_update(
    second_round: tuple[Exchange, Message],
) -> None:
    exchange, reply = second_round
    merge = exchange.coordinator.merger
    payload = unpacked(reply.content["arrays"])
    (honest,) = copy.deepcopy(exchange, {id(merge): merge}).incoming(2, "train", [reply])
    assert isinstance(honest, Taken)
    before = exchange.coordinator.state
    copies = {name: array.copy() for name, array in before.items()}
    refused = taken = 0
    for data in changed(payload):
        other = copy.copy(reply)
        other.content = RecordDict(dict(reply.content.items()))
        other.content["arrays"] = packed(data)
        for name in ("_updates", "_refused"):
            getattr(exchange.coordinator, name).clear()
        exchange.nodes.ready.update({1, 2})
        (found,) = exchange.incoming(2, "train", [other])
        if isinstance(found, Taken):
            taken += 1
            assert found.frame == honest.frame
            assert same(found.exact, honest.exact)
            continue
        refused += 1
        assert found.error.code == REFUSAL
        assert found.error.reason.startswith(REFUSED)
        assert not exchange.coordinator._updates
    assert exchange.coordinator.state is before
    assert same(before, copies)
    assert refused > 300
    assert taken < 8  # the number of examples, which the strategy does not look at


JUNK = (None, True, -1, 1 << 70, 0.5, "", "zz", "ff", "ff" * 32, [], {}, 10_000)


def test_no_part_of_an_answer_to_a_greeting_can_be_junk_without_the_run_going_on(tmp_path: Path) -> None:
    whole = canonical.loads(Answer(1, "ab" * 32).records()["phloem"]["answer"])
    tables: list[Any] = [{**whole, key: junk} for key in whole for junk in JUNK]
    tables += [{k: v for k, v in whole.items() if k != key} for key in whole]
    tables += [[], "text", 1, None]
    answers = iter([*map(canonical.dumps, tables), b"", b"{", b"\xff", 7, "text", [1.5]])
    grid = grid_of(tmp_path, (1, 2, 3))
    given: list[Any] = []

    def alter(message: Message) -> Message:
        if (
            message.metadata.src_node_id == 3
            and message.has_content()
            and "phloem" in message.content.config_records
        ):
            given.append(next(answers, None))
            if given[-1] is not None:
                message.content["phloem"] = ConfigRecord({"answer": given[-1]})
        return message

    grid.alter_up = alter
    strategy = phloem.flower.Compressed(FedAvg(fraction_evaluate=0.0), bits=1.0)
    random.seed(0)
    first = record({"w": model()["weight"]})
    for _ in range(40):
        result = strategy.start(grid, first, num_rounds=2)
        strategy._exchange.nodes.doubt(3)
        first = result.arrays
    assert given[-1] is None  # all of them were given


def test_a_node_cannot_take_another_ones_number(tmp_path: Path) -> None:
    results = []
    for turn, forged in enumerate((True, False)):
        grid: Inside = grid_of(tmp_path / str(turn))
        stolen: dict[int, RecordDict] = {}

        def alter(message: Message, forged: bool = forged, stolen: Any = stolen) -> Message | None:
            node = message.metadata.src_node_id
            if message.metadata.message_type != "train" or not message.content.array_records:
                return message
            stolen[node] = message.content
            if node == 3:
                if not forged:
                    return None
                message.content = stolen[1]
            return message

        grid.alter_up = alter
        grid.shuffle = lambda replies: sorted(replies, key=lambda reply: reply.metadata.src_node_id)

        class Sorted(FedAvg):
            def configure_train(self, *args: Any) -> Any:
                return sorted(super().configure_train(*args), key=lambda m: m.metadata.dst_node_id)

        random.seed(0)
        strategy = phloem.flower.Compressed(Sorted(), bits=1.0)
        results.append(arrays_in(strategy.start(grid, record(model()), num_rounds=2).arrays))
    assert same(*results)
