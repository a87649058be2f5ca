"""A grid that looks for replies more often than every three seconds, which is what Flower's own does."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

_LOOK_SECONDS = 0.3


class PromptGrid(Grid):
    """`grid`, whose `send_and_receive` takes replies within a third of a second and one after another.

    `waited` has the seconds that every node's reply took, the last time.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.waited: dict[int, float] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As `Grid.send_and_receive`."""
        sent, waited = list(messages), dict[int, float]()
        replies = list(exchanged(self.grid, sent, timeout, waited).values())
        self.waited.clear()
        self.waited.update({sent[place].metadata.dst_node_id: took for place, took in waited.items()})
        return replies

    def set_run(self, run: Any) -> None:
        """As the grid."""
        self.grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the grid's."""
        return self.grid.run

    def create_message(self, *arguments: Any, **more: Any) -> Message:
        """As the grid."""
        return self.grid.create_message(*arguments, **more)

    def get_node_ids(self) -> Iterable[int]:
        """As the grid."""
        return self.grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """As the grid."""
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the grid."""
        return self.grid.pull_messages(message_ids)


def exchanged(
    grid: Grid, messages: list[Message], timeout: float | None, waited: dict[int, float] | None = None
) -> dict[int, Message]:
    """The replies that came in time, by the places of their messages; a message that Flower did not take has none.

    `waited` is given the seconds that each took to be here.
    """
    if not messages:
        return {}
    began = time.monotonic()
    ids: list[str | None] = list(grid.push_messages(messages))
    waiting = {number: place for place, number in enumerate(ids) if number is not None}
    found: dict[int, Message] = {}
    end = None if timeout is None else time.monotonic() + timeout
    while waiting and (end is None or time.monotonic() < end):
        for reply in grid.pull_messages(list(waiting)):
            place = waiting.pop(reply.metadata.reply_to_message_id, None)
            if place is not None:
                found[place] = reply
                if waited is not None:
                    waited[place] = time.monotonic() - began
        if waiting:
            time.sleep(_LOOK_SECONDS)
    return found
