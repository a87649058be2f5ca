"""One of Flower's programs as a process with its folder: `Program`, and what to start one takes.

FOLDER/home     what the program keeps for itself (FLWR_HOME)
FOLDER/*.log    what it and its children print
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.engines.flower.keeper import Kept
from phloem.engines.flower.warm import command as warm_command
from phloem.errors import ConfigError, StateError, StoreError

Settings = Mapping[str, str | int | float | bool]

_PAUSE_SECONDS = 0.05  # between two looks at a log or a port
_TAIL_LINES = 20
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def environment(home: Path) -> dict[str, str]:
    """The variables for one of Flower's programs that keeps its own files in `home`."""
    inherited = os.environ  # noqa: TID251 - handed on, not read
    return {
        **inherited,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",  # seconds; its default of 1 delays every message by half of it
        "FLWR_INTERNAL_GRPC_CONTROL_API": "0",  # these two would listen on every interface
        "FLWR_INTERNAL_GRPC_FLEET_API": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: Ray then listens on loopback only
    }


def pairs(settings: Settings) -> str:
    r"""The settings as Flower's command line takes them: `key=value`, separated by spaces.

    Flower reads the values as TOML, after a split that knows quotes but no backslashes before them. So a quote
    inside a string is written by its number.

    Raises:
        ConfigError: a key that is not letters, digits, `_`, `-` between dots, or a value of another type.

    >>> print(pairs({"site": 'the "old" one', "rounds": 3, "rate": 0.5, "on": True}))
    site="the \u0022old\u0022 one" rounds=3 rate=0.5 on=true
    """
    parts = []
    for key, value in settings.items():
        if not _KEY.fullmatch(key):
            raise ConfigError(f"expected a key of letters, digits, '_' and '-', found {key!r:.80}")
        match value:
            case bool():
                text = "true" if value else "false"
            case int() if -(2**63) <= value < 2**63:
                text = str(value)
            case float():
                text = float.__repr__(value)  # NumPy's says more than the number
            case str() if not any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
                text = f'"{"".join(map(_letter, value))}"'
            case _:
                raise ConfigError(f"expected '{key}' to be text, a number or a bool, found {value!r:.80}")
        parts.append(f"{key}={text}")
    return " ".join(parts)


def _letter(letter: str) -> str:
    if " " <= letter <= "~" and letter not in '"\\':
        return letter
    return f"\\u{ord(letter):04x}" if letter <= "\uffff" else f"\\U{ord(letter):08x}"


def plain(text: str) -> str:
    """The text without a terminal's colours."""
    return _COLOUR.sub("", text)


def path_of(name: str) -> Path:
    """Where Flower's program is, beside this Python.

    Raises:
        ConfigError: it is not there.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        where = f"Flower's program {name} is not beside {sys.executable}"
        raise ConfigError(where, hint="pip install 'phloem[flower]'")
    return path


@contextlib.contextmanager
def in_words(folder: Path) -> Iterator[None]:
    """Turns the system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{folder} could not be read or written: {error.strerror}") from error


class Program:
    """What the server and the nodes have in common: a folder, a log, and a process with all that it starts."""

    def __init__(self, folder: Path, log: str) -> None:
        self.folder = folder.absolute()
        self.home = self.folder / "home"
        self.log_path = self.folder / log
        self._kept: Kept | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it; after `stop` and `kill` it can be started again, with the same folder and address."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._kept is not None and self._kept.exit_code() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, 128 and more after a signal; None while it runs and before it starts."""
        return self._kept.exit_code() if self._kept else None

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting: to end many at once."""
        if self._kept:
            self._kept.ask_to_stop()

    def stop(self) -> None:
        """Lets it end in its own way, and waits until nothing of it runs any more."""
        if self._kept:
            self._kept.stop()

    def kill(self) -> None:
        """Ends it and all that it started at once, as a crash would."""
        if self._kept:
            self._kept.kill()

    def output(self) -> str:
        """What it has printed since it was started last, without colours."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(self._log_start)
                return plain(log.read().decode(errors="replace"))
        except FileNotFoundError:
            return ""

    def launch(
        self, program: str, arguments: Sequence[str | Path], port: int, host: str, *, warm: bool = False
    ) -> None:
        """Starts the program, which is going to listen on that port; with `warm`, as that module does."""
        if self.alive:
            raise StateError(f"{program} is running already, with its log in {self.log_path}")
        self.stop()  # what is left of the last start
        path = path_of(program)
        with in_words(self.folder):
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        try:
            socket.create_server((host, port), family=_family(host)).close()
        except OSError as error:
            raise ConfigError(f"{program} cannot listen on {host} port {port}: {error.strerror}") from error
        words = [str(path), *map(str, arguments)]
        if warm:
            words = warm_command(path, words[1:], self.folder / "warm")
        self._kept = Kept(words, environment(self.home), self.log_path)

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Waits for `ready`; a StateError with the end of the log where the program or the time ends before."""
        limit = time.monotonic() + seconds
        while not ready():
            if not self.alive:
                raise StateError(f"{what}: it ended with exit code {self.exit_code}\n{self._tail()}")
            if time.monotonic() > limit:
                raise StateError(f"{what} in time\n{self._tail()}")
            time.sleep(_PAUSE_SECONDS)

    def _tail(self) -> str:
        lines = [f"    {line}" for line in self.output().splitlines()[-_TAIL_LINES:]]
        return "\n".join([f"the end of {self.log_path}:", *(lines or ["    (empty)"])])


def _family(host: str) -> socket.AddressFamily:
    with contextlib.suppress(ValueError):
        return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    return socket.AF_INET
