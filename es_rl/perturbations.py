"""Counter-based noise and antithetic perturbation, compiled.

The noise of one (seed, pair, episode, segment) is a pure function of those four numbers: Philox
4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turned
into normal variates by the Box-Muller transform. Nothing depends on threads, on the order of
drawing, or on the machine.

Counter words: (block of two variates, segment, episode, pair); key words: the two halves of the
seed. Blocks from 2**32 - 2 on are reserved for the seeds of episodes and for the staggering.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl import elementary
from es_rl.elementary import log, sincos_turns
from es_rl.sources import digest

__all__ = [
    "NOISE_CHUNK",
    "add_noise",
    "box_muller",
    "draw_noise",
    "episode_seeds",
    "fill_normal",
    "perturb",
    "philox",
    "split_over_threads",
    "staggering_uniforms",
    "usable_cpus",
]

_SEED_BLOCK = 0xFFFFFFFF
_STAGGERING_BLOCK = 0xFFFFFFFE
NOISE_CHUNK = 512  # blocks drawn at a time: the words stay in the first-level cache
_PARALLEL_FROM = 1 << 17  # elements of work that are worth waking a second thread for
_SOURCES = digest(elementary.__file__)
_u4, _u8 = np.uint32, np.uint64


@numba.njit(error_model="numpy")
def _round(a, b, c, d, k0, k1):  # type: ignore[no-untyped-def]
    p0 = _u8(0xD2511F53) * _u8(a)
    p1 = _u8(0xCD9E8D57) * _u8(c)
    return (
        _u4(_u4(p1 >> _u8(32)) ^ b ^ k0),
        _u4(p1),
        _u4(_u4(p0 >> _u8(32)) ^ d ^ k1),
        _u4(p0),
    )


@numba.njit(error_model="numpy")
def _key_schedule(key0, key1):  # type: ignore[no-untyped-def]
    keys = np.empty(20, np.uint32)
    for i in range(10):
        keys[2 * i] = key0
        keys[2 * i + 1] = key1
        key0 = _u4(key0 + _u4(0x9E3779B9))
        key1 = _u4(key1 + _u4(0xBB67AE85))
    return keys


@numba.njit(error_model="numpy", inline="always")
def _ten_rounds(a, b, c, d, keys):  # type: ignore[no-untyped-def]
    # written out: a loop over the rounds would keep the compiler from vectorising the caller's
    a, b, c, d = _round(a, b, c, d, keys[0], keys[1])
    a, b, c, d = _round(a, b, c, d, keys[2], keys[3])
    a, b, c, d = _round(a, b, c, d, keys[4], keys[5])
    a, b, c, d = _round(a, b, c, d, keys[6], keys[7])
    a, b, c, d = _round(a, b, c, d, keys[8], keys[9])
    a, b, c, d = _round(a, b, c, d, keys[10], keys[11])
    a, b, c, d = _round(a, b, c, d, keys[12], keys[13])
    a, b, c, d = _round(a, b, c, d, keys[14], keys[15])
    a, b, c, d = _round(a, b, c, d, keys[16], keys[17])
    return _round(a, b, c, d, keys[18], keys[19])


@numba.njit(error_model="numpy", nogil=True, cache=True)
def philox(first, b0, c0, d0, key0, key1, words):  # type: ignore[no-untyped-def]
    """Fill `words` (4, n) uint32 with the outputs for counters (first + i, b0, c0, d0)."""
    keys = _key_schedule(key0, key1)
    for i in range(words.shape[1]):
        a, b, c, d = _ten_rounds(_u4(first + _u4(i)), b0, c0, d0, keys)
        words[0, i], words[1, i], words[2, i], words[3, i] = a, b, c, d


@numba.njit(error_model="numpy")
def _philox_each(keys, block, segment, episode, pair, words):  # type: ignore[no-untyped-def]
    """Fill `words` (4, n) uint32 with the outputs for counters that are (n,) uint32 each."""
    for i in range(words.shape[1]):
        a, b, c, d = _ten_rounds(block[i], segment[i], episode[i], pair[i], keys)
        words[0, i], words[1, i], words[2, i], words[3, i] = a, b, c, d


@numba.njit(error_model="numpy")
def _unit(high, low):  # type: ignore[no-untyped-def]
    """Return 1 + u, u uniform on the multiples of 2**-52 in [0, 1)."""
    bits = (_u8(high) << _u8(20)) | (_u8(low) >> _u8(12)) | _u8(0x3FF0000000000000)
    return _u8(bits).view(np.float64)


@numba.njit(error_model="numpy", inline="always")
def _variates(a, b, c, d, sigma):  # type: ignore[no-untyped-def]
    radius = sigma * np.sqrt(-2.0 * log(2.0 - _unit(a, b)))
    sine, cosine = sincos_turns(_unit(c, d) - 1.0)
    return radius * cosine, radius * sine


@numba.njit(error_model="numpy", nogil=True, cache=True)
def box_muller(words, sigma, first, second):  # type: ignore[no-untyped-def]
    """Turn words (4, n) uint32 into 2n normal variates of deviation σ: `first`, `second` (n,)."""
    for i in range(first.size):
        first[i], second[i] = _variates(words[0, i], words[1, i], words[2, i], words[3, i], sigma)


@numba.njit(error_model="numpy")
def _box_muller_each(words, first, second):  # type: ignore[no-untyped-def]
    """Do the same, with the deviations (n,) in `first`."""
    for i in range(first.size):
        first[i], second[i] = _variates(
            words[0, i], words[1, i], words[2, i], words[3, i], first[i]
        )


@numba.njit(error_model="numpy", nogil=True)
def fill_normal(row, seed, pair, episode, segment, sigma, words, first, second):  # type: ignore[no-untyped-def]
    """Fill `row` (d,) with the N(0, σ²) variates of one pair, episode and segment.

    `words` (4, n) uint32 and `first` and `second` (n,) float64 are scratch, for any n.
    """
    key0, key1 = _u4(seed), _u4(seed >> _u8(32))
    length, chunk = row.size, first.size
    for begin in range(0, (length + 1) // 2, chunk):
        n = min(chunk, (length + 1) // 2 - begin)
        philox(_u4(begin), _u4(segment), _u4(episode), _u4(pair), key0, key1, words[:, :n])
        box_muller(words, sigma, first[:n], second[:n])
        whole = min(n, length // 2 - begin)
        for i in range(whole):
            row[2 * (begin + i)] = first[i]
            row[2 * (begin + i) + 1] = second[i]
        if whole < n:
            row[length - 1] = first[n - 1]


@numba.njit(error_model="numpy", nogil=True)
def add_noise(accumulated, pair, segment, row):  # type: ignore[no-untyped-def]
    """Advance row `pair` of ξ (N, d) by ε, `row` (d,); nothing where ξ has no rows."""
    if accumulated.size:
        sums = accumulated[pair]
        if segment == 0:
            sums[:] = row
        else:
            for i in range(row.size):
                sums[i] += row[i]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _draw(  # type: ignore[no-untyped-def]
    start, stop, seed, first_pair, pairs, episodes, segments, sigmas, epsilon, accumulated,
    sources=_SOURCES,
):  # fmt: skip
    words = np.empty((4, NOISE_CHUNK), np.uint32)
    first, second = np.empty(NOISE_CHUNK), np.empty(NOISE_CHUNK)
    for item in range(start, stop):
        pair, segment = pairs[item], segments[item]
        row = epsilon[pair]
        fill_normal(
            row, seed, first_pair + pair, episodes[item], segment, sigmas[item], words, first,
            second,
        )  # fmt: skip
        add_noise(accumulated, pair, segment, row)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _draw_short(  # type: ignore[no-untyped-def]
    start, stop, seed, first_pair, pairs, episodes, segments, sigmas, epsilon, accumulated,
    sources=_SOURCES,
):  # fmt: skip
    """Do what `_draw` does for rows of few blocks: many at a time, as one row fills no vector."""
    keys = _key_schedule(_u4(seed), _u4(seed >> _u8(32)))
    length = epsilon.shape[1]
    blocks = (length + 1) // 2
    at_a_time = NOISE_CHUNK // blocks
    most = at_a_time * blocks
    words, counters = np.empty((4, most), np.uint32), np.empty((4, most), np.uint32)
    first, second = np.empty(most), np.empty(most)
    for i in range(most):
        counters[0, i] = i % blocks
    for begin in range(start, stop, at_a_time):
        end = min(begin + at_a_time, stop)
        for item in range(begin, end):
            place = (item - begin) * blocks
            for i in range(blocks):
                counters[1, place + i] = segments[item]
                counters[2, place + i] = episodes[item]
                counters[3, place + i] = first_pair + pairs[item]
                first[place + i] = sigmas[item]
        n = (end - begin) * blocks
        _philox_each(keys, counters[0], counters[1], counters[2], counters[3], words[:, :n])
        _box_muller_each(words, first[:n], second[:n])
        for item in range(begin, end):
            place = (item - begin) * blocks
            row = epsilon[pairs[item]]
            for i in range(length // 2):
                row[2 * i] = first[place + i]
                row[2 * i + 1] = second[place + i]
            if length % 2:
                row[length - 1] = first[place + blocks - 1]
            add_noise(accumulated, pairs[item], segments[item], row)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _perturb(start, stop, theta, epsilon, rows, thetas):  # type: ignore[no-untyped-def]
    n_perturbed = 2 * epsilon.shape[0]
    item = start
    while item < stop:
        target, row = thetas[item], rows[item]
        if row >= n_perturbed:
            target[:] = theta
            item += 1
            continue
        noise = epsilon[row // 2]
        if row % 2 == 0 and item + 1 < stop and rows[item + 1] == row + 1:
            other = thetas[item + 1]
            for i in range(theta.size):
                target[i] = theta[i] + noise[i]
                other[i] = theta[i] - noise[i]
            item += 2
            continue
        sign = 1.0 if row % 2 == 0 else -1.0
        for i in range(theta.size):
            target[i] = theta[i] + sign * noise[i]
        item += 1


def usable_cpus() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool(process: int, n_threads: int) -> ThreadPoolExecutor:
    # keyed by the process: a fork inherits the executor object but none of its threads
    return ThreadPoolExecutor(n_threads, thread_name_prefix="es_rl-kernels")


def split_over_threads(
    kernel: Callable[..., None], n_items: int, work: int, n_threads: int | None, *args: Any
) -> None:
    """Run `kernel(start, stop, *args)` over 0..n_items, on threads where the work is large.

    Args:
        kernel: compiled, without the GIL; its parts may not depend on one another.
        n_items: what is shared out, in contiguous parts.
        work: elements of memory traffic, or as much time; small work stays on this thread.
        n_threads: at most so many; None for all usable processors.
        *args: passed on after the bounds.
    """
    n = min(n_threads or usable_cpus(), n_items)
    if n <= 1 or work < _PARALLEL_FROM:
        kernel(0, n_items, *args)
        return
    bounds = [n_items * i // n for i in range(n + 1)]
    pool = _pool(os.getpid(), n)
    futures = [pool.submit(kernel, a, b, *args) for a, b in pairwise(bounds[1:])]
    kernel(0, bounds[1], *args)
    for future in futures:
        future.result()


def draw_noise(
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
    """Draw ε ~ N(0, σ²I) for some pairs, and add it to their accumulated noise ξ.

    Args:
        seed: 0 to 2**64 - 1.
        pairs: (B,) distinct pairs to draw for.
        episodes: (B,) each pair's episode, below 2**32.
        segments: (B,) each pair's noise segment within the episode; 0 starts ξ afresh.
        sigma: σ, or (B,) each pair's own.
        epsilon: (N, d), rows `pairs` are overwritten with the new ε.
        accumulated: (N, d), rows `pairs` of ξ are advanced; None where ξ is ε itself.
        n_threads: threads for large draws; None for all usable processors.
        first_pair: number of this `epsilon`'s first pair among all pairs of the run.
    """
    sums = np.empty((0, 0)) if accumulated is None else accumulated
    sigmas = np.array(np.broadcast_to(np.asarray(sigma, np.float64), pairs.shape))
    kernel = _draw_short if epsilon.shape[1] <= NOISE_CHUNK else _draw
    split_over_threads(
        kernel, pairs.size, pairs.size * epsilon.shape[1] * 4, n_threads,
        _u8(seed), first_pair, pairs, episodes, segments, sigmas, epsilon, sums,
    )  # fmt: skip


def perturb(
    theta: NDArray[np.float64],
    epsilon: NDArray[np.float64],
    rows: NDArray[np.int64],
    thetas: NDArray[np.float64],
    n_threads: int | None = None,
) -> None:
    """Write the parameters of some rows: θ + ε for row 2i, θ - ε for 2i + 1, θ from row 2N on.

    Args:
        theta: (d,).
        epsilon: (N, d).
        rows: (B,).
        thetas: (B, d), overwritten.
        n_threads: as in `draw_noise`.
    """
    split_over_threads(
        _perturb, rows.size, rows.size * theta.size, n_threads, theta, epsilon, rows, thetas
    )


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _hash(seed, block, pairs, episodes, out):  # type: ignore[no-untyped-def]
    """Fill `out` (B,) uint64 with 64 random bits for each (block, episode, pair)."""
    words = np.empty((4, 1), np.uint32)
    for item in range(out.size):
        philox(
            _u4(block),
            _u4(0),
            _u4(episodes[item]),
            _u4(pairs[item]),
            _u4(seed),
            _u4(seed >> _u8(32)),
            words,
        )
        out[item] = (_u8(words[0, 0]) << _u8(32)) | _u8(words[1, 0])


def episode_seeds(
    seed: int, pairs: NDArray[np.int64], episodes: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the seed of each pair's episode, (B,) uint64: its start state and randomness."""
    seeds = np.empty(pairs.size, np.uint64)
    _hash(_u8(seed), _SEED_BLOCK, pairs, episodes, seeds)
    return seeds


def staggering_uniforms(seed: int, n: int) -> NDArray[np.float64]:
    """Return n uniform numbers in [0, 1), (n,) float64, apart from all other randomness."""
    bits = np.empty(n, np.uint64)
    _hash(_u8(seed), _STAGGERING_BLOCK, np.arange(n), np.zeros(n, np.int64), bits)
    return (bits >> _u8(11)).astype(np.float64) * 2.0**-53
