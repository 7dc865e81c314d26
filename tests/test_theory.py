"""T1 to T10: what the papers prove about the estimators, on a task with exact closed forms.

The closed forms are those of `es_rl.variance_theory`. They are compared with the library's own
estimates, pair by pair. A comparison allows four standard errors of the estimated quantity,
computed from the samples; each says how many standard errors away the nearest wrong formula would
be, and checks that it is at least eight.
"""

from __future__ import annotations

from itertools import pairwise

import linear_quadratic as lq
import numpy as np
import pytest
import reference
from pair_samples import mean_and_error, pair_estimates, trace_and_error

from es_rl import unrolling
from es_rl import variance_theory as theory
from es_rl.estimators import GPES, NRES, PES, TES, FullES
from es_rl.tasks import UnrollResult

ALLOWED, FAR = 4.0, 8.0
N = 60_000


def _task(**options):
    return lq.LinearQuadratic(19, **{"num_params": 3, "horizon": 12, **options})


_THETA = np.array([0.4, -0.3, 0.2])


def _samples(kind, task, theta=_THETA, n_pairs=N, **options):
    options = {"sigma": 0.7, "seed": 1, **options}
    if kind is not FullES:
        options = {"staggering": "iid", **options}
    estimator = kind(task, n_pairs=n_pairs, **options)
    estimator.reset(theta)
    return pair_estimates(estimator, theta)[0]


def _agree(samples, truth, wrong=()):
    mean, error = mean_and_error(samples)
    assert (np.abs(mean - truth) < ALLOWED * error).all(), (mean - truth) / error
    for other in wrong:
        assert (np.abs(other - truth) > FAR * error).any(), (other - truth) / error


def _trace_agrees(samples, truth, wrong=()):
    trace, error = trace_and_error(samples)
    assert abs(trace - truth) < ALLOWED * error, (trace, truth, error)
    for other in wrong:
        assert abs(other - truth) > FAR * error, (other, truth, error)


def test_closed_gradients_are_central_differences():
    # of a quadratic, so exact but for rounding
    task = _task(state_size=3, horizon=6)
    g = task.step_gradients(_THETA)
    for i in range(6):
        for j in range(3):
            shift = np.zeros((6, 3))
            shift[i, j] = 0.5
            thetas = np.tile(_THETA, (6, 1))
            difference = task.losses(thetas + shift) - task.losses(thetas - shift)
            np.testing.assert_allclose(g[:, i, j], difference, rtol=0, atol=1e-12)


def test_the_task_unrolls_the_losses_that_the_closed_forms_are_of():
    task = _task()
    task.allocate(1)
    task.reset(np.array([0]), np.array([9], np.uint64))
    losses = [
        task.unroll(np.array([0]), _THETA[None], np.array([1])).loss_sum[0] for _ in range(12)
    ]
    np.testing.assert_allclose(losses, task.losses(np.tile(_THETA, (12, 1))), rtol=1e-13)


_GPES = [(1, 1), (1, 2), (1, 4), (1, 5), (1, 12), (2, 2), (2, 4), (2, 12), (3, 6), (4, 8), (12, 12)]


@pytest.mark.parametrize(("unroll_length", "noise_period"), _GPES)
def test_t1_t2_t4_gpes_mean_and_variance(unroll_length, noise_period):
    # 60,000 pairs; periods that do not divide T and several windows a period are among them
    task = _task()
    g = task.step_gradients(_THETA)
    samples = _samples(GPES, task, unroll_length=unroll_length, noise_period=noise_period)
    mean = theory.mean_gradient(g)
    wrong = [-mean, 2 * mean]
    if unroll_length < 12:
        wrong.append(theory.truncated_gradients(g, unroll_length).mean(axis=0))
    _agree(samples, mean, wrong)
    variance = theory.gpes_variance(g, unroll_length, noise_period)
    windows = theory.window_gradients(g, unroll_length)
    if noise_period == 12:
        wrong = [variance - np.mean(np.sum(windows**2, axis=1))]  # d + 1 in the place of d + 2
    else:
        reused = theory.gpes_variance(g, unroll_length, 12)
        wrong = [reused, 2 * variance - reused]  # the term of fresh noise left out, or doubled
    _trace_agrees(samples, variance, wrong=wrong)


@pytest.mark.parametrize("kind", [NRES, PES])
@pytest.mark.parametrize("staggering", ["iid", "stratified"])
@pytest.mark.parametrize("unroll_length", [1, 3])
def test_t1_nres_and_pes_are_unbiased_from_the_start_and_later(kind, staggering, unroll_length):
    task = _task(random_start=False)
    truth = theory.mean_gradient(task.step_gradients(_THETA))
    estimator = kind(
        task, n_pairs=24_000, unroll_length=unroll_length, sigma=0.5, staggering=staggering, seed=2
    )
    estimator.reset(_THETA)
    for _ in range(6):
        samples, _ = pair_estimates(estimator, _THETA)
        _agree(samples, truth)


def test_t1_holds_where_windows_do_not_divide_the_horizon():
    # W = 5, T = 12: windows run over the ends of episodes, and start anywhere
    task = _task()
    truth = theory.mean_gradient(task.step_gradients(_THETA))
    for kind in (NRES, PES):
        estimator = kind(task, n_pairs=24_000, unroll_length=5, sigma=0.5, seed=3)
        estimator.reset(_THETA)
        for _ in range(5):
            _agree(pair_estimates(estimator, _THETA)[0], truth, wrong=[truth * 12 / 10])


def test_t3_variance_falls_with_the_noise_period_and_is_least_at_the_horizon():
    # periods that divide each other: each step down is many standard errors
    task = _task()
    g = task.step_gradients(_THETA)
    traces = [
        trace_and_error(_samples(GPES, task, unroll_length=1, noise_period=c, n_pairs=30_000))
        for c in (1, 2, 4, 12)
    ]
    for (above, above_error), (below, below_error) in pairwise(traces):
        assert above - below > ALLOWED * np.hypot(above_error, below_error)
    closed = [theory.gpes_variance(g, 1, c) for c in range(1, 13)]
    assert min(closed) == closed[-1]


def test_t4_nres_has_the_variance_of_its_windows_gradients_alone():
    task = _task()
    g = task.step_gradients(_THETA)
    for unroll_length in (1, 4):
        windows = theory.window_gradients(g, unroll_length)
        variance = 5 / len(windows) * np.sum(windows**2) - np.sum(theory.mean_gradient(g) ** 2)
        samples = _samples(NRES, task, unroll_length=unroll_length)
        _trace_agrees(samples, variance, wrong=[theory.full_es_variance(g)])


def test_t5_fulles_mean_and_variance():
    task = _task(drift=2.0)
    g = task.step_gradients(_THETA)
    samples = _samples(FullES, task)
    truth = theory.mean_gradient(g)
    _agree(samples, truth, wrong=[-truth, 12 * truth])
    variance = theory.full_es_variance(g)
    _trace_agrees(samples, variance, wrong=[variance * 5 / 4, variance * 3 / 4])


def test_t5_condition_10_is_sufficient_and_not_necessary():
    # the mean of n independent NRES estimates costs what one FullES estimate costs
    sufficient = unneeded = refuted = 0
    for seed in range(200):
        task = lq.LinearQuadratic(seed, 3, 2, 12, drift=seed % 5)
        g = task.step_gradients(_THETA)
        better = theory.gpes_variance(g, 3) / 4 <= theory.full_es_variance(g)
        assert better == (theory.full_es_over_nres(g, 3) >= 1)
        surely = theory.is_nres_surely_better(g, 3)
        # condition (10) as it stands in the paper: a bound on the windows' own gradients
        windows = theory.window_gradients(g, 3)
        assert surely == (np.sum(windows**2) <= 4 / 5 * np.sum(windows.sum(axis=0) ** 2))
        sufficient += surely and better
        refuted += surely and not better
        unneeded += better and not surely
    assert refuted == 0
    assert sufficient > 0
    assert unneeded > 0


def test_t5_mean_of_n_nres_beats_fulles_where_condition_10_holds():
    task = _task(drift=3.0)
    g = task.step_gradients(_THETA)
    assert theory.is_nres_surely_better(g, 3)
    nres = _samples(NRES, task, unroll_length=3).reshape(-1, 4, 3).mean(axis=1)
    full = _samples(FullES, task, n_pairs=N // 4)
    _trace_agrees(nres, theory.gpes_variance(g, 3, 12) / 4)
    (low, low_error), (high, high_error) = trace_and_error(nres), trace_and_error(full)
    assert high - low > FAR * np.hypot(low_error, high_error)
    ratio, error = high / low, high / low * np.hypot(low_error / low, high_error / high)
    assert abs(ratio - theory.full_es_over_nres(g, 3)) < ALLOWED * error


def test_t6_one_pair_per_window_has_less_variance_than_iid_windows():
    # n = 6 pairs, one in each window; every sixth estimate is free of the noise of the last one.
    # d = 1 and windows that disagree: the variance of i.i.d. windows is higher by 47 %
    task, theta = lq.LinearQuadratic(13, 1, 2, 12), np.array([0.4])
    g = task.step_gradients(theta)
    windows = theory.window_gradients(g, 2)
    stratified, iid = theory.stratified_variance(g, 2) / 6, theory.gpes_variance(g, 2) / 6
    np.testing.assert_allclose(iid - stratified, windows.var() / 6, rtol=1e-12)
    estimator = NRES(task, n_pairs=6, unroll_length=2, sigma=0.5, seed=4)
    estimator.reset(theta)
    samples = np.array([estimator.estimate(theta).gradient for _ in range(6 * 3000)])[::6]
    _agree(samples, theory.mean_gradient(g))
    _trace_agrees(samples, stratified, wrong=[iid])


def test_t6_stratified_positions_of_many_pairs_per_window():
    # 10,000 pairs in each of 6 windows; grouped by window, each group has its own mean and
    # covariance, and the mean over one pair of each group has the sum of these over n²
    task = lq.LinearQuadratic(13, 3, 2, 12)
    g = task.step_gradients(_THETA)
    estimator = NRES(task, n_pairs=N, unroll_length=2, sigma=0.5, seed=4)
    estimator.reset(_THETA)
    steps = estimator.state_dict()["step"] % 12
    samples, _ = pair_estimates(estimator, _THETA)
    windows = theory.window_gradients(g, 2)
    trace = variance = 0.0
    for k in range(6):
        own = samples[steps == 2 * k]
        assert len(own) == N // 6
        _agree(own, windows[k])
        part, error = trace_and_error(own)
        trace, variance = trace + part / 36, variance + (error / 36) ** 2
    truth = theory.stratified_variance(g, 2) / 6
    # as the statement has it
    assert truth == pytest.approx(4 / 36 * np.sum(windows**2), rel=1e-12)
    assert abs(trace - truth) < ALLOWED * np.sqrt(variance)
    assert abs(theory.gpes_variance(g, 2, 12) / 6 - truth) > FAR * np.sqrt(variance)


def _mean_over_an_episode(task, unroll_length, noise_period):
    """The mean of each pair's GPES estimates over an episode at frozen θ: (N, d)."""
    estimator = GPES(
        task, n_pairs=N, unroll_length=unroll_length, noise_period=noise_period, sigma=0.7,
        staggering="lockstep", seed=6,
    )  # fmt: skip
    estimator.reset(_THETA)
    n = task.horizon // unroll_length
    return sum(pair_estimates(estimator, _THETA)[0] for _ in range(n)) / n


def _episode_sum_second_moment(task, n):
    """E‖·‖² of the mean of the n PES estimates of an episode at frozen θ, and its error."""
    squares = np.sum(_mean_over_an_episode(task, 24 // n, 24 // n) ** 2, axis=1)
    return squares.mean(), squares.std() / np.sqrt(N)


def _second_moment(g, noise_period):
    return theory.episode_variance(g, noise_period) + np.sum(theory.mean_gradient(g) ** 2)


@pytest.mark.parametrize("n", [4, 24])
def test_t7_second_moment_of_the_sum_of_pes_estimates_over_an_episode(n):
    task = lq.LinearQuadratic(1, 3, 2, 24)
    g = task.step_gradients(_THETA)
    moment, error = _episode_sum_second_moment(task, n)
    truth = _second_moment(g, 24 // n)
    assert abs(moment - truth) < ALLOWED * error
    # the nearest wrong formula takes the windows for uncorrelated
    parts = theory.segment_gradients(g, 24 // n, 24 // n)
    own = sum((k + 1) * 3 * np.sum(p**2) + np.sum(p.sum(axis=0) ** 2) for k, p in enumerate(parts))
    uncorrelated = own / n**2 + np.sum(theory.mean_gradient(g) ** 2)
    assert abs(uncorrelated - truth) > FAR * error


@pytest.mark.parametrize(("unroll_length", "noise_period"), [(2, 4), (1, 5), (3, 12), (4, 40)])
def test_t7_holds_for_any_noise_period_and_not_for_windows(unroll_length, noise_period):
    # 5 does not divide the 12 steps; 40 is NRES, whose mean over an episode is FullES
    task = _task()
    g = task.step_gradients(_THETA)
    means = _mean_over_an_episode(task, unroll_length, noise_period)
    _agree(means, theory.mean_gradient(g))
    truth = theory.episode_variance(g, noise_period)
    if noise_period > 12:
        assert truth == pytest.approx(theory.full_es_variance(g), rel=1e-12)
    wrong = theory.episode_variance(g, 3 if noise_period > 3 else 12)
    _trace_agrees(means, truth, wrong=[wrong])


def test_t7_variance_falls_then_rises_with_the_number_of_windows():
    # closed forms of E‖·‖²/‖gradient‖² for 1, 4 and 24 windows an episode: 5.0, 3.0, 5.1
    task = lq.LinearQuadratic(0, 3, 2, 24, decay=0.2, drift=1.0)
    g = task.step_gradients(_THETA)
    moments = [_episode_sum_second_moment(task, n) for n in (1, 4, 24)]
    for n, (moment, error) in zip((1, 4, 24), moments, strict=True):
        truth = _second_moment(g, 24 // n)
        assert abs(moment - truth) < ALLOWED * error
    (one, one_error), (few, few_error), (many, many_error) = moments
    assert one - few > FAR * np.hypot(one_error, few_error)
    assert many - few > FAR * np.hypot(many_error, few_error)


@pytest.mark.parametrize("unroll_length", [1, 3, 4, 12])
def test_t8_tes_estimates_the_truncated_gradient(unroll_length):
    task = _task()
    g = task.step_gradients(_THETA)
    samples = _samples(TES, task, unroll_length=unroll_length)
    wrong = [] if unroll_length == 12 else [theory.mean_gradient(g)]
    _agree(samples, theory.truncated_gradients(g, unroll_length).mean(axis=0), wrong=wrong)
    # its total variance is NRES's with the truncated gradients; d + 1 in the place of d + 2 is far
    inside = theory.truncated_gradients(g, unroll_length)
    variance = theory.tes_variance(g, unroll_length)
    wrong = [variance - np.mean(np.sum(inside**2, axis=1))]
    if unroll_length < 12:
        wrong.append(theory.gpes_variance(g, unroll_length))
    _trace_agrees(samples, variance, wrong=wrong)


class TanhRecurrence:
    """s ← tanh(θ₀·s + θ₁), loss ½(s - y_t)²: not quadratic. Knows its derivatives."""

    num_params = 2
    horizon = 10
    targets = np.random.default_rng(8).normal(size=10)

    def allocate(self, n_rows):
        self.state, self.step = np.zeros(n_rows), np.zeros(n_rows, np.int64)

    def reset(self, rows, seeds):
        self.state[rows], self.step[rows] = 0.3, 0

    def unroll(self, rows, thetas, n_steps):
        loss_sum = np.zeros(rows.size)
        for k in range(int(n_steps.max())):
            going = n_steps > k
            own = rows[going]
            s = np.tanh(thetas[going, 0] * self.state[own] + thetas[going, 1])
            loss_sum[going] += 0.5 * (s - self.targets[self.step[own]]) ** 2
            self.state[own] = s
            self.step[own] += 1
        return UnrollResult(loss_sum, n_steps.copy(), np.zeros(rows.size, bool))

    def copy_rows(self, source, target):
        self.state[target], self.step[target] = self.state[source], self.step[source]

    def get_state(self):
        return {"state": self.state.copy(), "step": self.step.copy()}

    def set_state(self, state):
        self.state[:], self.step[:] = state["state"], state["step"]

    def window_derivatives(self, theta, direction, unroll_length, carry):
        """Each window's mean ∂L·v: v is the state's derivative along `direction`, (n,).

        `carry` says whether v lives on from window to window (DODGE) or is cut (TBPTT).
        """
        state, v, means = 0.3, 0.0, []
        for t in range(self.horizon):
            if t % unroll_length == 0:
                means.append(0.0)
                v = v if carry else 0.0
            new = np.tanh(theta[0] * state + theta[1])
            v = (1 - new**2) * (theta[0] * v + direction[0] * state + direction[1])
            state = new
            means[-1] += (state - self.targets[t]) * v / unroll_length
        return np.array(means)


@pytest.mark.parametrize(("kind", "carry"), [(NRES, True), (TES, False)])
def test_t9_small_sigma_gives_dodge_and_tbptt_on_the_same_directions(kind, carry):
    # D/(2σ) is a central difference: its error falls as σ², down to rounding of order 1e-16/σ
    task, theta = TanhRecurrence(), np.array([1.1, 0.2])
    errors = []
    for sigma in (1e-2, 1e-3):
        estimator = kind(
            task, n_pairs=8, unroll_length=2, sigma=sigma, staggering="lockstep", seed=5
        )
        estimator.reset(theta)
        worst = 0.0
        for window in range(5):
            samples, _ = pair_estimates(estimator, theta)
            for pair in range(8):
                segment = 0 if kind is NRES else window
                direction = reference.noise(5, pair, 0, segment, 1.0, 2)
                means = task.window_derivatives(theta, direction, 2, carry)
                worst = max(worst, np.abs(samples[pair] - means[window] * direction).max())
        errors.append(worst)
    assert errors[0] < 1e-2
    assert errors[1] < errors[0] / 50


def test_t9_tes_at_small_sigma_is_tbptt_in_expectation():
    task, theta = TanhRecurrence(), np.array([1.1, 0.2])
    truth = np.array([task.window_derivatives(theta, e, 2, False).mean() for e in np.eye(2)])
    whole = np.array([task.window_derivatives(theta, e, 10, True).mean() for e in np.eye(2)])
    samples = _samples(TES, task, theta, unroll_length=2, sigma=1e-4)
    _agree(samples, truth, wrong=[whole])


def _lockstep(kind, task, **options):
    if kind is FullES:
        options.pop("unroll_length", None)
    else:
        options["staggering"] = "lockstep"
    estimator = kind(task, n_pairs=11, sigma=0.3, seed=8, **options)
    estimator.reset(_THETA)
    return estimator


def test_t10_with_one_window_an_episode_all_estimators_are_fulles():
    runs = []
    for kind in (FullES, NRES, PES, TES, GPES):
        estimator = _lockstep(kind, _task(random_start=True), unroll_length=12)
        runs.append([estimator.estimate(_THETA + i) for i in range(3)])
    for run in runs[1:]:
        for mine, full in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(mine.gradient, full.gradient)
            assert mine.mean_loss == full.mean_loss
            assert mine.episodes == full.episodes == 11
    assert (runs[0][0].gradient != runs[0][1].gradient).all()


@pytest.mark.parametrize(
    ("kind", "period"), [(PES, 4), (NRES, 12), (NRES, 16), (NRES, 4000), (NRES, None)]
)
def test_t10_gpes_with_period_w_is_pes_and_from_the_horizon_on_nres(kind, period):
    runs = []
    for make, options in ((kind, {}), (GPES, {"noise_period": period})):
        estimator = make(
            _task(random_start=True), n_pairs=13, unroll_length=4, sigma=0.3, seed=8,
            staggering="iid", **options,
        )  # fmt: skip
        estimator.reset(_THETA)
        runs.append([estimator.estimate(_THETA - 0.1 * i) for i in range(7)])
    for mine, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(mine.gradient, other.gradient)
        assert mine[1:] == other[1:]


@pytest.mark.parametrize("unroll_length", [1, 2, 3, 6])
def test_t10_mean_over_an_nres_episode_is_fulles(unroll_length):
    full = _lockstep(FullES, _task(random_start=True))
    nres = _lockstep(NRES, _task(random_start=True), unroll_length=unroll_length)
    for _ in range(2):
        n = 12 // unroll_length
        mean = sum(nres.estimate(_THETA).gradient for _ in range(n)) / n
        truth = full.estimate(_THETA).gradient
        np.testing.assert_allclose(mean, truth, rtol=1e-12, atol=1e-12 * np.abs(truth).max())


def test_t10_mean_over_an_nres_episode_is_fulles_exactly_in_exact_arithmetic(monkeypatch):
    # noise, dynamics and losses are multiples of small powers of two, so nothing is rounded
    draw = unrolling.draw_designed_noise

    def dyadic(noise, seed, pairs, episodes, segments, sigma, epsilon, *others):
        draw(noise, seed, pairs, episodes, segments, sigma, epsilon, *others)
        epsilon[pairs] = np.round(4 * epsilon[pairs]) / 4

    monkeypatch.setattr(unrolling, "draw_designed_noise", dyadic)
    theta = np.array([0.5, -0.25, 1.0])
    runs = []
    for kind, options in ((FullES, {}), (NRES, {"unroll_length": 2, "staggering": "lockstep"})):
        task = _task(horizon=8, dyadic=True)
        estimator = kind(task, n_pairs=8, sigma=0.5, seed=2, **options)
        estimator.reset(theta)
        n = 8 // estimator.unroll_length
        runs.append(sum(estimator.estimate(theta).gradient for _ in range(n)) / n)
    np.testing.assert_array_equal(*runs)
    assert (runs[0] != 0).all()


@pytest.mark.parametrize("kind", [GPES, NRES, PES, TES, FullES])
def test_t10_mirrored_noise_leaves_the_estimate_unchanged(kind):
    # noise scales with σ and the estimate divides by σ²: a negative σ mirrors every ε, exactly
    options = {} if kind is FullES else {"unroll_length": 2, "staggering": "iid"}
    if kind is GPES:
        options["noise_period"] = 4
    runs = []
    for sign in (1, -1):
        estimator = kind(_task(random_start=True), n_pairs=21, sigma=0.3, seed=8, **options)
        estimator.sigma *= sign
        estimator.reset(_THETA)
        runs.append([estimator.estimate(_THETA + 0.1 * i).gradient for i in range(9)])
    np.testing.assert_array_equal(*runs)
