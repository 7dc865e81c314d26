"""The compiled forward pass of a layered policy, shared by every engine and by `predict`.

One routine, one order of summation: whichever engine evaluates a policy, the bits are the same.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl import elementary, lanes
from es_rl.elementary import tanh
from es_rl.lanes import LANES, ROWS, lane_sums
from es_rl.sources import digest

__all__ = [
    "ACTIVATIONS",
    "accumulate",
    "forward",
    "forward_rows",
    "normalize",
    "scratch_size",
    "squash",
]

ACTIVATIONS = {"tanh": 0, "relu": 1}
"""Names of the hidden activations and the codes that the kernels take."""

_SOURCES = digest(elementary.__file__, lanes.__file__)


def scratch_size(sizes: NDArray[np.int64]) -> int:
    """Return how many doubles of scratch `forward` needs for layers of these `sizes`."""
    return 2 * int(np.max(sizes))


@numba.njit(error_model="numpy", nogil=True, cache=True)
def normalize(observation, mean, scale, bound, output):  # type: ignore[no-untyped-def]
    """Write (observation - mean)·scale, within ±bound, to `output`; all (n,) but the bound."""
    for i in range(observation.size):
        value = (observation[i] - mean[i]) * scale[i]
        # written so that a NaN passes through
        value = -bound if value < -bound else value
        output[i] = bound if bound < value else value


@numba.njit(error_model="numpy", nogil=True, cache=True)
def accumulate(observation, center, sums):  # type: ignore[no-untyped-def]
    """Add observation - center, (n,), to the first half of `sums` (2n,), its square to the other.

    Sums about a centre near the mean keep the digits that sums about zero would cancel.
    """
    n = observation.size
    for i in range(n):
        off = observation[i] - center[i]
        sums[i] += off
        sums[n + i] += off * off


@numba.njit(error_model="numpy", nogil=True, cache=True)
def squash(values, low, high, sources=_SOURCES):  # type: ignore[no-untyped-def]
    """Map each of `values` (n,) in place from the real numbers to low..high by tanh."""
    for i in range(values.size):
        value = 0.5 * (low[i] + high[i]) + 0.5 * (high[i] - low[i]) * tanh(values[i])
        value = low[i] if value < low[i] else value
        values[i] = high[i] if high[i] < value else value


@numba.njit(error_model="numpy", nogil=True)
def _dot(weights, start, vector, length):  # type: ignore[no-untyped-def]
    """Return one row's inner product with `vector`, in the order of `_dot_rows`."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = length - length % LANES
    for j in range(0, whole, LANES):
        w = start + j
        s0 += weights[w] * vector[j]
        s1 += weights[w + 1] * vector[j + 1]
        s2 += weights[w + 2] * vector[j + 2]
        s3 += weights[w + 3] * vector[j + 3]
        s4 += weights[w + 4] * vector[j + 4]
        s5 += weights[w + 5] * vector[j + 5]
        s6 += weights[w + 6] * vector[j + 6]
        s7 += weights[w + 7] * vector[j + 7]
    total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for j in range(whole, length):
        total += weights[start + j] * vector[j]
    return total


@numba.njit(error_model="numpy", nogil=True)
def _dot_rows(weights, start, vector, length, target, first):  # type: ignore[no-untyped-def]
    """Write four neighbouring rows' inner products with `vector` to `target` from `first` on.

    Eight lanes, joined in a fixed tree, then the entries that fill no lane: results are the same
    bits on every machine.
    """
    whole = length - length % LANES
    t0, t1, t2, t3 = lane_sums(weights, start, length, vector, whole)
    for j in range(whole, length):
        x = vector[j]
        t0 += weights[start + j] * x
        t1 += weights[start + length + j] * x
        t2 += weights[start + 2 * length + j] * x
        t3 += weights[start + 3 * length + j] * x
    target[first], target[first + 1] = t0, t1
    target[first + 2], target[first + 3] = t2, t3


@numba.njit(error_model="numpy", nogil=True, cache=True)
def forward(  # type: ignore[no-untyped-def]
    theta, sizes, has_bias, activation, observation, scratch, output, sources=_SOURCES
):
    """Evaluate one policy on one observation.

    Args:
        theta: (d,) float64, each layer's (n_out, n_in) weights row-major, then its bias.
        sizes: (L + 1,) int64, widths from the observation to the output.
        has_bias: whether each layer has a bias.
        activation: code from `ACTIVATIONS`, applied after every layer but the last.
        observation: (sizes[0],) float64.
        scratch: (scratch_size(sizes),) float64, overwritten.
        output: (sizes[-1],) float64, overwritten with the raw output.
        sources: part of the cache key and no more, see `es_rl.sources`.
    """
    n_layers = sizes.size - 1
    half = scratch.size // 2
    source = observation
    offset = 0
    for layer in range(n_layers):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        last = layer == n_layers - 1
        start = (layer % 2) * half
        target = output if last else scratch[start : start + n_out]
        bias = offset + n_in * n_out
        if n_out < ROWS:
            for i in range(n_out):
                target[i] = _dot(theta, offset + i * n_in, source, n_in)
        else:
            for i in range(0, n_out - ROWS + 1, ROWS):
                _dot_rows(theta, offset + i * n_in, source, n_in, target, i)
            if n_out % ROWS:
                # the last rows; some of them once more, which costs less than one by one
                i = n_out - ROWS
                _dot_rows(theta, offset + i * n_in, source, n_in, target, i)
        if has_bias:
            for i in range(n_out):
                target[i] += theta[bias + i]
        if not last:
            if activation == 0:
                for i in range(n_out):
                    target[i] = tanh(target[i])
            else:
                for i in range(n_out):
                    # written so that a NaN passes through
                    target[i] = 0.0 if target[i] < 0.0 else target[i]
        source = target
        offset = bias + (n_out if has_bias else 0)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def forward_rows(  # type: ignore[no-untyped-def]
    thetas, sizes, has_bias, activation, observations, scratch, outputs, sources=_SOURCES
):
    """Evaluate B policies, (B, d), on an observation each, (B, sizes[0]), into (B, sizes[-1])."""
    for row in range(observations.shape[0]):
        forward(thetas[row], sizes, has_bias, activation, observations[row], scratch, outputs[row])
