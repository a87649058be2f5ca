"""Who may sign what: the members of a run, as its entries let them in, change their keys and put them out.

A signature counts by the members of that moment: the fold over all entries so far.
"""

from __future__ import annotations

from hashlib import sha256

from phloem.errors import FormatError, ProofError
from phloem.ledger.entry import Entry, Statement
from phloem.ledger.kinds import ADD, COORDINATOR, REVOKE, ROTATE
from phloem.tlog.keys import NOTE, VerifierKey

# Keys for which anybody can make signatures (the points of small order, libsodium's list): their owner could deny all.
_WEAK = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


class Members:
    """The members of one run so far."""

    def __init__(self, genesis: Entry) -> None:
        """The run's first entry names its coordinator.

        Raises:
            ProofError: the coordinator did not sign it.
        """
        said = genesis.statement
        self.coordinator = said.sender
        key = _key(str(said["key"]), said.sender)
        genesis.check_signed_by(key)
        if said["name"] != said.sender:
            raise ProofError(f"the run is begun by '{said.sender}' in the name of '{said['name']}'")
        self._keys: dict[str, VerifierKey] = {said.sender: key}
        self.former: dict[VerifierKey, str] = {}  # keys that no longer count, and why
        self._heirs: dict[str, list[str]] = {said.sender: [str(key)]}
        self._public = {key.public: said.sender}

    def key_of(self, name: str) -> VerifierKey | None:
        """The member's key of now; None if there is no such member."""
        return self._keys.get(name)

    def keys_of(self, name: str) -> list[str]:
        """The keys that a member has had since it was let in last, each signed for by the one before.

        Those that it changes to later are added to this list.
        """
        return self._heirs.get(name, [])

    def remarks(self, said: Statement) -> list[str]:
        """What is worth knowing about a member's entry that was checked, and is not taken in yet."""
        name, found = str(said["name"]), []
        owner = self._public.get(_key(str(said["key"]), name).public, name)
        if owner != name:
            found.append(f"'{name}' and '{owner}' have the same key: what one signs, the other can")
        if said["action"] == REVOKE:
            found.append(f"'{name}' was put out by '{said.sender}'")
        elif said["action"] == ADD and name in self._heirs:
            found.append(f"'{name}' was let in again with another key, which its old one did not sign for")
        return found

    @property
    def names(self) -> list[str]:
        """Everybody who is a member now."""
        return sorted(self._keys)

    def check(self, entry: Entry) -> Statement:
        """What the entry says, if the sender is a member and signed it with its key of now.

        Raises:
            ProofError: it is not so.
        """
        said = entry.statement
        key = self._keys.get(said.sender)
        if said.kind == "member" and said["action"] == ADD:
            self._check_let_in(entry, said)
        elif key is None:
            raise ProofError(f"'{said.sender}' is no member")
        else:
            self._check_signature(entry, key)
            if said.kind == "member":
                self._check_change(entry, said)
        return said

    def take(self, said: Statement) -> None:
        """Takes in what a checked entry says of members."""
        if said.kind != "member":
            return
        name, action = str(said["name"]), said["action"]
        if action in (ROTATE, REVOKE) and (old := self._keys.pop(name, None)) is not None:
            self.former[old] = "was changed" if action == ROTATE else "was put out"
        if action in (ADD, ROTATE):
            key = self._keys[name] = _key(str(said["key"]), name)
            self._public.setdefault(key.public, name)
            if action == ADD:
                self._heirs[name] = []
            self._heirs[name].append(str(key))

    def _check_signature(self, entry: Entry, key: VerifierKey) -> None:
        try:
            entry.check_signed_by(key)
        except ProofError:
            for old, why in self.former.items():
                if old.name == key.name and _is_signed_by(entry, old):
                    raise ProofError(
                        f"'{key.name}' signed with the key {old.id.hex()} after it {why}"
                    ) from None
            raise

    def _check_let_in(self, entry: Entry, said: Statement) -> None:
        name = str(said["name"])
        key = _fresh(said, name)
        if said.sender != name or name in self._keys:
            raise ProofError(f"'{name}' cannot be let in by '{said.sender}', or is a member already")
        if key in self.former:
            raise ProofError(f"'{name}' was let in again with a key that {self.former[key]}")
        self._check_own(key, said)
        entry.check_signed_by(key)
        if self.coordinator not in self._keys:
            raise ProofError(f"'{name}' was let in after the coordinator was put out")
        entry.check_signed_by(self._keys[self.coordinator])

    def _check_own(self, key: VerifierKey, said: Statement) -> None:
        """Nothing, if no site has the coordinator's key, and the role is its own."""
        owner = self._public.get(key.public, key.name)
        if owner != key.name and self.coordinator in (owner, key.name):
            raise ProofError(f"the key of '{key.name}' is one that '{owner}' has or had")
        if (said["role"] == COORDINATOR) != (key.name == self.coordinator):
            raise ProofError(f"'{key.name}' is let in as a {said['role']}, which it is not")

    def _check_change(self, entry: Entry, said: Statement) -> None:
        name = str(said["name"])
        if name not in self._keys:
            raise ProofError(f"'{name}' is no member")
        if said["action"] == ROTATE:
            key = _fresh(said, name)
            if said.sender != name or key in self.former:
                raise ProofError(
                    f"the key of '{name}' cannot be changed by '{said.sender}', or to an old one"
                )
            self._check_own(key, said)
            entry.check_signed_by(key)
        elif said.sender not in (name, self.coordinator):
            raise ProofError(f"'{said.sender}' may not put '{name}' out")
        elif str(said["key"]) != str(self._keys[name]):
            raise ProofError(f"what is put out is not the key of '{name}'")


def _key(text: str, name: str) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except FormatError as error:
        raise ProofError(f"'{name:.80}' has no key that can be read: {error.message}") from error
    if key.name != name or key.type != NOTE:
        raise ProofError(f"the key of '{name:.80}' is another's, or of another type")
    if key.public[:31] + bytes([key.public[31] & 0x7F]) in _WEAK:
        raise ProofError(f"the key of '{name:.80}' is one for which anybody can sign")
    return key


def _fresh(said: Statement, name: str) -> VerifierKey:
    key = _key(str(said["key"]), name)
    if sha256(key.public).hexdigest() != said["fingerprint"]:
        raise ProofError(f"the key of '{name}' has another fingerprint")
    return key


def _is_signed_by(entry: Entry, key: VerifierKey) -> bool:
    try:
        entry.check_signed_by(key)
    except ProofError:
        return False
    return True
