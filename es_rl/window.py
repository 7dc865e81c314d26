"""What the unrolling of a window brings, and the gradient estimate that is made of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.shaping import Part

__all__ = ["GradientEstimate", "Piece", "Window"]


class GradientEstimate(NamedTuple):
    """One gradient estimate and what it cost.

    Attributes:
        gradient: (d,) float64, estimate of the gradient of the mean loss per step.
        mean_loss: mean loss per step of the perturbed rows, over the steps of the window.
        sequential_steps: steps that had to happen one after another.
        total_steps: steps really executed, over all rows.
        episodes: episodes (of pairs) that ended.
    """

    gradient: NDArray[np.float64]
    mean_loss: float
    sequential_steps: int
    total_steps: int
    episodes: int


class Piece(NamedTuple):
    """What some workers brought, unrolled together within one noise each.

    Attributes:
        pairs: (B,) int64, the workers, ascending.
        losses: (2B,) float64, summed losses of their perturbed rows, plus and minus in turn.
        total_steps: steps executed.
        advance: (B,) int64, steps by which each worker's clock advanced.
    """

    pairs: NDArray[np.int64]
    losses: NDArray[np.float64]
    total_steps: int
    advance: NDArray[np.int64]


class Window(NamedTuple):
    """What the unrolling of one window brought, before any gradient is made of it.

    A pair's k-th part is in the k-th piece. Who holds only some of the pairs has their share of
    each piece; joined in the order of the pairs, the shares are the pieces of all.

    Attributes:
        parts: one for each piece, in the order of time.
        n_steps: sum over the workers of the steps by which their clocks advanced.
        sequential_steps: steps that had to happen one after another.
        total_steps: steps really executed, over all rows.
        episodes: episodes (of pairs) that ended.
        moments: (n_blocks, 2n) float64, sums over the observations that the rows acted on, of
            their distances from the mean so far and of the squares, by blocks of pairs; None if
            they are not normalised.
        replayed_steps: those of `total_steps` that brought states up to date before the window
            began; neither their losses nor their observations are in the rest.
    """

    parts: list[Part]
    n_steps: int
    sequential_steps: int
    total_steps: int
    episodes: int
    moments: NDArray[np.float64] | None = None
    replayed_steps: int = 0

    def after(self, replay: Window) -> Window:
        """Return the window with the cost of a `replay` that had to come before it."""
        return self._replace(
            sequential_steps=self.sequential_steps + replay.sequential_steps,
            total_steps=self.total_steps + replay.total_steps,
            episodes=self.episodes + replay.episodes,
            replayed_steps=replay.total_steps,
        )

    def estimate(self, gradient: NDArray[np.float64]) -> GradientEstimate:
        """Return the window's account with the `gradient` (d,) that was made of it."""
        loss = 0.0
        for part in self.parts:
            loss += float(part.losses.sum())
        return GradientEstimate(
            gradient=gradient,
            mean_loss=loss / (2 * self.n_steps) if self.n_steps else math.nan,
            sequential_steps=self.sequential_steps,
            total_steps=self.total_steps,
            episodes=self.episodes,
        )
