"""Writes tests/golden/ledger: the bytes that this version of the ledger's formats stands for.

Run it by hand when a format changes on purpose (and its version with it), and read the difference: a test run
never writes these files.

    python tools/write_ledger_golden.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ledger.golden import FOLDER, everything  # noqa: E402


def main() -> None:
    """Writes every file, and takes away those that are none any more."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = everything()
    for path in FOLDER.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
