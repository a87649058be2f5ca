"""A bundle: entries with all that it takes to verify them; and whatever somebody made of it, refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger import golden
from tests.ledger.samples import (
    ANT,
    ANT_NEXT,
    BEE,
    COORDINATOR,
    FRAME_BYTES,
    FRAME_SALT,
    LOG,
    POLICY,
    RUN,
    SALT,
    SOFTWARE,
    TIME,
    Entries,
    bundle,
    entry,
    let_in,
    small_log,
    statement,
)

from phloem.errors import FormatError
from phloem.ledger.bundle import Bundle, needed, verify_bundle
from phloem.ledger.entry import Entry, Seen
from phloem.ledger.record import Claim, member_statement
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer
from phloem.tlog.note import Note
from phloem.tlog.policy import Group, Policy

WITNESS = Signer.from_seed("w.example", COSIGNATURE, bytes([80]) * 32)


def refused(data: bytes) -> str:
    with pytest.raises(FormatError) as said:
        Bundle.unpack(data)
    assert said.value.message.isprintable()
    return said.value.message


def findings(of: Bundle, policy: Policy = POLICY, **pinned: Signer) -> list[str]:
    """What is wrong with it, and of which entry."""
    _, found = verify_bundle(of, policy, {name: str(key.verifier) for name, key in pinned.items()})
    return [f"{row.name} {row.entry}" for row in found.rows if row.name != "note"]


def verdict(of: Bundle, policy: Policy = POLICY, **pinned: Signer) -> str:
    return str(verify_bundle(of, policy, {n: str(k.verifier) for n, k in pinned.items()})[1].verdict)


# -- its form ------------------------------------------------------------------------------------------------------


def test_the_golden_bundle_is_these_files_to_any_zip_reader() -> None:
    data = golden.read("bundle.flproof")
    assert bundle().pack() == data
    assert Bundle.unpack(data) == bundle()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        files = {row.filename: archive.read(row) for row in archive.infolist()}
    log = small_log()
    assert files.pop("README.txt").startswith(b"A proof about the exchanges of a training run.")
    assert files == {
        "policy.txt": POLICY.pack(),
        **{f"entries/{n}.json": log.entries[n] for n in range(3)},
        **{f"receipts/{n}.tlog-proof": log.receipt(n).pack() for n in range(3)},
        "payload/2": FRAME_BYTES,
        "salt/2": FRAME_SALT,
    }


@given(
    st.builds(
        Bundle,
        st.binary(max_size=40),
        *[st.dictionaries(st.integers(0, 10**16 - 1), st.binary(max_size=40), max_size=3)] * 6,
        st.dictionaries(
            st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), st.binary(max_size=40), max_size=3
        ),
    )
)  # fmt: skip
def test_every_bundle_comes_back_and_has_one_form(found: Bundle) -> None:
    data = found.pack()
    assert Bundle.unpack(data) == found
    assert Bundle.unpack(data).pack() == data


def test_an_empty_bundle_is_one() -> None:
    assert Bundle.unpack(Bundle().pack()) == Bundle()
    assert findings(Bundle()) == ["missing-entry None"]


def test_cut_short_at_every_length_it_is_refused() -> None:
    data = golden.read("bundle.flproof")
    for size in range(len(data)):
        refused(data[:size])


def test_with_any_byte_changed_it_is_refused_or_does_not_hold() -> None:
    """What the zip's checksums and the one form do not catch, signatures and proofs do."""
    data = golden.read("bundle.flproof")
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x01 if place % 2 else 0x80
        refused(bytes(changed))


@pytest.mark.slow
def test_with_any_byte_of_a_file_changed_it_does_not_hold() -> None:
    """As if it had been packed again, so that nothing about the zip is wrong."""
    whole = bundle()
    for part in ("entries", "receipts", "payloads", "salts"):
        for index, content in getattr(whole, part).items():
            for place in range(len(content)):
                changed = bytearray(content)
                changed[place] ^= 0x01
                other = replace(whole, **{part: {**getattr(whole, part), index: bytes(changed)}})
                assert verdict(other) == "invalid", (part, index, place)


def test_a_bundle_that_is_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phloem.ledger.bundle.LARGEST_BUNDLE", 1000)
    assert "is larger than 1000" in refused(b"x" * 1001)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06", b"\0" * 100, b"x" * 5000])
def test_what_is_no_zip_is_no_bundle(data: bytes) -> None:
    assert "no whole zip file" in refused(data)


# -- hostile archives ----------------------------------------------------------------------------------------------


def archive(*rows: tuple[str, bytes], method: int = zipfile.ZIP_STORED, **more: object) -> bytes:
    """A zip file with these files, all else as a bundle has it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as found:
        for name, content in rows:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, method
            for key, value in more.items():
                setattr(info, key, value)
            found.writestr(info, content)
    return out.getvalue()


def good_rows() -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(golden.read("bundle.flproof"))) as found:
        return [(row.filename, found.read(row)) for row in found.infolist()]


def test_the_archives_of_these_tests_are_as_a_bundle_is() -> None:
    assert archive(*good_rows()) == golden.read("bundle.flproof")


@pytest.mark.parametrize(
    "name",
    [
        "../policy.txt", "/policy.txt", "/etc/passwd", "a/../../b", "..", ".", "entries/../1.json", "entries/1.json/",
        "entries\\1.json", "C:\\x", "policy.txt/", "entries/01.json", "entries/-1.json", "entries/1.JSON",
        "entries/1.json.", "entries//1.json", "./policy.txt", "POLICY.txt", "payload/", "payload/1/2", "salt/x",
        "entries/\u0661.json", "entries/99999999999999999.json", "checkpoints/x.txt", "anchors/..", "anchors/.hidden",
        "anchors/a/b", "anchors/" + "x" * 101, "anchors/", "anchors/a\nb", "more.txt", "policy.txt ",
        "\u202epolicy.txt", "entries/1.json\n", " ",
    ],
)  # fmt: skip
def test_a_file_with_another_name_is_refused(name: str) -> None:
    assert "has no file" in refused(archive((name, b"x")))
    assert "has no file" in refused(archive(*good_rows(), (name, b"x")))


def test_a_name_with_a_null_hides_nothing() -> None:
    data = archive(("policy.txt", b"x"), ("README.txt", b"y")).replace(b"README.txt", b"policy.t\0t")
    refused(data)


def test_the_same_file_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive(*good_rows(), ("entries/2.json", b"another"))
    assert "or one twice" in refused(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_compressed_is_refused_before_it_is_read(method: int) -> None:
    bomb = archive(("payload/0", b"\0" * (1 << 24)), method=method)
    assert len(bomb) < 1 << 17
    assert "is compressed" in refused(bomb)


def test_a_bomb_of_files_that_lie_over_each_other_is_refused() -> None:
    """A kernel of stored bytes that a thousand entries of the directory point to."""
    kernel = b"\0" * 10_000
    one = archive(("payload/0", kernel))
    local, central = one.index(b"PK\x03\x04"), one.index(b"PK\x01\x02")
    row = one[central : one.index(b"PK\x05\x06")]
    rows = b"".join(row.replace(b"payload/0", b"payload/%d" % n)[: len(row)] for n in range(1, 10))
    body = one[local:central]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(rows), len(body), 0)
    assert "larger than the bundle" in refused(body + rows + end)
    two = row.replace(b"payload/0", b"payload/1")
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(row), len(body), 0)
    refused(body + b"\0" * 20_000 + row + two + end)


def test_a_directory_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    row = archive(("payload/0", b""))
    central = row[row.index(b"PK\x01\x02") : row.index(b"PK\x05\x06")]
    count = 120_000
    rows = central * count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(rows), 0, 0)
    assert "too many files" in refused(rows + end)


def hidden() -> dict[str, Callable[[bytes], bytes]]:
    """Places of a zip file where something can be hidden."""

    def between(data: bytes) -> bytes:
        """Bytes between two files, with every offset after them put right."""
        place = data.index(b"PK\x03\x04", 4)
        return shifted(data, place, b"hidden")

    def before(data: bytes) -> bytes:
        return b"hidden" + data

    def before_the_directory(data: bytes) -> bytes:
        return shifted(data, data.index(b"PK\x01\x02"), b"hidden")

    def after(data: bytes) -> bytes:
        return data + b"hidden"

    def comment(data: bytes) -> bytes:
        return data[:-2] + struct.pack("<H", 6) + b"hidden"

    def file_comment(data: bytes) -> bytes:
        return archive(*good_rows(), comment=b"hidden")

    def extra_field(data: bytes) -> bytes:
        return archive(*good_rows(), extra=struct.pack("<HH", 0xCAFE, 6) + b"hidden")

    def date(data: bytes) -> bytes:
        return archive(*good_rows(), date_time=(1999, 12, 31, 0, 0, 0))

    def mode(data: bytes) -> bytes:
        return archive(*good_rows(), external_attr=0o120777 << 16)

    def system(data: bytes) -> bytes:
        return archive(*good_rows(), create_system=0)

    def order(data: bytes) -> bytes:
        return archive(*good_rows()[::-1])

    def readme(data: bytes) -> bytes:
        return archive(*[(n, b"hidden" if n == "README.txt" else c) for n, c in good_rows()])

    def no_readme(data: bytes) -> bytes:
        return archive(*[row for row in good_rows() if row[0] != "README.txt"])

    def utf8_flag(data: bytes) -> bytes:
        return data.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x08", 1)

    def encrypted(data: bytes) -> bytes:
        return data.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01", 1).replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01", 1
        )

    def other_local_name(data: bytes) -> bytes:
        return data.replace(b"README.txt", b"REEDME.txt", 1)

    def version(data: bytes) -> bytes:
        return data.replace(b"PK\x03\x04\x14", b"PK\x03\x04\x2d", 1)

    def second_archive(data: bytes) -> bytes:
        return archive(("payload/9", b"x")) + data

    def text_flag(data: bytes) -> bytes:
        return archive(*good_rows(), internal_attr=1)

    found = [
        between, before, before_the_directory, after, comment, file_comment, extra_field, date, mode, system, order,
        readme, no_readme, utf8_flag, encrypted, other_local_name, version, second_archive, text_flag,
    ]  # fmt: skip
    return {one.__name__.replace("_", " "): one for one in found}


def shifted(data: bytes, place: int, more: bytes) -> bytes:
    """The archive with more bytes at a place, and all offsets right."""
    out = bytearray(data[:place] + more + data[place:])
    end = out.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<L", out, end + 16)[0] + len(more)
    struct.pack_into("<L", out, end + 16, start)
    position = start
    while out[position : position + 4] == b"PK\x01\x02":
        offset = struct.unpack_from("<L", out, position + 42)[0]
        if offset >= place:
            struct.pack_into("<L", out, position + 42, offset + len(more))
        lengths = struct.unpack_from("<3H", out, position + 28)
        position += 46 + sum(lengths)
    return bytes(out)


@pytest.mark.parametrize("where", sorted(hidden()))
def test_nothing_is_hidden_in_a_bundle(where: str) -> None:
    data = golden.read("bundle.flproof")
    changed = hidden()[where](data)
    assert changed != data
    refused(changed)


def test_the_offsets_of_a_shifted_archive_are_right_to_a_zip_reader() -> None:
    """So that `between` and its like test the bundle's own strictness, not the zip reader's."""
    for where in ("between", "before the directory"):
        with zipfile.ZipFile(io.BytesIO(hidden()[where](golden.read("bundle.flproof")))) as found:
            assert found.testzip() is None
    assert "something is hidden" in refused(hidden()["between"](golden.read("bundle.flproof")))


@given(st.binary(max_size=60), st.integers(0, 6100), st.integers(0, 60))
def test_no_patch_of_a_bundle_does_anything_but_be_refused(patch: bytes, place: int, cut: int) -> None:
    data = golden.read("bundle.flproof")
    changed = data[:place] + patch + data[place + cut :]
    if changed != data:
        refused(changed)


def test_checksums_that_are_right_again_do_not_help() -> None:
    """Somebody changes an entry and the zip's own checksum of it."""
    data, log = golden.read("bundle.flproof"), small_log()
    other = log.entries[2].replace(b'"sig":"', b'"sig":"A', 1).replace(b'=="}', b'="}', 1)
    assert len(other) == len(log.entries[2])
    crc = struct.pack("<L", zlib.crc32(log.entries[2]))
    changed = data.replace(log.entries[2], other).replace(crc, struct.pack("<L", zlib.crc32(other)))
    assert verdict(Bundle.unpack(changed)) == "invalid"


# -- what it proves ------------------------------------------------------------------------------------------------


def test_a_bundle_holds_under_the_verifier_s_own_policy(capsys: pytest.CaptureFixture[str]) -> None:
    shown, found = verify_bundle(bundle(), POLICY, {})
    assert [(one.index, one.opened) for one in shown] == [(0, False), (1, False), (2, True)]
    assert shown[2].entry == entry("update", seq=1, prev=Seen())
    assert [row.name for row in found.rows] == ["note"]
    assert str(found.verdict) == "valid"
    assert capsys.readouterr().out == ""


def test_the_policy_in_the_bundle_decides_nothing() -> None:
    stranger = Signer.from_seed(LOG.name, NOTE, bytes([50]) * 32)
    for own in (Policy((stranger.verifier,)), Policy(()), Policy((BEE.verifier,))):
        assert findings(bundle(), own) == [f"rewritten-history {n}" for n in range(3)]
    mine = replace(bundle(), policy=Policy((stranger.verifier,)).pack())
    assert findings(mine) == []


def test_a_log_that_somebody_made_up_does_not_hold() -> None:
    stranger = Signer.from_seed(LOG.name, NOTE, bytes([50]) * 32)
    log = small_log()
    made_up = bundle(log)
    for index in range(3):
        receipt = replace(log.receipt(index), note=log.note(stranger))
        made_up.receipts[index] = receipt.pack()
    assert verdict(made_up) == "invalid"


def test_too_few_witnesses_are_no_proof_and_no_lie() -> None:
    asks = Policy((LOG.verifier,), {"w": WITNESS.verifier}, {"quorum": Group(1, ("w",))}, "quorum")
    assert findings(bundle(), asks) == [f"no-quorum {n}" for n in range(3)]
    assert verdict(bundle(), asks) == "cannot decide"
    signed = bundle()
    for index in range(3):
        receipt = small_log().receipt(index)
        note = Note.unpack(receipt.note).signed([WITNESS], lambda: TIME).pack()
        signed.receipts[index] = replace(receipt, note=note).pack()
    assert findings(signed, asks) == []


def test_a_log_s_name_does_not_soften_the_verdict() -> None:
    """Whatever stands in what a forger wrote, a checkpoint of no known log is a lie."""
    forger = Signer.from_seed("lacks-the-quorum", NOTE, bytes([51]) * 32)
    for origin in ("lacks the quorum", "the checkpoint of 3 entries lacks the quorum"):
        log = small_log()
        made_up = bundle(log)
        for index in range(3):
            note = log.note(forger).replace(b"lacks-the-quorum\n", f"{origin}\n".encode(), 1)
            made_up.receipts[index] = replace(log.receipt(index), note=note).pack()
        assert verdict(made_up) == "invalid"


def test_an_entry_without_its_receipt_or_with_another_s_does_not_hold() -> None:
    whole = bundle()
    for index in range(3):
        less = replace(whole, receipts={n: r for n, r in whole.receipts.items() if n != index})
        assert f"rewritten-history {index}" in findings(less)
        other = replace(whole, receipts={**whole.receipts, index: whole.receipts[(index + 1) % 3]})
        assert f"rewritten-history {index}" in findings(other)
        moved = replace(whole, entries={**whole.entries, index: whole.entries[(index + 1) % 3]})
        assert f"rewritten-history {index}" in findings(moved)
        broken = replace(whole, receipts={**whole.receipts, index: b"nonsense"})
        assert f"rewritten-history {index}" in findings(broken)


def test_what_is_in_the_log_and_signed_by_nobody_does_not_hold() -> None:
    log = Entries([*small_log().entries, b"noise", statement("update", seq=2).signed(BEE).pack()])
    found = bundle(log)
    assert findings(found) == ["forged-sender 3", "forged-sender 4"]
    log = Entries([entry("update").pack()])
    alone = replace(bundle(log), payloads={}, salts={})
    assert findings(alone) == ["forged-sender 0"]


def test_a_bundle_without_the_entries_that_name_its_members_does_not_hold() -> None:
    whole = bundle()
    for missing, wrong in ((0, [1, 2]), (1, [2])):
        less = replace(
            whole,
            entries={n: e for n, e in whole.entries.items() if n != missing},
            receipts={n: r for n, r in whole.receipts.items() if n != missing},
        )
        assert findings(less) == [f"forged-sender {n}" for n in wrong]


def test_the_verifier_s_own_keys_of_members_count() -> None:
    assert findings(bundle(), ant=ANT, coordinator=COORDINATOR) == []
    assert "forged-sender 1" in findings(bundle(), ant=ANT_NEXT)
    assert "forged-sender 0" in findings(bundle(), coordinator=BEE)
    assert findings(bundle(), cat=BEE) == []


def rotated_log() -> Entries:
    """The site changes its key, and sends an update with the new one."""
    claim = Claim.made(RUN, 2, TIME, Seen(), SOFTWARE, ANT_NEXT, ANT)
    more = [claim.entry(RUN, "ant", ANT.verifier), statement("update", seq=3).signed(ANT_NEXT)]
    return Entries([*small_log().entries, *(one.pack() for one in more)])


def test_who_knows_one_key_of_a_member_knows_those_that_it_was_changed_from_and_to() -> None:
    for known in (ANT, ANT_NEXT):
        assert findings(bundle(rotated_log()), ant=known) == []
    stranger = Signer.from_seed("ant", NOTE, bytes([70]) * 32)
    assert findings(bundle(rotated_log()), ant=stranger) == [f"forged-sender {n}" for n in (1, 2, 3, 4)]


def test_after_a_change_or_an_exclusion_the_old_key_counts_no_more() -> None:
    log = rotated_log()
    log.put(statement("update", seq=4).signed(ANT).pack())
    assert findings(bundle(log)) == ["forged-sender 5"]
    put_out = member_statement(RUN, "coordinator", 9, TIME, Seen(), ANT.verifier, "revoke")
    log = Entries(
        [
            *small_log().entries,
            put_out.signed(COORDINATOR).pack(),
            statement("update", seq=2).signed(ANT).pack(),
        ]
    )
    assert findings(bundle(log)) == ["forged-sender 4"]


def test_a_payload_that_is_another_or_opened_with_another_salt_is_swapped() -> None:
    whole = bundle()
    for changes in (
        {"payloads": {2: FRAME_BYTES + b"!"}},
        {"payloads": {2: b""}},
        {"salts": {2: bytes(32)}},
        {"salts": {2: b""}},
        {"salts": {2: SALT}},  # the record's own, from which the frame's is made
        {"salts": {2: FRAME_SALT + b"\0"}},
        {"payloads": {0: FRAME_BYTES}, "salts": {0: SALT}},  # an entry that commits to nothing
    ):
        assert [row.split()[0] for row in findings(replace(whole, **changes))] == ["swapped-payload"]
    shown, _ = verify_bundle(replace(whole, payloads={}, salts={}), POLICY, {})
    assert not any(one.opened for one in shown)
    assert findings(replace(whole, payloads={}, salts={})) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"payloads": {2: FRAME_BYTES, 9: b"x"}},
        {"salts": {2: FRAME_SALT, 9: SALT}},
        {"payloads": {2: FRAME_BYTES}, "salts": {}},
        {"payloads": {}, "salts": {2: FRAME_SALT}},
    ],
)
def test_a_payload_that_belongs_to_nothing_is_not_passed_over(changes: dict[str, dict[int, bytes]]) -> None:
    assert "swapped-payload" in " ".join(findings(replace(bundle(), **changes)))


def test_a_receipt_of_nothing_and_a_false_checkpoint_are_not_passed_over() -> None:
    log = small_log()
    extra = replace(bundle(log), receipts={**bundle(log).receipts, 7: log.receipt(0).pack()})
    assert verdict(extra) == "invalid"
    good = replace(bundle(log), checkpoints={3: log.note()})
    assert findings(good) == []
    stranger = Signer.from_seed(LOG.name, NOTE, bytes([50]) * 32)
    fork = Entries([b"another", *log.entries[1:]])
    for note in (log.note(stranger), b"nonsense", fork.note()):
        assert verdict(replace(bundle(log), checkpoints={3: note})) == "invalid"
    assert verdict(replace(bundle(log), checkpoints={4: log.note()})) == "invalid"


def test_the_entries_that_a_bundle_needs_are_those_that_name_its_members() -> None:
    rows = [
        entry("genesis", seq=0),
        let_in(ANT),
        entry("update", seq=1),
        let_in(BEE),
        entry("received"),
        entry("eval"),
    ]
    numbered: list[tuple[int, Entry]] = list(enumerate(rows))
    assert needed(iter(numbered), [2]) == [0, 1, 2]
    assert needed(numbered, [4]) == [0, 1, 3, 4]
    assert needed(numbered, [2, 5]) == [0, 1, 2, 3, 5]
    assert needed(numbered, [0]) == [0]
    other = replace(statement("genesis", seq=0), run="another").signed(COORDINATOR)
    assert needed([(6, other), *numbered], [2]) == [0, 1, 2]
    assert needed(numbered, []) == []
