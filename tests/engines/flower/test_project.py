"""What `phloem flower new` makes, and what is read from it."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import table

from phloem.engines.flower.project import (
    host_of,
    public_keys,
    read_address,
    read_kit,
    read_nodes,
    write_app,
    write_kit,
    write_nodes,
    write_secrets,
)
from phloem.errors import ConfigError
from phloem.recipe import load_recipe

pytestmark = pytest.mark.service("flower")


def test_the_recipe_of_an_app_is_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(
        table(count=3, rounds=2, sites={"away": [{"site": "site-1", "first": 1, "last": 1}]})
    )
    write_app(tmp_path / "app", recipe, "example.org:9000")
    assert load_recipe(tmp_path / "app" / "recipe.toml") == recipe
    assert read_address(tmp_path / "app") == "example.org:9000"


@pytest.mark.parametrize("words", ['a "quoted" \\ one', "two\nlines\r\tand \x1b[2J", "ünïcode"])
def test_any_description_gives_a_project_that_can_be_read(words: str, tmp_path: Path) -> None:
    recipe = load_recipe(
        {**table(count=1, rounds=1), "description": words, "name": "2024_Run.of-" + "x" * 40}
    )
    write_app(tmp_path / "app", recipe)
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text("utf-8"))["project"]
    assert len(project["name"]) <= 32
    assert project["name"].startswith("phloem-2024-run")


def test_a_kit_is_private_and_says_what_it_says(tmp_path: Path) -> None:
    authority = write_secrets(tmp_path, ["127.0.0.1"])
    kit = write_kit(tmp_path, "north", "127.0.0.1:8000", authority)
    assert stat.S_IMODE((kit / "node.key").stat().st_mode) == 0o600
    path = kit / "site.toml"
    path.write_text(path.read_text("utf-8").replace("# csv", "csv"), "utf-8")
    read = read_kit(kit)
    assert (read.name, read.coordinator) == ("north", "127.0.0.1:8000")
    assert read.config == {"site": "north", "task-csv": "/data/transactions.csv"}
    (kit / "node.key").unlink()
    with pytest.raises(ConfigError, match=r"node\.key is missing"):
        read_kit(kit)
    assert public_keys(tmp_path, ["north"]) == {
        "north": kit / "node.pub"
    }  # all that a coordinator keeps of it
    with pytest.raises(ConfigError, match="no key of site 'south'"):
        public_keys(tmp_path, ["north", "south"])


@pytest.mark.parametrize("text", ["no colon", "host:", "host:0", "host:99999", "my_host:80", ":80", "a b:80"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        host_of(text)


@pytest.mark.parametrize("line", ['nmae = "x"', "task = 3", "[task]\ncsv = [1]"])
def test_a_kit_that_is_wrong_is_refused_in_words(line: str, tmp_path: Path) -> None:
    kit = write_kit(tmp_path, "north", "127.0.0.1:8000", write_secrets(tmp_path, ["127.0.0.1"]))
    head = 'name = "north"\ncoordinator = "127.0.0.1:8000"\n'
    (kit / "site.toml").write_text(head + line + "\n", "utf-8")
    with pytest.raises(ConfigError, match=r"site\.toml"):
        read_kit(kit)


@pytest.mark.parametrize("content", ["[]", "{", '{"a": "x"}'])
def test_a_list_of_nodes_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    write_nodes(path, {"a": 1 << 63})
    assert read_nodes(path) == {"a": 1 << 63}
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match="which node is which site"):
        read_nodes(path)


@pytest.mark.parametrize("names", [["..", "south"], ["."]])
def test_a_site_cannot_be_called_like_a_directory_above(names: Any) -> None:
    with pytest.raises(ConfigError):
        load_recipe({**table(count=1, rounds=1), "sites": {"names": names}})
