"""Influence balancing against its closed forms and the figures that methods.md has checked."""

from __future__ import annotations

import numpy as np
import pytest
from pair_samples import pair_estimates, trace_and_error

from es_rl import variance_theory as theory
from es_rl.baselines import RTRL, TBPTT
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.estimators import GPES, NRES, PES, TES, FullES

ROW = np.array([0])


def _started(**options):
    task = InfluenceBalancingTask(**options)
    task.allocate(1)
    task.reset(ROW, np.array([0], np.uint64))
    return task


def _losses(thetas):
    """The loss of each step, with parameters of its own for each step."""
    task = _started()
    return np.array([task.unroll(ROW, np.array([[t]]), np.array([1])).loss_sum[0] for t in thetas])


def test_losses_are_those_of_the_posters_matrix():
    matrix = np.diag(np.full(23, 0.5)) + np.diag(np.full(22, 0.5), 1)
    signs = np.array([1.0] * 10 + [-1.0] * 13)
    state, expected = np.ones(23), []
    for _ in range(200):
        state = matrix @ state + 0.5 * signs
        expected.append(0.5 * (state[0] - 1.0) ** 2)
    np.testing.assert_allclose(_losses(np.full(200, 0.5)), expected, rtol=1e-12)


def test_the_closed_gradients_are_central_differences_of_each_steps_own_parameter():
    # of a quadratic, so exact but for rounding
    n, theta = 60, np.full(60, 0.3)
    g = InfluenceBalancingTask().step_gradients(np.array([0.3]), n)
    for i in range(n):
        shift = np.zeros(n)
        shift[i] = 0.5
        difference = _losses(theta + shift) - _losses(theta - shift)
        np.testing.assert_allclose(g[:, i, 0], difference, rtol=0, atol=1e-11)


def test_the_system_comes_to_rest_without_loss_at_the_optimum():
    assert _losses(np.full(1000, InfluenceBalancingTask.optimum))[-1] < 1e-28


def _train(estimator, updates=3000):
    theta = estimator.task.initial_theta()
    estimator.reset(theta)
    for _ in range(updates):
        theta = theta - 1e-4 * estimator.estimate(theta).gradient
    return theta[0]


def test_rtrl_reaches_the_optimum():
    theta = _train(RTRL(InfluenceBalancingTask(), n_workers=1, unroll_length=1))
    assert _losses(np.full(500, theta))[-1] == pytest.approx(4e-17, rel=0.5)


@pytest.mark.parametrize(("kind", "n_pairs"), [(PES, 500), (NRES, 5), (NRES, 50), (NRES, 500)])
def test_unbiased_estimators_reach_the_optimum(kind, n_pairs):
    task = InfluenceBalancingTask()
    theta = _train(kind(task, n_pairs=n_pairs, unroll_length=1, sigma=0.1, seed=1))
    assert abs(theta - task.optimum) < 1e-3


def test_truncation_leads_away_and_tes_follows_tbptt():
    tbptt = _train(TBPTT(InfluenceBalancingTask(), n_workers=1, unroll_length=1))
    assert tbptt == pytest.approx(3.260, abs=5e-4)
    tes = _train(TES(InfluenceBalancingTask(), n_pairs=500, unroll_length=1, sigma=0.1, seed=1))
    assert tes == pytest.approx(tbptt, rel=0.01)


@pytest.mark.parametrize("unroll_length", [1, 20, 80, 109, 110, 111, 200])
def test_the_sign_of_tbptt_turns_at_a_window_of_110(unroll_length):
    theta = InfluenceBalancingTask().initial_theta()
    task = InfluenceBalancingTask(horizon=10**6)
    estimator = TBPTT(task, n_workers=1, unroll_length=unroll_length, staggering="lockstep")
    estimator.reset(theta)
    for _ in range(-(-600 // unroll_length)):  # until the system is at rest
        gradient = estimator.estimate(theta).gradient[0]
    # θ must fall from ½ to -1/6, so the right gradient is positive
    assert (gradient > 0) == (unroll_length >= 110)


_HORIZON = 60


@pytest.mark.parametrize("noise_period", [1, 5, 20, 60])
def test_theorem_5_holds_within_three_standard_errors(noise_period):
    task = InfluenceBalancingTask(horizon=_HORIZON)
    theta = np.array([0.5])
    estimator = GPES(
        task, n_pairs=40_000, unroll_length=1, sigma=0.3, noise_period=noise_period,
        staggering="iid", seed=2,
    )  # fmt: skip
    estimator.reset(theta)
    trace, error = trace_and_error(pair_estimates(estimator, theta)[0])
    g = task.step_gradients(theta, _HORIZON)
    assert abs(trace - theory.gpes_variance(g, 1, noise_period)) < 3 * error
    # the test can tell the noise periods apart
    other = 1 if noise_period == 60 else 60
    assert abs(trace - theory.gpes_variance(g, 1, other)) > 8 * error


def test_theorem_9_holds_for_full_episodes():
    task = InfluenceBalancingTask(horizon=_HORIZON)
    theta = np.array([0.5])
    estimator = FullES(task, n_pairs=100_000, sigma=0.3, seed=2)
    estimator.reset(theta)
    trace, error = trace_and_error(pair_estimates(estimator, theta)[0])
    assert abs(trace - theory.full_es_variance(task.step_gradients(theta, _HORIZON))) < 3 * error
