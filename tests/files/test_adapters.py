"""LoRA adapters as extra tensors beside a base model: in, split, and out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.files.folders import FORMAT, adapter, all_in, lora, sharded
from tests.files.models import network, read, write

from phloem.errors import ConfigError, FormatError
from phloem.files import decode_file, encode_file
from phloem.files.adapters import BASE, extra_name, owner_of, split
from phloem.files.companions import companions
from phloem.files.models import open_model
from phloem.files.writing import write_model
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = sharded(tmp_path / "base", network(), 2)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Path]:
    return {"french": adapter(tmp_path / "f"), "polite.v2": adapter(tmp_path / "p", lora("polite", rank=3))}


def test_their_tensors_come_beside_those_of_the_base(base: Path, two: dict[str, Path]) -> None:
    with open_model(base) as alone, open_model(base, two) as model:
        assert model.contents.metadata == FORMAT | {extra_name(name, "format"): "pt" for name in two}
        names = [spec.name for spec in model.contents.specs]
        assert names == sorted(names)
        assert model.size_bytes == sum(model.read(spec).size for spec in model.contents.specs)
        for spec in model.contents.specs:
            owner, own = owner_of(spec.name)
            dtype, shape, data = (
                read(two[owner] / "adapter_model.safetensors")[own] if owner else ("", (), b"")
            )
            if owner:
                assert (spec.dtype, spec.shape, model.read(spec).tobytes()) == (dtype, shape, data)
            else:
                assert model.read(spec).tobytes() == alone.read(alone.spec(own)).tobytes()
            assert model.spec(spec.name) == spec
        assert len(names) == len(alone.contents.specs) + 2 * len(lora())


def test_a_state_of_base_and_adapters_is_split_again(base: Path, two: dict[str, Path]) -> None:
    with open_model(base) as alone, open_model(base, two) as model:
        parts = split(model.contents)
        assert list(parts) == [BASE, "french", "polite.v2"]
        assert parts[BASE] == alone.contents
        for name, folder in two.items():
            with open_model(folder / "adapter_model.safetensors") as own:
                assert parts[name] == own.contents


def test_a_directory_gets_them_back_byte_for_byte(base: Path, two: dict[str, Path], tmp_path: Path) -> None:
    (two["french"] / "README.md").write_text("bonjour")
    out = tmp_path / "out"
    with open_model(base, two) as model:
        made = write_model(model, out, companions=companions(base, two))
    assert made.files == (
        *("model.safetensors", "french/adapter_model.safetensors", "polite.v2/adapter_model.safetensors"),
    )
    for name, folder in two.items():
        assert all_in(out / name) == all_in(folder)
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert read(out / "model.safetensors") == read(write(tmp_path / "whole", network()))
    again = {name: out / name for name in two}
    with open_model(base, two) as model, open_model(out, again) as other:
        assert model.contents == other.contents
        assert all(model.read(spec).tobytes() == other.read(spec).tobytes() for spec in model.contents.specs)


def test_a_file_keeps_them_under_their_extra_names(base: Path, two: dict[str, Path], tmp_path: Path) -> None:
    with open_model(base, two) as model:
        contents = model.contents
        write_model(model, tmp_path / "all.safetensors", companions=companions(base, two))
    with open_model(tmp_path / "all.safetensors") as again:
        assert again.contents == contents
        write_model(again, tmp_path / "out", companions=companions(base, two))
    for name, folder in two.items():
        assert all_in(tmp_path / "out" / name) == all_in(folder)


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_they_can_be_left_out(base: Path, two: dict[str, Path], tmp_path: Path, out: str) -> None:
    with open_model(base, two) as model:
        write_model(model, tmp_path / out, adapters=False, companions=companions(base, two))
    with open_model(base) as alone, open_model(tmp_path / out) as model:
        assert model.contents == alone.contents
    assert (tmp_path / out).is_file() or set(all_in(tmp_path / out)) == {"config.json", "model.safetensors"}


def test_one_can_be_taken_out_alone(base: Path, two: dict[str, Path], tmp_path: Path) -> None:
    with open_model(base, two) as model:
        write_model(model, tmp_path / "out", only="^adapter:french/", companions=companions(base, two))
        with pytest.raises(ConfigError, match="all tensors are those of adapters"):
            write_model(model, tmp_path / "none", only="^adapter:french/", adapters=False)
    assert all_in(tmp_path / "out") == {
        f"french/{name}": data for name, data in all_in(two["french"]).items()
    }


def test_they_travel_in_a_frame_with_their_base(base: Path, two: dict[str, Path], tmp_path: Path) -> None:
    with open_model(base, two) as model:
        write_model(model, tmp_path / "all.safetensors")
    for options in ({"lossless": True}, {"bits": 4.0}):
        encode_file(tmp_path / "all.safetensors", tmp_path / "frame", **options)
        decode_file(tmp_path / "frame", tmp_path / "again.safetensors")
        with open_model(base, two) as model, open_model(tmp_path / "again.safetensors") as again:
            assert again.contents == model.contents, options


def test_an_adapter_of_a_name_that_the_base_has_is_refused(
    base: Path, two: dict[str, Path], tmp_path: Path
) -> None:
    with open_model(base, {"french": two["french"]}) as model:
        write_model(model, tmp_path / "all.safetensors")
    with pytest.raises(ConfigError, match="has tensors of an adapter 'french' already"):
        open_model(tmp_path / "all.safetensors", {"french": two["polite.v2"]})
    with open_model(tmp_path / "all.safetensors", {"other": two["polite.v2"]}) as model:
        assert list(split(model.contents)) == [BASE, "french", "other"]


@pytest.mark.parametrize(
    "name", ["", "..", ".", "a/b", "../x", "-x", ".hidden", "x" * 65, "a b", "ä", "a\n", "a:b", "\0"]
)
def test_names_that_are_no_directorys_are_refused(base: Path, two: dict[str, Path], name: str) -> None:
    with pytest.raises(ConfigError, match="an adapter's name has up to 64 letters"):
        open_model(base, {name: two["french"]})


@pytest.mark.parametrize(
    "name",
    [
        "adapter:",
        "adapter:x",
        "adapter:x/",
        "adapter:/w",
        "adapter:../w",
        "adapter:a/b"[:9],
        "Adapter:x/w",
        "xadapter:x/w",
    ],
)
def test_a_name_that_is_not_of_the_form_is_the_bases(name: str) -> None:
    assert owner_of(name) == (BASE, name)
    assert split(Contents((TensorSpec(name, (3,)),))) == {BASE: Contents((TensorSpec(name, (3,)),))}


def test_what_is_no_adapter_is_refused(base: Path, two: dict[str, Path], tmp_path: Path) -> None:
    folder = two["french"]
    (folder / "adapter_config.json").rename(tmp_path / "config")
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json, so it holds no adapter"):
        open_model(base, two)
    (folder / "adapter_config.json").symlink_to(tmp_path / "config")
    with pytest.raises(ConfigError, match="leads out of its directory"):
        open_model(base, two)
    for place in (folder / "adapter_model.safetensors", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="is no directory, so it holds no adapter"):
            open_model(base, {"it": place})
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors, so it holds no adapter"):
        open_model(base, {"it": base})


def test_a_damaged_adapter_is_refused(base: Path, two: dict[str, Path]) -> None:
    path = two["french"] / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="is not a whole safetensors file"):
        open_model(base, two)


def test_a_pickled_adapter_says_how_it_is_converted(base: Path, two: dict[str, Path]) -> None:
    (two["french"] / "adapter_model.safetensors").unlink()
    (two["french"] / "adapter_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"is a pickle.*convert it once: .*adapter_model\.safetensors"):
        open_model(base, two)


def test_without_its_configuration_an_adapter_is_not_written_to_a_directory(
    base: Path, two: dict[str, Path], tmp_path: Path
) -> None:
    with (
        open_model(base, two) as model,
        pytest.raises(ConfigError, match="comes without its adapter_config"),
    ):
        write_model(model, tmp_path / "out", companions=companions(base))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "CONFIG.json", "model.safetensors"])
def test_an_adapter_in_the_way_of_a_file_is_refused(
    base: Path, two: dict[str, Path], tmp_path: Path, name: str
) -> None:
    adapters = {name: two["french"]}
    with open_model(base, adapters) as model, pytest.raises(ConfigError, match="would be in the way"):
        write_model(model, tmp_path / "out", companions=companions(base, adapters))
    assert not (tmp_path / "out").exists()


def test_two_adapters_that_some_systems_take_for_one_are_refused(
    base: Path, two: dict[str, Path], tmp_path: Path
) -> None:
    adapters = {"french": two["french"], "French": two["polite.v2"]}
    with (
        open_model(base, adapters) as model,
        pytest.raises(ConfigError, match="'french' would be in the way"),
    ):
        write_model(model, tmp_path / "out", companions=companions(base, adapters))


def test_a_name_that_the_format_reserves_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"adapter:x/__metadata__": ("float32", np.ones(3, np.float32))})
    with open_model(path) as model, pytest.raises(ConfigError, match="a name that it reserves"):
        write_model(model, tmp_path / "out")


def test_adapters_are_cast_with_their_base(base: Path, two: dict[str, Path], tmp_path: Path) -> None:
    (two["french"] / "adapter_model.safetensors").unlink()
    lines: dict[str, Any] = {"lora_A": ("float32", np.array([1.0, 7e4], np.float32))}
    write(two["french"] / "adapter_model.safetensors", lines, FORMAT | {"digest": "ab"})
    with open_model(base, two) as model:
        made = write_model(model, tmp_path / "out", dtype="fp16", companions=companions(base, two))
    assert made.beyond == 1
    assert load_file(tmp_path / "out" / "french" / "adapter_model.safetensors")["lora_A"].tolist() == [
        1.0,
        65504.0,
    ]
    with open_model(tmp_path / "out" / "french" / "adapter_model.safetensors") as own:
        assert own.contents.metadata == FORMAT
