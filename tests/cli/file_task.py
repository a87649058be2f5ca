"""A task whose sites read a file: it may be missing."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import Blobs

from phloem.errors import ConfigError


class FromFile(Blobs):
    def __init__(self, sites: list[str], seed: int, path: str) -> None:
        super().__init__(sites, seed)
        self.path = Path(path)

    def shard(self, site: str) -> dict[str, object]:
        if not self.path.exists():
            raise ConfigError(f"there is no data file {self.path}", hint="name another one in [task]")
        return super().shard(site)
