"""Evolution-strategies gradient estimators for unrolled computation graphs.

`GPES` is the general unbiased online estimator; `NRES` and `PES` are GPES with the noise period
fixed (Noise-Reuse Evolution Strategies, Algorithms 1 and 2). `TES` truncates (equation 4) and is
biased. `FullES`, which unrolls whole episodes, and `ARS` are those of `es_rl.whole_episodes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from es_rl.estimator_options import positive_integer
from es_rl.tasks import State, UnrolledTask
from es_rl.unroll_adaptation import UnrollAdaptation
from es_rl.unrolling import pair_rows
from es_rl.whole_episodes import ARS, FullES
from es_rl.window import GradientEstimate, Piece, Window
from es_rl.worker_state import NEVER
from es_rl.workers import Estimator

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from es_rl.estimator_options import EstimatorOptions

__all__ = [
    "ARS",
    "ESTIMATORS",
    "GPES",
    "NRES",
    "PES",
    "TES",
    "Estimator",
    "FullES",
    "GradientEstimate",
]


class GPES(Estimator):
    """Generalised persistent evolution strategies: unbiased, online (main paper, section 3).

    For one pair and window, with the loss difference D = Σ [L(plus row) - L(minus row)], the
    estimate is D / (2σ²W) · ξ, where ξ is the sum of all noises of the episode so far and a new
    ε is drawn every K steps. A pair ends when both rows have ended or at T; a row that has ended
    waits, without loss or steps, for its twin. The next episode begins inside the window, and
    each part of D meets the ξ it was made under.

    Args:
        task: what is unrolled.
        n_pairs: N, antithetic pairs.
        unroll_length: W, steps of a window.
        sigma: σ, standard deviation of the noise.
        noise_period: K, steps that share one noise, a multiple of W; None for the horizon.
        horizon: T, steps of an episode; None for the task's own.
        staggering: how the pairs start: "stratified", "iid" or "lockstep".
        seed: 0 to 2**64 - 1; the only source of randomness.
        options: those of `EstimatorOptions`.

    Raises:
        ValueError: names the option that is out of range.
    """

    can_refresh = True
    fixed_window = ""

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        unroll_length: int,
        sigma: float,
        noise_period: int | None = None,
        horizon: int | None = None,
        staggering: str = "stratified",
        seed: int = 0,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            task,
            n_pairs=n_pairs,
            unroll_length=unroll_length,
            sigma=sigma,
            horizon=horizon,
            staggering=staggering,
            seed=seed,
            **options,
        )
        if noise_period is not None:
            noise_period = positive_integer("noise_period", noise_period)
            if noise_period % self.unroll_length:
                raise ValueError(
                    f"noise_period={noise_period}: must be a multiple of "
                    f"unroll_length={self.unroll_length}"
                )
        self.noise_period = self.horizon if noise_period is None else noise_period
        self._period = NEVER if self.noise_period is None else self.noise_period
        if self.unroll_range is not None:
            self._unrolls = UnrollAdaptation(
                self.unroll_range, self.unroll_length, self.n_pairs, self.horizon, noise_period
            )

    def unroll_window(self, theta: NDArray[np.float64]) -> Window:
        """Do what `Estimator.unroll_window` does, after W was brought up to date."""
        if self._unrolls is None:
            return super().unroll_window(theta)
        self._unrolls.choose()
        window = super().unroll_window(theta)
        into_segment = (self._step - 1) % self._period + 1  # K itself at a noise's end
        weights = np.sqrt(self._segment + 1.0) * (self.sigma / self._sigmas)
        self._unrolls.learn(window.parts, into_segment, weights)
        return window

    def _settings(self) -> State:
        return {**super()._settings(), "noise_period": np.array(self.noise_period or 0)}

    def _allocate(self) -> None:
        super()._allocate()
        if self._period < self._end:
            self._accumulated = np.zeros_like(self._epsilon)

    def _unroll_again(self, theta: NDArray[np.float64], pairs: NDArray[np.int64]) -> Window:
        self._segment[pairs] = -1  # the noises are drawn again, and accumulate again
        return super()._unroll_again(theta, pairs)

    def _unroll_piece(
        self, theta: NDArray[np.float64], active: NDArray[np.int64], remaining: NDArray[np.int64]
    ) -> Piece:
        step = self._step[active]
        into_segment = step % self._period
        self._next_noise(active[into_segment == 0])
        n_steps = np.minimum(remaining, np.minimum(self._end - step, self._period - into_segment))
        rows, steps_of_rows = pair_rows(active), np.repeat(n_steps, 2)
        alive = ~self._row_ended[rows]
        losses = np.zeros(rows.size)
        taken = np.zeros(rows.size, np.int64)
        result = self._unroll_rows(theta, rows[alive], steps_of_rows[alive])
        losses[alive] = result.loss_sum
        taken[alive] = result.steps_taken
        xi = self._epsilon if self._accumulated is None else self._accumulated
        self._sum.add(xi, active, losses[0::2] - losses[1::2])
        ended = self._row_ended[rows]
        self._finished[active] = ended[0::2] & ended[1::2]
        return Piece(active, losses, int(taken.sum()), np.maximum(taken[0::2], taken[1::2]))


class NRES(GPES):
    """Noise-reuse evolution strategies: one noise an episode, the least variance (Algorithm 2)."""

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        unroll_length: int,
        sigma: float,
        horizon: int | None = None,
        staggering: str = "stratified",
        seed: int = 0,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            task,
            n_pairs=n_pairs,
            unroll_length=unroll_length,
            sigma=sigma,
            horizon=horizon,
            staggering=staggering,
            seed=seed,
            **options,
        )


class PES(GPES):
    """Persistent evolution strategies: a new noise every window (Algorithm 1)."""

    fixed_window = "draws a new noise every window, so that its noise period would change with W"

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        unroll_length: int,
        sigma: float,
        horizon: int | None = None,
        staggering: str = "stratified",
        seed: int = 0,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            task,
            n_pairs=n_pairs,
            unroll_length=unroll_length,
            sigma=sigma,
            noise_period=unroll_length,
            horizon=horizon,
            staggering=staggering,
            seed=seed,
            **options,
        )


class TES(Estimator):
    """Truncated evolution strategies (equation 4): online, and biased towards short horizons.

    Each worker keeps one state. A window copies it to both rows of the pair, unrolls those under
    θ ± ε with a fresh ε, and advances the state itself under θ: three unrolls, all charged. A
    worker's episode ends with its own state's, or at T; the next one begins inside the window.

    Args are those of `NRES`.
    """

    rows_per_worker = 3
    can_refresh = True
    fixed_window = "has a bias that depends on W"

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        unroll_length: int,
        sigma: float,
        horizon: int | None = None,
        staggering: str = "stratified",
        seed: int = 0,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            task,
            n_pairs=n_pairs,
            unroll_length=unroll_length,
            sigma=sigma,
            horizon=horizon,
            staggering=staggering,
            seed=seed,
            **options,
        )

    def start(self, theta: NDArray[np.float64]) -> Window:
        """Start afresh: each worker's own state alone is unrolled to its start step, under θ."""
        with self._states_alone():
            return super().start(theta)

    def _unroll_again(self, theta: NDArray[np.float64], pairs: NDArray[np.int64]) -> Window:
        with self._states_alone():
            return super()._unroll_again(theta, pairs)

    @contextmanager
    def _states_alone(self) -> Iterator[None]:
        """Advance nothing but the workers' own states inside the block."""
        self._alone = True
        try:
            yield
        finally:
            self._alone = False

    _alone = False

    def _rows_to_reset(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return 2 * self._n_held + pairs

    def _unroll_piece(
        self, theta: NDArray[np.float64], active: NDArray[np.int64], remaining: NDArray[np.int64]
    ) -> Piece:
        n_steps = np.minimum(remaining, self._end - self._step[active])
        means = 2 * self._n_held + active
        if self._alone:
            result = self._unroll_rows(theta, means, n_steps)
            self._finished[active] = result.ended
            taken = result.steps_taken
            return Piece(active, np.repeat(result.loss_sum, 2), int(taken.sum()), taken)
        self._next_noise(active)
        pairs = pair_rows(active)
        self.task.copy_rows(np.repeat(means, 2), pairs)
        self._row_ended[pairs] = False
        rows = np.concatenate([pairs, means])
        result = self._unroll_rows(theta, rows, np.concatenate([np.repeat(n_steps, 2), n_steps]))
        losses = result.loss_sum[: pairs.size]
        self._sum.add(self._epsilon, active, losses[0::2] - losses[1::2])
        taken = result.steps_taken
        self._finished[active] = result.ended[pairs.size :]
        longest = np.maximum(taken[: pairs.size : 2], taken[1 : pairs.size : 2])
        advance = np.maximum(longest, taken[pairs.size :])
        return Piece(active, losses, int(taken.sum()), advance)


ESTIMATORS: Mapping[str, type[Estimator]] = {
    "nres": NRES,
    "pes": PES,
    "gpes": GPES,
    "tes": TES,
    "fulles": FullES,
    "ars": ARS,
}
"""Estimators by the names that the command line uses."""
