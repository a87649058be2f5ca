"""Names to codecs and back: one name, one byte on the wire, one decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phloem.codecs.base import Codec
from phloem.codecs.casts import BFloat16, NoCompression
from phloem.codecs.classical import Int8, Sign, TopK
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.lossless import Lossless
from phloem.codecs.model import Model
from phloem.errors import ConfigError, FormatError, nearest

CODECS: tuple[type[Codec], ...] = (NoCompression, Ecsq, BFloat16, Int8, TopK, Sign, Lossless, Model)
BY_NAME: Mapping[str, type[Codec]] = {codec.name: codec for codec in CODECS}
BY_CODE: Mapping[int, type[Codec]] = {codec.code: codec for codec in CODECS}


def codec_from(config: Mapping[str, Any]) -> Codec:
    """The codec that `config` names under "codec", built from the other keys.

    >>> codec_from({"codec": "topk", "fraction": 0.5})
    TopK(fraction=0.5)
    """
    options = dict(config)
    name = options.pop("codec", None)
    if not isinstance(name, str) or name not in BY_NAME:
        near = nearest(str(name), BY_NAME)
        known = ", ".join(sorted(BY_NAME))
        raise ConfigError(
            f"there is no codec '{name}'", hint=f"did you mean '{near}'?" if near else f"known: {known}"
        )
    return BY_NAME[name].from_config(options)


def codec_for_code(code: int) -> type[Codec]:
    """The codec whose byte on the wire is `code`."""
    if code not in BY_CODE:
        raise FormatError(f"no codec of this version has the code {code}")
    return BY_CODE[code]
