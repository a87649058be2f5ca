"""Which settings of which codec a comparison shows: a knob turned through its useful range, the rest as it comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phloem.codecs.base import Codec
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.errors import ConfigError

Config = Mapping[str, Any]

BITS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)

#: What is worth seeing of a codec. A configuration that this version does not have is left out; a number under
#: "× rms" is multiplied by the update's root mean square. A codec that is not named here shows its defaults.
SETTINGS: Mapping[str, Sequence[Config]] = {
    "ecsq": [{"effort": effort, "bits": bits} for effort in ("fast", "balanced", "best") for bits in BITS],
    "topk": [
        {"fraction": fraction, **indices}
        for indices in ({}, {"indices": "raw32"})
        for fraction in (0.001, 0.01, 0.1)
    ],
    "randomk": [{"fraction": fraction} for fraction in (0.01, 0.1)],
    "threshold": [{"× rms": {"threshold": factor}} for factor in (4.0, 2.0)],
    "fp8": [{"format": "e4m3", "block": 128}, {"format": "e5m2"}],
    "qsgd": [{"levels": levels} for levels in (1, 7, 127)],
    "eden": [{"bits": bits} for bits in (0.5, 1.0, 2.0, 4.0)],
    "lowrank": [{"rank": rank} for rank in (1, 4, 16)],
    "linear": [{"× rms": {"step": factor}, "bits": bits} for factor, bits in ((1.0, 10), (0.25, 12))],
    "zstd": [{"level": level} for level in (3, 19)],
    "bins": [{"bits": bits} for bits in (1, 2, 4)],
    "hadamard": [],  # turns an update, and makes nothing smaller by itself
    "model": [],  # for whole states with pruned weights
    "chain": [
        {"stages": [{"codec": "topk", "fraction": 0.01}, {"codec": "int8"}]},
        {"stages": [{"codec": "topk", "fraction": 0.01, "scope": "chunk"}, {"codec": "bins", "bits": 2}]},
        {"stages": [{"codec": "hadamard"}, {"codec": "int4"}]},
        {"stages": [{"codec": "lowrank", "rank": 4}, {"codec": "ecsq", "bits": 4.0}]},
        {"stages": [{"codec": "int8"}, {"codec": "zstd"}]},
    ],
}


def choices(rms: float, names: Sequence[str] = ()) -> Iterator[tuple[str, Codec]]:
    """Labels and codecs, in the registry's order; only the codecs `names`, if there are any.

    Raises:
        ConfigError: there is no codec of that name.
    """
    for name in names:
        if name not in BY_NAME:
            codec_from({"codec": name})  # says which is meant
    for name in BY_NAME:
        if names and name not in names:
            continue
        shown: set[Codec | str] = set()
        for config in SETTINGS.get(name, ({},)):
            try:
                codec = codec_from({"codec": name, **_scaled(config, rms)})
            except ConfigError:
                continue  # an effort or an option of another version
            label = label_of(codec, config)
            if label not in shown:
                shown.add(label)
                yield label, codec


def _scaled(config: Config, rms: float) -> dict[str, Any]:
    relative = config.get("× rms", {})
    return {key: value for key, value in config.items() if key != "× rms"} | {
        key: factor * rms for key, factor in relative.items()
    }


def label_of(codec: Codec, config: Config) -> str:
    """The codec's name with what was set, short.

    >>> label_of(codec_from({"codec": "topk", "fraction": 0.01}), {"fraction": 0.01})
    'topk fraction=0.01'
    """
    if "stages" in config:
        return " → ".join(" ".join(_words(stage)) for stage in config["stages"])
    return " ".join(_words({"codec": codec.name, **config}))


def _words(config: Config) -> Iterator[str]:
    yield str(config["codec"])
    for key, value in config.items():
        if key == "× rms":
            yield from (f"{inner}={factor:g}·rms" for inner, factor in value.items())
        elif key == "effort":
            yield str(value)
        elif key != "codec":
            yield f"{key}={value:g}" if isinstance(value, (int, float)) else f"{key}={value}"


def config_of(codec: Codec) -> dict[str, Any]:
    """The codec's configuration as JSON has it."""
    return {"codec": codec.name, **dataclasses.asdict(codec)}  # type: ignore[call-overload]
