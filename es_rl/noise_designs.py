"""Kinds of perturbations: Gaussian, of one length, orthogonal within a group of pairs.

All have mean zero, are as likely as their mirror images, and satisfy E[ε εᵀ] = σ²I, so all of them
estimate the gradient of a linear or quadratic loss without bias.

* Orthogonal noise: the Gaussian directions of min(32, d) pairs (of 8 where d is above 10,000, as
  the work grows with the square of their number) are made orthogonal one after another (Gram-
  Schmidt), and each keeps the length of its own Gaussian. As lengths and directions of Gaussians
  are independent and the directions stay uniform, each ε is still exactly N(0, σ²I), and the
  estimator has the same expectation on any loss; what falls is its variance (Choromanski et al.
  2018, "Structured evolution with compact architectures").
* Fixed-norm noise: every ε has the length σ√d. The expectation is the gradient of the loss averaged
  over the ball of that radius (Flaxman et al. 2005) instead of over the Gaussian.

Pairs of a group are orthogonal where they have the same episode and segment. That is always so
where episodes end together (`fulles`, `ars`, lockstep); staggered pairs share it for a part of
each episode, and pairs whose episodes end early lose it. Noise stays a pure function of (seed,
pair, episode, segment): that of a pair is made from the Gaussians of those before it in its block.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl import perturbations
from es_rl.perturbations import (
    NOISE_CHUNK,
    add_noise,
    draw_noise,
    fill_normal,
    split_over_threads,
)
from es_rl.sources import digest

__all__ = ["NOISES", "draw_designed_noise", "group_size"]

NOISES = ("gaussian", "fixed-norm", "orthogonal", "orthogonal-fixed-norm")
"""Kinds of noise by the names that the command line uses."""

_SOURCES = digest(perturbations.__file__)


def group_size(num_params: int) -> int:
    """Return how many pairs have orthogonal noise, for d = `num_params`."""
    return min(32 if num_params <= 10_000 else 8, num_params)


@numba.njit(error_model="numpy", nogil=True)
def _norm(vector):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(vector.size):
        total += vector[i] * vector[i]
    return np.sqrt(total)


@numba.njit(error_model="numpy", nogil=True)
def _leave_out(vector, basis, count):  # type: ignore[no-untyped-def]
    """Take from `vector` (d,) its components along the first `count` rows of `basis`."""
    for k in range(count):
        direction = basis[k]
        along = 0.0
        for i in range(vector.size):
            along += vector[i] * direction[i]
        for i in range(vector.size):
            vector[i] -= along * direction[i]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _draw_designed(  # type: ignore[no-untyped-def]
    start, stop, seed, first_pair, pairs, episodes, segments, sigmas, size, fixed_length,
    epsilon, accumulated, sources=_SOURCES,
):  # fmt: skip
    length = epsilon.shape[1]
    words = np.empty((4, NOISE_CHUNK), np.uint32)
    first, second = np.empty(NOISE_CHUNK), np.empty(NOISE_CHUNK)
    basis, lengths = np.empty((size, length)), np.empty(size)
    count, group, group_episode, group_segment = 0, -1, -1, -1
    for item in range(start, stop):
        pair, episode, segment = first_pair + pairs[item], episodes[item], segments[item]
        member = pair % size
        # neighbours with the same counters go on with the directions that are there
        if (pair - member, episode, segment) != (group, group_episode, group_segment):
            count, group, group_episode, group_segment = 0, pair - member, episode, segment
        while count <= member:
            vector = basis[count]
            fill_normal(vector, seed, group + count, episode, segment, 1.0, words, first, second)
            lengths[count] = _norm(vector)
            # twice: what rounding leaves the first time is gone after the second
            _leave_out(vector, basis, count)
            _leave_out(vector, basis, count)
            rest = _norm(vector)
            for i in range(length):
                vector[i] /= rest
            count += 1
        scale = sigmas[item] * (fixed_length if fixed_length > 0.0 else lengths[member])
        row = epsilon[pairs[item]]
        for i in range(length):
            row[i] = scale * basis[member, i]
        add_noise(accumulated, pairs[item], segment, row)


def draw_designed_noise(
    noise: str,
    seed: int,
    pairs: NDArray[np.int64],
    episodes: NDArray[np.int64],
    segments: NDArray[np.int64],
    sigma: float | NDArray[np.float64],
    epsilon: NDArray[np.float64],
    accumulated: NDArray[np.float64] | None = None,
    n_threads: int | None = None,
    first_pair: int = 0,
) -> None:
    """Draw ε of one of `NOISES` for some pairs; the other arguments are those of `draw_noise`.

    Raises:
        ValueError: if there is no such kind of noise.
    """
    if noise not in NOISES:
        raise ValueError(f"noise={noise!r}: choose one of {', '.join(NOISES)}")
    if noise == "gaussian":
        draw_noise(
            seed, pairs, episodes, segments, sigma, epsilon, accumulated, n_threads, first_pair
        )
        return
    length = epsilon.shape[1]
    size = group_size(length) if noise.startswith("orthogonal") else 1
    fixed_length = math.sqrt(length) if noise.endswith("fixed-norm") else 0.0
    sums = np.empty((0, 0)) if accumulated is None else accumulated
    sigmas = np.array(np.broadcast_to(np.asarray(sigma, np.float64), pairs.shape))
    split_over_threads(
        _draw_designed, pairs.size, pairs.size * length * 4 * size, n_threads,
        np.uint64(seed), first_pair, pairs, episodes, segments, sigmas, size, fixed_length,
        epsilon, sums,
    )  # fmt: skip
