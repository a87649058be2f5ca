"""The codecs of a recipe: chosen every round, or fixed, and then which, from which round on."""

from __future__ import annotations

from typing import Any

from phloem import canonical
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.errors import ConfigError, nearest, unknown_key
from phloem.rounds.plan import Later
from phloem.strict import as_table

AUTO, FIXED = "auto", "fixed"
_DEFAULT_CODEC = {"codec": "ecsq", "bits": 0.05, "effort": "fast"}


def settle_codecs(table: dict[str, Any]) -> None:
    """Writes out whether codecs are fixed, and then which; a recipe that names one is fixed."""
    named = [key for key in ("up", "down", "later") if table.get(key)]
    compress = table.setdefault("compress", FIXED if named else AUTO)
    if compress == AUTO:
        if named:
            raise ConfigError(
                f"compress = '{AUTO}' chooses the codecs, and the recipe has [{named[0]}]",
                hint=f"leave out [{named[0]}], or say compress = '{FIXED}'",
            )
        return
    for direction in ("up", "down"):
        own = as_table(table.get(direction) or _DEFAULT_CODEC, f"[{direction}]")
        table[direction] = _codec(own, direction)
    if "later" in table:
        table["later"] = _later(table["later"], table["up"], table["down"])


def _codec(table: dict[str, Any], direction: str) -> dict[str, Any]:
    table.setdefault("codec", "ecsq")
    if not isinstance(table["codec"], str):
        raise ConfigError(f"[{direction}]: 'codec' must be a text, found {table['codec']!r:.60}")
    if table["codec"] not in BY_NAME:
        near = nearest(str(table["codec"]), BY_NAME)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(sorted(BY_NAME))}"
        raise ConfigError(f"[{direction}]: there is no codec '{table['codec']}'", hint=hint)
    codec = codec_from(table)
    config = canonical.plain(codec)
    return {"codec": codec.name, **{key: value for key, value in config.items() if value is not None}}


def _later(rows: Any, up: dict[str, Any], down: dict[str, Any]) -> list[Later]:
    """The stages of [[later]], each with whole codecs: what a row does not name stays as it was."""
    if not isinstance(rows, list):
        raise ConfigError("[[later]] must be a list of tables", hint="write [[later]], with two brackets")
    stages: list[Later] = []
    for row in rows:
        table = as_table(canonical.plain(row), "[[later]]")
        for key in table:
            if key not in ("round", "up", "down"):
                raise unknown_key(key, ("round", "up", "down"), "[[later]]")
        begins = table.get("round")
        after = stages[-1].round if stages else 0
        if type(begins) is not int or not after < begins <= 1_000_000:
            raise ConfigError(
                f"[[later]]: 'round' must be a whole number above {after}, found {begins!r:.60}"
            )
        up = _changed(up, as_table(table.get("up", {}), "[later.up]"), "later.up")
        down = _changed(down, as_table(table.get("down", {}), "[later.down]"), "later.down")
        stages.append(Later(begins, up, down))
    return stages


def _changed(codec: dict[str, Any], change: dict[str, Any], where: str) -> dict[str, Any]:
    if "codec" in change:
        return _codec(change, where)
    knobs = ("bits", "step", "nmse")
    turned = any(knob in change for knob in knobs)
    kept = {key: value for key, value in codec.items() if not (turned and key in knobs)}
    return _codec({**kept, **change}, where)
