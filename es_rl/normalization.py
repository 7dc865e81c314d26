"""Observation normalisation: running statistics, frozen for each episode of a pair.

A policy that normalises sees z = (x - m)·s, bounded, where m is the mean and s one over the
standard deviation of the observations that training has acted on so far (Mania et al. 2018, "ARS
V2"). Statistics that moved inside an episode, or differed between the rows of a pair, would change
what the pair's difference measures. So an episode keeps the statistics of its beginning, and both
rows share them: given the statistics, the estimate stays antithetic and unbiased.

Statistics are brought up to date after each window, from sums that every row makes in its own
order of time and that are then added in one fixed order: blocks of pairs, then blocks. They are the
same bits for any number of threads or processes, on every engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import BLOCK_PAIRS
from es_rl.tasks import State

__all__ = [
    "Normalizer",
    "RowNormalizers",
    "Share",
    "Statistics",
    "block_moments",
]

_MIN_STD = 1e-7  # below it an observation counts as constant, and is seen as 0


class Normalizer(NamedTuple):
    """What observations are normalised with.

    Attributes:
        mean: (n,) float64, m.
        scale: (n,) float64, s: one over the standard deviation, 0 for constant observations.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def identity(cls, size: int) -> Normalizer:
        """Return what leaves observations of `size` numbers as they are."""
        return cls(np.zeros(size), np.ones(size))

    def copy(self) -> Normalizer:
        """Return one with arrays of its own."""
        return Normalizer(self.mean.copy(), self.scale.copy())


class Statistics:
    """Count, mean and spread of all observations so far.

    Args:
        size: n, numbers in an observation.

    Attributes:
        count: observations.
        mean: (n,) float64.
        squares: (n,) float64, sums of squared distances from the mean.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self.squares = np.zeros(size)

    def merge(self, count: int, moments: NDArray[np.float64]) -> None:
        """Take in more observations.

        With x' = x - mean, S = Σx' and Q = Σx'² over the new ones, and n of all, old and new:
        the mean moves by S/n, and the squared distances grow by Q - S²/n (Chan et al. 1983).

        Args:
            count: how many.
            moments: (2n,) float64, S and Q about the present mean.

        Raises:
            FloatingPointError: if an observation was NaN or infinite.
        """
        if count == 0:
            return
        size = self.mean.size
        if not np.isfinite(moments).all():
            bad = int(np.flatnonzero(~np.isfinite(moments))[0]) % size
            raise FloatingPointError(f"observation {bad} became NaN or infinite, or overflows")
        total = self.count + count
        first, second = moments[:size], moments[size:]
        self.squares = np.maximum(self.squares + (second - first * (first / total)), 0.0)
        self.mean = self.mean + first / total
        self.count = total

    def normalizer(self) -> Normalizer:
        """Return what they make of observations; nothing at all before the first ones."""
        if self.count == 0:
            return Normalizer.identity(self.mean.size)
        std = np.sqrt(self.squares / self.count)
        varies = std > _MIN_STD
        scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
        return Normalizer(self.mean.copy(), scale)

    def state_dict(self) -> State:
        """Return everything that continuing needs."""
        return {
            "count": np.array(self.count, np.int64),
            "mean": self.mean.copy(),
            "squares": self.squares.copy(),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: if it is of observations of another size, or incomplete.
        """
        for name in ("count", "mean", "squares"):
            shape = () if name == "count" else self.mean.shape
            if name not in state or state[name].shape != shape:
                raise ValueError(f"the statistics of the observations lack {name!r} of {shape}")
        self.count = int(state["count"])
        self.mean = np.array(state["mean"], np.float64)
        self.squares = np.array(state["squares"], np.float64)


class Share(NamedTuple):
    """The part of `RowNormalizers` that belongs to some rows, to be sent where they live.

    Attributes:
        means: (B, n) float64.
        scales: (B, n) float64.
        center: (n,) float64.
        moments: (B, 2n) float64, to be added to.
    """

    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    center: NDArray[np.float64]
    moments: NDArray[np.float64]


class RowNormalizers:
    """What a task keeps for rows whose policy normalises: each row's statistics, and its sums.

    The estimator says what a row's episode is normalised with, and takes the sums; the task reads
    the one and adds to the others as it unrolls.

    Args:
        size: n, numbers in a flattened observation.

    Attributes:
        size: n.
        means: (n_rows, n) float64, by which the rows see observations until told otherwise.
        scales: (n_rows, n) float64.
        center: (n,) float64, about which the sums are taken.
        moments: (n_rows, 2n) float64, sums over the observations that each row acted on since
            `collect`: of their distances from the centre, then of their squares.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.center = np.zeros(size)
        self.allocate(0)

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows, which see observations as they are."""
        self.means = np.zeros((n_rows, self.size))
        self.scales = np.ones((n_rows, self.size))
        self.moments = np.zeros((n_rows, 2 * self.size))

    def freeze(self, rows: NDArray[np.int64], normalizer: Normalizer) -> None:
        """Let `rows` (B,) see observations through `normalizer` from here on."""
        self.means[rows] = normalizer.mean
        self.scales[rows] = normalizer.scale

    def collect(self, center: NDArray[np.float64]) -> None:
        """Begin new sums, about `center` (n,)."""
        self.center[:] = center
        self.moments[:] = 0.0

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Let the rows `target` (B,) see observations as the rows `source` (B,) do."""
        self.means[target] = self.means[source]
        self.scales[target] = self.scales[source]

    def share(self, rows: NDArray[np.int64]) -> Share:
        """Return copies of what belongs to `rows` (B,)."""
        return Share(self.means[rows], self.scales[rows], self.center, self.moments[rows])

    def get_state(self) -> State:
        """Return what resuming between two windows needs."""
        return {
            "observation_means": self.means.copy(),
            "observation_scales": self.scales.copy(),
        }

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to what `get_state` returned.

        Raises:
            ValueError: if it is of other rows, or of rows that did not normalise.
        """
        for name, target in (
            ("observation_means", self.means),
            ("observation_scales", self.scales),
        ):
            if name not in state or state[name].shape != target.shape:
                shape = state[name].shape if name in state else "missing"
                raise ValueError(
                    f"state {name!r}: expected {target.shape}, got {shape}: it was saved with "
                    "another environment, number of pairs or setting of normalize_observations"
                )
            target[:] = state[name]


def block_moments(moments: NDArray[np.float64], n_pairs: int) -> NDArray[np.float64]:
    """Return the rows' sums (n_rows, 2n), added over each block of pairs: (n_blocks, 2n).

    Within a block: the plus and minus rows in order, then rows from 2N on, one a pair, likewise.
    `reduce_blocks` of the result, or of those of consecutive blocks joined, is the sum of all.
    """
    n_blocks = -(-n_pairs // BLOCK_PAIRS)
    sums = np.zeros((n_blocks, moments.shape[1]))
    for rows, per_block in ((moments[: 2 * n_pairs], 2 * BLOCK_PAIRS),
                            (moments[2 * n_pairs :], BLOCK_PAIRS)):  # fmt: skip
        for place in range(per_block):
            these = rows[place::per_block]
            sums[: len(these)] += these
    return sums
