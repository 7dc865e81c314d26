"""The sum of D·ξ: one fixed order, whether it comes in one part or in many."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from es_rl.block_sums import BLOCK_PAIRS, sum_nodes
from es_rl.gradient_sum import EachPair, GradientSum

_N, _D = 2 * BLOCK_PAIRS + 5, 7


def _twin(parts):
    sums = np.zeros((3, _D))
    for accumulated, pairs, differences in parts:
        sums = reference.block_sums(accumulated, pairs, differences, sums, BLOCK_PAIRS)
    return reference.reduce_blocks(sums, 0.25)


def _parts(n_parts, seed=0):
    rng = np.random.default_rng(seed)
    parts = []
    for share in np.linspace(1.0, 0.2, n_parts):
        pairs = np.flatnonzero(rng.random(_N) <= share)
        parts.append((rng.normal(size=(_N, _D)), pairs, rng.normal(size=pairs.size)))
    return parts


@pytest.mark.parametrize("n_parts", [0, 1, 2, 5])
def test_total_is_that_of_the_numpy_twin_in_every_bit(n_parts):
    total, parts = GradientSum(_N, _D, None), _parts(n_parts)
    for part in parts:
        total.add(*part)
    np.testing.assert_array_equal(total.total(0.25), _twin(parts))


def test_noise_may_change_once_it_was_settled():
    total, (part, other) = GradientSum(_N, _D, None), _parts(2)
    accumulated = part[0].copy()
    total.add(accumulated, *part[1:])
    total.settle()
    accumulated[:] = other[0]
    total.add(accumulated, *other[1:])
    np.testing.assert_array_equal(total.total(0.25), _twin([part, other]))


def test_clearing_forgets_parts_of_every_kind():
    # sums of many parts, of one part, and of none, after one another in one object
    total = GradientSum(_N, _D, None)
    for n_parts in (3, 1, 0, 2, 0, 1, 1):
        total.clear()
        parts = _parts(n_parts, seed=n_parts)
        for part in parts:
            total.add(*part)
        np.testing.assert_array_equal(total.total(0.25), _twin(parts))


def test_what_each_pair_added_is_kept_beside_the_same_total():
    parts = _parts(3)
    total, each = GradientSum(_N, _D, None), EachPair(_N, _D, None)
    each.add(*_parts(1, seed=9)[0])
    each.clear()
    own = np.zeros((_N, _D))
    for accumulated, pairs, differences in parts:
        total.add(accumulated, pairs, differences)
        each.add(accumulated, pairs, differences)
        for pair, difference in zip(pairs, differences, strict=True):
            own[pair] += difference * accumulated[pair]
    np.testing.assert_array_equal(each.total(0.25), total.total(0.25))
    np.testing.assert_array_equal(each.by_pair, own)


@pytest.mark.parametrize("n_parts", [0, 1, 2, 5])
def test_shares_of_the_pairs_have_the_nodes_of_the_same_total(n_parts):
    first, rest, parts = GradientSum(8, _D, None), GradientSum(_N - 8, _D, None), _parts(n_parts)
    for accumulated, pairs, differences in parts:
        mine = pairs < 8
        first.add(accumulated[:8], pairs[mine], differences[mine])
        rest.add(accumulated[8:], pairs[~mine] - 8, differences[~mine])
    total = sum_nodes([(1, first.nodes(0)), (2, rest.nodes(1))], 0.25)
    np.testing.assert_array_equal(total, _twin(parts))
