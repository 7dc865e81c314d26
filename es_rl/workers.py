"""What all estimators share: the windows of N workers, made a gradient.

An estimator works on an `UnrolledTask` and owns what the task does not: the horizon, resets,
noise, pairing, and the counting of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import BLOCK_PAIRS, reduce_blocks
from es_rl.gradient_sum import EachPair, KeptSum
from es_rl.normalization import Normalizer, Statistics, block_moments
from es_rl.shaping import Part
from es_rl.staggering import start_steps
from es_rl.tasks import State
from es_rl.unrolling import UnrolledWorkers
from es_rl.window import GradientEstimate, Window

__all__ = ["Estimator"]


class Estimator(UnrolledWorkers):
    """What all estimators share: the N workers unrolled, and their losses made a gradient."""

    def reset(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Start afresh, with the workers spread over their episodes ("step-unlocked").

        Each worker is unrolled to a start step under θ, or θ ± ε where its estimator perturbs the
        past, and only those steps are taken and counted (same distribution as Algorithm 4).

        Args:
            theta: (d,) float64.

        Returns:
            the cost of the start; its gradient is zero.
        """
        if self.statistics is not None:
            self.statistics = Statistics(self.statistics.mean.size)
            if self._earlier_statistics is not None:
                self.statistics.load_state_dict(self._earlier_statistics)
        if self._adaptation is not None:
            self._adaptation.reset()
        window = self.start(theta)
        self.absorb(window)
        return window.estimate(np.zeros(self.task.num_params))

    def begin_with(self, statistics: State) -> None:
        """Let `reset` go on from what an earlier estimator knew of the observations.

        Args:
            statistics: what its `statistics.state_dict()` returned.
        """
        self._earlier_statistics = dict(statistics)

    def start(self, theta: NDArray[np.float64]) -> Window:
        """Do what `reset` does with the workers that are held, and return what it brought."""
        theta = self.check_theta(theta)
        self._allocate()
        self._started = True
        if self._drift is not None:
            self._drift.begin(theta)
        budget = start_steps(
            self.staggering, self.n_pairs, self.unroll_length, self.horizon, self.seed
        )
        held = slice(self._first_pair, self._first_pair + self._n_held)
        return self._observe(theta, budget[held])

    def estimate(self, theta: NDArray[np.float64]) -> GradientEstimate:
        """Unroll every worker for one window and return the mean of their estimates.

        Args:
            theta: (d,) float64.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite.
            RuntimeError: if `reset` or `load_state_dict` was never called.
        """
        window = self.unroll_window(theta)
        self.absorb(window)
        return window.estimate(self.gradient(window))

    def unroll_window(self, theta: NDArray[np.float64]) -> Window:
        """Unroll every worker for one window, and keep what the gradient needs.

        Args:
            theta: (d,) float64.

        Raises:
            NonFiniteLossError: as in `estimate`.
            RuntimeError: as in `estimate`.
        """
        theta = self._ready(theta)
        replay = None
        if self._drift is not None:
            self._drift.move(theta)
            stale = self._drift.exceeds(self._sigmas)
            replay = self._unroll_again(theta, np.flatnonzero(stale & self._is_underway))
        self._sum.clear()
        window = self._observe(theta, np.full(self._n_held, self.unroll_length_now, np.int64))
        return window if replay is None else window.after(replay)

    def refresh(self, theta: NDArray[np.float64]) -> Window:
        """Unroll all running episodes again, from their starts to where they stand, under θ.

        Noises, seeds, clocks and what an episode normalises observations with stay as they are:
        the pairs stand where they would if θ had been today's since their episodes began. A pair
        whose episode ends earlier so begins the next one, until its clock has moved on by as many
        steps as it had before. (Where it would have lasted longer than it did, it has ended.)

        Args:
            theta: (d,) float64.

        Returns:
            what it cost.

        Raises:
            NonFiniteLossError: as in `estimate`.
            RuntimeError: as in `estimate`.
            ValueError: if it is no estimator of the GPES family or TES.
        """
        if not self.can_refresh:
            raise ValueError(
                f"{type(self).__name__} has no running episodes to unroll again; NRES, PES, GPES "
                "and TES have"
            )
        theta = self._ready(theta)
        if self._drift is not None:
            self._drift.move(theta)
        return self._unroll_again(theta, np.flatnonzero(self._is_underway))

    def _observe(self, theta: NDArray[np.float64], budget: NDArray[np.int64]) -> Window:
        """Do what `_advance` does, and sum over the observations where they are normalised.

        Episodes that begin on the way take the statistics of the window's beginning.
        """
        self._ratios = []
        if self._normalizers is None or self.statistics is None:
            return self._advance(theta, budget)
        self._normalizers.collect(self.statistics.mean)
        window = self._advance(theta, budget)
        return window._replace(moments=block_moments(self._normalizers.moments, self._n_held))

    def absorb(self, window: Window) -> None:
        """Bring the observations' statistics up to date with the windows of all pairs."""
        if self.statistics is not None and window.moments is not None:
            moments = reduce_blocks(window.moments, 1.0, self._n_threads)
            self.statistics.merge(window.total_steps - window.replayed_steps, moments)

    @property
    def normalizer(self) -> Normalizer | None:
        """What today's policy normalises observations with; None if it does not."""
        return None if self.statistics is None else self.statistics.normalizer()

    def gradient(self, window: Window) -> NDArray[np.float64]:
        """Return the gradient, (d,) float64, of the window that was just unrolled."""
        if isinstance(self._sum, KeptSum):
            weights = self._weights(window)
            if self._adaptation is not None:
                parts = zip(window.parts, self._ratios, strict=True)
                own = self._sum.by_pair([part.differences * ratio**2 for part, ratio in parts])
                self._adaptation.learn(own)
            self._sum.weigh(weights)
        return self._sum.total(self.shaping.scale(self.sigma, self.unroll_length_now))

    def _weights(self, window: Window) -> list[NDArray[np.float64]]:
        """Return the weights of the window's noises, each difference over its own noise's σ."""
        if self._adaptation is None:
            return self.shaping.weights(window.parts)
        ratios = self._ratios
        scaled = [
            Part(part.pairs, part.losses * np.repeat(ratio, 2))
            for part, ratio in zip(window.parts, ratios, strict=True)
        ]
        return [w * r for w, r in zip(self.shaping.weights(scaled), ratios, strict=True)]

    @property
    def sigma_now(self) -> float:
        """σ of today: the one given, unless it is adapted."""
        return self.sigma if self._adaptation is None else self._adaptation.sigma

    @property
    def unroll_length_now(self) -> int:
        """W of the last window, in steps: the one given, unless it is adapted."""
        return self.unroll_length if self._unrolls is None else self._unrolls.length

    @property
    def adapted(self) -> dict[str, float]:
        """Today's values of those settings that are adapted, by name."""
        values: dict[str, float] = {}
        if self._adaptation is not None:
            values["sigma"] = self.sigma_now
        if self._unrolls is not None:
            values["unroll_length"] = self.unroll_length_now
        return values

    def gradient_nodes(
        self, weights: Sequence[NDArray[np.float64]] | None = None
    ) -> NDArray[np.float64]:
        """Return what the held pairs add to the gradient of the window that was just unrolled.

        Args:
            weights: of the held pairs in each part, (B,) float64 each, by `shaping.weights` of
                the parts of all pairs; None where that is the identity.

        Returns:
            (n_nodes, d) float64; `es_rl.block_sums.sum_nodes` of the nodes of all shares is the
            gradient.
        """
        if isinstance(self._sum, KeptSum):
            assert weights is not None
            self._sum.weigh(weights)
        return self._sum.nodes(self._first_pair // BLOCK_PAIRS)

    def estimate_each(
        self, theta: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], GradientEstimate]:
        """Do what `estimate` does, and also return each worker's own estimate.

        Without shaping, a share of the pairs (see `hold`) gives the same as all of them do.

        Returns:
            (N, d) float64, whose mean over the workers is the gradient up to rounding, and the
            very result of `estimate`.
        """
        theta = self._ready(theta)
        if isinstance(self._sum, KeptSum):
            window = self.unroll_window(theta)
            self.absorb(window)
            own = self._sum.by_pair(self._weights(window))
            own *= self.n_pairs * self.shaping.scale(self.sigma, self.unroll_length_now)
            return own, window.estimate(self.gradient(window))
        plain = self._sum
        each = self._sum = EachPair(self._n_held, theta.size, self._n_threads)
        try:
            result = self.estimate(theta)
        finally:
            self._sum = plain
        each.by_pair /= 2.0 * self.sigma**2 * self.unroll_length_now
        return each.by_pair, result
