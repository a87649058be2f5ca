from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tests.ui.made import recipe, rounds, summary_of

from phloem.ui.report import page


def _chromium(profile: Path, *words: str) -> bytes:
    """What a real, headless browser prints; it fetches nothing and keeps nothing."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        *(f"--disable-{name}" for name in quiet),
    ]
    done = subprocess.run(
        [*command, f"--user-data-dir={profile}", *words], capture_output=True, timeout=90, check=True
    )
    return done.stdout


@pytest.fixture
def report(tmp_path: Path) -> Path:
    made = recipe(
        rounds={"max": 10, "stop": "target", "target": 0.9},
        description="<script>document.title='hit'</script>",
    )
    base = rounds([0.3, 0.5, 0.91], scale=1000)
    records = rounds([0.2, 0.4, 0.6, 0.92], **{"site-1": "late"})
    summary = summary_of(made, records, fp32=summary_of(made, base))
    path = tmp_path / "report.html"
    path.write_text(page(made, summary, {"this": records, "fp32": base}), encoding="utf-8")
    return path


@pytest.mark.service("chromium")
def test_a_browser_shows_the_headline_and_runs_no_script(report: Path, tmp_path: Path) -> None:
    dom = _chromium(tmp_path / "profile", "--dump-dom", report.as_uri()).decode()
    assert "<title>tiny · Phloem run</title>" in dom
    assert "fewer bytes than fp32 to 90" in dom
    assert dom.count("<svg") == 5
    assert "<script" not in dom


@pytest.mark.service("chromium")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_draws_the_page(report: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    _chromium(tmp_path / "profile", f"--window-size={width},1400", f"--screenshot={shot}", report.as_uri())
    picture = shot.read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (width, 1400)
    assert len(picture) > 30_000  # an empty page compresses to a few kilobytes
