"""A chain of one's own: anvil, on a free port of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phloem.ledger.anchors.chain import Node
from phloem.ledger.anchors.senders import Sender

OWNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"  # the first two accounts of every anvil
OWNERS_KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
STRANGER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


class Anvil:
    """A running chain; as a context manager it ends, and writes its state where it has a place for that."""

    def __init__(self, state: Path | None = None, *options: str) -> None:
        program = shutil.which("anvil")
        assert program is not None
        words = [program, "--port", "0", *options]
        if state is not None:
            words += ["--state", str(state)]
        # npm's `anvil` is a script that starts the program: both are ended, as a group.
        self._process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.url = f"http://{self._listening()}"
        self._drained = threading.Thread(target=self._drain, daemon=True)
        self._drained.start()

    def _listening(self) -> str:
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if found := re.search(r"Listening on (127\.0\.0\.1:\d+)", line):
                return found[1]
        raise AssertionError("anvil did not start:\n" + "".join(said))

    def _drain(self) -> None:
        assert self._process.stdout is not None
        for _ in self._process.stdout:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(timeout=60)
        self._drained.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def node(self, block_seconds: float = 60) -> Node:
        return Node(self.url, block_seconds)

    def ask(self, method: str, *words: Any) -> Any:
        return self.node().ask(method, *words)

    def calls(self, contract: str, name: str, *words: Any, sender: str = OWNER) -> Any:
        """The receipt of a call of the contract that none of our own checks has seen."""
        from web3 import HTTPProvider, Web3

        from phloem.ledger.anchors.contract import interface

        web3 = Web3(HTTPProvider(self.url))
        made = web3.eth.contract(web3.to_checksum_address(contract), abi=interface())
        transaction = getattr(made.functions, name)(*words).transact({"from": sender, "gas": 200_000})
        return web3.eth.wait_for_transaction_receipt(transaction, 60, 0.01)

    def reason(self, contract: str, name: str, *words: Any, sender: str = OWNER) -> str:
        """Why the contract would refuse a call; nothing if it would not."""
        from web3 import HTTPProvider, Web3
        from web3.exceptions import ContractLogicError

        from phloem.ledger.anchors.contract import interface

        web3 = Web3(HTTPProvider(self.url))
        made = web3.eth.contract(web3.to_checksum_address(contract), abi=interface())
        try:
            getattr(made.functions, name)(*words).call({"from": sender})
        except ContractLogicError as error:
            return str(error.message)
        return ""


def owner() -> Sender:
    return Sender.at_node(OWNER)


def stranger() -> Sender:
    return Sender.at_node(STRANGER)
