"""A recipe: one TOML file that says what is built, from which sites, under which limits.

Every key is checked: an unknown key names the nearest known one, a wrong type or range says what was expected.
`Recipe` as JSON is the resolved recipe, with every default written out; a run keeps it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phloem import canonical
from phloem.codecs.config import check_number
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError, unknown_key
from phloem.ledger.kinds import COORDINATOR
from phloem.ledger.settings import LedgerSettings
from phloem.planner import levels
from phloem.planner.settings import MEASURED, SIMULATED, Adapting
from phloem.pruning import Pruning
from phloem.recipe.codecs import AUTO, FIXED, settle_codecs
from phloem.recipe.tables import NAME, Away, Link, Rounds, Running, Sites, Speed, link_from, rate
from phloem.rounds.merge import ServerOptimizer
from phloem.rounds.plan import Later
from phloem.strict import as_table, from_table

__all__ = ["Away", "Link", "Recipe", "Rounds", "Running", "Sites", "Speed", "load_recipe", "rate"]


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is made from; equal recipes and seeds give equal states.

    `compress` is "auto", where every round's codecs are chosen from what the rounds before took (`adapt` says what
    for), or "fixed", where they are those of `up` and `down`; a recipe that has one of these is fixed.
    `compare` has the changes under which the uncompressed baselines of `--compare` do best. `start` is the model that
    the run starts from, if not the task's own first state: a file, a directory, or REPOSITORY#REF.
    """

    name: str
    task: dict[str, Any]
    sites: Sites
    rounds: Rounds = field(default_factory=Rounds)
    server: ServerOptimizer = field(default_factory=ServerOptimizer)
    compress: str = AUTO
    up: dict[str, Any] = field(default_factory=dict)
    down: dict[str, Any] = field(default_factory=dict)
    adapt: Adapting = field(default_factory=Adapting)
    later: list[Later] = field(default_factory=list)
    prune: Pruning | None = None
    ledger: LedgerSettings | None = None
    link: Link = field(default_factory=Link)
    links: dict[str, Link] = field(default_factory=dict)
    device: Speed = field(default_factory=Speed)
    devices: dict[str, Speed] = field(default_factory=dict)
    run: Running = field(default_factory=Running)
    compare: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    start: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise ConfigError(f"'name' must be letters, digits, '.', '_' and '-', found {self.name!r:.80}")
        check_number("the recipe", "seed", self.seed, 0, 2**62)
        if not isinstance(self.task.get("name"), str):
            raise ConfigError("[task] needs a 'name'", hint="a task's name, or 'package.module:Class'")
        for where, table in (("[links]", self.links), ("[devices]", self.devices)):
            for site in table:
                if site not in self.sites.all:
                    raise unknown_key(site, self.sites.all, where)
        if self.ledger is not None and COORDINATOR in self.sites.all:
            raise ConfigError(f"[sites]: where a ledger is kept, no site is called '{COORDINATOR}'")
        strange = self.ledger.members.keys() - set(self.sites.all) if self.ledger is not None else ()
        if strange:
            raise unknown_key(min(strange), self.sites.all, "[ledger.members]")
        if self.compress not in (AUTO, FIXED):
            raise ConfigError(f"'compress' is '{AUTO}' or '{FIXED}', found {self.compress!r:.40}")
        if not self.adapts and self.adapt != Adapting():
            raise ConfigError(
                f"[adapt] says what codecs are chosen for, and compress = '{FIXED}' chooses none",
                hint="leave out [up] and [down], or --set compress=auto",
            )
        for config in self.codecs:
            codec_from(config)
        canonical.dumps([self.task, self.compare])  # a run keeps the recipe as JSON: no dates, no NaN

    @property
    def task_name(self) -> str:
        """The task's name or import path."""
        return str(self.task["name"])

    @property
    def task_options(self) -> dict[str, Any]:
        """The other keys of [task]."""
        return {key: value for key, value in self.task.items() if key != "name"}

    @property
    def adapts(self) -> bool:
        """Whether codecs are chosen while the run goes on."""
        return self.compress == AUTO

    @property
    def codecs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The codecs up and down that a round has unless another is chosen for it."""
        if not self.adapts:
            return self.up, self.down
        start = levels.LADDER[levels.index_of(levels.START)].options[0]
        return dict(start.up), dict(start.down)

    def timed(self, *, measured: bool) -> Recipe:
        """The recipe with a clock for its choices, where it leaves that to the engine."""
        if not self.adapts or self.adapt.clock:
            return self
        return replace(self, adapt=replace(self.adapt, clock=MEASURED if measured else SIMULATED))

    def device_of(self, site: str) -> Speed:
        """The device of one site."""
        return self._counted(self.devices.get(site, self.device))

    @property
    def coordinator_device(self) -> Speed:
        """The coordinator's device: an ordinary one, where coding is counted at all."""
        return Speed(1.0 if self._counted(self.device).speed else 0.0)

    def _counted(self, device: Speed) -> Speed:
        return replace(device, speed=1.0) if self.adapts and not device.speed else device

    def link_of(self, site: str) -> Link:
        """The line of one site."""
        return self.links.get(site, self.link)

    def with_sites(self, names: Sequence[str]) -> Recipe:
        """The recipe with these sites in place of its own; what it says of sites that stay, stays.

        Raises:
            ConfigError: a name is no name of a site, or stands twice.
        """
        away = [gap for gap in self.sites.away if gap.site in names]
        links = {site: link for site, link in self.links.items() if site in names}
        devices = {site: device for site, device in self.devices.items() if site in names}
        ledger = self.ledger
        if ledger is not None:
            members = {site: key for site, key in ledger.members.items() if site in names}
            ledger = replace(ledger, members=members)
        sites = replace(self.sites, count=0, names=list(names), away=away)
        return replace(self, sites=sites, links=links, devices=devices, ledger=ledger)

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON values."""
        plain = canonical.plain(self)
        assert isinstance(plain, dict)
        return plain

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Recipe:
        """The recipe that a table (TOML or JSON) describes; strict about every key, type and range.

        Raises:
            ConfigError: one sentence about the first thing that is wrong.
        """
        table = dict(table)
        if isinstance(table.get("task"), str):
            table["task"] = {"name": table["task"]}
        links: dict[str, Link] = {}
        for site, rows in as_table(table.pop("links", {}), "[links]").items():
            base = as_table(table.get("link", {}), "[link]")
            links[site] = link_from({**base, **as_table(rows, f"[links.{site}]")}, f"[links.{site}]")
        if "link" in table:
            table["link"] = link_from(as_table(table["link"], "[link]"), "[link]")
        devices: dict[str, Speed] = {}
        for site, rows in as_table(table.pop("devices", {}), "[devices]").items():
            base = as_table(table.get("device", {}), "[device]")
            own = {**base, **as_table(rows, f"[devices.{site}]")}
            devices[site] = from_table(Speed, own, f"[devices.{site}]")
        settle_codecs(table)
        if isinstance(table.get("adapt"), Mapping):  # a level's name may look like a number
            table["adapt"] = {
                key: f"{value:g}" if key in ("finest", "coarsest") and type(value) in (int, float) else value
                for key, value in table["adapt"].items()
            }
        return from_table(cls, {**table, "links": links, "devices": devices}, "the recipe")


def load_recipe(source: str | Path | Mapping[str, Any] | Recipe, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file (or a table of its keys), with `--set`-style changes applied.

    Args:
        source: a path, a mapping with the recipe's keys, or a recipe.
        changes: "rounds.max=10" and the like; the value is read as TOML, else as text.

    Raises:
        ConfigError: no such file, not TOML, or a key, type or range that is wrong.
    """
    if isinstance(source, Recipe):
        table = source.to_json()
    elif isinstance(source, Mapping):
        table = dict(source)
    else:
        table = _read_toml(Path(source))
    if isinstance(table.get("task"), str):
        table["task"] = {"name": table["task"]}
    for change in changes:
        _apply(table, change)
        if change.replace(" ", "").replace('"', "") == f"compress={AUTO}":
            for key in ("up", "down", "later"):
                table.pop(key, None)
    return Recipe.from_json(table)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no recipe at {path}", hint="name a TOML file; examples/ has some"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe {path} is not TOML: {error}") from error


def _apply(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"expected --set key=value, found '{change}'", hint="for example --set rounds.max=10"
        )
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *path, last = key.strip().split(".")
    for part in path:
        section = table.get(part, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"--set {change}: '{part}' is {section!r:.60}, not a table of keys")
        table[part] = dict(section)
        table = table[part]
    table[last] = value
