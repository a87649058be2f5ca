"""What `status` and `branch` tell of a repository: facts, for whoever prints them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phloem.branches import history, packs
from phloem.branches.catalog import Entry

if TYPE_CHECKING:
    from phloem.branches.repository import Repository


@dataclass(frozen=True)
class BranchFacts:
    """A branch in a list.

    Attributes:
        head: its newest commit.
        ahead, behind: commits that it has and the branch compared with has not, and the other way round; None for
            that one itself.
    """

    name: str
    is_current: bool
    head: Entry
    ahead: int | None
    behind: int | None


@dataclass(frozen=True)
class RemoteFacts:
    """A branch here, against the one of the same name at another place, as that was last seen.

    Attributes:
        ahead, behind: commits that only we have, and that only they have.
    """

    place: str
    branch: str
    ahead: int
    behind: int


@dataclass(frozen=True)
class StatusFacts:
    """A repository at a glance.

    Attributes:
        place: where it is.
        branch: the current branch.
        head: its newest commit; None before the first.
        tracking: the branches that other places have as well.
        commits, branches, tags, packs: how many there are.
        bytes: what packs and frames take up.
        damaged: packs that cannot be read.
    """

    place: str
    branch: str
    head: Entry | None
    tracking: tuple[RemoteFacts, ...]
    commits: int
    branches: int
    tags: int
    packs: int
    bytes: int
    damaged: tuple[str, ...]


def branches(repo: Repository, against: str = "trunk") -> list[BranchFacts]:
    """Every branch, the current one first, compared with the branch `against`."""
    refs, commits = repo.refs, repo.objects.catalog.commits()
    root = refs.branches.get(against)
    reach = history.reachable([root], commits) if root else set()
    found = []
    for name, digest in sorted(refs.branches.items(), key=lambda row: (row[0] != refs.current, row[0])):
        if digest not in commits:
            continue
        ahead = behind = None
        if root is not None and name != against:
            ahead, behind = history.apart(digest, root, commits, reach)
        found.append(BranchFacts(name, name == refs.current, commits[digest], ahead, behind))
    return found


def status(repo: Repository) -> StatusFacts:
    """The repository at a glance."""
    refs, catalog = repo.refs, repo.objects.catalog
    head = refs.branches.get(refs.current)
    tracking = []
    if refs.remotes:
        commits = catalog.commits()
        for place, table in sorted(refs.remotes.items()):
            for name, theirs in sorted(table.items()):
                ours = refs.branches.get(name)
                if ours in commits and theirs in commits:
                    tracking.append(RemoteFacts(place, name, *history.apart(ours, theirs, commits)))
    return StatusFacts(
        place=repo.place.url,
        branch=refs.current,
        head=catalog.commit(head) if head else None,
        tracking=tuple(tracking),
        commits=catalog.count(packs.COMMIT),
        branches=len(refs.branches),
        tags=len(refs.tags),
        packs=len(catalog.pack_names()),
        bytes=catalog.stored_bytes() + sum(repo.place.frames().values()),
        damaged=tuple(sorted(repo.objects.damaged_packs)),
    )
