"""Private keys in files that nobody else may read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from phloem.errors import ConfigError, FormatError, NotFoundError, StoreError
from phloem.store.files import write_durably
from phloem.tlog.keys import NOTE, Signer


def write_key(path: Path, signer: Signer) -> None:
    """Puts a key in a new file that only its owner may read.

    Raises:
        ConfigError: something is there already. StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(path, f"{signer.export()}\n".encode())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def _write_new(path: Path, content: bytes) -> None:
    try:
        write_durably(path, content, 0o600, new=True)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already", hint="a key is never overwritten: choose another name"
        ) from error


def read_key(path: Path) -> Signer:
    """The key in a file.

    Raises:
        NotFoundError: there is none. ConfigError: others may read it. FormatError: it is no key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096).decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no key at {path}", hint="`phloem key new` makes one") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"others than its owner may read the key {path}", hint=f"chmod 600 {path}")
    try:
        return Signer.parse(text.strip())
    except FormatError as error:
        raise FormatError(f"{path}: {error.message}", hint=error.hint) from error


def key_at(path: Path, name: str, type_: int = NOTE) -> Signer:
    """The key of `name` at `path`, which is made if there is none.

    Raises:
        ConfigError: the key there is another's.
    """
    if not path.exists():
        with contextlib.suppress(ConfigError):  # somebody else made it just now
            write_key(path, Signer.new(name, type_))
    signer = read_key(path)
    if signer.name != name or signer.type != type_:
        raise ConfigError(f"the key at {path} is '{signer.name}', not '{name}'")
    return signer
