"""Decodes bodies in a process of its own: `python -m phloem.testing.elsewhere MODULE CLASS`.

Standard input: for every body a line of hexadecimal layout JSON and a line of hexadecimal body. Standard
output: for every body one line, the digest of the state that it decodes to.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence

from phloem.codecs.base import Codec
from phloem.tensors import Layout, state_digest


def digests_elsewhere(codec: type[Codec], bodies: Sequence[tuple[Layout, bytes]]) -> list[str]:
    """The state digests of `bodies`, decoded by another process that is given nothing but these bytes."""
    lines = [line for layout, body in bodies for line in (layout.to_json().hex(), body.hex())]
    # The same places to import from as here, as arguments: the environment is nobody's business.
    boot = "import sys; sys.path[:0] = sys.argv[3:]; from phloem.testing.elsewhere import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", boot, codec.__module__, codec.__qualname__, *filter(None, sys.path)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def main() -> None:
    """Reads layouts and bodies, writes digests."""
    codec = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    lines = sys.stdin.read().split("\n")
    for layout_line, body_line in zip(lines[::2], lines[1::2], strict=True):
        layout = Layout.from_json(bytes.fromhex(layout_line))
        arrays = codec.decode(bytes.fromhex(body_line), layout)
        sys.stdout.write(state_digest(layout.named(arrays)) + "\n")


if __name__ == "__main__":
    main()
