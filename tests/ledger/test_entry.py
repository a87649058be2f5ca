"""Entries are DSSE envelopes around in-toto statements, exactly; and nothing else is an entry."""

from __future__ import annotations

import base64
import copy
import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger import golden
from tests.ledger.samples import (
    ANT,
    ANT_NEXT,
    BEE,
    COORDINATOR,
    FIELDS,
    FRAME_BYTES,
    LOG,
    NUMBERS,
    SALT,
    SIGNERS,
    TEXTS,
    check_words,
    countersigned,
    digest,
    entry,
    statement,
    statements,
)

from phloem import canonical
from phloem.errors import FormatError, ProofError
from phloem.ledger.entry import Entry, Seen, Statement, key_name, pack_all, signed_text
from phloem.ledger.kinds import KINDS
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.merkle import leaf_hash
from phloem.tlog.tiles import LARGEST_ENTRY

kinds = pytest.mark.parametrize("kind", sorted(KINDS))


def loaded(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A golden entry as JSON, and its statement as JSON."""
    envelope = json.loads(golden.read(f"entry.{kind}.json"))
    return envelope, json.loads(base64.b64decode(envelope["payload"]))


def written(value: Any) -> bytes:
    """Compact JSON with sorted keys, in which anything can be said."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def enveloped(payload: bytes, *signers: Signer) -> bytes:
    """An entry around any payload, well signed."""
    rows = [
        {
            "keyid": key_name(signer.verifier),
            "sig": base64.b64encode(signer.sign(signed_text(payload))).decode(),
        }
        for signer in signers or (ANT,)
    ]
    return written(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": rows,
        }
    )


def refused(data: bytes) -> str:
    """The one sentence by which an entry, or what it says, is refused."""
    with pytest.raises(FormatError) as said:
        Entry.unpack(data).statement  # noqa: B018
    message = said.value.message
    assert message
    assert message.isprintable(), message
    assert len(message) < 300
    return message


# -- the golden entries --------------------------------------------------------------------------------------------


def test_there_is_a_golden_file_of_every_form_and_no_other() -> None:
    wanted = golden.everything()
    assert {path.name for path in golden.FOLDER.iterdir()} == set(wanted), golden.WRITE
    assert set(FIELDS) == set(SIGNERS) == set(KINDS)


@pytest.mark.parametrize("name", sorted(golden.everything()))
def test_the_golden_files_are_these_bytes(name: str) -> None:
    assert golden.read(name).hex() == golden.everything()[name].hex()


@kinds
def test_a_golden_entry_is_read_written_and_signed_as_it_is(kind: str) -> None:
    data = golden.read(f"entry.{kind}.json")
    found = Entry.unpack(data)
    assert found.statement == statement(kind)
    assert found.pack() == data
    assert pack_all([found, found]) == [data, data]
    assert found.leaf == leaf_hash(data)
    for signer in SIGNERS[kind]:
        found.check_signed_by(signer.verifier)
    assert found.statement[next(iter(FIELDS[kind]))] == next(iter(FIELDS[kind].values()))


def by_hand(context: bytes, content: bytes) -> str:
    """A commitment of the golden update, from its record's random bytes."""
    salt = hmac.digest(SALT, context + b"/salt", "sha256")
    return hmac.digest(salt, context + b"/v1\0" + sha256(content).digest(), "sha256").hex()


def test_the_golden_update_is_these_words_by_hand() -> None:
    envelope, said = loaded("update")
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [row["keyid"] for row in envelope["signatures"]] == ["ant+43f838a2"]
    commits = [
        {"digest": {"hmacSha256": by_hand(b"frame", FRAME_BYTES)}, "name": "frame"},
        {"digest": {"hmacSha256": by_hand(b"weight", b"160")}, "name": "weight"},
    ]
    assert said == {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": {
            "base": {"chain": digest("chain 3"), "state": digest("state 3")},
            "bytes": 23,
            "codec": '{"bits":0.1,"codec":"ecsq"}',
            "from": "ant",
            "prev": {"root": digest("root 5"), "size": 5},
            "rawBytes": 4000,
            "round": 3,
            "run": "clinic-3f2a",
            "seq": 7,
            "time": 1767225600,
            "to": "coordinator",
        },
        "predicateType": "urn:phloem:ledger:update:1",
        "subject": commits,
    }


# -- other people's readers ----------------------------------------------------------------------------------------


@kinds
def test_securesystemslib_verifies_every_golden_entry_as_dsse(kind: str) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse")
    signing = pytest.importorskip("securesystemslib.signer")
    data = golden.read(f"entry.{kind}.json")
    envelope = dsse.Envelope.from_dict(json.loads(data))
    assert written(envelope.to_dict()) == data
    assert envelope.pae() == signed_text(Entry.unpack(data).payload)
    keys = [
        signing.SSlibKey(key_name(one.verifier), "ed25519", "ed25519", {"public": one.verifier.public.hex()})
        for one in SIGNERS[kind]
    ]
    assert len(envelope.verify(keys, len(keys))) == len(keys)
    other = signing.SSlibKey(keys[0].keyid, "ed25519", "ed25519", {"public": BEE.verifier.public.hex()})
    with pytest.raises(Exception, match="do not match threshold"):
        envelope.verify([other], 1)


def test_what_securesystemslib_signs_is_an_entry() -> None:
    dsse = pytest.importorskip("securesystemslib.dsse")
    signing = pytest.importorskip("securesystemslib.signer")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
    public = signing.SSlibKey(
        key_name(ANT.verifier), "ed25519", "ed25519", {"public": ANT.verifier.public.hex()}
    )
    payload = statement("update").pack()
    envelope = dsse.Envelope(payload, "application/vnd.in-toto+json", {})
    envelope.sign(signing.CryptoSigner(private, public))
    assert written(envelope.to_dict()) == golden.read("entry.update.json")


@kinds
def test_in_toto_takes_every_golden_statement(kind: str) -> None:
    json_format = pytest.importorskip("google.protobuf.json_format")
    wrapper = pytest.importorskip("in_toto_attestation.v1.statement")
    protobuf = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    payload = Entry.unpack(golden.read(f"entry.{kind}.json")).payload
    parsed = json_format.Parse(payload, protobuf.Statement())  # unknown fields are errors to it
    wrapper.Statement.copy_from_pb(parsed).validate()
    assert parsed.predicate_type == f"urn:phloem:ledger:{kind}:1"
    again = json.loads(json_format.MessageToJson(parsed))
    said = json.loads(payload)
    assert again == {**said, "subject": again["subject"]}
    assert [row["digest"] for row in again["subject"]] == [row["digest"] for row in said["subject"]]
    names = [row["name"] for row in said["subject"]]
    assert len(set(names)) == len(names)  # in-toto: unique within the subject


def test_the_signed_text_is_the_example_of_the_dsse_specification() -> None:
    # github.com/secure-systems-lab/dsse, protocol.md: PAE(type, body), with our type.
    assert signed_text(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert signed_text(b"") == b"DSSEv1 28 application/vnd.in-toto+json 0 "


# -- every statement -----------------------------------------------------------------------------------------------


@given(statements())
def test_every_statement_is_canonical_json_and_comes_back(said: Statement) -> None:
    payload = said.pack()
    assert canonical.loads(payload)  # that it is canonical, by the other implementation
    assert canonical.dumps(json.loads(payload)) == payload
    assert Statement.unpack(payload) == said
    signed = said.signed(ANT, COORDINATOR)
    data = signed.pack()
    assert canonical.dumps(json.loads(data)) == data
    again = Entry.unpack(data)
    assert (again, again.statement) == (signed, said)
    again.check_signed_by(ANT.verifier)
    again.check_signed_by(COORDINATOR.verifier)


@given(statements(), st.data())
def test_a_statement_with_one_byte_changed_is_another_or_none(said: Statement, data: st.DataObject) -> None:
    payload = bytearray(said.pack())
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    try:
        found = Statement.unpack(bytes(payload))
    except FormatError:
        return
    assert found != said
    assert found.pack() == payload


# -- what is no statement ------------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (
    None, True, False, -1, 1.0, 1.5, 1 << 53, 10**400, "", "a\nb", "a\x00b", "\x1b[2J",
    "\ud800", "\u202e", "x" * 401, [], {}, [1], ["b", "a"], ["a", "a"], [2, 1], [1, 1], [True], [None],
    {"chain": 1}, {"chain": "0" * 63}, {"chain": "A" * 64}, {"state": "0" * 64},
    {"chain": "0" * 64, "state": "0" * 64, "more": "0" * 64}, [{"site": "a"}],
    [{"site": "a", "reason": "b", "entry": True}], [{"site": "a", "reason": "b", "more": 1}],
    [{"site": "", "reason": "b"}], [[]], "0" * 64 + "\n", "g" * 64,
)  # fmt: skip
"""Values of which no field takes more than it says."""


def fits(kind: str, name: str, value: Any) -> bool:
    """Whether a field takes the value, by its description in words."""
    example = FIELDS[kind][name]
    if name in ("asked", "reached"):
        return value == []
    if name == "inputs":
        return value in ([], [1]) and [type(one) for one in value] in ([], [int])
    if name == "excluded":
        return value == []
    if type(example) is int:
        return False
    is_digest = name in KINDS[kind].in_subject or (isinstance(example, str) and len(example) == 64)
    free = isinstance(example, str) and not is_digest and name not in ("action", "role", "form")
    return free and value in ("g" * 64,)


@kinds
def test_every_field_is_of_its_form_when_it_is_written_and_when_it_is_read(kind: str) -> None:
    for name in FIELDS[kind]:
        for value in WRONG:
            if fits(kind, name, value):
                statement(kind, **{name: value}).pack()
                continue
            with pytest.raises(FormatError) as said:
                statement(kind, **{name: value}).pack()
            assert f"'{name}" in said.value.message
            assert said.value.message.isprintable()
            _, told = loaded(kind)
            row = next((r for r in KINDS[kind].subjects if r[2] == name), None)
            if row is None:
                told["predicate"][name] = value
            else:
                subject = next(one for one in told["subject"] if one["name"] == row[0])
                subject["digest"] = {row[1]: value}
            refused(enveloped(written(told)))


@kinds
def test_a_missing_field_and_an_unknown_one_are_refused(kind: str) -> None:
    for name in FIELDS[kind]:
        fields = {key: value for key, value in FIELDS[kind].items() if key != name}
        bare = Statement(kind, "run", "ant", 0, 0, Seen(), fields)
        if name in KINDS[kind].optional:
            assert Statement.unpack(bare.pack()) == bare
            continue
        with pytest.raises(FormatError, match=f"lacks '{name}'"):
            bare.pack()
    for place in (("predicate", "more"), ("predicate", "commits"), ("more",), ("predicate", "prev", "more")):
        _, told = loaded(kind)
        table = told
        for step in place[:-1]:
            table = table[step]
        table[place[-1]] = 1
        refused(enveloped(written(told)))
    _, told = loaded(kind)
    for key in tuple(told):
        refused(enveloped(written({k: v for k, v in told.items() if k != key})))
    for key in tuple(told["predicate"]):
        if key in KINDS[kind].optional:
            continue
        less = {k: v for k, v in told["predicate"].items() if k != key}
        refused(enveloped(written({**told, "predicate": less})))


@pytest.mark.parametrize("name", ["run", "from", "seq", "time", "size", "root"])
def test_what_every_statement_says_is_of_its_form(name: str) -> None:
    numbers = name in ("seq", "time", "size")
    for value in WRONG:
        _, told = loaded("update")
        table = told["predicate"]["prev"] if name in ("size", "root") else told["predicate"]
        if value == "g" * 64 and name in ("run", "from"):
            continue
        table[name] = value
        refused(enveloped(written(told)))
    for value in (-1, 1 << 53, True, 1.0, "1", None) if numbers else ():
        common: dict[str, Any] = {"seq": 0, "time": 0, "size": 0, name: value}
        prev = Seen(common.pop("size"))
        with pytest.raises(FormatError, match=f"'{name}' must be a whole number"):
            Statement("eval", "run", "ant", common["seq"], common["time"], prev, FIELDS["eval"]).pack()


@pytest.mark.parametrize("root", [b"", bytes(31), bytes(33)], ids=len)
def test_a_root_has_32_bytes_when_it_is_written_too(root: bytes) -> None:
    with pytest.raises(FormatError, match="root"):
        statement("update", prev=Seen(5, root)).pack()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"seq":7', '"seq":7.0'),
        ('"seq":7', '"seq":7e0'),
        ('"seq":7', '"seq":-0'),
        ('"seq":7', '"seq":07'),
        ('"seq":7', '"seq":true'),
        ('"seq":7', '"seq":"7"'),
        ('"seq":7', '"seq":null'),
        ('"seq":7', '"seq":NaN'),
        ('"seq":7', '"seq":Infinity'),
        ('"seq":7', '"seq":1e400'),
        ('"seq":7', '"seq":' + "9" * 17),
        ('"seq":7', '"seq":' + "9" * 5000),
        ('"seq":7', '"seq":6,"seq":7'),  # the same key twice
        ('"seq":7', '"seq":7,"seq":7'),
        ('"seq":7,"time":1767225600', '"time":1767225600,"seq":7'),  # in another order
        ('"seq":7', '"seq": 7'),
        ('"seq":7', '\n"seq":7'),
        ('"from":"ant"', '"from":"\\u0061nt"'),
        ('"from":"ant"', '"from":"a\\/nt"'),
        ('"from":"ant"', '"from":"\\ud800"'),
        ('"from":"ant"', '"from":"a\nnt"'),
        ('"from":"ant"', '"from":["ant"]'),
        (":update:1", ":update:2"),
        (":update:1", ":update:01"),
        (":update:1", ":update"),
        (":update:1", ":update:1:1"),
        (":update:1", ":unknown:1"),
        (":update:1", ":broadcast:1"),
        ("urn:phloem:", "URN:phloem:"),
        ("urn:phloem:ledger:", ""),
        ('"urn:phloem:ledger:update:1"', "1"),
        ("Statement/v1", "Statement/v0.1"),
        ("hmacSha256", "sha256"),
        ('"name":"frame"', '"name":"weight"'),
        ('"subject":[', '"subject":[[],'),
        ('"subject":[{', '"subject":[{"uri":"x",'),
        ('"subject":[', '"subject":["x",'),
    ],
)
def test_another_spelling_of_a_statement_is_refused(before: str, after: str) -> None:
    payload = Entry.unpack(golden.read("entry.update.json")).payload
    changed = payload.replace(before.encode(), after.encode("utf-8", "surrogatepass"), 1)
    assert changed != payload
    refused(enveloped(changed))


def test_subjects_that_are_no_list_of_theirs_are_refused() -> None:
    _, told = loaded("update")
    first, second = told["subject"]
    wrong: list[Any] = [
        [], [first], [second, first], [first, second, second], {"0": first}, "x", None, 1, [None, None],
        [{"digest": {}, "name": "frame"}, second], [{"digest": None, "name": "frame"}, second],
        [{**first, "digest": {**first["digest"], "sha256": "0" * 64}}, second],
    ]  # fmt: skip
    for subject in wrong:
        refused(enveloped(written({**told, "subject": subject})))
    for predicate in ([], [["from", "ant"]], "x", None, 1, {}):
        refused(enveloped(written({**told, "predicate": predicate})))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"x", b"null", b"[]", b"1", b'"x"', b"{}", b"{", b"\xff", b"[" * 30_000, b"\xef\xbb\xbf{}",
        b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        '{"_type":1}'.encode("utf-16"), b"1" * 40_000, b'"\xed\xa0\x80"', b'{"\\ud800":1}',
    ],
)  # fmt: skip
def test_what_is_no_json_table_is_no_statement_and_no_entry(payload: bytes) -> None:
    refused(payload)
    refused(enveloped(payload))
    with pytest.raises(FormatError):
        Statement.unpack(payload)


def test_a_hostile_field_does_not_speak_through_the_refusal() -> None:
    for name in ("\x1b[2Jvalid", "a\nvalid", "\ud800", "\u202e", "x" * 9000):
        _, told = loaded("update")
        told["predicate"][name] = 1
        refused(enveloped(written(told)))
        _, told = loaded("update")
        told["predicateType"] = f"urn:phloem:ledger:{name}:1"
        refused(enveloped(written(told)))
        with pytest.raises(FormatError) as said:
            statement("update", **{name: 1}).pack()
        assert said.value.message.isprintable()


def test_there_is_no_statement_of_an_unknown_kind() -> None:
    with pytest.raises(FormatError, match="no statement of kind 'gossip'"):
        Statement("gossip", "run", "ant", 0, 0, Seen(), {}).pack()


# -- what is no entry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["payload", "payloadType", "signatures", "more"])
def test_an_envelope_has_these_fields_and_no_other(change: str) -> None:
    envelope, _ = loaded("update")
    if change == "more":
        refused(written({**envelope, "more": 1}))
        return
    refused(written({key: value for key, value in envelope.items() if key != change}))
    for value in (None, True, 1, 1.5, [], {}, "", "x", [[]], [{}], ["x"], "\ud800"):
        refused(written({**envelope, change: value}))


@pytest.mark.parametrize("part", ["keyid", "sig"])
def test_a_signature_is_a_name_and_64_bytes(part: str) -> None:
    envelope, _ = loaded("update")
    base = envelope["signatures"][0]
    for value in (
        None, True, 1, 1.5, [], {}, "", "\ud800", "a\nb", "\x1b[2J", "x" * 1000, ["ant"], {"a": 1},
    ):  # fmt: skip
        refused(written({**envelope, "signatures": [{**base, part: value}]}))
    refused(written({**envelope, "signatures": [{**base, "more": 1}]}))
    refused(written({**envelope, "signatures": [{k: v for k, v in base.items() if k != part}]}))
    for size in (0, 1, 63, 65, 72, 1000):
        row = {**base, "sig": base64.b64encode(bytes(size)).decode()}
        refused(written({**envelope, "signatures": [row]}))


def test_base64_has_one_spelling() -> None:
    envelope, _ = loaded("update")
    payload, sig = envelope["payload"], envelope["signatures"][0]["sig"]
    assert sig.endswith("==")
    stray = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="  # the same bytes, with a bit after them
    assert base64.b64decode(stray) == base64.b64decode(sig)
    url = sig.replace("+", "-").replace("/", "_")
    for other in (stray, sig.rstrip("="), f"{sig}=", f" {sig}", f"{sig}\n", sig[:8] + "\n" + sig[8:], url):
        refused(written({**envelope, "signatures": [{**envelope["signatures"][0], "sig": other}]}))
    for other in (f"{payload}\n", payload[:76] + "\n" + payload[76:], payload.rstrip("=") + "=====", "é"):
        refused(written({**envelope, "payload": other}))


def test_an_envelope_has_one_spelling() -> None:
    data = golden.read("entry.update.json")
    envelope = json.loads(data)
    backwards = {key: envelope[key] for key in ("signatures", "payloadType", "payload")}
    for other in (
        data + b"\n",
        b" " + data,
        b"\xef\xbb\xbf" + data,
        data.replace(b",", b", ", 1),
        json.dumps(backwards, separators=(",", ":")).encode(),
        json.dumps(envelope, indent=1).encode(),
        data.replace(b'"payloadType"', b'"payloadType":"x","payloadType"', 1),
        data.replace(b'"payload":', b'"payload":"","payload":', 1),
        data.replace(b"application/", b"application\\/", 1),
        data.decode().encode("utf-16"),
        data.decode().encode("utf-32"),
        data.replace(b"in-toto+json", b"in-toto\\u002bjson"),
        data.replace(b"in-toto+json", b"in-toto+jsom"),
    ):
        refused(other)


def test_an_entry_has_one_to_four_signatures_of_different_keys() -> None:
    payload = statement("update").pack()
    keys = [ANT, BEE, COORDINATOR, ANT_NEXT, LOG]
    for count in (1, 2, 3, 4):
        assert len(Entry.unpack(enveloped(payload, *keys[:count])).signatures) == count
    assert "1 to 4 signatures" in refused(enveloped(payload, *keys))
    assert "of different keys" in refused(enveloped(payload, ANT, ANT))
    envelope, _ = loaded("update")
    assert "1 to 4 signatures" in refused(written({**envelope, "signatures": []}))


def test_an_entry_has_65_535_bytes_at_most() -> None:
    asked = sorted(f"site {n:06} {'x' * 300}" for n in range(200))
    for count in range(130, 160):
        said = statement("round-open", asked=asked[:count])
        data = enveloped(said.pack(), COORDINATOR)
        if len(data) <= LARGEST_ENTRY:
            assert Entry.unpack(data).pack() == data
            largest = len(data)
        else:
            assert "longer than 65535" in refused(data)
            with pytest.raises(FormatError, match="longer than 65535"):
                said.signed(COORDINATOR).pack()
    assert largest > 64_000
    for size in (65_536, 1 << 20):
        assert f"{size} bytes is longer than 65535" in refused(b'{"payload":"' + b"A" * (size - 14) + b'"}')


@given(st.data())
def test_no_bytes_make_anything_but_an_entry_or_a_refusal(data: st.DataObject) -> None:
    """Whatever JSON stands in whichever place."""
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["keyid", "sig", "a"]), inner, max_size=3)
        ),
        max_leaves=6,
    )
    envelope, told = loaded(data.draw(st.sampled_from(sorted(KINDS))))
    target = copy.deepcopy(data.draw(st.sampled_from([envelope, told])))
    inside = target is not None and "_type" in target
    place: Any = target
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(anything)
        break
    packed = enveloped(written(target)) if inside else written(target)
    try:
        found = Entry.unpack(packed)
        said = found.statement
    except FormatError as error:
        check_words(error)
        return
    assert found.pack() == packed
    assert said.pack() == found.payload


# -- who signed ----------------------------------------------------------------------------------------------------


def test_a_signature_counts_for_its_key_and_its_words_only() -> None:
    found = entry("update")
    found.check_signed_by(ANT.verifier)
    with pytest.raises(ProofError, match=r"not signed by 'bee\+"):
        found.check_signed_by(BEE.verifier)
    with pytest.raises(ProofError, match=r"not signed by 'ant\+6325390b'"):
        found.check_signed_by(ANT_NEXT.verifier)
    other = Entry(statement("update", round=4).pack(), found.signatures)
    with pytest.raises(ProofError, match=r"the signature of 'ant\+43f838a2' is not over this entry"):
        other.check_signed_by(ANT.verifier)
    renamed = Entry(found.payload, ((key_name(BEE.verifier), found.signatures[0][1]),))
    with pytest.raises(ProofError, match="not over this entry"):
        renamed.check_signed_by(BEE.verifier)
    both = countersigned(found, BEE)
    both.check_signed_by(ANT.verifier)
    both.check_signed_by(BEE.verifier)
    assert both.leaf != found.leaf


def test_a_signature_over_the_bare_payload_is_none() -> None:
    payload = statement("update").pack()
    bare = Entry(payload, ((key_name(ANT.verifier), ANT.sign(payload)),))
    with pytest.raises(ProofError):
        bare.check_signed_by(ANT.verifier)


@pytest.mark.parametrize("place", range(64))
def test_every_byte_of_a_signature_counts(place: int) -> None:
    ((name, signature),) = entry("update").signatures
    changed = bytearray(signature)
    changed[place] ^= 1
    with pytest.raises(ProofError):
        Entry(statement("update").pack(), ((name, bytes(changed)),)).check_signed_by(ANT.verifier)


@given(NUMBERS, TEXTS)
def test_the_name_of_a_key_is_its_owner_and_its_id(seed: int, text: str) -> None:
    name = "".join(letter for letter in text if letter != "+" and not letter.isspace()) or "a"
    key = Signer.from_seed(name, NOTE, seed.to_bytes(32, "big")).verifier
    assert key_name(key) == f"{name}+{key.id.hex()}"
    assert str(key).startswith(f"{key_name(key)}+")
