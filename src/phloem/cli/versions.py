"""What the commands on models do, over `phloem.branches`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from phloem import canonical
from phloem.branches import joining, verifying
from phloem.branches.comparing import compare_commits
from phloem.cli.options import as_called
from phloem.cli.printing import WIDE, print_json, say, stderr_meter
from phloem.cli.repository_options import adapters_of, numbers, repository, signing
from phloem.cli.repository_options import author as author_of
from phloem.errors import ConfigError
from phloem.ui.difference import Sides, print_difference
from phloem.ui.difference_page import difference_page
from phloem.ui.figures import size_text

SHORT = 10
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_VALID, _INVALID, _UNDECIDED = 0, 1, 2


@dataclass(frozen=True)
class CommitCall:
    """The words of one `phloem commit`."""

    model: Path
    branch: str | None
    message: str | None
    bits: float | None
    rank: int | None
    nmse: float | None
    lossless: bool
    out: Path | None
    adapters: tuple[str, ...]
    examples: int | None
    site: str | None


def run_commit(
    call: CommitCall,
    metrics: tuple[str, ...],
    author: str | None,
    key: Path | None,
    where: str | None,
    *,
    change_dtypes: bool,
    as_json: bool,
) -> None:
    """Commits a model, and says what it took and lost.

    Raises:
        PhloemError: as `Repository.commit`.
    """
    if call.bits is not None and call.nmse is not None:
        raise ConfigError("give one of --bits, --nmse and --lossless")
    if call.rank is not None and (call.nmse is not None or call.lossless):
        raise ConfigError("--rank goes with --bits", hint="leave out --nmse and --lossless")
    coding = None if call.nmse is None else {"codec": "ecsq", "nmse": call.nmse, "effort": "fast"}
    with repository(where) as repo, stderr_meter() as meter:
        made = repo.commit(
            call.model,
            branch=call.branch,
            message=call.message,
            author=author_of(author),
            bits=call.bits,
            rank=call.rank,
            lossless=call.lossless,
            coding=coding,
            adapters=adapters_of(call.adapters),
            metrics=numbers(list(metrics), "--metric"),
            examples=call.examples,
            site=call.site,
            change_dtypes=change_dtypes,
            sign=signing(key),
            out=call.out,
            progress=meter,
        )
    if as_json:
        print_json(canonical.plain(made))
        return
    bits = 8 * made.bytes / made.parameters
    lost = "exact"
    if made.drift is not None:
        lost = f"error {made.drift.relative:.2g} of the update, at most {made.drift.largest:.2g} in a value"
    times = made.full_bytes / made.bytes
    say(
        f"{made.branch} {made.digest[:SHORT]}: {size_text(made.bytes)}, {bits:.2g} bits per parameter, "
        f"{times:.3g}× smaller than the model; {lost}"
    )
    typer.echo(made.digest)


def run_checkout(
    ref: str, out: Path, options: Mapping[str, Any], where: str | None, *, as_json: bool
) -> None:
    """Writes a commit's model.

    Raises:
        PhloemError: as `Repository.checkout`.
    """
    with repository(where) as repo, stderr_meter() as meter:
        made = repo.checkout(ref, out, progress=meter, **options)
        state = repo.show(ref).state
    if as_json:
        print_json({**made.to_json(), "state": state})
        return
    whole = "" if options["only"] or options["dtype"] else f", state {state[:16]}…, checked"
    say(f"{out}: {size_text(made.bytes)}, {made.parameters:,} parameters{whole}")
    if made.beyond:
        say(f"note: {made.beyond:,} values were beyond {options['dtype']} and are its largest value now")


def run_diff(
    first: str,
    second: str,
    base: str | None,
    html: Path | None,
    where: str | None,
    *,
    layers: bool,
    as_json: bool,
) -> None:
    """Compares two commits, prints what they differ by, and writes a page of it.

    Raises:
        PhloemError: as `phloem.branches.comparing.compare_commits`.
    """
    with repository(where) as repo, stderr_meter() as meter:
        commits = [repo.resolve(name) for name in (first, second, *([base] if base else []))]
        found = compare_commits(repo.objects, *commits, progress=meter)
        current = repo.refs.current
    sides = Sides(first, current if second == "@" else second, base)
    if html is not None:
        try:
            html.write_text(difference_page(found, sides), "utf-8")
        except OSError as error:
            raise ConfigError(f"{html} cannot be written: {error.strerror}") from error
        say(f"wrote {html}")
    if as_json:
        print_json(found.to_json())
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    print_difference(console, found, sides, layers=layers)


@dataclass(frozen=True)
class MergeCall:
    """The words of one `phloem merge`."""

    names: tuple[str, ...]
    into: str | None
    method: str | None
    options: tuple[str, ...]
    scale: str | None
    evaluate: str | None
    weights: tuple[str, ...]
    by_examples: bool
    keep_local: str | None
    without: tuple[str, ...]
    base: str | None
    seed: int
    bits: float | None
    message: str | None


def run_merge(
    call: MergeCall, author: str | None, key: Path | None, where: str | None, *, as_json: bool
) -> None:
    """Merges branches, and says what came of it.

    Raises:
        PhloemError: as `phloem.branches.joining.merge`.
    """
    if call.by_examples and call.weights:
        raise ConfigError("give --weight or --by-examples, not both")
    if call.evaluate is not None and call.scale != "search":
        raise ConfigError("--eval scores the scales of a search", hint="say --scale search")
    asked = (call.method, call.options, call.weights, call.base, call.keep_local, call.seed, call.by_examples)
    if not call.names and any(asked):
        raise ConfigError(
            "a merge that is made again keeps its method, weights, base and seed",
            hint="give only --without and perhaps --scale, or name the branches",
        )
    weights: Any = numbers(list(call.weights), "--weight") or "equal"
    with repository(where) as repo, stderr_meter() as meter:
        made = joining.merge(
            repo,
            call.names,
            into=call.into,
            method={"name": call.method or "mean", **_options(call.options)},
            weights="examples" if call.by_examples else weights,
            scale=_scale(call.scale),
            score=None if call.evaluate is None else scoring(call.evaluate),
            keep_local=call.keep_local,
            without=call.without,
            base=call.base,
            key=call.seed,
            bits=call.bits,
            message=call.message,
            author=author_of(author),
            sign=signing(key),
            progress=meter,
        )
    if as_json:
        print_json(canonical.plain(made))
        return
    _say_merged(made)
    typer.echo(made.commit)


def _say_merged(made: joining.MergeResult) -> None:
    if made.recipe is None:
        what = (
            "has all of it already" if made.kind == "nothing" else "moved forward: it had nothing of its own"
        )
        say(f"{made.branch} {what}; it is at {made.commit[:SHORT]}")
        return
    recipe = made.recipe
    for scale, score in recipe.search:
        say(f"  scale {scale:g}: {score:.6g}{'  ← taken' if scale == recipe.method['scale'] else ''}")
    names = ", ".join(row.name for row in recipe.branches)
    say(f"{made.branch} {made.commit[:SHORT]}: {recipe.method['name']} of {names}; {size_text(made.bytes)}")
    if chosen := recipe.resolved.get("chosen"):
        say(f"  kept by krum: {', '.join(recipe.branches[place].name for place in chosen)}")
    if made.kept:
        say(f"note: {', '.join(made.kept)} cannot be merged and stay as they were on {made.branch}")


def _options(words: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name == "name":
            raise ConfigError("--option: the method's name is --method")
        if not equals:
            raise ConfigError(f"--option: expected KEY=VALUE, found '{word:.60}'", hint="as in density=0.2")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _scale(text: str | None) -> float | str | None:
    if text is None or text == "search":
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--scale: expected a number or search, found '{text:.40}'") from None


def scoring(command: str) -> Callable[[Path], float]:
    """What a command prints of a model: the last number in its output.

    Raises:
        ConfigError: the words do not name a command with a place for the file.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--eval: the command cannot be taken apart: {error}") from error
    if not any("{}" in word for word in words):
        raise ConfigError("--eval: the command has no place for the model's file", hint="write {} there")

    def score(path: Path) -> float:
        call = [word.replace("{}", str(path)) for word in words]
        try:
            done = subprocess.run(call, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ConfigError(f"--eval: {call[0]} cannot be started: {error.strerror}") from error
        found = _NUMBER.findall(done.stdout)
        if done.returncode or not found:
            why = done.stderr.strip().splitlines()[-1:] or ["it printed no number"]
            raise ConfigError(f"--eval: the command gave no number for a model: {why[0]:.200}")
        return float(found[-1])

    return score


def run_verify(ref: str, keys: tuple[str, ...], where: str | None, *, replay: bool, as_json: bool) -> None:
    """Checks a commit, prints what was found, and leaves with the exit code of it.

    Raises:
        PhloemError: as `phloem.branches.verifying.verify`.
    """
    from phloem.job.rounds_again import replay_rounds
    from phloem.tlog.keys import VerifierKey

    with as_called():
        trusted = [VerifierKey.parse(key) for key in keys] or None
    with repository(where) as repo, stderr_meter() as meter:
        again = replay_rounds if replay else None
        found = verifying.verify(repo, ref, replay=replay, rounds=again, trusted=trusted, progress=meter)
    code = _INVALID if found.wrong else _UNDECIDED if found.unknown else _VALID
    if as_json:
        print_json({**canonical.plain(found), "valid": None if code == _UNDECIDED else code == _VALID})
    else:
        for words in found.wrong:
            say(f"wrong: {words}")
        for words in found.unknown:
            say(f"cannot be decided: {words}")
        signed = ", ".join(f"{name} ({count})" for name, count in sorted(found.signers.items()))
        typer.echo(
            f"{('valid', 'invalid', 'undecided')[code]}: {found.commit[:SHORT]}, {found.commits} commits, "
            f"{found.tensors} tensors"
            + (f", {found.replayed} merges made again" if replay else "")
            + (f"; signed by {signed}" if signed else "; nobody signed")
        )
    raise typer.Exit(code)
