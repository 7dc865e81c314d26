"""The one interface between the estimators and whatever is unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BrokenTaskError",
    "NonFiniteLossError",
    "RowNotResetError",
    "State",
    "UnrollResult",
    "UnrolledTask",
    "state_array",
    "state_part",
]

State = dict[str, NDArray[Any]]
"""Everything that resuming needs, as named arrays of plain dtypes (never objects)."""


def state_array(state: Mapping[str, NDArray[Any]], name: str, like: NDArray[Any]) -> NDArray[Any]:
    """Return the array `name` of a saved state.

    Args:
        state: what was saved.
        name: of the array.
        like: an array of the dtype and shape that it must have; if of integers, none may be
            negative, and no number may be NaN or infinite.

    Raises:
        ValueError: if it is not so.
    """
    value = np.asarray(state[name])
    if (value.dtype, value.shape) != (like.dtype, like.shape):
        raise ValueError(
            f"{name!r} of a saved state: {value.dtype} of shape {value.shape}, where {like.dtype} "
            f"of shape {like.shape} belongs"
        )
    if not np.isfinite(value).all() or (value.dtype.kind == "i" and (value < 0).any()):
        raise ValueError(f"{name!r} of a saved state: has NaN, infinite or impossible entries")
    return value


def state_part(state: Mapping[str, NDArray[Any]], prefix: str) -> State:
    """Return what the names in `state` that begin with `prefix` stand for, by their rest."""
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


class UnrollResult(NamedTuple):
    """What `UnrolledTask.unroll` returns for B rows, in the order the rows were given.

    Attributes:
        loss_sum: (B,) float64, sum of the losses of the steps taken. A row whose loss turns
            non-finite stops at that step and reports the non-finite sum.
        steps_taken: (B,) int64, steps really executed; fewer than asked where the row ended.
        ended: (B,) bool, the system itself ended (termination), not the horizon.
    """

    loss_sum: NDArray[np.float64]
    steps_taken: NDArray[np.int64]
    ended: NDArray[np.bool_]


@runtime_checkable
class UnrolledTask(Protocol):
    """Many independent copies ("rows") of one unrolled computation graph, each at its own step.

    Rows 2i and 2i+1 are the plus and the minus row of pair i; an estimator may allocate further
    rows behind them. The horizon, resets, noise and pairing belong to the estimator: a task
    never resets a row by itself, and never ends one because of `horizon`.

    Attributes:
        num_params: d, length of a row's parameter vector.
        horizon: T, steps of an episode; None if it never ends by itself.
    """

    num_params: int
    horizon: int | None

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows. Rows must be reset before they are unrolled."""

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,). The same seed gives the same start and randomness.

        `seeds` is (B,) uint64.
        """

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by at most `n_steps` (B,) under its own `thetas` (B, d)."""

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Make the rows `target` (B,) exact copies of the rows `source` (B,)."""

    def get_state(self) -> State:
        """Return everything that resuming needs."""

    def set_state(self, state: State) -> None:
        """Go back to exactly the state that `get_state` returned."""


class BrokenTaskError(RuntimeError):
    """A task did not do what `UnrolledTask` promises, or its restored state is no state of it."""


class RowNotResetError(BrokenTaskError, ValueError):
    """A row that was never reset is unrolled or copied; a state of a run has no such row."""


class NonFiniteLossError(FloatingPointError):
    """A row's loss became NaN or infinite, or its simulation diverged.

    Attributes:
        what: what became of which loss, without the advice for a training that follows it.
    """

    def __init__(self, task: str, pair: int, sign: str, step: int, loss: float) -> None:
        self.what = (
            f"{task}: the loss of pair {pair} ({sign} row) became {loss} at step {step} of its "
            "episode"
        )
        super().__init__(
            f"{self.what}; lower --sigma or --learning-rate, or bound the actions with "
            "--clip-actions"
        )
        self.task, self.pair, self.sign, self.step, self.loss = task, pair, sign, step, loss

    def __reduce__(self) -> tuple[type[NonFiniteLossError], tuple[object, ...]]:
        # it may have to come from another process
        return type(self), (self.task, self.pair, self.sign, self.step, self.loss)
