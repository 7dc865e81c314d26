"""Confidence intervals of the mean of skewed positive numbers, such as squared distances."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "mean_interval"]

N_RESAMPLES = 1000
_AT_ONCE = 1 << 22  # drawn values held at a time


class Interval(NamedTuple):
    """A measured number with its uncertainty.

    Attributes:
        value: the number.
        low: lower end of the confidence interval.
        high: upper end.
        error: standard error.
    """

    value: float
    low: float
    high: float
    error: float

    def over(self, divisor: float) -> Interval:
        """Return the interval of the number divided by `divisor`, which is positive."""
        return Interval(*(part / divisor for part in self))


def mean_interval(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Return the mean of independent, alike, non-negative values with a confidence interval.

    Squares of Gaussian products have heavy tails: the mean of a few is more often too small than
    too large, and an interval of ± standard errors misses on one side. This is the studentised
    bootstrap on the logarithm (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
    section 12.5), with a fixed seed: the distribution of (log mean* - log mean) / error* over
    resamples gives the interval around log mean.

    Args:
        values: (m,) float64, m at least 2.
        confidence: level, between 0 and 1.

    Returns:
        the mean; both ends equal to it where all values are equal. An end is infinite, or zero,
        where so few values differ from zero that the others alone do not bound it.
    """
    m, mean = values.size, float(values.mean())
    if not mean > 0.0:
        return Interval(mean, mean, mean, 0.0)
    scaled = values / mean  # numbers near 1, so that no square overflows or vanishes
    relative = float(scaled.std(ddof=1) / math.sqrt(m))
    if not relative > 0.0:
        return Interval(mean, mean, mean, 0.0)
    distances = np.empty(N_RESAMPLES)
    rng, at_once = np.random.default_rng(0), max(1, _AT_ONCE // m)
    for begin in range(0, N_RESAMPLES, at_once):
        part = distances[begin : begin + at_once]
        drawn = scaled[rng.integers(m, size=(part.size, m))]
        means = drawn.mean(axis=1)
        # a resample that is all one value is as good as infinitely far from any other mean
        errors = np.maximum(drawn.std(axis=1, ddof=1) / math.sqrt(m), 1e-150)
        with np.errstate(divide="ignore"):
            part[:] = np.log(means) * np.where(means > 0.0, means, 1.0) / errors
    tail = 0.5 - 0.5 * confidence
    left, right = np.quantile(distances, [tail, 1.0 - tail], method="closest_observation")
    with np.errstate(over="ignore"):
        low, high = mean * np.exp(-relative * right), mean * np.exp(-relative * left)
    return Interval(mean, float(low), float(high), mean * relative)
