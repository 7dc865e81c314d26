"""What the driver asks of whatever runs the workers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

__all__ = ["Answer", "Failure", "Loss", "Outcome", "Pool"]


class Answer(NamedTuple):
    """What a call returned."""

    value: Any


class Failure(NamedTuple):
    """What a call raised in a worker that is alive and well."""

    error: Exception


class Loss(NamedTuple):
    """Why a worker is no longer there; what it held is lost."""

    reason: str


Outcome = Answer | Failure | Loss


class Pool(Protocol):
    """Workers that each run a `ShareHolder`; a worker takes one call at a time."""

    def default_workers(self) -> int:
        """Return how many workers there is room for."""

    def start(self, worker: int) -> None:
        """Start a worker, after ending whatever is left of an earlier one of that number."""

    def submit(self, worker: int, method: str, *arguments: Any) -> None:
        """Let a worker call a method of its `ShareHolder`; does not wait."""

    def share(self, value: Any) -> Any:
        """Return what may stand for `value` among the arguments of many calls."""

    def wait(self, workers: Collection[int], timeout: float) -> dict[int, Outcome]:
        """Return the outcomes that are there, after waiting for one at most `timeout` seconds.

        Args:
            workers: those to wait for, each with a call under way.
            timeout: seconds.
        """

    def close(self) -> None:
        """End all workers; idempotent."""
