"""Content-addressed blobs and references that move by compare-and-swap."""
