"""Mini-batches and start parameters as pure functions of a seed and counters, compiled.

The random words are those of `es_rl.perturbations` (Philox): two rows with one seed meet the same
batches and start alike, on any thread and any machine. The third counter word tells the streams
apart, the second one the steps.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.perturbations import box_muller, philox

__all__ = [
    "EVALUATION",
    "TRAINING",
    "batch_table",
    "draw_batch",
    "draw_initial",
    "initial_theta",
]

TRAINING, EVALUATION, _START, _THETA = np.uint32(0), np.uint32(1), np.uint32(2), np.uint32(3)
_u4, _u8 = np.uint32, np.uint64


@numba.njit(error_model="numpy", nogil=True)
def draw_batch(seed, stream, step, n, taken, indices):  # type: ignore[no-untyped-def]
    """Fill `indices` (b,) with distinct numbers below `n`, every subset equally likely.

    Floyd's algorithm (Bentley and Floyd 1987). `taken` (n or more,) is zero before and after.
    A draw below k is a 32-bit word times k, shifted: its bias is below k / 2**32.
    """
    b = indices.size
    words = np.empty((4, (b + 3) // 4), np.uint32)
    key0, key1 = _u4(seed), _u4(seed >> _u8(32))
    philox(_u4(0), _u4(step), stream, _u4(0), key0, key1, words)
    for i in range(b):
        highest = n - b + i
        index = np.int64((_u8(words[i % 4, i // 4]) * _u8(highest + 1)) >> _u8(32))
        if taken[index]:
            index = highest
        taken[index] = 1
        indices[i] = index
    for i in range(b):
        taken[indices[i]] = 0


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _fill_table(seed, stream, n, taken, table):  # type: ignore[no-untyped-def]
    for step in range(table.shape[0]):
        draw_batch(seed, stream, step, n, taken, table[step])


def batch_table(
    seed: int, stream: np.uint32, n_steps: int, n: int, batch_size: int
) -> NDArray[np.int64]:
    """Return the batches of the first steps, (n_steps, batch_size): indices below `n`."""
    table = np.empty((n_steps, batch_size), np.int64)
    _fill_table(np.uint64(seed), stream, n, np.zeros(n, np.uint8), table)
    return table


@numba.njit(error_model="numpy", nogil=True)
def _truncated_normals(seed, stream, first, scale, out):  # type: ignore[no-untyped-def]
    """Fill `out` with scale times normal variates of magnitude below 2; return the next block."""
    words = np.empty((4, 256), np.uint32)
    left, right = np.empty(256), np.empty(256)
    key0, key1 = _u4(seed), _u4(seed >> _u8(32))
    filled = 0
    while filled < out.size:
        philox(_u4(first), _u4(0), stream, _u4(0), key0, key1, words)
        box_muller(words, 1.0, left, right)
        first += 256
        for i in range(512):
            value = left[i] if i < 256 else right[i - 256]
            if abs(value) < 2.0 and filled < out.size:
                out[filled] = scale * value
                filled += 1
    return first


@numba.njit(error_model="numpy", nogil=True)
def _initialize(seed, stream, sizes, params):  # type: ignore[no-untyped-def]
    """Fill `params` with truncated normals of deviation 1/√n_in for weights, 0 for biases."""
    begin, block = 0, 0
    for layer in range(sizes.size - 1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        weights = params[begin : begin + n_in * n_out]
        block = _truncated_normals(seed, stream, block, 1.0 / np.sqrt(n_in), weights)
        params[begin + n_in * n_out : begin + (n_in + 1) * n_out] = 0.0
        begin += (n_in + 1) * n_out


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _initialize_rows(rows, seeds, sizes, params):  # type: ignore[no-untyped-def]
    for item in range(rows.size):
        own = params[rows[item]]
        if item > 0 and seeds[item] == seeds[item - 1]:
            before = params[rows[item - 1]]
            for i in range(own.size):
                own[i] = before[i]
        else:
            _initialize(seeds[item], _START, sizes, own)


def draw_initial(
    rows: NDArray[np.int64],
    seeds: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    params: NDArray[np.float32],
) -> None:
    """Draw the inner networks' start parameters of `rows` (B,) into `params` (n_rows, P).

    Weights are normal with deviation 1/√n_in, cut off at two deviations, and biases are zero:
    the default of the library (Haiku) that the papers' released codes use.
    """
    _initialize_rows(rows, seeds, sizes, params)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _initialize_theta(seed, sizes, theta):  # type: ignore[no-untyped-def]
    _initialize(seed, _THETA, sizes, theta)


def initial_theta(seed: int, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return start parameters of a network that is θ itself, (d,) float64, drawn likewise."""
    theta = np.empty(int(((sizes[:-1] + 1) * sizes[1:]).sum()))
    _initialize_theta(np.uint64(seed), sizes, theta)
    return theta
