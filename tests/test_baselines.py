"""The gradient baselines against central differences, against each other, and against NRES."""

from __future__ import annotations

import numpy as np
import pytest
from linear_quadratic import LinearQuadratic
from pair_samples import mean_and_error, pair_estimates

from es_rl.baselines import BASELINES, BPTT, DODGE, RTRL, TBPTT, UORO, Baseline
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.envs.lorenz import LorenzTask
from es_rl.estimators import NRES
from es_rl.tasks import NonFiniteLossError

TASKS = {"lorenz": LorenzTask, "influence-balancing": InfluenceBalancingTask}
every_task = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)


def _mean_loss(task, theta, n_steps, skip=0):
    """Mean loss of one episode's steps skip + 1 … n_steps."""
    row = np.array([0])
    task.allocate(1)
    task.reset(row, np.array([0], np.uint64))
    task.unroll(row, theta[None], np.array([skip]))
    return task.unroll(row, theta[None], np.array([n_steps - skip])).loss_sum[0] / (n_steps - skip)


def _central_differences(function, theta, size=1e-5):
    shifts = size * np.eye(theta.size)
    return np.array([(function(theta + s) - function(theta - s)) / (2 * size) for s in shifts])


def _one(kind, task, **options):
    """The gradient of one worker that starts with its episode."""
    options = {"n_workers": 1, **options}
    if kind is not BPTT:
        options = {"staggering": "lockstep", **options}
    estimator = kind(task, **options)
    theta = task.initial_theta()
    estimator.reset(theta)
    return estimator.estimate(theta).gradient


@every_task
def test_bptt_and_rtrl_are_central_differences(make):
    horizon = 150
    task = make(horizon=horizon)
    truth = _central_differences(lambda th: _mean_loss(task, th, horizon), task.initial_theta())
    bptt = _one(BPTT, make(horizon=horizon))
    rtrl = _one(RTRL, make(horizon=horizon), unroll_length=horizon)
    np.testing.assert_allclose(bptt, truth, rtol=1e-6)
    np.testing.assert_allclose(rtrl, bptt, rtol=1e-10)


@every_task
def test_rtrl_is_exact_in_the_middle_of_an_episode_and_tbptt_is_not(make):
    task, theta = make(horizon=60), make().initial_theta()
    truth = _central_differences(lambda th: _mean_loss(make(), th, 60, skip=40), theta)
    gradients = []
    for kind in (RTRL, TBPTT):
        estimator = kind(task, n_workers=1, unroll_length=20, staggering="lockstep")
        estimator.reset(theta)
        for _ in range(3):
            gradient = estimator.estimate(theta).gradient
        gradients.append(gradient)
    np.testing.assert_allclose(gradients[0], truth, rtol=1e-6)
    assert (np.abs(gradients[1] - truth) > 0.1 * np.abs(truth)).any()


@every_task
def test_tbptt_takes_the_state_at_the_beginning_of_its_window_as_given(make):
    task, theta = make(horizon=60), make().initial_theta()
    estimator = TBPTT(task, n_workers=1, unroll_length=20, staggering="lockstep")
    estimator.reset(theta)
    estimator.estimate(theta)
    state = task.get_state()
    gradient = estimator.estimate(theta).gradient

    def loss(th):
        task.set_state(state)
        return task.unroll(np.array([0]), th[None], np.array([20])).loss_sum[0] / 20

    np.testing.assert_allclose(gradient, _central_differences(loss, theta), rtol=1e-6)


@every_task
def test_a_tbptt_window_as_long_as_the_episode_is_bptt(make):
    task = make(horizon=30)
    np.testing.assert_array_equal(_one(TBPTT, task, unroll_length=30), _one(BPTT, task))


@pytest.mark.parametrize("kind", [UORO, DODGE])
@every_task
def test_the_mean_over_the_noise_is_the_gradient_of_rtrl(make, kind):
    # in the second window, where the carry has begun to matter; 20,000 workers, 4 standard errors
    task, theta = make(horizon=24), make().initial_theta()
    estimator = kind(task, n_workers=20_000, unroll_length=8, staggering="lockstep", seed=5)
    exact = RTRL(task, n_workers=1, unroll_length=8, staggering="lockstep")
    truncated = TBPTT(task, n_workers=1, unroll_length=8, staggering="lockstep")
    estimator.reset(theta)
    estimator.estimate(theta)
    estimator.estimate(theta)
    mean, error = mean_and_error(estimator._gradients / 8)
    rtrl, tbptt = (_second_window(other, theta) for other in (exact, truncated))
    assert (np.abs(mean - rtrl) < 4 * error).all(), (mean - rtrl) / error
    assert (np.abs(mean - tbptt) > 8 * error).any()


def _second_window(estimator, theta):
    estimator.reset(theta)
    estimator.estimate(theta)
    return estimator.estimate(theta).gradient


@every_task
def test_dodge_is_nres_without_smoothing_sample_by_sample(make):
    # T9: the same seed gives both the same directions; what is left is of the order of σ²
    sigma, theta = 1e-5, make().initial_theta()
    options = {"unroll_length": 10, "staggering": "iid", "seed": 7}
    nres = NRES(make(horizon=40), n_pairs=50, sigma=sigma, **options)
    dodge = DODGE(make(horizon=40), n_workers=50, **options)
    for estimator in (nres, dodge):
        estimator.reset(theta)
    for _ in range(6):  # through the ends of episodes
        samples, _ = pair_estimates(nres, theta)
        dodge.estimate(theta)
        own = dodge._gradients / 10
        np.testing.assert_allclose(samples, own, rtol=1e-4, atol=1e-4 * np.abs(own).max())


@pytest.mark.parametrize("name", BASELINES)
def test_each_step_of_a_worker_is_counted_once(name):
    # W does not divide T: episodes begin inside windows
    task = InfluenceBalancingTask(horizon=10)
    options = {} if name == "bptt" else {"unroll_length": 4}
    estimator = BASELINES[name](task, n_workers=3, seed=1, **options)
    theta = task.initial_theta()
    start = estimator.reset(theta)
    assert start.total_steps == np.maximum(task.get_state()["step"], 0).sum()
    assert not start.gradient.any()
    episodes = 0
    for _ in range(5):
        estimate = estimator.estimate(theta)
        window = 10 if name == "bptt" else 4
        assert estimate.total_steps == 3 * window
        assert estimate.sequential_steps == window
        episodes += estimate.episodes
    assert episodes == (15 if name == "bptt" else 6)


@pytest.mark.parametrize("kind", [TBPTT, RTRL])
def test_a_window_over_the_end_of_an_episode_adds_up_both_parts(kind):
    # lockstep, T = 10, W = 4: the third window holds steps 9, 10 and then 1, 2 of the next episode
    task, theta = InfluenceBalancingTask(horizon=10), np.array([0.5])
    estimator = kind(task, n_workers=2, unroll_length=4, staggering="lockstep")
    estimator.reset(theta)
    for _ in range(3):
        estimate = estimator.estimate(theta)
    g = task.step_gradients(theta, 10)[:, :, 0]
    first_step = 8 if kind is TBPTT else 0
    expected = (g[8:10, first_step:].sum() + g[:2].sum()) / 4
    assert estimate.gradient[0] == pytest.approx(expected, rel=1e-12)
    assert estimate.episodes == 2


def test_the_mean_loss_is_that_of_the_steps():
    task, theta = InfluenceBalancingTask(horizon=30), np.array([0.5])
    estimator = RTRL(task, n_workers=2, unroll_length=30, staggering="lockstep")
    estimator.reset(theta)
    assert estimator.estimate(theta).mean_loss == pytest.approx(_mean_loss(task, theta, 30))


def test_a_task_without_derivatives_is_refused_by_name():
    with pytest.raises(TypeError, match=r"RTRL needs .* LinearQuadratic has no linearize"):
        RTRL(LinearQuadratic(1), n_workers=1, unroll_length=1)


def test_options_out_of_range_are_named():
    task = InfluenceBalancingTask()
    with pytest.raises(ValueError, match="n_workers=0: must be a positive integer"):
        TBPTT(task, n_workers=0, unroll_length=1)
    with pytest.raises(ValueError, match="unroll_length=0: must be a positive integer"):
        RTRL(task, n_workers=1, unroll_length=0)
    with pytest.raises(ValueError, match="horizon=None: BPTT needs episodes of finite length"):
        BPTT(task, n_workers=1)


def test_the_state_of_other_settings_is_refused():
    task, theta = InfluenceBalancingTask(), np.array([0.5])
    states = []
    for kind in (RTRL, UORO):
        estimator = kind(task, n_workers=2, unroll_length=1)
        estimator.reset(theta)
        states.append(estimator.state_dict())
    with pytest.raises(ValueError, match="other settings: 'influence'"):
        RTRL(task, n_workers=2, unroll_length=1).load_state_dict(states[1])


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_goes_on_from_a_loss_that_is_not_finite(name):
    task, theta = LorenzTask(horizon=40), np.array([20.0, 20.0])
    options = {} if name == "bptt" else {"unroll_length": 20}
    estimator = BASELINES[name](task, n_workers=2, **options)
    with pytest.raises(NonFiniteLossError, match="lorenz: the loss of"):
        _second_window(estimator, theta)


def test_a_gradient_that_overflows_is_refused():
    # the losses of a chaotic episode stay finite while its gradient grows without bound
    class Steep(InfluenceBalancingTask):
        def linearize(self, rows, thetas):
            step = super().linearize(rows, thetas)
            step._state_by_theta = np.full((rows.size, 23, 1), 1e308)
            return step

    estimator = RTRL(Steep(), n_workers=1, unroll_length=3)
    estimator.reset(np.array([0.5]))
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(
        FloatingPointError, match="the gradient by RTRL became NaN or infinite"
    ):  # fmt: skip
        estimator.estimate(np.array([0.5]))


def test_the_table_holds_every_baseline():
    kinds, found = [Baseline], set()
    while kinds:
        for kind in kinds.pop().__subclasses__():
            kinds.append(kind)
            if not kind.__name__.startswith("_"):
                found.add(kind)
    assert found == set(BASELINES.values())
