"""Names to codecs and back: one name, one byte on the wire, one decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phloem.codecs.base import Codec
from phloem.codecs.chain import Chain
from phloem.codecs.model import Model
from phloem.codecs.stages import STAGES, configured
from phloem.errors import FormatError

CODECS: tuple[type[Codec], ...] = (*STAGES, Chain, Model)
BY_NAME: Mapping[str, type[Codec]] = {codec.name: codec for codec in CODECS}
BY_CODE: Mapping[int, type[Codec]] = {codec.code: codec for codec in CODECS}


def codec_from(config: Mapping[str, Any]) -> Codec:
    """The codec that `config` names under "codec", built from the other keys.

    >>> codec_from({"codec": "int8", "block": 64})
    Int8(block=64)
    """
    return configured(config, BY_NAME)


def codec_for_code(code: int) -> type[Codec]:
    """The codec whose byte on the wire is `code`."""
    if code not in BY_CODE:
        raise FormatError(f"no codec of this version has the code {code}")
    return BY_CODE[code]
