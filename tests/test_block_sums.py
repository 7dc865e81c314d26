"""The sum of D·ξ over pairs: NumPy twins, independence of threads and of who holds which blocks."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from es_rl import perturbations
from es_rl.block_sums import (
    BLOCK_PAIRS,
    add_block_sums,
    node_starts,
    reduce_blocks,
    reduce_to_nodes,
    sum_blocks,
    sum_nodes,
    sum_to_nodes,
)


@pytest.fixture
def always_threaded(monkeypatch):
    """Let even small work be split over threads."""
    monkeypatch.setattr(perturbations, "_PARALLEL_FROM", 1)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 5, 8195])
def test_block_sums_and_reduction_agree_with_their_numpy_twins(d, n_threads, always_threaded):
    rng = np.random.default_rng(d)
    n_pairs = 6 * BLOCK_PAIRS + 3
    epsilon = rng.normal(size=(n_pairs, d))
    pairs = np.flatnonzero(rng.random(n_pairs) < 0.7)
    differences = rng.normal(size=pairs.size)
    sums = rng.normal(size=(7, d))
    twin = reference.block_sums(epsilon, pairs, differences, sums, BLOCK_PAIRS)
    add_block_sums(epsilon, pairs, differences, sums, n_threads)
    np.testing.assert_array_equal(sums, twin)
    np.testing.assert_array_equal(
        reduce_blocks(sums, 0.37, n_threads), reference.reduce_blocks(twin, 0.37)
    )


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 5, 8195])
@pytest.mark.parametrize("share", [0.3, 0.95, 1.0])
def test_the_sum_in_one_pass_has_the_bits_of_the_sum_by_blocks(
    d, n_threads, share, always_threaded
):
    # blocks that are whole, broken and left out, and eight pairs across two blocks
    rng = np.random.default_rng(d)
    n_pairs = 6 * BLOCK_PAIRS + 3
    accumulated = rng.normal(size=(n_pairs, d))
    pairs = np.flatnonzero(rng.random(n_pairs) < share)
    differences = rng.normal(size=pairs.size)
    sums = reference.block_sums(accumulated, pairs, differences, np.zeros((7, d)), BLOCK_PAIRS)
    np.testing.assert_array_equal(
        sum_blocks(accumulated, pairs, differences, 0.37, n_threads),
        reference.reduce_blocks(sums, 0.37),
    )


@pytest.mark.parametrize("n_blocks", range(1, 20))
def test_any_number_of_blocks_is_added_in_the_tree(n_blocks):
    sums = np.random.default_rng(n_blocks).normal(size=(n_blocks, 3))
    np.testing.assert_array_equal(reduce_blocks(sums, 1.0), reference.sum_tree(sums))


def test_pairs_are_summed_in_eights():
    # every gradient's last bits, and so every published run, depend on it
    assert BLOCK_PAIRS == 8


def test_large_sums_really_run_on_several_threads_with_the_same_bits(monkeypatch):
    started = []
    pool = perturbations._pool
    monkeypatch.setattr(perturbations, "_pool", lambda *args: started.append(args) or pool(*args))
    rng = np.random.default_rng(0)
    pairs, differences, noise = np.arange(128), rng.normal(size=128), rng.normal(size=(128, 9001))
    results = []
    for n_threads in (1, 2, 3):
        sums = np.zeros((16, 9001))
        for _ in range(2):
            add_block_sums(noise, pairs, differences, sums, n_threads)
        gradient = sum_blocks(noise, pairs, differences, 0.1, n_threads)
        results.append((sums, reduce_blocks(sums, 0.1, n_threads), gradient))
    assert {n for _, n in started} == {2, 3}
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(30))
def test_runs_of_blocks_may_be_summed_apart(seed):
    # what lets pairs be spread over processes or machines without changing a bit
    rng = np.random.default_rng(seed)
    n_pairs, d = int(rng.integers(1, 400)), 5
    n_blocks = -(-n_pairs // BLOCK_PAIRS)
    accumulated, differences = rng.normal(size=(n_pairs, d)), rng.normal(size=n_pairs)
    whole = sum_blocks(accumulated, np.arange(n_pairs), differences, 0.37)
    cuts = np.unique(rng.integers(0, n_blocks + 1, size=rng.integers(0, 7)))
    runs, sums_of_runs = [], []
    for first, stop in zip([0, *cuts], [*cuts, n_blocks], strict=True):
        if first == stop:
            continue
        own = np.arange(first * BLOCK_PAIRS, min(stop * BLOCK_PAIRS, n_pairs))
        first, n_held, local = int(first), int(stop - first), np.arange(own.size)
        runs.append((n_held, sum_to_nodes(accumulated[own], local, differences[own], first)))
        sums = np.zeros((n_held, d))
        add_block_sums(accumulated[own], local, differences[own], sums)
        sums_of_runs.append((n_held, reduce_to_nodes(sums, first)))
    np.testing.assert_array_equal(sum_nodes(runs, 0.37), whole)
    np.testing.assert_array_equal(sum_nodes(sums_of_runs, 0.37), whole)


def test_few_nodes_stand_for_many_blocks():
    for first, n_blocks in ((0, 1), (0, 1250), (1, 1250), (7, 1000), (511, 2), (4095, 4097)):
        starts = node_starts(first, n_blocks)
        assert starts[0] == first
        sizes = np.diff([*starts, first + n_blocks])
        assert (sizes == 2 ** np.log2(sizes).astype(int)).all()
        assert (np.array(starts) % sizes == 0).all()
        assert len(starts) <= 2 * np.log2(n_blocks) + 2
