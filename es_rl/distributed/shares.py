"""Cutting pairs into shares, and joining what a window of each brought."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import BLOCK_PAIRS
from es_rl.shaping import Part
from es_rl.window import Window

__all__ = [
    "Share",
    "join_windows",
    "most_shares",
    "split_pairs",
    "split_weights",
]


class Share(NamedTuple):
    """Pairs that one worker holds, whole blocks of them.

    Attributes:
        first_pair: number of the first.
        n_pairs: how many follow one another from there.
    """

    first_pair: int
    n_pairs: int

    @property
    def n_blocks(self) -> int:
        """Blocks of pairs, the last of which may be broken."""
        return -(-self.n_pairs // BLOCK_PAIRS)

    @property
    def held(self) -> slice:
        """The share's place among all pairs."""
        return slice(self.first_pair, self.first_pair + self.n_pairs)

    def rows(self, n_pairs: int, rows_per_pair: int) -> NDArray[np.int64]:
        """Return the numbers that the share's rows have among those of all `n_pairs` pairs."""
        rows = np.arange(2 * self.first_pair, 2 * (self.first_pair + self.n_pairs))
        further = [
            k * n_pairs + np.arange(self.first_pair, self.first_pair + self.n_pairs)
            for k in range(2, rows_per_pair)
        ]
        return np.concatenate([rows, *further])


def most_shares(n_pairs: int) -> int:
    """Return how many shares `n_pairs` pairs can be cut into: the number of their blocks."""
    return -(-n_pairs // BLOCK_PAIRS)


def split_pairs(n_pairs: int, n_shares: int) -> list[Share]:
    """Return shares that differ by one block at most.

    Raises:
        ValueError: if there are fewer blocks than shares.
    """
    n_blocks = most_shares(n_pairs)
    if not 1 <= n_shares <= n_blocks:
        raise ValueError(
            f"workers={n_shares}: {n_pairs} pairs are {n_blocks} blocks of {BLOCK_PAIRS}, "
            f"which are never divided; give 1 to {n_blocks} workers, or more pairs"
        )
    cuts = [BLOCK_PAIRS * (n_blocks * i // n_shares) for i in range(n_shares)] + [n_pairs]
    return [Share(a, b - a) for a, b in itertools.pairwise(cuts)]


def join_windows(shares: Sequence[Share], windows: Sequence[Window]) -> Window:
    """Return the window of all pairs, with their numbers among all."""
    parts = []
    for k in range(max(len(window.parts) for window in windows)):
        there = [(s, w.parts[k]) for s, w in zip(shares, windows, strict=True) if k < len(w.parts)]
        parts.append(
            Part(
                np.concatenate([share.first_pair + part.pairs for share, part in there]),
                np.concatenate([part.losses for _, part in there]),
            )
        )
    moments = [window.moments for window in windows if window.moments is not None]
    return Window(
        parts,
        n_steps=sum(window.n_steps for window in windows),
        sequential_steps=max(window.sequential_steps for window in windows),
        total_steps=sum(window.total_steps for window in windows),
        episodes=sum(window.episodes for window in windows),
        moments=np.concatenate(moments) if moments else None,
        replayed_steps=sum(window.replayed_steps for window in windows),
    )


def split_weights(
    shares: Sequence[Share], window: Window, weights: Sequence[NDArray[np.float64]]
) -> list[list[NDArray[np.float64]]]:
    """Return, for each share, the weights of its pairs in each of its parts.

    Args:
        shares: all of them.
        window: that of all pairs.
        weights: for each part of it, (B,) float64.
    """
    result: list[list[NDArray[np.float64]]] = [[] for _ in shares]
    for part, weight in zip(window.parts, weights, strict=True):
        for share, own in zip(shares, result, strict=True):
            left, right = np.searchsorted(part.pairs, (share.held.start, share.held.stop))
            if left < right:
                own.append(weight[left:right])
    return result
