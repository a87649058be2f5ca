"""Other places of a repository: the names that its settings give them, and what opens them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from phloem.branches.bucket import Bucket
from phloem.branches.catalog import Catalog
from phloem.branches.folder import NAME, Folder, writing
from phloem.branches.objects import Objects
from phloem.branches.refs import Refs, check_name
from phloem.branches.repository import Repository
from phloem.errors import ConfigError, nearest
from phloem.store.urls import without_secrets

ORIGIN = "origin"
_SETTING = "remotes"


def remotes(repository: Repository) -> dict[str, str]:
    """The other places that the settings name: name and URL or directory."""
    said = repository.folder.settings.get(_SETTING)
    return {str(name): str(url) for name, url in said.items()} if isinstance(said, Mapping) else {}


def remote_url(repository: Repository, name: str) -> str:
    """Where the place of this name lies.

    Raises:
        ConfigError: the settings name none.
    """
    known = remotes(repository)
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean '{near}'?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"there is no remote '{name:.80}'", hint=hint)
    return known[name]


def add_remote(repository: Repository, name: str, url: str | Path) -> None:
    """Gives another place a name, in the settings.

    Raises:
        ConfigError: the name is that of another place, or none that a place can have.
    """
    check_name(name, "remote")
    if "/" in name:
        raise ConfigError(f"no remote can be called '{name:.80}'", hint="it is what stands before the '/'")
    known = remotes(repository)
    where = str(url) if _scheme(url) else str(Path(url).absolute())
    if known.get(name, where) != where:
        raise ConfigError(
            f"'{name}' is the name of {without_secrets(known[name]) if _scheme(known[name]) else known[name]}",
            hint="remove it first",
        )
    if name not in known:
        folder = repository.folder
        folder.save_settings({**folder.settings, _SETTING: {**known, name: where}})


def remove_remote(repository: Repository, name: str) -> None:
    """Forgets another place, and what it was last seen to have.

    Raises:
        ConfigError: the settings name none.
    """
    remote_url(repository, name)
    folder, known = repository.folder, remotes(repository)
    folder.save_settings({**folder.settings, _SETTING: {n: url for n, url in known.items() if n != name}})

    def change(refs: Refs) -> Refs:
        return Refs(
            refs.current, refs.branches, refs.tags, {n: t for n, t in refs.remotes.items() if n != name}
        )

    folder.move(change)


@dataclass(frozen=True)
class Elsewhere:
    """Another place, open.

    Attributes:
        name: what its branches are remembered under: "origin".
        names: its table of names, read before anything else: all that it leads to is among the objects.
    """

    name: str
    place: Folder | Bucket
    names: Refs
    objects: Objects

    @property
    def url(self) -> str:
        """Where it lies, without secrets."""
        return self.place.url

    def close(self) -> None:
        """Closes its files."""
        self.objects.catalog.close()
        if isinstance(self.place, Folder):
            self.place.close()


def open_place(
    repository: Repository, where: str | Path, *, new: bool = False, alone: bool = False
) -> Elsewhere:
    """The place that is meant by `where`: a remote's name, a URL, or a directory.

    What its packs hold is remembered beside the repository's own catalog, so that each is opened once only.

    Args:
        repository: the one here.
        where: what is meant.
        new: it may be that there is none yet; it is made.
        alone: nobody else writes there.

    Raises:
        ConfigError: there is nothing of the kind. StoreError: it does not answer. StateError: it is damaged, or of
            another version.
    """
    name, url = _named(repository, where)
    folder = repository.folder
    if _scheme(url) and not url.startswith("file://"):
        bucket = Bucket(url, new=new, alone=alone)
        names = bucket.refs()
        path = folder.root / "catalogs" / f"{hashlib.sha256(bucket.url.encode()).hexdigest()[:16]}.db"
        with writing(folder.root):
            path.parent.mkdir(exist_ok=True)
        catalog = Catalog(path)
        bucket.known = frozenset(catalog.pack_names())
        return Elsewhere(name, bucket, names, Objects(bucket, catalog))
    directory = _directory(Path(_path_of(url)), new=new)
    if directory.root.resolve() == folder.root.resolve():
        raise ConfigError(f"{directory.root} is this very repository", hint="name another place")
    names = directory.refs()
    return Elsewhere(name, directory, names, Objects(directory, Catalog(directory.catalog_path)))


def _directory(path: Path, *, new: bool) -> Folder:
    """The repository in a directory; made if that is to be, and the directory is empty or not there."""
    if (path / NAME / "format.json").exists():
        return Folder(path / NAME)
    if (path / "format.json").exists() or not new:
        return Folder(path)
    if path.exists() and not (
        path.is_dir() and all(_HALF_MADE.fullmatch(one.name) for one in path.iterdir())
    ):
        raise ConfigError(f"{path} is something else than a repository", hint="choose an empty directory")
    return Folder.create(path)


#: What a crash may leave of a repository that was being made.
_HALF_MADE = re.compile(r"packs|frames|tmp|lock|refs\.json|\.(refs|format)\.json\.[0-9a-f]+")


def _named(repository: Repository, where: str | Path) -> tuple[str, str]:
    """The name and the URL, or directory, of a place."""
    known, text = remotes(repository), str(where)
    if text in known:
        return text, known[text]
    looks_like_a_path = isinstance(where, Path) or "/" in text or Path(text).exists()
    if not looks_like_a_path:
        return text, remote_url(repository, text)  # which says that there is none
    url = text if _scheme(text) else str(Path(text).absolute())
    for name, one in known.items():
        if one.rstrip("/") == url.rstrip("/"):
            return name, url
    shown = without_secrets(url) if _scheme(url) else url
    last = next((part for part in reversed(shown.split("/")) if part not in ("", NAME)), "")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-") or "elsewhere"
    if name in known:
        name = f"{name}-{hashlib.sha256(shown.encode()).hexdigest()[:6]}"
    return name, url


def _scheme(url: str | Path) -> str:
    return str(url).partition("://")[0] if "://" in str(url) else ""


def _path_of(url: str) -> str:
    if not url.startswith("file://"):
        return url
    rest = url.removeprefix("file://")
    if not rest.startswith("/"):
        raise ConfigError(f"expected file:///PATH, found file://{rest:.80}")
    return unquote(rest)
