"""The small files beside the weights that make a model's directory loadable: configuration, tokenizer, licence.

Taken is what is on a list, by name: no code, no pickles, nothing in subdirectories. A model whose configuration names
code of its own (`auto_map`) therefore needs that code from where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from phloem.errors import ConfigError
from phloem.files.adapters import BASE, CONFIG, extra_name, owner_of
from phloem.files.folders import file_in, names_in, read_at_most

LARGEST_BYTES, MOST_BYTES = 32 << 20, 64 << 20  # of one file (some tokenizers take 31 MiB), and of all
_TEXT = r"\.(json|jinja|txt|md)"
_TAKEN = re.compile(
    r"([A-Za-z0-9]+_)*config\.json"  # of the model, its generation, tokenizer, processors, quantisation
    rf"|tokenizer[A-Za-z0-9_-]*{_TEXT}|tokenizer\.model(\.v[0-9a-z]{{1,8}})?|tekken\.json"
    rf"|vocab[A-Za-z0-9_-]*{_TEXT}|[A-Za-z0-9_-]+_vocab\.json|merges\.txt|bpe\.codes|dict\.txt"
    r"|(special_tokens_map|added_tokens|normalizer|modelcard)\.json"
    r"|(spiece|sentencepiece|sentencepiece\.bpe|spm|spm_char)\.model|(source|target)\.spm|[A-Za-z0-9_-]+\.tiktoken"
    rf"|chat_template[A-Za-z0-9_-]*{_TEXT}"
    r"|(README|LICENSE|LICENCE|NOTICE|USE_POLICY)(\.(md|txt))?"
)


def may_be_taken(name: str) -> bool:
    """Whether a file of this name belongs to a model; an adapter's is named as its tensors are.

    >>> [may_be_taken(name) for name in ("config.json", "adapter:french/adapter_config.json", "modeling.py")]
    [True, True, False]
    """
    owner, own = owner_of(name)
    return _TAKEN.fullmatch(own) is not None and (own == CONFIG) <= (owner != BASE)


def companions(path: str | Path, adapters: Mapping[str, str | Path] | None = None) -> dict[str, bytes]:
    """The small files of a model's directory by name, and "adapter:NAME/…" those of its adapters' directories.

    Empty for a model in a single file. Files that are not on the list, such as code (`.py`) and pickles, are passed
    over without a word.

    Raises:
        ConfigError: one is larger than 32 MiB, all are larger than 64 MiB, or one is a link that leads elsewhere.
    """
    folders = {BASE: Path(path)} | {name: Path(folder) for name, folder in (adapters or {}).items()}
    found: dict[str, bytes] = {}
    for owner, folder in folders.items():
        for own in names_in(folder) if folder.is_dir() else ():
            name = own if owner == BASE else extra_name(owner, own)
            place = file_in(folder, own) if may_be_taken(name) else None
            if place is None:
                continue
            data = read_at_most(place, LARGEST_BYTES)
            if data is None:
                raise ConfigError(
                    f"{place} has more than {LARGEST_BYTES >> 20} MiB, which no file beside weights needs"
                )
            found[name] = data
    check(found)
    return found


def check(files: Mapping[str, bytes]) -> None:
    """Refuses files that `companions` would not have taken, whoever they come from.

    Raises:
        ConfigError: a name is not on the list, or they are too large.
    """
    for name, data in files.items():
        if not may_be_taken(name) or len(data) > LARGEST_BYTES:
            raise ConfigError(f"'{name:.80}' is no small file that belongs to a model")
    total = sum(map(len, files.values()))
    if total > MOST_BYTES:
        raise ConfigError(
            f"the files beside the weights have {total} bytes, more than {MOST_BYTES >> 20} MiB in all"
        )
