"""T1 to T10 on the papers' own tasks: what `test_theory` shows on a toy holds on these as well.

The statements about variances are exact where losses are quadratic, so on influence balancing;
those about σ → 0 hold wherever derivatives exist; the identities hold on every task, bit for bit.
Sizes are small where they may be; Lorenz and influence balancing are at the papers' own.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from pair_samples import pair_estimates
from toy_tasks import DIFFERENTIABLE, HORIZON, TASKS

from es_rl import variance_theory as theory
from es_rl.baselines import DODGE, TBPTT
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.envs.lorenz import LorenzTask
from es_rl.estimators import ESTIMATORS, GPES, NRES, PES, TES, FullES
from es_rl.variance import closed_variance, measure

# PyTorch compiles its own rules of forward differentiation when they are first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
every_task = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
every_differentiable = pytest.mark.parametrize("make", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)

T = 200  # of influence balancing: long enough for the effects of both signs


def _balancing(kind, n_samples=3000, **options):
    task = InfluenceBalancingTask(horizon=T)
    theta = task.initial_theta()
    result = measure(kind, task, theta, n_samples=n_samples, seed=1, sigma=0.1, **options)
    return result, task.step_gradients(theta, T)


def _gradient(make):
    """The gradient of an episode's mean loss at θ₀ by central differences, (d,)."""
    task, size = make(), 1e-5
    theta, d = task.initial_theta(), task.num_params
    task.allocate(2 * d)
    task.reset(np.arange(2 * d), np.zeros(2 * d, np.uint64))
    thetas = theta + size * np.concatenate([np.eye(d), -np.eye(d)])
    sums = task.unroll(np.arange(2 * d), thetas, np.full(2 * d, HORIZON)).loss_sum / HORIZON
    return (sums[:d] - sums[d:]) / (2 * size)


def _truncated_gradient(make):
    """What TBPTT computes at θ₀ with four windows an episode, (d,)."""
    tbptt = TBPTT(make(), n_workers=1, unroll_length=HORIZON // 4, staggering="lockstep")
    tbptt.reset(make().initial_theta())
    return np.mean([tbptt.estimate(make().initial_theta()).gradient for _ in range(4)], axis=0)


@pytest.mark.parametrize("name", ["nres", "pes", "gpes", "tes", "fulles"])
@pytest.mark.parametrize("task_name", ["lorenz", "influence-balancing", "char-lstm"])
def test_t1_t8_t9_means_are_the_gradient_or_for_tes_that_of_tbptt(task_name, name):
    # σ → 0, 4,000 episodes; 5 standard errors, for up to 147 parameters at once
    make = TASKS[task_name]
    options = {} if name == "fulles" else {"unroll_length": HORIZON // 4}
    if name == "gpes":
        options["noise_period"] = HORIZON // 2
    result = measure(
        ESTIMATORS[name], make(), make().initial_theta(), n_samples=4000, seed=2, sigma=1e-4,
        **options,
    )  # fmt: skip
    whole = _gradient(make)
    error = np.abs(result.mean - whole)
    if name != "tes":
        assert (error < 5 * result.mean_error).all()
        return
    assert (error > 8 * result.mean_error).any()
    if task_name in DIFFERENTIABLE:
        error = np.abs(result.mean - _truncated_gradient(make))
        assert (error < 5 * result.mean_error).all()


@pytest.mark.parametrize(
    ("unroll_length", "noise_period"), [(1, 1), (1, 10), (1, 50), (1, 200), (20, 20), (20, 100)]
)
def test_t2_t4_theorem_5_on_influence_balancing_within_three_standard_errors(
    unroll_length, noise_period
):
    result, g = _balancing(GPES, unroll_length=unroll_length, noise_period=noise_period)
    closed = theory.gpes_variance(g, unroll_length, noise_period)
    assert abs(result.variance.value - closed) < 3 * result.variance.error
    # the noise period next to it is far away
    other = theory.gpes_variance(g, unroll_length, 40 if noise_period != 200 else 100)
    assert abs(other - closed) > 8 * result.variance.error
    stratified = theory.stratified_variance(g, unroll_length, noise_period)
    assert abs(result.stratified.value - stratified) < 3 * result.stratified.error
    assert abs(result.mean[0] - theory.mean_gradient(g)[0]) < 3 * result.mean_error[0]


def test_t3_variance_on_lorenz_falls_with_the_noise_period():
    # θ₀, σ = 0.04, T = 2000, W = 100; 3,000 episodes; PES/NRES was checked as 11.8
    task = LorenzTask()
    found = [
        measure(
            GPES, task, task.initial_theta(), n_samples=3000, seed=1, sigma=0.04,
            unroll_length=100, noise_period=period,
        ).variance
        for period in (100, 200, 400, 1000, 2000)
    ]  # fmt: skip
    for shorter, longer in pairwise(found):
        assert shorter.low > longer.high
    assert found[0].low / found[-1].high > 8


def test_t5_theorem_9_on_influence_balancing():
    nres, g = _balancing(NRES, n_samples=6000, unroll_length=1)
    full, _ = _balancing(FullES, n_samples=6000)
    assert abs(full.variance.value - theory.full_es_variance(g)) < 3 * full.variance.error
    ratio = T * full.variance.value / nres.variance.value
    # both have the noise of the same pairs, so that this error is larger than the real one
    error = ratio * math.hypot(
        full.variance.error / full.variance.value, nres.variance.error / nres.variance.value
    )
    closed = theory.full_es_over_nres(g, 1)
    assert abs(ratio - closed) < 3 * error
    assert abs(closed - T) > 8 * error  # what windows with one and the same gradient would give


def test_t5_full_es_has_five_times_the_variance_of_averaged_nres_on_the_learned_optimizer():
    # T = 40, W = 1; 150 episodes of one pair. The ratio is 13; with T = 100 it is 36
    task = TASKS["learned-optimizer"](horizon=40)
    result = measure(
        NRES, task, task.initial_theta(), n_samples=150, seed=1, sigma=0.01, unroll_length=1
    )
    averaged = result.variance.over(40)
    assert result.episode.low / averaged.high > 5
    full = measure(FullES, task, task.initial_theta(), n_samples=150, seed=1, sigma=0.01)
    assert full.variance.value == pytest.approx(result.episode.value, rel=1e-6)
    assert full.steps_per_estimate == 40 * result.steps_per_estimate


def test_t6_known_windows_have_less_variance_than_random_ones():
    # where the windows' gradients differ, as on influence balancing
    result, g = _balancing(NRES, n_samples=12_000, unroll_length=5)
    stratified = theory.stratified_variance(g, 5)
    assert abs(result.stratified.value - stratified) < 3 * result.stratified.error
    gained = theory.gpes_variance(g, 5) - stratified
    assert gained > 4 * result.stratified.error
    assert gained == pytest.approx(theory.window_gradients(g, 5).var(), rel=1e-9)


@pytest.mark.parametrize("unroll_length", [1, 5, 200])
def test_t7_variance_of_the_episodes_mean_on_influence_balancing(unroll_length):
    result, g = _balancing(PES, n_samples=6000, unroll_length=unroll_length)
    closed = theory.episode_variance(g, unroll_length)
    assert abs(result.episode.value - closed) < 3 * result.episode.error
    if unroll_length < T:
        # what windows that are independent of each other would give
        independent = theory.gpes_variance(g, unroll_length, unroll_length) * unroll_length / T
        assert abs(independent - closed) > 8 * result.episode.error


def test_t7_variance_falls_then_rises_with_the_unrolls_of_a_character_lstm():
    # the poster's figure at a small size: 1, 4 and 48 unrolls of an episode
    task = TASKS["char-lstm"](horizon=48)
    found = [
        measure(
            PES, task, task.initial_theta(), n_samples=400, seed=1, sigma=1e-3,
            unroll_length=48 // unrolls,
        ).episode
        for unrolls in (1, 4, 48)
    ]  # fmt: skip
    assert found[0].low > found[1].high
    assert found[2].low > found[1].high


@pytest.mark.parametrize("unroll_length", [1, 20, 200])
def test_t8_tes_on_influence_balancing(unroll_length):
    result, g = _balancing(TES, unroll_length=unroll_length)
    truncated = theory.truncated_gradients(g, unroll_length).mean(axis=0)
    assert abs(result.mean[0] - truncated[0]) < 3 * result.mean_error[0]
    if unroll_length < T:
        assert abs(theory.mean_gradient(g)[0] - truncated[0]) > 8 * result.mean_error[0]
    task = InfluenceBalancingTask()
    closed = closed_variance(TES, task, np.array([0.5]), horizon=T, unroll_length=unroll_length)
    assert abs(result.variance.value - closed) < 3 * result.variance.error


@every_differentiable
def test_t9_nres_without_smoothing_is_dodge_sample_by_sample(make):
    # one seed gives both the same directions and the same episodes
    theta, options = make().initial_theta(), {"unroll_length": 4, "staggering": "iid", "seed": 7}
    nres = NRES(make(), n_pairs=12, sigma=1e-6, **options)
    dodge = DODGE(make(), n_workers=12, **options)
    for estimator in (nres, dodge):
        estimator.reset(theta)
    for _ in range(4):  # through the ends of episodes
        samples, _ = pair_estimates(nres, theta)
        dodge.estimate(theta)
        own = dodge._gradients / 4
        np.testing.assert_allclose(samples, own, rtol=1e-3, atol=1e-4 * np.abs(own).max())


def _lockstep(kind, make, **options):
    if kind is FullES:
        options.pop("unroll_length", None)
    else:
        options["staggering"] = "lockstep"
    estimator = kind(make(), n_pairs=5, sigma=0.02, seed=8, **options)
    estimator.reset(estimator.task.initial_theta())
    return estimator


@every_task
def test_t10_with_one_window_an_episode_all_estimators_are_fulles(make):
    theta = make().initial_theta()
    full, *others = (
        _lockstep(kind, make, unroll_length=HORIZON) for kind in (FullES, NRES, PES, TES, GPES)
    )
    for shift in (0.0, 0.01):
        truth = full.estimate(theta + shift)
        assert truth.gradient.any()
        for other in others:
            mine = other.estimate(theta + shift)
            np.testing.assert_array_equal(mine.gradient, truth.gradient)
            assert mine.mean_loss == truth.mean_loss


@every_task
def test_t10_gpes_is_pes_at_one_end_and_nres_at_the_other(make):
    theta = make().initial_theta()
    for kind, period in ((PES, 3), (NRES, HORIZON), (NRES, 3000)):
        options = {"n_pairs": 5, "unroll_length": 3, "sigma": 0.02, "seed": 8}
        first, second = kind(make(), **options), GPES(make(), noise_period=period, **options)
        for estimator in (first, second):
            estimator.reset(theta)
        for shift in (0.0, 0.01, -0.01):
            mine, other = (e.estimate(theta + shift) for e in (first, second))
            np.testing.assert_array_equal(mine.gradient, other.gradient)


@every_task
def test_t10_the_mean_over_an_nres_episode_is_fulles(make):
    full, nres = _lockstep(FullES, make), _lockstep(NRES, make, unroll_length=2)
    theta = full.task.initial_theta()
    for _ in range(2):
        mean = sum(nres.estimate(theta).gradient for _ in range(HORIZON // 2)) / (HORIZON // 2)
        truth = full.estimate(theta).gradient
        np.testing.assert_allclose(mean, truth, rtol=0, atol=1e-9 * np.abs(truth).max())


@pytest.mark.parametrize("kind", [NRES, PES, TES, FullES])
@pytest.mark.parametrize("name", TASKS)
def test_t10_mirrored_noise_leaves_the_estimate_unchanged(name, kind):
    # noise scales with σ and the estimate divides by σ²: a negative σ mirrors every ε, exactly
    make, runs = TASKS[name], []
    for sign in (1, -1):
        options = {} if kind is FullES else {"unroll_length": 3}
        estimator = kind(make(), n_pairs=5, sigma=0.02, seed=8, **options)
        theta = estimator.task.initial_theta()
        estimator.sigma *= sign
        estimator.reset(theta)
        runs.append([estimator.estimate(theta + 0.01 * i).gradient for i in range(3)])
    # PyTorch's products may round differently where plus and minus rows have changed places
    scale = 1e-10 * np.abs(runs[0]).max() if "torch" in name else 0.0
    np.testing.assert_allclose(*runs, rtol=0, atol=scale)
