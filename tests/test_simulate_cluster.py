"""The cluster's model where the answer is known."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from simulate_cluster import Costs, measure_join, predict, reply_bytes

_FREE = Costs(window=0.0, pair=1e-3, spread=0.0, put=0.0, send=0.0, receive=0.0, latency=0.0)


def _update(costs, n_workers, n_pairs=800, **options):
    return predict(costs, n_pairs, 100, n_workers, 0.0, **options).update


def test_without_any_other_cost_work_divides():
    for n_workers in (1, 2, 10, 100):
        assert _update(_FREE, n_workers) == pytest.approx(0.8 / n_workers)
    assert _update(_FREE, 10, threads=4) == pytest.approx(0.02)


def test_what_the_driver_does_for_each_worker_adds_up():
    costs = replace(_FREE, pair=0.0, put=0.5, send=0.01, receive=0.02)
    # the last call is sent after 1 s, its reply is taken in after the ninety-nine others
    assert _update(costs, 100) == pytest.approx(0.5 + 0.01 * 100 + 0.02 * 100)
    assert _update(replace(costs, latency=3.0), 1) == pytest.approx(0.5 + 0.03 + 3.0)


def test_messages_take_the_time_that_their_bytes_need():
    costs = replace(_FREE, pair=0.0, bandwidth=1e6, overhead=0)
    whole = reply_bytes(800, 0, 100, 100, 0)
    assert whole == 24 * 800 + 8 * 100 * 3  # 100 blocks are 64 + 32 + 4
    assert _update(costs, 1) == pytest.approx((800 + whole) / 1e6)


def test_the_slowest_of_many_decides():
    # the mean largest of 100 normal numbers is 2.51
    costs = replace(_FREE, spread=0.1)
    mean = _update(costs, 100, n_updates=400)
    assert mean == pytest.approx(8e-3 * 2.718281828 ** (0.1 * 2.51 - 0.005), rel=0.02)
    stalls = replace(_FREE, stall_probability=1.0, stall_seconds=2.0)
    assert _update(stalls, 100) == pytest.approx(2.008)


def test_joining_is_measured_for_any_number_of_workers():
    assert 0 < measure_join(80, 10, 1) < 10
    assert 0 < measure_join(80, 10, 10) < 10
