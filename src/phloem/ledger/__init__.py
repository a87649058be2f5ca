"""The ledger: a transparency log of a run's exchanges, kept in a file and exported as tiles."""
