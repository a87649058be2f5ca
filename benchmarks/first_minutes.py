"""The first minutes of a newcomer: `make demo` and `make test` from a fresh clone with no environment, timed whole.

python benchmarks/first_minutes.py --runs 1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import HERE, spread, write


def timed(target: str) -> float:
    """Seconds that `make TARGET` takes in a clone of the committed tree."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "phloem"
        subprocess.run(["git", "clone", "--quiet", str(HERE.parent), str(clone)], check=True)
        started = time.perf_counter()
        subprocess.run(["make", target], cwd=clone, check=True, stdout=sys.stderr)
        return time.perf_counter() - started


def main() -> None:
    """Times both commands and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    result = {
        f"make {target}, seconds": spread([timed(target) for _ in range(options.runs)])
        for target in ("demo", "test")
    }
    write("first_minutes", f"python benchmarks/first_minutes.py --runs {options.runs}", result)


if __name__ == "__main__":
    main()
