"""The client's half alone: what it answers to greetings and orders, honest, damaged and hostile ones."""

from __future__ import annotations

import logging
import random
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.engines.flower.inside import (
    Inside,
    Seen,
    app_with,
    arrays_in,
    grid_of,
    model,
    record,
    same,
)

import phloem.flower
from phloem import canonical
from phloem.engines.flower.exchange import Exchange
from phloem.engines.flower.greeting import REFUSAL, REFUSED, Answer, Greeting, plan_from_json, plan_to_json
from phloem.engines.flower.records import packed, unpacked
from phloem.errors import ConfigError, FormatError
from phloem.rounds.merge import WeightedMerge

pytestmark = pytest.mark.service("flower")

CODEC = {"codec": "ecsq", "bits": 1.0, "effort": "fast"}


def exchange_of() -> Exchange:
    return Exchange("test", 0, CODEC, CODEC, record(model()), WeightedMerge(None))  # type: ignore[arg-type]


def greeting_of(exchange: Exchange) -> Greeting:
    at = exchange.coordinator
    return Greeting(
        "0102030405060708", 0, exchange.plan, exchange.manifest, 0, at.chain.hex(), str(at.digest)
    )


def asked(app: Any, content: RecordDict, root: Path, kind: str = "train") -> Message:
    """What a node answers to a message."""
    Inside({}, {})
    message = Message(content, 1, kind)
    reply: Message = app(message, Context(1, 1, {"phloem-state": str(root)}, RecordDict(), {}))
    return reply


def run(grid: Inside, rounds: int = 2, **more: Any) -> phloem.flower.Compressed:
    random.seed(0)
    strategy = phloem.flower.Compressed(FedAvg(), bits=1.0)
    strategy.start(grid, record(model()), num_rounds=rounds, **more)
    return strategy


# -- greetings -----------------------------------------------------------------------------------------------------


def test_a_greeting_and_an_answer_come_back_from_their_records() -> None:
    greeting = greeting_of(exchange_of())
    assert Greeting.read(greeting.records()) == greeting
    for answer in (Answer(), Answer(3, "ab" * 32)):
        assert Answer.read(answer.records()) == answer
        assert Greeting.read(answer.records()) is None
    assert Answer.read(greeting.records()) is None
    assert plan_from_json(plan_to_json(greeting.plan)) == greeting.plan
    assert plan_from_json(plan_to_json(greeting.plan)).digest == greeting.plan.digest


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


JUNK = (
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    "",
    "zz",
    "ff" * 32,
    [],
    [[]],
    {},
    {"codec": "none"},
    [["w", "float32", [2]]],
)


def greetings_with_junk() -> list[dict[str, Any]]:
    table = canonical.loads(greeting_of(exchange_of()).records()["phloem"]["greeting"])
    tables = [changed(table, path, junk) for path in leaves(table) if path for junk in JUNK]
    return [*tables, *({k: v for k, v in table.items() if k != key} for key in table)]


def test_no_part_of_a_greeting_can_be_junk_without_an_error_in_words(tmp_path: Path) -> None:
    exchange = exchange_of()
    orders = exchange.coordinator
    orders.place("0", -1)
    order = orders.orders({"0"}, {"0"})["0"]
    exact = exchange.manifest.pack_exact(exchange.exact)
    app = app_with(phloem.flower.mod())
    taken = 0
    for table in greetings_with_junk():
        reply = asked(
            app, RecordDict({"phloem": ConfigRecord({"greeting": canonical.dumps(table)})}), tmp_path
        )
        if not reply.has_error():
            taken += 1
            token = bytes.fromhex(table["token"])
            pack = packed(phloem.engines.flower.records.Payload(token, order, exact).pack())
            config = ConfigRecord({"server-round": 1})
            reply = asked(app, RecordDict({"arrays": pack, "config": config}), tmp_path)
            if not reply.has_error():
                continue
        assert reply.error.code == REFUSAL
        assert reply.error.reason.startswith(REFUSED)
        shutil.rmtree(tmp_path / "1", ignore_errors=True)
    assert taken < 150


@given(st.binary(max_size=30))
def test_any_bytes_are_a_greeting_or_an_error_in_words(data: bytes) -> None:
    for kind, reader in (("greeting", Greeting), ("answer", Answer)):
        with pytest.raises((FormatError, ConfigError)):
            reader.read(RecordDict({"phloem": ConfigRecord({kind: data})}))


@pytest.mark.parametrize("value", ["text", 1, 1.5, True, [1], [b"a"]])
def test_a_greeting_that_is_no_bytes_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        Greeting.read(RecordDict({"phloem": ConfigRecord({"greeting": value})}))


def test_a_greeting_for_a_giant_model_allocates_nothing(tmp_path: Path) -> None:
    greeting = greeting_of(exchange_of())
    giant = [["w", "float32", [1 << 40]], ["n", "int64", [1 << 40]]]
    manifest = type(greeting.manifest).from_json(giant)
    table = canonical.loads(greeting.records()["phloem"]["greeting"])
    table["manifest"] = giant
    table["plan"]["layout"] = manifest.layout.digest
    app = app_with(phloem.flower.mod())
    tracemalloc.start()
    try:
        reply = asked(
            app, RecordDict({"phloem": ConfigRecord({"greeting": canonical.dumps(table)})}), tmp_path
        )
        assert not reply.has_error()  # a node with enough memory could take part
        order = exchange_of().coordinator
        order.place("0", -1)
        message = order.orders({"0"}, {"0"})["0"]
        payload = phloem.engines.flower.records.Payload(bytes.fromhex(table["token"]), message, b"")
        reply = asked(app, RecordDict({"arrays": packed(payload.pack())}), tmp_path)
        assert reply.error.reason.startswith(REFUSED)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


# -- orders --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecordDict]:
    """A node's directory after one round, and the message that it is about to be sent."""
    root = tmp_path_factory.mktemp("standing")
    grid = grid_of(root, (1, 2))
    grid.alter_down = lambda m: (
        None if m.metadata.message_type == "evaluate" and m.metadata.dst_node_id == 1 else m
    )
    seen: list[RecordDict] = []

    def measure(number: int, arrays: Any) -> None:
        if number == 1:
            shutil.copytree(root / "node-1", root / "then")

    strategy = phloem.flower.Compressed(FedAvg(), bits=1.0)
    strategy.start(grid, record(model()), num_rounds=2, evaluate_fn=measure)
    seen = [
        m.content for m in grid.received[1] if m.metadata.message_type == "train" and "arrays" in m.content
    ]
    return root / "then", seen[1]


def orders_changed(payload: bytes) -> Iterator[bytes]:
    for place in range(len(payload)):
        for bit in (0, 7):
            yield payload[:place] + bytes([payload[place] ^ (1 << bit)]) + payload[place + 1 :]
    for end in range(0, len(payload), 3):
        yield payload[:end]
    yield payload + b"\0"
    yield payload + payload


def test_an_order_with_any_byte_changed_is_refused_or_leads_to_the_same_trunk(
    standing: tuple[Path, RecordDict], tmp_path: Path
) -> None:
    then, content = standing
    shutil.copytree(then, tmp_path / "node")
    seen: Seen = []
    app = app_with(phloem.flower.mod(), seen=seen)
    asked(app, content, tmp_path / "node")
    (_, _, _, wanted) = seen.pop()
    shutil.rmtree(tmp_path / "node")
    shutil.copytree(then, tmp_path / "node")
    refused = taken = 0
    for data in orders_changed(unpacked(content["arrays"])):
        other = RecordDict(dict(content.items()))
        other["arrays"] = packed(data)
        reply = asked(app, other, tmp_path / "node")
        if reply.has_error():
            assert reply.error.code == REFUSAL
            assert reply.error.reason.startswith(REFUSED)
            refused += 1
            continue
        taken += 1
        for arrays in (entry[3] for entry in seen):
            assert all(same({n: arrays[n]}, {n: wanted[n]}) for n in wanted if wanted[n].dtype.kind == "f")
        seen.clear()
        shutil.rmtree(tmp_path / "node")
        shutil.copytree(then, tmp_path / "node")
    assert refused > 100
    assert (
        taken < 30
    )  # flags, an accepted bitmap's unused bits, and the counters, whose damage Flower's digests find
    assert not asked(app, content, tmp_path / "node").has_error()
    assert same(seen[-1][3], wanted)


def test_an_app_without_a_greeting_is_asked_for_one(tmp_path: Path) -> None:
    coordinator = exchange_of().coordinator
    coordinator.place("0", -1)
    order = coordinator.orders({"0"}, {"0"})["0"]
    payload = phloem.engines.flower.records.Payload(b"01234567", order, b"")
    reply = asked(app_with(phloem.flower.mod()), RecordDict({"arrays": packed(payload.pack())}), tmp_path)
    assert "holds nothing of the run (it has to be greeted again)" in reply.error.reason


def test_an_error_that_comes_in_is_passed_on(tmp_path: Path) -> None:
    Inside({}, {})
    from flwr.app import Error

    message = Message(Error(0, "lost"), reply_to=Message(RecordDict(), 1, "train"))
    context = Context(1, 1, {"phloem-state": str(tmp_path)}, RecordDict(), {})
    assert phloem.flower.mod()(message, context, lambda m, c: m) is message


def test_an_apps_own_failure_stays_flowers_and_the_node_goes_on(tmp_path: Path) -> None:
    def fails(arrays: Any, node: int, number: int) -> Any:
        if (node, number) == (2, 2):
            raise ZeroDivisionError("by the app")
        return arrays

    seen: Seen = []
    strategy = run(grid_of(tmp_path, train=fails, seen=seen), 3)
    trained = [(node, number) for node, kind, number, _ in seen if kind == "train"]
    assert sorted(trained) == [(node, number) for node in (1, 2, 3) for number in (1, 2, 3)]
    ups = [(t.node, t.round) for t in strategy.traffic if t.direction == "up" and t.phase == "train"]
    assert (2, 2) not in ups
    assert (2, 3) in ups


def test_what_a_node_keeps_is_readable_by_nobody_else(tmp_path: Path) -> None:
    run(grid_of(tmp_path), 1)
    assert (tmp_path / "node-1" / "1").stat().st_mode & 0o077 == 0


def test_the_directory_is_the_mods_own_the_nodes_or_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    greeting = greeting_of(exchange_of())
    Inside({}, {})
    for mod, config, folder in (
        (phloem.flower.mod(state=tmp_path / "own"), {"phloem-state": str(tmp_path / "node")}, "own"),
        (phloem.flower.mod(), {"phloem-state": str(tmp_path / "node")}, "node"),
        (phloem.flower.mod(), {}, "home/.phloem/flower"),
        (phloem.flower.mod(), {"phloem-state": "~/elsewhere"}, "home/elsewhere"),
    ):
        message = Message(greeting.records(), 1, "train")
        assert not app_with(mod)(message, Context(1, 1, config, RecordDict(), {})).has_error()
        assert (tmp_path / folder / "1" / greeting.token).is_dir()


# -- a model that the node already has -----------------------------------------------------------------------------


def grid_with_initial(tmp_path: Path, initial: Any, nodes: tuple[int, ...] = (1, 2)) -> Inside:
    config = {node: {"phloem-state": str(tmp_path / f"node-{node}")} for node in nodes}
    return Inside({node: app_with(phloem.flower.mod(initial=initial)) for node in nodes}, config)


def first() -> dict[str, Any]:
    return {name: array for name, array in model(400).items() if array.dtype.kind == "f"}


@pytest.mark.parametrize("form", ["dict", "whole", "file", "text", "function"])
def test_no_model_travels_where_the_node_has_it(form: str, tmp_path: Path) -> None:
    save_file(first(), tmp_path / "model.safetensors")
    initial = {
        "dict": first(),
        "whole": model(400),
        "file": tmp_path / "model.safetensors",
        "text": str(tmp_path / "model.safetensors"),
        "function": lambda context: first(),
    }[form]
    grid = grid_with_initial(tmp_path, initial)
    phloem.flower.Compressed(FedAvg(), bits=0.5).start(grid, record(model(400)), num_rounds=2)
    assert 0 < max(size for _, _, size, _ in grid.down) < 600


@pytest.mark.parametrize("wrong", ["values", "shape", "missing", "file", "damaged", "none", "ints"])
def test_another_model_is_a_warning_and_the_model_is_sent(
    wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "damaged").write_bytes(b"not safetensors")
    initial: Any = {
        "values": first() | {"bias": np.ones(8, np.float32)},
        "shape": first() | {"bias": np.ones(9, np.float32)},
        "missing": {"weight": first()["weight"]},
        "file": tmp_path / "no such file",
        "damaged": tmp_path / "damaged",
        "none": lambda context: None,
        "ints": first() | {"bias": np.ones(8, np.int64)},
    }[wrong]
    grid = grid_with_initial(tmp_path, initial)
    with caplog.at_level(logging.WARNING, "flwr"):
        phloem.flower.Compressed(FedAvg(), bits=0.5).start(grid, record(model(400)), num_rounds=1)
    assert "`initial`" in caplog.text
    assert "the model is sent" in caplog.text
    assert max(size for _, _, size, _ in grid.down) > 5000


def test_a_late_node_that_has_the_first_model_is_sent_the_steps_since(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = grid_with_initial(tmp_path, first(), (1, 2, 3))
    late = grid.apps.pop(3)

    def measure(number: int, arrays: Any) -> None:
        if number == 2:
            grid.apps[3] = late

    strategy = phloem.flower.Compressed(FedAvg(), bits=0.5)
    with caplog.at_level(logging.WARNING, "flwr"):
        result = strategy.start(grid, record(model(400)), num_rounds=3, evaluate_fn=measure)
    assert {t.node for t in strategy.traffic} == {1, 2, 3}
    assert max(t.bytes for t in strategy.traffic) < 1000
    assert "initial" not in caplog.text
    assert arrays_in(result.arrays)["weight"].shape == (400, 8)


def test_the_next_run_starts_from_what_the_last_one_left_without_sending_it(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    last = phloem.flower.Compressed(FedAvg(), bits=0.5).start(grid, record(first()), num_rounds=2)
    grid.down.clear()
    phloem.flower.Compressed(FedAvg(), bits=0.5).start(grid, last.arrays, num_rounds=1)
    assert 0 < max(size for _, _, size, _ in grid.down) < 700
