"""docs/by-hand.md is held against the golden frame and against what the second decoder reads of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from tests.conformance import fast
from tests.conformance.contents import PRESET
from tests.conformance.frame import decode_frame
from tests.conformance.levels import LEVELS
from tests.conformance.rangecoder import RangeDecoder
from tests.conformance.tables import LADDER
from tests.conformance.values import NF4
from tests.tiny import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "by-hand.md").read_text("utf-8")
#: The page as one line, so that a text is found wherever its line ends.
TEXT = " ".join(PAGE.split())
FRAME = ROOT / "tests" / "golden" / "ecsq" / "nmse-spikes" / "frame.bin"
SIZE = 3000


class Watched(RangeDecoder):
    """A range decoder that notes every field with the state after it."""

    rows: list[list[str]]

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data, at)
        Watched.rows = []
        self.inside = False

    def note(self, context: str, value: str) -> None:
        self.rows.append([context, value, f"{self.range:x}", f"{self.code:x}", str(self.next)])

    def bit(self, context: int) -> int:
        value = super().bit(context)
        if not self.inside:
            self.note(str(context), str(value))
        return value

    def raw(self, width: int) -> int:
        value = super().raw(width)
        if not self.inside:
            self.note("raw", str(value))
        return value

    def signed(self, context: int, contexts: int) -> int:
        if self.inside:
            return super().signed(context, contexts)
        self.inside = True
        value = super().signed(context, contexts)
        self.inside = False
        self.note(str(context), str(value))
        return value

    def near(self, context: int, expected: int) -> int:
        self.inside = True
        value = super().near(context, expected)
        self.inside = False
        self.note(str(context), str(value))
        return value

    def tokens(self, count: int, table: Sequence[int]) -> list[int]:
        value = super().tokens(count, table)
        self.note("table", " ".join(map(str, value)))
        assert "frequencies are " + " ".join(map(str, table)) in TEXT
        return value


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(fast, "RangeDecoder", Watched)
    return decode_frame(FRAME.read_bytes(), [("x", (SIZE,))])


def test_the_dump_is_the_golden_frame() -> None:
    dumped = re.findall(r"^    ((?:[0-9a-f]{2} )+) +\S", PAGE, re.MULTILINE)
    assert bytes.fromhex("".join(dumped)) == FRAME.read_bytes()


def test_the_fields_are_what_the_second_decoder_reads(values: list[float]) -> None:
    rows = [[cell.strip() for cell in row.split("|")[2:-1]] for row in PAGE.splitlines() if row[:2] == "| "]
    assert Watched.rows == rows[1:]


def test_the_values_are_what_the_second_decoder_reads(values: list[float]) -> None:
    places = [place for place, value in enumerate(values) if value]
    assert f"the non-zeros are at {' '.join(map(str, places))}." in TEXT
    assert f"= {values[places[0]]!r}, the bits" in TEXT
    assert {values[place] for place in places} == {values[places[0]]}


def shorn(page: str) -> str:
    return "".join((DOCS / page).read_text("utf-8").split())


def test_the_pages_list_the_tables_that_the_second_decoder_uses() -> None:
    assert "L=" + ",".join(map(str, LADDER)) in shorn("ecsq.md")
    for bits, levels in enumerate(LEVELS, 1):
        assert f"{bits}:" + ",".join(map(str, levels)) in shorn("bodies.md")
    assert "".join(f"{level:08X}" for level in NF4) in shorn("bodies.md")
    assert PRESET.replace(b"\xfe", b"|").decode() in shorn("format.md")
