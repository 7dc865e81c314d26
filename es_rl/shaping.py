"""Fitness shaping: what the loss differences of a window weigh in its gradient.

A window consists of parts, (pair i, part p): a part is the stretch of the window that a pair spends
under one noise ξ, usually the whole window; where an episode ends, or a new noise is drawn, inside
the window, a pair has several. With D the part's loss of the plus row minus that of the minus row,
the gradient is a constant times the sum of w·ξ over all parts, and w = D without shaping.

Shaping always starts from the differences D, never from the losses themselves: pairs stand at
different steps of their episodes, so their losses differ for reasons that no noise has caused.
All shapings are odd in D: the mirror image of a pair (ε to -ε) has the difference -D, and must have
the weight -w. That also says that D is distributed around zero, so that its standard deviation is
the root of its mean square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPINGS", "Part", "Shaping"]

SHAPINGS = ("none", "std", "ranks", "sign", "returns")
"""none: w = D.

std: D divided by its standard deviation, the root of the sum of D² over all parts per pair.

ranks: the sign of D times the centred rank of its size: the rank that D has among the numbers D and
-D of all parts, less the middle one; parts of equal size share their ranks.

sign: the sign of D.

returns: D divided by the standard deviation of the returns of all rows, as ARS does; for whole
episodes only.

All but the last are scaled so that the squares of the weights sum to the number of pairs: however a
window is cut into parts, and whatever is shaped, the gradient has the same size.
"""


class Part(NamedTuple):
    """The parts of one window that were unrolled together.

    Attributes:
        pairs: (B,) int64, ascending.
        losses: (2B,) float64, summed losses of the plus and the minus row of each.
    """

    pairs: NDArray[np.int64]
    losses: NDArray[np.float64]

    @property
    def differences(self) -> NDArray[np.float64]:
        """(B,) float64, D."""
        difference: NDArray[np.float64] = self.losses[0::2] - self.losses[1::2]
        return difference


class Shaping:
    """From the losses of a window to the weights of its parts.

    Every sum is exact (`math.fsum`), so the weights are the same bits in whatever order, on
    whatever machine, the losses came together.

    Args:
        name: one of `SHAPINGS`.
        n_pairs: N.
        top_pairs: b, how many pairs count; the others get the weight 0 and are left out of all
            statistics. None for all.
        whole_episodes: whether the losses are those of whole episodes. The best pairs are then
            those whose better row has the largest return, as in ARS. Windows at different steps
            cannot be compared that way: with each pair's own mean taken off first, the better
            row's advantage is |D|/2, and so the pairs with the largest sum of D² are kept.

    Raises:
        ValueError: names the option that is out of range.
    """

    def __init__(
        self, name: str, n_pairs: int, top_pairs: int | None = None, whole_episodes: bool = False
    ) -> None:
        if name not in SHAPINGS:
            raise ValueError(f"shaping={name!r}: choose one of {', '.join(SHAPINGS)}")
        if name == "returns" and not whole_episodes:
            raise ValueError(
                f"shaping={name!r}: is for whole episodes (fulles, ars); windows stand at "
                "different steps and have no returns to compare; choose std"
            )
        if top_pairs is not None and not 1 <= top_pairs <= n_pairs:
            raise ValueError(f"top_pairs={top_pairs}: must be 1 to n_pairs={n_pairs}")
        self.name = name
        self.n_pairs = n_pairs
        self.n_kept = n_pairs if top_pairs is None else int(top_pairs)
        self.whole_episodes = whole_episodes

    @property
    def is_identity(self) -> bool:
        """Whether the weights are the differences themselves, so that none need be computed."""
        return self.name == "none" and self.n_kept == self.n_pairs

    def scale(self, sigma: float, unroll_length: int) -> float:
        """Return the constant before the sum of w·ξ.

        Without shaping it is 1/(2σ²W) per pair that counts. Shaped weights have no unit, so
        there the sum is that of w·ξ/σ, directions of unit variance, per pair that counts; the
        learning rate is then in units of θ.
        """
        if self.name == "none":
            return 1.0 / (2.0 * sigma**2 * unroll_length * self.n_kept)
        return 1.0 / (sigma * self.n_kept)

    def weights(self, parts: Sequence[Part]) -> list[NDArray[np.float64]]:
        """Return the weights of each part's pairs, (B,) float64 each."""
        differences = [part.differences for part in parts]
        if self.is_identity or not parts:
            return differences
        kept = self._kept(parts)
        chosen = np.concatenate([kept[part.pairs] for part in parts])
        joined = np.concatenate(differences)
        shaped = np.zeros(joined.size)
        shaped[chosen] = self._shaped(joined[chosen], parts, kept)
        return np.split(shaped, np.cumsum([d.size for d in differences])[:-1])

    def _kept(self, parts: Sequence[Part]) -> NDArray[np.bool_]:
        """Return which pairs count, (N,); of equal ones, those of the lowest numbers."""
        kept = np.ones(self.n_pairs, np.bool_)
        if self.n_kept == self.n_pairs:
            return kept
        score = np.zeros(self.n_pairs)
        for part in parts:
            if self.whole_episodes:
                score[part.pairs] = -np.minimum(part.losses[0::2], part.losses[1::2])
            else:
                score[part.pairs] += part.differences**2
        kept[np.argsort(-score, kind="stable")[self.n_kept :]] = False
        return kept

    def _shaped(
        self, d: NDArray[np.float64], parts: Sequence[Part], kept: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        if self.name == "none":
            return d
        if self.name == "returns":
            losses = [part.losses[np.repeat(kept[part.pairs], 2)] for part in parts]
            return _ratio(d, _sample_std(np.concatenate(losses)))
        if self.name == "std":
            weights = d
        elif self.name == "sign":
            weights = np.sign(d)
        else:
            weights = np.sign(d) * _centred_ranks(np.abs(d))
        peak = float(np.max(np.abs(weights), initial=0.0))
        # squares of the largest size are 1: they neither overflow nor vanish
        relative = _ratio(weights, peak)
        return _ratio(relative, math.sqrt(math.fsum((relative**2).tolist()) / self.n_kept))


def _ratio(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return `values` / `scale`, and zeros where nothing differs from anything."""
    return values / scale if scale > 0.0 else np.zeros_like(values)


def _sample_std(values: NDArray[np.float64]) -> float:
    """Return the standard deviation, with n - 1 in the denominator as sb3-contrib's ARS has it."""
    peak = float(np.max(np.abs(values)))
    if peak == 0.0:
        return 0.0
    scaled = values / peak
    mean = math.fsum(scaled.tolist()) / scaled.size
    squares = math.fsum(((scaled - mean) ** 2).tolist())
    return peak * math.sqrt(squares / (scaled.size - 1))


def _centred_ranks(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each of M sizes, from 1/2 for the smallest to M - 1/2.

    Among the 2M numbers ±size, the i-th smallest size, i from 1 on, has the rank M + i, which is
    i - 1/2 more than the middle rank. Equal sizes share the mean of their ranks.
    """
    values, where, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    del values
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - 0.5 * counts)[where]
    return ranks
