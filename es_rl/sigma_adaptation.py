"""Automatic σ: moved to where the pairs agree best on a gradient.

Half of the pairs perturb with σκ, the other half with σ/κ. An episode keeps the σ of its beginning,
and every difference is divided by the σ that its own noise was drawn with. With g_i the estimate of
pair i, from its own σ_i, and n pairs in a half,

    S = (|Σ g_i|² - Σ |g_i|²) / (n(n - 1)),    M = Σ |g_i|² / n

estimate without bias the squared length of the half's mean gradient and the mean squared length of
one pair's estimate. Their ratio ρ = S/M is what a pair's estimate holds of signal. Too small a σ
drowns the difference in noise of the loss (M grows with 1/σ²); too large a σ smooths the slope away
(S falls). σ goes towards the half with the larger ρ, and rests where ρ(σκ) = ρ(σ/κ), which is the
maximum of ρ on a logarithmic scale up to order (ln κ)². For a quadratic loss without noise,
ρ = 1/(d + 2) whatever σ is, and nothing pulls.

S and M are averaged over about ten windows. The step in ln σ is the rate times the relative
difference of the two ratios. Without any signal the ratios of one window scatter by √(2/d)/n; where
their average is not well above what that leaves, the step is reduced, and σ returns to where it
began. So σ must begin where the pairs agree on something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.tasks import State

__all__ = ["SigmaAdaptation"]

_KAPPA = 1.25
_FORGETTING = 0.1
_SIGNIFICANT = 6.0  # times what chance gives
_RANGE = 1000.0  # σ stays within this factor of where it began


class SigmaAdaptation:
    """Chooses σ for the episodes that begin.

    Args:
        sigma: σ to begin with.
        rate: the most that ln σ moves in a window.
        n_pairs: N, at least 4.

    Attributes:
        sigma: σ of today.
    """

    def __init__(self, sigma: float, rate: float, n_pairs: int) -> None:
        if n_pairs < 4:
            raise ValueError(f"adapt_sigma={rate}: needs n_pairs of 4 at least, has {n_pairs}")
        self._first, self._rate = sigma, rate
        self.reset()

    def reset(self) -> None:
        """Go back to the σ of the beginning."""
        self.sigma = self._first
        self._means = np.zeros((2, 2))  # of the lower and the upper half: S, M

    def of_pairs(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the σ of an episode that begins now, for each of `pairs` (B,): (B,) float64."""
        return np.where(pairs % 2 == 0, self.sigma / _KAPPA, self.sigma * _KAPPA)

    def learn(self, estimates: NDArray[np.float64]) -> None:
        """Move σ by what the pairs' own estimates (N, d) of one window tell."""
        moments = np.array([_moments(estimates[half::2]) for half in range(2)])
        if not (np.isfinite(moments).all() and (moments[:, 1] > 0).all()):
            return
        weight = _FORGETTING if self._means.any() else 1.0
        self._means += weight * (moments - self._means)
        n, d = len(estimates) // 2, estimates.shape[1]
        # chance of an average over 1/forgetting windows
        chance = math.sqrt(2.0 / d) / n * math.sqrt(_FORGETTING / 2.0)
        low, high = np.maximum(self._means[:, 0] / self._means[:, 1], 0.0).tolist()
        trust = min(1.0, (high + low) / (_SIGNIFICANT * chance))
        pull = (high - low) / (high + low) if trust > 0.0 else 0.0
        home = min(1.0, max(-1.0, math.log(self._first / self.sigma)))
        sigma = self.sigma * math.exp(self._rate * (trust**2 * pull + (1.0 - trust) * home))
        self.sigma = min(self._first * _RANGE, max(self._first / _RANGE, sigma))

    def state_dict(self) -> State:
        """Return everything that continuing needs."""
        return {"sigma": np.array(self.sigma), "means": self._means.copy()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: if something is missing or no σ.
        """
        if set(state) != {"sigma", "means"} or state["means"].shape != (2, 2):
            raise ValueError("the state of the estimator lacks the adaptation of σ")
        if not 0.0 < float(state["sigma"]) < math.inf:
            raise ValueError(f"sigma={state['sigma']}: the state has no usable σ")
        self.sigma = float(state["sigma"])
        self._means = np.array(state["means"], np.float64)


def _moments(estimates: NDArray[np.float64]) -> tuple[float, float]:
    """Return S and M of the estimates (n, d) of one half."""
    n = len(estimates)
    total = estimates.sum(axis=0)
    squares = float(np.sum(estimates**2))
    return (float(total @ total) - squares) / (n * (n - 1)), squares / n
