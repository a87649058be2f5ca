"""Vectors of others: transparency-dev/merkle's proofs, Go's signed note, the example of C2SP's signed-note."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phloem.errors import ProofError
from phloem.tlog.keys import Signer, VerifierKey
from phloem.tlog.merkle import check_consistency, check_inclusion
from phloem.tlog.note import opened, signed

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "tlog" / "merkle.json").read_text("utf-8")
)


def hashes(vector: dict[str, Any], key: str) -> list[bytes]:
    return [base64.b64decode(text) for text in vector[key] or ()]


def agrees(vector: dict[str, Any], check: Any, *arguments: Any) -> None:
    if vector["wantErr"]:
        with pytest.raises(ProofError):
            check(*arguments)
    else:
        check(*arguments)


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda vector: vector["file"])
def test_inclusion(vector: dict[str, Any]) -> None:
    leaf, root = base64.b64decode(vector["leafHash"] or ""), base64.b64decode(vector["root"] or "")
    proof = hashes(vector, "proof")
    agrees(vector, check_inclusion, vector["leafIdx"], vector["treeSize"], leaf, proof, root)


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda vector: vector["file"])
def test_consistency(vector: dict[str, Any]) -> None:
    old_root, root = (base64.b64decode(vector[key] or "") for key in ("root1", "root2"))
    if not vector["wantErr"] and len(root) != 32:  # the other implementation does not look at the roots' size
        vector = {**vector, "wantErr": True}
    proof = hashes(vector, "proof")
    agrees(vector, check_consistency, vector["size1"], vector["size2"], old_root, root, proof)


# The key and the note of Go's package note, from its tests; BSD-3-Clause
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT
    + (
        "\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    ).encode()
)

# github.com/C2SP/C2SP, signed-note.md, "Verifier keys" (CC BY 4.0)
C2SP_VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()


def test_a_note_signed_with_gos_key_is_gos_note_byte_for_byte() -> None:
    signer = Signer.parse(GO_SIGNER)
    assert str(signer.verifier) == GO_VERIFIER
    assert signer.export() == GO_SIGNER
    assert signed(GO_TEXT, [signer]) == GO_NOTE


@pytest.mark.parametrize(
    ("note", "key", "text"),
    [(GO_NOTE, GO_VERIFIER, GO_TEXT), (C2SP_NOTE, C2SP_VERIFIER, b"This is an example message.\n")],
)
def test_notes_of_others_open(note: bytes, key: str, text: bytes) -> None:
    assert opened(note, [VerifierKey.parse(key)])[0] == text


def test_the_verifier_loads_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, phloem.tlog.proof, phloem.tlog.tiles, phloem.tlog.witness\n"
        "print(sorted({'numpy', 'torch', 'zstandard', 'safetensors', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
