"""Where in their episodes the workers stand when training starts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from es_rl.perturbations import staggering_uniforms

__all__ = ["STAGGERINGS", "check_staggering", "start_steps"]

STAGGERINGS = ("stratified", "iid", "lockstep")
"""stratified: one share of the workers per window position; iid: each position drawn by itself,
as the papers do; lockstep: all at step 0."""


def check_staggering(staggering: str) -> str:
    """Return `staggering`, or raise ValueError if it is none of `STAGGERINGS`."""
    if staggering not in STAGGERINGS:
        raise ValueError(f"staggering={staggering!r}: choose one of {', '.join(STAGGERINGS)}")
    return staggering


def start_steps(
    staggering: str, n_workers: int, unroll_length: int, horizon: int | None, seed: int
) -> NDArray[np.int64]:
    """Return each worker's start step τ, (N,) int64, uniform over its window positions.

    Windows of W steps begin at the multiples of gcd(W, T), each equally often, so these are the
    positions: {0, W, ..., T - W} where W divides T. Without a horizon nothing ever returns to a
    position, and all workers start at 0.
    """
    if staggering == "lockstep" or horizon is None:
        return np.zeros(n_workers, np.int64)
    spacing = math.gcd(unroll_length, horizon)
    n_positions = horizon // spacing
    if staggering == "iid":
        positions = n_positions * staggering_uniforms(seed, n_workers)
    else:
        # one offset for all: the numbers of workers at any two positions differ by one at most,
        # and over seeds every position gets N / n_positions of them on average
        offset = staggering_uniforms(seed, 1)[0]
        positions = n_positions * (np.arange(n_workers) + offset) / n_workers
    return np.minimum(positions.astype(np.int64), n_positions - 1) * spacing
