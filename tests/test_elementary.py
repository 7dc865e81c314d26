"""Elementary functions: their error, their special values, and their NumPy twins."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import numba
import numpy as np
import pytest
import reference

from es_rl import elementary

_TURN = 2 * Decimal("3.14159265358979323846264338327950288419716939937510582097494")


@numba.njit
def _exp(x, out):
    for i in range(x.size):
        out[i] = elementary.exp(x[i])


@numba.njit
def _log(x, out):
    for i in range(x.size):
        out[i] = elementary.log(x[i])


@numba.njit
def _tanh(x, out):
    for i in range(x.size):
        out[i] = elementary.tanh(x[i])


@numba.njit
def _sine(x, out):
    for i in range(x.size):
        out[i] = elementary.sincos_turns(x[i])[0]


@numba.njit
def _cosine(x, out):
    for i in range(x.size):
        out[i] = elementary.sincos_turns(x[i])[1]


def _apply(kernel, x):
    x = np.ascontiguousarray(x, np.float64)
    out = np.empty_like(x)
    kernel(x, out)
    return out


def _exact_exp(x):
    return x.exp()


def _exact_log(x):
    return x.ln()


def _exact_tanh(x):
    # expm1 by its series: no digits are lost near zero
    if abs(x) < Decimal("0.1"):
        term = total = 2 * x
        n = 1
        while abs(term) > abs(total) * Decimal("1e-40"):
            n += 1
            term = term * 2 * x / n
            total += term
    else:
        total = (2 * x).exp() - 1
    return total / (total + 2)


def _series(x, term, n):
    total = term
    while abs(term) > Decimal("1e-45"):
        term = -term * x * x / ((n + 1) * (n + 2))
        n += 2
        total += term
    return total


def _exact_sine(v):
    # reduced to a quarter turn about zero first, so that zeros come out exact
    if v > Decimal("0.75"):
        v -= 1
    elif v > Decimal("0.25"):
        v = Decimal("0.5") - v
    return _series(v * _TURN, v * _TURN, 1) if v else Decimal(0)


def _exact_cosine(v):
    v = abs(v - Decimal("0.5"))
    return _exact_sine(abs(Decimal("0.25") - v)) * (1 if v > Decimal("0.25") else -1)


_DRAWS = np.random.default_rng(7)
_TURNS = np.concatenate([_DRAWS.random(1500), np.arange(256) / 256, [2.0**-52, 1 - 2.0**-52]])
_CASES = {
    # the bounds, in units in the last place, are the largest errors seen over 120,000 draws,
    # rounded up: exp 1.58, log 0.76, tanh 1.33, sine 1.76, cosine 1.77
    "exp": (
        _exp,
        _exact_exp,
        np.concatenate([_DRAWS.uniform(-700, 700, 1000), _DRAWS.normal(0, 2, 1000)]),
        2.0,
    ),
    "log": (
        _log,
        _exact_log,
        np.concatenate([1 - _DRAWS.random(1000), 2.0 ** _DRAWS.uniform(-1000, 1000, 1000)]),
        1.0,
    ),
    "tanh": (
        _tanh,
        _exact_tanh,
        np.concatenate([_DRAWS.normal(0, 1, 1500), 10.0 ** _DRAWS.uniform(-12, 1.3, 500)]),
        2.0,
    ),
    "sine": (_sine, _exact_sine, _TURNS, 2.0),
    "cosine": (_cosine, _exact_cosine, _TURNS, 2.0),
}


@pytest.mark.parametrize("name", _CASES)
def test_error_stays_within_the_stated_units_in_the_last_place(name):
    kernel, exact, points, bound = _CASES[name]
    with decimal.localcontext(decimal.Context(prec=50)):
        for x, value in zip(points, _apply(kernel, points), strict=True):
            truth = exact(Decimal(float(x)))
            unit = Decimal(float(np.spacing(abs(float(truth))) if truth else np.spacing(1.0)))
            assert abs(Decimal(float(value)) - truth) <= Decimal(bound) * unit, x


@pytest.mark.parametrize("name", _CASES)
def test_numpy_twin_agrees_in_every_bit(name):
    kernel, _, points, _ = _CASES[name]
    twin = {
        "sine": lambda v: reference.sincos_turns(v)[0],
        "cosine": lambda v: reference.sincos_turns(v)[1],
    }.get(name) or getattr(reference, name)
    points = np.tile(points, 9)  # a length at which the compiled loop runs in vectors
    np.testing.assert_array_equal(_apply(kernel, points), twin(points))


def test_tanh_of_special_values():
    points = [0.0, -0.0, math.inf, -math.inf, 20.0, -1e300, 5e-324, 0.625]
    values = _apply(_tanh, points)
    np.testing.assert_array_equal(values[:6], [0.0, 0.0, 1.0, -1.0, 1.0, -1.0])
    assert values[6] == 5e-324
    assert abs(values[7] - math.tanh(0.625)) <= 1.2e-16


def test_tanh_passes_a_nan_on():
    # a network whose inputs broke must not go on with plausible actions
    assert np.isnan(_apply(_tanh, np.full(9, np.nan))).all()
    assert np.isnan(_apply(_tanh, [-math.nan])).all()


def test_tanh_is_odd_and_never_leaves_its_range():
    points = np.concatenate([_CASES["tanh"][2], np.linspace(0, 25, 5000)])
    values = _apply(_tanh, points)
    np.testing.assert_array_equal(_apply(_tanh, -points), -values)
    assert np.abs(values).max() == 1.0


def test_tanh_increases_across_the_change_of_formula():
    # over steps of 1e-12, far above the error of 1.4 units in the last place
    points = 0.625 + 1e-12 * np.arange(-2000, 2000)
    assert (np.diff(_apply(_tanh, points)) > 0).all()


def test_log_is_never_positive_on_the_noise_generator_s_arguments():
    # sqrt(-2·log(u)) of a u just below one must not become NaN
    points = np.concatenate(
        [[1.0], 1.0 - 2.0**-52 * np.arange(1, 4000), 2.0 ** -np.arange(1, 53.0)]
    )
    values = _apply(_log, points)
    assert values[0] == 0.0
    assert (values <= 0.0).all()
    assert (values[1:4000] < 0.0).all()


def test_exp_and_log_of_exact_powers():
    assert _apply(_exp, [0.0])[0] == 1.0
    powers = np.arange(-1022, 1024)
    values = _apply(_log, 2.0**powers)
    np.testing.assert_allclose(values, powers * math.log(2.0), rtol=3e-16, atol=0)


def test_sine_and_cosine_at_quarter_turns_are_exact():
    quarters = [0.0, 0.25, 0.5, 0.75]
    np.testing.assert_array_equal(_apply(_sine, quarters), [0, 1, 0, -1])
    np.testing.assert_array_equal(_apply(_cosine, quarters), [1, 0, -1, 0])


def test_sine_and_cosine_lie_on_the_circle():
    turns = np.random.default_rng(3).random(20000)
    sine, cosine = _apply(_sine, turns), _apply(_cosine, turns)
    np.testing.assert_allclose(sine**2 + cosine**2, 1.0, rtol=0, atol=5e-16)
