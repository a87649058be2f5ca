"""What `phloem advise`, `squash`, `repack`, `gc` and `fsck` do, over `phloem.branches`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import typer

from phloem import canonical
from phloem.cli.printing import print_json, say, stderr_meter
from phloem.cli.repository_options import author as author_of
from phloem.cli.repository_options import repository, signing
from phloem.cli.versions import scoring
from phloem.errors import ConfigError
from phloem.ui.figures import size_text

_SHORT = 10
_DAY_SECONDS = 86_400.0
_BAD = ("damaged", "missing")


def run_advise(
    names: list[str], into: str | None, evaluations: tuple[str, ...], where: str | None, *, as_json: bool
) -> None:
    """Prints what to do with branches, and why.

    Raises:
        PhloemError: as `phloem.branches.advising.advise`.
    """
    from phloem.branches.advising import advise
    from phloem.ui.advice import print_advice

    score = {}
    for word in evaluations:
        name, equals, command = word.partition("=")
        if not equals:
            raise ConfigError(f"--eval: expected NAME=COMMAND, found '{word:.60}'")
        score[name] = scoring(command)
    with repository(where) as repo, stderr_meter() as meter:
        found = advise(repo, names, into, score=score or None, progress=meter)
    if as_json:
        print_json(canonical.plain(found))
    else:
        print_advice(found)


def run_squash(
    branch: str | None,
    onto: str | None,
    message: str | None,
    author: str | None,
    key: Path | None,
    where: str | None,
    *,
    as_json: bool,
) -> None:
    """Squashes a branch, and says what it took the place of.

    Raises:
        PhloemError: as `phloem.branches.squashing.squash`.
    """
    from phloem.branches.squashing import squash

    with repository(where) as repo, stderr_meter() as meter:
        made = squash(
            repo,
            branch,
            onto,
            message=message,
            author=author_of(author),
            sign=signing(key),
            progress=meter,
        )
    if as_json:
        print_json(canonical.plain(made))
        return
    say(
        f"{made.branch} {made.commit[:_SHORT]}: the same state, in place of {made.squashed:,} commits; "
        f"{size_text(made.bytes)}"
    )
    for name, count in sorted(made.still_named.items()):
        say(f"  {count:,} of the old commits stay, because '{name}' leads to them")
    typer.echo(made.commit)


def run_repack(where: str | None, *, as_json: bool) -> None:
    """Repacks, and says what that changed.

    Raises:
        PhloemError: as `phloem.branches.repacking.repack`.
    """
    from phloem.branches.repacking import repack

    with repository(where) as repo, stderr_meter() as meter:
        made = repack(repo, progress=meter)
    if as_json:
        print_json(canonical.plain(made))
        return
    say(f"{size_text(made.bytes_before)} → {size_text(made.bytes_after)} in {made.packs_after} packs")
    say(
        f"{made.added} encodings made, {made.dropped} dropped; the slowest state costs {made.most:.2g}× reading it"
    )


def run_gc(grace_days: float, where: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Removes what no name leads to, and says what that was.

    Raises:
        PhloemError: as `phloem.branches.collecting.gc`.
    """
    from phloem.branches.collecting import gc

    with repository(where) as repo, stderr_meter() as meter:
        made = gc(repo, dry_run=dry_run, grace_seconds=grace_days * _DAY_SECONDS, progress=meter)
    if as_json:
        print_json(canonical.plain(made))
        return
    word = "would free" if dry_run else "freed"
    say(
        f"{word} {size_text(made.bytes)} ({made.bytes:,} bytes): {made.commits:,} commits, {made.states:,} states, "
        f"{made.encodings:,} encodings, {made.frames:,} frames, {made.files:,} files"
    )
    if made.kept:
        say(
            f"note: {len(made.kept)} packs stay because something else in them is damaged; phloem fsck says what"
        )


def run_fsck(
    source: str | None, where: str | None, *, deep: bool, mend: bool, names: bool, as_json: bool
) -> None:
    """Checks a repository, prints what was found, and leaves with the exit code of it.

    Raises:
        PhloemError: as `phloem.branches.checking.fsck`.
    """
    from phloem.branches.checking import fsck
    from phloem.branches.places import open_place

    with contextlib.ExitStack() as stack:
        repo = stack.enter_context(repository(where))
        meter = stack.enter_context(stderr_meter())
        there = None
        if source is not None:
            there = stack.enter_context(contextlib.closing(open_place(repo, source))).place
        found = fsck(repo, deep=deep, mend=mend, repair_from=there, rebuild_names=names, progress=meter)
    code = 1 if any(one.severity in _BAD for one in found.findings) else 0
    if as_json:
        print_json({**canonical.plain(found), "whole": code == 0})
        raise typer.Exit(code)
    for words in found.mended:
        say(f"mended: {words}")
    for one in found.findings:
        typer.echo(f"{one.severity:9} {one.kind:9} {one.digest[:_SHORT]:{_SHORT}}  {one.words}")
    typer.echo(
        f"{'damaged' if code else 'whole'}: {found.commits:,} commits, {found.copies:,} objects, "
        f"{size_text(found.bytes)}; {found.restored:,} encodings decoded and compared"
    )
    for head in found.heads:
        say(f"hint: no name leads to {head[:_SHORT]}: phloem branch NAME {head[:_SHORT]}")
    raise typer.Exit(code)
