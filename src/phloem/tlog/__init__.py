"""Transparency logs: Merkle trees, signed notes, checkpoints, tiles, receipts, policies, the witness protocol.

Formats are those of C2SP (c2sp.org), hashes those of RFC 6962. Nothing here reads a file, opens a connection or knows
what an entry means; NumPy and torch are not imported.
"""
