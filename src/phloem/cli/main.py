"""The command `phloem`. Data goes to standard output, words and progress to standard error.

Exit codes: 0 done, 1 it failed, 2 the call or the recipe is wrong, 130 interrupted. Commands that judge (`verify`,
`fsck`, `ledger`, `witness`, `anchor`, `key`, `payload`): 0 valid, 1 invalid, 2 cannot decide, 3 the call is wrong.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import typer.core

import phloem
from phloem.cli import (
    anchor,
    compress,
    file_commands,
    flower,
    history,
    keys,
    ledger,
    models,
    planning_commands,
    sharing,
    upkeep,
    witness,
)
from phloem.cli.options import DebugOption, Engines, KernelChoice, KernelsOption
from phloem.cli.repository_options import RepoOption
from phloem.errors import ConfigError, PhloemError, StoreError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130
_JUDGES = ("ledger", "witness", "anchor", "key", "payload", "verify", "fsck")
_INVALID, _UNDECIDED, _WRONG_CALL_OF_JUDGES = 1, 2, 3

# Every complaint about the words of a call. Older releases of typer import it from click, newer ones bring
# their own; its place behind a public class is the same in both.
_CallError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

# Help is plain text, and typer escapes "[required]" for rich wherever that is installed.
if hasattr(typer.core, "HAS_RICH"):
    typer.core.HAS_RICH = False

app = typer.Typer(
    name="phloem",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


# "\b" keeps the line breaks of the paragraph that it begins.
_PHLOEM_HELP = """Learning across sites with a few hundred times fewer bytes: compressed updates, both ways.

\b
Start here:
  phloem build examples/digits.toml --compare
      a model from ten sites, and what it cost
  phloem encode NEW.safetensors --base BASE.safetensors -o FRAME --bits 0.1
      what two checkpoints of yours differ by, in a small file
  phloem init MODEL.safetensors
      a repository for every version of it: branch, commit, diff, merge, push
"""
_BUILD_HELP = """Train one model from many sites, as a recipe says.

Round after round, every site trains on its own data and sends its update as a compressed frame; what a
frame left out is owed and sent later. The updates are merged, and the result goes back to the sites,
compressed too. Data never leave a site, and every byte that does is counted.

\b
Examples:
  phloem build examples/digits.toml --compare
      ten sites learn to read digits; then the same uncompressed, for comparison
  phloem build examples/digits.toml --set up.bits=0.05 --set rounds.max=20 --out runs/try
  phloem build examples/hospitals.toml --engine flower
      the same on Flower: a server and a node per hospital as processes of their own, over TLS
  torchrun --nproc-per-node 4 --no-python phloem build examples/hospitals.toml --engine torch
      the same by four ranks of torch.distributed, on this machine or on several
  phloem build --resume runs/try
      go on after an interruption, a crash or a full disk
  phloem init; phloem build examples/hospitals.toml --branch trunk
      every round a commit in a repository of models (phloem log, phloem verify --replay)
  phloem build examples/hospitals.toml --branches --cycles 2 --keep-local bias
      a branch per hospital, trained separately, merged twice; biases stay each hospital's own

\b
What comes out, in RUN:
  report.html        open it in a browser: metric against bytes and time, bytes per site
  summary.json       the figures; rounds.jsonl has them by round
  model.safetensors  the model
  objects/, refs/    every frame and every round, named by their digests

\b
Exit codes: 0 done, 1 the run failed, 2 the call or the recipe is wrong, 130 interrupted.
"""


RecipeArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RECIPE.toml]", help="What to build; may be left out with --resume.", show_default=False
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, as in --set rounds.max=10; repeatable.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", help="The run's directory, new or empty; by default the first free runs/NAME."
    ),
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Go on with an interrupted run; its result is the same to the bit."),
]
CompareOption = Annotated[
    bool,
    typer.Option(
        "--compare", help="Also run the recipe uncompressed (fp32, then bf16) and set them side by side."
    ),
]
EngineOption = Annotated[
    Engines,
    typer.Option(
        help="What carries the bytes: this process, the ranks of torchrun, Flower's processes on this machine "
        "(TLS, node authentication), or Flower's simulation. The result is the same to the bit.",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout-seconds",
        metavar="SECONDS",
        help="With --engine torch: how long a rank may let the others wait, training included; by default 600.",
        show_default=False,
        min=1.0,
    ),
]
BranchOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Commit every round to this branch of a repository; go on from its head."
    ),
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="REF", help="Make that branch, from this commit.")
]
BranchesOption = Annotated[
    bool,
    typer.Option("--branches", help="Train a branch per site, separately, then merge them into the trunk."),
]
MethodOption = Annotated[
    str | None,
    typer.Option("--merge-method", metavar="NAME", help="With --branches: see phloem merge --help."),
]
CyclesOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="With --branches: how often to train and merge; by default once.",
        show_default=False,
    ),
]
KeepLocalOption = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="With --branches: tensors that stay each branch's own."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print summary.json on standard output, and nothing else there.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phloem {phloem.__version__}")
        raise typer.Exit


@app.callback(help=_PHLOEM_HELP)
def phloem_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """The options that stand before a command."""


@app.command("build", help=_BUILD_HELP)
def build_command(
    recipe: RecipeArgument = None,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    compare: CompareOption = False,
    engine: EngineOption = Engines.local,
    timeout_seconds: TimeoutOption = 600.0,
    branch: BranchOption = None,
    from_: FromOption = None,
    branches: BranchesOption = False,
    method: MethodOption = None,
    cycles: CyclesOption = 1,
    keep_local: KeepLocalOption = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    kernels: KernelsOption = KernelChoice.auto,
    debug: DebugOption = False,
) -> None:
    """Train one model from many sites, as a recipe says."""
    from phloem.cli.build import BranchesCall, BuildCall, run_branches, run_build

    call = BuildCall(
        recipe,
        tuple(set_ or ()),
        out,
        resume,
        compare,
        json_,
        kernels.value,
        engine.value,
        branch,
        from_,
        repo,
        timeout_seconds,
    )
    try:
        if branches:
            run_branches(call, BranchesCall(method or "mean", cycles, keep_local))
        elif method is not None or cycles != 1 or keep_local is not None:
            raise ConfigError(
                "--merge-method, --cycles and --keep-local are about separate branches", hint="say --branches"
            )
        else:
            run_build(call)
    except KeyboardInterrupt as interrupt:  # here, because releases of typer differ in what they make of it
        for note in getattr(interrupt, "__notes__", ["interrupted"]):
            print(note, file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from interrupt


@app.command("report")
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    debug: DebugOption = False,
) -> None:
    """Write RUN/report.html again, from what the run recorded."""
    from phloem.ui.report import write_report

    write_report(run)
    typer.echo(run / "report.html")


file_commands.add_to(app)
planning_commands.add_to(app)
compress.add_to(app)
flower.add_to(app)
for module in (history, models, upkeep, sharing, ledger, witness, anchor, keys):
    module.add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and leaves with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    judges = bool(arguments) and arguments[0] in _JUDGES
    wrong_call = _WRONG_CALL_OF_JUDGES if judges else WRONG_CALL
    try:
        code = app(arguments or ["--help"], prog_name="phloem", standalone_mode=False)
    except _CallError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command
            print(getattr(error, "message", ""), file=sys.stderr)
            return wrong_call
        command = getattr(getattr(error, "ctx", None), "command_path", "phloem")
        words = getattr(error, "format_message", error.__str__)()
        if hasattr(error, "command_name"):  # to an unknown command typer and click both add "Did you mean"
            words = getattr(error, "message", words)
        return _say(words.replace("Value error, ", ""), f"see {command} --help", wrong_call)
    except ConfigError as error:
        return _fail(error, wrong_call, debug)
    except StoreError as error:
        return _fail(error, _UNDECIDED if judges else FAILED, debug)
    except PhloemError as error:
        return _fail(error, _INVALID if judges else FAILED, debug)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _fail(error: PhloemError, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    return _say(error.message, error.hint, code)


def _say(message: str, hint: str | None, code: int) -> int:
    print(f"error: {_clean(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {_clean(hint)}", file=sys.stderr)
    return code


def _clean(text: str) -> str:
    """A text in one line, without what a terminal would take for an order: names in it may come from an enemy."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))


if __name__ == "__main__":
    main()
