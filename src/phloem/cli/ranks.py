"""`phloem build --engine torch`: this process as one of the ranks that torchrun started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from phloem.errors import ConfigError, PhloemError

COMMAND = "torchrun --nproc-per-node 4 --no-python phloem build RECIPE.toml --engine torch"
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAST_WORDS_SECONDS = 2.0  # torchrun gives a rank 30 s between SIGTERM and SIGKILL


@contextlib.contextmanager
def as_rank(seconds: float) -> Iterator[int]:
    """This process's rank, which lasts as long as this; its errors name it.

    Raises:
        ConfigError: torchrun did not start this process. StateError: the other ranks did not come in time.
    """
    lacking = [name for name in _VARIABLES if name not in os.environ]
    if lacking:
        raise ConfigError(f"--engine torch runs under torchrun: {lacking[0]} is not set", hint=COMMAND)
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE are numbers: {error}", hint=COMMAND) from error
    try:
        from phloem.engines.torch.ranks import joined
    except ImportError as error:
        raise ConfigError(
            f"engine 'torch' cannot be used: {error}", hint="pip install 'phloem[torch]'"
        ) from error
    try:
        with _last_words(rank), joined(rank, world, seconds):
            yield rank
    except PhloemError as error:
        if rank == 0:
            raise
        said = error.message if error.message.startswith("rank ") else f"rank {rank}: {error.message}"
        raise type(error)(said) from error  # rank 0 gives the advice
    except KeyboardInterrupt as interrupt:
        if rank > 0:
            interrupt.add_note(f"rank {rank}: interrupted")
        raise


@contextlib.contextmanager
def _last_words(rank: int) -> Iterator[None]:
    """SIGTERM, with which torchrun ends the ranks that outlive another, leaves time to say which one that was.

    A thread counts the time: while this process waits for another rank, no handler of a signal runs.
    """
    here, there = socket.socketpair()
    there.setblocking(False)

    def count() -> None:
        words = f"rank {rank}: told to end (SIGTERM), as torchrun does when another rank has ended"
        with here:
            while numbers := here.recv(64):
                if signal.SIGTERM in numbers:
                    threading.Event().wait(_LAST_WORDS_SECONDS)
                    print(words, file=sys.stderr, flush=True)
                    os._exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    descriptor = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=count, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        there.close()
