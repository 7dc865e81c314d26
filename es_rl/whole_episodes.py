"""Estimators that unroll whole episodes: nothing is left over from one update to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from es_rl.estimator_options import positive_integer
from es_rl.shaping import Part
from es_rl.tasks import State, UnrolledTask
from es_rl.unrolling import pair_rows
from es_rl.window import Window
from es_rl.workers import Estimator

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from es_rl.estimator_options import EstimatorOptions

__all__ = ["ARS", "FullES"]


class FullES(Estimator):
    """Evolution strategies on whole episodes (equation 3): unbiased, not online, no state.

    Args:
        task: what is unrolled.
        n_pairs: N, antithetic pairs.
        sigma: σ, standard deviation of the noise.
        horizon: T, steps of an episode; None for the task's own, which must be finite.
        seed: 0 to 2**64 - 1; the only source of randomness.
        options: those of `EstimatorOptions`.

    Raises:
        ValueError: names the option that is out of range.
    """

    whole_episodes = True
    fixed_window = "unrolls whole episodes"

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        sigma: float,
        horizon: int | None = None,
        seed: int = 0,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        length = task.horizon if horizon is None else horizon
        if length is None:
            raise ValueError("horizon=None: FullES needs episodes of finite length; give a horizon")
        length = positive_integer("horizon", length)
        super().__init__(
            task,
            n_pairs=n_pairs,
            unroll_length=length,
            sigma=sigma,
            horizon=length,
            staggering="lockstep",
            seed=seed,
            **options,
        )

    def _advance(self, theta: NDArray[np.float64], budget: NDArray[np.int64]) -> Window:
        """Unroll one whole episode of every pair; nothing is left over for the next call."""
        pairs = np.flatnonzero(budget)
        if not pairs.size:
            return Window([], 0, 0, 0, 0)
        self._begin_episodes(pairs)
        self._next_noise(pairs)
        result = self._unroll_rows(theta, pair_rows(pairs), np.repeat(budget, 2))
        part = Part(pairs, result.loss_sum)
        self._note_sigmas(pairs)
        self._sum.add(self._epsilon, pairs, part.differences)
        self._finished[:] = True
        return Window(
            [part],
            n_steps=int(budget.sum()),
            sequential_steps=int(result.steps_taken.max()),
            total_steps=int(result.steps_taken.sum()),
            episodes=pairs.size,
        )

    def state_dict(self) -> State:
        """Return everything that continuing needs: the episodes' numbers, and no rows."""
        if not self._started:
            raise RuntimeError("call reset(theta) before state_dict()")
        return {
            **self._settings(),
            "episode": self._episode.copy(),
            **self.observation_state(),
            **self._adaptation_state(),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the estimator stood that gave `state`."""
        self._check_settings(state)
        self._allocate()
        if "episode" not in state or state["episode"].shape != self._episode.shape:
            raise ValueError("the state is of an estimator with other settings: 'episode'")
        self._episode[:] = state["episode"]
        self.load_observation_state(state)
        self._load_adaptation(state)
        self._started = True


class ARS(FullES):
    """Augmented random search (arXiv:1803.07055, Algorithm 2): FullES with options of its own.

    The differences of the b best pairs are divided by the standard deviation of their returns:
    the step of `SGD` with learning rate α is α/(b·σ_R) Σ (R⁺ - R⁻)·δ with ε = σδ. Version V2 is
    the one with a policy that has `normalize_observations`, V2-t the one with `top_pairs` below N.
    The reward offset is what ARS's authors subtract for being alive.

    Args are those of `FullES`; `shaping` is "returns" unless given.
    """

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        sigma: float,
        horizon: int | None = None,
        seed: int = 0,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        options.setdefault("shaping", "returns")
        super().__init__(task, n_pairs=n_pairs, sigma=sigma, horizon=horizon, seed=seed, **options)
