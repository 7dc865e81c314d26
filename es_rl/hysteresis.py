"""Hysteresis: what it does to a gradient that θ moves while the pairs' episodes run.

A window starts from states that were computed under earlier θs, with the noises of today. A window
is compared with its *fresh* twin: the same pairs, episodes, noises, seeds and clocks, whose states
were computed anew, from the starts of their episodes, under today's θ. What the estimators scatter
by themselves is the same in both and cancels in the difference; for Assumption 2 of the NRES paper
(a loss quadratic in the parameters of all steps) the fresh estimate has exactly the true gradient
of its window as its mean, so that the mean difference is the bias that hysteresis causes.

Fresh twins cost steps of their own, about as many as the pairs have behind them. They are counted
apart, and the estimator that is measured goes on bit for bit as if it were not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.normalization import Normalizer
from es_rl.tasks import State
from es_rl.variance_interval import Interval
from es_rl.window import GradientEstimate
from es_rl.workers import Estimator

__all__ = ["AgeGroup", "Comparison", "HysteresisMeter", "Summary", "compare", "summarize"]

_RESAMPLES = 1000
_MIN_STRETCHES = 5
"""Fewer stretches of independent windows give no interval worth the name."""

_AGE_GROUPS = 5
_GROUPS = 8

Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """One window as it is, beside its fresh twin.

    Attributes:
        estimate: as it is, the very result of `Estimator.estimate`.
        fresh: (d,) float64, gradient of the fresh twin.
        ages: (N,) int64, steps that each pair's episode had behind it when the window began.
        squared_differences: (N,) float64, of each pair's own estimate and its twin, ‖g - g'‖².
        squared_fresh: (N,) float64, ‖g'‖².
        grouped_differences: (G, d) float64, sums of g - g' over pairs i with the same i mod G,
            times G/N; their mean is the difference of both gradients up to rounding.
        grouped_fresh: (G, d) float64, the same of g'. Noises of different groups are independent.
        extra_sequential_steps: steps of the twin that had to happen one after another.
        extra_total_steps: steps of the twin, over all rows.
    """

    estimate: GradientEstimate
    fresh: Floats
    ages: NDArray[np.int64]
    squared_differences: Floats
    squared_fresh: Floats
    grouped_differences: Floats
    grouped_fresh: Floats
    extra_sequential_steps: int
    extra_total_steps: int

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both gradients; NaN if one of them is zero."""
        mine = self.estimate.gradient
        return _over(float(mine @ self.fresh), _norm(mine) * _norm(self.fresh))

    @property
    def relative_difference(self) -> float:
        """Size of the difference over that of the fresh gradient; NaN if that is zero."""
        return _over(_norm(self.estimate.gradient - self.fresh), _norm(self.fresh))


def compare(estimator: Estimator, theta: Floats) -> Comparison:
    """Do what `estimator.estimate` does, and compare the window with its fresh twin.

    Args:
        estimator: of the GPES family or TES, after `reset` or `load_state_dict`, with all pairs;
            with `refresh_drift` the window "as it is" includes what that refreshes.
        theta: (d,) float64.

    Raises:
        NonFiniteLossError: if a loss is NaN or infinite. Of the twin: the estimator is then as
            before the window.
        RuntimeError: if the estimator was never started.
        ValueError: if the estimator has no running episodes, as FullES and ARS.
    """
    before = estimator.state_dict()
    ages = estimator.ages
    try:
        replay = estimator.refresh(theta)
        fresh_of_pairs, fresh = estimator.estimate_each(theta)
    finally:
        estimator.load_state_dict(before)
    of_pairs, estimate = estimator.estimate_each(theta)
    differences = of_pairs - fresh_of_pairs
    return Comparison(
        estimate=estimate,
        fresh=fresh.gradient,
        ages=ages,
        squared_differences=np.sum(differences**2, axis=1),
        squared_fresh=np.sum(fresh_of_pairs**2, axis=1),
        grouped_differences=_grouped(differences),
        grouped_fresh=_grouped(fresh_of_pairs),
        extra_sequential_steps=replay.sequential_steps + fresh.sequential_steps,
        extra_total_steps=replay.total_steps + fresh.total_steps,
    )


def _grouped(of_pairs: Floats) -> Floats:
    """Return `Comparison`'s sums over groups, of the pairs' own vectors (N, d)."""
    n = len(of_pairs)
    n_groups = min(n, _GROUPS)
    sums = [of_pairs[group::n_groups].sum(axis=0) for group in range(n_groups)]
    return np.array(sums) * (n_groups / n)


class HysteresisMeter:
    """An estimator that compares each of its windows, for a `Trainer` to train with.

    The gradients and their costs are the estimator's own: the run is the same, bit for bit.

    Args:
        estimator: as in `compare`.

    Attributes:
        comparisons: of the windows so far.

    Raises:
        ValueError: if the estimator has no running episodes, as FullES and ARS.
    """

    def __init__(self, estimator: Estimator) -> None:
        if not estimator.can_refresh:
            raise ValueError(
                f"estimator={type(estimator).__name__}: has no hysteresis, as it keeps no states "
                "from one θ to the next; give NRES, PES, GPES or TES"
            )
        self._estimator = estimator
        self.comparisons: list[Comparison] = []

    @property
    def normalizer(self) -> Normalizer | None:
        """What today's policy normalises observations with; None if it does not."""
        return self._estimator.normalizer

    def reset(self, theta: Floats) -> GradientEstimate:
        """Start afresh, with θ (d,), and forget all comparisons."""
        self.comparisons.clear()
        return self._estimator.reset(theta)

    def estimate(self, theta: Floats) -> GradientEstimate:
        """Unroll one window under θ (d,), and keep its comparison.

        Raises:
            NonFiniteLossError: as `compare` does.
            RuntimeError: likewise.
        """
        self.comparisons.append(compare(self._estimator, theta))
        return self.comparisons[-1].estimate

    def state_dict(self) -> State:
        """Return the state of the estimator alone."""
        return self._estimator.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the estimator stood that gave `state`."""
        self._estimator.load_state_dict(state)


class AgeGroup(NamedTuple):
    """The windows of pairs whose episodes had about the same number of steps behind them.

    Attributes:
        first: fewest steps.
        last: most steps.
        n: windows of pairs.
        relative_difference: root of the sum of the squared differences over that of the squared
            fresh estimates, pair by pair; NaN if the latter is zero.
    """

    first: int
    last: int
    n: int
    relative_difference: float


class Summary(NamedTuple):
    """What many windows tell together.

    With b the expected mean difference and m the expected mean fresh gradient, products ⟨b, b⟩,
    ⟨b, m⟩ and ⟨m, m⟩ are estimated without bias: by those of the means of different groups of
    pairs, whose noises are independent. (The products of the means themselves hold the scatter of
    both; ⟨b, m⟩ would come out negative wherever the fresh gradient is noisy.)

    Attributes:
        windows: how many.
        cosine: mean of the windows' cosines.
        relative_difference: root of the summed squared differences over the summed squared fresh
            gradients: how far a single window's gradient is off, bias and scatter together.
        bias: ‖b‖/‖m‖, 0 where the estimate of ⟨b, b⟩ is negative; NaN where that of ⟨m, m⟩ is not
            positive, or there is one pair only.
        bias_interval: its interval; None with too few windows, or where m does not stand out.
        along: ⟨b, m⟩/⟨m, m⟩: by how much steps are too long (positive) or too short; NaN likewise.
        along_interval: likewise.
        ages: the differences by the age of the pairs' episodes.
        extra_total_steps: steps of all twins.
    """

    windows: int
    cosine: float
    relative_difference: float
    bias: float
    bias_interval: Interval | None
    along: float
    along_interval: Interval | None
    ages: list[AgeGroup]
    extra_total_steps: int


def summarize(
    comparisons: Sequence[Comparison],
    *,
    unroll_length: int,
    horizon: int | None,
    confidence: float = 0.95,
) -> Summary:
    """Return what the windows of a run, in their order, tell together.

    Neighbouring windows share episodes and noises. So intervals come from stretches of ⌈T/W⌉
    windows, an episode's time, that are taken as independent: a percentile bootstrap over them,
    with a fixed seed, where there are five at least.

    Args:
        comparisons: one at least. Those of several runs may follow one another if each is a whole
            number of stretches.
        unroll_length: W.
        horizon: T; None if episodes never end, and nothing is independent of anything.
        confidence: level of the intervals.

    Raises:
        ValueError: if there are no comparisons.
    """
    if not comparisons:
        raise ValueError("comparisons=[]: there are none; compare a window at least")
    fresh = np.array([one.fresh for one in comparisons])
    differences = np.array([one.estimate.gradient for one in comparisons]) - fresh
    cosines = np.array([one.cosine for one in comparisons])
    cosines = cosines[np.isfinite(cosines)]
    bias, along, bias_interval, along_interval = math.nan, math.nan, None, None
    if len(comparisons[0].grouped_fresh) > 1:
        apart = np.array([one.grouped_differences for one in comparisons])
        apart_fresh = np.array([one.grouped_fresh for one in comparisons])
        equal = np.full((1, len(comparisons)), 1.0 / len(comparisons))
        bias, along = (float(value[0]) for value in _ratios(apart, apart_fresh, equal))
        length = len(comparisons) + 1 if horizon is None else -(-horizon // unroll_length)
        intervals = _intervals(
            _stretches(apart, length), _stretches(apart_fresh, length), confidence
        )
        if intervals is not None:
            bias_interval, along_interval = (
                Interval(value, *interval)
                for value, interval in zip((bias, along), intervals, strict=True)
            )
    return Summary(
        windows=len(comparisons),
        cosine=float(cosines.mean()) if cosines.size else math.nan,
        relative_difference=math.sqrt(
            _over(float(np.sum(differences**2)), float(np.sum(fresh**2)))
        ),
        bias=bias,
        bias_interval=bias_interval,
        along=along,
        along_interval=along_interval,
        ages=_age_groups(comparisons, horizon),
        extra_total_steps=sum(one.extra_total_steps for one in comparisons),
    )


def _stretches(values: Floats, length: int) -> Floats:
    """Return the means of (n, G, d) `values` over stretches of `length`, without a shorter rest.

    The rest is the beginning: θ moves most there, and its stretch would be like no other.
    """
    n = len(values) // length
    cut = values[len(values) - n * length :].reshape(n, length, *values.shape[1:])
    means: Floats = cut.mean(axis=1)
    return means


def _ratios(differences: Floats, fresh: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Return (bias, along), (r,) each, for weighted means of windows or stretches (n, G, d).

    `drawn` is (r, n), weights that sum to 1.
    """
    n_groups = fresh.shape[1]

    def product(a: Floats, b: Floats) -> Floats:
        # over all pairs of different groups
        across = a.sum(axis=1) @ b.sum(axis=1).T - np.einsum("sgd,tgd->st", a, b)
        found: Floats = np.einsum("rs,st,rt->r", drawn, across, drawn) / (n_groups * (n_groups - 1))
        return found

    below = product(fresh, fresh)
    below = np.where(below > 0.0, below, np.nan)
    squared = product(differences, differences) / below
    return np.sqrt(np.maximum(squared, 0.0)), product(differences, fresh) / below


def _intervals(
    differences: Floats, fresh: Floats, confidence: float
) -> list[tuple[float, float, float]] | None:
    """Return (low, high, error) of bias and along, from stretches (n, G, d); None if it cannot."""
    n, tail = len(fresh), 0.5 - 0.5 * confidence
    if n < _MIN_STRETCHES:
        return None
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1.0 / n), size=_RESAMPLES) / n
    found = []
    for values in _ratios(differences, fresh, drawn):
        defined = values[np.isfinite(values)]
        if defined.size < (1.0 - tail) * _RESAMPLES:
            return None
        low, high = np.quantile(defined, [tail, 1.0 - tail])
        found.append((float(low), float(high), float(defined.std())))
    return found


def _age_groups(comparisons: Sequence[Comparison], horizon: int | None) -> list[AgeGroup]:
    """Return groups of equal parts of the episode, episodes that begin in a group of their own."""
    ages = np.concatenate([one.ages for one in comparisons])
    differences = np.concatenate([one.squared_differences for one in comparisons])
    fresh = np.concatenate([one.squared_fresh for one in comparisons])
    longest = int(ages.max()) + 1 if horizon is None else horizon
    edges = [0, *(1 + (longest - 1) * k // _AGE_GROUPS for k in range(_AGE_GROUPS + 1))]
    groups = []
    for first, end in pairwise(edges):
        here = (ages >= first) & (ages < end)
        if here.any():
            ratio = _over(float(differences[here].sum()), float(fresh[here].sum()))
            groups.append(AgeGroup(first, end - 1, int(here.sum()), math.sqrt(ratio)))
    return groups


def _norm(vector: Floats) -> float:
    return math.sqrt(float(vector @ vector))


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0.0 else math.nan
