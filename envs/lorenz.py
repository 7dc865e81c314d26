"""The Lorenz system: find its two parameters from the course of its third coordinate.

Main paper, section 5.1. Chaotic: the loss surface is rugged on every scale.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.baselines.protocol import JacobianStep
from es_rl.elementary import exp
from es_rl.envs.row_arrays import RowArrays, positive_number
from es_rl.perturbations import split_over_threads
from es_rl.tasks import UnrollResult

__all__ = ["LorenzTask"]

_START = (1.2, 1.3, 1.6)
_B = 8.0 / 3.0
_WORK = 16  # elements of memory traffic that take about as long as one step


@numba.njit(error_model="numpy", nogil=True)
def _positive(log_value):  # type: ignore[no-untyped-def]
    """Return e**log_value, infinite where a double cannot hold it."""
    if log_value > 700.0:
        return np.inf
    return exp(log_value) if log_value > -700.0 else 0.0


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _true_course(theta, dt, course):  # type: ignore[no-untyped-def]
    """Fill `course` (n,) with z after each step under the true `theta` (2,)."""
    r, a = _positive(theta[0]), _positive(theta[1])
    x, y, z = _START
    for t in range(course.size):
        x, y, z = x + a * (y - x) * dt, y + (x * (r - z) - y) * dt, z + (x * y - _B * z) * dt
        course[t] = z


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _unroll(start, stop, rows, thetas, n_steps, dt, course, states, clocks, loss_sum, taken):  # type: ignore[no-untyped-def]
    for item in range(start, stop):
        state, clock = states[rows[item]], clocks[rows[item]]
        r, a = _positive(thetas[item, 0]), _positive(thetas[item, 1])
        x, y, z = state[0], state[1], state[2]
        total, count = 0.0, 0
        while count < n_steps[item] and math.isfinite(total):
            x, y, z = x + a * (y - x) * dt, y + (x * (r - z) - y) * dt, z + (x * y - _B * z) * dt
            error = z - course[clock + count]
            total += error * error
            count += 1
        state[0], state[1], state[2] = x, y, z
        clocks[rows[item]] = clock + count
        loss_sum[item], taken[item] = total, count


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _jacobians(rows, thetas, dt, course, states, clocks, by_state, by_theta, loss_by_state):  # type: ignore[no-untyped-def]
    """Fill in the derivatives of the step that each row is about to take."""
    for item in range(rows.size):
        r, a = _positive(thetas[item, 0]), _positive(thetas[item, 1])
        x, y, z = states[rows[item]]
        f = by_state[item]
        f[0, 0], f[0, 1], f[0, 2] = 1.0 - a * dt, a * dt, 0.0
        f[1, 0], f[1, 1], f[1, 2] = (r - z) * dt, 1.0 - dt, -x * dt
        f[2, 0], f[2, 1], f[2, 2] = y * dt, x * dt, 1.0 - _B * dt
        by_theta[item, 1, 0] = x * dt * r
        by_theta[item, 0, 1] = (y - x) * dt * a
        error = z + (x * y - _B * z) * dt - course[clocks[rows[item]]]
        for i in range(3):
            loss_by_state[item, i] = 2.0 * error * f[2, i]


class LorenzTask(RowArrays):
    """Rows of the discretised Lorenz system; θ = (ln r, ln a), loss (z - true z)² after each step.

    Every episode starts at (1.2, 1.3, 1.6); the true course is that of r = 28, a = 10 with the
    same step size. There is no randomness: seeds do nothing.

    Args:
        horizon: T, steps of an episode.
        dt: step size, in the system's unit of time.
        n_threads: threads that share the rows; None for all usable processors.

    Attributes:
        true_theta: (2,) float64, the parameters that make every loss zero.
        dt: step size.
    """

    state_size = 3

    def __init__(
        self, *, horizon: int = 2000, dt: float = 0.005, n_threads: int | None = None
    ) -> None:
        super().__init__("lorenz", 2, horizon, n_threads, {"state": ((3,), np.float64)})
        self.dt = positive_number("dt", dt)
        self.true_theta = np.log([28.0, 10.0])
        self._course = np.empty(0)

    def initial_theta(self) -> NDArray[np.float64]:
        """Return θ₀ of the paper's released code, (2,) float64."""
        return np.array([3.7, 3.116])

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,)."""
        self._rows["state"][rows] = _START
        self._rows["step"][rows] = 0

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by `n_steps` (B,) under its own `thetas` (B, 2)."""
        course = self._course_to(rows, n_steps)
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        split_over_threads(
            _unroll, rows.size, int(n_steps.sum()) * _WORK, self.n_threads,
            rows, thetas, n_steps, self.dt, course, self._rows["state"], self._rows["step"],
            loss_sum, taken,
        )  # fmt: skip
        return UnrollResult(loss_sum, taken, np.zeros(rows.size, np.bool_))

    def linearize(self, rows: NDArray[np.int64], thetas: NDArray[np.float64]) -> JacobianStep:
        """Take one step on `rows` (B,) under `thetas` (B, 2) and return it with its Jacobians."""
        n_steps = np.ones(rows.size, np.int64)
        course = self._course_to(rows, n_steps)
        by_state, by_theta = np.zeros((rows.size, 3, 3)), np.zeros((rows.size, 3, 2))
        loss_by_state = np.zeros((rows.size, 3))
        _jacobians(
            rows, thetas, self.dt, course, self._rows["state"], self._rows["step"],
            by_state, by_theta, loss_by_state,
        )  # fmt: skip
        loss = self.unroll(rows, thetas, n_steps).loss_sum
        return JacobianStep(loss, by_state, by_theta, loss_by_state, np.zeros((rows.size, 2)))

    def _course_to(
        self, rows: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the true course, made long enough for these steps of these rows."""
        needed = int((self._steps_of(rows) + n_steps).max(initial=0))
        if needed > self._course.size:
            self._course = np.empty(max(needed, 2 * self._course.size))
            _true_course(self.true_theta, self.dt, self._course)
        return self._course
