"""What the golden files of the ledger must hold. Only tools/write_ledger_golden.py writes them, never a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.ledger import samples

from phloem.ledger.kinds import KINDS

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "ledger"
WRITE = "write it with tools/write_ledger_golden.py and look at it"


def everything() -> Mapping[str, bytes]:
    """The content of every golden file by its name."""
    entries = {f"entry.{kind}.json": samples.entry(kind).pack() for kind in KINDS}
    return {
        **entries,
        "record.bin": samples.record().pack(),
        "claim.bin": samples.claim().pack(),
        "notice.bin": samples.notice().pack(),
        "word.bin": samples.word().pack(),
        "bundle.flproof": samples.bundle().pack(),
    }


def read(name: str) -> bytes:
    """A golden file."""
    path = FOLDER / name
    assert path.exists(), WRITE
    return path.read_bytes()
