"""What carries bytes between a coordinator and its sites. Today: `local`, all sites on this machine."""
