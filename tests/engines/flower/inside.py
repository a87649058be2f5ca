"""Flower without its processes: a grid that hands messages to client apps in this process, as bytes on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto  # what Flower sends over the line
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity  # what Flower's processes set before an app's code runs

import phloem.flower
from phloem.seeds import generator

Alter = Callable[[Message], Message | None]
Seen = list[tuple[int, str, int, dict[str, Any]]]
"""What apps were given: (node, message type, round, arrays)."""


def model(rows: int = 40) -> dict[str, Any]:
    """A matrix, a vector, a scalar, an empty tensor, two of other precisions and three that are no floats."""
    draw = generator(0, "flower model")
    return {
        "weight": draw.normal(size=(rows, 8)).astype(np.float32),
        "bias": draw.normal(size=8).astype(np.float32),
        "scale": np.array(0.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "half": draw.normal(size=(3, 2)).astype(np.float16),
        "double": draw.normal(size=5),
        "seen": np.array(3, np.int64),
        "mask": np.array([True, False]),
        "ranks": np.arange(6, dtype=np.uint8).reshape(2, 3),
    }


def floats(rows: int = 40) -> dict[str, Any]:
    """The float32 tensors of `model`: what Flower's clipping can handle."""
    return {name: array for name, array in model(rows).items() if array.dtype == np.float32 and array.size}


def record(arrays: Mapping[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def arrays_in(found: ArrayRecord) -> dict[str, Any]:
    return {name: array.numpy() for name, array in found.items()}


def trained(arrays: Mapping[str, Any], node: int, number: int) -> dict[str, Any]:
    """What "training" makes of a model: another small step for every node and round."""
    draw = generator(0, "flower training", node, number)
    out = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            out[name] = (array + 0.1 * draw.normal(size=array.shape)).astype(array.dtype)
        else:
            out[name] = array if array.dtype.kind != "i" else array + 1
    return out


def app_with(
    *mods: Any, train: Any = None, seen: Seen | None = None, train_mods: Iterable[Any] = ()
) -> ClientApp:
    """An app that trains, and evaluates to the sum of the weights."""
    app = ClientApp(mods=list(mods))

    @app.train(mods=list(train_mods))
    def on_train(message: Message, context: Context) -> Message:
        arrays = arrays_in(message.content["arrays"])
        number = int(message.content["config"]["server-round"])
        step = train or trained
        if seen is not None:
            seen.append((context.node_id, "train", number, arrays))
        content = RecordDict(
            {
                "arrays": record(step(arrays, context.node_id, number)),
                "metrics": MetricRecord({"num-examples": context.node_id, "loss": 1.5}),
            }
        )
        return Message(content, reply_to=message)

    @app.evaluate()
    def on_evaluate(message: Message, context: Context) -> Message:
        if seen is not None:
            number = int(message.content["config"]["server-round"])
            seen.append((context.node_id, "evaluate", number, arrays_in(message.content["arrays"])))
        total = float(np.sum(message.content["arrays"]["weight"].numpy(), dtype=np.float64))
        content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "total": total})})
        return Message(content, reply_to=message)

    return app


class Inside(Grid):
    """A grid whose nodes are apps in this process.

    `alter_down` and `alter_up` see every message; None in place of it loses it. `down` and `up` have (node, type, bytes
    of all arrays, number of arrays) of whatever went down and came back, greetings too. Replies come in the order of
    `shuffle`, by default that of the messages.
    """

    def __init__(self, apps: Mapping[int, ClientApp], config: Mapping[int, Mapping[str, Any]]) -> None:
        self.apps, self.config = dict(apps), config
        self.alter_down: Alter = lambda message: message
        self.alter_up: Alter = lambda message: message
        self.down: list[tuple[int, str, int, int]] = []
        self.up: list[tuple[int, str, int, int]] = []
        self.received: dict[int, list[Message]] = {}
        self.shuffle: Callable[[list[Message]], list[Message]] = lambda replies: replies
        self._number = 0
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return sorted(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.shuffle([reply for m in messages if (reply := self._carry(m)) is not None])

    def _carry(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        self._number += 1
        message.metadata.__dict__["_message_id"] = f"message-{self._number}"
        sent = self.alter_down(over_the_line(message))
        self.down.append((node, message.metadata.message_type, *_size(message)))
        if sent is None or node not in self.apps:
            return None
        self.received.setdefault(node, []).append(sent)
        context = Context(1, node, dict(self.config.get(node, {})), RecordDict(), {})
        try:
            reply = self.apps[node](sent, context)
        except Exception as error:  # as Flower's client process does
            reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=sent)
        altered = self.alter_up(over_the_line(reply))
        if altered is not None and altered.has_content():
            self.up.append((node, message.metadata.message_type, *_size(altered)))
        return altered


def over_the_line(message: Message) -> Message:
    """The message as the other end has it: nothing is shared."""
    out = copy.copy(message)
    if message.has_content():
        out.content = recorddict_from_proto(recorddict_to_proto(message.content))
    return out


def _size(message: Message) -> tuple[int, int]:
    arrays = (
        [a for r in message.content.array_records.values() for a in r.values()]
        if message.has_content()
        else []
    )
    return sum(len(array.data) for array in arrays), len(arrays)


def grid_of(
    tmp_path: Path, nodes: Iterable[int] = (1, 2, 3), mods: Iterable[Any] = (), **more: Any
) -> Inside:
    """Nodes with the mod, each with a directory of its own; `mods` come after it."""
    nodes, mods = list(nodes), list(mods)
    config = {node: {"phloem-state": str(tmp_path / f"node-{node}")} for node in nodes}
    return Inside({node: app_with(phloem.flower.mod(), *mods, **more) for node in nodes}, config)


def plain_grid(nodes: Iterable[int] = (1, 2, 3), *mods: Any, **more: Any) -> Inside:
    """Nodes without the mod."""
    return Inside({node: app_with(*mods, **more) for node in nodes}, {})


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two models are equal to the bit, types and shapes included."""
    return one.keys() == other.keys() and all(
        (one[n].dtype, one[n].shape, one[n].tobytes()) == (other[n].dtype, other[n].shape, other[n].tobytes())
        for n in one
    )
