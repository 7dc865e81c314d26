"""Episodes that end early: NRES's long-run mean has the true direction and the known scale."""

from __future__ import annotations

import numpy as np
import pytest
from pair_samples import mean_and_error, pair_estimates

from es_rl.estimators import NRES
from es_rl.tasks import UnrollResult

HORIZON, SIGMA = 20, 0.6
THETA = np.array([0.3, 0.2])


def _survival(x):
    """Probability of living through one more step."""
    return 1.0 / (1.0 + np.exp(-1.5 - x))


def _reward(x):
    """Reward of every step."""
    return np.exp(0.5 * x)


class Survival:
    """Each step pays r(θ₁); an episode dies with probability 1 - p(θ₀) a step.

    A row lives beyond step t while p^t is at least the one uniform number that its episode drew,
    so the rows of a pair, which draw the same number, share their fate as far as θ allows.
    """

    num_params, horizon = 2, HORIZON

    def allocate(self, n_rows):
        self.threshold, self.odds = np.zeros(n_rows), np.zeros(n_rows)

    def reset(self, rows, seeds):
        self.threshold[rows] = (seeds >> np.uint64(11)).astype(np.float64) * 2.0**-53
        self.odds[rows] = 1.0

    def unroll(self, rows, thetas, n_steps):
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        ended = np.zeros(rows.size, bool)
        odds, threshold = self.odds[rows], self.threshold[rows]
        survival, reward = _survival(thetas[:, 0]), _reward(thetas[:, 1])
        for k in range(int(n_steps.max())):
            going = (n_steps > k) & ~ended
            loss_sum[going] -= reward[going]
            taken[going] += 1
            odds[going] *= survival[going]
            ended |= going & (odds < threshold)
        self.odds[rows] = odds
        return UnrollResult(loss_sum, taken, ended)

    def copy_rows(self, source, target):
        raise AssertionError("NRES copies no rows")

    def get_state(self):
        return {"threshold": self.threshold.copy(), "odds": self.odds.copy()}

    def set_state(self, state):
        self.threshold[:], self.odds[:] = state["threshold"], state["odds"]


def _gaussian(f):
    """E f(ε), ε ~ N(0, σ²), by Gauss-Hermite quadrature; exact to 1e-12 for these f."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return np.sum(weights * f(SIGMA * nodes)) / np.sum(weights)


def _expected_length(p):
    """Expected steps of an episode that lives through a step with probability p: Σ p^(t-1)."""
    return np.sum(p[..., None] ** np.arange(HORIZON), axis=-1)


def _expected_pair_length():
    """E max of both rows' lengths, which is that of the likelier row; symmetric in ε."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    e = 4 * SIGMA * (nodes + 1)  # 0 to 8σ: the integrand has a kink at zero
    density = np.exp(-0.5 * (e / SIGMA) ** 2) / (SIGMA * np.sqrt(2 * np.pi))
    best = np.maximum(_survival(THETA[0] + e), _survival(THETA[0] - e))
    return 2 * np.sum(4 * SIGMA * weights * density * _expected_length(best))


def _return_gradient():
    """∇ E[sum of losses] of the Gaussian-smoothed objective, (2,)."""
    reward = _gaussian(lambda e: _reward(THETA[1] + e))
    length = _gaussian(lambda e: _expected_length(_survival(THETA[0] + e)))
    by_survival = _gaussian(lambda e: _expected_length(_survival(THETA[0] + e)) * e) / SIGMA**2
    by_reward = _gaussian(lambda e: _reward(THETA[1] + e) * e) / SIGMA**2
    return -np.array([by_survival * reward, by_reward * length])


def _long_run_mean(estimator_class, unroll_length, n_pairs=3000, burn_in=30, windows=90):
    """Each pair's mean estimate over many windows of frozen θ, after the start has been forgotten.

    Pairs are independent, so their spread gives the error of the mean.
    """
    estimator = estimator_class(
        Survival(), n_pairs=n_pairs, unroll_length=unroll_length, sigma=SIGMA, seed=12
    )
    estimator.reset(THETA)
    for _ in range(burn_in):
        estimator.estimate(THETA)
    total = sum(pair_estimates(estimator, THETA)[0] for _ in range(windows))
    return mean_and_error(total / windows)


@pytest.mark.parametrize("unroll_length", [3, 8])
def test_long_run_mean_is_the_gradient_of_the_return_over_the_expected_pair_length(unroll_length):
    # 3000 pairs, 90 windows each; four standard errors, over the spread of the pairs
    mean, error = _long_run_mean(NRES, unroll_length)
    gradient = _return_gradient()
    truth = gradient / _expected_pair_length()
    assert (np.abs(mean - truth) < 4 * error).all(), (mean - truth) / error
    # a scale of T or of a single row's length would be far off
    row_length = _gaussian(lambda e: _expected_length(_survival(THETA[0] + e)))
    for scale in (HORIZON, row_length):
        assert (np.abs(gradient / scale - truth) > 8 * error).all()
    # and so would be the mean without the reward of surviving
    assert abs(truth[0]) > 8 * error[0]


class _BothEndWithTheFirst(NRES):
    """Resets both rows as soon as either has ended."""

    def _unroll_piece(self, theta, active, remaining):
        one = np.minimum(remaining, 1)
        piece = super()._unroll_piece(theta, active, one)
        self._finished[active] = self._row_ended[2 * active] | self._row_ended[2 * active + 1]
        return piece


class _EachEndsAlone(NRES):
    """Resets each row by itself, and the pair's noise at the horizon alone."""

    def _unroll_piece(self, theta, active, remaining):
        one = np.minimum(remaining, 1)
        piece = super()._unroll_piece(theta, active, one)
        rows = np.flatnonzero(self._row_ended)
        seeds = np.random.default_rng(int(self._step.sum())).integers(
            2**64, size=rows.size, dtype=np.uint64
        )
        self.task.reset(rows, seeds)
        self._row_ended[rows] = False
        self._finished[active] = False
        return piece


@pytest.mark.parametrize("biased", [_BothEndWithTheFirst, _EachEndsAlone])
def test_the_other_ways_of_ending_a_pair_miss_the_gradient_by_far(biased):
    # so that the test above would see them: neither rewards survival
    mean, error = _long_run_mean(biased, 3, n_pairs=1000, burn_in=10, windows=40)
    truth = _return_gradient() / _expected_pair_length()
    assert abs(mean[0] - truth[0]) > 8 * error[0]
    assert abs(mean[0]) < 5 * error[0]
