"""Where workers stand when training starts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from es_rl.staggering import STAGGERINGS, check_staggering, start_steps


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("n_workers", "unroll_length", "horizon"),
    [(30, 100, 1000), (300, 20, 1000), (5, 1, 5), (20, 2, 10), (9, 10, 10)],
)
def test_stratified_start_gives_every_window_the_same_share(
    n_workers, unroll_length, horizon, seed
):
    # these N are multiples of the number of windows: no worker is left over
    steps = start_steps("stratified", n_workers, unroll_length, horizon, seed)
    positions, counts = np.unique(steps, return_counts=True)
    assert positions.tolist() == list(range(0, horizon, unroll_length))
    assert set(counts) == {n_workers // (horizon // unroll_length)}


@pytest.mark.parametrize("n_workers", [1, 2, 3, 7, 10, 13, 29])
def test_stratified_start_differs_by_one_worker_at_most_and_is_fair_over_seeds(n_workers):
    # 10 positions, 3000 seeds: a position's mean count is a mean of numbers that differ by at
    # most one, so its standard error is at most 0.5/sqrt(3000)
    total = np.zeros(10)
    for seed in range(3000):
        counts = np.bincount(start_steps("stratified", n_workers, 4, 40, seed) // 4, minlength=10)
        assert counts.max() - counts.min() <= 1
        total += counts
    np.testing.assert_allclose(total / 3000, n_workers / 10, rtol=0, atol=4 * 0.5 / math.sqrt(3000))


def test_iid_start_is_uniform_over_the_windows():
    # 20,000 workers, seed 3: a share of 1/8 has standard error sqrt(7/64/20000) = 0.0023
    steps = start_steps("iid", 20000, 5, 40, 3)
    shares = np.bincount(steps // 5, minlength=8) / 20000
    assert (steps % 5 == 0).all()
    np.testing.assert_allclose(shares, 1 / 8, rtol=0, atol=4 * math.sqrt(7 / 64 / 20000))


@pytest.mark.parametrize("staggering", ["stratified", "iid"])
@pytest.mark.parametrize(("unroll_length", "horizon"), [(4, 10), (7, 10), (25, 10), (3, 7)])
def test_windows_that_do_not_divide_the_horizon_start_at_multiples_of_the_divisor(
    staggering, unroll_length, horizon
):
    # followed for ever, windows of W steps begin at every multiple of gcd(W, T) equally often
    spacing = math.gcd(unroll_length, horizon)
    steps = start_steps(staggering, 500, unroll_length, horizon, 1)
    assert set(steps) == set(range(0, horizon, spacing))


def test_lockstep_and_endless_tasks_start_at_zero():
    assert not start_steps("lockstep", 7, 5, 100, 3).any()
    for staggering in STAGGERINGS:
        assert not start_steps(staggering, 7, 5, None, 3).any()


@pytest.mark.parametrize("staggering", STAGGERINGS)
def test_start_steps_are_a_function_of_the_seed(staggering):
    one, same, other = (start_steps(staggering, 50, 1, 997, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert one.dtype == np.int64
    if staggering != "lockstep":
        assert (one != other).any()


def test_unknown_staggering_is_refused_by_name():
    with pytest.raises(ValueError, match="staggering='random': choose one of stratified, iid"):
        check_staggering("random")
