"""Every codec on one update: how many bits, how much is lost, how fast."""

from phloem.bench.table import Row, bench_codecs, lines
from phloem.bench.updates import cut, sample_update

__all__ = ["Row", "bench_codecs", "cut", "lines", "sample_update"]
