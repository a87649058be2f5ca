"""What the commands do that make a repository and look at its history, over `phloem.branches`."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from phloem import canonical
from phloem.branches import facts
from phloem.branches.folder import NAME
from phloem.branches.records import Commit
from phloem.branches.repository import Repository
from phloem.cli.printing import nobody_reads, print_json, say
from phloem.cli.repository_options import adapters_of, repository, signing
from phloem.cli.repository_options import author as author_of
from phloem.errors import PhloemError
from phloem.ui.figures import size_text
from phloem.ui.history import BranchLine, Status, Tracking, branches_text, clean, log_lines, status_text

_SHORT = 10


def run_init(
    directory: Path,
    model: Path | None,
    message: str | None,
    author: str | None,
    adapters: tuple[str, ...] = (),
    key: Path | None = None,
) -> None:
    """Makes a repository, and commits a first model to it.

    Raises:
        PhloemError: there is one, or the model cannot be read; then none is left behind.
    """
    if model is not None:  # before anything is made
        from phloem.files.models import open_model

        open_model(model, adapters_of(adapters)).__exit__(None, None, None)
        sign = signing(key)
    directory.mkdir(parents=True, exist_ok=True)
    with Repository.create(directory / NAME) as repo:
        say(f"made {directory / NAME}")
        if model is not None:
            made = repo.commit(
                model,
                message=message,
                author=author_of(author),
                adapters=adapters_of(adapters),
                sign=sign,
            )
            say(f"{made.branch} {made.digest[:_SHORT]}: {size_text(made.bytes)}, exact")


def run_status(where: str | None, *, as_json: bool) -> None:
    """Prints a repository at a glance."""
    with repository(where) as repo:
        found = facts.status(repo)
    if as_json:
        print_json(canonical.plain(found))
        return
    tracking = [Tracking(f"{one.place}/{one.branch}", one.ahead, one.behind) for one in found.tracking]
    status = Status(
        place=found.place,
        branch=found.branch,
        head=found.head,
        tracking=tracking,
        commits=found.commits,
        branches=found.branches,
        tags=found.tags,
        bytes=found.bytes,
        small_packs=found.packs,
        damaged=found.damaged,
    )
    typer.echo(status_text(status, **_terminal()))


def _terminal() -> dict[str, Any]:
    """How lines are written here: to fit a terminal, with ages and colours; or for a file."""
    if not sys.stdout.isatty():
        return {}
    colours = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return {"now": datetime.now(UTC), "width": shutil.get_terminal_size().columns, "colours": colours}


def run_log(
    refs: tuple[str, ...],
    count: int | None,
    where: str | None,
    *,
    graph: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Prints a history."""
    with repository(where) as repo:
        entries = itertools.islice(repo.log(*refs, everything=everything), count)
        names = repo.refs.names_of()
        if as_json:
            print_json(
                [{**canonical.plain(entry), "names": names.get(entry.digest, [])} for entry in entries]
            )
            return
        try:
            for line in log_lines(entries, names, graph=graph, **_terminal()):
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            nobody_reads()


def run_branch(
    name: str | None, start: str | None, delete: str | None, where: str | None, *, force: bool, as_json: bool
) -> None:
    """Lists branches, makes one, or removes one."""
    with repository(where) as repo:
        if delete is not None:
            commit = repo.remove_branch(delete, force=force)
            say(f"{delete} is gone; it stood for {commit[:_SHORT]}")
        elif name is not None:
            repo.branch(name, start, move=force)
            say(f"{name} {repo.resolve(name)[:_SHORT]}")
        else:
            found = facts.branches(repo)
            if as_json:
                print_json(canonical.plain(found))
                return
            rows = [BranchLine(one.name, one.head, one.ahead, one.behind, one.is_current) for one in found]
            typer.echo(branches_text(rows, **_terminal()))


def run_switch(name: str, where: str | None) -> None:
    """Makes a branch the current one."""
    with repository(where) as repo:
        repo.switch(name)
    say(f"'{name}' is current")


def run_tag(name: str | None, ref: str, delete: str | None, where: str | None, *, as_json: bool) -> None:
    """Lists tags, makes one, or removes one."""
    with repository(where) as repo:
        if delete is not None:
            repo.remove_tag(delete)
        elif name is not None:
            say(f"{name} {repo.tag(name, ref)[:_SHORT]}")
        elif as_json:
            print_json(dict(repo.refs.tags))
        else:
            for tag, commit in sorted(repo.refs.tags.items()):
                typer.echo(f"{tag}\t{commit[:_SHORT]}\t{clean(repo.objects.entry(commit).subject)}")


def _coding_text(coding: Mapping[str, Any]) -> str:
    """A codec's configuration in a line, a chain's stages one after another."""
    stages = coding.get("stages")
    if isinstance(stages, list | tuple) and all(isinstance(stage, Mapping) for stage in stages):
        return ", then ".join(map(_coding_text, stages))
    words = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in coding.items()
        if key != "codec"
    ]
    return (
        f"{coding.get('codec', 'ecsq')} ({', '.join(words)})" if words else f"{coding.get('codec', 'ecsq')}"
    )


def run_show(ref: str, where: str | None, *, as_json: bool) -> None:
    """Prints a commit."""
    with repository(where) as repo:
        digest = repo.resolve(ref)
        commit = repo.objects.commit(digest)
        encodings = [canonical.plain(one) for one in repo.objects.encodings(commit.state)]
        tensors = repo.objects.state(commit.state)
    if as_json:
        print_json({"commit": digest, **canonical.plain(commit), "encodings": encodings})
        return
    parameters = sum(spec.size for spec, _ in tensors)
    rows: list[tuple[str, Any]] = [
        ("commit", digest),
        ("state", f"{commit.state}  ({len(tensors)} tensors, {parameters:,} parameters)"),
        *(("parent", parent) for parent in commit.parents),
        ("author", commit.author + (f", at {commit.site}" if commit.site else "")),
        ("time", commit.time),
    ]
    if commit.examples is not None:
        rows.append(("examples", f"{commit.examples:,}"))
    if commit.coding:
        rows.append(("coded", _coding_text(commit.coding)))
    if commit.drift is not None:
        drift = commit.drift
        rows.append(("lost", f"{drift.relative:.3g} of the update, at most {drift.largest:.3g} in a value"))
    rows += [(name, f"{value:.6g}") for name, value in commit.metrics.items()]
    try:
        rows += _recipe_rows(commit)
    except (PhloemError, LookupError, TypeError, ValueError) as error:
        rows.append(("recipe", f"damaged: {type(error).__name__}"))
    rows += [("file", name) for name in commit.files]
    for one in encodings:
        base = f"against {one['base'][:_SHORT]}" if one["base"] else "alone"
        rows.append(("stored", f"{size_text(one['frame_bytes'])}, {one['codec']}, {base}"))
    for key, value in rows:
        sys.stdout.write(f"{clean(key):10}{clean(str(value))}\n")
    sys.stdout.write("\n" + "\n".join(f"    {clean(line)}" for line in commit.message.splitlines()) + "\n")


def _recipe_rows(commit: Commit) -> list[tuple[str, Any]]:
    """How a merge or a round came about."""
    from phloem.branches.merging import Recipe

    rows: list[tuple[str, Any]] = []
    if commit.kind == "merge":
        recipe = Recipe.from_json(commit.recipe)
        options = ", ".join(f"{key} {value}" for key, value in recipe.method.items() if key != "name")
        rows.append(("merge", ", ".join(filter(None, (str(recipe.method["name"]), options)))))
        chosen = recipe.resolved.get("chosen")
        for place, row in enumerate(recipe.branches):
            taken = "" if chosen is None else ", chosen" if place in chosen else ", not chosen"
            rows.append(("", f"{row.name} {row.commit[:_SHORT]}, weight {row.weight:g}{taken}"))
        rows.append(("base", recipe.base))
        if recipe.local:
            rows.append(("kept", f"{len(recipe.local)} tensors of the branch's own: {recipe.keep_local}"))
        if recipe.excluded:
            rows.append(("without", ", ".join(recipe.excluded)))
        rows += [("scale", f"{scale:g}: {score:.6g}") for scale, score in recipe.search]
    if commit.kind == "round":
        rows.append(("round", int(commit.recipe["round"])))
        rows += [("", f"{row['site']}, {int(row['examples']):,} examples") for row in commit.recipe["inputs"]]
    if commit.signature:
        rows.append(("signed", commit.signature.get("key", "")))
    return rows
