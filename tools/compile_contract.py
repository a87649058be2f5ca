"""Writes src/phloem/ledger/anchors/Anchor.json: what Vyper makes of Anchor.vy. A test compares it.

    python tools/compile_contract.py

Once a contract is deployed somewhere, its code must stay known: do not run this again, write a second contract.
"""

from __future__ import annotations

from pathlib import Path

from phloem import canonical

FOLDER = Path(__file__).parents[1] / "src" / "phloem" / "ledger" / "anchors"


def compiled(source: str) -> bytes:
    """The ABI, the code that deploys and the code that is deployed, as canonical JSON."""
    from vyper import __version__, compile_code

    found = compile_code(source, output_formats=["abi", "bytecode", "bytecode_runtime"])
    return canonical.dumps(
        {
            "abi": found["abi"],
            "bytecode": found["bytecode"].removeprefix("0x"),
            "compiler": f"vyper {__version__}",
            "runtime": found["bytecode_runtime"].removeprefix("0x"),
        }
    )


if __name__ == "__main__":
    (FOLDER / "Anchor.json").write_bytes(compiled((FOLDER / "Anchor.vy").read_text(encoding="utf-8")))
