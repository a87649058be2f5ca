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
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.errors import ConfigError, nearest, unknown_key
from phloem.ledger.kinds import COORDINATOR
from phloem.ledger.settings import LedgerSettings
from phloem.pruning import Pruning
from phloem.rounds.merge import MergeRule, ServerOptimizer
from phloem.rounds.plan import Later
from phloem.strict import as_table, from_table

_NAME = r"(?!\.{1,2}$)[\w.-]{1,64}"  # becomes the name of a directory: neither . nor ..
_RATE = re.compile(r"\s*([0-9.]+)\s*([kmg]?)bit(?:/s|ps)?\s*", re.IGNORECASE)
_TIME = re.compile(r"\s*([0-9.]+)\s*(us|ms|s)\s*", re.IGNORECASE)
_RATE_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
STOPS = ("rounds", "target")
_DEFAULT_CODEC = {"codec": "ecsq", "bits": 0.05, "effort": "fast"}


@dataclass(frozen=True)
class Away:
    """A site that cannot be reached from round `first` up to and including round `last`."""

    site: str
    first: int
    last: int

    def __post_init__(self) -> None:
        check_number("[[sites.away]]", "first", self.first, 0, 1e9)
        check_number("[[sites.away]]", "last", self.last, self.first, 1e9)


@dataclass(frozen=True)
class Sites:
    """Who takes part, and how reliably: either `count` sites called site-0, site-1, … or `names`.

    `participation`: share of the sites asked to train in a round. `dropout`: chance that a site cannot be reached
    in a round. `late`: chance that its update comes after the round was closed (it is refused and owed again).
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    participation: float = 1.0
    dropout: float = 0.0
    late: float = 0.0
    away: list[Away] = field(default_factory=list)

    def __post_init__(self) -> None:
        if bool(self.count) == bool(self.names):
            raise ConfigError("[sites] needs either 'count' or 'names'")
        check_number("[sites]", "count", self.count, 0, 100_000)
        if len(set(self.names)) != len(self.names) or not all(re.fullmatch(_NAME, n) for n in self.names):
            raise ConfigError("[sites]: 'names' must be different, of letters, digits, '.', '_' and '-'")
        check_number("[sites]", "participation", self.participation, 1e-9, 1.0)
        check_number("[sites]", "dropout", self.dropout, 0.0, 0.999)
        check_number("[sites]", "late", self.late, 0.0, 0.999)
        unknown = [gap.site for gap in self.away if gap.site not in self.all]
        if unknown:
            raise unknown_key(unknown[0], self.all, "[sites]: away names a site that is not there; the list")

    @property
    def all(self) -> tuple[str, ...]:
        """Every site's name, sorted."""
        width = len(str(self.count - 1))
        return tuple(sorted(self.names or [f"site-{n:0{width}}" for n in range(self.count)]))


@dataclass(frozen=True)
class Rounds:
    """How long, and how updates are merged.

    `stop` = "rounds" runs `max` rounds; "target" stops once the task's metric on the stopping data reaches
    `target`, after `max` rounds at the latest. `division` is p of `phloem.rounds.merge.MergeRule`; `clip_norm`
    bounds the Euclidean norm of a site's update.
    """

    max: int = 30
    stop: str = "rounds"
    target: float | None = None
    division: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_number("[rounds]", "max", self.max, 1, 1_000_000)
        if self.stop not in STOPS:
            raise ConfigError(f"[rounds]: 'stop' is one of {', '.join(STOPS)}, found '{self.stop}'")
        if self.stop == "target" and self.target is None:
            raise ConfigError("[rounds]: stop = 'target' needs a 'target'")
        if self.target is not None:
            check_number("[rounds]", "target", self.target, -1e300, 1e300)
        if self.clip_norm is not None:
            check_number("[rounds]", "clip_norm", self.clip_norm, 1e-12, 1e12)
        MergeRule(self.division)


@dataclass(frozen=True)
class Link:
    """A site's line. Rates in bits per second ("10mbit"), latency in seconds ("40ms"), one way.

    `train_seconds` is what one round of training takes on the simulated clock; 0 shows communication alone.
    """

    up: float = 10e6
    down: float = 10e6
    latency: float = 0.04
    train_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_number("[link]", "up", self.up, 1.0, 1e15)
        check_number("[link]", "down", self.down, 1.0, 1e15)
        check_number("[link]", "latency", self.latency, 0.0, 1e6)
        check_number("[link]", "train_seconds", self.train_seconds, 0.0, 1e9)

    def up_seconds(self, size_bytes: int) -> float:
        """How long `size_bytes` take to the coordinator."""
        return self.latency + 8 * size_bytes / self.up

    def down_seconds(self, size_bytes: int) -> float:
        """How long `size_bytes` take to the site."""
        return self.latency + 8 * size_bytes / self.down


@dataclass(frozen=True)
class Running:
    """How this machine runs the job; none of it changes a result.

    `workers`: 0 trains in this process, n > 0 in n processes. `keep_updates`: whether the sites' frames stay in the
    run directory (a replay needs them). `snapshot_every`: rounds between two points that a resume can start from.
    `residuals`: where sites that are not at work keep their residual and their task's memory, in "memory" or on
    "disk"; on disk, a thousand sites of one machine need no more memory than ten.
    """

    workers: int = 0
    keep_updates: bool = True
    snapshot_every: int = 1
    residuals: str = "memory"

    def __post_init__(self) -> None:
        check_number("[run]", "workers", self.workers, 0, 256)
        check_number("[run]", "snapshot_every", self.snapshot_every, 1, 1_000_000)
        if self.residuals not in ("memory", "disk"):
            raise ConfigError(f"[run]: 'residuals' must be 'memory' or 'disk', found {self.residuals!r:.40}")


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is made from; equal recipes and seeds give equal states.

    `compare` has the changes under which the uncompressed baselines of `--compare` do best. `start` is the model that
    the run starts from, if not the task's own first state: a file, a directory, or REPOSITORY#REF.
    """

    name: str
    task: dict[str, Any]
    sites: Sites
    rounds: Rounds = field(default_factory=Rounds)
    server: ServerOptimizer = field(default_factory=ServerOptimizer)
    up: dict[str, Any] = field(default_factory=lambda: dict(_DEFAULT_CODEC))
    down: dict[str, Any] = field(default_factory=lambda: dict(_DEFAULT_CODEC))
    later: list[Later] = field(default_factory=list)
    prune: Pruning | None = None
    ledger: LedgerSettings | None = None
    link: Link = field(default_factory=Link)
    links: dict[str, Link] = field(default_factory=dict)
    run: Running = field(default_factory=Running)
    compare: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    start: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            raise ConfigError(f"'name' must be letters, digits, '.', '_' and '-', found {self.name!r:.80}")
        check_number("the recipe", "seed", self.seed, 0, 2**62)
        if not isinstance(self.task.get("name"), str):
            raise ConfigError("[task] needs a 'name'", hint="a task's name, or 'package.module:Class'")
        for site in self.links:
            if site not in self.sites.all:
                raise unknown_key(site, self.sites.all, "[links]")
        if self.ledger is not None and COORDINATOR in self.sites.all:
            raise ConfigError(f"[sites]: where a ledger is kept, no site is called '{COORDINATOR}'")
        strange = self.ledger.members.keys() - set(self.sites.all) if self.ledger is not None else ()
        if strange:
            raise unknown_key(min(strange), self.sites.all, "[ledger.members]")
        codec_from(self.up)
        codec_from(self.down)
        canonical.dumps([self.task, self.compare])  # a run keeps the recipe as JSON: no dates, no NaN

    @property
    def task_name(self) -> str:
        """The task's name or import path."""
        return str(self.task["name"])

    @property
    def task_options(self) -> dict[str, Any]:
        """The other keys of [task]."""
        return {key: value for key, value in self.task.items() if key != "name"}

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
        ledger = self.ledger
        if ledger is not None:
            members = {site: key for site, key in ledger.members.items() if site in names}
            ledger = replace(ledger, members=members)
        sites = replace(self.sites, count=0, names=list(names), away=away)
        return replace(self, sites=sites, links=links, ledger=ledger)

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
            links[site] = _link({**base, **as_table(rows, f"[links.{site}]")}, f"[links.{site}]")
        if "link" in table:
            table["link"] = _link(as_table(table["link"], "[link]"), "[link]")
        for direction in ("up", "down"):
            table[direction] = _codec(
                as_table(table.get(direction, _DEFAULT_CODEC), f"[{direction}]"), direction
            )
        if "later" in table:
            table["later"] = _later(table["later"], table["up"], table["down"])
        return from_table(cls, {**table, "links": links}, "the recipe")


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


def _link(table: dict[str, Any], where: str) -> Link:
    for key in ("up", "down"):
        if isinstance(table.get(key), str):
            table[key] = rate(table[key], f"{where}: '{key}'")
    if isinstance(table.get("latency"), str):
        table["latency"] = _quantity(
            table["latency"], _TIME, _TIME_UNITS, f"{where}: 'latency'", "a time like '40ms'"
        )
    return from_table(Link, table, where)


def rate(text: str, what: str) -> float:
    """The bits per second that a text such as "10mbit" names; `what` is for the message.

    Raises:
        ConfigError: it is no rate.
    """
    return _quantity(text, _RATE, _RATE_UNITS, what, "a rate like '10mbit'")


def _quantity(text: str, pattern: re.Pattern[str], units: Mapping[str, float], what: str, like: str) -> float:
    match = pattern.fullmatch(text)
    try:
        if match:
            return float(match[1]) * units[match[2].lower()]
    except ValueError:
        pass
    raise ConfigError(f"{what} must be {like}, found '{text}'")


def _codec(table: dict[str, Any], direction: str) -> dict[str, Any]:
    table.setdefault("codec", "ecsq")
    if not isinstance(table["codec"], str):
        raise ConfigError(f"[{direction}]: 'codec' must be a text, found {table['codec']!r:.60}")
    if table["codec"] not in BY_NAME:
        near = nearest(str(table["codec"]), BY_NAME)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(sorted(BY_NAME))}"
        raise ConfigError(f"[{direction}]: there is no codec '{table['codec']}'", hint=hint)
    codec = codec_from(table)
    config = canonical.plain(codec)
    return {"codec": codec.name, **{key: value for key, value in config.items() if value is not None}}


def _later(rows: Any, up: dict[str, Any], down: dict[str, Any]) -> list[Later]:
    """The stages of [[later]], each with whole codecs: what a row does not name stays as it was."""
    if not isinstance(rows, list):
        raise ConfigError("[[later]] must be a list of tables", hint="write [[later]], with two brackets")
    stages: list[Later] = []
    for row in rows:
        table = as_table(canonical.plain(row), "[[later]]")
        for key in table:
            if key not in ("round", "up", "down"):
                raise unknown_key(key, ("round", "up", "down"), "[[later]]")
        begins = table.get("round")
        after = stages[-1].round if stages else 0
        if type(begins) is not int or not after < begins <= 1_000_000:
            raise ConfigError(
                f"[[later]]: 'round' must be a whole number above {after}, found {begins!r:.60}"
            )
        up = _changed(up, as_table(table.get("up", {}), "[later.up]"), "later.up")
        down = _changed(down, as_table(table.get("down", {}), "[later.down]"), "later.down")
        stages.append(Later(begins, up, down))
    return stages


def _changed(codec: dict[str, Any], change: dict[str, Any], where: str) -> dict[str, Any]:
    if "codec" in change:
        return _codec(change, where)
    knobs = ("bits", "step", "nmse")
    turned = any(knob in change for knob in knobs)
    kept = {key: value for key, value in codec.items() if not (turned and key in knobs)}
    return _codec({**kept, **change}, where)
