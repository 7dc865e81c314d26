"""A linear system with squared loss, whose gradients and estimator variances have closed forms.

s_t = A·s_{t-1} + B·θ, loss_t = ½‖s_t - y_t‖², t = 1 … T. The loss is quadratic in the parameters
(θ_1 … θ_t) used at each step, so that Assumption 2 of the NRES paper holds exactly for any σ, and
with it `es_rl.variance_theory`.
"""

from __future__ import annotations

import numpy as np

from es_rl.tasks import UnrollResult


class LinearQuadratic:
    """The system as an `UnrolledTask`, in NumPy operations whose bits do not depend on the batch.

    Args:
        seed: of the system's matrices and targets.
        num_params: d.
        state_size: length of s.
        horizon: T.
        decay: factor by which the state shrinks in a step without input.
        drift: size of a constant part of the targets, which makes the windows' gradients agree.
        random_start: whether each episode's start depends on its seed; else all start alike.
        dyadic: whether all numbers are small multiples of 1/4, for exact arithmetic.
    """

    name = "linear-quadratic"

    def __init__(
        self,
        seed,
        num_params=3,
        state_size=2,
        horizon=12,
        *,
        decay=0.9,
        drift=0.0,
        random_start=False,
        dyadic=False,
    ):
        rng = np.random.default_rng(seed)
        self.num_params, self.horizon = num_params, horizon
        self.a = decay * np.linalg.qr(rng.normal(size=(state_size, state_size)))[0]
        self.b = rng.normal(size=(state_size, num_params))
        self.targets = drift * rng.normal(size=state_size) + rng.normal(size=(horizon, state_size))
        self.start = rng.normal(size=state_size)
        if dyadic:
            self.a = np.diag(np.full(state_size, -1.0))
            self.b, self.targets, self.start = (
                np.round(4 * value) / 4 for value in (self.b, self.targets, self.start)
            )
        self.random_start = random_start
        self.executed = 0

    def allocate(self, n_rows):
        self.state = np.zeros((n_rows, self.start.size))
        self.step = np.zeros(n_rows, np.int64)

    def reset(self, rows, seeds):
        self.state[rows] = self.start
        self.step[rows] = 0
        if self.random_start:
            shift = (seeds >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
            self.state[rows, 0] += shift

    def unroll(self, rows, thetas, n_steps):
        state, step = self.state[rows], self.step[rows]
        loss_sum = np.zeros(rows.size)
        drive = np.zeros_like(state)
        for j in range(self.num_params):
            drive += thetas[:, j, None] * self.b[:, j]
        for k in range(int(n_steps.max(initial=0))):
            going = n_steps > k
            new = drive.copy()
            for j in range(state.shape[1]):
                new += state[:, j, None] * self.a[:, j]
            error = new - self.targets[step % len(self.targets)]
            loss = np.zeros(rows.size)
            for j in range(state.shape[1]):
                loss += 0.5 * error[:, j] ** 2
            if going.all():
                state, step, loss_sum = new, step + 1, loss_sum + loss
            else:
                state[going] = new[going]
                step[going] += 1
                loss_sum[going] += loss[going]
        self.state[rows], self.step[rows] = state, step
        self.executed += int(n_steps.sum())
        return UnrollResult(loss_sum, n_steps.copy(), np.zeros(rows.size, bool))

    def copy_rows(self, source, target):
        self.state[target], self.step[target] = self.state[source], self.step[source]

    def get_state(self):
        return {"state": self.state.copy(), "step": self.step.copy()}

    def set_state(self, state):
        self.state[:], self.step[:] = state["state"], state["step"]

    def losses(self, thetas):
        """Each step's loss, (T,), with parameters of its own for each step, (T, d)."""
        state, losses = self.start, []
        for theta, target in zip(thetas, self.targets, strict=True):
            state = self.a @ state + self.b @ theta
            losses.append(0.5 * np.sum((state - target) ** 2))
        return np.array(losses)

    def step_gradients(self, theta, horizon=None):
        """g: (T, T, d), the gradient of loss_t to the parameters of step i alone."""
        t_end = horizon or self.horizon
        powers = [np.eye(self.start.size)]
        for _ in range(t_end):
            powers.append(self.a @ powers[-1])
        gradients = np.zeros((t_end, t_end, self.num_params))
        state = self.start
        for t in range(t_end):
            state = self.a @ state + self.b @ theta
            for i in range(t + 1):
                gradients[t, i] = (powers[t - i] @ self.b).T @ (state - self.targets[t])
        return gradients
