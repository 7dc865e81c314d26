"""The outer loop: who owns θ, what is counted, and when it stops."""

from __future__ import annotations

import linear_quadratic as lq
import numpy as np
import pytest
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl import trainer as trainer_module
from es_rl import variance_theory as theory
from es_rl.estimators import ESTIMATORS, NRES, FullES, GradientEstimate
from es_rl.optimizers import SGD, Adam, Momentum
from es_rl.schedules import parse_schedule
from es_rl.tasks import NonFiniteLossError, UnrolledTask
from es_rl.trainer import Trainer, UpdateRecord


class KnownGradient:
    """A stub estimator: the gradient of ½‖θ - target‖², at a cost known beforehand."""

    def __init__(self, target):
        self.target = np.asarray(target, float)
        self.resets = 0

    def reset(self, theta):
        self.resets += 1
        return GradientEstimate(np.zeros_like(theta), np.nan, 90, 700, 1)

    def estimate(self, theta):
        return GradientEstimate(theta - self.target, float(theta.sum()), 10, 200, 3)

    def state_dict(self):
        return {}


def _trainer(**options):
    return Trainer(KnownGradient([1.0, -2.0]), SGD(2, 0.5), np.array([3.0, 4.0]), **options)


def test_each_update_takes_the_optimiser_s_step_and_is_charged():
    trainer = _trainer()
    first, second = trainer.update(), trainer.update()
    np.testing.assert_array_equal(trainer.theta, [1.5, -0.5])
    assert first == UpdateRecord(1, 100, 900, 7.0, np.sqrt(40.0), 4)
    assert second == UpdateRecord(2, 110, 1100, 3.0, np.sqrt(10.0), 7)
    assert (trainer.updates, trainer.sequential_steps) == (2, 110)
    assert (trainer.total_steps, trainer.episodes) == (1100, 7)
    assert trainer.estimator.resets == 1


def test_the_start_is_made_and_charged_once():
    trainer = _trainer()
    trainer.start()
    trainer.start()
    assert (trainer.updates, trainer.total_steps, trainer.sequential_steps) == (0, 700, 90)
    trainer.run(updates=2)
    assert trainer.estimator.resets == 1


def test_theta_given_is_copied():
    theta = np.array([3.0, 4.0])
    trainer = Trainer(KnownGradient([0, 0]), SGD(2, 0.5), theta)
    trainer.update()
    np.testing.assert_array_equal(theta, [3.0, 4.0])


def test_theta_handed_out_before_an_update_is_not_changed_by_it():
    # a callback may keep it without copying
    trainer = _trainer()
    before = trainer.theta
    trainer.update()
    np.testing.assert_array_equal(before, [3.0, 4.0])


@pytest.mark.parametrize(
    ("budget", "updates"),
    [
        # the start costs 90 and 700, an update 10 and 200
        ({"updates": 3}, 3),
        ({"updates": 0}, 0),
        ({"total_steps": 1100}, 2),
        ({"total_steps": 1101}, 3),
        ({"total_steps": 700}, 0),
        ({"sequential_steps": 100}, 1),
        ({"sequential_steps": 101}, 2),
        ({"updates": 5, "total_steps": 1300}, 3),
        ({"updates": 2, "total_steps": 10**9, "sequential_steps": 10**9}, 2),
    ],
)
def test_run_stops_at_the_first_update_that_reaches_a_budget(budget, updates):
    trainer = _trainer()
    reason = trainer.run(**budget)
    assert trainer.updates == updates
    assert getattr(trainer, reason) >= budget[reason]


def test_budgets_are_those_of_the_whole_run():
    trainer = _trainer()
    assert trainer.run(updates=4) == "updates"
    assert trainer.run(updates=4) == "updates"
    assert trainer.updates == 4
    assert trainer.run(updates=5) == "updates"
    assert trainer.updates == 5


def test_run_stops_after_its_time(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 1.0))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: float(next(clock)))
    trainer = _trainer()
    # the clock shows 0 at the start, then 1, 2, 3 before each update
    assert trainer.run(max_time=3.0, updates=10**6) == "max_time"
    assert trainer.updates == 2


@pytest.mark.parametrize("answer", [False, np.False_])
def test_a_callback_that_says_false_stops_the_run(answer):
    seen = []

    def callback(trainer, record):
        seen.append(record)
        assert record.update == trainer.updates
        return answer if len(seen) == 3 else True

    trainer = _trainer()
    assert trainer.run(updates=10, callback=callback) == "callback"
    assert [record.update for record in seen] == [1, 2, 3]
    assert trainer.updates == 3


@pytest.mark.parametrize("answer", [None, True, np.True_])
def test_a_callback_that_says_anything_else_does_not(answer):
    trainer = _trainer()
    assert trainer.run(updates=4, callback=lambda *_: answer) == "updates"
    assert trainer.updates == 4


def test_an_endless_run_is_refused():
    trainer = _trainer()
    with pytest.raises(ValueError, match="at least one of updates, total_steps"):
        trainer.run()
    assert trainer.run(callback=lambda trainer, record: trainer.updates < 7) == "callback"
    assert trainer.updates == 7


@pytest.mark.parametrize("name", ESTIMATORS)
def test_counters_are_those_of_an_instrumented_task(name):
    task = LoopTask(EndingSystem, 15)
    options = {} if ESTIMATORS[name].whole_episodes else {"unroll_length": 4}
    estimator = ESTIMATORS[name](task, n_pairs=9, sigma=0.3, seed=1, **options)
    trainer = Trainer(estimator, SGD(3, 0.01), np.array([0.6, -0.2, 0.5]))
    records = []
    trainer.run(updates=12, callback=lambda _, record: records.append(record))
    assert trainer.total_steps == task.executed == records[-1].total_steps
    assert trainer.episodes == records[-1].episodes > 9
    for field in ("update", "total_steps", "sequential_steps"):
        values = [getattr(record, field) for record in records]
        assert values == sorted(values)


class Failing(LastingSystem):
    """Its loss becomes infinite at step 9."""

    def step(self, theta):
        loss, ended = super().step(theta)
        return (np.inf if self.steps == 9 else loss), ended


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_theta():
    estimator = NRES(
        LoopTask(Failing, 20), n_pairs=4, unroll_length=4, sigma=0.1, staggering="lockstep"
    )
    trainer = Trainer(estimator, Momentum(3, 0.1), np.ones(3))
    thetas = []
    with pytest.raises(NonFiniteLossError, match=r"Failing: the loss of pair 0 \(plus row\)"):
        trainer.run(updates=9, callback=lambda trainer, _: thetas.append(trainer.theta))
    # steps 1 to 8 were fine: two updates
    assert (trainer.updates, trainer.total_steps) == (2, 64)
    np.testing.assert_array_equal(trainer.theta, thetas[-1])
    assert np.isfinite(trainer.theta).all()


def test_a_step_to_parameters_that_are_not_finite_is_refused_and_leaves_theta():
    trainer = Trainer(KnownGradient([1e308, 0.0]), Momentum(2, 1e3), np.array([1.0, 2.0]))
    before = trainer.state_dict()
    with pytest.raises(FloatingPointError, match="update 1 would make"):
        trainer.update()
    np.testing.assert_array_equal(trainer.theta, [1.0, 2.0])
    assert trainer.updates == 0
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_nan_gradients_are_refused():
    trainer = Trainer(KnownGradient([np.nan, 0.0]), Adam(2, 0.1), np.array([1.0, 2.0]))
    with pytest.raises(FloatingPointError, match="lower --learning-rate"):
        trainer.update()
    np.testing.assert_array_equal(trainer.theta, [1.0, 2.0])


@pytest.mark.parametrize("name", ["nres", "pes", "fulles"])
def test_training_finds_the_optimum_of_the_linear_quadratic_task(name):
    # the optimum solves a linear system: the gradient is affine in θ
    task = lq.LinearQuadratic(8, 2, decay=0.5, drift=2.0)
    at_zero = theory.mean_gradient(task.step_gradients(np.zeros(2)))
    slope = np.stack(
        [theory.mean_gradient(task.step_gradients(e)) - at_zero for e in np.eye(2)], axis=1
    )
    optimum = np.linalg.solve(slope, -at_zero)
    options = {} if name == "fulles" else {"unroll_length": 3}
    estimator = ESTIMATORS[name](task, n_pairs=200, sigma=0.1, seed=3, **options)
    rate = 0.5 / np.linalg.eigvals(slope).real.max()
    trainer = Trainer(estimator, SGD(2, parse_schedule("linear:100", rate)), np.zeros(2))
    trainer.run(updates=100)
    # over eight seeds the largest error was 0.02, with PES
    np.testing.assert_allclose(trainer.theta, optimum, atol=0.05)
    assert np.abs(optimum).max() > 0.5


def test_states_that_do_not_fit_are_refused():
    def make(n_pairs=3, d_options=None, optimizer=Adam):
        task = lq.LinearQuadratic(1, **(d_options or {}))
        estimator = NRES(task, n_pairs=n_pairs, unroll_length=3, sigma=0.1)
        return Trainer(estimator, optimizer(task.num_params, 0.1), np.zeros(task.num_params))

    state = make().state_dict()
    for other, message in [
        (make(n_pairs=4), r"'step' is int64 of shape \(3,\), here it is int64 of shape \(4,\)"),
        (make(d_options={"num_params": 2}), "3 parameters, here are 2"),
        (make(optimizer=Momentum), "Momentum needs"),
    ]:
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
    for name in state:
        if name.startswith("estimator/task/"):
            continue
        with pytest.raises(ValueError, match=r"lacks|needs"):
            make().load_state_dict({key: v for key, v in state.items() if key != name})


@pytest.mark.parametrize(
    ("option", "value"),
    [("sigma", 0.2), ("seed", 1), ("unroll_length", 2), ("horizon", 6), ("noise_period", 6)],
)
def test_a_state_made_under_other_settings_is_refused_by_name(option, value):
    # running episodes were made with that noise: going on with another would be silently wrong
    def make(**changes):
        options = {
            "n_pairs": 3, "unroll_length": 3, "sigma": 0.1, "seed": 0, "horizon": 12,
            "noise_period": 12, **changes,
        }  # fmt: skip
        estimator = ESTIMATORS["gpes"](lq.LinearQuadratic(1), **options)
        return Trainer(estimator, SGD(3, 0.1), np.zeros(3))

    other = make(**{option: value})
    with pytest.raises(ValueError, match=rf"^{option}={value}: the state is of an estimator with"):
        other.load_state_dict(make().state_dict())


def test_fulles_refuses_the_state_of_another_number_of_pairs():
    states = []
    for n_pairs in (3, 4):
        estimator = FullES(LoopTask(LastingSystem, 5), n_pairs=n_pairs, sigma=0.1)
        estimator.reset(np.zeros(3))
        states.append((estimator, estimator.state_dict()))
    with pytest.raises(ValueError, match="'episode'"):
        states[0][0].load_state_dict(states[1][1])


def test_loop_and_linear_quadratic_tasks_keep_the_protocol():
    assert isinstance(LoopTask(LastingSystem, 5), UnrolledTask)
    assert isinstance(lq.LinearQuadratic(1), UnrolledTask)
    assert not isinstance(KnownGradient([0.0]), UnrolledTask)
