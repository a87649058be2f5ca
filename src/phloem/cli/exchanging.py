"""What `phloem push`, `pull` and `clone` do, over `phloem.branches.sync`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from phloem import canonical
from phloem.branches import sync
from phloem.branches.folder import NAME
from phloem.cli.printing import print_json, say, stderr_meter
from phloem.cli.repository_options import repository
from phloem.ui.figures import size_text

_SHORT = 10


def run_push(
    place: str,
    branches: list[str] | None,
    tags: tuple[str, ...],
    where: str | None,
    *,
    force: bool,
    alone: bool,
    as_json: bool,
) -> None:
    """Pushes, and says what was sent.

    Raises:
        PhloemError: as `phloem.branches.sync.push`.
    """
    with repository(where) as repo, stderr_meter() as meter:
        made = sync.push(repo, place, branches or None, tags, force=force, alone=alone, progress=meter)
    if as_json:
        print_json(canonical.plain(made))
        return
    _say_moved(made.moved, f"{made.url} has")
    for tag in made.tags:
        say(f"  tag {tag}")
    say(f"sent {made.objects:,} objects, {size_text(made.bytes)}; {made.there:,} were there already")


def run_pull(place: str, branches: list[str] | None, where: str | None, *, as_json: bool) -> None:
    """Pulls, and says what came and what is left to do.

    Raises:
        PhloemError: as `phloem.branches.sync.pull`.
    """
    with repository(where) as repo, stderr_meter() as meter:
        made = sync.pull(repo, place, branches or None, progress=meter)
    if as_json:
        print_json({**canonical.plain(made), "hints": list(made.hints)})
        return
    _say_moved(made.moved, "here is")
    for name in made.diverged:
        say(f"  {name}: commits on both sides; it stays as it is")
    for tag in made.kept_tags:
        say(f"  tag {tag}: stands for another commit there; it stays as it is")
    say(f"came {made.objects:,} objects, {size_text(made.bytes)}; {made.there:,} were here already")
    for hint in made.hints:
        say(f"hint: {hint}")


def run_clone(place: str, directory: Path) -> None:
    """Clones, and says what is there now.

    Raises:
        PhloemError: as `phloem.branches.sync.clone`.
    """
    with stderr_meter() as meter, sync.clone(place, directory / NAME, progress=meter) as repo:
        refs = repo.refs
        names = ", ".join(sorted(refs.branches))
        say(f"{directory / NAME}: {len(refs.branches)} branches ({names}); '{refs.current}' is current")


def _say_moved(moved: Mapping[str, tuple[str | None, str]], where: str) -> None:
    if not moved:
        say(f"{where} all of it already")
    for name, (before, after) in sorted(moved.items()):
        say(f"  {name}: {'new' if before is None else before[:_SHORT]} → {after[:_SHORT]}")
