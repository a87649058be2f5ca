from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem import varint
from phloem.errors import ConfigError, FormatError
from phloem.tensors import DTYPES, TensorSpec
from phloem.testing.strategies import names, shapes, tampered
from phloem.wire import contents as module
from phloem.wire.contents import PRESET, Contents, Head, pack_table, unpack_table


def contents_of(shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> Contents:
    return Contents(tuple(TensorSpec(name, shape, dtype) for name, shape in sorted(shapes.items())))


def gpt(layers: int, width: int = 128) -> Contents:
    """The state of a GPT-2 of so many layers, under the names that its users know."""
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (256, width),
        "lm_head.weight": (256, width),
    }
    for layer in range(layers):
        block = f"transformer.h.{layer}."
        for part, rows, columns in (
            ("attn.c_attn", 3 * width, width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            found |= {f"{block}{part}.weight": (rows, columns), f"{block}{part}.bias": (rows,)}
        for norm in ("ln_1", "ln_2"):
            found |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
    return contents_of(found)


@st.composite
def any_contents(draw: st.DrawFn) -> Contents:
    numbered = st.builds("{}{}.{}".format, names, st.integers(0, 12), names)
    found = draw(st.lists(names | numbered, min_size=1, max_size=20, unique=True))
    specs = tuple(TensorSpec(name, draw(shapes), draw(st.sampled_from(DTYPES))) for name in sorted(found))
    return Contents(specs, draw(st.dictionaries(names, names, max_size=2)))


@given(any_contents(), st.booleans(), st.booleans(), st.none() | st.just("5a" * 32))
def test_a_head_comes_back(contents: Contents, error: bool, parts: bool, base: str | None) -> None:
    head = Head(contents, base, error, parts)
    assert Head.unpack(head.pack()) == head


@given(any_contents().flatmap(lambda contents: tampered(Head(contents, "5a" * 32).pack())))
def test_an_altered_head_is_refused_or_another_head(data: bytes) -> None:
    try:
        head = Head.unpack(data)
    except FormatError:
        return
    assert Head.unpack(head.pack()) == head


@given(any_contents())
def test_every_truncation_of_a_head_is_refused(contents: Contents) -> None:
    data = Head(contents, "5a" * 32).pack()
    for size in range(len(data)):
        with pytest.raises(FormatError):
            Head.unpack(data[:size])
    with pytest.raises(FormatError):
        Head.unpack(data + b"\0")


def test_a_gpt_of_fifty_tensors_takes_some_hundred_bytes() -> None:
    """Fifty tensors were promised in about 400 bytes; more layers of the same cost next to nothing."""
    assert len(gpt(4).specs) == 50
    assert len(Head(gpt(4)).pack()) < 125
    assert len(Head(gpt(48)).pack()) < 300


def test_the_table_of_a_small_gpt_by_hand() -> None:
    """What `docs/format.md` says, byte by byte."""
    shown = contents_of({"h.0.a": (2, 300), "h.0.b": (2,), "h.1.a": (2, 300), "h.1.b": (), "h.10.a": (0,)})
    assert pack_table(shown) == (
        b"\x05"  # five tensors
        b"h.0.a\xfeh.0.b\xfe"  # two names
        b"\xfd\x02\x02\x00\x01"  # two more: those two places before, their number 0 is now 1
        b"h.10.a\xfe"
        b"\x02\x02\xac\x02" b"\x01\x02" b"\x02\x02\xac\x02" b"\x00" b"\x01\x00"
    )  # fmt: skip
    assert unpack_table(pack_table(shown)) == shown
    typed = Contents((TensorSpec("n", (), "int64"),), {"format": "pt"})
    assert pack_table(typed) == b"\x01n\xfe\x00" + b"\x0e\x01" + b'{"format":"pt"}'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"", "inside a number"),
        (b"\x00", "1 to 65536 tensors, found 0"),
        (varint.pack(65_537), "found 65537"),
        (b"\x01w", "inside a tensor's name"),
        (b"\x01\xff\xfe\x00", "not UTF-8"),
        (b"\x02b\xfea\xfe\x00\x00", "sorted by name"),
        (b"\x02a\xfea\xfe\x00\x00", "sorted by name"),
        (b"\x02a0\xfe\xfd\x02\x01\x00\x05\x00\x00", "more than there are"),
        (b"\x02a0\xfe\xfd\x01\x02\x00\x05\x00\x00", "more than there are"),
        (b"\x02a0\xfe\xfd\x00\x01\x00\x05\x00\x00", "more than there are"),
        (b"\x02a0\xfe\xfd\x01\x01\x01\x05\x00\x00", "a number that is not there"),
        (b"\x01w\xfe", "the shape of 'w'"),
        (b"\x01w\xfe\x11" + b"\x01" * 17, "the shape of 'w'"),
        (b"\x01w\xfe\x01" + varint.pack(1 << 48), "more than any memory holds"),
        (b"\x01w\xfe\x02" + varint.pack(1 << 47) + b"\x02", "more than any memory holds"),
        (b"\x01w\xfe\x00\x63\x01", "the dtypes"),
        (b"\x01w\xfe\x00\x00\x02", "the dtypes"),
        (b"\x01w\xfe\x00\x00\x00", "the dtypes"),
        (b"\x01w\xfe\x00\x00\x01[]", "a table of texts"),
        (b'\x01w\xfe\x00\x00\x01{"a":1}', "a table of texts"),
        (b'\x01w\xfe\x00\x00\x01{ "a":"b"}', "canonical JSON"),
    ],
)
def test_a_table_that_is_none_is_refused(table: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        unpack_table(table)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=PRESET)
    return b"\0" + packer.compress(data) + packer.flush()


def test_a_table_that_inflates_without_end_is_refused() -> None:
    with pytest.raises(FormatError, match="larger than 4 MiB"):
        Head.unpack(deflated(bytes(64 << 20)))
    with pytest.raises(FormatError, match="followed by other bytes"):
        Head.unpack(deflated(b"\x01w\xfe\x00") + b"\0")


def test_names_that_repeat_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_TABLE_BYTES", 10_000)
    table = varint.pack(60_000) + b"w" * 300 + b"0\xfe\xfd" + varint.pack(59_999) + b"\x01\x00\x01"
    with pytest.raises(FormatError, match="names take more than"):
        unpack_table(table)


def test_a_frame_carries_65536_tensors_and_a_table_of_4_mib_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (module.LARGEST_TABLE_BYTES, module.MOST_TENSORS) == (4 << 20, 65_536)
    monkeypatch.setattr(module, "LARGEST_TABLE_BYTES", 4096)  # smaller ones, for speed
    monkeypatch.setattr(module, "MOST_TENSORS", 64)
    most = contents_of({f"{i:05}": (0,) for i in range(64)})
    assert Head.unpack(Head(most).pack()).contents == most
    for more in ({f"{i:05}": () for i in range(65)}, {"w" * 4096: ()}):
        with pytest.raises(ConfigError, match="a frame carries at most"):
            Head(contents_of(more)).pack()


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        Head(contents_of({"\ud800": ()})).pack()
