"""What a run may choose, what that costs here, and which of it to take."""
