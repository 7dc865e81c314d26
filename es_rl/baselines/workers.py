"""What the gradient baselines share: workers with clocks, one row each, and checked steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.baselines.protocol import DifferentiableTask, LinearizedStep
from es_rl.estimators import Estimator, GradientEstimate
from es_rl.tasks import NonFiniteLossError, State
from es_rl.window import Piece

__all__ = ["Baseline"]

_CARRY = "carry/"


class Baseline(Estimator):
    """A gradient estimator that differentiates the steps of N workers, one row each.

    It has the interface of the evolution strategies: a step-unlocked start, windows of W steps,
    episodes that begin again inside a window, exact counts, and a state to resume from. The
    estimate is the mean over W and N of the workers' gradients of the sum of losses. One step of
    a worker counts as one step, however much its derivatives cost.

    Subclasses say in `_carried` what a worker carries from step to step besides its state; all
    of it is zero when an episode begins.
    """

    rows_per_worker = 1

    def __init__(
        self,
        task: DifferentiableTask,
        *,
        n_workers: int,
        unroll_length: int,
        horizon: int | None,
        staggering: str,
        seed: int,
    ) -> None:
        if not isinstance(task, DifferentiableTask):
            raise TypeError(
                f"{type(self).__name__} needs a task with derivatives, such as LorenzTask, "
                f"InfluenceBalancingTask or a TorchTask; {type(task).__name__} has no linearize()"
            )
        if isinstance(n_workers, bool) or int(n_workers) != n_workers or n_workers < 1:
            raise ValueError(f"n_workers={n_workers}: must be a positive integer")
        super().__init__(
            task,
            n_pairs=n_workers,
            unroll_length=unroll_length,
            sigma=1.0,
            horizon=horizon,
            staggering=staggering,
            seed=seed,
        )
        self.differentiable = task

    @property
    def n_workers(self) -> int:
        """N."""
        return self.n_pairs

    def _carried(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes, per worker, of what is carried from step to step."""
        return {}

    def _allocate(self) -> None:
        super()._allocate()
        self._gradients = np.zeros((self.n_workers, self.task.num_params))
        self._carry = {
            name: np.zeros((self.n_workers, *shape)) for name, shape in self._carried().items()
        }

    def _rows_to_reset(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return pairs

    def _begin_episodes(self, pairs: NDArray[np.int64]) -> None:
        super()._begin_episodes(pairs)
        for array in self._carry.values():
            array[pairs] = 0.0

    def estimate(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Unroll every worker for one window and return the mean of their gradients.

        Args:
            theta: (d,) float64.

        Raises:
            FloatingPointError: if the gradient is NaN or infinite (a `NonFiniteLossError` if a
                loss already is).
            RuntimeError: if `reset` or `load_state_dict` was never called.
        """
        theta = self.check_theta(theta)
        if not self._started:
            raise RuntimeError("call reset(theta) or load_state_dict(state) before estimate(theta)")
        self._gradients[:] = 0.0
        window = self._advance(theta, np.full(self.n_workers, self.unroll_length, np.int64))
        gradient = self._gradients.sum(axis=0) / (self.unroll_length * self.n_workers)
        if not np.isfinite(gradient).all():
            raise FloatingPointError(
                f"{self._name}: the gradient by {type(self).__name__} became NaN or infinite; "
                "shorten unroll_length or horizon, or lower the learning rate"
            )
        return window.estimate(gradient)

    def _unroll_piece(
        self, theta: NDArray[np.float64], active: NDArray[np.int64], remaining: NDArray[np.int64]
    ) -> Piece:
        n_steps = np.minimum(remaining, self._end - self._step[active])
        loss = self._differentiate(theta, active, n_steps)
        # whoever takes the mean divides by the two rows of a pair
        return Piece(active, np.array([loss, loss]), int(n_steps.sum()), n_steps)

    def _differentiate(
        self, theta: NDArray[np.float64], workers: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> float:
        """Unroll `workers` (B,) by `n_steps` (B,), add to their gradients, return their losses."""
        raise NotImplementedError

    def _take_step(
        self, theta: NDArray[np.float64], workers: NDArray[np.int64], taken: int
    ) -> LinearizedStep:
        """Linearise the step of `workers` (B,) that follows the first `taken` of this piece."""
        thetas = self._thetas[: workers.size]
        thetas[:] = theta
        step = self.differentiable.linearize(workers, thetas)
        bad = np.flatnonzero(~np.isfinite(step.loss))
        if bad.size:
            worker = int(workers[bad[0]])
            raise NonFiniteLossError(
                self._name,
                worker,
                "mean",
                int(self._step[worker]) + taken + 1,
                float(step.loss[bad[0]]),
            )
        return step

    def state_dict(self) -> State:
        """Return everything that continuing needs, the task's rows and the carry included."""
        state = super().state_dict()
        state.update({_CARRY + name: array.copy() for name, array in self._carry.items()})
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the baseline stood that gave `state`.

        Raises:
            ValueError: if the state is of an estimator with other settings.
        """
        super().load_state_dict(state)
        for name, array in self._carry.items():
            value = state.get(_CARRY + name)
            if value is None or value.shape != array.shape:
                raise ValueError(f"the state is of an estimator with other settings: {name!r}")
            array[:] = value
