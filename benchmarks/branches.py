"""Branches of models: bytes, seconds and exactness of their history, beside other ways to keep versions.

    python benchmarks/branches.py bytes       what a round, a fine-tune and an exact version take
    python benchmarks/branches.py time        a tip in memory, checked, beside reading the file
    python benchmarks/branches.py history     10,000 commits: any of them restored; log, branch and status
    python benchmarks/branches.py exact       1,000 lossy commits: equal bits, bounded error
    python benchmarks/branches.py peers --theta PYTHON
                                              twenty versions kept by git-lfs, git-theta, zstd and XOR
    python benchmarks/branches.py table       puts the figures into benchmarks/README.md

Each writes results/branches-NAME.json and prints its part of the table. `--small` tries a part in less time, and writes
nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import branches_table
from branches_models import gpt, resnet50
from measuring import quiet, write

Part = Callable[[Path, argparse.Namespace], dict[str, Any]]


def part_bytes(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What a round, a fine-tune and an exact version take."""
    import branches_lossless
    import branches_rounds
    import branches_tuned

    small = given.small
    found: dict[str, Any] = {}
    if "rounds" in given.parts:
        found["rounds"] = branches_rounds.measure(
            scratch, *((1, 3) if small else (given.seeds, given.rounds))
        )
        found["digits"] = branches_rounds.digits(scratch, 2 if small else 5)
    if "tuned" in given.parts:
        found["tuned"] = branches_tuned.measure(scratch, seeds=1 if small else given.seeds, small=small)
    if "lossless" in given.parts:
        found["lossless"] = branches_lossless.measure(scratch, small=small)
    return found


def part_time(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A tip in memory, checked, beside reading the file."""
    import branches_time

    if given.small:
        return branches_time.measure(scratch, resnet50(16), (1, 4), 2)
    return branches_time.measure(scratch, resnet50(given.width), branches_time.LENGTHS, given.runs)


def part_history(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Ten thousand commits."""
    import branches_history

    if given.small:
        return branches_history.measure(scratch, gpt(160), 150, 20)
    return branches_history.measure(
        scratch, MODELS[given.model](given.history_width), given.commits, given.picked
    )


def part_exact(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A thousand lossy commits."""
    import branches_exact

    return branches_exact.measure(scratch, 50 if given.small else 1000)


def part_peers(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Twenty versions kept by others."""
    import branches_peers

    width, count = (64, 4) if given.small else (given.peers_width, given.versions)
    return branches_peers.measure(scratch, gpt(width), count, given.theta)


MODELS = {"gpt": gpt, "resnet50": resnet50}
PARTS: dict[str, Part] = {
    "bytes": part_bytes,
    "time": part_time,
    "history": part_history,
    "exact": part_exact,
    "peers": part_peers,
}


def main() -> None:
    """Measures one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=(*PARTS, "table"))
    parser.add_argument("--small", action="store_true", help="a first look; writes nothing")
    parser.add_argument(
        "--scratch", type=Path, help="where repositories are made; by default the system's place"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of bytes")
    parser.add_argument("--rounds", type=int, default=20, help="of bytes")
    parser.add_argument(
        "--parts", nargs="+", default=["rounds", "tuned", "lossless"], choices=["rounds", "tuned", "lossless"]
    )
    parser.add_argument("--width", type=int, default=64, help="of the model of time; 64 is a ResNet-50")
    parser.add_argument("--runs", type=int, default=5, help="of time")
    parser.add_argument("--commits", type=int, default=10_000, help="of history")
    parser.add_argument("--model", choices=MODELS, default="gpt", help="of history")
    parser.add_argument(
        "--history-width",
        type=int,
        default=284,
        help="gpt 160: 1.3 M parameters, 284: 4.0 M; resnet50 24: 4.1 M",
    )
    parser.add_argument("--picked", type=int, default=200, help="commits of history that are restored")
    parser.add_argument("--peers-width", type=int, default=384, help="of a GPT; 384: 29 MB")
    parser.add_argument("--versions", type=int, default=20, help="of peers")
    parser.add_argument("--theta", metavar="PYTHON", help="an interpreter that has git-theta")
    given = parser.parse_args()
    quiet()
    if given.part == "table":
        branches_table.fill()
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        found = PARTS[given.part](Path(scratch), given)
    found["took_seconds"] = round(time.perf_counter() - started)
    print(branches_table.PRINTED[given.part](found))
    print(f"took {found['took_seconds']} s")
    if not given.small:
        write(f"branches-{given.part}", command(parser, given), found)


def command(parser: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    """The command that measures this again; places of this machine are left out."""
    words = ["python", "benchmarks/branches.py", given.part]
    for key, value in vars(given).items():
        if key not in ("part", "scratch") and value != parser.get_default(key):
            option = f"--{key.replace('_', '-')}"
            words += [
                option,
                *(["PYTHON"] if key == "theta" else map(str, value if key == "parts" else [value])),
            ]
    return " ".join(words)


if __name__ == "__main__":
    main()
