"""Who sends transactions: a private key in a file, or an account that the node itself holds."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phloem.errors import ConfigError, NotFoundError, StoreError
from phloem.ledger.anchors.contract import ADDRESS_BYTES

_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})\s*")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LARGEST_FILE = 1 << 10
_HOW = "(umask 077; openssl rand -hex 32 > FILE) makes one"


@dataclass(frozen=True)
class Sender:
    """An account by its address, with its private key where it is here; `repr` does not show it."""

    address: str
    _account: Any = field(default=None, repr=False)

    @classmethod
    def from_file(cls, path: Path) -> Sender:
        """The account whose private key, 64 hexadecimal digits, is in a file that nobody else can read.

        Raises:
            ConfigError: it is no such file. The message does not repeat what is in it.
            NotFoundError: there is none. StoreError: it cannot be read.
        """
        from eth_account import Account

        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(_LARGEST_FILE).decode("ascii", "replace")
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no key at {path}", hint=_HOW) from error
        except OSError as error:
            raise StoreError(f"the key at {path} cannot be read: {error.strerror}") from error
        if mode & _OTHERS:
            raise ConfigError(f"the key at {path} can be read by others", hint=f"chmod 600 {path}")
        found = _KEY.fullmatch(text)
        try:
            account = Account.from_key(bytes.fromhex(found[1])) if found else None
        except Exception:  # zero, or beyond the curve's order; the library's message would repeat it
            account = None
        if account is None:
            raise ConfigError(
                f"{path} is no private key: expected one line of 64 hexadecimal digits", hint=_HOW
            ) from None
        return cls(str(account.address), account)

    @classmethod
    def at_node(cls, address: str) -> Sender:
        """An account that the node signs for, as test chains do.

        Raises:
            ConfigError: it is no address.
        """
        from eth_utils import to_checksum_address

        return cls(str(to_checksum_address(address_of(address))))

    @property
    def signs(self) -> bool:
        """Whether the key is here."""
        return self._account is not None

    def signed(self, transaction: Any) -> bytes:
        """The transaction with the signature, as it is sent."""
        return bytes(self._account.sign_transaction(transaction).raw_transaction)


def address_of(text: str) -> bytes:
    """The address that a user wrote: 0x and 40 digits, in the checksummed spelling or all in small letters.

    >>> address_of("0x00000000000000000000000000000000000000ff").hex()[-2:]
    'ff'

    Raises:
        ConfigError: it is none, or its capitals do not fit its digits: a digit was mistyped.
    """
    from eth_utils import is_checksum_address

    if not _ADDRESS.fullmatch(text):
        raise ConfigError(f"expected an address of 0x and {2 * ADDRESS_BYTES} digits, found {text!r:.60}")
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address(text):
        raise ConfigError(f"the address {text} is mistyped: its capitals do not fit its digits (EIP-55)")
    return bytes.fromhex(digits)
