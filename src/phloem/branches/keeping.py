"""Keeping a repository small and whole: packs made one, objects taken out of packs, names kept from what is not whole.

What removes anything holds the repository's lock, and removes the old only when the new is on the disk: whoever is
killed in between leaves things twice, never half. Objects are taken out of a pack by writing another without them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from phloem.branches import history, packs
from phloem.branches.folder import Folder
from phloem.branches.objects import Objects
from phloem.branches.refs import Refs
from phloem.errors import FormatError, NotFoundError, StateError, StoreError

#: More small packs than this are made one.
_MOST_SMALL = 64
_SMALL_BYTES = 8 << 20
#: Packs are combined in memory, so many bytes at a time.
_BATCH_BYTES = 64 << 20
_DAY_SECONDS = 86400.0
#: Older than this all packs are old, whatever the grace period that `gc` is told.
_OLD_SECONDS = 30 * _DAY_SECONDS


def tidy(folder: Folder, objects: Objects) -> bool:
    """Makes few packs of the small ones when there are many; says whether it did. Nothing that is in them is lost.

    It runs after each commit, so it says nothing of a disk that is full: the next one tries again.
    """
    if len(objects.catalog.pack_names()) <= _MOST_SMALL:
        return False
    with contextlib.suppress(StoreError), folder.locked():
        objects.refresh()
        small = small_packs(folder, objects)
        if len(small) > _MOST_SMALL:
            for group in alike_in_age(folder, small):
                combine(folder, objects, not_yet_large({name: small[name] for name in group}))
            return True
    return False


def not_yet_large(sizes: Mapping[str, int]) -> list[str]:
    """The packs to combine so that every one left is at least twice as large as all smaller ones together.

    So an object is written again only when what it lies among grows by half: as often as the logarithm of the number of
    commits says (`git repack --geometric` does the same).

    >>> not_yet_large({"a": 100, "b": 4, "c": 5, "d": 30})
    ['b', 'c']
    """
    rising = sorted(sizes, key=lambda name: (sizes[name], name))
    below = sum(sizes.values())
    while rising:
        below -= sizes[rising[-1]]
        if sizes[rising[-1]] < 2 * below:
            break
        rising.pop()
    return rising


def alike_in_age(folder: Folder, names: Iterable[str]) -> list[list[str]]:
    """Packs in groups that were written within a day of each other, or are all old.

    A combined pack counts as old as its youngest part, so that what `gc` may remove after a while must not be combined
    with what is new again and again.
    """
    now, ages = time.time(), sorted((age_of(folder, name), name) for name in names)
    groups: list[list[str]] = []
    first = -1.0
    for age, name in ages:
        together = age - first <= _DAY_SECONDS or age < now - _OLD_SECONDS
        if groups and together:
            groups[-1].append(name)
        else:
            groups.append([name])
            first = age
    return groups


def small_packs(folder: Folder, objects: Objects) -> dict[str, int]:
    """The packs that are worth combining, and their sizes."""
    sizes = {name: _size(folder, name) for name in objects.catalog.pack_names()}
    return {name: size for name, size in sizes.items() if 0 < size <= _SMALL_BYTES}


def combine(folder: Folder, objects: Objects, names: list[str]) -> int:
    """Makes few packs of these, under the lock, and gives how many bytes fewer they take.

    A pack with anything damaged in it is left as it is. What comes out counts as old as the youngest that went in.
    """
    freed = 0
    batch: dict[str, list[tuple[int, bytes]]] = {}
    size = 0
    for name in names:
        found = contents_of(folder, objects, name)
        if found is None:
            continue
        batch[name] = found
        size += sum(len(content) for _, content in found)
        if size >= _BATCH_BYTES:
            freed += _combined(folder, batch)
            batch, size = {}, 0
    freed += _combined(folder, batch)
    objects.refresh()
    return freed


def contents_of(folder: Folder, objects: Objects, name: str) -> list[tuple[int, bytes]] | None:
    """All that is in a pack, each checked; None if anything is damaged, or the pack is gone."""
    try:
        blob = folder.pack(name)
        return [
            (row.kind, packs.content_of(blob.read(row.offset, row.stored), row))
            for row in objects.catalog.rows_of(name)
        ]
    except (FormatError, StoreError):
        return None


def _combined(folder: Folder, batch: Mapping[str, list[tuple[int, bytes]]]) -> int:
    if len(batch) < 2:
        return 0
    before = sum(_size(folder, name) for name in batch)
    age = max(age_of(folder, name) for name in batch)
    made = folder.add_pack([one for contents in batch.values() for one in contents])
    _set_age(folder, made, age)
    for name in batch:
        if name != made:
            folder.remove_pack(name)
    return before - _size(folder, made)


# -- taking objects out ----------------------------------------------------------------------------------------


@dataclass
class Freed:
    """What was removed, or would be.

    Attributes:
        bytes: by how much fewer bytes of packs and frames there are.
        kinds: how many objects of each kind (`packs.KINDS`) are gone altogether.
        packs: how many packs were removed or written again without what is gone.
        kept: packs that hold some of it and stay, because something else in them is damaged.
    """

    bytes: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    packs: int = 0
    kept: list[str] = field(default_factory=list)


def take_out(
    folder: Folder,
    objects: Objects,
    is_dead: Callable[[str], bool],
    whole: Iterable[str] = (),
    *,
    before: float = float("inf"),
    dry_run: bool = False,
) -> Freed:
    """Removes the `whole` packs, and what is dead in others that are no younger than `before`; needs the lock.

    Packs come first, frames after them: a record that names a frame is gone before the frame is.
    """
    freed = Freed()
    gone: dict[str, int] = {}
    there = {name: _size(folder, name) for name in objects.catalog.pack_names()}
    for name in whole:  # first, because another may be written again as this very one
        freed.bytes += there.pop(name)
        freed.packs += 1
        if not dry_run:
            folder.remove_pack(name)
    for name in list(there):
        rows = objects.catalog.rows_of(name)
        dead = {row.digest: row.kind for row in rows if is_dead(row.digest)}
        if not dead or age_of(folder, name) > before:
            continue
        contents = [] if len(dead) == len(rows) else _without(folder, rows, name, dead)
        if contents is None:
            freed.kept.append(name)
            continue
        freed.bytes += _replace(folder, name, contents, there, dry_run=dry_run)
        freed.packs += 1
        gone |= dead
    for digest, size in folder.frames().items():
        if is_dead(digest) and _frame_age(folder, digest) <= before:
            freed.bytes += size
            gone[digest] = packs.FRAME
            if not dry_run:
                folder.remove_frame(digest)
    for kind in gone.values():
        freed.kinds[packs.KINDS[kind]] = freed.kinds.get(packs.KINDS[kind], 0) + 1
    if not dry_run:
        objects.refresh()
    return freed


def doubles(folder: Folder, objects: Objects) -> list[str]:
    """The packs all of whose objects are whole in others that stay, as a killed process leaves them."""
    found: list[str] = []
    for name in objects.catalog.pack_names():
        others = [
            [
                place
                for place in objects.catalog.places(row.digest)
                if place[0] != name and place[0] not in found
            ]
            for row in objects.catalog.rows_of(name)
        ]
        if all(others) and all(any(_is_whole(folder, *place) for place in places) for places in others):
            found.append(name)
    return found


def age_of(folder: Folder, name: str) -> float:
    """When a pack was written, in seconds since 1970: the later, the younger."""
    try:
        return (folder.root / "packs" / f"{name}.pack").stat().st_mtime
    except OSError:
        return float("inf")


def _without(
    folder: Folder, rows: Iterable[packs.Row], name: str, dead: Mapping[str, int]
) -> list[tuple[int, bytes]] | None:
    try:
        blob = folder.pack(name)
        return [
            (row.kind, packs.content_of(blob.read(row.offset, row.stored), row))
            for row in rows
            if row.digest not in dead
        ]
    except (FormatError, StoreError):
        return None


def _replace(
    folder: Folder, name: str, contents: list[tuple[int, bytes]], there: dict[str, int], *, dry_run: bool
) -> int:
    """Puts a pack of these contents in the place of another (or nothing); gives how many bytes fewer that is.

    `there` are the packs and their sizes, or what they would be.
    """
    freed, age = there.pop(name), age_of(folder, name)
    if contents:
        new, data = packs.pack(contents)
        if new not in there:
            freed -= len(data)
            there[new] = len(data)
        if not dry_run:
            folder.add_pack(contents)
            _set_age(folder, new, age)
    if not dry_run:
        folder.remove_pack(name)
    return freed


def _is_whole(folder: Folder, name: str, row: packs.Row) -> bool:
    try:
        packs.content_of(folder.pack(name).read(row.offset, row.stored), row)
    except (FormatError, StoreError):
        return False
    return True


def _set_age(folder: Folder, name: str, age: float) -> None:
    with contextlib.suppress(OSError):
        os.utime(folder.root / "packs" / f"{name}.pack", (age, age))


def _frame_age(folder: Folder, digest: str) -> float:
    try:
        return folder.frame_path(digest).stat().st_mtime
    except OSError:
        return float("inf")


def _size(folder: Folder, name: str) -> int:
    try:
        return folder.pack(name).size
    except NotFoundError:
        return 0


# -- names lead to what is whole -------------------------------------------------------------------------------


def checked(objects: Objects, change: Callable[[Refs], Refs]) -> Callable[[Refs], Refs]:
    """A change of names that also looks, under the lock, whether all that new names lead to is there.

    A `gc` may have been faster than who made a commit, or than who found one that no name led to.
    """

    def both(before: Refs) -> Refs:
        after = change(before)
        known = {*before.branches.values(), *before.tags.values()}
        new = {*after.branches.values(), *after.tags.values()} - known
        if new:
            objects.refresh()
            check_whole(objects, new, known)
        return after

    return both


def check_whole(objects: Objects, heads: Iterable[str], known: set[str]) -> None:
    """Nothing, if all that these commits need is there; of the commits that are `known` that is sure.

    Raises:
        StateError: something is missing; it is named.
    """
    heads = list(heads)
    entries = [objects.catalog.commit(head) for head in heads]
    if not all(entry is not None and known.issuperset(entry.parents) for entry in entries):
        known = history.reachable(known, objects.catalog.commits())
    known, sure, todo = set(known), set(), heads
    while todo:
        here = todo.pop()
        if here in known:
            continue
        known.add(here)
        try:
            commit = objects.commit(here)
            sure |= {objects.entry(parent).state for parent in commit.parents if parent in known}
        except NotFoundError as error:
            raise _lacking(here, "its record") from error
        for name, digest in commit.files.items():
            if digest not in objects.catalog:
                raise _lacking(here, f"its file '{name:.80}'")
        if not _leads_to(objects, commit.state, sure):
            raise _lacking(here, "what gives its state")
        sure.add(commit.state)
        todo += commit.parents


def _leads_to(objects: Objects, state: str, sure: set[str]) -> bool:
    """Whether encodings whose frames are there give a state, from nothing or from states that are sure."""
    seen, todo = {state}, [state]
    while todo:
        here = todo.pop()
        if here in sure:
            return True
        if here not in objects.catalog:
            continue
        for one in objects.encodings(here):
            if one.base not in seen and objects.has(one.frame):
                if one.base is None:
                    return True
                seen.add(one.base)
                todo.append(one.base)
    return False


def _lacking(commit: str, what: str) -> StateError:
    return StateError(
        f"the commit {commit[:12]} lacks {what}: a gc removed it before a name led to it",
        hint="make the commit again; phloem fsck says what is missing",
    )
