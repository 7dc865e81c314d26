"""Small systems in plain Python, stepped one at a time, and the task made of them.

`LoopTask` is instrumented: it counts the steps that it executes and fails on any use that breaks
the contract of `UnrolledTask`.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from es_rl.tasks import UnrollResult


class EndingSystem:
    """A nonlinear system whose episodes end early, by chance, by its state and by θ (3,)."""

    num_params = 3
    fields = ("value", "steps", "stream")

    def reset(self, seed):
        self.stream = seed
        self.value = 0.5 * self._uniform()
        self.steps = 0

    def _uniform(self):
        # a linear congruential generator: the randomness of an episode belongs to its state
        self.stream = (self.stream * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.stream >> 11) * 2.0**-53

    def step(self, theta):
        push = math.sin(theta[0] * self.value + theta[1]) + 0.3 * (self._uniform() - 0.5)
        self.value = 0.7 * self.value + 0.4 * push
        self.steps += 1
        loss = (self.value - 0.3) ** 2 + 0.1 * theta[2] * self.value
        ended = self.value > 1.0 or self._uniform() < 0.05 + 0.02 * abs(theta[2])
        return loss, ended


class LastingSystem(EndingSystem):
    """The same system, without ends."""

    def step(self, theta):
        loss, _ = super().step(theta)
        return loss, False


class LoopTask:
    """Rows that are systems of one class, stepped one after another.

    Attributes:
        executed: steps executed since the task was made.
    """

    def __init__(self, system_class, horizon):
        self.system_class, self.horizon = system_class, horizon
        self.num_params = system_class.num_params
        self.name = system_class.__name__
        self.executed = 0

    def allocate(self, n_rows):
        self.rows = [self.system_class() for _ in range(n_rows)]
        self.ended = np.ones(n_rows, bool)

    def reset(self, rows, seeds):
        assert rows.dtype == np.int64
        assert seeds.dtype == np.uint64
        assert rows.shape == seeds.shape
        for row, seed in zip(rows, seeds, strict=True):
            self.rows[row].reset(int(seed))
        self.ended[rows] = False

    def unroll(self, rows, thetas, n_steps):
        assert thetas.shape == (rows.size, self.num_params)
        assert n_steps.dtype == np.int64
        assert (n_steps > 0).all()
        assert not self.ended[rows].any(), "a row that has ended was unrolled"
        assert np.unique(rows).size == rows.size
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        for i, row in enumerate(rows):
            while taken[i] < n_steps[i] and not self.ended[row]:
                loss, self.ended[row] = self.rows[row].step(thetas[i])
                loss_sum[i] += loss
                taken[i] += 1
                if not math.isfinite(loss_sum[i]):
                    break
            if self.horizon is not None:
                assert self.rows[row].steps <= self.horizon, "an episode went beyond its horizon"
        self.executed += int(taken.sum())
        return UnrollResult(loss_sum, taken, self.ended[rows])

    def copy_rows(self, source, target):
        for a, b in zip(source, target, strict=True):
            self.rows[b] = copy.copy(self.rows[a])
        self.ended[target] = self.ended[source]

    def get_state(self):
        # rows that were never reset have no fields yet, and need none
        state = {"ended": self.ended.copy()}
        for field, dtype in zip(
            self.system_class.fields, (np.float64, np.int64, np.uint64), strict=True
        ):
            state[field] = np.array([getattr(row, field, 0) for row in self.rows], dtype)
        return state

    def set_state(self, state):
        self.ended[:] = state["ended"]
        for field in self.system_class.fields:
            for row, value in zip(self.rows, state[field], strict=True):
                setattr(row, field, value.item())
