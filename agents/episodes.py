"""Returns and lengths of the episodes that training itself plays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.normalization import RowNormalizers
from es_rl.tasks import State, UnrolledTask, UnrollResult

__all__ = ["FinishedEpisode", "RecordingTask"]

_PREFIX = "episodes/"


class FinishedEpisode(NamedTuple):
    """One episode of one row, from its reset to its end.

    Attributes:
        row: the row that played it.
        reward: undiscounted return, under that row's perturbed parameters.
        length: steps.
    """

    row: int
    reward: float
    length: int


class RecordingTask:
    """Passes everything through to a task, and keeps account of each row's episode.

    An episode is finished where the row ended, or at the horizon, whichever comes first. What it
    passes through is not changed in any bit.

    Args:
        task: the task.
        horizon: T, steps of an episode; None for the task's own.
        first_row: rows before this one are not recorded. TES perturbs copies of its states for a
            window at a time; those play no episodes of their own.
    """

    def __init__(self, task: UnrolledTask, horizon: int | None, first_row: int = 0) -> None:
        self.task = task
        self.name = str(getattr(task, "name", type(task).__name__))
        self.num_params = task.num_params
        self.horizon = task.horizon if horizon is None else horizon
        self.n_threads: int | None = getattr(task, "n_threads", None)
        self.first_row = first_row
        self._rewards = np.zeros(0)
        self._lengths = np.zeros(0, np.int64)
        self._finished: list[FinishedEpisode] = []

    @property
    def normalizers(self) -> RowNormalizers | None:
        """What each row of the task sees observations through, where its policy normalises."""
        normalizers: RowNormalizers | None = getattr(self.task, "normalizers", None)
        return normalizers

    @property
    def n_recorded(self) -> int:
        """Number of rows that are recorded."""
        return max(0, self._lengths.size - self.first_row)

    def take_finished(self) -> list[FinishedEpisode]:
        """Return the episodes finished since the last call, rows counted from `first_row`."""
        finished, self._finished = self._finished, []
        return finished

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows, with empty accounts."""
        self.task.allocate(n_rows)
        self._rewards = np.zeros(n_rows)
        self._lengths = np.zeros(n_rows, np.int64)
        self._finished.clear()

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,) with `seeds` (B,)."""
        self.task.reset(rows, seeds)
        self._rewards[rows] = 0.0
        self._lengths[rows] = 0

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance `rows` (B,) by at most `n_steps` (B,) under `thetas` (B, d)."""
        result = self.task.unroll(rows, thetas, n_steps)
        self._rewards[rows] -= result.loss_sum
        self._lengths[rows] += result.steps_taken
        over = result.ended.copy()
        if self.horizon is not None:
            over |= self._lengths[rows] >= self.horizon
        for row in rows[over & (rows >= self.first_row)].tolist():
            self._finished.append(
                FinishedEpisode(
                    row - self.first_row, float(self._rewards[row]), int(self._lengths[row])
                )
            )
        return result

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Make the rows `target` (B,) exact copies of the rows `source` (B,)."""
        self.task.copy_rows(source, target)
        self._rewards[target] = self._rewards[source]
        self._lengths[target] = self._lengths[source]

    def get_state(self) -> State:
        """Return the task's state and the accounts of the running episodes."""
        return {
            **self.task.get_state(),
            f"{_PREFIX}rewards": self._rewards.copy(),
            f"{_PREFIX}lengths": self._lengths.copy(),
        }

    def set_state(self, state: State) -> None:
        """Go back to exactly the state that `get_state` returned."""
        self.task.set_state({n: v for n, v in state.items() if not n.startswith(_PREFIX)})
        self._rewards[:] = state[f"{_PREFIX}rewards"]
        self._lengths[:] = state[f"{_PREFIX}lengths"]
        self._finished.clear()
