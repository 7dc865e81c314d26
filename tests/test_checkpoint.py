"""Checkpoints: a run that is stopped and resumed is the run that was never stopped."""

from __future__ import annotations

import numpy as np
import pytest
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.checkpoint import load_checkpoint, save_checkpoint
from es_rl.envs.making import make_env, make_task
from es_rl.estimators import ESTIMATORS
from es_rl.files import write_npz
from es_rl.optimizers import OPTIMIZERS, make_optimizer
from es_rl.policies import LinearPolicy
from es_rl.schedules import linear
from es_rl.tasks import BrokenTaskError
from es_rl.trainer import Trainer

_THETA = np.array([0.6, -0.2, 0.5])


def _make(estimator, settings, optimizer="adam", system=EndingSystem, horizon=15):
    task = LoopTask(system, horizon)
    options = dict(settings)
    if estimator in ("fulles", "ars"):
        for name in ("unroll_length", "staggering", "noise_period"):
            options.pop(name, None)
    made = ESTIMATORS[estimator](task, n_pairs=11, sigma=0.3, seed=6, **options)
    return Trainer(made, make_optimizer(optimizer, 3, linear(0.05, 20)), _THETA)


def _run(trainer, updates):
    """The records and parameters of every update made, in full precision."""
    trace = []
    trainer.run(
        updates=updates, callback=lambda t, record: trace.append((*record, *t.theta.tolist()))
    )
    return trace


def _assert_resumes(tmp_path, stops=(1, 4, 9), **how):
    whole = _run(_make(**how), 12)
    for stop in stops:
        first = _make(**how)
        begun = _run(first, stop)
        save_checkpoint(tmp_path / "state.npz", first)
        resumed = _make(**how)
        _, state = load_checkpoint(tmp_path / "state.npz")
        resumed.load_state_dict(state)
        assert begun + _run(resumed, 12) == whole


_SETTINGS = [
    ("nres", {"unroll_length": 4}),
    ("pes", {"unroll_length": 4}),
    ("gpes", {"unroll_length": 2, "noise_period": 6}),
    ("tes", {"unroll_length": 4}),
    ("fulles", {}),
    ("ars", {"top_pairs": 7}),
]


@pytest.mark.parametrize("staggering", ["stratified", "iid", "lockstep"])
@pytest.mark.parametrize(("estimator", "settings"), _SETTINGS)
def test_resuming_in_mid_episode_with_early_ends_is_bit_for_bit(
    estimator, settings, staggering, tmp_path
):
    how = {"estimator": estimator, "settings": {**settings, "staggering": staggering}}
    _assert_resumes(tmp_path, **how)


@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
@pytest.mark.parametrize(("estimator", "settings"), _SETTINGS[:4])
def test_resuming_without_a_horizon_is_bit_for_bit(estimator, settings, system, tmp_path):
    _assert_resumes(tmp_path, estimator=estimator, settings=settings, system=system, horizon=None)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_keeps_every_optimiser_s_state_and_the_schedule_s_place(optimizer, tmp_path):
    _assert_resumes(tmp_path, estimator="nres", settings={"unroll_length": 4}, optimizer=optimizer)


def test_a_resumed_run_does_not_start_again(tmp_path):
    trainer = _make("nres", {"unroll_length": 4})
    trainer.start()
    save_checkpoint(tmp_path / "state.npz", trainer)
    resumed = _make("nres", {"unroll_length": 4})
    resumed.load_state_dict(load_checkpoint(tmp_path / "state.npz")[1])
    resumed.start()
    assert resumed.total_steps == trainer.total_steps > 0
    assert resumed.estimator.task.executed == 0


def test_saving_changes_nothing_and_twice_gives_the_same_bytes(tmp_path):
    how = {"estimator": "pes", "settings": {"unroll_length": 4}}
    saved, unsaved = _make(**how), _make(**how)
    for _ in range(6):
        saved.update()
        unsaved.update()
        save_checkpoint(tmp_path / "one.npz", saved)
        save_checkpoint(tmp_path / "two.npz", saved)
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    np.testing.assert_array_equal(saved.theta, unsaved.theta)


def test_a_state_does_not_change_when_training_goes_on():
    trainer = _make("nres", {"unroll_length": 4})
    trainer.update()
    state = trainer.state_dict()
    kept = {name: value.copy() for name, value in state.items()}
    for _ in range(5):
        trainer.update()
    for name, value in kept.items():
        np.testing.assert_array_equal(state[name], value)


def test_loading_a_state_does_not_tie_the_trainer_to_it():
    state = _make("nres", {"unroll_length": 4}).state_dict()
    kept = {name: value.copy() for name, value in state.items()}
    trainer = _make("nres", {"unroll_length": 4})
    trainer.load_state_dict(state)
    for _ in range(5):
        trainer.update()
    for name, value in kept.items():
        np.testing.assert_array_equal(state[name], value)


def test_states_hold_plain_arrays_alone():
    for estimator, settings in _SETTINGS:
        for name, value in _make(estimator, settings).state_dict().items():
            assert isinstance(value, np.ndarray), name
            assert value.dtype.kind in "biufU", name  # U: text, of names


def test_facts_are_kept_beside_the_state(tmp_path):
    trainer = _make("nres", {"unroll_length": 4})
    save_checkpoint(tmp_path / "state.npz", trainer, {"best": 1.5, "note": "ε"})
    extra, _ = load_checkpoint(tmp_path / "state.npz")
    assert extra == {"best": 1.5, "note": "ε"}


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path)
    write_npz(path, {"format": "es_rl policy", "version": 1}, {})
    with pytest.raises(ValueError, match="not a es_rl checkpoint file"):
        load_checkpoint(path)
    write_npz(path, {"format": "es_rl checkpoint", "version": 99}, {})
    with pytest.raises(ValueError, match="version 99; this library reads 1 to"):
        load_checkpoint(path)
    save_checkpoint(path, _make("nres", {"unroll_length": 4}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="not a whole es_rl checkpoint file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in ("step", "episode", "segment", "finished", "row_ended")
        for change in (
            lambda value: value.astype("U8"),
            lambda value: value.astype(np.float64),
            lambda value: value[:-1],
        )
    ]
    + [
        ("step", lambda value: value - 100),
        ("step", lambda value: value + 2**40),
        ("episode", lambda value: value - 100),
        ("segment", lambda value: value + 2**40),
        ("segment", lambda value: value - 100),
    ],
)
@pytest.mark.parametrize(("estimator", "settings"), _SETTINGS[:4])
def test_a_state_made_by_hand_is_refused_by_name(estimator, settings, name, change):
    trainer = _make(estimator, settings)
    trainer.update()
    state = trainer.state_dict()
    key = next(key for key in state if key.rpartition("/")[2] == name and "task" not in key)
    with pytest.raises(ValueError, match=name):
        _make(estimator, settings).load_state_dict({**state, key: change(state[key])})


@pytest.mark.parametrize(("estimator", "settings"), _SETTINGS[:2])
def test_a_state_that_contradicts_itself_ends_in_an_error_with_a_name(estimator, settings):
    trainer = _make(estimator, settings)
    trainer.update()
    state = trainer.state_dict()
    key = next(key for key in state if key.endswith("row_ended"))
    made = _make(estimator, settings)
    state[key] = np.ones_like(state[key])
    made.load_state_dict(state)
    with pytest.raises(BrokenTaskError, match="none that was saved"):
        made.run(updates=5)


@pytest.mark.parametrize(("engine", "name"), [("native", "ready"), ("gymnasium", "started")])
def test_a_state_with_a_row_that_was_never_reset_ends_in_an_error_with_a_name(engine, name):
    def make():
        env = make_env("InvertedPendulum-v4")
        policy = LinearPolicy(env.observation_space, env.action_space)
        env.close()
        task = make_task("InvertedPendulum-v4", policy, engine=engine)
        estimator = ESTIMATORS["nres"](task, n_pairs=2, sigma=0.1, unroll_length=3, seed=1)
        return Trainer(estimator, make_optimizer("sgd", 4, 0.1), np.zeros(4))

    trainer = make()
    trainer.update()
    state = trainer.state_dict()
    key = next(key for key in state if key.endswith(f"task/{name}"))
    state[key][1] = False
    trainer.estimator.task.close()
    made = make()
    made.load_state_dict(state)
    with made.estimator.task, pytest.raises(BrokenTaskError, match="reset"):
        made.run(updates=3)
