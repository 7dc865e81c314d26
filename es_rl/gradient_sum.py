"""The sum of D·ξ over pairs and noise segments, in the fixed order that defines a result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import (
    BLOCK_PAIRS,
    add_block_sums,
    node_starts,
    reduce_blocks,
    reduce_to_nodes,
    sum_blocks,
    sum_to_nodes,
)
from es_rl.perturbations import split_over_threads

__all__ = ["EachPair", "GradientSum", "KeptSum"]

_COLUMNS = 8192  # columns summed at a time: they stay in the first-level cache


class GradientSum:
    """Collects the parts of one window and gives their sum.

    Parts of one pair are added in the order of time, pairs within their block in order, and block
    sums in their tree (`es_rl.block_sums`). A window of a single part, the usual case, is summed
    in one pass over the noise when its total is asked for, with the same bits and without memory
    for the block sums.

    Args:
        n_pairs: N.
        num_params: d.
        n_threads: for large sums; None for all usable processors.
    """

    def __init__(self, n_pairs: int, num_params: int, n_threads: int | None) -> None:
        self._n_pairs = n_pairs
        self._shape = (-(-n_pairs // BLOCK_PAIRS), num_params)
        self._n_threads = n_threads
        self._block_sums: NDArray[np.float64] | None = None
        self._in_blocks = False
        self._part: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]] | None = None

    def clear(self) -> None:
        """Forget everything that was added."""
        self._part = None
        self._in_blocks = False

    def add(
        self,
        accumulated: NDArray[np.float64],
        pairs: NDArray[np.int64],
        differences: NDArray[np.float64],
    ) -> None:
        """Add D·ξ of `pairs` (B,), ascending, with ξ (N, d) and D (B,).

        ξ is read later: call `settle` before it changes.
        """
        self._take_in()
        self._part = (accumulated, pairs, differences)

    def settle(self, pairs: NDArray[np.int64] | None = None) -> None:
        """Read the noise of what was added last, so that it may change.

        Args:
            pairs: those whose noise may change, ascending; None for any.
        """
        del pairs  # adding a part once is quicker than looking for a share of it
        self._take_in()

    def _take_in(self) -> None:
        if self._part is None:
            return
        add_block_sums(*self._part, self._begin_blocks(), self._n_threads)
        self._part = None

    def _begin_blocks(self) -> NDArray[np.float64]:
        """Return the block sums, zeros if nothing was added to them since `clear`."""
        if self._block_sums is None:
            self._block_sums = np.zeros(self._shape)
        elif not self._in_blocks:
            self._block_sums[:] = 0.0
        self._in_blocks = True
        return self._block_sums

    def total(self, scale: float) -> NDArray[np.float64]:
        """Return `scale` times the sum of all that was added: (d,) float64."""
        if self._part is not None and not self._in_blocks:
            return sum_blocks(*self._part, scale, self._n_threads)
        self._take_in()
        if self._block_sums is None or not self._in_blocks:
            return np.zeros(self._shape[1])
        return reduce_blocks(self._block_sums, scale, self._n_threads)

    def nodes(self, first_block: int) -> NDArray[np.float64]:
        """Return the sum of all that was added as the nodes of a run of blocks: (n_nodes, d).

        `es_rl.block_sums.sum_nodes` makes the total of several runs of them.

        Args:
            first_block: number among all blocks of the one that pair 0 is in.
        """
        if self._part is not None and not self._in_blocks:
            return sum_to_nodes(*self._part, first_block, self._n_threads)
        self._take_in()
        if self._block_sums is None or not self._in_blocks:
            return np.zeros((len(node_starts(first_block, self._shape[0])), self._shape[1]))
        return reduce_to_nodes(self._block_sums, first_block, self._n_threads)


class EachPair(GradientSum):
    """A `GradientSum` that also keeps what each pair added.

    Attributes:
        by_pair: (N, d) float64, sum of D·ξ of each pair since it was cleared last.
    """

    def __init__(self, n_pairs: int, num_params: int, n_threads: int | None) -> None:
        super().__init__(n_pairs, num_params, n_threads)
        self.by_pair = np.zeros((n_pairs, num_params))

    def clear(self) -> None:
        """Forget everything that was added."""
        super().clear()
        self.by_pair[:] = 0.0

    def add(
        self,
        accumulated: NDArray[np.float64],
        pairs: NDArray[np.int64],
        differences: NDArray[np.float64],
    ) -> None:
        """Add D·ξ of `pairs` (B,), ascending, with ξ (N, d) and D (B,)."""
        super().add(accumulated, pairs, differences)
        self.by_pair[pairs] += differences[:, None] * accumulated[pairs]


class _Held(NamedTuple):
    """One part whose weights are not known yet.

    Attributes:
        accumulated: (N, d), ξ, as it is now.
        pairs: (B,) ascending.
        rows: (B,) where each pair's noise stands: row r of ξ, or row -1 - r of `kept`.
        kept: (M, d), noise that has been overwritten in ξ since.
    """

    accumulated: NDArray[np.float64]
    pairs: NDArray[np.int64]
    rows: NDArray[np.int64]
    kept: NDArray[np.float64]


class KeptSum(GradientSum):
    """A `GradientSum` of w·ξ whose weights w are known only when the window is over.

    It keeps the noise that changes before: that of pairs whose episode ends, or whose noise is
    drawn again, inside the window.
    """

    def __init__(self, n_pairs: int, num_params: int, n_threads: int | None) -> None:
        super().__init__(n_pairs, num_params, n_threads)
        self._held: list[_Held] = []

    def clear(self) -> None:
        """Forget everything that was added."""
        super().clear()
        self._held.clear()

    def add(
        self,
        accumulated: NDArray[np.float64],
        pairs: NDArray[np.int64],
        differences: NDArray[np.float64],
    ) -> None:
        """Hold the noise ξ (N, d) of `pairs` (B,), ascending; `weigh` gives the weights."""
        nothing = np.empty((0, accumulated.shape[1]))
        self._held.append(_Held(accumulated, pairs, pairs.copy(), nothing))

    def settle(self, pairs: NDArray[np.int64] | None = None) -> None:
        """Keep the noise of what was added last, so that it may change.

        Args:
            pairs: those whose noise may change, ascending; None for any.
        """
        if not self._held:
            return
        part = self._held[-1]
        changing = (
            np.ones(part.pairs.size, np.bool_) if pairs is None else np.isin(part.pairs, pairs)
        )
        if changing.any():
            kept = part.accumulated[part.pairs[changing]]
            part.rows[changing] = -1 - np.arange(len(kept))
            self._held[-1] = part._replace(kept=kept)

    def by_pair(self, weights: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return each pair's own sum of w·ξ, (N, d) float64; arguments are those of `weigh`."""
        result = np.zeros((self._n_pairs, self._shape[1]))
        for part, weight in zip(self._held, weights, strict=True):
            for pair, row, w in zip(part.pairs, part.rows, weight, strict=True):
                noise = part.accumulated[row] if row >= 0 else part.kept[-1 - row]
                result[pair] += w * noise
        return result

    def weigh(self, weights: Sequence[NDArray[np.float64]]) -> None:
        """Give the parts that were added their weights, (B,) each, before `total` is asked for."""
        held, self._held = self._held, []
        if len(held) == 1 and not len(held[0].kept):
            super().add(held[0].accumulated, held[0].pairs, weights[0])
            return
        sums = self._begin_blocks()
        for part, weight in zip(held, weights, strict=True):
            split_over_threads(
                _add_held, sums.shape[1], part.pairs.size * sums.shape[1], self._n_threads,
                part.accumulated, part.kept, part.rows, part.pairs, weight, sums,
            )  # fmt: skip


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _add_held(start, stop, live, kept, rows, pairs, weights, block_sums):  # type: ignore[no-untyped-def]
    """Add w·ξ of each pair to the sum of its block, columns `start` to `stop`."""
    for left in range(start, stop, _COLUMNS):
        right = min(left + _COLUMNS, stop)
        for item in range(pairs.size):
            row, weight = rows[item], weights[item]
            noise = live[row, left:right] if row >= 0 else kept[-1 - row, left:right]
            sums = block_sums[pairs[item] // BLOCK_PAIRS, left:right]
            for i in range(right - left):
                sums[i] += weight * noise[i]
