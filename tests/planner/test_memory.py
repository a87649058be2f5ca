"""What coding takes in memory is what the planner thinks, and sites are sent what theirs can hold."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phloem.memory import spare_bytes, total_bytes
from phloem.planner.control import Controller
from phloem.planner.costs import Seen, SiteCosts, Sizes
from phloem.planner.device import reference
from phloem.planner.levels import DOWN, LADDER, UP, Option, index_of
from phloem.planner.settings import Adapting
from phloem.planner.tables import Costs, Tables

OPTIONS = {key: option for level in LADDER for key, option in zip(level.keys, level.options, strict=True)}
PEAK = Path("/proc/self/clear_refs")

MEASURES = """
import json, sys
import numpy as np
from phloem import feedback as ef
from phloem.codecs.registry import codec_from
from phloem.tensors import Layout
from phloem.wire import frame as frames

def kilobytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

def peak(work):
    open("/proc/self/clear_refs", "w").write("5")
    before = kilobytes("VmRSS")
    result = work()
    return 1024 * max(kilobytes("VmHWM") - before, 0), result

config, tensors = json.loads(sys.argv[1]), int(sys.argv[2])
draw = np.random.default_rng(0)
update = {f"w{n}": draw.standard_t(4, (1024, 1024)).astype(np.float32) for n in range(tensors)}
layout = Layout.of(update)
arrays, into = layout.arrays(update), [np.ones(spec.shape, np.float32) for spec in layout.specs]
codec = codec_from(config)
ef.send(ef.Residual(), [array[:8, :8].copy() for array in arrays[:1]], codec, Layout.of({"w": arrays[0][:8, :8]}))
sent, (frame, flying) = peak(lambda: ef.send(ef.Residual(), arrays, codec, layout, into=into))
settled, _ = peak(lambda: ef.resolve(flying, layout, accepted=True, reuse=True))
added, _ = peak(lambda: frames.unpack(frame, layout).add_to(arrays, in_parts=True))
print(json.dumps([sent, settled, added, layout.size]))
"""


def measured(config: Any, tensors: int) -> list[int]:
    """Bytes of encoding, of settling the residual, of adding what came; and the parameters. In a fresh process."""
    words = [sys.executable, "-c", MEASURES, json.dumps(dict(config)), str(tensors)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not PEAK.exists(), reason="/proc/self/clear_refs, which resets the peak, is Linux's")
@pytest.mark.parametrize("tensors", [2, pytest.param(24, marks=pytest.mark.slow)])
@pytest.mark.parametrize("key", ["none", "bf16", "2 fast", "0.05 fast", "2 balanced", "0.05 balanced"])
def test_coding_takes_no_more_memory_than_is_planned_for(key: str, tensors: int) -> None:
    option = OPTIONS[key]
    for config in (option.up, option.down):
        *taken, parameters = measured(config, tensors)
        assert max(taken) <= option.memory_bytes(parameters)


@pytest.mark.slow
@pytest.mark.skipif(not PEAK.exists(), reason="/proc/self/clear_refs, which resets the peak, is Linux's")
@pytest.mark.parametrize("tensors", [1, 4, 16])
@pytest.mark.parametrize("key", ["none", "bf16", "2 fast", "2 balanced"])
def test_nor_is_much_more_planned_for_than_coding_takes(key: str, tensors: int) -> None:
    *taken, parameters = measured(OPTIONS[key].up, tensors)
    assert OPTIONS[key].memory_bytes(parameters) <= 4 * max(taken) + 4e6


@pytest.mark.slow
@pytest.mark.skipif(not PEAK.exists(), reason="/proc/self/clear_refs, which resets the peak, is Linux's")
def test_a_large_update_is_coded_in_a_part_of_its_own_memory() -> None:
    *taken, parameters = measured(OPTIONS["0.05 fast"].up, 48)
    assert max(taken) < 0.2 * 4 * parameters


def test_coarser_frames_of_one_effort_need_less() -> None:
    for one, other in itertools.pairwise([option for key, option in OPTIONS.items() if "fast" in key]):
        assert one.memory_bytes(25_000_000) > other.memory_bytes(25_000_000)


def needs(option: Option, parameters: int) -> float:
    return option.memory_bytes(parameters)


def played(
    parameters: int, memory: dict[str, float], rounds: int = 12, settings: Adapting | None = None
) -> list[Any]:
    """Decisions on lines of 100 MB/s, where sites have so many bytes to spare."""
    sites = ["ant", "bee", "cat"]
    controller, came, decisions = Controller(sites, parameters, settings=settings), 45, []
    for number in range(rounds):
        decision = controller.decide(number, sites)
        seen = {}
        for name in sites:
            level, option = decision.up[name]
            frame = int(LADDER[level].options[option].bytes(UP, parameters))
            train = 2.0 if decision.trains else 0.0
            times = 0.001 + (frame + 45) / 1e8, 0.001 + came / 1e8
            seen[name] = Seen(
                frame + 45, times[0], came, times[1], 0.01, 0.01, train, 0.5, frame, memory.get(name, 0.0)
            )
        level, option = decision.down
        came = int(LADDER[level].options[option].bytes(DOWN, parameters)) + 45
        controller.observe(number, seen, frame_bytes=came - 45, loss=1 / (number + 1), norm=1.0)
        decisions.append(decision)
    return decisions


def test_a_site_is_sent_only_what_its_memory_holds() -> None:
    free = played(25_000_000, {})[-1]
    assert needs(LADDER[free.down[0]].options[free.down[1]], 25_000_000) > 40e6
    for decision in played(25_000_000, {"ant": 40e6})[1:]:
        for level, option in (decision.up["ant"], decision.down):
            assert needs(LADDER[level].options[option], 25_000_000) <= 40e6
        assert np.isfinite(decision.predicted).all()


@pytest.mark.parametrize("parameters", [100_000, 25_000_000])
def test_a_site_that_can_hold_nothing_is_sent_what_needs_the_least(parameters: int) -> None:
    least = min(needs(option, parameters) for option in OPTIONS.values())
    last = played(parameters, dict.fromkeys(["ant", "bee", "cat"], 1.0))[-1]
    assert {needs(LADDER[level].options[option], parameters) for level, option in last.up.values()} == {least}


@pytest.mark.parametrize("bounds", [{"finest": "0.5", "coarsest": "0.05"}, {"coarsest": "bf16"}, {}])
@pytest.mark.parametrize("objective", ["time", "bytes"])
def test_bounds_hold_where_a_site_can_hold_nothing_of_what_they_leave(
    bounds: dict[str, str], objective: str
) -> None:
    settings = Adapting(objective=objective, **bounds)
    inside = range(index_of(settings.finest), index_of(settings.coarsest) + 1)
    for decision in played(300_000, {"ant": 1.0}, settings=settings):
        assert all(level in inside for level, _ in (*decision.up.values(), decision.down))
        assert np.isfinite(decision.predicted).all()


def test_a_memory_that_is_known_before_the_first_round_bounds_it() -> None:
    made = Controller(["ant", "bee"], 100_000)
    made.sites["ant"] = SiteCosts(memory=1.0)
    level, option = made.decide(0, ["ant", "bee"]).up["ant"]
    assert needs(LADDER[level].options[option], 100_000) == min(needs(o, 100_000) for o in OPTIONS.values())


def test_what_one_site_cannot_hold_nobody_is_sent_down() -> None:
    sizes = Sizes.of(25_000_000)
    sites = [SiteCosts(seen=1), SiteCosts(seen=1, memory=40e6)]
    table = Tables(sites, Costs.of(reference(), sizes)).at()
    bf16 = index_of("bf16")
    assert np.isfinite(table.up[0, bf16])
    assert not np.isfinite(table.up[1, bf16])
    assert not np.isfinite(table.down[1, bf16])


def test_spare_memory_is_what_the_narrowest_limit_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50000 kB\n")
    assert spare_bytes(tmp_path, meminfo) == 51_200_000
    (tmp_path / "memory.max").write_text("30000000\n")
    (tmp_path / "memory.current").write_text("10000000\n")
    assert spare_bytes(tmp_path, meminfo) == 20_000_000
    assert total_bytes(tmp_path) == 30_000_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 6000000\nactive_file 1\n")
    assert spare_bytes(tmp_path, meminfo) == 26_000_000, "files kept in memory make room"
    (tmp_path / "memory.max").write_text("max\n")
    assert spare_bytes(tmp_path, meminfo) == 51_200_000
    assert spare_bytes(tmp_path, tmp_path / "none") == 0.0


def test_a_full_machine_has_little_to_spare_and_not_nothing(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert 0 < spare_bytes(tmp_path, tmp_path / "none") <= 1.0
