"""Baselines that carry derivatives forward with the state: RTRL, UORO, DODGE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from es_rl.baselines.protocol import DifferentiableTask, LinearizedStep
from es_rl.baselines.workers import Baseline
from es_rl.perturbations import draw_noise

__all__ = ["DODGE", "RTRL", "UORO"]

_SMALL = 1e-7  # keeps the norm-balancing factors of UORO finite where a norm is zero


class _ForwardBaseline(Baseline):
    """A baseline whose gradient is known step by step, without going back.

    Args are those of `TBPTT`.
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

    def _differentiate(
        self, theta: NDArray[np.float64], workers: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> float:
        loss = 0.0
        for taken in range(int(n_steps.max())):
            going = workers[n_steps > taken]
            step = self._take_step(theta, going, taken)
            self._gradients[going] += self._step_gradient(step, going, taken)
            loss += float(step.loss.sum())
        return loss

    def _step_gradient(
        self, step: LinearizedStep, workers: NDArray[np.int64], taken: int
    ) -> NDArray[np.float64]:
        """Move the carry of `workers` (B,) over `step`; return their gradients of its loss, (B, d).

        `taken` counts the steps that this piece took before.
        """
        raise NotImplementedError


class RTRL(_ForwardBaseline):
    """Real-time recurrent learning (Williams and Zipser 1989): the exact gradient, online.

    Carries the whole derivative ds/dθ of each worker: d·p numbers, and d directions a step.
    """

    def _carried(self) -> dict[str, tuple[int, ...]]:
        return {"influence": (self.task.num_params, self.differentiable.state_size)}

    def _step_gradient(
        self, step: LinearizedStep, workers: NDArray[np.int64], taken: int
    ) -> NDArray[np.float64]:
        d = self.task.num_params
        influence = self._carry["influence"]
        directions = np.broadcast_to(np.eye(d), (workers.size, d, d))
        influence[workers], gradient = step.push(influence[workers], directions)
        return gradient


class UORO(_ForwardBaseline):
    """Unbiased online recurrent optimisation (Tallec and Ollivier 2018, Algorithm 1).

    Carries s̃ and θ̃ whose outer product has the mean ds/dθ: s̃ ← ρ₀·F_s s̃ + ρ₁·ν and
    θ̃ ← θ̃/ρ₀ + νᵀF_θ/ρ₁, with a fresh Rademacher ν each step and ρ that balance the norms. The
    loss of a step meets the s̃ and θ̃ from before it, and its own direct derivative by θ.
    """

    def _carried(self) -> dict[str, tuple[int, ...]]:
        return {
            "state_factor": (self.differentiable.state_size,),
            "theta_factor": (self.task.num_params,),
        }

    def _step_gradient(
        self, step: LinearizedStep, workers: NDArray[np.int64], taken: int
    ) -> NDArray[np.float64]:
        b, d, p = workers.size, self.task.num_params, self.differentiable.state_size
        state_factor = self._carry["state_factor"][workers]
        theta_factor = self._carry["theta_factor"][workers]
        pushed, loss_change = step.push(state_factor[:, None], np.zeros((b, 1, d)))
        signs = self._signs(workers, taken)
        state_cotangents = np.stack([signs, np.zeros((b, p))], axis=1)
        loss_cotangents = np.tile([0.0, 1.0], (b, 1))
        _, by_theta = step.pull(state_cotangents, loss_cotangents)
        gradient = loss_change * theta_factor + by_theta[:, 1]
        carried, fresh = pushed[:, 0], by_theta[:, 0]
        rho0 = np.sqrt((_norm(theta_factor) + _SMALL) / (_norm(carried) + _SMALL))
        rho1 = np.sqrt((_norm(fresh) + _SMALL) / (_norm(signs) + _SMALL))
        self._carry["state_factor"][workers] = rho0 * carried + rho1 * signs
        self._carry["theta_factor"][workers] = theta_factor / rho0 + fresh / rho1
        return gradient

    def _signs(self, workers: NDArray[np.int64], taken: int) -> NDArray[np.float64]:
        """Return ν of this step, (B, p): the signs of counter-based normal noise."""
        noise = np.empty((self.n_workers, self.differentiable.state_size))
        if not noise.size:
            return noise[workers]
        clocks = self._step[workers] + taken
        draw_noise(self.seed, workers, self._episode[workers], clocks, 1.0, noise)
        return np.where(noise[workers] < 0.0, -1.0, 1.0)


class DODGE(_ForwardBaseline):
    """Deep online directional gradient estimate (Silver et al. 2022): unbiased, online.

    Each worker draws one direction u ~ N(0, I) an episode, carries (ds/dθ)·u, and estimates
    (dL/dθ·u)·u. It is NRES with σ → 0, sample by sample: one seed gives both the same directions.
    """

    def _carried(self) -> dict[str, tuple[int, ...]]:
        return {"tangent": (1, self.differentiable.state_size)}

    def _differentiate(
        self, theta: NDArray[np.float64], workers: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> float:
        self._next_noise(workers[self._step[workers] == 0])
        return super()._differentiate(theta, workers, n_steps)

    def _step_gradient(
        self, step: LinearizedStep, workers: NDArray[np.int64], taken: int
    ) -> NDArray[np.float64]:
        tangent, direction = self._carry["tangent"], self._epsilon[workers]
        tangent[workers], slope = step.push(tangent[workers], direction[:, None])
        return slope * direction


def _norm(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean norms of `vectors` (B, n), (B, 1)."""
    norms: NDArray[np.float64] = np.sqrt(np.sum(vectors**2, axis=1, keepdims=True))
    return norms
