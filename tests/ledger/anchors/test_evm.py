"""Proofs of the kind `evm`, offline: what they show, and every way in which they do not."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger.anchors.notes import ORIGIN, ROOT, needs_evm, note
from tests.ledger.anchors.worlds import ADDRESS, CHAIN, OWNER, TIME, world

from phloem import canonical
from phloem.errors import FormatError, NotFoundError, ProofError
from phloem.ledger.anchors.base import LARGEST_PROOF, Trust, hash_of_origin, hexed
from phloem.ledger.anchors.contract import SIZE_SLOT, deployed_code
from phloem.ledger.anchors.headers import pack_header, unpack_header
from phloem.ledger.anchors.proof import anchored, unpack, verify_anchor

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_HASH = bytes.fromhex((GOLDEN / "evm.block").read_text(encoding="ascii").strip())
REFUSED = (FormatError, ProofError)

pytestmark = needs_evm


def test_a_proof_shows_what_the_contract_held_when_and_who_owns_it() -> None:
    made = world()
    found = verify_anchor(made.data, note(), made.trust)
    assert (found.kind, found.origin_hash) == ("evm", hash_of_origin(ORIGIN))
    assert (found.size, found.root) == (21, ROOT)
    assert (found.when_low, found.when_high) == (TIME, TIME)
    assert found.details == {
        "chain": CHAIN,
        "contract": hexed(ADDRESS),
        "owner": hexed(OWNER),
        "block": 7,
        "block_hash": hexed(made.block_hash),
    }
    assert anchored(made.data, made.trust) == found


@given(st.integers(1, (1 << 63) - 1), st.binary(min_size=32, max_size=32), st.integers(0, 60))
def test_any_checkpoint_is_shown_as_it_is(size: int, root: bytes, others: int) -> None:
    if not any(root):
        root = ROOT
    made = world(size, root, others=others)
    found = anchored(made.data, made.trust)
    assert (found.size, found.root) == (size, root)


def test_a_root_that_begins_or_ends_with_zeros_is_whole() -> None:
    for root in (bytes(31) + b"\1", b"\1" + bytes(31), bytes(5) + ROOT[:27]):
        made = world(root=root)
        assert verify_anchor(made.data, note(root=root), made.trust).root == root


def test_the_proof_of_a_real_node_still_holds() -> None:
    data, signed = (GOLDEN / "evm.json").read_bytes(), (GOLDEN / "checkpoint").read_bytes()
    found = verify_anchor(data, signed, Trust(block_hash=GOLDEN_HASH))
    assert (found.size, found.details["block"], found.details["chain"]) == (70_000, 3, 31337)


# -- who is trusted ----------------------------------------------------------------------------------------------


def test_without_a_block_to_believe_nothing_is_decided_but_all_else_is_checked() -> None:
    made = world()
    with pytest.raises(NotFoundError, match="whether block 7 of chain 31337 is 0x") as caught:
        verify_anchor(made.data, note(), Trust())
    assert "--block-hash" in str(caught.value)
    with pytest.raises(ProofError, match="another root"):
        verify_anchor(made.data, note(root=bytes(32)), Trust())
    with pytest.raises(ProofError, match="does not fit"):
        verify_anchor(made.changed(size_proof=made.proof.root_proof[:1]), note(), Trust())


def test_another_block_or_another_contract_is_refused() -> None:
    made = world()
    with pytest.raises(ProofError, match="another block 7"):
        anchored(made.data, Trust(block_hash=bytes(32)))
    with pytest.raises(ProofError, match="of the contract 0x0001"):
        anchored(made.data, Trust(block_hash=made.block_hash, contract=OWNER))
    assert anchored(made.data, Trust(block_hash=made.block_hash, contract=ADDRESS)).size == 21


# -- which checkpoint --------------------------------------------------------------------------------------------


def test_another_root_of_the_same_size_is_two_histories() -> None:
    made = world()
    with pytest.raises(ProofError, match="showed two histories") as caught:
        verify_anchor(made.data, note(root=bytes(32)), made.trust)
    assert ROOT.hex() in str(caught.value)


def test_a_later_checkpoint_decides_nothing_and_an_earlier_one_refuses() -> None:
    made = world()
    with pytest.raises(NotFoundError, match="later checkpoint, of 21 entries; this one has 20"):
        verify_anchor(made.data, note(20), made.trust)
    with pytest.raises(ProofError, match="earlier checkpoint, of 21 entries; this one has 22"):
        verify_anchor(made.data, note(22), made.trust)


def test_another_log_is_refused() -> None:
    made = world()
    with pytest.raises(ProofError, match=r"another log than 'example.org/other'"):
        verify_anchor(made.data, note(origin="example.org/other"), made.trust)


# -- which contract ----------------------------------------------------------------------------------------------


def test_a_contract_that_may_go_back_is_refused() -> None:
    code = deployed_code(OWNER, hash_of_origin(ORIGIN), CHAIN)
    for other in (b"", code[:-1], code + b"\0", bytes([code[0] ^ 1]) + code[1:]):
        made = world(code=other)
        with pytest.raises(ProofError, match="other code"):
            anchored(made.data, made.trust)


def test_owner_log_and_chain_are_bound_by_the_code() -> None:
    made = world()
    lies = (
        {"owner": hexed(ADDRESS)},
        {"chain": 1},
        {"origin_hash": hexed(hash_of_origin("example.org/other"))},
    )
    for lie in lies:
        with pytest.raises(ProofError, match="other code"):
            anchored(made.changed(**lie), made.trust)


def test_a_contract_without_a_checkpoint_shows_nothing() -> None:
    for storage in ({}, {SIZE_SLOT: b""}, {0: ROOT, 9: ROOT}):
        made = world(storage=storage)
        with pytest.raises(ProofError):
            anchored(made.data, made.trust)
    made = world(storage={SIZE_SLOT: b"\xff" * 32, 2: ROOT})
    with pytest.raises(ProofError, match="holds no checkpoint"):
        anchored(made.data, made.trust)


def test_size_and_root_cannot_be_exchanged() -> None:
    made = world()
    with pytest.raises(ProofError, match=r"no such thing|does not fit"):
        anchored(made.changed(size_proof=made.proof.root_proof, root_proof=made.proof.size_proof), made.trust)


# -- damaged bytes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_altered_byte_is_refused_or_is_in_the_hash_of_the_transaction() -> None:
    data, trust = (GOLDEN / "evm.json").read_bytes(), Trust(block_hash=GOLDEN_HASH)
    good = anchored(data, trust)
    start = data.index(b'"transaction":"0x') + len(b'"transaction":"0x')
    draw = random.Random(1)
    kept = set()
    for place in range(len(data)):
        bit = draw.choice((1, 2, 4, 8, 16, 32))
        altered = bytes([*data[:place], data[place] ^ bit, *data[place + 1 :]])
        try:
            found = anchored(altered, trust)
        except REFUSED:
            continue
        assert found == good
        kept.add(place)
    assert kept <= set(range(start, start + 64))


def test_a_proof_cut_or_lengthened_is_refused() -> None:
    data, trust = (GOLDEN / "evm.json").read_bytes(), Trust(block_hash=GOLDEN_HASH)
    for length in range(0, len(data), 7):
        with pytest.raises(REFUSED):
            anchored(data[:length], trust)
    for more in (b" ", b"\n", b"\0", b"{}"):
        with pytest.raises(FormatError):
            anchored(data + more, trust)


def test_nodes_left_out_or_damaged_are_refused() -> None:
    made = world()
    for name in ("account_proof", "size_proof", "root_proof"):
        nodes = getattr(made.proof, name)
        for place in range(len(nodes)):
            for wrong in (
                [*nodes[:place], *nodes[place + 1 :]],
                [*nodes[:place], "0xc0", *nodes[place + 1 :]],
            ):
                with pytest.raises(ProofError, match="does not fit"):
                    anchored(made.changed(**{name: wrong}), made.trust)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "other"},
        {"kind": "rfc3161"},
        {"version": 2},
        {"version": True},
        {"chain": 0},
        {"chain": "31337"},
        {"contract": "0x00"},
        {"owner": "0x" + "AB" * 20},
        {"header": "0x"},
        {"header": "0x" + "cf" + "00" * 15},
        {"header": "0x" + "d0" + "c0" * 16},
        {"header": "0xc0c0c0"},
        {"account_proof": ["0x" + "c1" * 3000]},
        {"account_proof": [hexed(bytes([0xF9, 0xFF, 0xFF]))]},
        {"account_proof": ["0x80"] * 65},
        {"account_proof": [7]},
        {"transaction": "0x00"},
        {"transaction": 0},
    ],
    ids=str,
)
def test_a_field_of_another_form_is_refused(wrong: dict[str, object]) -> None:
    made = world()
    with pytest.raises(REFUSED):
        anchored(made.changed(**wrong), made.trust)


def test_rlp_as_deep_as_the_stack_is_refused() -> None:
    deep = b""
    for _ in range(3000):
        deep = _in_list(deep)
    made = world()
    for field in ({"header": hexed(deep)}, {"account_proof": [hexed(deep)]}):
        with pytest.raises(REFUSED):
            anchored(made.changed(**field), made.trust)


def _in_list(content: bytes) -> bytes:
    if len(content) < 56:
        return bytes([0xC0 + len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([0xF7 + len(length)]) + length + content


def test_what_is_no_proof_file_is_refused() -> None:
    made = world()
    for data in (b"", b"null", b"[]", b"7", b'{"kind":"evm"}', b'{"kind":"evm","version":1}', b"\xff"):
        with pytest.raises(FormatError):
            unpack(data)
    with pytest.raises(FormatError, match="larger than"):
        unpack(b" " * (LARGEST_PROOF + 1))
    with pytest.raises(FormatError, match="no key 'extra'"):
        unpack(canonical.dumps(canonical.plain(made.proof) | {"extra": 1}))
    with pytest.raises(FormatError, match="another way"):
        unpack(made.data.replace(b'"kind":', b'"kind": '))
    with pytest.raises(FormatError):
        verify_anchor(made.data, b"no note", made.trust)


def test_a_time_that_no_calendar_has_is_refused() -> None:
    made = world(time=1 << 63)
    with pytest.raises(FormatError, match="no calendar"):
        anchored(made.data, made.trust)


# -- headers -----------------------------------------------------------------------------------------------------


def test_fields_that_later_versions_append_to_a_header_do_not_disturb() -> None:
    import rlp

    made = world()
    fields = rlp.decode(bytes.fromhex(made.proof.header[2:]))
    longer = rlp.encode([*fields, b"", b"", bytes(32), bytes(32), b"new"])
    assert unpack_header(longer).number == 7


def test_a_node_that_describes_another_header_than_it_hashes_is_refused() -> None:
    with pytest.raises(FormatError, match="no field 'parentHash'"):
        pack_header({})
    block = {
        "parentHash": hexed(bytes(32)),
        "sha3Uncles": hexed(bytes(32)),
        "miner": hexed(bytes(20)),
        "stateRoot": hexed(bytes(32)),
        "transactionsRoot": hexed(bytes(32)),
        "receiptsRoot": hexed(bytes(32)),
        "logsBloom": hexed(bytes(256)),
        "extraData": "0x",
        "mixHash": hexed(bytes(32)),
        "nonce": hexed(bytes(8)),
        **dict.fromkeys(("difficulty", "number", "gasLimit", "gasUsed", "timestamp"), "0x0"),
    }
    with pytest.raises(FormatError, match="does not have the hash"):
        pack_header(block | {"hash": hexed(bytes(32))})
    with pytest.raises(FormatError, match="not hexadecimal"):
        pack_header(block | {"number": "0xzz"})


# -- what is loaded ----------------------------------------------------------------------------------------------


def test_checking_loads_neither_web3_nor_numpy(tmp_path: Path) -> None:
    code = (
        "import sys; from phloem.ledger.anchors.proof import anchored, Trust; heavy = "
        "('web3', 'numpy', 'torch', 'requests', 'trie', 'rfc3161_client');"
        "print([name for name in heavy if name in sys.modules]);"
        "anchored(open(sys.argv[1], 'rb').read(), Trust(bytes.fromhex(sys.argv[2])));"
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(GOLDEN / "evm.json"), GOLDEN_HASH.hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['trie']"]
