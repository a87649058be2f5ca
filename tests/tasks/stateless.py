from __future__ import annotations

from typing import Any

from tests.tiny import Blobs


class Stateless(Blobs):
    """A task whose first state is none."""

    def initial_state(self, seed: int) -> Any:
        return None
