from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem import canonical
from phloem.errors import ConfigError
from phloem.recipe import Recipe, load_recipe
from phloem.rounds.merge import OPTIMIZERS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
SMALLEST: dict[str, Any] = {"name": "small", "task": {"name": "digits"}, "sites": {"count": 3}}


def recipe(**keys: Any) -> Recipe:
    return load_recipe({**SMALLEST, **keys})


def test_the_examples_are_there() -> None:
    assert "digits.toml" in {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads_and_its_resolved_form_reads_back_identical(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.name == path.stem.replace("_", "-")
    again = Recipe.from_json(json.loads(canonical.dumps(loaded)))
    assert again == loaded
    assert canonical.dumps(again) == canonical.dumps(loaded)


FULL: dict[str, Any] = {
    **SMALLEST,
    "sites": {"names": ["b", "a"], "participation": 0.5, "away": [{"site": "a", "first": 1, "last": 2}]},
    "rounds": {"max": 9, "stop": "target", "target": 1, "division": 0.25, "clip_norm": 3},
    "server": {"name": "adam", "learning_rate": 0.01},
    "up": {"codec": "topk", "fraction": 0.5},
    "down": {"bits": 1},
    "link": {"up": "3mbit", "latency": "10ms"},
    "links": {"a": {"up": "1kbit"}},
    "run": {"workers": 2},
    "compare": {"rounds": {"max": 3}},
    "seed": 7,
}


@pytest.mark.parametrize("keys", [SMALLEST, FULL], ids=["smallest", "full"])
def test_a_resolved_recipe_reads_back_identical(keys: dict[str, Any]) -> None:
    loaded = load_recipe(keys)
    assert Recipe.from_json(loaded.to_json()) == loaded
    assert Recipe.from_json(canonical.loads(canonical.dumps(loaded))) == loaded
    assert load_recipe(loaded) == loaded
    assert canonical.dumps(load_recipe(loaded)) == canonical.dumps(loaded)


def test_every_default_is_written_out() -> None:
    table = recipe().to_json()
    assert (table["compress"], table["up"], table["down"]) == ("auto", {}, {})
    fixed = recipe(compress="fixed").to_json()
    assert fixed["up"] == fixed["down"] == {"codec": "ecsq", "bits": 0.05, "effort": "fast"}
    assert table["server"] == {
        "name": "sgd", "learning_rate": 1.0, "momentum": 0.9, "beta2": 0.99, "epsilon": 0.001,
    }  # fmt: skip
    assert table["run"] == {"workers": 0, "keep_updates": True, "snapshot_every": 1, "residuals": "memory"}


UNKNOWN = [
    ({"sead": 1}, "the recipe has no key 'sead'", "seed"),
    ({"sites": {"cuont": 3}}, "[sites] has no key 'cuont'", "count"),
    ({"sites": {"count": 2, "away": [{"sight": "x", "first": 0, "last": 1}]}}, "no key 'sight'", "site"),
    ({"sites": {"count": 2, "away": [{"site": "site-3", "first": 0, "last": 1}]}}, "site-3", "site-"),
    ({"rounds": {"maks": 3}}, "[rounds] has no key 'maks'", "max"),
    ({"server": {"momentun": 0.5}}, "[server] has no key 'momentun'", "momentum"),
    ({"up": {"codec": "topk", "fractoin": 0.1}}, "codec 'topk' has no key 'fractoin'", "fraction"),
    ({"down": {"codec": "ecqs"}}, "'ecqs'", "ecsq"),
    ({"link": {"latencie": 0.1}}, "[link] has no key 'latencie'", "latency"),
    ({"links": {"site-0": {"upp": 1.0}}}, "[links.site-0] has no key 'upp'", "up"),
    ({"links": {"sight-0": {"up": 1.0}}}, "[links] has no key 'sight-0'", "site-0"),
    ({"later": [{"rond": 1}]}, "[[later]] has no key 'rond'", "round"),
    ({"later": [{"round": 1, "up": {"bit": 1.0}}]}, "codec 'ecsq' has no key 'bit'", "bits"),
    ({"run": {"wokers": 1}}, "[run] has no key 'wokers'", "workers"),
]


@pytest.mark.parametrize(("keys", "said", "near"), UNKNOWN, ids=[said for _, said, _ in UNKNOWN])
def test_an_unknown_key_is_named_with_the_nearest_at_every_level(keys: Any, said: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(**keys)
    assert said in caught.value.message
    assert f"did you mean '{near}" in str(caught.value)
    assert "\n" not in str(caught.value)


WRONG = [
    ({"name": 3}, "'name' must be a text"),
    ({"name": "two words"}, "'name' must be letters"),
    ({"name": "../up"}, "'name' must be letters"),
    ({"seed": 1.5}, "'seed' must be a whole number"),
    ({"seed": True}, "'seed' must be a whole number"),
    ({"seed": -1}, "'seed' must lie between"),
    ({"seed": 10**400}, "'seed' must lie between"),
    ({"task": 3}, "'task' must be a table"),
    ({"task": {}}, "[task] needs a 'name'"),
    ({"task": {"name": 3}}, "[task] needs a 'name'"),
    ({"task": {"name": "x", "day": datetime.date(2020, 1, 1)}}, "no canonical JSON form"),
    ({"task": {"name": "x", "rate": float("nan")}}, "no canonical JSON form"),
    ({"sites": 3}, "[sites] must be a table"),
    ({"sites": {}}, "needs either 'count' or 'names'"),
    ({"sites": {"count": 3, "names": ["a"]}}, "needs either 'count' or 'names'"),
    ({"sites": {"count": -3}}, "'count' must lie between"),
    ({"sites": {"count": 3.0}}, "'count' must be a whole number"),
    ({"sites": {"names": "abc"}}, "'names' must be a list"),
    ({"sites": {"names": [1]}}, "must be a text"),
    ({"sites": {"names": ["a", "a"]}}, "'names' must be different"),
    ({"sites": {"names": ["a/b"]}}, "'names' must be different, of letters"),
    ({"sites": {"count": 2, "participation": 0}}, "'participation' must lie between"),
    ({"sites": {"count": 2, "dropout": 1.0}}, "'dropout' must lie between"),
    ({"sites": {"count": 2, "late": "often"}}, "'late' must be a number"),
    ({"sites": {"count": 2, "away": [{"site": "site-0", "first": 3, "last": 2}]}}, "'last' must lie between"),
    ({"sites": {"count": 2, "away": [{"site": "site-0"}]}}, "lacks 'first'"),
    ({"sites": {"count": 2, "away": ["site-0"]}}, "must be a table"),
    ({"rounds": {"max": 0}}, "'max' must lie between"),
    ({"rounds": {"max": "ten"}}, "'max' must be a whole number"),
    ({"rounds": {"stop": "never"}}, "'stop' is one of rounds, target"),
    ({"rounds": {"stop": "target"}}, "needs a 'target'"),
    ({"rounds": {"target": float("nan")}}, "'target' must lie between"),
    ({"rounds": {"division": 0.3}}, "multiple of 1/16"),
    ({"rounds": {"division": 2}}, "'division' must lie between"),
    ({"rounds": {"clip_norm": 0}}, "'clip_norm' must lie between"),
    ({"rounds": {"clip_norm": 10**400}}, "'clip_norm' must be a number"),
    ({"server": {"name": "sgdd"}}, "no server optimizer 'sgdd'"),
    ({"server": {"learning_rate": -1}}, "'learning_rate' must lie between"),
    ({"up": "topk"}, "[up] must be a table"),
    ({"up": {"codec": ["topk"]}}, "[up]: 'codec' must be a text"),
    ({"up": {"bits": 1.0, "step": 0.1}}, "exactly one of"),
    ({"up": {"codec": "topk", "fraction": 2}}, "'fraction' must lie between"),
    ({"later": {"round": 1}}, "must be a list"),
    ({"later": ["soon"]}, "must be a table"),
    ({"later": [{"up": {"bits": 1.0}}]}, "'round' must be a whole number above 0, found None"),
    ({"later": [{"round": 0}]}, "'round' must be a whole number above 0"),
    ({"later": [{"round": 5}, {"round": 5}]}, "'round' must be a whole number above 5"),
    ({"link": {"up": "fast"}}, "[link]: 'up' must be a rate like '10mbit', found 'fast'"),
    ({"link": {"up": "1.2.3mbit"}}, "must be a rate"),
    ({"link": {"up": 0}}, "'up' must lie between"),
    ({"link": {"latency": "40 days"}}, "must be a time like '40ms'"),
    ({"link": {"latency": -1}}, "'latency' must lie between"),
    ({"links": {"site-0": {"latency": "soon"}}}, "[links.site-0]: 'latency' must be a time"),
    ({"links": ["site-0"]}, "[links] must be a table"),
    ({"run": {"workers": -1}}, "'workers' must lie between"),
    ({"run": {"keep_updates": 1}}, "'keep_updates' must be true or false"),
    ({"run": {"snapshot_every": 0}}, "'snapshot_every' must lie between"),
    ({"compare": 3}, "must be a table"),
]


@pytest.mark.parametrize(("keys", "said"), WRONG, ids=[str(keys)[:50] for keys, _ in WRONG])
def test_a_wrong_type_or_range_says_what_was_expected(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(**keys)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacking", ["name", "task", "sites"])
def test_a_recipe_that_lacks_what_it_needs_says_so(lacking: str) -> None:
    with pytest.raises(ConfigError, match=f"the recipe lacks '{lacking}'"):
        load_recipe({key: value for key, value in SMALLEST.items() if key != lacking})


tables = st.dictionaries(
    st.sampled_from(["name", "max", "codec", "bits", "count", "names", "up"]), st.text(max_size=3)
)
numbers = st.none() | st.booleans() | st.integers() | st.floats()
anything = numbers | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | tables


@given(st.dictionaries(st.sampled_from(sorted(FULL)), anything, max_size=3))
def test_any_table_is_a_recipe_or_a_config_error(changes: dict[str, Any]) -> None:
    try:
        loaded = load_recipe({**FULL, **changes})
    except ConfigError:
        return
    assert load_recipe(loaded) == loaded


def test_files_that_are_no_recipe_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(ConfigError, match="there is no recipe at"):
        load_recipe(path)
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_recipe(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path)


SETTINGS: list[tuple[str, str, Any]] = [
    ("rounds.max=10", "rounds.max", 10),
    (" rounds.max = 10 ", "rounds.max", 10),
    ("rounds.division=0.5", "rounds.division", 0.5),
    ("rounds.clip_norm=2", "rounds.clip_norm", 2.0),
    ("name=other", "name", "other"),
    ('name="other"', "name", "other"),
    ("link.up=2mbit", "link.up", 2e6),
    ('link.latency="1ms"', "link.latency", 0.001),
    ("run.keep_updates=false", "run.keep_updates", False),
    ("task.alpha=0.3", "task.alpha", 0.3),
    ("task.words=a=b", "task.words", "a=b"),
    ("links.site-1.up=1kbit", "links.site-1.up", 1000.0),
    ("up.bits=1", "up.bits", 1),
    ("description=", "description", ""),
]


@pytest.mark.parametrize(("change", "path", "value"), SETTINGS, ids=[change for change, _, _ in SETTINGS])
def test_a_setting_on_the_command_line_is_read_as_toml_or_else_as_text(
    change: str, path: str, value: Any
) -> None:
    found: Any = load_recipe(SMALLEST, [change]).to_json()
    for part in path.split("."):
        found = found[part]
    assert (type(found), found) == (type(value), value)


def test_later_settings_win_and_the_table_that_was_given_is_left_alone() -> None:
    table = {**SMALLEST, "rounds": {"max": 3}}
    assert load_recipe(table, ["rounds.max=4", "rounds.max=5"]).rounds.max == 5
    assert table["rounds"] == {"max": 3}
    assert load_recipe(SMALLEST, ['sites.names=["x","y"]', "sites.count=0"]).sites.all == ("x", "y")


@pytest.mark.parametrize("change", ["rounds.max", "", "=3", "  =3"])
def test_a_setting_without_key_or_value_is_refused(change: str) -> None:
    with pytest.raises(ConfigError, match="expected --set key=value"):
        load_recipe(SMALLEST, [change])


@pytest.mark.parametrize(
    "change", ["rounds=3", "rounds.max.deep=1", "nothing=1", "rounds..max=3", "sites.count=x"]
)
def test_a_setting_that_does_not_fit_is_refused(change: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(SMALLEST, [change])


def test_a_site_without_a_line_of_its_own_has_the_common_one() -> None:
    loaded = recipe(link={"up": "4mbit", "latency": "10ms"}, links={"site-1": {"up": "1gbit"}})
    assert loaded.link_of("site-0").up == 4e6
    assert loaded.link_of("site-1").up == 1e9
    assert loaded.link_of("site-1").latency == loaded.link_of("site-0").latency == 0.01
    assert loaded.link_of("site-0").up_seconds(500_000) == pytest.approx(0.01 + 1.0)
    assert loaded.link_of("site-0").down_seconds(1_250_000) == pytest.approx(0.01 + 1.0)


@pytest.mark.parametrize(
    ("text", "rate"), [("8bit", 8.0), ("1kbit/s", 1e3), ("2.5Mbit", 2.5e6), ("1 Gbit", 1e9)]
)
def test_rates_are_in_decimal_units(text: str, rate: float) -> None:
    assert recipe(link={"up": text}).link.up == rate


@pytest.mark.parametrize(("text", "seconds"), [("40ms", 0.04), ("2s", 2.0), ("15us", 15e-6), ("0.5 s", 0.5)])
def test_times_have_units(text: str, seconds: float) -> None:
    assert recipe(link={"latency": text}).link.latency == pytest.approx(seconds)


def test_counted_sites_are_named_so_that_names_sort_like_numbers() -> None:
    assert recipe(sites={"count": 3}).sites.all == ("site-0", "site-1", "site-2")
    hundred = recipe(sites={"count": 101}).sites.all
    assert hundred[0] == "site-000"
    assert list(hundred) == [f"site-{n:03}" for n in range(101)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_server_optimiser_can_be_named(name: str) -> None:
    assert recipe(server={"name": name}).server.name == name


def test_a_task_without_options_may_be_given_by_its_name_alone() -> None:
    loaded = recipe(task="package.module:Class")
    assert (loaded.task_name, loaded.task_options) == ("package.module:Class", {})
    assert load_recipe(loaded) == loaded


def test_a_later_stage_keeps_what_it_does_not_name() -> None:
    coarse, fine = {"codec": "ecsq", "bits": 0.02}, {"codec": "ecsq", "nmse": 0.1}
    loaded = recipe(
        up=coarse,
        down=coarse,
        later=[
            {"round": 3, "up": {"bits": 0.1}},
            {"round": 7, "up": {"nmse": 0.1}, "down": {"codec": "bf16"}},
        ],
    )
    first, second = loaded.later
    assert (first.round, first.up["bits"], first.down["bits"]) == (3, 0.1, 0.02)
    assert second.up == {**fine, "effort": "fast"}
    assert second.down == {"codec": "bf16"}
    assert load_recipe(loaded) == loaded


def test_a_recipe_names_a_chain_by_its_stages() -> None:
    up = {"codec": "chain", "stages": [{"codec": "topk", "fraction": 0.1}, {"codec": "ecsq", "bits": 2}]}
    loaded = recipe(up=up)
    assert [stage["codec"] for stage in loaded.up["stages"]] == ["topk", "ecsq"]
    assert load_recipe(loaded) == loaded
    with pytest.raises(ConfigError, match="'int8' and 'sign' are both quantisers"):
        recipe(up={"codec": "chain", "stages": [{"codec": "int8"}, {"codec": "sign"}]})


def test_a_setting_reaches_into_a_task_given_by_its_name_alone_but_not_into_a_text() -> None:
    short = {"name": "x", "task": "package.module:Class", "sites": {"count": 2}}
    assert load_recipe(short, ["task.steps=40"]).task_options == {"steps": 40}
    with pytest.raises(ConfigError, match="'name' is 'x', not a table of keys"):
        load_recipe(short, ["name.steps=40"])
