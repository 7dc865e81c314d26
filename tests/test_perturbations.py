"""Counter-based noise: Philox's known answers, NumPy twins, independence of threads, statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference

from es_rl import perturbations
from es_rl.perturbations import (
    draw_noise,
    episode_seeds,
    perturb,
    staggering_uniforms,
    usable_cpus,
)

_PI_KEY = 0x299F31D0A4093822  # low word first
_SEEDS = [0, 1, 2**32 - 1, 2**32, _PI_KEY, 2**64 - 1]


def _ints(*values):
    return np.array(values, np.int64)


def _draw(seed, pairs, episodes, segments, sigma, length, n_threads=1):
    """ε of some pairs, in the order given: (B, length)."""
    epsilon = np.full((int(np.max(pairs)) + 1, length), np.nan)
    draw_noise(
        seed, _ints(*pairs), _ints(*episodes), _ints(*segments), sigma, epsilon, None, n_threads
    )
    return epsilon[list(pairs)]


@pytest.fixture
def always_threaded(monkeypatch):
    """Let even small work be split over threads."""
    monkeypatch.setattr(perturbations, "_PARALLEL_FROM", 1)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # Random123, kat_vectors, philox4x32 with ten rounds
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_gives_its_known_answers(counter, key, answer):
    counter, key, answer = ([int(w, 16) for w in text.split()] for text in (counter, key, answer))
    words = np.zeros((4, 1), np.uint32)
    perturbations.philox(*(np.uint32(word) for word in counter + key), words)
    assert words[:, 0].tolist() == answer
    twin = reference.philox([np.array([word], np.uint64) for word in counter], key)
    assert twin[:, 0].tolist() == answer


@pytest.mark.parametrize("length", [1, 2, 3, 16, 511, 512, 513, 1023, 1024, 1025, 2050])
def test_noise_is_that_of_its_numpy_twin_in_every_bit(length):
    # lengths around the kernel's own chunk of 1024 variates, and around the half of it up to which
    # rows are drawn together; odd ones and one alone
    where = [(0, 0, 0), (1, 5, 2), (7, 2**32 - 1, 3), (300, 12, 2**31)]
    for seed in _SEEDS:
        pairs, episodes, segments = zip(*where, strict=True)
        drawn = _draw(seed, pairs, episodes, segments, 0.3, length)
        for row, (pair, episode, segment) in zip(drawn, where, strict=True):
            twin = reference.noise(seed, pair, episode, segment, 0.3, length)
            np.testing.assert_array_equal(row, twin)


@pytest.mark.parametrize("length", [1, 5, 101, 512])
def test_short_rows_that_are_drawn_together_are_each_their_own(length):
    # 1100 pairs of one parameter are more than are drawn together; each with a deviation of its own
    pairs = np.arange(1100)
    episodes, segments, sigmas = pairs * 7, pairs % 3, 0.1 + pairs / 100
    epsilon = np.zeros((1100, length))
    draw_noise(11, pairs, episodes, segments, sigmas, epsilon, None, 1)
    for pair in (0, 1, 3, 511, 512, 1023, 1024, 1099):
        twin = reference.noise(11, pair, 7 * pair, pair % 3, sigmas[pair], length)
        np.testing.assert_array_equal(epsilon[pair], twin)


@pytest.mark.parametrize("n_threads", [1, 2, 3, None])
def test_noise_depends_neither_on_threads_nor_on_order_nor_on_who_else_draws(
    n_threads, always_threaded
):
    pairs, episodes = np.arange(11), np.arange(11) * 3
    whole = _draw(9, pairs, episodes, pairs % 4, 1.0, 37)
    order = np.random.default_rng(1).permutation(11)[:7]
    some = _draw(9, order, episodes[order], order % 4, 1.0, 37, n_threads)
    np.testing.assert_array_equal(some, whole[order])


def test_large_draws_really_run_on_several_threads_with_the_same_bits(monkeypatch):
    # 40 pairs of 2001 parameters are above the threshold of either kernel
    started = []
    pool = perturbations._pool
    monkeypatch.setattr(perturbations, "_pool", lambda *args: started.append(args) or pool(*args))
    rng = np.random.default_rng(0)
    pairs, theta = np.arange(40), rng.normal(size=2001)
    results = []
    for n_threads in (1, 2, 3):
        epsilon, thetas = np.zeros((40, 2001)), np.zeros((80, 2001))
        accumulated = np.ones((40, 2001))
        draw_noise(4, pairs, pairs, pairs % 2, 0.5, epsilon, accumulated, n_threads)
        perturb(theta, epsilon, np.arange(80), thetas, n_threads)
        results.append((epsilon, accumulated, thetas))
    assert {n for _, n in started} == {2, 3}
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


def test_noise_goes_by_the_number_among_all_pairs():
    whole, share = np.zeros((9, 5)), np.zeros((4, 5))
    accumulated, its = np.zeros((9, 5)), np.zeros((4, 5))
    for segment in range(2):
        draw_noise(3, np.arange(9), np.arange(9), np.full(9, segment), 0.2, whole, accumulated)
        draw_noise(
            3, np.arange(4), np.arange(5, 9), np.full(4, segment), 0.2, share, its, first_pair=5
        )
        np.testing.assert_array_equal(share, whole[5:])
        np.testing.assert_array_equal(its, accumulated[5:])


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_accumulated_noise_is_the_sum_of_the_segments_in_order(n_threads, always_threaded):
    epsilon, accumulated = np.zeros((6, 5)), np.full((6, 5), 99.0)
    pairs = _ints(1, 4, 5)
    expected = np.zeros((3, 5))
    for segment in range(4):
        draw_noise(3, pairs, pairs + 10, np.full(3, segment), 0.2, epsilon, accumulated, n_threads)
        new = np.stack([reference.noise(3, p, p + 10, segment, 0.2, 5) for p in (1, 4, 5)])
        expected = new if segment == 0 else expected + new
        np.testing.assert_array_equal(epsilon[pairs], new)
        np.testing.assert_array_equal(accumulated[pairs], expected)
    untouched = _ints(0, 2, 3)
    assert (epsilon[untouched] == 0).all()
    assert (accumulated[untouched] == 99).all()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 5, 8195])
def test_perturbation_agrees_with_its_numpy_twin(d, n_threads, always_threaded):
    rng = np.random.default_rng(d)
    n_pairs = 19
    theta, epsilon = rng.normal(size=d), rng.normal(size=(n_pairs, d))
    rows = rng.permutation(3 * n_pairs)[: 2 * n_pairs]
    thetas = np.empty((rows.size, d))
    perturb(theta, epsilon, rows, thetas, n_threads)
    np.testing.assert_array_equal(thetas, reference.perturb(theta, epsilon, rows))


def test_episode_seeds_and_staggering_agree_with_their_twins():
    pairs, episodes = _ints(0, 3, 2, 10**6), _ints(0, 7, 2**31, 1)
    for seed in _SEEDS:
        expected = [
            reference.episode_seed(seed, p, e) for p, e in zip(pairs, episodes, strict=True)
        ]
        seeds = episode_seeds(seed, pairs, episodes)
        assert seeds.dtype == np.uint64
        assert seeds.tolist() == expected
        expected = [reference.staggering_uniform(seed, worker) for worker in range(5)]
        assert staggering_uniforms(seed, 5).tolist() == expected


def test_episode_seeds_do_not_repeat():
    pairs = np.repeat(np.arange(300), 300)
    episodes = np.tile(np.arange(300), 300)
    seeds = np.concatenate([episode_seeds(seed, pairs, episodes) for seed in (0, 1)])
    assert np.unique(seeds).size == seeds.size


def _normal_cdf(x):
    return 0.5 * (1.0 + np.array([math.erf(value) for value in x / math.sqrt(2.0)]))


def _sample(seed=0, n_pairs=1000, length=400):
    pairs = np.arange(n_pairs)
    return _draw(seed, pairs, np.zeros(n_pairs, int), np.zeros(n_pairs, int), 1.0, length)


def test_noise_has_the_moments_of_a_normal_distribution():
    # 400,000 variates, seed 0; each bound is 4 standard errors of the moment's estimate
    z = _sample().ravel()
    n = z.size
    assert abs(z.mean()) < 4 / math.sqrt(n)
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / n)
    tail = 2 * (1 - 0.5 * (1 + math.erf(3.5 / math.sqrt(2))))
    assert abs((np.abs(z) > 3.5).mean() - tail) < 4 * math.sqrt(tail / n)


def test_noise_passes_a_kolmogorov_smirnov_test():
    # sqrt(n)·D exceeds 1.95 with probability 0.001; seed 1, 20,000 variates of either parity
    for parity in (0, 1):
        z = np.sort(_sample(1, 100)[:, parity::2].ravel())
        cdf = _normal_cdf(z)
        grid = np.arange(z.size + 1) / z.size
        distance = max(np.abs(grid[1:] - cdf).max(), np.abs(cdf - grid[:-1]).max())
        assert math.sqrt(z.size) * distance < 1.95


@pytest.mark.parametrize("neighbour", ["component", "pair", "episode", "segment", "seed"])
def test_neighbouring_noises_are_not_correlated(neighbour):
    # 200,000 products; under independence a mean of products has standard error 1/sqrt(n), and
    # the mean of products of squares less one has sqrt(8/n)
    n, length = 1000, 200
    pairs, zeros = np.arange(n), np.zeros(n, np.int64)
    z = _draw(0, pairs, zeros, zeros, 1.0, length + 1)
    a = z[:, :length]
    b = {
        "component": lambda: z[:, 1:],
        "pair": lambda: _draw(0, pairs + 1, zeros, zeros, 1.0, length),
        "episode": lambda: _draw(0, pairs, zeros + 1, zeros, 1.0, length),
        "segment": lambda: _draw(0, pairs, zeros, zeros + 1, 1.0, length),
        "seed": lambda: _draw(1, pairs, zeros, zeros, 1.0, length),
    }[neighbour]()
    assert abs((a * b).mean()) < 4 / math.sqrt(a.size)
    assert abs((a**2 * b**2).mean() - 1) < 4 * math.sqrt(8 / a.size)


def test_sigma_scales_the_noise_and_its_sign_mirrors_it():
    unit = _draw(5, [2], [0], [0], 1.0, 9)
    np.testing.assert_array_equal(_draw(5, [2], [0], [0], 0.25, 9), 0.25 * unit)
    np.testing.assert_array_equal(_draw(5, [2], [0], [0], -1.0, 9), -unit)


def test_staggering_uniforms_are_uniform():
    # 20,000 numbers, seed 0: chi-squared over 50 cells, mean 49, standard deviation 9.9
    u = staggering_uniforms(0, 20000)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.bincount((50 * u).astype(int), minlength=50)
    assert abs(((counts - 400) ** 2 / 400).sum() - 49) < 4 * math.sqrt(98)


def test_usable_cpus_are_those_that_the_process_may_run_on(monkeypatch):
    monkeypatch.setattr(perturbations.os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert usable_cpus() == 3
    monkeypatch.delattr(perturbations.os, "sched_getaffinity")
    monkeypatch.setattr(perturbations.os, "cpu_count", lambda: 7)
    assert usable_cpus() == 7
    monkeypatch.setattr(perturbations.os, "cpu_count", lambda: None)
    assert usable_cpus() == 1
