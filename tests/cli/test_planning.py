from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.calls import Call, write_recipe
from tests.tiny import table

import phloem as package
from phloem.cli import calibrating
from phloem.cli.planning import PlanCall, line_of, question_of
from phloem.errors import ConfigError
from phloem.memory import total_bytes
from phloem.planner import levels, measuring
from phloem.planner.device import Device, reference
from phloem.recipe import Link, Recipe, load_recipe
from phloem.ui.plan import Question, cost_by_rate, planned

DRAWS = importlib.util.find_spec("matplotlib") is not None
SLOW_SITE = {"site-1": {"up": "0.05mbit", "latency": "80ms"}}


def adaptive(**sections: Any) -> dict[str, Any]:
    keys = table(**sections)
    return {name: value for name, value in keys.items() if name not in ("up", "down")}


def build(out: Path, **sections: Any) -> Path:
    package.build(adaptive(**sections), out=out)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten rounds whose codecs were chosen."""
    return build(tmp_path_factory.mktemp("trace") / "run", rounds=10, links=SLOW_SITE)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and a device that is measured in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def measure(made_by: dict[str, str], memory_bytes: float, progress: measuring.Progress) -> Device:
        progress(0, 1, "none")
        progress(1, 1, "")
        return replace(reference(), made_by=dict(made_by), memory_bytes=memory_bytes)

    monkeypatch.setattr(measuring, "measure", measure)
    return tmp_path / "cache" / "phloem"


def asked(recipe: Recipe, **words: Any) -> Question:
    call = PlanCall(Path("r.toml"), (), None, None, None, 1_000_000, None, json=False)
    return question_of(recipe, replace(call, **words))


# -- calibrate -----------------------------------------------------------------------------------------------


def test_a_device_is_measured_once_and_then_shown_from_the_cache(
    phloem: Call, cache: Path, tmp_path: Path
) -> None:
    first = phloem("calibrate", "--out", tmp_path / "profile.json")
    assert first.code == 0
    assert "0.05 balanced" in first.out
    assert "measured now" in first.err
    (kept,) = cache.iterdir()
    assert kept.name.startswith("device-")
    assert kept.read_bytes() == (tmp_path / "profile.json").read_bytes()
    second = phloem("calibrate", "--json")
    assert "measured before" in second.err
    assert json.loads(second.out) == json.loads(kept.read_text())
    assert "measured now" in phloem("calibrate", "--again").err


def test_a_damaged_profile_in_the_cache_is_measured_again(phloem: Call, cache: Path) -> None:
    phloem("calibrate")
    (kept,) = cache.iterdir()
    sound = kept.read_text()
    kept.write_text(sound[:100])
    said = phloem("calibrate")
    assert said.code == 0
    assert "is not used" in said.err
    assert "measured now" in said.err
    assert json.loads(kept.read_text()) == json.loads(sound)


def test_a_cache_that_cannot_be_written_is_a_note(
    phloem: Call, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = phloem("calibrate")
    assert said.code == 0
    assert "is not kept" in said.err
    assert "0.05 fast" in said.out


def test_each_kernel_has_a_profile_of_its_own(phloem: Call, cache: Path) -> None:
    found = phloem("calibrate", "--kernels", "reference", "--json")
    phloem("calibrate", "--kernels", "auto")
    assert json.loads(found.out)["made_by"]["kernels"] == "reference"
    assert len(list(cache.iterdir())) == len(package.kernels.available())


def test_a_small_device_is_measured_in_earnest(
    phloem: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in (("SMALL", 2048), ("LARGE", 8192), ("_COPY_BYTES", 1 << 16), ("_SECONDS", 0.001)):
        monkeypatch.setattr(measuring, name, value)
    said = phloem("calibrate", "--json")
    assert said.code == 0
    found = Device.from_json(json.loads(said.out), "here")
    assert found.copy_bytes_per_second > 0
    assert found.memory_bytes > 0
    assert found.made_by == calibrating.fingerprint()


def test_control_groups_bound_what_a_device_is(tmp_path: Path) -> None:
    whole = calibrating.fingerprint(tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert calibrating.fingerprint(tmp_path) == whole | {"cores": f"0.5 of {whole['cores']}"}
    assert total_bytes(tmp_path) == 1e6
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert calibrating.fingerprint(tmp_path) == whole
    assert total_bytes(tmp_path) > 1e6


# -- plan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["device.memory_mb=0.1", "adapt.coarsest=bf16"],
        ["device.memory_mb=0.1", "adapt.objective=bytes"],
        ["device.memory_mb=0.1", "adapt.objective=budget", "adapt.budget_bytes=1000000"],
        ["device.memory_mb=0.5"],
    ],
)
def test_a_plan_for_little_memory_offers_what_fits_and_its_json_is_json(
    phloem: Call, recipe: Path, words: list[str]
) -> None:
    asked = [word for one in ("compress=auto", *words) for word in ("--set", one)]
    said = phloem("plan", recipe, "--parameters", 100_000, "--json", *asked)
    found = json.loads(said.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert said.code == 0
    assert any(row["allowed"] for row in found["levels"])
    assert not all(row["allowed"] for row in found["levels"])
    assert "at the target" in phloem("plan", recipe, "--parameters", 100_000, *asked).out


def test_a_plan_names_the_best_level_and_every_other(phloem: Call, recipe: Path) -> None:
    said = phloem("plan", recipe, "--link", "1mbit/40ms", "--parameters", 1_000_000)
    assert said.code == 0
    assert said.out.startswith("best here: ")
    rows = [line.split() for line in said.out.splitlines()]
    for name in levels.names():
        assert any(row[:1] == [name] for row in rows)
    assert "all 3 sites: 1 Mbit/s both ways, 40 ms" in said.out
    assert "fixes its codecs" in said.err


def test_seconds_of_a_row_are_those_of_its_parts(phloem: Call, recipe: Path) -> None:
    words = ("plan", recipe, "--link", "2mbit:8mbit/60ms", "--parameters", 1_000_000, "--json")
    found = json.loads(phloem(*words, "--set", "link.train_seconds=0.5").out)
    for row in found["levels"]:
        parts = [row[f"{part}_seconds"] for part in ("up", "down", "train", "coding")]
        assert sum(parts) == pytest.approx(row["seconds"])
        assert row["up_seconds"] == pytest.approx(0.06 + 8 * row["bytes_up"] / 2e6)
        assert row["down_seconds"] == pytest.approx(0.06 + 8 * row["bytes_down"] / 8e6)
        assert row["train_seconds"] == 0.5
        assert row["cost"] == pytest.approx(row["seconds"] * row["rounds"])
    assert sum(row["best"] for row in found["levels"]) == 1
    assert found["choices"][0]["time_to_target"] == 1.0
    assert found["parameters"] == 1_000_000


def test_slow_lines_get_coarse_levels_and_fast_ones_fine_levels(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    best = [
        levels.index_of(planned(asked(loaded, link=link)).best_row.level)
        for link in ("100kbit", "5mbit", "10gbit/0s")
    ]
    assert best == sorted(best, reverse=True)
    assert best[0] > best[-1]


def test_sites_on_different_lines_are_planned_each_for_itself(phloem: Call, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "lines.toml", links={"site-0": {"up": "0.1mbit"}})
    words = ("plan", path, "--parameters", 1_000_000)
    said = phloem(*words)
    assert "site-0: 100 kbit/s up" in said.out
    assert "up, with 'deadline'" in said.out
    found = json.loads(phloem(*words, "--json").out)
    assert found["choices"][0]["policy"] == "deadline"
    assert len(found["choices"][0]["up"]) > 1


def test_a_slower_device_takes_longer(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    usual, slow = (planned(asked(loaded, speed=speed)) for speed in (None, 0.1))
    assert all(b.coding_seconds > a.coding_seconds for a, b in zip(usual.rows, slow.rows, strict=True))


@pytest.mark.parametrize(
    ("change", "policy"),
    [
        ("adapt={objective='bytes'}", "bytes"),
        ("adapt={objective='budget', budget_bytes=1e6}", "budget"),
        ("adapt={objective='deadline', deadline_seconds=1}", "deadline"),
    ],
)
def test_a_plan_follows_the_recipes_objective(phloem: Call, recipe: Path, change: str, policy: str) -> None:
    words = ("plan", recipe, "--parameters", 100_000, "--set", "compress=auto", "--set", change)
    assert phloem(*words).code == 0
    assert json.loads(phloem(*words, "--json").out)["choices"][0]["policy"] == policy


def test_levels_that_the_recipe_bars_are_not_chosen(phloem: Call, recipe: Path) -> None:
    words = ("plan", recipe, "--parameters", 1_000_000, "--link", "50kbit", "--set", "compress=auto")
    words = (*words, "--set", "adapt.coarsest=2")
    assert "barred" in phloem(*words).out
    found = json.loads(phloem(*words, "--json").out)
    assert [row["level"] for row in found["levels"] if row["allowed"]] == ["none", "bf16", "2"]
    assert next(row["level"] for row in found["levels"] if row["best"]) == "2"


def test_parameters_come_from_the_task(phloem: Call, recipe: Path) -> None:
    assert json.loads(phloem("plan", recipe, "--json").out)["parameters"] == 16


def test_lines_that_change_are_planned_at_their_mean(phloem: Call, recipe: Path) -> None:
    said = phloem("plan", recipe, "--parameters", 1000, "--set", "link.trace=switching")
    assert said.code == 0
    assert "mean rate" in said.err


def test_a_profile_from_elsewhere_is_noted_and_used(
    phloem: Call, recipe: Path, cache: Path, tmp_path: Path
) -> None:
    words = ("plan", recipe, "--parameters", 1000)
    assert phloem(*words, "--device", "here").code == 2
    phloem("calibrate", "--out", tmp_path / "own.json")
    for own in ("here", tmp_path / "own.json"):
        said = phloem(*words, "--device", own)
        assert (said.code, "not here" in said.err) == (0, False)
    strange = replace(reference(), made_by={"processor": "Z80", "cores": "1", "kernels": "native"})
    (tmp_path / "z80.json").write_text(json.dumps(strange.to_json()))
    said = phloem(*words, "--device", tmp_path / "z80.json")
    assert said.code == 0
    assert "was measured on Z80, 1 cores" in said.err
    assert "not here" in said.err


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 9}', "[" * 5000])
def test_a_file_that_is_no_profile_is_one_error(
    phloem: Call, recipe: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "bad.json").write_text(text)
    said = phloem("plan", recipe, "--parameters", 1000, "--device", tmp_path / "bad.json")
    assert (said.code, said.out, len(said.errors)) == (1, "", 1)
    assert "profile" in said.err


@pytest.mark.parametrize(
    "text",
    [
        "0mbit",
        "-5mbit/1ms",
        "nonsense",
        "10mbit/40parsec",
        "1mbit:/4ms",
        ":1mbit",
        "1mbit/",
        "1..2mbit",
        "1mbit:2mbit:3mbit",
        "10mbit/40ms/3",
        "1e9mbit",
        "1e400mbit",
        "10",
        "99999999999gbit",
    ],
)
def test_a_line_that_is_none_is_one_error(phloem: Call, recipe: Path, text: str) -> None:
    said = phloem("plan", recipe, "--parameters", 1000, f"--link={text}")
    assert (said.code, said.out, len(said.errors)) == (2, "", 1)
    assert "--link" in said.err


def test_what_a_line_leaves_out_stays_as_it_was() -> None:
    own = Link(1e6, 2e6, 0.5, 3.0)
    assert line_of("10mbit", own) == Link(10e6, 10e6, 0.5, 3.0)
    assert line_of("1mbit:8mbit/60ms", own) == Link(1e6, 8e6, 0.06, 3.0)
    with pytest.raises(ConfigError):
        line_of("fast", own)


def test_wrong_words_of_a_plan_are_one_error(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    for words, code in (
        (("--link", ""), 2),
        (("--speed", 0), 2),
        (("--speed", "nan"), 2),
        (("--parameters", 0), 2),
        (("--parameters", -3), 2),
        (("--device", tmp_path / "no.json"), 2),
        (("--device", tmp_path), 1),
        (("-o", "plan.gif"), 2),
        (("-o", tmp_path / "no" / "plan.png"), 1),
        (("--set", "adapt.coarsest=7"), 2),
    ):
        given = ("plan", recipe, *words) + (() if "--parameters" in words else ("--parameters", 1000))
        said = phloem(*given)
        assert (said.code, len(said.errors)) == (code, 1), words
    assert phloem("plan", tmp_path / "none.toml").code == 2


def test_the_picture_of_a_plan_is_drawn(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    for name, magic in (("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml")):
        said = phloem("plan", recipe, "--parameters", 10**6, "-o", tmp_path / name)
        assert said.code == 0
        assert (tmp_path / name).exists() == DRAWS
        if DRAWS:
            assert (tmp_path / name).read_bytes().startswith(magic)


def test_the_curves_of_the_picture_go_through_the_table(recipe: Path) -> None:
    question = asked(load_recipe(recipe), link="3mbit:6mbit/20ms")
    curves = cost_by_rate(question, [3e6], question.links["site-0"])
    assert [row[0] for row in curves] == pytest.approx([row.cost for row in planned(question).rows])


# -- trace ---------------------------------------------------------------------------------------------------


def test_a_run_is_explained(phloem: Call, made: Path) -> None:
    said = phloem("trace", made)
    assert said.code == 0
    assert said.out.startswith("10 rounds, ")
    assert "nothing is known of any line yet" in said.out
    assert "nothing changed: --all" in said.out
    every = phloem("trace", made, "--all")
    assert len(every.out.splitlines()) > len(said.out.splitlines())
    told = json.loads(phloem("trace", made, "--json").out)
    assert told["summary"]["rounds"] == len(told["decisions"]) == 10
    assert sum(told["summary"]["policies"].values()) == 10
    assert told["decisions"][0]["policy"] == "start"


def test_what_was_decided_follows_from_what_was_measured(phloem: Call, made: Path) -> None:
    said = phloem("trace", made, "--check")
    assert (said.code, said.out) == (0, "all 10 decisions follow from what was measured\n")
    told = json.loads(phloem("trace", made, "--check", "--json").out)
    assert told == {"followed": True, "decisions": 10, "first_not_followed": None}


def test_logs_from_before_round_trips_were_told_are_read(phloem: Call, run: Path) -> None:
    for number in range(len((run / "decisions.jsonl").read_text().splitlines())):
        change(run, number, lambda row: [values.pop() for values in row["told"]["seen"].values()])
    assert phloem("trace", run, "--check").code == 0


def test_what_was_decided_follows_where_weights_are_pruned(phloem: Call, tmp_path: Path) -> None:
    path = build(tmp_path / "run", rounds=8, prune={"sparsity": 0.5, "begin": 1, "end": 5})
    assert phloem("trace", path, "--check").code == 0


def change(run: Path, number: int, harm: Callable[[dict[str, Any]], object]) -> None:
    path = run / "decisions.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[number])
    harm(row)
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


def test_a_decision_that_does_not_follow_is_named(phloem: Call, run: Path) -> None:
    change(run, 4, lambda row: row.update(down="none"))
    said = phloem("trace", run, "--check")
    assert said.code == 1
    assert said.out.startswith("round 5 does not follow")
    told = phloem("trace", run, "--check", "--json")
    assert told.code == 1
    assert json.loads(told.out)["first_not_followed"]["round"] == 4


def test_measurements_that_were_changed_are_found_out(phloem: Call, run: Path) -> None:
    def slower(row: dict[str, Any]) -> None:
        for one in row["told"]["seen"].values():
            one[1] *= 1000.0

    change(run, 0, slower)
    assert phloem("trace", run, "--check").code == 1


def test_a_run_that_was_stopped_is_checked_without_its_summary(phloem: Call, run: Path) -> None:
    (run / "summary.json").unlink()
    assert phloem("trace", run, "--check").code == 0


def test_a_run_with_fixed_codecs_says_which(phloem: Call, tmp_path: Path) -> None:
    package.build(table(rounds=1), out=tmp_path / "fixed")
    for words in ((), ("--check",), ("--all",)):
        said = phloem("trace", tmp_path / "fixed", *words)
        assert said.code == 0
        assert "its codecs were fixed, int8 (block=16) up and int8 (block=16) down" in said.out
    said = phloem("trace", tmp_path / "fixed", "--json", "-o", tmp_path / "no.png")
    assert json.loads(said.out)["codecs"]["up"] == {"codec": "int8", "block": 16}
    assert not (tmp_path / "no.png").exists()


def test_a_line_that_was_cut_off_at_the_end_is_not_there_yet(phloem: Call, run: Path) -> None:
    path = run / "decisions.jsonl"
    path.write_text(path.read_text()[:-20])
    said = phloem("trace", run, "--check")
    assert (said.code, said.out) == (0, "all 9 decisions follow from what was measured\n")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda row: row.pop("told"), "no 'told': it was written by another version"),
        (lambda row: row["told"].pop("norm"), "no 'norm'"),
        (lambda row: row["predicted"].pop("low"), "no 'low'"),
        (lambda row: row.update(down="0.07 fast"), "'0.07 fast'"),
        (lambda row: row.update(up={"4 best": ["site-0"]}), "'4 best'"),
        (lambda row: row.update(up=[]), "damaged"),
        (lambda row: row.update(predicted=3), "damaged"),
        (lambda row: row["told"].update(seen={"site-0": [1, 2]}), "damaged"),
        (lambda row: row["told"].update(seen={"site-0": ["1"] * 8}), "damaged"),
        (lambda row: row.update(round="x"), "damaged"),
    ],
)
def test_a_line_of_another_version_is_one_error(
    phloem: Call, run: Path, harm: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(run, 2, harm)
    for more in ((), ("--check",), ("--json",)):
        said = phloem("trace", run, *more)
        assert (said.code, said.out, len(said.errors)) == (1, "", 1)
        assert "line 3" in said.err
        assert words in said.err


def test_a_record_that_is_cut_in_the_middle_is_one_error(phloem: Call, run: Path) -> None:
    path = run / "decisions.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = lines[3][:50]
    path.write_text("\n".join(lines) + "\n")
    said = phloem("trace", run)
    assert (said.code, said.out, len(said.errors)) == (1, "", 1)
    assert "damaged" in said.err


def test_where_no_run_is_is_one_error(phloem: Call, tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "none"):
        said = phloem("trace", where)
        assert (said.code, said.out, len(said.errors)) == (2, "", 1)
    assert phloem("trace", tmp_path, "-o", "trace.gif").code == 2


def test_the_picture_of_a_run_is_drawn(phloem: Call, made: Path, tmp_path: Path) -> None:
    said = phloem("trace", made, "-o", tmp_path / "trace.svg")
    assert said.code == 0
    assert (tmp_path / "trace.svg").exists() == DRAWS
    alone = build(tmp_path / "one", rounds=1)
    assert phloem("trace", alone, "-o", tmp_path / "one.png").code == 0


def test_the_words_of_the_commands_teach(phloem: Call) -> None:
    for command in ("calibrate", "plan", "trace"):
        said = phloem(command, "--help")
        assert said.code == 0
        assert f"phloem {command}" in said.out
        assert "Examples:" in said.out
