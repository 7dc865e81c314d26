"""Measured variances against closed forms, against slow measurements, and against each other."""

from __future__ import annotations

import math

import linear_quadratic as lq
import numpy as np
import pytest
from pair_samples import mean_and_error, pair_estimates, trace_and_error
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl import LinearPolicy
from es_rl import variance as variance_module
from es_rl import variance_theory as theory
from es_rl.envs import make_env, make_task
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.estimators import ESTIMATORS, GPES, NRES, PES, TES, FullES
from es_rl.normalization import Normalizer
from es_rl.tasks import NonFiniteLossError
from es_rl.variance import Measurement, closed_variance, measure

ALLOWED, FAR = 4.0, 8.0
_THETA = np.array([0.4, -0.3, 0.2])
_KINDS = {
    "nres": (NRES, {"unroll_length": 3}),
    "pes": (PES, {"unroll_length": 3}),
    "gpes": (GPES, {"unroll_length": 2, "noise_period": 4}),
    "gpes, whose period does not divide": (GPES, {"unroll_length": 1, "noise_period": 5}),
    "tes": (TES, {"unroll_length": 3}),
    "fulles": (FullES, {}),
}
every_kind = pytest.mark.parametrize(("kind", "options"), _KINDS.values(), ids=_KINDS)


def _task(**options):
    return lq.LinearQuadratic(19, **{"num_params": 3, "horizon": 12, **options})


def _near(interval, truth, wrong=()):
    assert abs(interval.value - truth) < ALLOWED * interval.error, (interval, truth)
    assert interval.low < interval.value < interval.high
    for other in wrong:
        assert abs(other - truth) > FAR * interval.error, (other, truth, interval.error)


@every_kind
def test_measured_variances_are_the_closed_ones(kind, options):
    # 30,000 samples; what each would be with fresh noise where it is reused, with independent
    # windows where they are not, or at a random window instead of a known one, is far
    task = _task()
    g = task.step_gradients(_THETA)
    result = measure(kind, task, _THETA, n_samples=30_000, seed=3, sigma=0.7, **options)
    closed = closed_variance(
        kind, task, _THETA, horizon=12, unroll_length=options.get("unroll_length"),
        noise_period=result.noise_period,
    )  # fmt: skip
    _near(result.variance, closed)
    if kind is TES:
        mean = theory.truncated_gradients(g, 3).mean(axis=0)
    else:
        mean = theory.mean_gradient(g)
        period = result.noise_period or 12
        wrong = theory.episode_variance(g, 3) if period == 12 else closed / result.n_windows
        _near(result.episode, theory.episode_variance(g, period), [wrong])
        if kind is not FullES:
            stratified = theory.stratified_variance(g, result.unroll_length, period)
            _near(result.stratified, stratified, wrong=[closed])
    assert (np.abs(result.mean - mean) < ALLOWED * result.mean_error).all()
    square = np.sum(mean**2)
    assert abs(result.squared_norm - square) < ALLOWED * 2 * np.linalg.norm(
        mean * result.mean_error
    ) + np.sum(result.mean_error**2)


@every_kind
def test_the_measurement_is_that_of_the_estimates_themselves(kind, options):
    # the same pairs, window by window, by the definitions in numpy; 16 samples
    task = _task(random_start=True)
    result = measure(kind, task, _THETA, n_samples=16, seed=5, sigma=0.7, **options)
    start = {} if kind is FullES else {"staggering": "lockstep"}
    estimator = kind(task, n_pairs=16, sigma=0.7, seed=5, **start, **options)
    estimator.reset(_THETA)
    n = result.n_windows
    assert n == 12 // estimator.unroll_length
    x = np.stack([pair_estimates(estimator, _THETA)[0] for _ in range(n)], axis=1)  # (m, n, d)
    y = x.mean(axis=1)
    mean, error = mean_and_error(y)
    np.testing.assert_allclose(result.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(result.mean_error, error, rtol=1e-12)
    # products of different pairs alone
    square = (np.sum(y @ y.T) - np.trace(y @ y.T)) / (16 * 15)
    assert result.squared_norm == pytest.approx(square, rel=1e-10)
    second = np.mean(np.sum(x**2, axis=2))
    assert result.variance.value == pytest.approx(second - square, rel=1e-10)
    assert result.episode.value == pytest.approx(trace_and_error(y)[0], rel=1e-12)
    apart = [x[i] - x[i + 1] for i in range(0, 16, 2)]
    stratified = 0.5 * np.mean([np.sum(a**2) / n for a in apart])
    assert result.stratified.value == pytest.approx(stratified, rel=1e-12)
    # half of the squared distance of two alike is their variance; summed over all pairs of samples
    # it is what the classical formula gives, window by window
    if n == 1:
        assert result.variance.value == pytest.approx(result.episode.value, rel=1e-12)
    rows = 3 if kind is TES else 2
    assert result.total_steps == task.executed - result.n_windows * 16 * rows * (
        estimator.unroll_length
    )
    assert result.steps_per_estimate == rows * estimator.unroll_length


def test_intervals_cover_the_true_variance():
    # 95 % intervals of 60 measurements of 100 samples each: at least 51 are expected with
    # probability 0.998 where 94 % are covered, at most 2 missed by none
    task = _task()
    g = task.step_gradients(_THETA)
    truths = [
        theory.gpes_variance(g, 3), theory.stratified_variance(g, 3), theory.full_es_variance(g)
    ]  # fmt: skip
    covered = np.zeros(3)
    for seed in range(60):
        result = measure(NRES, task, _THETA, n_samples=100, seed=seed, sigma=0.7, unroll_length=3)
        for i, interval in enumerate((result.variance, result.stratified, result.episode)):
            covered[i] += interval.low < truths[i] < interval.high
    assert (covered >= 51).all(), covered


_CASES = [
    *((name, EndingSystem, w) for name in ("nres", "pes", "gpes", "tes") for w in (4, 6, 20, 30)),
    *((name, LastingSystem, w) for name in ("nres", "pes", "tes") for w in (4, 6)),
    ("fulles", EndingSystem, 20),
    ("fulles", LastingSystem, 20),
]


@pytest.mark.parametrize(("name", "system", "unroll_length"), _CASES)
def test_variances_are_those_of_a_step_unlocked_start(name, system, unroll_length):
    # against fresh estimators with staggering "iid" and one window: windows that divide T = 20 and
    # that do not, that are longer, and episodes that end early inside them
    options = {} if name == "fulles" else {"unroll_length": unroll_length}
    if name == "gpes":
        options["noise_period"] = 2 * unroll_length
    task = LoopTask(system, 20)
    kind = ESTIMATORS[name]
    result = measure(kind, task, _THETA, n_samples=400, seed=1, sigma=0.3, **options)
    start = {} if name == "fulles" else {"staggering": "iid"}
    estimator = kind(task, n_pairs=1200, sigma=0.3, seed=77, **start, **options)
    estimator.reset(_THETA)
    samples, _ = pair_estimates(estimator, _THETA)
    trace, error = trace_and_error(samples)
    both = math.hypot(error, result.variance.error)
    assert abs(result.variance.value - trace) < ALLOWED * both
    mean, error = mean_and_error(samples)
    assert (np.abs(result.mean - mean) < ALLOWED * np.hypot(error, result.mean_error)).all()
    divides, one_window = 20 % unroll_length == 0, unroll_length == 20
    assert (result.stratified is not None) == divides
    assert (result.episode is not None) == (divides and (system is LastingSystem or one_window))


@pytest.mark.parametrize(("end", "is_whole"), [(6, False), (10, False), (12, True), (50, True)])
def test_an_episode_has_a_variance_only_where_none_ends_early(end, is_whole):
    # T = 12 and W = 4; both rows of a pair end together, so that no step is saved
    class Ending(LastingSystem):
        def step(self, theta):
            loss, _ = super().step(theta)
            return loss, self.steps == end

    result = measure(NRES, LoopTask(Ending, 12), _THETA, n_samples=10, sigma=0.3, unroll_length=4)
    assert (result.episode is not None) == is_whole
    assert result.stratified is not None


def test_theta_and_the_task_are_left_as_they_were():
    task = _task()
    theta = _THETA.copy()
    first = measure(PES, task, theta, n_samples=20, seed=2, sigma=0.7, unroll_length=3)
    again = measure(PES, task, theta, n_samples=20, seed=2, sigma=0.7, unroll_length=3)
    other = measure(PES, task, theta, n_samples=20, seed=4, sigma=0.7, unroll_length=3)
    np.testing.assert_array_equal(theta, _THETA)
    assert first.variance == again.variance
    np.testing.assert_array_equal(first.mean, again.mean)
    assert first.variance.value != other.variance.value


@every_kind
def test_memory_does_not_change_the_result(kind, options, monkeypatch):
    # 3 parts of 8, 8 and 4 pairs, from random starts
    def run(**extra):
        return measure(
            kind, _task(random_start=True), _THETA, n_samples=20, seed=2, sigma=0.7, **options,
            **extra,
        )  # fmt: skip

    whole, progress = run(), []
    monkeypatch.setattr(variance_module, "_MOST_PAIRS", 8)
    parts = run(on_progress=lambda done, of: progress.append((done, of)))
    for mine, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(mine, other)
    n = whole.n_windows
    sizes = np.cumsum([8] * n + [8] * n + [4] * n)
    assert progress == [(size, 20 * n) for size in sizes]


def test_windows_that_do_not_divide_the_episode_are_measured_in_parts_too(monkeypatch):
    options = {"n_samples": 20, "seed": 2, "sigma": 0.7, "unroll_length": 5}
    whole = measure(PES, _task(), _THETA, **options)
    monkeypatch.setattr(variance_module, "_MOST_PAIRS", 8)
    assert measure(PES, _task(), _THETA, **options)[2:] == whole[2:]
    assert whole.n_windows == 3


def test_pairs_held_at_once_are_bounded_by_memory():
    class Heavy(lq.LinearQuadratic):
        bytes_per_row = 1 << 20

    assert variance_module._pairs_at_once(_task()) == 1024
    assert variance_module._pairs_at_once(Heavy(19)) == 40
    Heavy.bytes_per_row = 1 << 40
    assert variance_module._pairs_at_once(Heavy(19)) == 8


def test_an_odd_number_of_samples_leaves_one_without_a_neighbour():
    options = {"seed": 2, "sigma": 0.7, "unroll_length": 6}
    even = measure(NRES, _task(), _THETA, n_samples=20, **options)
    odd = measure(NRES, _task(), _THETA, n_samples=21, **options)
    assert odd.stratified == even.stratified
    assert odd.variance != even.variance


def test_the_closed_form_is_only_where_there_is_one():
    task = InfluenceBalancingTask(horizon=12)
    theta, options = task.initial_theta(), {"horizon": 12, "unroll_length": 4}
    assert closed_variance(NRES, LoopTask(LastingSystem, 12), _THETA, **options) is None
    assert closed_variance(NRES, task, theta, horizon=12, unroll_length=5) is None
    assert closed_variance(NRES, task, theta, horizon=12) is None
    g = task.step_gradients(theta, 12)
    assert closed_variance(NRES, task, theta, **options) == theory.gpes_variance(g, 4)
    assert closed_variance(PES, task, theta, noise_period=4, **options) == theory.gpes_variance(
        g, 4, 4
    )
    assert closed_variance(TES, task, theta, **options) == theory.tes_variance(g, 4)
    assert closed_variance(FullES, task, theta, **options) == theory.full_es_variance(g)


def test_a_gradient_that_is_zero_has_no_variance():
    class Flat(LastingSystem):
        def step(self, theta):
            super().step(theta)
            return 1.0, False

    result = measure(PES, LoopTask(Flat, 6), _THETA, n_samples=10, sigma=0.1, unroll_length=2)
    assert result.variance == result.stratified == result.episode == (0.0, 0.0, 0.0, 0.0)
    assert not result.mean.any()
    assert result.squared_norm == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 9}, "n_samples=9: must be at least 10"),
        ({"horizon": None}, "horizon=None: a variance is that of an episode's windows"),
        ({"unroll_length": 0}, "unroll_length=0: must be a positive integer"),
        ({"sigma": -1.0}, "sigma=-1.0: must be a positive number"),
        ({"shaping": "std"}, "shaping=std: ties the pairs of an update together"),
        ({"top_pairs": 3}, "top_pairs=3: ties the pairs of an update together"),
        ({"noise": "orthogonal"}, "noise=orthogonal: ties the pairs of an update together"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    settings = {"n_samples": 10, "sigma": 0.1, "unroll_length": 2, "horizon": 4, **options}
    with pytest.raises(ValueError, match=message):
        measure(NRES, InfluenceBalancingTask(), np.array([0.5]), **settings)


@pytest.mark.parametrize("name", ["nres", "tes"])
def test_observations_are_normalised_by_what_is_given_throughout(name):
    # CartPole's episodes end early, where statistics that moved would be frozen anew
    env = make_env("CartPole-v1")
    plain = LinearPolicy(env.observation_space, env.action_space)
    normalised = LinearPolicy(
        env.observation_space, env.action_space, normalize_observations=True, observation_clip=1e9
    )
    env.close()
    theta = np.random.default_rng(0).normal(size=8)
    options = {"n_samples": 10, "sigma": 0.5, "unroll_length": 20, "horizon": 60}

    def run(policy, theta, normalizer=None, **extra):
        with make_task("CartPole-v1", policy, n_threads=0) as task:
            return measure(
                ESTIMATORS[name], task, theta, normalizer=normalizer, **{**options, **extra}
            )

    truth = run(plain, theta)
    assert truth.variance.value > 0
    np.testing.assert_array_equal(run(normalised, theta).mean, truth.mean)
    # twice the scale acts as twice the parameters and their noise: half the gradient
    doubled = Normalizer(np.zeros(4), np.full(4, 2.0))
    half = run(normalised, theta / 2, doubled, sigma=0.25)
    np.testing.assert_allclose(half.mean, 2.0 * truth.mean, rtol=1e-12)
    with pytest.raises(ValueError, match="unroll_length=25: must divide the 60 steps"):
        run(normalised, theta, unroll_length=25)


def test_a_loss_that_is_not_finite_stops_the_measurement():
    with pytest.raises(NonFiniteLossError, match="influence-balancing: the loss of pair"):
        measure(
            NRES, InfluenceBalancingTask(horizon=4), np.array([1e200]), n_samples=10, sigma=0.1,
            unroll_length=2,
        )  # fmt: skip


def test_a_measurement_says_what_it_is_of():
    task = InfluenceBalancingTask()
    result = measure(
        GPES, task, np.array([0.5]), n_samples=10, sigma=0.1, unroll_length=2, noise_period=6,
        horizon=8,
    )  # fmt: skip
    assert isinstance(result, Measurement)
    assert (result.unroll_length, result.noise_period, result.n_windows) == (2, 6, 4)
    assert result.n_samples == 10
    full = measure(FullES, task, np.array([0.5]), n_samples=10, sigma=0.1, horizon=8)
    assert (full.unroll_length, full.noise_period, full.n_windows) == (8, None, 1)
