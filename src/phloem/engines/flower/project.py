"""`phloem flower new`: a Flower app that builds a recipe, and a kit for every site that takes part.

    DIR/recipe.toml         what is built; edit it
    DIR/phloem_app.py       the two apps, three lines
    DIR/pyproject.toml      what Flower reads
    DIR/README.md           what to type at which machine
    DIR/secrets/            the server's certificate and key; stays with the coordinator
    DIR/ledger/             the log and its keys, where the recipe has [ledger]; stays there too
    DIR/sites/NAME/         a site's kit: the certificate to check the server by, its key, its configuration

Flower bundles the text files of DIR and sends them to every node; secrets, kits and runs are left out.
"""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
import shutil
import sysconfig
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem.engines.flower.certificates import Authority, make_authority, make_node_key
from phloem.engines.flower.programs import in_words
from phloem.errors import ConfigError
from phloem.recipe import Recipe

APP = "phloem_app"
SECRETS, SITES, RECIPE, KIT, LEDGER = "secrets", "sites", "recipe.toml", "site.toml", "ledger"
POLICY = "policy.txt"

_APP = '''"""The recipe beside this file, as a Flower app. Nothing here needs to be changed; the recipe does."""

from pathlib import Path

import phloem.flower

RECIPE = Path(__file__).with_name("recipe.toml")
server = phloem.flower.coordinator_app(RECIPE)
client = phloem.flower.site_app(RECIPE)
'''

_PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "{description}"
license = "Apache-2.0"
dependencies = ["phloem[flower]"]

[tool.flwr.app]
publisher = "phloem"
fab-include = ["/*.py", "/{recipe}"]  # all that is sent to the nodes; never secrets/, sites/ or runs/

[tool.flwr.app.components]
serverapp = "phloem_app:server"
clientapp = "phloem_app:client"

[tool.flwr.app.config]
run = ""               # the run's directory; by default runs/ and the recipe's name
ledger = ""            # the ledger's folder; by default one in the run's directory
nodes = ""             # a JSON file that says which node is which site; without it the nodes are asked, and believed
report = ""            # a file for what the coordinator says and how it fails, as lines of JSON
simulated-state = ""   # where the nodes of a simulation keep what they own
connect-seconds = 600  # how long to wait for sites to connect
answer-seconds = 3600  # how long to wait for their answers in a round

[tool.phloem]
coordinator = "{address}"  # where the sites reach it
"""

_IGNORE = "secrets/\nledger/\nsites/\nruns/\nnodes.json\n"

_KIT = """# What the site '{site}' needs to take part. Keep node.key to yourself.

name = "{site}"
coordinator = "{address}"
# state = "/var/lib/phloem"     # where trunk and residual lie; by default ~/.phloem/flower

[task]                          # options of the task that hold at this site alone
# csv = "/data/transactions.csv"
"""


_README = """# {name}, built with Phloem on Flower

`recipe.toml` says what is built. The coordinator is at {address}.

At the coordinator (add `--bind 0.0.0.0` where sites come from other machines):

    phloem flower coordinator {folder}

At each site, which needs only its own folder of `sites/` and `pip install 'phloem[flower]'` with what its task
needs:

{sites}
A kit's `site.toml` says where the site's data lie. A site that wants a key that nobody else has seen makes one
(`ssh-keygen -t ecdsa -b 384 -N '' -f node.key`) and sends `node.key.pub`, which the coordinator puts in the place of
`node.pub`.

With a federation that runs already: `flwr run {folder}`; its nodes need `site="NAME"` in their `--node-config`.
"""


@dataclass(frozen=True)
class Kit:
    """A site's kit, read."""

    name: str
    coordinator: str
    certificate: Path
    key: Path
    config: dict[str, Any]


def write_app(folder: Path, recipe: Recipe, address: str = "127.0.0.1:8000") -> None:
    """Makes `folder` a Flower app that builds `recipe`, with a coordinator at `address`.

    A task of one's own (`module:Class`) goes along if its module is one file; a package must be installed at every
    site.

    Raises:
        ConfigError: there is something in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty", hint="choose another directory")
    words = recipe.description or f"Phloem builds {recipe.name}"
    description = "".join(c if c.isprintable() and c not in '"\\\\' else " " for c in words)
    name = ("phloem-" + re.sub(r"[^a-z0-9]+", "-", recipe.name.lower()).strip("-"))[:32].rstrip("-")
    with in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(as_toml(recipe), "utf-8")
        (folder / f"{APP}.py").write_text(_APP, "utf-8")
        (folder / "pyproject.toml").write_text(
            _PYPROJECT.format(name=name, description=description, recipe=RECIPE, address=address), "utf-8"
        )
        (folder / ".gitignore").write_text(_IGNORE, "utf-8")
        source = _own_task(recipe)
        if source is not None:
            shutil.copy(source, folder / source.name)


def _own_task(recipe: Recipe) -> Path | None:
    """The file of a task that is neither Phloem's nor part of an installed package."""
    name, colon, _ = recipe.task_name.partition(":")
    if not colon or "." in name:
        return None
    found = importlib.util.find_spec(name)
    path = Path(found.origin) if found is not None and found.origin is not None else None
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    if path is None or path.name == "__init__.py" or path.parent in installed:
        return None
    return path


def as_toml(recipe: Recipe) -> str:
    """The resolved recipe as a TOML file; what is not set is left out."""
    import tomli_w  # one of Flower's own dependencies

    return tomli_w.dumps(_without_none(recipe.to_json()))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def write_secrets(folder: Path, hosts: Sequence[str]) -> Authority:
    """The server's certificate for these hosts, in `folder`'s secrets."""
    return make_authority(folder / SECRETS, hosts)


def make_ledger(folder: Path, recipe: Recipe) -> bytes | None:
    """The policy of the log that a recipe asks for, which is made in `folder`; None without one.

    Raises:
        ConfigError: there is a log already.
    """
    if recipe.ledger is None or recipe.ledger.folder:
        return None
    from phloem.ledger.folder import LedgerFolder

    origin = f"phloem/{recipe.name}-{secrets.token_hex(4)}"
    return LedgerFolder.create(folder / LEDGER, origin, recipe.ledger).policy.pack()


def write_kit(
    folder: Path, site: str, address: str, authority: Authority, policy: bytes | None = None
) -> Path:
    """A site's kit: the coordinator's certificate, a key pair, the log's policy, and the configuration to edit."""
    kit = folder / SITES / site
    with in_words(kit):
        kit.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_node_key(kit, "node")
        shutil.copy(authority.ca_certificate, kit / "ca.crt")
        if policy is not None:
            (kit / POLICY).write_bytes(policy)
        (kit / KIT).write_text(_KIT.format(site=site, address=address), "utf-8")
    return kit


def read_kit(folder: Path) -> Kit:
    """The kit in `folder`.

    Raises:
        ConfigError: something is missing or wrong in it.
    """
    path = folder / KIT
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="name a site's kit, DIR/sites/NAME"
        ) from error
    for key in table:
        if key not in ("name", "coordinator", "state", "task"):
            raise ConfigError(f"{path} has no key '{key}'", hint="known: name, coordinator, state, [task]")
    for key in ("name", "coordinator"):
        if not isinstance(table.get(key), str):
            raise ConfigError(f"{path} lacks '{key}'")
    for name in ("ca.crt", "node.key"):
        if not (folder / name).exists():
            raise ConfigError(f"{folder / name} is missing", hint="ask the coordinator for the kit again")
    options = table.get("task", {})
    if not isinstance(options, dict) or not all(type(v) in (str, int, float, bool) for v in options.values()):
        raise ConfigError(f"{path}: [task] holds texts, numbers, true and false")
    config = {"site": table["name"], **{f"task-{key}": value for key, value in options.items()}}
    if "state" in table:
        config["phloem-state"] = str(table["state"])
    if (folder / POLICY).exists():
        config["phloem-policy"] = str((folder / POLICY).absolute())
    return Kit(table["name"], table["coordinator"], folder / "ca.crt", folder / "node.key", config)


def public_keys(folder: Path, sites: Sequence[str]) -> dict[str, Path]:
    """The public key of every site, from the kits in `folder`.

    Raises:
        ConfigError: a site has none.
    """
    found = {site: folder / SITES / site / "node.pub" for site in sites}
    missing = [site for site, path in found.items() if not path.exists()]
    if missing:
        raise ConfigError(
            f"there is no key of site '{missing[0]}' in {folder / SITES}",
            hint="`phloem flower new` makes kits; or put the site's node.pub there",
        )
    return found


def read_address(folder: Path) -> str:
    """Where sites reach the coordinator of the app in `folder`.

    Raises:
        ConfigError: it is no such app.
    """
    try:
        table = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        return str(table["tool"]["phloem"]["coordinator"])
    except (KeyError, OSError, TypeError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{folder} is not what `phloem flower new` makes: {error}", hint="name its directory, DIR"
        ) from error


def host_of(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        ConfigError: it is none.

    >>> host_of("coordinator.example.org:8000")
    ('coordinator.example.org', 8000)
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"expected HOST:PORT, found '{address}'", hint="for example coordinator.example.org:8000"
        )
    host = host.strip("[]")
    if re.fullmatch(r"[A-Za-z0-9.:-]+", host) is None:
        raise ConfigError(f"'{host}' is no name or address of a host", hint="letters, digits, '-' and '.'")
    return host, int(port)


def write_readme(folder: Path, recipe: Recipe, address: str) -> None:
    """Says in `folder` what to type at which machine."""
    sites = "".join(f"    phloem flower site {folder.name}/sites/{site}\n" for site in recipe.sites.all)
    (folder / "README.md").write_text(
        _README.format(name=recipe.name, folder=folder.name, address=address, sites=sites)
    )


def write_nodes(path: Path, nodes: Mapping[str, int]) -> None:
    """Says which node is which site, for the coordinator's app."""
    with in_words(path):
        path.write_text(json.dumps(dict(nodes), indent=2) + "\n", "utf-8")


def read_nodes(path: Path) -> dict[str, int]:
    """What `write_nodes` wrote.

    Raises:
        ConfigError: it is something else.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
        return {str(site): int(node) for site, node in table.items()}
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not say which node is which site: {error}") from error
