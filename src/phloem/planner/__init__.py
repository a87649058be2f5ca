"""What a run may choose, what that costs here, and which of it to take: no network, no clock, no files of a run."""
