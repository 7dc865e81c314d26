"""The clock of the benchmarks that judge training as it goes."""

from __future__ import annotations

import time


class Stopwatch:
    """A clock that stands still during evaluation."""

    def __init__(self) -> None:
        self.elapsed, self._since = 0.0, time.perf_counter()

    def pause(self) -> None:
        """Stop counting."""
        self.elapsed += time.perf_counter() - self._since

    def go(self) -> None:
        """Count again."""
        self._since = time.perf_counter()
