"""`phloem encode`, `decode` and `inspect`: models in files, over `phloem.files`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from phloem import kernels
from phloem.cli.printing import WIDE, nobody_reads, print_json, say, stderr_meter
from phloem.errors import ConfigError
from phloem.files import Inspection, decode_file, encode_file, inspect_file
from phloem.ui.figures import size_text
from phloem.ui.frames import encoded_text, print_frame


@dataclass(frozen=True)
class EncodeCall:
    """The words of one `phloem encode`."""

    new: Path
    base: Path | None
    out: Path
    bits: float | None
    bytes: int | None
    nmse: float | None
    step: float | None
    lossless: bool
    codecs: tuple[str, ...]
    effort: str | None
    json: bool
    kernels: Any


def run_encode(call: EncodeCall) -> None:
    """Does what the call asks.

    Raises:
        PhloemError: as `phloem.encode_file`.
    """
    kernels.use(call.kernels)
    source_bytes = call.new.stat().st_size if call.new.is_file() else 0  # before `out` takes its place
    with stderr_meter() as meter:
        made = encode_file(
            call.new, call.out, base=call.base, lossless=call.lossless, progress=meter, **_options(call)
        )
    if call.json:
        print_json(made.to_json())
    else:
        say(encoded_text(str(call.out), made, call.new.name, source_bytes))


def run_decode(frame: Path, base: Path | None, out: Path, choice: Any) -> None:
    """Writes the file that a frame and its base give.

    Raises:
        PhloemError: as `phloem.decode_file`.
    """
    kernels.use(choice)
    with stderr_meter() as meter:
        made = decode_file(frame, out, base=base, progress=meter)
    say(f"{out}: {size_text(made.bytes)}, {made.parameters:,} parameters, state {made.digest[:16]}…")


def run_inspect(frame: Path, *, as_json: bool) -> None:
    """Prints what a frame holds on standard output.

    Raises:
        PhloemError: as `phloem.inspect_file`.
    """
    made: Inspection = inspect_file(frame)
    if as_json:
        print_json(made.to_json())
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    try:
        print_frame(console, str(frame), made)
    except BrokenPipeError:
        nobody_reads()


def codec_words(words: Sequence[str]) -> dict[str, Any]:
    """A codec's configuration from the words of --codec: NAME or NAME:key=value,key=value; several are a chain.

    >>> codec_words(["topk:fraction=0.01"])
    {'codec': 'topk', 'fraction': 0.01}

    Raises:
        ConfigError: a word is not of this form.
    """
    configs = [_one_codec(word) for word in words]
    return configs[0] if len(configs) == 1 else {"codec": "chain", "stages": configs}


def _one_codec(word: str) -> dict[str, Any]:
    name, _, fields = word.partition(":")
    config: dict[str, Any] = {"codec": name}
    for item in filter(None, fields.split(",")):
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(
                f"--codec {word}: expected key=value, found '{item}'", hint="as in topk:fraction=0.01"
            )
        try:
            config[key] = json.loads(text)
        except ValueError:
            config[key] = text
    return config


def _options(call: EncodeCall) -> dict[str, Any]:
    knobs = {
        "bits": call.bits,
        "bytes": call.bytes,
        "nmse": call.nmse,
        "step": call.step,
        "effort": call.effort,
    }
    options = {key: value for key, value in knobs.items() if value is not None}
    if not call.lossless and not call.codecs and not options.keys() - {"effort"}:
        raise ConfigError(
            "how good should it be? Give one of --bits, --bytes, --nmse, --step and --lossless",
            hint="for example --bits 0.1, a tenth of a bit per parameter",
        )
    if call.codecs:
        options = codec_words(call.codecs) | options
    return options
