"""`squash`: the history of a branch becomes one commit with the same state, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phloem.branches import chains, history
from phloem.branches.catalog import Entry
from phloem.branches.committing import write_state
from phloem.branches.drafts import Draft
from phloem.branches.objects import Objects
from phloem.branches.records import Commit, check_author, now
from phloem.branches.refs import unknown_name
from phloem.branches.repacking import LOSSLESS, lossless
from phloem.branches.restore import Restored
from phloem.errors import ConfigError

if TYPE_CHECKING:
    from phloem.branches.repository import Repository, Sign

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Squashed:
    """What `squash` did.

    Attributes:
        commit: the branch's new head, with the state that it had.
        squashed: how many commits it takes the place of.
        bytes: what the repository took up for it; what it takes the place of goes with the next `gc`.
        still_named: other names that lead to some of the old commits, and to how many: those stay while the names do.
    """

    commit: str
    branch: str
    state: str
    squashed: int
    bytes: int
    still_named: Mapping[str, int]


def squash(
    repo: Repository,
    branch: str | None = None,
    onto: str | None = None,
    *,
    message: str | None = None,
    author: str = "unknown",
    sign: Sign | None = None,
    progress: Progress = lambda *_: None,
) -> Squashed:
    """Makes one commit of those that `branch` has beyond `onto`, or of its whole history.

    The state is the same to the bit: it is stored without loss, as its difference from the state of `onto` or alone,
    whichever takes fewer bytes. Merges on other branches keep the old commits that they came from.

    Raises:
        ConfigError: there is nothing to squash, or the branch did not come from `onto`.
        ConflictError: the branch moved meanwhile; it stays as it is.
    """
    check_author(author)
    refs = repo.refs
    name = branch or refs.current
    if name not in refs.branches:
        raise unknown_name(name, refs)
    head, commits = refs.branches[name], repo.objects.catalog.commits()
    base = None if onto is None else repo.resolve(onto)
    old = _beyond(name, head, base, commits)
    last = repo.objects.commit(head)
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        _store(draft, last.state, None if base is None else commits[base].state, scratch, progress)
        commit = Commit(
            kind="import" if base is None else "update",
            parents=() if base is None else (base,),
            state=last.state,
            author=author,
            time=now(),
            message=_message(name, old, message),
            metrics=last.metrics,
            examples=_examples(repo.objects, old),
            site=_site(old),
            files=last.files,
            metadata=last.metadata,
        )
        digest = repo.publish(draft, commit, name, head, sign)
    return Squashed(digest, name, last.state, len(old), draft.frame_bytes, _still_named(repo, old))


def _beyond(name: str, head: str, base: str | None, commits: Mapping[str, Entry]) -> list[Entry]:
    """The commits to squash, oldest first."""
    mine = history.reachable([head], commits)
    if base is not None and base not in mine:
        raise ConfigError(
            f"'{name}' did not come from {base[:12]}, so it cannot be put onto it",
            hint="choose a commit of its own history: phloem log",
        )
    gone = mine - (history.reachable([base], commits) if base is not None else set())
    if len(gone) < 2:
        raise ConfigError(f"there is nothing to squash on '{name}': it is {len(gone)} commit(s)")
    return [entry for entry in history.in_order([head], commits) if entry.digest in gone][::-1]


def _store(draft: Draft, state: str, base: str | None, scratch: Path, progress: Progress) -> None:
    """Adds an encoding that needs nothing of the old history, unless there is one."""
    objects = draft.objects
    if state == base or any(one.base in (None, base) for one in objects.encodings(state)):
        return
    model, before = scratch / "state.safetensors", scratch / "base.safetensors"
    whole = Restored(objects, state)
    write_state(whole, model, progress)
    key, difference = scratch / "key.phl", scratch / "difference.phl"
    found = [(key, lossless(objects, key, model, state, None, None, progress))]
    if base is not None:
        under = Restored(objects, base)
        write_state(under, before, progress)
        one = lossless(objects, difference, model, state, before, base, progress)
        if one is not None and chains.times_reading([*under.chain, one], whole.size) <= chains.MOST_TIMES:
            found.append((difference, one))
    path, chosen = min(
        ((path, one) for path, one in found if one is not None), key=lambda row: row[1].frame_bytes
    )
    draft.add_frame(path, chosen.state, chosen.base, chosen.form, LOSSLESS)


def _message(name: str, old: Sequence[Entry], words: str | None) -> str:
    sites = Counter(entry.site for entry in old if entry.site)
    lines = [
        words or f"Squash {len(old)} commits of {name}",
        "",
        f"{len(old)} commits, kept bit for bit:",
        *(
            f"{which}: {entry.digest[:12]} {entry.time} {entry.subject}"
            for which, entry in (("first", old[0]), ("last", old[-1]))
        ),
    ]
    if sites:
        lines.append("sites: " + ", ".join(f"{site} ({count})" for site, count in sorted(sites.items())))
    return "\n".join(lines)


def _site(old: Sequence[Entry]) -> str | None:
    sites = {entry.site for entry in old}
    return sites.pop() if len(sites) == 1 else None


def _examples(objects: Objects, old: Sequence[Entry]) -> int | None:
    """How many examples all of them were trained on, if all say so; merges were trained on none of their own."""
    counts = [objects.commit(entry.digest).examples for entry in old if entry.kind != "merge"]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _still_named(repo: Repository, old: Sequence[Entry]) -> dict[str, int]:
    gone, commits = {entry.digest for entry in old}, repo.objects.catalog.commits()
    found: dict[str, int] = {}
    for head, names in repo.refs.names_of().items():
        count = len(gone & history.reachable([head], commits))
        if count:
            found |= dict.fromkeys(names, count)
    return found
