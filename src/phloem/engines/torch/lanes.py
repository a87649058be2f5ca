"""Threads that carry buckets, in the order they came; they end with the process, whatever they wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class Lanes:
    """A few threads. While one waits for the network, another encodes."""

    def __init__(self, count: int) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Will do `call`, after what was submitted before."""
        future: Future[Result] = Future()

        def job() -> None:
            try:
                result = call()
            except BaseException as error:  # whoever waits gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def close(self) -> None:
        """Lets the threads end once they are idle."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
