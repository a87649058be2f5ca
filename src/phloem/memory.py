"""How much memory this process may use, and how much of it is to spare."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_UNBOUNDED = 1 << 60
#: Of cgroup 2 and 1: the limit, and what is used of it.
_PLACES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def total_bytes(cgroup: Path = CGROUP) -> float:
    """What this process may use: the machine's memory, or less where a control group says so."""
    found = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    return min([*found, *(limit for limit, _ in _limits(cgroup))])


def spare_bytes(cgroup: Path = CGROUP, meminfo: Path = _MEMINFO) -> float:
    """What is left of it now; 0 where the system does not say."""
    found = [limit - used for limit, used in _limits(cgroup)]
    for line in _text(meminfo).splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable" and value.split()[:1] and value.split()[0].isdigit():
            found.append(1024.0 * int(value.split()[0]))
    return max(min(found), 1.0) if found else 0.0


def _limits(cgroup: Path) -> list[tuple[float, float]]:
    """What control groups allow, and what is used of it, without files that are kept in memory while there is room."""
    found = []
    for *names, stat in _PLACES:
        limit, used = (_text(cgroup / name).partition("\n")[0].strip() for name in names)
        if limit.isdigit() and 0 < int(limit) < _UNBOUNDED:
            rows = dict(line.split(" ", 1) for line in _text(cgroup / stat).splitlines() if " " in line)
            files = rows.get("inactive_file", "0")
            taken = float(used) if used.isdigit() else 0.0
            found.append((float(limit), max(taken - (float(files) if files.isdigit() else 0.0), 0.0)))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
