"""The contract's code is what its source says."""

from __future__ import annotations

import importlib.util
import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from tests.ledger.anchors.worlds import CHAIN, OWNER

from phloem.ledger.anchors import contract
from phloem.ledger.anchors.base import hash_of_origin

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src" / "phloem" / "ledger" / "anchors"


@pytest.mark.skipif(importlib.util.find_spec("vyper") is None, reason="needs the extra [dev]")
def test_the_compiler_makes_the_same_code_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("compile_contract")
    try:
        made = tool.compiled((FOLDER / "Anchor.vy").read_text(encoding="utf-8"))
    finally:
        sys.modules.pop("compile_contract")
    assert made == (FOLDER / "Anchor.json").read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("vyper") is None, reason="needs the extra [dev]")
def test_size_and_root_lie_where_proofs_look_for_them() -> None:
    from vyper import compile_code

    source = (FOLDER / "Anchor.vy").read_text(encoding="utf-8")
    layout = compile_code(source, output_formats=["layout"])["layout"]
    slots = {name: place["slot"] for name, place in layout["storage_layout"].items()}
    assert slots == {"size": contract.SIZE_SLOT, "root": contract.ROOT_SLOT}
    fixed = {name: place["offset"] for name, place in layout["code_layout"].items()}
    assert fixed == {"OWNER": 0, "ORIGIN_HASH": 32, "CHAIN": 64}


def test_the_code_that_proofs_are_bound_to_never_changes() -> None:
    runtime = json.loads((FOLDER / "Anchor.json").read_bytes())["runtime"]
    digest = sha256(bytes.fromhex(runtime)).hexdigest()
    assert digest == "d652385faa9b7a2484f9eccf5ef1e5f11f23f55029c030ab5a95e017d5f390c8", (
        "proofs made so far are of the old code: a new contract needs a name beside the old one"
    )


def test_owner_log_and_chain_are_read_from_the_code() -> None:
    code = contract.deployed_code(OWNER, hash_of_origin("example.org/log"), CHAIN)
    assert contract.fixed_values(code) == (OWNER, hash_of_origin("example.org/log"), CHAIN)
    high = code[:-96] + b"\1" + code[-95:]  # an owner of 21 bytes
    for other in (b"", code[:95], code[1:], code + b"\0", bytes([code[0] ^ 1]) + code[1:], high):
        assert contract.fixed_values(other) is None


def test_the_interface_is_what_is_called() -> None:
    names = {(part.get("name"), part["type"]) for part in contract.interface()}
    assert {("anchor", "function"), ("size", "function"), (None, "constructor")} <= names
    assert contract.creation_code().startswith(b"\x61")
