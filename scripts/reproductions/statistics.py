"""Averages over seeds with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Band",
    "Estimate",
    "intervals",
    "listed",
    "mean_band",
    "mean_estimate",
    "median_estimate",
]

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A number and its 95 % interval; low and high are NaN where there is none."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """Return the number, rounded to four digits."""
        return f"{self.value:.4g}"

    def interval(self) -> str:
        """Return the interval in words, "" if there is none."""
        if math.isnan(self.low) or math.isnan(self.high):
            return ""
        return f"{self.low:.4g} to {self.high:.4g}"


class Band(NamedTuple):
    """Means at several points with their 95 % intervals, each (n,) float64."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def mean_band(values: Sequence[NDArray[np.float64]]) -> Band:
    """Return the mean over seeds at each point, with Student's t interval.

    A single seed has no interval: low and high are NaN. A point where a seed is not finite has
    no finite mean either: a run that diverged is not left out.

    Args:
        values: for each seed (n,) float64.
    """
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    n = array.shape[0]
    mean = array.mean(axis=0)
    if n < 2:
        return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    with np.errstate(invalid="ignore"):
        half = t.ppf(0.5 + CONFIDENCE / 2, n - 1) * array.std(axis=0, ddof=1) / math.sqrt(n)
    return Band(mean, mean - half, mean + half)


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of `values` with Student's t interval."""
    band = mean_band([np.array([value]) for value in values])
    return Estimate(float(band.mean[0]), float(band.low[0]), float(band.high[0]))


def median_estimate(values: Sequence[float]) -> Estimate:
    """Return the median of `values`, which may be infinite, with the range of all of them."""
    array = np.sort(np.asarray(values, np.float64))
    middle = array[[(array.size - 1) // 2, array.size // 2]]
    # the mean of two infinities is one, not a warning
    value = float(middle[0]) if middle[0] == middle[1] else float(middle.mean())
    return Estimate(value, float(array[0]), float(array[-1]))


def listed(estimates: Mapping[str, Estimate]) -> str:
    """Return named numbers in words."""
    return ", ".join(f"{name} {estimate.text()}" for name, estimate in estimates.items())


def intervals(estimates: Mapping[str, Estimate]) -> str:
    """Return the intervals of named numbers in words, "" if none has one."""
    some = {name: estimate.interval() for name, estimate in estimates.items()}
    return "; ".join(f"{name} {interval}" for name, interval in some.items() if interval)
