"""Influence balancing: one parameter whose short-term and long-term effects have opposite signs.

The poster's synthetic task, after Tallec and Ollivier, "Unbiasing truncated backpropagation
through time" (2017). The loss is quadratic in the parameters of all steps, so that every gradient
and every estimator's variance has a closed form.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.baselines.protocol import JacobianStep
from es_rl.envs.row_arrays import RowArrays
from es_rl.perturbations import split_over_threads
from es_rl.tasks import UnrollResult

__all__ = ["InfluenceBalancingTask"]

_SIZE, _POSITIVE = 23, 10
_WORK = 16  # elements of memory traffic that take about as long as one step


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _unroll(start, stop, rows, thetas, n_steps, states, clocks, loss_sum, taken):  # type: ignore[no-untyped-def]
    for item in range(start, stop):
        s, theta = states[rows[item]], thetas[item, 0]
        total, count = 0.0, 0
        while count < n_steps[item] and math.isfinite(total):
            for i in range(_POSITIVE):
                s[i] = 0.5 * (s[i] + s[i + 1]) + theta
            for i in range(_POSITIVE, _SIZE - 1):
                s[i] = 0.5 * (s[i] + s[i + 1]) - theta
            s[_SIZE - 1] = 0.5 * s[_SIZE - 1] - theta
            total += 0.5 * (s[0] - 1.0) * (s[0] - 1.0)
            count += 1
        clocks[rows[item]] += count
        loss_sum[item], taken[item] = total, count


class InfluenceBalancingTask(RowArrays):
    """Rows of s ← A·s + θ·v with loss ½(s[0] - 1)² after each step; d = 1, 23 states.

    A has ½ on the diagonal and on the superdiagonal; v has ten +1, then thirteen -1. Every
    episode starts at s = 1. There is no randomness: seeds do nothing.

    Args:
        horizon: T, steps of an episode; None, the task's own, never ends.
        n_threads: threads that share the rows; None for all usable processors.

    Attributes:
        optimum: θ* = -1/6, for which the system comes to rest with s[0] = 1.
    """

    state_size = _SIZE
    optimum = -1.0 / 6.0

    def __init__(self, *, horizon: int | None = None, n_threads: int | None = None) -> None:
        super().__init__(
            "influence-balancing", 1, horizon, n_threads, {"state": ((_SIZE,), np.float64)}
        )
        self._matrix = 0.5 * (np.eye(_SIZE) + np.eye(_SIZE, k=1))
        self._input = np.repeat([1.0, -1.0], [_POSITIVE, _SIZE - _POSITIVE])

    def initial_theta(self) -> NDArray[np.float64]:
        """Return the poster's θ₀ = ½, (1,) float64."""
        return np.array([0.5])

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,)."""
        self._rows["state"][rows] = 1.0
        self._rows["step"][rows] = 0

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by `n_steps` (B,) under its own `thetas` (B, 1)."""
        self._steps_of(rows)
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        split_over_threads(
            _unroll, rows.size, int(n_steps.sum()) * _WORK, self.n_threads,
            rows, thetas, n_steps, self._rows["state"], self._rows["step"], loss_sum, taken,
        )  # fmt: skip
        return UnrollResult(loss_sum, taken, np.zeros(rows.size, np.bool_))

    def linearize(self, rows: NDArray[np.int64], thetas: NDArray[np.float64]) -> JacobianStep:
        """Take one step on `rows` (B,) under `thetas` (B, 1) and return it with its Jacobians."""
        loss = self.unroll(rows, thetas, np.ones(rows.size, np.int64)).loss_sum
        error = self._rows["state"][rows, 0] - 1.0
        b = rows.size
        return JacobianStep(
            loss,
            np.broadcast_to(self._matrix, (b, _SIZE, _SIZE)),
            np.broadcast_to(self._input[:, None], (b, _SIZE, 1)),
            error[:, None] * self._matrix[0],
            error[:, None] * self._input[:1],
        )

    def step_gradients(self, theta: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
        """Return the gradient of each loss to the parameters used at each step, in closed form.

        Args:
            theta: (1,) float64, the parameters used at every step.
            horizon: T.

        Returns:
            (T, T, 1) float64, [t - 1, i - 1] is g^t_i = ∂L_t/∂θ_i of the main paper's
            Assumption 2: (s_t[0] - 1)·(A^(t-i)·v)[0] for i ≤ t, else 0.
        """
        response, drift = np.empty(horizon), np.empty(horizon)
        by_input, by_start = self._input, np.ones(_SIZE)
        for t in range(horizon):
            response[t] = by_input[0]
            by_input, by_start = self._matrix @ by_input, self._matrix @ by_start
            drift[t] = by_start[0]
        error = drift + theta[0] * np.cumsum(response) - 1.0
        lag = np.arange(horizon)[:, None] - np.arange(horizon)
        gradients: NDArray[np.float64] = np.where(
            lag >= 0, error[:, None] * response[np.maximum(lag, 0)], 0.0
        )[:, :, None]
        return gradients
