"""The table as a picture: what a codec loses by its bits, and how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.bench.table import Row
from phloem.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that people with any colour vision tell apart (Okabe and Ito, 2008); ours are full, the others thin.
_OURS = {"fast": "#0072b2", "balanced": "#009e73", "best": "#d55e00"}
_OTHERS = ("#56b4e9", "#e69f00", "#cc79a7", "#8a8f98", "#5a4fa2", "#a65628", "#4d9221", "#b2182b")
_MARKS = "osD^vP<>Xph*"


def write_plot(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Draws the rows to `path` (PNG, SVG or PDF by its ending): NMSE over bits, encoding and decoding speed over bits.

    Unbiased codecs whose NMSE is 1 or more lie outside the first panel; the picture says how many.

    Raises:
        ConfigError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib", hint="pip install 'phloem[plots]'") from error
    drawn = [row for row in rows if not row.refused]
    if not drawn:
        raise ConfigError("there is nothing to draw: every codec refused the update")
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    outside = 0
    for (family, group), style in zip(_families(drawn).items(), _styles(drawn), strict=True):
        group = sorted(group, key=lambda row: row.bits)
        inside = [row for row in group if 0 < row.nmse < 1]
        outside += sum(row.nmse >= 1 for row in group)
        left.plot([row.bits for row in inside], [row.nmse for row in inside], label=family, **style)
        bits = [row.bits for row in group]
        right.plot(bits, [row.encode / 1e6 for row in group], **style)
        right.plot(
            bits, [row.decode / 1e6 for row in group], **{**style, "linestyle": ":", "fillstyle": "none"}
        )
    _axes(left, "NMSE, lower is better", "what is lost")
    left.set_yscale("logit")
    left.yaxis.set_major_formatter("{x:g}")
    _axes(right, "million parameters per second", "speed: encode (full), decode (dotted)")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:,g}")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9
    )
    note = f" · {outside} settings of unbiased codecs with an NMSE of 1 or more are not in the left panel"
    figure.suptitle(title + (note if outside else ""), fontsize=10)
    figure.savefig(path, dpi=150)


def _axes(axes: Axes, what: str, title: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("bits per parameter")
    axes.set_ylabel(what)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(visible=True, which="major", color="#d5dae0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by what is drawn as one line: a codec, with its effort or the stages it is made of."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(family_of(row), []).append(row)
    return found


def family_of(row: Row) -> str:
    """The name of the line that a row belongs to.

    >>> family_of(Row("ecsq fast bits=1", {"codec": "ecsq", "effort": "fast"}))
    'ecsq fast'
    """
    if "stages" in row.config:
        return row.label.split(" → ")[0].split()[0] + " → …"
    extra = [row.config[key] for key in ("effort", "indices", "format") if row.config.get(key)]
    return " ".join([str(row.config["codec"]), *map(str, extra)])


def _styles(rows: Sequence[Row]) -> list[dict[str, Any]]:
    styles: list[dict[str, Any]] = []
    others = 0
    for family in _families(rows):
        effort = family.removeprefix("ecsq ")
        if effort in _OURS and family.startswith("ecsq"):
            styles.append(
                {"color": _OURS[effort], "marker": "o", "linewidth": 2.2, "markersize": 5, "zorder": 3}
            )
            continue
        styles.append(
            {
                "color": _OTHERS[others % len(_OTHERS)],
                "marker": _MARKS[others % len(_MARKS)],
                "linewidth": 0.8,
                "markersize": 5,
            }
        )
        others += 1
    return styles
