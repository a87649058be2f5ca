"""What the codecs do, measured: bytes against the ISO standard's coder, distance to the limit, speed, every codec.

python benchmarks/codecs.py rates        # whole files against NNCodec's at equal NMSE, the eight updates
python benchmarks/codecs.py synthetic    # bits above the ideal quantiser's curve, four known distributions
python benchmarks/codecs.py speed        # one core, 25 million parameters, beside memcpy and the usual peers
python benchmarks/codecs.py table        # every codec on three updates, and docs/codecs.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import rates
import speed
import synthetic
import updates
from measuring import HERE, RESULTS, quiet, write
from nncodec_points import content_digest
from phloem.bench import bench_codecs, lines
from phloem.bench.plot import write_plot


def _check_digests(peer: dict[str, Any], loaded: dict[str, Any]) -> None:
    """NNCodec's points must be of these very updates."""
    for name, update in loaded.items():
        if peer["digests"].get(name) != content_digest(update):
            raise SystemExit(
                f"nncodec.json was measured on another '{name}': run benchmarks/nncodec_points.py --only {name}"
            )


def run_rates(options: argparse.Namespace) -> dict[str, Any]:
    """Our efforts against NNCodec's best settings and against its default ones."""
    peer, settings = rates.nncodec(RESULTS / "nncodec.json")
    loaded = updates.load(options.update or ())
    _check_digests(peer, loaded)
    answer: dict[str, Any] = {"peer": peer, "window": rates.WINDOW, "efforts": {}}
    for effort in options.effort or rates.efforts():
        curves = {}
        for name, update in loaded.items():
            curves[name] = rates.curve(update, effort)
            print(f"{effort:9s} {name:14s} {len(curves[name])} points", file=sys.stderr, flush=True)
        answer["efforts"][effort] = {
            "curves": {
                name: [[round(p.file_bits, 6), round(p.wire_bits, 6), round(p.nmse, 7)] for p in points]
                for name, points in curves.items()
            },
            "against": {
                setting: _against({name: rates.ratios(curves[name], theirs[name]) for name in curves})
                for setting, theirs in settings.items()
            },
        }
    _print_rates(answer["efforts"])
    return answer


def _against(rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    both = {
        kind: {**rates.summary(rows, kind), "bands": rates.by_band(rows, kind)} for kind in ("file", "wire")
    }
    return {
        **both,
        "points": {name: [[round(v, 5) for v in p.values()] for p in rows[name]] for name in rows},
    }


def _print_rates(found: dict[str, Any]) -> None:
    print(
        f"{'effort':9s} {'NNCodec':8s} {'':5s} {'mean':>6s} {'worst ≤3':18s} {'worst ≤4':18s}  by NNCodec's bits"
    )
    for effort, one in found.items():
        for setting, against in one["against"].items():
            for kind in ("file", "wire"):
                row = against[kind]
                worst = [f"{w['ratio']:.3f} {w['update']:12s}" for w in row["worst_up_to"].values()]
                bands = "  ".join(f"{band} {ratio:.3f}" for band, ratio in row["bands"].items())
                print(f"{effort:9s} {setting:8s} {kind:5s} {row['mean']:6.3f} {' '.join(worst)}  {bands}")


def run_synthetic(options: argparse.Namespace) -> dict[str, Any]:
    """Our distance to the ideal quantiser."""
    answer = synthetic.distances(options.effort or rates.efforts())
    print(*synthetic.table(answer), sep="\n")
    return answer


def run_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the peers on one core."""
    answer = speed.run(options.effort or rates.efforts(), options)
    print(*speed.table(answer), sep="\n")
    return answer


TABLE_UPDATES = ("gpt-mean", "gpt-residual", "cnn-early")  # the first one is drawn
PLOT = HERE.parent / "docs" / "codecs.png"


def run_table(options: argparse.Namespace) -> dict[str, Any]:
    """Every codec at its settings, and the plot."""
    answer: dict[str, Any] = {"updates": {}}
    names = tuple(options.update or TABLE_UPDATES)
    for name, update in updates.load(names).items():
        rows = bench_codecs(update, progress=lambda label: print(label, file=sys.stderr, flush=True))
        size = sum(array.size for array in update.values())
        meaning = updates.UPDATES[name][0]
        print(f"\n{name}, {size:,} parameters: {meaning}", *lines(rows), sep="\n")
        answer["updates"][name] = {
            "parameters": size,
            "meaning": meaning,
            "rows": [row.to_json() for row in rows],
        }
        if name == names[0] and not options.dry:
            write_plot(rows, PLOT, f"{meaning}, {size:,} parameters")
    return answer


PARTS = {"rates": run_rates, "synthetic": run_synthetic, "speed": run_speed, "table": run_table}


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument(
        "--update", nargs="+", choices=sorted(updates.UPDATES), help="rates and table: only these"
    )
    parser.add_argument("--effort", nargs="+", choices=rates.EFFORTS, help="only these")
    parser.add_argument("--bits", nargs="+", type=float, help="speed: only these")
    parser.add_argument(
        "--peers-python", type=Path, help="speed: Python of the environment of benchmarks/peers.py"
    )
    parser.add_argument("--nncodec-python", type=Path, help="speed: Python of the environment with NNCodec")
    parser.add_argument("--dry", action="store_true", help="print, and leave the results as they are")
    options = parser.parse_args()
    quiet()
    result = PARTS[options.part](options)
    if not options.dry:
        write(
            f"codecs-{options.part}",
            f"python benchmarks/codecs.py {' '.join(_by_name(sys.argv[1:]))}",
            result,
        )


def _by_name(arguments: list[str]) -> list[str]:
    """The arguments as a reader would give them: interpreters of other environments by what they are for."""
    named, after = [], ""
    for argument in arguments:
        named.append(
            after.removeprefix("--").replace("-", "_").upper() if after.endswith("-python") else argument
        )
        after = argument
    return named


if __name__ == "__main__":
    main()
