"""The Lorenz task against the paper's equations and the figures that methods.md has checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pair_samples import pair_estimates, trace_and_error

from es_rl.envs.lorenz import LorenzTask
from es_rl.estimators import GPES


def _mean_losses(task, thetas, n_steps):
    rows = np.arange(len(thetas))
    task.allocate(rows.size)
    task.reset(rows, np.zeros(rows.size, np.uint64))
    return task.unroll(rows, thetas, np.full(rows.size, n_steps)).loss_sum / n_steps


def _course(r, a, n_steps, dt=0.005):
    # section 5.1, equation by equation
    x, y, z, course = 1.2, 1.3, 1.6, []
    for _ in range(n_steps):
        dx = a * (y - x)
        dy = x * (r - z) - y
        dz = x * y - 8.0 / 3.0 * z
        x, y, z = x + dx * dt, y + dy * dt, z + dz * dt
        course.append(z)
    return np.array(course)


def test_losses_are_those_of_the_papers_equations():
    theta = np.array([3.4, 2.2])
    task = LorenzTask()
    task.allocate(1)
    task.reset(np.array([0]), np.array([0], np.uint64))
    losses = [
        task.unroll(np.array([0]), theta[None], np.array([1])).loss_sum[0] for _ in range(300)
    ]
    expected = (_course(math.exp(3.4), math.exp(2.2), 300) - _course(28.0, 10.0, 300)) ** 2
    np.testing.assert_allclose(losses, expected, rtol=1e-8, atol=1e-20)


def test_the_true_parameters_have_no_loss_at_all():
    task = LorenzTask()
    np.testing.assert_allclose(np.exp(task.true_theta), [28.0, 10.0], rtol=1e-15)
    assert _mean_losses(task, task.true_theta[None], 2000)[0] == 0.0


def test_the_loss_at_the_papers_start_is_the_checked_one():
    task = LorenzTask()
    assert _mean_losses(task, task.initial_theta()[None], 2000)[0] == pytest.approx(353.3, abs=0.05)


def test_the_smoothed_loss_at_the_true_parameters_is_the_checked_one():
    # 56.4 for σ = 0.04; 8,000 draws leave a standard error of 0.6
    task = LorenzTask()
    thetas = task.true_theta + 0.04 * np.random.default_rng(0).normal(size=(8000, 2))
    losses = _mean_losses(task, thetas, 2000)
    assert abs(losses.mean() - 56.4) < 3 * losses.std() / math.sqrt(losses.size)


def test_the_variance_of_one_window_falls_with_the_noise_period():
    # at θ₀; 20,000 pairs leave standard errors of 3% a variance. PES / NRES was checked as 11.8
    variances = []
    for noise_period in (100, 200, 400, 1000, 2000):
        task = LorenzTask()
        estimator = GPES(
            task, n_pairs=20_000, unroll_length=100, sigma=0.04, noise_period=noise_period,
            staggering="iid", seed=3,
        )  # fmt: skip
        estimator.reset(task.initial_theta())
        variances.append(trace_and_error(pair_estimates(estimator, task.initial_theta())[0])[0])
    assert (np.diff(variances) < 0).all()
    assert variances[0] / variances[-1] == pytest.approx(11.8, rel=0.12)


def test_parameters_beyond_a_doubles_range_give_an_infinite_loss_not_a_wrong_one():
    for theta in ([800.0, 2.0], [3.0, 800.0]):
        assert not np.isfinite(_mean_losses(LorenzTask(), np.array([theta]), 50)[0])
    # r = a = 0 leaves x alone and lets y and z decay
    loss = _mean_losses(LorenzTask(), np.array([[-800.0, -800.0]]), 1)[0]
    assert loss == pytest.approx((_course(0.0, 0.0, 1)[0] - _course(28.0, 10.0, 1)[0]) ** 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon=0: must be a positive integer"),
        ({"dt": -1.0}, r"dt=-1.0: must be a positive number"),
        ({"dt": "abc"}, r"dt=abc: must be a positive number"),
        ({"dt": None}, r"dt=None: must be a positive number"),
        ({"horizon": "abc"}, "horizon=abc: must be a positive integer"),
        ({"dt": math.inf}, r"dt=inf: must be a positive number"),
        ({"n_threads": 0}, "n_threads=0: must be a positive integer"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LorenzTask(**options)
