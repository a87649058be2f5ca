"""The small files beside the weights: which are taken, and that no others are, whoever gives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.files.folders import adapter, sharded
from tests.files.models import network, write

from phloem.errors import ConfigError
from phloem.files import companions as home
from phloem.files.companions import check, companions, may_be_taken

TAKEN = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab-src.json",
    "target_vocab.json",
    "merges.txt",
    "spiece.model",
    "source.spm",
    "sentencepiece.bpe.model",
    "qwen.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
]
NOT_TAKEN = [
    "modeling_llama.py",
    "tokenization_qwen.py",
    "tokenizer.py",
    "config.py",
    "vocab.pkl",
    "vocab.bin",
    "tokenizer.pkl",
    "tokenizer.so",
    "pytorch_model.bin",
    "optimizer.pt",
    "training_args.bin",
    "scheduler.pt",
    "rng_state.pth",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "trainer_state.json",
    ".gitattributes",
    "flax_model.msgpack",
    "model.onnx",
    "config.json.py",
    "tokenizer.json.sh",
    "README.md~",
    ".config.json",
    "config.jsonl",
]


def test_what_makes_a_directory_loadable_is_taken_and_nothing_else(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", network(), 2)
    for name in (*TAKEN, *NOT_TAKEN):
        if not (folder / name).exists():
            (folder / name).write_text(name)
    (folder / "additional").mkdir()
    (folder / "additional" / "config.json").write_text("{}")
    assert companions(folder) == {name: name.encode() for name in sorted(TAKEN)}


def test_those_of_adapters_come_under_their_names(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", network(), 2)
    (folder / "config.json").write_text("{}")
    lora = adapter(tmp_path / "lora")
    (lora / "README.md").write_text("French")
    (lora / "train.py").write_text("import os")
    assert companions(folder, {"french": lora}) == {
        "config.json": b"{}",
        "adapter:french/README.md": b"French",
        "adapter:french/adapter_config.json": b'{"peft_type": "LORA", "r": 2}',
    }


def test_a_single_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert companions(write(tmp_path / "model.safetensors", network())) == {}


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model", network(), 2)
    (tmp_path / "private").write_text("secret")
    (folder / "config.json").symlink_to("../private")
    with pytest.raises(ConfigError, match=r"config\.json is a link that leads out of its directory"):
        companions(folder)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"config\.json is not a file that can be read"):
        companions(tmp_path)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "it" / "snapshots" / "0123", tmp_path / "it" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "77").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/77")
    assert companions(snapshot) == {"config.json": b"{}"}


def test_files_too_large_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(home.LARGEST_BYTES)
    assert len(companions(tmp_path)["tokenizer.json"]) == home.LARGEST_BYTES
    with (tmp_path / "tokenizer.json").open("r+b") as file:
        file.truncate(home.LARGEST_BYTES + 1)
    with pytest.raises(ConfigError, match=r"tokenizer\.json has more than 32 MiB"):
        companions(tmp_path)
    monkeypatch.setattr(home, "MOST_BYTES", 5)
    (tmp_path / "tokenizer.json").write_text("four")
    (tmp_path / "vocab.json").write_text("four")
    with pytest.raises(ConfigError, match="have 8 bytes, more than"):
        companions(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in NOT_TAKEN if name != "adapter_config.json"),
        *(
            "adapter_config.json",
            "../config.json",
            "/config.json",
            "a/config.json",
            "config.json\n",
            "",
            "\0",
        ),
        *(
            "adapter:french/../config.json",
            "adapter:french/x.py",
            "adapter:../config.json",
            "adapter:/config.json",
        ),
        *(
            "adapter:french/a/adapter_config.json",
            "adapter:a/adapter:b/adapter_config.json",
            "config\u212a.json",
        ),
    ],
    ids=ascii,
)
def test_what_is_not_on_the_list_is_not_written_either(name: str) -> None:
    assert not may_be_taken(name)
    with pytest.raises(ConfigError, match="is no small file that belongs to a model"):
        check({name: b""})
