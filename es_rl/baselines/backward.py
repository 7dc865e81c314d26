"""Baselines that go back through the steps of a window: TBPTT, and BPTT over whole episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from es_rl.baselines.protocol import DifferentiableTask, LinearizedStep
from es_rl.baselines.workers import Baseline
from es_rl.estimators import GradientEstimate
from es_rl.tasks import NonFiniteLossError

__all__ = ["BPTT", "TBPTT"]


class TBPTT(Baseline):
    """Truncated backpropagation through time (Williams and Peng 1990): online, and biased.

    The gradient of a window's losses as if the state at its beginning did not depend on θ.
    Memory grows with W.

    Args:
        task: what is unrolled; it must be a `DifferentiableTask`.
        n_workers: N, rows.
        unroll_length: W, steps of a window.
        horizon: T, steps of an episode; None for the task's own.
        staggering: how the workers start: "stratified", "iid" or "lockstep".
        seed: 0 to 2**64 - 1; of the episodes and of the start.

    Raises:
        TypeError: if the task has no derivatives.
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        task: DifferentiableTask,
        *,
        n_workers: int,
        unroll_length: int,
        horizon: int | None = None,
        staggering: str = "stratified",
        seed: int = 0,
    ) -> None:
        super().__init__(
            task,
            n_workers=n_workers,
            unroll_length=unroll_length,
            horizon=horizon,
            staggering=staggering,
            seed=seed,
        )
        self._starting = False

    def reset(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Start afresh; the way to the start steps is unrolled without derivatives."""
        self._starting = True
        try:
            return super().reset(theta)
        finally:
            self._starting = False

    def _differentiate(
        self, theta: NDArray[np.float64], workers: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> float:
        if self._starting:
            return self._unroll_plainly(theta, workers, n_steps)
        steps: list[tuple[NDArray[np.bool_], LinearizedStep]] = []
        loss = 0.0
        for taken in range(int(n_steps.max())):
            going = n_steps > taken
            step = self._take_step(theta, workers[going], taken)
            loss += float(step.loss.sum())
            steps.append((going, step))
        cotangents = np.zeros((workers.size, 1, self.differentiable.state_size))
        while steps:
            going, step = steps.pop()
            cotangents[going], by_theta = step.pull(cotangents[going], np.ones((step.loss.size, 1)))
            self._gradients[workers[going]] += by_theta[:, 0]
        return loss

    def _unroll_plainly(
        self, theta: NDArray[np.float64], workers: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> float:
        thetas = self._thetas[: workers.size]
        thetas[:] = theta
        result = self.task.unroll(workers, thetas, n_steps)
        bad = np.flatnonzero(~np.isfinite(result.loss_sum))
        if bad.size:
            raise NonFiniteLossError(
                self._name,
                int(workers[bad[0]]),
                "mean",
                int(result.steps_taken[bad[0]]),
                float(result.loss_sum[bad[0]]),
            )
        return float(result.loss_sum.sum())


class BPTT(TBPTT):
    """Backpropagation through whole episodes (Werbos 1990): the exact gradient, not online.

    Memory grows with T.

    Args:
        task: what is unrolled; it must be a `DifferentiableTask`.
        n_workers: N, episodes an estimate.
        horizon: T, steps of an episode; None for the task's own, which must be finite.
        seed: 0 to 2**64 - 1; of the episodes.

    Raises:
        TypeError: if the task has no derivatives.
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        task: DifferentiableTask,
        *,
        n_workers: int,
        horizon: int | None = None,
        seed: int = 0,
    ) -> None:
        length = task.horizon if horizon is None else horizon
        if length is None:
            raise ValueError("horizon=None: BPTT needs episodes of finite length; give a horizon")
        super().__init__(
            task,
            n_workers=n_workers,
            unroll_length=length,
            horizon=length,
            staggering="lockstep",
            seed=seed,
        )
