"""The codecs: an update in, bytes out, and back. Configuration without state."""
