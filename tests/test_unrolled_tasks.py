"""What every task outside MuJoCo must keep, so that every estimator can run on it."""

from __future__ import annotations

import numpy as np
import pytest
from toy_tasks import DIFFERENTIABLE, HORIZON, TASKS

from es_rl import perturbations
from es_rl.baselines import BASELINES
from es_rl.checkpoint import load_checkpoint, save_checkpoint
from es_rl.estimators import ESTIMATORS, GPES, TES, FullES
from es_rl.optimizers import SGD
from es_rl.tasks import NonFiniteLossError, UnrolledTask
from es_rl.trainer import Trainer

N_ROWS, WINDOW = 6, 3
# PyTorch compiles its own rules of forward differentiation when they are first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
every_task = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)


@pytest.fixture(autouse=True)
def _threads_from_the_first_row_on(monkeypatch):
    monkeypatch.setattr(perturbations, "_PARALLEL_FROM", 1)


def _thetas(task, n_rows=N_ROWS, scale=0.03):
    noise = np.random.default_rng(3).normal(size=(n_rows, task.num_params))
    return task.initial_theta() + scale * noise


def _started(make, seeds=None, **options):
    task = make(**options)
    task.allocate(N_ROWS)
    seeds = np.arange(N_ROWS) if seeds is None else seeds
    task.reset(np.arange(N_ROWS), np.array(seeds, np.uint64))
    return task


def _unroll(task, thetas, n_steps, rows=None):
    rows = np.arange(len(thetas)) if rows is None else np.array(rows)
    return task.unroll(rows, thetas, np.full(rows.size, n_steps, np.int64))


@every_task
def test_the_interface_is_whole(make):
    task = make()
    assert isinstance(task, UnrolledTask)
    assert task.horizon == HORIZON
    assert task.initial_theta().shape == (task.num_params,)
    assert task.initial_theta().dtype == np.float64
    assert task.name
    assert task.n_threads is None


@every_task
def test_rows_of_one_seed_meet_the_same_losses(make):
    # antithetic rows must share start and mini-batches
    task = _started(make, seeds=[5, 5, 7, 5, 7, 5])
    thetas = np.tile(task.initial_theta(), (N_ROWS, 1))
    first = [_unroll(task, thetas, 4).loss_sum for _ in range(2)]
    for losses in first:
        assert np.ptp(losses[[0, 1, 3, 5]]) == 0.0
        assert losses[2] == losses[4]
    task.reset(np.array([2]), np.array([5], np.uint64))
    again = [_unroll(task, thetas[:1], 4, rows=[2]).loss_sum[0] for _ in range(2)]
    assert again == [losses[0] for losses in first]


@every_task
def test_a_window_may_be_cut_anywhere_and_rows_keep_their_own_clocks(make):
    whole, cut = _started(make), _started(make)
    thetas = _thetas(whole)
    expected = _unroll(whole, thetas, 7)
    assert (expected.steps_taken == 7).all()
    assert not expected.ended.any()
    first = np.array([0, 1, 2, 3, 6, 7])
    parts = [cut.unroll(np.arange(N_ROWS), thetas, n) for n in (first, 7 - first)]
    assert [part.steps_taken.tolist() for part in parts] == [first.tolist(), (7 - first).tolist()]
    total = parts[0].loss_sum + parts[1].loss_sum
    np.testing.assert_allclose(total, expected.loss_sum, rtol=1e-13)
    for name, array in whole.get_state().items():
        np.testing.assert_array_equal(cut.get_state()[name], array)


@every_task
def test_the_horizon_belongs_to_the_estimator(make):
    task = _started(make)
    result = _unroll(task, _thetas(task), HORIZON + 5)
    assert (result.steps_taken == HORIZON + 5).all()
    assert not result.ended.any()


@every_task
def test_copied_rows_go_on_exactly_as_their_source(make):
    task = _started(make)
    _unroll(task, _thetas(task), 5)
    task.copy_rows(np.array([4, 4]), np.array([0, 1]))
    thetas = np.tile(_thetas(task)[:1], (N_ROWS, 1))
    losses = _unroll(task, thetas, 4).loss_sum
    assert losses[0] == losses[1] == losses[4]
    # and are no views of each other
    _unroll(task, _thetas(task)[:1], 3, rows=[0])
    after = _unroll(task, thetas[:2], 3, rows=[1, 4]).loss_sum
    assert after[0] == after[1]


@every_task
def test_a_fresh_task_goes_on_from_a_state(make):
    task = _started(make)
    thetas = _thetas(task)
    _unroll(task, thetas, 5)
    state = task.get_state()
    assert not any(array.dtype.hasobject for array in state.values())
    other = make()
    other.allocate(N_ROWS)
    other.set_state(state)
    expected = _unroll(task, thetas, 4).loss_sum
    np.testing.assert_array_equal(_unroll(other, thetas, 4).loss_sum, expected)
    # the state is a copy, neither advanced with the task nor with the one that took it
    other.set_state(state)
    np.testing.assert_array_equal(_unroll(other, thetas, 4).loss_sum, expected)


@every_task
def test_a_state_of_another_task_is_refused(make):
    task = _started(make)
    state = task.get_state()
    name = next(iter(state))
    with pytest.raises(ValueError, match="state"):
        task.set_state({key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match=name):
        task.set_state({**state, name: state[name][..., None]})
    with pytest.raises(ValueError, match=name):
        task.set_state({**state, name: state[name].astype(np.complex128)})


@every_task
def test_any_number_of_threads_gives_the_same_bits(make):
    results, states = [], []
    for n_threads in (1, 2, 3):
        task = _started(make, n_threads=n_threads)
        results.append(_unroll(task, _thetas(task), 5).loss_sum)
        states.append(task.get_state())
    for other, state in zip(results[1:], states[1:], strict=True):
        np.testing.assert_array_equal(other, results[0])
        for name, array in states[0].items():
            np.testing.assert_array_equal(state[name], array)


@every_task
def test_rows_that_were_never_reset_are_refused(make):
    task = make()
    task.allocate(3)
    task.reset(np.array([0, 2]), np.array([1, 1], np.uint64))
    with pytest.raises(RuntimeError, match="row 1"):
        _unroll(task, _thetas(task, 3), 1)


@every_task
def test_a_loss_that_is_not_finite_stops_its_row_and_is_reported(make):
    task = _started(make)
    thetas = _thetas(task)
    thetas[2] = 1.7e308
    result = _unroll(task, thetas, 6)
    assert not np.isfinite(result.loss_sum[2])
    assert result.steps_taken[2] < 6
    assert np.isfinite(np.delete(result.loss_sum, 2)).all()
    assert (np.delete(result.steps_taken, 2) == 6).all()
    estimator = FullES(task, n_pairs=2, sigma=1e-3)
    estimator.reset(task.initial_theta())
    with pytest.raises(NonFiniteLossError, match=task.name):
        estimator.estimate(np.full(task.num_params, 1.7e308))


def _estimator(name, task):
    kind = ESTIMATORS[name]
    # what is measured as accuracy needs a perturbation that changes some predictions
    sigma = 0.5 if task.name == "hyperparameter-tuning" else 0.01
    options = {"n_pairs": 3, "sigma": sigma, "seed": 4}
    if not kind.whole_episodes:
        options |= {"unroll_length": WINDOW}
    if kind is GPES:
        options |= {"noise_period": 2 * WINDOW}
    return kind(task, **options)


@pytest.mark.parametrize("name", ESTIMATORS)
@every_task
def test_every_estimator_runs_and_counts_each_step(make, name):
    task = make()
    theta = task.initial_theta()
    estimator = _estimator(name, task)
    start = estimator.reset(theta)
    clocks = np.maximum(task.get_state()["step"], 0)
    assert start.total_steps == (0 if estimator.whole_episodes else clocks.sum())
    estimate = estimator.estimate(theta)
    n, steps = 3, HORIZON if estimator.whole_episodes else WINDOW
    rows = {TES: 3}.get(type(estimator), 2)
    assert estimate.total_steps == rows * n * steps
    assert estimate.sequential_steps == steps
    assert np.isfinite(estimate.gradient).all()
    assert estimate.gradient.any()


@pytest.mark.parametrize("name", ESTIMATORS)
@every_task
def test_a_resumed_run_goes_on_bit_for_bit_on_any_number_of_threads(make, name, tmp_path):
    def trainer(n_threads):
        task = make(n_threads=n_threads)
        estimator = _estimator(name, task)
        return Trainer(estimator, SGD(task.num_params, 1e-7), task.initial_theta())

    whole, first, second = trainer(1), trainer(2), trainer(1)
    whole.run(updates=7)
    first.run(updates=3)
    save_checkpoint(tmp_path / "state.npz", first)
    second.load_state_dict(load_checkpoint(tmp_path / "state.npz")[1])
    second.run(updates=7)
    assert not np.array_equal(whole.theta, whole.estimator.task.initial_theta())
    expected = whole.state_dict()
    for key, value in second.state_dict().items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


every_differentiable = pytest.mark.parametrize("make", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)


@every_differentiable
def test_linearize_takes_the_very_step_that_unroll_takes(make):
    task, twin = _started(make), _started(make)
    thetas, rows = _thetas(task), np.arange(N_ROWS)
    for _ in range(4):
        loss = task.linearize(rows, thetas).loss
        np.testing.assert_array_equal(loss, _unroll(twin, thetas, 1).loss_sum)
    for key, value in twin.get_state().items():
        np.testing.assert_array_equal(task.get_state()[key], value)


@every_differentiable
def test_push_and_pull_are_transposed_to_each_other(make):
    # <cotangents, push(tangents)> = <pull(cotangents), tangents>, up to rounding
    task = _started(make)
    _unroll(task, _thetas(task), 3)
    step = task.linearize(np.arange(N_ROWS), _thetas(task))
    rng = np.random.default_rng(0)
    p, d = task.state_size, task.num_params
    ds, dtheta = rng.normal(size=(N_ROWS, 2, p)), rng.normal(size=(N_ROWS, 2, d))
    cs, closs = rng.normal(size=(N_ROWS, 2, p)), rng.normal(size=(N_ROWS, 2))
    new_ds, dloss = step.push(ds, dtheta)
    by_s, by_theta = step.pull(cs, closs)
    assert new_ds.shape == by_s.shape == ds.shape
    assert by_theta.shape == dtheta.shape
    assert dloss.shape == closs.shape
    left = (cs * new_ds).sum(axis=2) + closs * dloss
    right = (by_s * ds).sum(axis=2) + (by_theta * dtheta).sum(axis=2)
    np.testing.assert_allclose(left, right, rtol=1e-10)


# RTRL carries one direction for each parameter, of which the learned optimizer has 1,762
_BASELINES_ON_TASKS = [
    pytest.param(make, name, id=f"{name}-{task}")
    for name in BASELINES
    for task, make in DIFFERENTIABLE.items()
    if (name, task) != ("rtrl", "learned-optimizer-torch")
]


@pytest.mark.parametrize(("make", "name"), _BASELINES_ON_TASKS)
def test_a_resumed_baseline_goes_on_bit_for_bit(make, name):
    def trainer(n_threads):
        task = make(n_threads=n_threads)
        options = {} if name == "bptt" else {"unroll_length": WINDOW}
        baseline = BASELINES[name](task, n_workers=3, seed=2, **options)
        return Trainer(baseline, SGD(task.num_params, 1e-7), task.initial_theta())

    whole, first, second = trainer(1), trainer(2), trainer(2)
    whole.run(updates=7)
    first.run(updates=3)
    second.load_state_dict(first.state_dict())
    second.run(updates=7)
    assert not np.array_equal(whole.theta, whole.estimator.task.initial_theta())
    expected = whole.state_dict()
    for key, value in second.state_dict().items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)
