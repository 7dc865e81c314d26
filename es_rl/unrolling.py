"""How N workers move on: episodes begun and ended, noises drawn, rows perturbed and unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.noise_designs import draw_designed_noise
from es_rl.perturbations import episode_seeds, perturb
from es_rl.shaping import Part
from es_rl.tasks import BrokenTaskError, NonFiniteLossError, UnrollResult
from es_rl.window import Piece, Window
from es_rl.worker_state import WorkerState

__all__ = ["UnrolledWorkers", "pair_rows"]


class UnrolledWorkers(WorkerState):
    """Workers that are unrolled, each with its noise, by as many steps as they are asked for.

    What becomes of the losses is `es_rl.workers.Estimator`'s.
    """

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

    def _note_sigmas(self, pairs: NDArray[np.int64]) -> None:
        """Keep the σ that the part of `pairs` was made under, as the first σ over it."""
        if self._adaptation is not None:
            self._ratios.append(self.sigma / self._sigmas[pairs])

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
