#pragma version 0.4.3
#pragma evm-version shanghai
#pragma optimize gas

# The newest checkpoint of one log, which never goes back: only the owner anchors, never fewer entries than before,
# and never another root for the same number of them. Everybody can read it, and prove what it was at a block.

OWNER: public(immutable(address))
ORIGIN_HASH: public(immutable(bytes32))  # SHA-256 of the log's origin
CHAIN: public(immutable(uint256))

size: public(uint256)  # slot 1: how many entries (slot 0 is kept free by the compiler)
root: public(bytes32)  # slot 2: the root of their tree


@deploy
def __init__(origin_hash: bytes32):
    OWNER = msg.sender
    ORIGIN_HASH = origin_hash
    CHAIN = chain.id


@external
def anchor(size: uint256, root: bytes32):
    assert msg.sender == OWNER, "not the owner"
    stored: uint256 = self.size
    assert size >= stored, "fewer entries than anchored"
    if size == stored:
        assert root == self.root, "another root of this size"
    else:
        self.size = size
        self.root = root
