"""`phloem calibrate`: what coding takes on this device, measured once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import phloem
from phloem import canonical, kernels
from phloem.cli.console import on_stdout
from phloem.cli.printing import print_json, say, stderr_meter
from phloem.errors import ConfigError, PhloemError, StateError, StoreError
from phloem.memory import total_bytes
from phloem.planner import measuring
from phloem.planner.device import Device
from phloem.store.files import write_durably
from phloem.ui.device import print_device

HERE = "here"
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CalibrateCall:
    """The words of one `phloem calibrate`."""

    out: Path | None
    again: bool
    json: bool
    kernels: Any


def run_calibrate(call: CalibrateCall) -> None:
    """Shows this device's profile, measured now or kept from before; writes it to `out`, too.

    Raises:
        PhloemError: the kernels asked for are not there, or `out` cannot be written.
    """
    kernels.use(call.kernels)
    made_by = fingerprint()
    path = cached_path(made_by)
    device = None if call.again else _cached(path, made_by)
    if device is None:
        device = _measured(made_by)
        _keep(path, device)
        came = f"measured now, kept in {path}"
    else:
        came = f"measured before, kept in {path} (--again measures once more)"
    if call.out is not None:
        _write(call.out, device)
    if call.json:
        print_json(device.to_json())
    else:
        with on_stdout() as console:
            print_device(console, device)
    say(came)
    if call.out is not None:
        say(f"profile: {call.out}")


def load_profile(path: Path) -> Device:
    """The profile in a file, or with "here" this device's own; a note on standard error where it is another's.

    Raises:
        ConfigError: there is none. StateError: the file is no profile, or of another version.
    """
    if str(path) == HERE:
        made_by = fingerprint()
        own = cached_path(made_by)
        device = _cached(own, made_by)
        if device is None:
            raise ConfigError("this device was not measured yet", hint="measure it: phloem calibrate")
        return device
    device = _read(path)
    if dict(device.made_by or {}) != fingerprint():
        say(f"note: {path} was measured on {words_of(device.made_by or {})}, not here")
    return device


def words_of(made_by: Mapping[str, str]) -> str:
    """What a profile was made by, in a line."""
    known = [made_by.get("processor", ""), made_by.get("cores", "") and f"{made_by['cores']} cores"]
    known += [" ".join(filter(None, (made_by.get("kernels", ""), made_by.get("simd", ""), "kernels")))]
    known += [f"{name} {made_by[name]}" for name in ("phloem", "numpy") if name in made_by]
    return ", ".join(filter(None, known)) if made_by else "a device that it does not name"


def fingerprint(cgroup: Path = _CGROUP) -> dict[str, str]:
    """What a profile depends on: processor, cores allowed, kernels, versions."""
    name = kernels.backend_name()
    simd = ""
    if name == "native":
        from phloem.kernels import native

        simd = native.simd_levels()[-1]
    return {
        "processor": _processor(),
        "cores": _cores(cgroup),
        "kernels": name,
        "simd": simd,
        "phloem": phloem.__version__,
        "numpy": np.__version__,
    }


def cached_path(made_by: Mapping[str, str]) -> Path:
    """Where the profile of such a device is kept."""
    digest = hashlib.sha256(canonical.dumps(dict(made_by))).hexdigest()[:12]
    return _cache() / f"device-{digest}.json"


def _cores(cgroup: Path) -> str:
    """The processor's cores that this process may use, and the share of their time where that is bounded."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _first_line(cgroup / "cpu.max").partition(" ")
    if not quota:
        quota, period = (_first_line(cgroup / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.isdigit() and period.isdigit() and int(period) and int(quota) / int(period) < allowed:
        return f"{int(quota) / int(period):g} of {allowed}"
    return str(allowed)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _first_line(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _cache() -> Path:
    """The user's cache directory for this command."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():  # the convention: relative ones are to be ignored
        return Path(named) / "phloem"
    home = os.environ.get("HOME", "")
    return (Path(home) if home else Path.home()) / ".cache" / "phloem"


def _measured(made_by: Mapping[str, str]) -> Device:
    with stderr_meter() as meter:

        def tell(done: int, total: int, what: str) -> None:
            meter.tell(f"measuring {what}, {done + 1} of {total}" if what else "measuring copies of memory")

        return measuring.measure(made_by, total_bytes(), tell)


def _cached(path: Path, made_by: Mapping[str, str]) -> Device | None:
    """What was kept, if it is of this device and sound."""
    if not path.exists():
        return None
    try:
        device = _read(path)
    except PhloemError as error:
        say(f"note: the profile that was kept is not used: {error.message}")
        return None
    return device if dict(device.made_by or {}) == dict(made_by) else None


def _read(path: Path) -> Device:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no profile at {path}", hint="make one: phloem calibrate --out profile.json"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path} cannot be read as a profile: {error}") from error
    try:
        return Device.from_json(json.loads(text), str(path))
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise StateError(f"{path} is no profile of a device", hint="make one: phloem calibrate") from error


def _keep(path: Path, device: Device) -> None:
    """Puts the profile in the cache; that it cannot be kept is no reason not to show it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, device)
    except OSError as error:
        say(f"note: the profile is not kept: {error}")


def _write(path: Path, device: Device) -> None:
    try:
        write_durably(path, json.dumps(device.to_json(), indent=2).encode() + b"\n")
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror or error}") from error
