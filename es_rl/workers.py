"""What all estimators share: N workers that are unrolled, each with noise and a clock of its own.

An estimator works on an `UnrolledTask` and owns what the task does not: the horizon, resets,
noise, pairing, and the counting of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import BLOCK_PAIRS, reduce_blocks
from es_rl.gradient_sum import EachPair, KeptSum
from es_rl.noise_designs import draw_designed_noise
from es_rl.normalization import Normalizer, Statistics, block_moments
from es_rl.perturbations import episode_seeds, perturb
from es_rl.shaping import Part
from es_rl.staggering import start_steps
from es_rl.tasks import BrokenTaskError, NonFiniteLossError, State, UnrollResult
from es_rl.window import GradientEstimate, Piece, Window
from es_rl.worker_state import WorkerState

__all__ = ["Estimator", "pair_rows"]


class Estimator(WorkerState):
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

    @property
    def ages(self) -> NDArray[np.int64]:
        """(N,) int64, the steps that each running episode has behind it; 0 where none runs."""
        return np.where(self._is_underway, self._step, 0)

    @property
    def _is_underway(self) -> NDArray[np.bool_]:
        underway: NDArray[np.bool_] = ~self._finished & (self._step > 0)
        return underway

    def _unroll_again(self, theta: NDArray[np.float64], pairs: NDArray[np.int64]) -> Window:
        """Do what `refresh` does with the episodes of `pairs` (B,), ascending."""
        if not pairs.size:
            return Window([], 0, 0, 0, 0)
        budget = np.zeros(self._n_held, np.int64)
        budget[pairs] = self._step[pairs]
        self._ratios = []
        self._rewind(pairs)
        return self._advance(theta, budget)

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

    def _note_sigmas(self, pairs: NDArray[np.int64]) -> None:
        """Keep the σ that the part of `pairs` was made under, as the first σ over it."""
        if self._adaptation is not None:
            self._ratios.append(self.sigma / self._sigmas[pairs])

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

    def _advance(self, theta: NDArray[np.float64], budget: NDArray[np.int64]) -> Window:
        """Move every worker's clock on by its `budget` (N,), beginning new episodes on the way."""
        remaining = budget.copy()
        parts: list[Part] = []
        total, episodes = 0, 0
        while (active := np.flatnonzero(remaining)).size:
            self._sum.settle(active)
            self._begin_episodes(active[self._finished[active]])
            piece = self._unroll_piece(theta, active, remaining[active])
            parts.append(Part(piece.pairs, piece.losses))
            self._note_sigmas(piece.pairs)
            total += piece.total_steps
            if not piece.advance.all():
                raise BrokenTaskError(
                    f"{self._name}: an episode ended without a step; if the state was restored, "
                    "it is none that was saved"
                )
            self._step[active] += piece.advance
            remaining[active] -= piece.advance
            self._finished[active] |= self._step[active] >= self._end
            episodes += int(self._finished[active].sum())
        return Window(parts, int(budget.sum()), int(budget.max()), total, episodes)

    def _unroll_piece(
        self, theta: NDArray[np.float64], active: NDArray[np.int64], remaining: NDArray[np.int64]
    ) -> Piece:
        """Unroll the `active` workers (B,) by at most `remaining` (B,), within one noise segment.

        What the gradient needs of it is added to `_sum`.
        """
        raise NotImplementedError

    def _begin_episodes(self, pairs: NDArray[np.int64]) -> None:
        """Give each of `pairs` one common fresh start for all its rows."""
        if not pairs.size:
            return
        self._episode[pairs] += 1
        self._segment[pairs] = -1
        self._finished[pairs] = False
        self._rewind(pairs)
        if self._normalizers is not None and self.statistics is not None:
            self._normalizers.freeze(self._rows_to_reset(pairs), self.statistics.normalizer())
        if self._adaptation is not None:
            self._sigmas[pairs] = self._adaptation.of_pairs(pairs)

    def _rewind(self, pairs: NDArray[np.int64]) -> None:
        """Put the rows of `pairs` (B,) to the start of their episodes."""
        self._step[pairs] = 0
        seeds = episode_seeds(self.seed, self._first_pair + pairs, self._episode[pairs])
        rows = self._rows_to_reset(pairs)
        self._row_ended[rows] = False
        self.task.reset(rows, np.repeat(seeds, rows.size // pairs.size))
        if self._drift is not None:
            self._drift.restart(pairs)

    def _rows_to_reset(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return pair_rows(pairs)

    def _next_noise(self, pairs: NDArray[np.int64]) -> None:
        """Draw the noise of the next segment for `pairs`."""
        if pairs.size:
            self._segment[pairs] += 1
            self._draw(pairs, self._segment[pairs])

    def _draw(self, pairs: NDArray[np.int64], segments: NDArray[np.int64]) -> None:
        draw_designed_noise(
            self.noise, self.seed, pairs, self._episode[pairs], segments, self._sigmas[pairs],
            self._epsilon,
            self._accumulated, self._n_threads, self._first_pair,
        )  # fmt: skip

    def _unroll_rows(
        self, theta: NDArray[np.float64], rows: NDArray[np.int64], n_steps: NDArray[np.int64]
    ) -> UnrollResult:
        """Perturb and unroll `rows` (B,), and refuse losses that are not finite."""
        thetas = self._thetas[: rows.size]
        perturb(theta, self._epsilon, rows, thetas, self._n_threads)
        result = self.task.unroll(rows, thetas, n_steps)
        self._row_ended[rows] |= result.ended
        short = (result.steps_taken < n_steps) & ~result.ended & np.isfinite(result.loss_sum)
        if short.any():
            raise BrokenTaskError(
                f"{self._name}: a row that had not ended took fewer steps than it was asked for; "
                "if the state was restored, it is none that was saved"
            )
        bad = np.flatnonzero(~np.isfinite(result.loss_sum))
        if bad.size:
            row = int(rows[bad[0]])
            is_mean = row >= 2 * self._n_held
            pair = row - 2 * self._n_held if is_mean else row // 2
            raise NonFiniteLossError(
                self._name,
                self._first_pair + pair,
                "mean" if is_mean else ("plus", "minus")[row % 2],
                int(self._step[pair] + result.steps_taken[bad[0]]),
                float(result.loss_sum[bad[0]]),
            )
        if self.reward_offset:
            offset = self.reward_offset * result.steps_taken
            return result._replace(loss_sum=result.loss_sum + offset)
        return result

    def _ready(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `theta` as it must be, once the estimator has started."""
        if not self._started:
            raise RuntimeError("call reset(theta) or load_state_dict(state) before estimate(theta)")
        return self.check_theta(theta)

    @property
    def _name(self) -> str:
        return str(getattr(self.task, "name", type(self.task).__name__))

    def check_theta(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `theta` (d,) as a contiguous array, or raise ValueError if it is not usable."""
        theta = np.ascontiguousarray(theta, np.float64)
        if theta.shape != (self.task.num_params,):
            raise ValueError(
                f"theta has shape {theta.shape}, the task takes ({self.task.num_params},)"
            )
        if not np.isfinite(theta).all():
            raise ValueError("theta has NaN or infinite entries")
        return theta

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the estimator stood that gave `state`.

        Raises:
            ValueError: if the state is of an estimator with other settings.
        """
        self._load_workers(state)
        self._restore_noise()
        self._started = True

    def _restore_noise(self) -> None:
        """Draw the noise of all running episodes again, in the order in which it was drawn."""
        running = np.flatnonzero(~self._finished & (self._segment >= 0))
        if self._accumulated is None:
            self._draw(running, self._segment[running])
            return
        for segment in range(int(self._segment[running].max(initial=-1)) + 1):
            pairs = running[self._segment[running] >= segment]
            self._draw(pairs, np.full(pairs.size, segment, np.int64))


def pair_rows(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return plus and minus row of each pair, (2B,)."""
    rows = np.repeat(2 * pairs, 2)
    rows[1::2] += 1
    return rows
