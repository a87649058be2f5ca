"""Figures as people read them: sizes, times, ratios and metrics, each with its unit."""

from __future__ import annotations

import math
import re

MISSING = "–"
_UNIT = re.compile(r"(?<=\d) (?=%|[kMGT]?B\b|m?s\b|min\b|h\b)")
_INITIALS = ("auroc", "auc", "mse", "rmse", "mae")
_AS_PERCENT = ("accuracy", "precision", "recall", "f1")


def size_text(size_bytes: float) -> str:
    """A number of bytes to three digits, in units of 1000.

    >>> size_text(999), size_text(12_345), size_text(181_577_135)
    ('999 B', '12.3 kB', '182 MB')
    """
    if not math.isfinite(size_bytes):
        return MISSING
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 999.5 or unit == "TB":
            return f"{size_bytes:.0f} B" if unit == "B" else f"{_three_digits(size_bytes)} {unit}"
        size_bytes /= 1000
    raise AssertionError


def short_size_text(size_bytes: float) -> str:
    """A round number of bytes without trailing zeros, for a tick.

    >>> short_size_text(10_000), short_size_text(2_500_000)
    ('10 kB', '2.5 MB')
    """
    number, _, unit = size_text(size_bytes).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}".rstrip()


def time_text(seconds: float) -> str:
    """A duration.

    >>> time_text(0.0042), time_text(8.44), time_text(125), time_text(7500)
    ('4.2 ms', '8.4 s', '2 min 5 s', '2 h 5 min')
    """
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms" if seconds else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ratio_text(ratio: float) -> str:
    """How many times as much.

    >>> ratio_text(1.94), ratio_text(766.6), ratio_text(1126.4)
    ('1.9×', '767×', '1,126×')
    """
    if not math.isfinite(ratio):
        return MISSING
    return f"{ratio:,.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×" if ratio >= 0.95 else f"{ratio:.2f}×"


def metric_text(name: str, value: float | None) -> str:
    """A metric's value: shares as per cent, anything else to four digits; a dash where there is none.

    >>> metric_text("accuracy", 0.97), metric_text("loss", 2.10344), metric_text("auroc", None)
    ('97.0 %', '2.103', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if name in _AS_PERCENT:
        return f"{100 * value:.1f} %"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def unbroken(text: str) -> str:
    """The text with no line break between a figure and its unit."""
    return _UNIT.sub("\u00a0", text)


def metric_words(name: str) -> str:
    """A metric's name in words.

    >>> metric_words("average_precision"), metric_words("auroc")
    ('average precision', 'AUROC')
    """
    return name.upper() if name in _INITIALS else name.replace("_", " ")


def is_share(name: str) -> bool:
    """Whether the metric is read as per cent."""
    return name in _AS_PERCENT


def target_text(name: str, value: float) -> str:
    """A target: as short as it was written.

    >>> target_text("accuracy", 0.97), target_text("auroc", 0.985)
    ('97 %', '0.985')
    """
    return f"{100 * value:.10g} %" if is_share(name) else f"{value:.10g}"


def rate_text(bits: float) -> str:
    """Bits per parameter.

    >>> rate_text(0.020313), rate_text(32.0003)
    ('0.0203', '32.0')
    """
    return f"{bits:.3g}" if bits < 9.995 else f"{bits:.1f}"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
