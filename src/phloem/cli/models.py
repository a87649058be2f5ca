"""The words of the commands that make versions of models and compare them: commit, checkout, diff, merge, verify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption
from phloem.cli.repository_options import (
    AuthorOption,
    JsonOption,
    MessageOption,
    RefArgument,
    RepoOption,
    SignOption,
)

_COMMIT_HELP = """Commit a model to a branch.

The first commit of a repository is kept exactly. Later ones are coded against the head of the branch, with
as many bits per parameter as you give; what that loses is measured and printed, and the committed state is
exact from then on: every machine restores the same bits. Continue training from the committed state (-o).

\b
Examples:
  phloem commit model.safetensors -m "the model that we start from"
  phloem commit tuned.safetensors --branch clinic --bits 0.5
  phloem commit tuned.safetensors --branch clinic --bits 0.5 --rank 24
      fine-tuning changes matrices along few directions: at equal bits far less is lost
  phloem commit tuned.safetensors --lossless
  phloem commit ./llama-tuned --branch legal --adapter style=./style-lora
      a directory of Hugging Face's libraries, and a LoRA adapter beside it (which the branch must have, too)
  phloem commit model.safetensors --branch site-a --bits 0.05 --examples 1200 -o continue.safetensors
"""
_CHECKOUT_HELP = """Write the model of a commit to a file or a directory.

Every tensor is compared with the digest that the commit names before it is given out.

\b
Examples:
  phloem checkout clinic -o clinic.safetensors
  phloem checkout trunk~3 -o old.safetensors
  phloem checkout v1 -o ./v1          a directory that Hugging Face's libraries load
  phloem checkout trunk -o attention.safetensors --tensors 'attn' --dtype bf16
"""
_DIFF_HELP = """Compare two models: how far they are apart, per layer, and whether they moved the same way.

With a common ancestor the changes since then are compared too: their cosine, and on how many coordinates
they agree. Tensors that are equal are not even decoded.

\b
Examples:
  phloem diff trunk clinic
  phloem diff clinic-a clinic-b --layers
  phloem diff clinic-a clinic-b --html diff.html
"""
_MERGE_HELP = """Merge branches into one, as a commit with all of them as parents.

Changes are counted from the newest commit that all have in common. The recipe is part of the commit, so that
anyone can make the merge again and get the same bits (phloem verify --replay), and so that it can be made
again later without one contribution.

\b
Methods, and their options:
  mean
  task-arithmetic   scale, normalize          ties   density, scale, normalize
  dare              density, signs, rescale, scale, normalize
  trimmed-mean      trim, scale               median   scale      (these four hold against
  geometric-median  scale                     krum     bad, keep   some wrong branches)

\b
Examples:
  phloem merge clinic-a clinic-b clinic-c --into trunk
  phloem merge clinic-a clinic-b --into trunk --method ties --option density=0.2 --scale 0.5
  phloem merge math code --into trunk --method task-arithmetic --scale search --eval 'python score.py {}'
      the scale for which the command prints the highest number
  phloem merge trunk --into clinic-a --keep-local 'norm|head'
      take the trunk over, but keep what is the clinic's own
  phloem merge --into trunk --without clinic-b
      make the last merge again, without one contribution
"""
_VERIFY_HELP = """Check a commit, all that it came from, and its state; with --replay every merge on the way, too.

\b
Exit codes: 0 all holds, 1 something does not, 2 it cannot be decided here, 3 the call is wrong.

\b
Examples:
  phloem verify trunk
  phloem verify trunk --replay
  phloem verify trunk --key 'clinic+1234abcd+AQ…'     every commit must be signed by such a key
"""


class Dtype(StrEnum):
    """What float tensors are cast to."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("commit", help=_COMMIT_HELP)(commit_command)
    app.command("checkout", help=_CHECKOUT_HELP)(checkout_command)
    app.command("diff", help=_DIFF_HELP)(diff_command)
    app.command("merge", help=_MERGE_HELP)(merge_command)
    app.command("verify", help=_VERIFY_HELP)(verify_command)


def commit_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A safetensors file, or a directory.", show_default=False)
    ],
    branch: Annotated[
        str | None, typer.Option("--branch", "-b", metavar="NAME", help="By default the current one.")
    ] = None,
    message: MessageOption = None,
    bits: Annotated[
        float | None,
        typer.Option(metavar="R", help="Bits per parameter of the update; by default 0.5."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Code the change of every matrix as two thin ones of N columns: for fine-tuned models.",
        ),
    ] = None,
    nmse: Annotated[
        float | None, typer.Option(metavar="E", help="Energy of the error ÷ energy of the update, instead.")
    ] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the committed state, to train on from."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="A LoRA adapter that the state has as well; repeatable."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="How many examples it was trained on.")
    ] = None,
    site: Annotated[str | None, typer.Option(metavar="NAME", help="Who trained it.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="What was measured of it; repeatable."),
    ] = None,
    change_dtype: Annotated[
        bool, typer.Option("--change-dtype", help="Let tensors have other types than on the branch.")
    ] = False,
    author: AuthorOption = None,
    sign: SignOption = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Commit a model to a branch."""
    from phloem.cli.versions import CommitCall, run_commit

    call = CommitCall(
        model, branch, message, bits, rank, nmse, lossless, out, tuple(adapter or ()), examples, site
    )
    run_commit(call, tuple(metric or ()), author, sign, repo, change_dtypes=change_dtype, as_json=json_)


def checkout_command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A branch, a tag or a commit.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="A .safetensors file, or a directory."),
    ],
    tensors: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Only tensors in whose names this is found."),
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Cast float tensors.")] = None,
    shard: Annotated[
        int | None,
        typer.Option("--shard-bytes", metavar="N", help="Into a directory: shards of at most so many bytes."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the directory take the place of one that is there.")
    ] = False,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the model of a commit to a file or a directory."""
    from phloem.cli.versions import run_checkout

    options = {"only": tensors, "dtype": dtype.value if dtype else None, "shard_bytes": shard}
    run_checkout(ref, out, {**options, "replace": replace}, repo, as_json=json_)


def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A branch, a tag or a commit.")],
    second: Annotated[
        str, typer.Argument(metavar="[B]", help="Another; by default the current branch.")
    ] = "@",
    base: Annotated[
        str | None,
        typer.Option(metavar="REF", help="What changes are counted from; by default the common ancestor."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="A row per layer, drawn.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with plots, for a browser.")
    ] = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare two models."""
    from phloem.cli.versions import run_diff

    run_diff(first, second, base, html, repo, layers=layers, as_json=json_)


def merge_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BRANCH]...", help="What to merge.", show_default=False),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The branch that takes them in; by default the current."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="How; see above. By default mean.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the method, as in density=0.2; repeatable."),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(metavar="S|search", help="How much of the change to take; search needs --eval."),
    ] = None,
    eval_: Annotated[
        str | None,
        typer.Option(
            "--eval", metavar="COMMAND", help="Prints a number for the model in the file {}: more is better."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="How much a branch counts, by default 1; repeatable."),
    ] = None,
    by_examples: Annotated[
        bool, typer.Option("--by-examples", help="Weigh by the examples that the commits name.")
    ] = False,
    keep_local: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Tensors that stay those of the branch that is merged into."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Leave out; with no branches named: of the last merge. Repeatable."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="REF", help="What changes are counted from; by default the common ancestor."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Where dare's random masks come from.")] = 0,
    bits: Annotated[
        float | None,
        typer.Option(metavar="R", help="Code the result with so many bits per parameter; exact by default."),
    ] = None,
    message: MessageOption = None,
    author: AuthorOption = None,
    sign: SignOption = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge branches into one."""
    from phloem.cli.versions import MergeCall, run_merge

    call = MergeCall(
        names=tuple(names or ()),
        into=into,
        method=method,
        options=tuple(option or ()),
        scale=scale,
        evaluate=eval_,
        weights=tuple(weight or ()),
        by_examples=by_examples,
        keep_local=keep_local,
        without=tuple(without or ()),
        base=base,
        seed=seed,
        bits=bits,
        message=message,
    )
    run_merge(call, author, sign, repo, as_json=json_)


def verify_command(
    ref: RefArgument = "@",
    replay: Annotated[bool, typer.Option("--replay", help="Compute every merge on the way again.")] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A public key that may have signed; repeatable."),
    ] = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a commit, all that it came from, and its state."""
    from phloem.cli.versions import run_verify

    run_verify(ref, tuple(key or ()), repo, replay=replay, as_json=json_)
