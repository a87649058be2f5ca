"""A Flower deployment as processes, with TLS and node authentication on: `SuperLink`, `SuperNode`, `free_port`.

    SuperLink   the server: register nodes, start a run, ask how it goes, read its log
    SuperNode   a site: connects to the server with its own key, and has its own configuration

Both bind to loopback unless told otherwise, and end with the process that started them (`keeper`). Flower's own
programs do the work; nothing of Flower is imported here. Its telemetry and its check for updates are off.
"""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.engines.flower.programs import (
    Program,
    Settings,
    environment,
    free_port,
    in_words,
    pairs,
    path_of,
    plain,
)
from phloem.errors import StateError

__all__ = ["FrontDoor", "RunState", "Settings", "SuperLink", "SuperNode", "environment", "free_port", "pairs"]

if TYPE_CHECKING:  # loads cryptography
    from phloem.engines.flower.certificates import Authority

_CALL_SECONDS = 120.0  # for one call of the command line
_ASK_SECONDS = 5.0  # between two questions how a run goes, where the log does not answer before
_PAUSE_SECONDS = 0.05  # between two looks at the log
_USING = "Using SuperLink:"  # how the answers of the command line begin


@dataclasses.dataclass(frozen=True)
class RunState:
    """How a run goes: `pending`, `starting`, `running`, or `finished:` with `completed`, `failed` or `stopped`."""

    status: str
    details: str
    inbound_bytes: int  # from the nodes to the server, as Flower counts it
    outbound_bytes: int  # from the server to the nodes

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status.startswith("finished")


class SuperLink(Program):
    """Flower's server in `folder`, with the certificate of `authority`; as a context manager it is started.

    `database` keeps nodes and runs over a restart; without one they are in memory. With `simulation` it has no
    nodes: it runs the client apps itself, on Ray.
    """

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        database: Path | None = None,
        simulation: bool = False,
        start_seconds: float = 60.0,
    ) -> None:
        super().__init__(folder, "superlink.log")
        self.authority, self.host, self.port = authority, host, port or free_port()
        self.database, self.simulation, self.start_seconds = database, simulation, start_seconds
        nearby = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.address = f"[{nearby}]:{self.port}" if ":" in nearby else f"{nearby}:{self.port}"
        self._nearby = nearby

    def start(self) -> None:
        """Starts the server and waits until it answers with its certificate.

        Raises:
            ConfigError: Flower is not installed, or the port is taken. StateError: it does not answer in time, or
            its certificate is not for this host; the end of its log is in the message.
        """
        files = self.authority
        arguments: list[str | Path] = ["--ssl-ca-certfile", files.ca_certificate.absolute()]
        arguments += ["--ssl-certfile", files.server_certificate.absolute()]
        arguments += ["--ssl-keyfile", files.server_key.absolute()]
        arguments += ["--host", self.host, "--port", str(self.port)]
        arguments += ["--disable-runtime-dependency-installation"]
        arguments += ["--simulation"] if self.simulation else ["--enable-supernode-auth"]
        if self.database:
            arguments += ["--database", self.database.absolute()]
        self.launch("flower-superlink", arguments, self.port, self.host)
        try:
            self.wait_until(self._answers, "the SuperLink did not answer", self.start_seconds)
            here = json.dumps(str(files.ca_certificate.absolute()))
            with in_words(self.folder):
                (self.home / "config.toml").write_text(
                    f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{self.address}"\n'
                    f"root-certificates = {here}\n",
                    encoding="utf-8",
                )
        except BaseException:
            self.kill()
            raise

    def register(self, public_key: Path) -> int:
        """The node's number; from now on the server lets the holder of the private key in."""
        return int(self._call("supernode", "register", str(public_key.absolute()))["node-id"])

    def run(self, app: Path, config: Settings | None = None, federation: Settings | None = None) -> int:
        """The number of a new run of the app in folder `app`.

        `config` overrides values of its `[tool.flwr.app.config]`. `federation` is for simulations, such as
        `{"num-supernodes": 10, "client-resources-num-cpus": 1}`.
        """
        options = ["--run-config", pairs(config)] if config else []
        options += ["--federation-config", pairs(federation)] if federation else []
        return int(self._call("run", str(app.absolute()), *options)["run-id"])

    def status(self, run_id: int) -> RunState:
        """How the run goes."""
        found = self._call("list", "--run-id", str(run_id))["runs"][0]
        details = found["status-details"].removesuffix("N/A")
        traffic = found["network-traffic"]
        return RunState(found["status"], details, traffic["inbound-bytes"], traffic["outbound-bytes"])

    def wait_finished(self, run_id: int, seconds: float = 600.0) -> RunState:
        """How the run ended, once it has.

        Raises:
            StateError: it has not in that time; it goes on.
        """
        limit = time.monotonic() + seconds
        while not (state := self.status(run_id)).finished:
            if time.monotonic() > limit:
                raise StateError(f"run {run_id} is still {state.status} after {seconds:g} seconds")
            self._pause(run_id)
        return state

    def looks_finished(self, run_id: int) -> bool:
        """Whether the log says that the run's server part has ended: cheap, where `status` costs a second."""
        return re.search(rf"Finished task \d+ of run {run_id}\b", self.output()) is not None

    def _pause(self, run_id: int) -> None:
        """Until the log says that the run ended, or a while: to ask costs a second of a processor."""
        pattern = re.compile(rf"Finished task \d+ of run {run_id}\b")
        limit, size = time.monotonic() + _ASK_SECONDS, self.log_path.stat().st_size
        with self.log_path.open(encoding="utf-8", errors="replace") as log:
            log.seek(size)
            seen = ""
            while time.monotonic() < limit and self.alive and not pattern.search(seen):
                time.sleep(_PAUSE_SECONDS)
                seen += log.read()

    def log(self, run_id: int) -> str:
        """What the server's part of the run has printed so far."""
        done = self._flwr("log", str(run_id), "--show")
        if done.returncode:
            raise StateError(f"flwr log did not succeed: {_reason(done.stderr)}")
        return plain(done.stdout).removeprefix(f"{_USING} here ({self.address})\n")

    def stop_run(self, run_id: int) -> None:
        """Ends the run; the server goes on."""
        self._call("stop", str(run_id))

    def _call(self, *arguments: str) -> dict[str, Any]:
        done = self._flwr(*arguments, "--format", "json")
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            answer = {}
        if not answer.get("success"):
            reason = _reason(str(answer.get("error-message") or done.stderr or done.stdout))
            raise StateError(f"flwr {arguments[0]} did not succeed: {reason}")
        return answer

    def _flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if not self.alive:
            raise StateError(f"the SuperLink does not run, so `flwr {arguments[0]}` cannot ask it")
        try:
            return subprocess.run(
                [path_of("flwr"), *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
                env=environment(self.home) | {"PYTHONIOENCODING": "utf-8"},
                cwd=self.home,  # it may rewrite a pyproject.toml that it finds where it is
                timeout=_CALL_SECONDS,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StateError(f"flwr {arguments[0]} did not answer in {_CALL_SECONDS:g} seconds") from error

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.authority.ca_certificate)
        try:
            with (
                socket.create_connection((self._nearby, self.port), 5.0) as plain,
                context.wrap_socket(plain, server_hostname=self._nearby),
            ):
                return True
        except ssl.SSLCertVerificationError as error:
            raise StateError(
                f"the certificate of the SuperLink is not good for {self._nearby}: {error.verify_message}",
                hint="name this host in `make_authority`",
            ) from error
        except OSError:
            return False


class FrontDoor(Program):
    """What other machines reach of a SuperLink that is on loopback: the part for nodes (`front`)."""

    def __init__(self, link: SuperLink, host: str, port: int) -> None:
        super().__init__(link.folder, "front.log")
        self.link, self.host, self.port = link, host, port

    def start(self) -> None:
        """Starts it and waits until it listens.

        Raises:
            ConfigError: the port is taken. StateError: it does not start; the end of its log is in the message.
        """
        files = self.link.authority
        arguments: list[str | Path] = ["-m", "phloem.engines.flower.front", self.host, str(self.port)]
        arguments += [self.link.address, files.ca_certificate.absolute()]
        arguments += [files.server_certificate.absolute(), files.server_key.absolute()]
        self.launch(Path(sys.executable).name, arguments, self.port, self.host)
        try:
            self.wait_until(self._listens, f"nothing listens on {self.host} port {self.port}", 60.0)
        except BaseException:
            self.kill()
            raise

    def _listens(self) -> bool:
        nearby = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        try:
            socket.create_connection((nearby, self.port), 5.0).close()
        except OSError:
            return False
        return True


class SuperNode(Program):
    """One of Flower's nodes in `folder`, for the SuperLink at `address`, with its own key and configuration.

    `port` is where its own parts meet: on loopback, a free one unless given. With `warm`, where the system can do so,
    the process of every message is a fork of one that has imported what it needs (`phloem.engines.flower.warm`).
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        ca_certificate: Path,
        private_key: Path,
        config: Settings | None = None,
        *,
        port: int | None = None,
        warm: bool = True,
    ) -> None:
        super().__init__(folder, "supernode.log")
        self.warm = warm
        self.address, self.port, self.config = address, port or free_port(), dict(config or {})
        self.ca_certificate, self.private_key = ca_certificate.absolute(), private_key.absolute()

    def start(self) -> None:
        """Starts the node; `wait_connected` waits until the server has let it in."""
        arguments: list[str | Path] = ["--superlink", self.address]
        arguments += ["--root-certificates", self.ca_certificate]
        arguments += ["--auth-supernode-private-key", self.private_key, "--port", str(self.port)]
        if self.config:
            arguments += ["--node-config", self._config_file()]
        self.launch("flower-supernode", arguments, self.port, "127.0.0.1", warm=self.warm)

    def _config_file(self) -> Path:
        """The configuration in a file for this user only: everybody sees a command's arguments."""
        path = self.folder / "node-config.toml"
        text = "\n".join(pairs({key: value}).replace("=", " = ", 1) for key, value in self.config.items())
        with in_words(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.touch(0o600)
            path.write_text(text + "\n", "utf-8")
        return path

    def wait_connected(self, seconds: float = 60.0, *, retry: bool = False) -> int:
        """The number that the server knows the node by, once it has let the node in.

        A server refuses a node that it believes to be connected. After a crash it believes so for up to a minute:
        with `retry` the node is started again while it is refused.

        Raises:
            StateError: the server refused it or did not answer in time; the end of the log is in the message.
        """
        limit = time.monotonic() + seconds
        while True:
            try:
                self.wait_until(
                    lambda: self.node_id() is not None,
                    "the SuperNode did not connect",
                    limit - time.monotonic(),
                )
            except StateError:
                if not retry or self.refusal() is None or time.monotonic() > limit:
                    raise
                self.start()
            else:
                number = self.node_id()
                assert number is not None
                return number

    def node_id(self) -> int | None:
        """The number that the server knows the node by; None before it is connected."""
        found = re.search(r"SuperNode ID: (\d+)", self.output())
        return int(found[1]) if found else None

    def refusal(self) -> str | None:
        """Why the server did not let the node in; None where it did, or has not answered yet."""
        found = re.search(r"Exit Code: \d+\n(.*?)\n\n", self.output(), re.DOTALL)
        return " ".join(found[1].split("\n")) if found else None


def _reason(text: str) -> str:
    """What the command line says is wrong, in one line."""
    lines = (line.strip() for line in plain(text).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(_USING)) or "it does not say why"
