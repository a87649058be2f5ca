"""The format is these bytes. Only tools/write_golden.py writes them, never a test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phloem
from phloem import kernels
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.tensors import Layout
from phloem.wire import frame as frames
from phloem.wire.messages import Item, Order, Reply, Status

GOLDEN = Path(__file__).resolve().parent / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/*/frame.bin"))
MESSAGES = sorted((GOLDEN / "messages").glob("*.json"))
UPDATE = GOLDEN / "messages" / "update.bin"
WRITE = "write it with tools/write_golden.py and look at it"


ON_KERNELS_OF_THEIR_OWN = ("chain", "ecsq", "eden", "hadamard", "linear")
ON_KERNELS = [  # every kernel there is, where kernels make a difference
    pytest.param(case, kernel, id=f"{case.relative_to(GOLDEN).as_posix()}-{kernel}")
    for case in CASES
    for kernel in (kernels.available() if case.parent.name in ON_KERNELS_OF_THEIR_OWN else ("auto",))
]


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    kernels.use(request.param)
    yield
    kernels.use("auto")


def name_of(path: Path) -> str:
    return path.relative_to(GOLDEN).as_posix()


@pytest.mark.parametrize("codec", sorted(BY_NAME))
def test_every_codec_has_golden_frames(codec: str) -> None:
    inputs = {case.name.rpartition("-")[2] for case in CASES if case.parent.name == codec}
    assert {"matrix", "conv", "spikes", "zeros", "scalar", "empty", "extremes"} <= inputs, WRITE


def test_no_golden_file_is_without_a_codec() -> None:
    folders = {path.name for path in GOLDEN.iterdir() if path.is_dir()}
    assert folders == {*BY_NAME, "messages", "files", "ledger"}
    assert {path.name for case in CASES for path in case.iterdir()} == {
        "config.json", "input.npy", "frame.bin", "decoded.npy",
    }  # fmt: skip


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("case", "kernel"), ON_KERNELS, indirect=["kernel"])
def test_a_golden_input_encodes_to_exactly_its_frame(case: Path) -> None:
    config: dict[str, Any] = json.loads((case / "config.json").read_text("utf-8"))
    array = np.load(case / "input.npy", allow_pickle=False)
    layout = Layout.of({"x": array})
    frame = frames.pack(codec_from(config), layout.arrays({"x": array}), layout)
    assert frame.hex() == (case / "frame.bin").read_bytes().hex()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("case", "kernel"), ON_KERNELS, indirect=["kernel"])
def test_a_golden_frame_decodes_to_exactly_its_values(case: Path) -> None:
    wanted = np.load(case / "decoded.npy", allow_pickle=False)
    layout = Layout.of({"x": wanted})
    decoded = phloem.decode((case / "frame.bin").read_bytes(), layout)["x"]
    assert decoded.shape == wanted.shape
    assert decoded.tobytes() == wanted.tobytes()


def described(fields: dict[str, Any]) -> Order | Reply:
    def raw(key: str) -> bytes | None:
        return None if fields[key] is None else bytes.fromhex(fields[key])

    if fields["kind"] == "order":
        return Order(
            round=fields["round"],
            train=fields["train"],
            chain=raw("chain") or b"",
            state=raw("state"),
            start=fields["start"],
            items=tuple(
                Item(bytes.fromhex(bitmap), bytes.fromhex(frame)) for bitmap, frame in fields["items"]
            ),
            key_chain=raw("key_chain"),
            choice=raw("choice") or b"",
            attachment=raw("attachment") or b"",
        )
    return Reply(
        round=fields["round"],
        site=fields["site"],
        status=Status[fields["status"]],
        chain=raw("chain") or b"",
        state=raw("state"),
        examples=fields["examples"],
        frame=raw("frame") or b"",
        reason=fields["reason"],
        attachment=raw("attachment") or b"",
    )


def test_there_are_golden_messages_of_every_kind() -> None:
    kinds = {
        (fields["kind"], fields.get("status")) for fields in map(_json, MESSAGES) if isinstance(fields, dict)
    }
    assert kinds == {("order", None), ("reply", "UPDATE"), ("reply", "REFUSED"), ("reply", "SILENT")}, WRITE


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("path", [p for p in MESSAGES if p.name != "update.layout.json"], ids=name_of)
def test_a_golden_message_packs_and_unpacks_to_exactly_its_fields(path: Path) -> None:
    message = described(_json(path))
    data = path.with_suffix(".bin").read_bytes()
    assert message.pack().hex() == data.hex()
    assert type(message).unpack(data) == message


def test_the_golden_update_is_these_bytes_by_hand() -> None:
    layout = Layout.from_json((GOLDEN / "messages" / "update.layout.json").read_bytes())
    assert layout.to_json().decode() == '[["b/ü",[2]],["empty",[0,2]],["s",[]],["w",[2,3]]]'
    values = np.array([1.0, -2.5, 3.0, -3, -2, -1, 0, 1, 2], "<f4").tobytes()
    assert UPDATE.read_bytes()[:-4] == b"\xb1\x00" + values
    decoded = phloem.decode(UPDATE.read_bytes(), layout)
    assert decoded["b/ü"].tolist() == [1.0, -2.5]
    assert decoded["s"].shape == ()
    assert decoded["w"].tolist() == [[-3.0, -2.0, -1.0], [0.0, 1.0, 2.0]]
