"""NumPy's floating-point results, bit for bit, inside compiled code.

Gymnasium computes rewards and observations with NumPy, whose sums run in an order of their own
and whose dot product may fuse multiplication and addition, depending on the machine. The
functions here repeat NumPy's order; `probe` compares each with NumPy once in a process.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

__all__ = [
    "MAX_ACTION",
    "MAX_SQUARES",
    "Arithmetic",
    "action_cost",
    "clip",
    "inner",
    "probe",
    "square_by_power",
    "sum_of_clipped_squares",
    "sum_of_squares",
    "weighted_mean",
]

_BLOCK = 128  # NumPy's pairwise summation splits longer arrays
_SAMPLES = 64


@intrinsic
def _fused(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a*b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float64(types.float64, types.float64, types.float64), codegen


@numba.njit(error_model="numpy", nogil=True)
def clip(value, low, high):  # type: ignore[no-untyped-def]
    """Return `np.clip(value, low, high)`; a NaN stays one, and so does the sign of a zero."""
    value = low if value < low else value
    return high if high < value else value


@numba.njit(error_model="numpy", nogil=True)
def _square(value, low, high):  # type: ignore[no-untyped-def]
    value = clip(value, low, high)
    return value * value


@numba.njit(error_model="numpy", nogil=True)
def _block(values, start, stop, low, high):  # type: ignore[no-untyped-def]
    """Sum the squares of at most 128 clipped values in the order of NumPy's pairwise summation."""
    length = stop - start
    total = 0.0
    whole = start
    if length >= 8:
        r0, r1 = _square(values[start], low, high), _square(values[start + 1], low, high)
        r2, r3 = _square(values[start + 2], low, high), _square(values[start + 3], low, high)
        r4, r5 = _square(values[start + 4], low, high), _square(values[start + 5], low, high)
        r6, r7 = _square(values[start + 6], low, high), _square(values[start + 7], low, high)
        whole = stop - length % 8
        for i in range(start + 8, whole, 8):
            r0 += _square(values[i], low, high)
            r1 += _square(values[i + 1], low, high)
            r2 += _square(values[i + 2], low, high)
            r3 += _square(values[i + 3], low, high)
            r4 += _square(values[i + 4], low, high)
            r5 += _square(values[i + 5], low, high)
            r6 += _square(values[i + 6], low, high)
            r7 += _square(values[i + 7], low, high)
        total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for i in range(whole, stop):
        total += _square(values[i], low, high)
    return total


def _halving(part: Any) -> Any:
    """Return the sum over two halves as NumPy splits them, each summed by `part`."""

    @numba.njit(error_model="numpy", nogil=True)
    def halves(values, start, stop, low, high):  # type: ignore[no-untyped-def]
        length = stop - start
        if length <= _BLOCK:
            return _block(values, start, stop, low, high)
        middle = start + length // 2 - (length // 2) % 8
        return part(values, start, middle, low, high) + part(values, middle, stop, low, high)

    return halves


# not one function that calls itself: Numba cannot load such code from its cache
_sum_of_squares = _halving(_halving(_halving(_halving(_block))))

MAX_SQUARES = 1808
"""How many values the sums of squares take: four halvings down to blocks of 128."""

MAX_ACTION = _BLOCK
"""How many components an action may have: one block of NumPy's summation."""


@numba.njit(error_model="numpy", nogil=True)
def sum_of_squares(values):  # type: ignore[no-untyped-def]
    """Return `np.sum(np.square(values))` of a contiguous (n <= MAX_SQUARES,) float64 array."""
    return _sum_of_squares(values, 0, values.size, -math.inf, math.inf)


@numba.njit(error_model="numpy", nogil=True)
def _single_square(value):  # type: ignore[no-untyped-def]
    return np.float32(value) * np.float32(value)


@numba.njit(error_model="numpy", nogil=True)
def action_cost(weight, action, single):  # type: ignore[no-untyped-def]
    """Return `weight * np.sum(np.square(action))` of a (n <= MAX_ACTION,) action.

    With `single`, NumPy has a float32 action and computes in that; `action` then holds the same
    numbers as float64.
    """
    if single == 0:
        return weight * sum_of_squares(action)
    n = action.size
    total = np.float32(0.0)
    whole = 0
    if n >= 8:
        r0, r1 = _single_square(action[0]), _single_square(action[1])
        r2, r3 = _single_square(action[2]), _single_square(action[3])
        r4, r5 = _single_square(action[4]), _single_square(action[5])
        r6, r7 = _single_square(action[6]), _single_square(action[7])
        whole = n - n % 8
        for i in range(8, whole, 8):
            r0 += _single_square(action[i])
            r1 += _single_square(action[i + 1])
            r2 += _single_square(action[i + 2])
            r3 += _single_square(action[i + 3])
            r4 += _single_square(action[i + 4])
            r5 += _single_square(action[i + 5])
            r6 += _single_square(action[i + 6])
            r7 += _single_square(action[i + 7])
        total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
    for i in range(whole, n):
        total += _single_square(action[i])
    return np.float64(np.float32(weight) * total)


@numba.njit(error_model="numpy", nogil=True)
def sum_of_clipped_squares(values, low, high):  # type: ignore[no-untyped-def]
    """Return `np.sum(np.square(np.clip(values, low, high)))`, `values` as in `sum_of_squares`."""
    return _sum_of_squares(values, 0, values.size, low, high)


@numba.njit(error_model="numpy", nogil=True)
def inner(values, fused):  # type: ignore[no-untyped-def]
    """Return `values.dot(values)` of a short (n,) float64 array, the square of NumPy's norm."""
    total = 0.0
    for i in range(values.size):
        if fused:
            total = _fused(values[i], values[i], total)
        else:
            total += values[i] * values[i]
    return total


@numba.njit(error_model="numpy", nogil=True)
def weighted_mean(weights, points, axis, total_weight, fused):  # type: ignore[no-untyped-def]
    """Return `np.einsum("b,bj->j", weights, points)[axis] / total_weight`.

    `weights` is (n,) float64, `points` the (n, 3) float64 array, flattened.
    """
    total = 0.0
    for i in range(weights.size):
        if fused:
            total = _fused(weights[i], points[3 * i + axis], total)
        else:
            total += weights[i] * points[3 * i + axis]
    return total / total_weight


@numba.njit(error_model="numpy", nogil=True)
def square_by_power(value, two):  # type: ignore[no-untyped-def]
    """Return `value ** 2` of a NumPy scalar: the C library's pow, not value*value.

    `two` is 2.0, passed at run time so that the compiler does not turn the call into a product.
    """
    return math.pow(value, two)


class Arithmetic(NamedTuple):
    """What `probe` found out about NumPy on this machine.

    Attributes:
        fused_inner: whether `np.dot` of short vectors fuses multiplication and addition.
        fused_weighted: whether `np.einsum("b,bj->j", ...)` does.
        unmatched: names of the operations whose bits the functions of this module do not give.
    """

    fused_inner: bool
    fused_weighted: bool
    unmatched: frozenset[str]


@functools.cache
def probe() -> Arithmetic:
    """Compare NumPy with the arithmetic of this module on a fixed sample, once in a process.

    Nothing is compiled for it: Python's own floats follow the same rules.
    """
    rng = np.random.default_rng(0)
    weights, points = rng.random((_SAMPLES, 14)), rng.normal(size=(_SAMPLES, 14, 3))
    dots, sums = [], []
    for weight, point in zip(weights, points, strict=True):
        for vector in (point[0], point[1, :2]):
            dots.append((vector.dot(vector), vector.tolist(), vector.tolist()))
        for axis, expected in enumerate(np.einsum("b,bj->j", weight, point)):
            sums.append((expected, weight.tolist(), point[:, axis].tolist()))
    fused_inner, inner_known = _multiplication(dots)
    fused_weighted, weighted_known = _multiplication(sums)
    angles = rng.normal(size=_SAMPLES * 16) * np.exp(rng.normal(size=_SAMPLES * 16))
    known = {
        "np.dot": inner_known,
        "np.einsum": weighted_known,
        "np.sin": np.sin(angles).tolist() == [math.sin(angle) for angle in angles],
        "np.cos": np.cos(angles).tolist() == [math.cos(angle) for angle in angles],
        "power": all(angle**2 == math.pow(angle, 2.0) for angle in angles),
        "np.sum": all(
            np.sum(row.ravel()[:length]) == _pairwise(row.ravel()[:length].tolist())
            for row, length in zip(points, (3, 6, 8, 17, 42) * _SAMPLES, strict=False)
        ),
    }
    unmatched = frozenset(name for name, matched in known.items() if not matched)
    return Arithmetic(fused_inner, fused_weighted, unmatched)


def _multiplication(cases: list[tuple[float, list[float], list[float]]]) -> tuple[bool, bool]:
    """Return (whether sums of products are fused, whether either way gives NumPy's result)."""

    def matches(fused: bool) -> bool:
        for expected, left, right in cases:
            total = 0.0
            for a, b in zip(left, right, strict=True):
                exact = Fraction(a) * Fraction(b) + Fraction(total)
                total = float(exact) if fused else total + a * b
            if total != expected:
                return False
        return True

    fused = not matches(fused=False)
    return fused, not fused or matches(fused=True)


def _pairwise(values: list[float]) -> float:
    """Sum up to 128 values in NumPy's order."""
    whole = len(values) - len(values) % 8 if len(values) >= 8 else 0
    lanes = values[:8] if whole else [0.0] * 8
    for start in range(8, whole, 8):
        lanes = [lane + value for lane, value in zip(lanes, values[start:], strict=False)]
    total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + (
        (lanes[4] + lanes[5]) + (lanes[6] + lanes[7])
    )
    for value in values[whole:]:
        total += value
    return total
