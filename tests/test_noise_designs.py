"""Fixed-norm and orthogonal noise: its geometry, its moments, and the estimates made with it."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from es_rl.block_sums import BLOCK_PAIRS
from es_rl.estimators import NRES, PES, FullES
from es_rl.noise_designs import NOISES, draw_designed_noise, group_size
from es_rl.perturbations import draw_noise
from es_rl.tasks import UnrollResult

_DESIGNED = NOISES[1:]


def _draw(noise, pairs, episodes, d, *, sigma=0.5, segment=0, seed=7, n_threads=1, first_pair=0):
    pairs = np.asarray(pairs)
    episodes = np.broadcast_to(episodes, pairs.shape).astype(np.int64)
    epsilon = np.zeros((int(pairs.max()) + 1, d))
    segments = np.full(pairs.size, segment)
    draw_designed_noise(
        noise, seed, pairs, episodes, segments, sigma, epsilon, None, n_threads, first_pair
    )
    return epsilon[pairs]


def _gram(noise):
    return noise @ noise.T


def test_gaussian_noise_is_what_it_always_was_in_every_bit():
    expected = np.zeros((5, 9))
    draw_noise(7, np.arange(5), np.full(5, 3), np.zeros(5, np.int64), 0.5, expected)
    np.testing.assert_array_equal(_draw("gaussian", np.arange(5), 3, 9), expected)


@pytest.mark.parametrize("d", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("noise", _DESIGNED)
def test_lengths_are_those_of_the_gaussians_or_all_the_same(noise, d):
    drawn = _draw(noise, np.arange(2 * BLOCK_PAIRS), 2, d)
    lengths = np.linalg.norm(drawn, axis=1)
    own = [np.linalg.norm(reference.noise(7, pair, 2, 0, 0.5, d)) for pair in range(16)]
    expected = np.full(16, 0.5 * np.sqrt(d)) if noise.endswith("fixed-norm") else own
    np.testing.assert_allclose(lengths, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("d", "size"), [(1, 1), (2, 2), (3, 3), (16, 16), (40, 32), (2000, 32), (10_001, 8)]
)
@pytest.mark.parametrize("noise", ["orthogonal", "orthogonal-fixed-norm"])
def test_pairs_of_a_group_are_orthogonal_and_those_of_different_groups_are_not(noise, d, size):
    assert group_size(d) == size
    drawn = _draw(noise, np.arange(2 * size + 1), 2, d)
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    gram = _gram(unit)
    group = np.arange(len(drawn)) // size
    same = group[:, None] == group[None]
    np.testing.assert_allclose(gram[same], np.eye(len(drawn))[same], atol=1e-14)
    assert (np.abs(gram[~same]) > 1e-6).all()


def test_fixed_norm_noise_points_where_the_gaussian_does():
    drawn = _draw("fixed-norm", np.arange(3), 4, 6)
    for pair in range(3):
        raw = reference.noise(7, pair, 4, 0, 0.5, 6)
        expected = raw * 0.5 * np.sqrt(6) / np.linalg.norm(raw)
        np.testing.assert_allclose(drawn[pair], expected, rtol=1e-13)


def test_orthogonal_noise_is_the_gram_schmidt_of_the_gaussians():
    drawn = _draw("orthogonal", np.arange(BLOCK_PAIRS), 4, 12)
    raw = np.stack([reference.noise(7, pair, 4, 0, 0.5, 12) for pair in range(BLOCK_PAIRS)])
    q, r = np.linalg.qr(raw.T)
    expected = (q * np.sign(np.diag(r))).T * np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("noise", _DESIGNED)
def test_a_pair_s_noise_does_not_depend_on_who_else_is_drawn_by_whom(noise):
    pairs, episodes = np.arange(27), np.arange(27) % 3
    whole = _draw(noise, pairs, episodes, 90_000 if noise == "orthogonal" else 50)
    d = whole.shape[1]
    np.testing.assert_array_equal(_draw(noise, pairs, episodes, d, n_threads=3), whole)
    some = np.array([3, 4, 9, 26])
    np.testing.assert_array_equal(_draw(noise, some, episodes[some], d), whole[some])
    np.testing.assert_array_equal(
        _draw(noise, np.arange(11), episodes[16:], d, first_pair=16), whole[16:]
    )


def test_each_pair_may_have_a_sigma_of_its_own():
    sigmas = np.array([0.1, 0.5, 2.0])
    for noise in NOISES:
        drawn = _draw(noise, np.arange(3), 1, 20, sigma=sigmas)
        np.testing.assert_allclose(
            drawn, _draw(noise, np.arange(3), 1, 20, sigma=1.0) * sigmas[:, None], rtol=1e-14
        )


@pytest.mark.parametrize("noise", _DESIGNED)
def test_accumulated_noise_is_the_sum_over_the_segments(noise):
    pairs, episodes = np.arange(5), np.full(5, 2)
    epsilon, xi = np.zeros((5, 12)), np.full((5, 12), np.nan)
    expected = np.zeros((5, 12))
    for segment in range(3):
        draw_designed_noise(noise, 7, pairs, episodes, np.full(5, segment), 0.5, epsilon, xi)
        expected = expected + _draw(noise, pairs, 2, 12, segment=segment)
        np.testing.assert_array_equal(xi, expected)


@pytest.mark.parametrize("d", [2, 5, 12])
@pytest.mark.parametrize("noise", NOISES)
def test_moments_are_those_that_an_unbiased_estimator_needs(noise, d):
    # 8 pairs x 4000 episodes; correlations within a block make the 4000 blocks the samples
    n = 4000
    draws = np.stack([_draw(noise, np.arange(8), episode, d, sigma=0.5) for episode in range(n)])
    mean = draws.mean(axis=(0, 1))
    per_block = np.einsum("bpi,bpj->bij", draws, draws) / 8
    error = per_block.std(axis=0) / np.sqrt(n) + 1e-12
    assert (np.abs(mean) < 5 * 0.5 / np.sqrt(8 * n)).all()
    # five standard errors, 2 x 4 x 3 tests of up to 144 entries: one chance in 2,000 to fail
    assert (np.abs(per_block.mean(axis=0) - 0.25 * np.eye(d)) < 5 * error).all()
    if not noise.endswith("fixed-norm"):
        # each pair's noise is Gaussian: its fourth moment is 3σ⁴
        fourth = draws[:, 7] ** 4
        assert (np.abs(fourth.mean(axis=0) - 3 * 0.5**4) < 5 * fourth.std(axis=0) / n**0.5).all()


class _Line:
    """A linear loss g·θ at every step, for which an estimate is (1/σ²N) Σ ξ (ε·g)."""

    num_params, horizon = 8, 6

    def __init__(self):
        self.slope = np.arange(1.0, 9.0)

    def allocate(self, n_rows):
        pass

    def reset(self, rows, seeds):
        pass

    def unroll(self, rows, thetas, n_steps):
        return UnrollResult(thetas @ self.slope * n_steps, n_steps, np.zeros(rows.size, bool))


def test_eight_orthogonal_pairs_of_one_length_give_the_gradient_of_a_linear_loss_exactly():
    # the sum of u uᵀ over an orthonormal basis is the identity
    task = _Line()
    estimator = FullES(task, n_pairs=8, sigma=0.3, noise="orthogonal-fixed-norm")
    estimator.reset(np.zeros(8))
    for _ in range(3):
        gradient = estimator.estimate(np.zeros(8)).gradient
        np.testing.assert_allclose(gradient, task.slope, rtol=1e-12)


@pytest.mark.parametrize("noise", _DESIGNED)
@pytest.mark.parametrize("kind", [NRES, PES])
def test_estimates_are_unbiased_with_less_variance_than_gaussian_noise(kind, noise):
    # the gradient of the mean loss is the slope; 1,500 windows of 16 pairs
    task = _Line()

    def sample(noise):
        estimator = kind(task, n_pairs=16, unroll_length=2, sigma=0.3, noise=noise, seed=5)
        estimator.reset(np.zeros(8))
        return np.stack([estimator.estimate(np.zeros(8)).gradient for _ in range(1500)])

    estimates, plain = sample(noise), sample("gaussian")
    mean, spread = estimates.mean(axis=0), estimates.std(axis=0)
    # windows of one episode share noise: a third of them are independent
    assert (np.abs(mean - task.slope) < 5 * spread / np.sqrt(500)).all()
    assert estimates.var(axis=0).sum() < 0.98 * plain.var(axis=0).sum()


def test_a_resumed_run_draws_the_same_noise_again():
    for noise in _DESIGNED:
        task = _Line()

        def make(noise=noise, task=task):
            return PES(task, n_pairs=11, unroll_length=2, sigma=0.3, noise=noise)

        task.get_state, task.set_state = dict, lambda state: None
        estimator, again = make(), make()
        estimator.reset(np.zeros(8))
        estimator.estimate(np.zeros(8))
        again.load_state_dict(estimator.state_dict())
        for _ in range(3):
            np.testing.assert_array_equal(
                again.estimate(np.zeros(8)).gradient, estimator.estimate(np.zeros(8)).gradient
            )


def test_an_unknown_kind_of_noise_is_named():
    with pytest.raises(ValueError, match=r"^noise='cauchy': choose one of gaussian"):
        _draw("cauchy", [0], 0, 3)
