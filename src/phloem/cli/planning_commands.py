"""The words of `phloem calibrate`, `plan` and `trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption, KernelChoice, KernelsOption

_CALIBRATE_HELP = """Measure what coding takes on this device.

Encodes and decodes updates of two sizes at every level and effort, on one core, for about ten seconds.
The profile is kept in your cache directory under what it was measured with (processor, cores, kernels,
versions), and shown from there the next time.

\b
Examples:
  phloem calibrate
      speeds by level and effort, beside a plain copy of memory
  phloem calibrate --again
      once more, when the machine is at rest
  phloem calibrate --out nurse-station.json
      to plan for this device elsewhere: phloem plan RECIPE.toml --device nurse-station.json
"""
_PLAN_HELP = """Show what would be chosen on a line, and what it takes.

One row per level, finest first: effort, bits and bytes each way, the seconds of a round and its parts, the
rounds that it needs over those without compression, and the time to the target over that of the best.
Nothing is trained. The lines are the recipe's [link] and [links.SITE], or --link for every site.

\b
Examples:
  phloem plan examples/digits.toml
      on the recipe's own lines
  phloem plan examples/digits.toml --link 10mbit/40ms
      every site on 10 Mbit/s both ways, 40 ms one way
  phloem plan examples/digits.toml --link 1mbit:8mbit/60ms --speed 0.25 -o plan.png
      slower up than down, on devices a quarter as fast; with a picture for lines of every rate
  phloem plan examples/digits.toml --parameters 7000000000 --device here
      a larger model, coded as fast as phloem calibrate found this device to be
  phloem plan examples/unequal-lines.toml --set adapt.coarsest=0.1 --json | jq '.choices[0]'
      nothing coarser than a tenth of a bit per parameter; only what would be chosen
"""
_TRACE_HELP = """Explain what a run chose, round by round.

For runs whose codecs are chosen as they go on (recipes without [up] and [down]). First how well rounds were
predicted, then a row per round in which something changed: the policy, the level up and down, the seconds
predicted and taken ("!" outside the interval), and why. Policies: all LEVEL, everybody at one; common, one
level up and one down; deadline, a level per site, all of them done by one time; cautious, the same by what
four of five transfers take.

\b
Examples:
  phloem trace runs/digits
  phloem trace runs/digits --all -o trace.png
      every round, and a picture
  phloem trace runs/digits --check
      decide every round once more from what was measured, and compare
  phloem trace runs/digits --json | jq .summary

\b
Exit codes: 0 done, 1 a decision does not follow or the record is damaged, 2 the call is wrong.
"""

ProfileOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="PROFILE.json", help="Write the profile here, too."),
]
AgainOption = Annotated[bool, typer.Option("--again", help="Measure even if a profile is kept.")]
RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE.toml", help="What would be built.", show_default=False)
]
LinkOption = Annotated[
    str | None,
    typer.Option(
        metavar="LINE",
        help="Every site's line in place of the recipe's: RATE, RATE/LATENCY or UP:DOWN/LATENCY.",
    ),
]
DeviceOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PROFILE.json",
        help="What coding takes, from phloem calibrate; 'here' is this device. By default an ordinary server.",
    ),
]
SpeedOption = Annotated[
    float | None,
    typer.Option(
        metavar="S", help="Sites' devices are S times as fast as the profile's, whatever the recipe says."
    ),
]
ParametersOption = Annotated[
    int | None, typer.Option(metavar="N", help="Parameters of the model, in place of the task's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, as in --set adapt.objective=bytes; repeatable.",
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The directory of a run.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="Every round, not only where something changed.")]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Decide every round once more and say whether it comes out the same.")
]
PictureOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="PICTURE", help="Draw it: PNG, SVG or PDF by its ending."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print it as JSON on standard output, and nothing else there.")
]


def calibrate_command(
    out: ProfileOption = None,
    again: AgainOption = False,
    json_: JsonOption = False,
    kernels: KernelsOption = KernelChoice.auto,
    debug: DebugOption = False,
) -> None:
    """Measure what coding takes on this device."""
    from phloem.cli.calibrating import CalibrateCall, run_calibrate

    run_calibrate(CalibrateCall(out, again, json_, kernels.value))


def plan_command(
    recipe: RecipeArgument,
    link: LinkOption = None,
    device: DeviceOption = None,
    speed: SpeedOption = None,
    parameters: ParametersOption = None,
    set_: SetOption = None,
    out: PictureOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what would be chosen on a line, and what it takes."""
    from phloem.cli.planning import PlanCall, run_plan

    run_plan(PlanCall(recipe, tuple(set_ or ()), link, device, speed, parameters, out, json_))


def trace_command(
    run: RunArgument,
    all_: AllOption = False,
    check: CheckOption = False,
    out: PictureOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Explain what a run chose, round by round."""
    from phloem.cli.tracing import TraceCall, run_trace

    if not run_trace(TraceCall(run, all_, check, out, json_)):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Gives the app these commands."""
    app.command("plan", help=_PLAN_HELP)(plan_command)
    app.command("trace", help=_TRACE_HELP)(trace_command)
    app.command("calibrate", help=_CALIBRATE_HELP)(calibrate_command)
