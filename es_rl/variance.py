"""The total variance of gradient estimators at a fixed θ, measured on any task.

The total variance is the trace of the covariance of one pair's estimate. θ never moves, so there
is no hysteresis: all noise that a pair has accumulated was accumulated at that very θ.

Each sample is one whole episode of one pair: the estimates of its n = T/W windows, which share
noise and states and so depend on one another. Different pairs have noise, starts and randomness
of their own and are independent; they alone are counted. Window k of a pair that starts at step
0 has exactly the distribution of a first estimate that a step-unlocked start puts at step k·W, so
that no sample is spent on unrolling to a start, and every window serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from es_rl import variance_theory as theory
from es_rl.block_sums import BLOCK_PAIRS
from es_rl.estimators import GPES, TES, FullES
from es_rl.normalization import Normalizer, Statistics
from es_rl.tasks import UnrolledTask
from es_rl.variance_interval import Interval, mean_interval
from es_rl.window import GradientEstimate
from es_rl.workers import Estimator

__all__ = ["MIN_SAMPLES", "Measurement", "closed_variance", "measure"]

MIN_SAMPLES = 10
"""Fewer independent samples give no interval worth the name."""

_BYTES, _MOST_PAIRS = 1 << 27, 1024
_INDEPENDENT: Mapping[str, tuple[Any, ...]] = {
    "shaping": ("none",), "top_pairs": (None,), "noise": ("gaussian", "fixed-norm"),
    "adapt_sigma": (None, 0.0), "unroll_range": (None,),
}  # fmt: skip
"""Values of options with which the pairs' estimates are independent of one another."""

Floats = NDArray[np.float64]


class Measurement(NamedTuple):
    """What was measured of one estimator.

    Variances are those of one pair's estimate; N independent pairs have an N-th of each.

    Attributes:
        mean: (d,) float64, mean gradient.
        mean_error: (d,) float64, its standard errors.
        squared_norm: unbiased estimate of ‖mean gradient‖²; noise may turn it negative.
        variance: total variance at a window drawn at random, as with staggering "iid".
        stratified: mean over the windows of the total variance at a known window: what a pair
            has with staggering "stratified", where N is a multiple of the windows. None where
            windows do not divide the episode.
        episode: total variance of the mean of a pair's estimates over a whole episode. None
            where windows do not divide the episode, or episodes ended early.
        unroll_length: W; for FullES the horizon.
        noise_period: K; None where there is none.
        n_windows: windows of a sample.
        n_samples: independent samples, m.
        steps_per_estimate: environment steps that one pair's estimate took, on average.
        total_steps: environment steps of the whole measurement.
    """

    mean: Floats
    mean_error: Floats
    squared_norm: float
    variance: Interval
    stratified: Interval | None
    episode: Interval | None
    unroll_length: int
    noise_period: int | None
    n_windows: int
    n_samples: int
    steps_per_estimate: float
    total_steps: int


@runtime_checkable
class _HasStepGradients(Protocol):
    def step_gradients(self, theta: Floats, horizon: int) -> Floats: ...


def measure(
    kind: type[Estimator],
    task: UnrolledTask,
    theta: Floats,
    *,
    n_samples: int,
    seed: int = 0,
    confidence: float = 0.95,
    normalizer: Normalizer | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
    **options: Any,
) -> Measurement:
    """Measure mean and total variance of an estimator at a fixed θ.

    Sample i is pair i of an estimator with m pairs, whatever m is. Memory is m·d doubles, and the
    task's rows of at most 1024 pairs at a time.

    Where W does not divide T, samples begin at random positions (staggering "iid") and have
    ⌈T/W⌉ windows. Where episodes end early, windows run over their ends as in training.

    Args:
        kind: `NRES`, `PES`, `GPES`, `TES` or `FullES`.
        task: what is unrolled; its rows are allocated anew.
        theta: (d,) float64.
        n_samples: m, independent samples, 10 or more. The standard error of a variance falls as
            1/√m, from one to three times the variance itself at m = 1.
        seed: 0 to 2**64 - 1.
        confidence: level of the intervals.
        normalizer: what observations are normalised with throughout, where the task's policy does
            so, such as a saved policy's `normalizer`; None leaves them as they are.
        on_progress: told how many windows are done and how many there will be.
        **options: of the estimator, such as `unroll_length`, `sigma`, `noise_period` and
            `horizon`, but none of `n_pairs`, `seed` and `staggering`, and nothing that ties pairs
            together, such as shaping or orthogonal noise.

    Raises:
        NonFiniteLossError: if a loss is NaN or infinite.
        ValueError: names the option that is out of range.
    """
    if n_samples < MIN_SAMPLES:
        raise ValueError(f"n_samples={n_samples}: must be at least {MIN_SAMPLES}")
    for name, plain in _INDEPENDENT.items():
        if options.get(name, plain[0]) not in plain:
            raise ValueError(
                f"{name}={options[name]}: ties the pairs of an update together, which leaves no "
                "independent samples; leave it out"
            )
    start = "iid" if _cuts_windows(task, options) else "lockstep"
    settings = dict(options) if issubclass(kind, FullES) else {**options, "staggering": start}
    estimator = kind(task, n_pairs=n_samples, seed=seed, **settings)
    if estimator.horizon is None:
        raise ValueError("horizon=None: a variance is that of an episode's windows; give a horizon")
    if estimator.statistics is not None and start == "iid":
        raise ValueError(
            f"unroll_length={estimator.unroll_length}: must divide the {estimator.horizon} steps "
            "of an episode where observations are normalised"
        )
    n_windows = -(-estimator.horizon // estimator.unroll_length)
    samples = _Samples(n_samples, task.num_params, n_windows)
    at_once = _pairs_at_once(task)
    for begin in range(0, n_samples, at_once):
        held = slice(begin, min(begin + at_once, n_samples))
        estimator.hold(held.start, held.stop - held.start)
        samples.begin(held, estimator.reset(theta).total_steps)
        if estimator.statistics is not None:
            estimator.statistics = _Unmoved(estimator.statistics.mean.size, normalizer)
        for window in range(n_windows):
            each, result = estimator.estimate_each(theta)
            samples.add(each, result)
            if n_windows > 1:
                ends = len(each) if window == n_windows - 1 else 0
                samples.ended_early |= result.episodes != ends
            on_progress(samples.done, n_samples * n_windows)
        if n_windows > 1:
            samples.ended_early |= not estimator.state_dict()["finished"].all()
    return samples.conclude(estimator, start == "lockstep", confidence)


class _Unmoved(Statistics):
    """Statistics of observations that stay as they are, whatever is observed."""

    def __init__(self, size: int, normalizer: Normalizer | None) -> None:
        super().__init__(size)
        self._fixed = Normalizer.identity(size) if normalizer is None else normalizer.copy()

    def merge(self, count: int, moments: Floats) -> None:
        """Take no notice of new observations."""

    def normalizer(self) -> Normalizer:
        """Return what was given."""
        return self._fixed.copy()


def _cuts_windows(task: UnrolledTask, options: dict[str, Any]) -> bool:
    """Return whether episodes end inside windows because W does not divide T."""
    horizon, length = options.get("horizon") or task.horizon, options.get("unroll_length")
    return bool(horizon and length and horizon % length)


def _pairs_at_once(task: UnrolledTask) -> int:
    """Return how many pairs' rows and noise are held at once, a number of whole blocks."""
    per_pair = 3 * int(getattr(task, "bytes_per_row", 0)) + 8 * 9 * task.num_params
    blocks: int = min(_BYTES // per_pair, _MOST_PAIRS) // BLOCK_PAIRS
    return BLOCK_PAIRS * max(1, blocks)


class _Samples:
    """Sums over the windows of each pair, x its estimates: all that the variances need."""

    def __init__(self, n_samples: int, num_params: int, n_windows: int) -> None:
        self._sums = np.zeros((n_samples, num_params))  # Σ_k x_k
        self._squares = np.zeros(n_samples)  # Σ_k ‖x_k‖²
        self._apart = np.zeros(n_samples // 2)  # Σ_k ½ ‖x_k - x'_k‖² of neighbours
        self._n_windows, self._held = n_windows, slice(0)
        self._steps, self._start_steps = 0, 0
        self.ended_early = False  # whether a pair ended before T
        self.done = 0

    def begin(self, held: slice, start_steps: int) -> None:
        """Go on with the samples `held`, which begin at an even one."""
        self._held = held
        self._start_steps += start_steps

    def add(self, each: Floats, result: GradientEstimate) -> None:
        """Take the estimates of one window, (size, d)."""
        self._sums[self._held] += each
        self._squares[self._held] += np.einsum("ij,ij->i", each, each)
        even = len(each) // 2 * 2
        apart = each[0:even:2] - each[1:even:2]
        first = self._held.start // 2
        self._apart[first : first + even // 2] += 0.5 * np.einsum("ij,ij->i", apart, apart)
        self._steps += result.total_steps
        self.done += len(each)

    def conclude(self, estimator: Estimator, divides: bool, confidence: float) -> Measurement:
        """Return the measurement.

        With y the mean of a pair's n estimates and ȳ the mean over the m pairs, the unbiased
        estimate of the total variance is the mean over the pairs of
        1/n Σ_k ‖x_k‖² - ‖y‖² + m/(m - 1) ‖y - ȳ‖², a sum of two parts that are never negative.
        Two pairs at one window are independent and alike, so that ½ ‖x_k - x'_k‖² is an unbiased
        estimate of the variance at that window.
        """
        n, m = self._n_windows, len(self._sums)
        means = self._sums / n
        centre = means.mean(axis=0)
        errors = means - centre
        own = np.einsum("ij,ij->i", means, means)
        spread = m / (m - 1) * np.einsum("ij,ij->i", errors, errors)
        within = np.maximum(self._squares / n - own, 0.0)  # no less than 0 but for rounding
        whole = divides and not self.ended_early
        return Measurement(
            mean=centre,
            mean_error=errors.std(axis=0, ddof=1) / math.sqrt(m),
            squared_norm=float((m * centre @ centre - own.mean()) / (m - 1)),
            variance=mean_interval(within + spread, confidence),
            stratified=mean_interval(self._apart / n, confidence) if divides else None,
            episode=mean_interval(spread, confidence) if whole else None,
            unroll_length=estimator.unroll_length,
            noise_period=_noise_period(estimator),
            n_windows=n,
            n_samples=m,
            steps_per_estimate=self._steps / (m * n),
            total_steps=self._steps + self._start_steps,
        )


def _noise_period(estimator: Estimator) -> int | None:
    return estimator.noise_period if isinstance(estimator, GPES) else None


def closed_variance(
    kind: type[Estimator],
    task: UnrolledTask,
    theta: Floats,
    *,
    horizon: int,
    unroll_length: int | None = None,
    noise_period: int | None = None,
) -> float | None:
    """Return the exact total variance where the task has one, for any σ.

    That is, where it has a method `step_gradients`, which says that its losses are quadratic in
    the parameters of all steps; see `es_rl.variance_theory`.

    Args:
        kind: `NRES`, `PES`, `GPES`, `TES` or `FullES`.
        task: the task.
        theta: (d,) float64.
        horizon: T.
        unroll_length: W; not used for FullES.
        noise_period: K, as the estimator's attribute; not used for FullES and TES.

    Returns:
        the variance of one pair's estimate at a random window; None where it has no closed form,
        because the task has none or W does not divide T.
    """
    if not isinstance(task, _HasStepGradients):
        return None
    if issubclass(kind, FullES):
        return theory.full_es_variance(task.step_gradients(theta, horizon))
    if unroll_length is None or horizon % unroll_length:
        return None
    gradients = task.step_gradients(theta, horizon)
    if issubclass(kind, TES):
        return theory.tes_variance(gradients, unroll_length)
    return theory.gpes_variance(gradients, unroll_length, noise_period)
