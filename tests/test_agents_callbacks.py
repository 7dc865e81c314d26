"""Stable-Baselines3's tools at work on an agent, each judged by its effect."""

from __future__ import annotations

import os
import signal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from agents_toys import DRIFT, SWIMMER, Drift
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from es_rl.agents import NRES
from es_rl.evaluation import evaluate


def make_agent(env: Any = "Swimmer-v5", **changes: Any) -> Any:
    return NRES("LinearPolicy", env, **{**SWIMMER, **changes})


def theta_of(agent: Any) -> Any:
    return agent.policy.core.theta.copy()


def short_swimmer() -> Any:
    return Monitor(gym.make("Swimmer-v5", max_episode_steps=40))


class Calls(BaseCallback):
    """Notes at which of its calls it was triggered."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[int] = []

    def _on_step(self) -> bool:
        self.at.append(self.num_timesteps)
        return True


def test_evaluate_policy_gives_the_rewards_of_the_core_s_evaluation() -> None:
    agent = make_agent(init_scale=1.0)
    env = DummyVecEnv([short_swimmer])
    env.seed(5)
    rewards, lengths = evaluate_policy(agent, env, n_eval_episodes=1, return_episode_rewards=True)
    core = evaluate(
        agent.policy.core, "Swimmer-v5", n_episodes=1, seed=5, env_kwargs={"max_episode_steps": 40}
    )
    assert rewards == pytest.approx(core.rewards, abs=1e-6)  # Monitor rounds to six digits
    assert lengths == [40]


def test_eval_callback_evaluates_every_so_many_sequential_steps(tmp_path: Any) -> None:
    agent = make_agent()
    callback = EvalCallback(
        short_swimmer(),
        n_eval_episodes=2,
        eval_freq=25,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    agent.learn(1000, callback=callback)
    evaluations = np.load(tmp_path / "evaluations.npz")
    sequential = agent.sequential_steps
    assert len(evaluations["timesteps"]) == sequential // 25
    # at sequential step 50 the start (30 steps, 120 in all) and two windows (80 each) are over
    assert evaluations["timesteps"][1] == 120 + 2 * 80
    means = evaluations["results"].mean(axis=1)
    assert callback.best_mean_reward == pytest.approx(means.max())
    best = NRES.load(tmp_path / "best_model")
    assert best.num_timesteps >= evaluations["timesteps"][means.argmax()]


def test_reward_threshold_ends_training_at_its_window() -> None:
    agent = make_agent(DRIFT, engine="gymnasium", n_threads=0, horizon=None, learning_rate=2.0)
    stop = StopTrainingOnRewardThreshold(reward_threshold=3.0)
    evaluation = Monitor(gym.make(DRIFT, survival=1.0))
    callback = EvalCallback(
        evaluation, callback_on_new_best=stop, n_eval_episodes=1, eval_freq=10, verbose=0
    )
    agent.learn(50_000, callback=callback)
    assert callback.best_mean_reward >= 3.0
    assert agent.num_timesteps < 5000
    assert agent.sequential_steps - 10 < callback.n_calls <= agent.sequential_steps


def test_no_improvement_ends_training() -> None:
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2)
    agent = make_agent(DRIFT, n_threads=0, learning_rate=1e-12, horizon=None)
    callback = EvalCallback(
        Monitor(gym.make(DRIFT, survival=1.0)),
        callback_after_eval=stop,
        n_eval_episodes=1,
        eval_freq=10,
        verbose=0,
    )
    agent.learn(100_000, callback=callback)
    assert agent.num_timesteps < 10_000


def test_checkpoints_are_written_every_so_many_sequential_steps_and_go_on(tmp_path: Any) -> None:
    agent = make_agent()
    agent.learn(600, callback=CheckpointCallback(save_freq=17, save_path=str(tmp_path)))
    files = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem.split("_")[2]))
    assert len(files) == agent.sequential_steps // 17 == 5
    for path in files:
        # the fourth call of a window saves the state at that window's end
        loaded = NRES.load(path)
        assert loaded.num_timesteps >= int(path.stem.split("_")[2])
        remaining = agent.num_timesteps - loaded.num_timesteps
        if remaining:
            loaded.learn(remaining, reset_num_timesteps=False)
        np.testing.assert_array_equal(theta_of(loaded), theta_of(agent))
        assert loaded.num_timesteps == agent.num_timesteps
        assert loaded.sequential_steps == agent.sequential_steps


def test_max_episodes_counts_every_row_s_finished_episodes() -> None:
    agent = make_agent(DRIFT, engine="gymnasium", n_threads=0, horizon=None)
    callback = StopTrainingOnMaxEpisodes(max_episodes=40)
    ended = Drift.episodes_ended
    agent.learn(100_000, callback=callback)
    # the callback may be told of the limit before the window's last step
    assert 40 <= callback.n_episodes <= agent._episode_num <= 40 + 8 * 10
    at_the_limit = agent._episode_num - (Drift.episodes_ended - ended)
    assert 0 <= at_the_limit < 10  # 0.9**30 of the episodes survive
    assert agent.num_timesteps < 2000


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
@pytest.mark.parametrize("own", [False, True])
def test_the_progress_bar_ends_at_the_number_of_executed_steps(monkeypatch: Any, own: bool) -> None:
    pytest.importorskip("tqdm")
    bars = []

    class Bar(ProgressBarCallback):
        def __init__(self) -> None:
            super().__init__()
            bars.append(self)

    monkeypatch.setattr("stable_baselines3.common.base_class.ProgressBarCallback", Bar)
    agent = make_agent(DRIFT, engine="gymnasium", n_threads=0, horizon=None)
    agent.learn(100)
    before = agent.num_timesteps
    callbacks = [Calls(), Bar()] if own else None
    agent.learn(400, callbacks, reset_num_timesteps=False, progress_bar=not own)
    (bar,) = bars
    assert bar.pbar.total == 400
    assert bar.pbar.n == agent.num_timesteps - before >= 400
    assert bar.pbar.disable  # closed


def test_a_callback_that_stops_is_obeyed_among_others() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 300

    calls = Calls()
    agent = make_agent()
    agent.learn(10_000, callback=CallbackList([Stop(), calls]))
    # the start's 120 steps and windows of 80: 300 is reached in the third
    assert agent.num_timesteps == 360
    assert calls.at[-1] == 304
    agent = make_agent()
    agent.learn(10_000, callback=lambda local_names, global_names: False)
    assert agent.num_timesteps == 120


def test_events_every_n_timesteps_fire_within_windows() -> None:
    calls = Calls()
    make_agent().learn(1000, callback=EveryNTimesteps(200, calls))
    assert len(calls.at) == 5
    assert all(step - 200 * (i + 1) < 40 for i, step in enumerate(calls.at))


def test_callbacks_see_what_learn_was_asked_for() -> None:
    seen = {}

    class Look(BaseCallback):
        def _on_training_start(self) -> None:
            seen.update(self.locals)

        def _on_step(self) -> bool:
            assert self.training_env is self.model.get_env()
            assert isinstance(self.logger, Logger)
            assert self.locals["self"] is self.model
            return True

    agent = make_agent()
    agent.learn(500, Look(), tb_log_name="name", log_interval=2)
    assert seen["total_timesteps"] == 500
    assert seen["tb_log_name"] == "name"
    assert agent.get_vec_normalize_env() is None


def test_log_every_n_timesteps_writes_the_log(tmp_path: Any) -> None:
    from stable_baselines3.common.logger import configure

    agent = make_agent()
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(1000, LogEveryNTimesteps(400), log_interval=None)
    agent.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(lines) == 1 + 2


def test_monitor_around_an_evaluation_environment_writes_its_episodes(tmp_path: Any) -> None:
    agent = make_agent()
    env = Monitor(gym.make("Swimmer-v5", max_episode_steps=40), str(tmp_path / "eval"))
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=3)
    env.close()
    header, names, *rows = (tmp_path / "eval.monitor.csv").read_text().splitlines()
    assert "Swimmer-v5" in header
    assert names == "r,l,t"
    assert [row.split(",")[1] for row in rows] == ["40"] * 3
    assert np.mean([float(row.split(",")[0]) for row in rows]) == pytest.approx(mean)


def test_monitor_around_the_training_environment_writes_the_training_episodes(
    tmp_path: Any,
) -> None:
    env = Monitor(gym.make("Swimmer-v5"), str(tmp_path / "train"))
    agent = make_agent(env)
    agent.learn(1000)
    agent.get_env().close()
    _, _, *rows = (tmp_path / "train.monitor.csv").read_text().splitlines()
    assert len(rows) == agent._episode_num > 10
    returns = [float(row.split(",")[0]) for row in rows]
    recent = [info["r"] for info in agent.ep_info_buffer]
    assert returns == pytest.approx(recent, abs=1e-6)
    assert {row.split(",")[1] for row in rows} == {"40"}


def test_reward_normalisation_around_evaluation_changes_nothing_that_is_reported() -> None:
    agent = make_agent(init_scale=1.0)
    results = []
    for normalise in (False, True):
        env: Any = DummyVecEnv([short_swimmer])
        if normalise:
            env = VecNormalize(env, training=False, norm_obs=False, norm_reward=True)
        env.seed(1)
        results.append(evaluate_policy(agent, env, n_eval_episodes=2))
    assert results[0] == results[1]
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=20, verbose=0)
    with pytest.warns(UserWarning, match="not of the same type"):
        agent.learn(300, callback=callback)
    assert np.isfinite(callback.last_mean_reward)


def test_observation_normalisation_around_evaluation_reaches_the_policy() -> None:
    # weights on normalised observations are rescaled weights on raw ones
    scale = np.arange(1.0, 9.0)
    normalised, raw = make_agent(init_scale=1.0), make_agent(init_scale=1.0)
    weights = theta_of(raw).reshape(2, 8)
    raw.policy.load_from_vector((weights / scale).ravel())
    venv = VecNormalize(DummyVecEnv([short_swimmer]), training=False, norm_reward=False)
    venv.obs_rms.mean[:], venv.obs_rms.var[:] = 0.0, scale**2 - venv.epsilon
    venv.seed(2)
    plain = DummyVecEnv([short_swimmer])
    plain.seed(2)
    mean, _ = evaluate_policy(normalised, venv, n_eval_episodes=1)
    expected, _ = evaluate_policy(raw, plain, n_eval_episodes=1)
    assert mean == pytest.approx(expected, abs=1e-4)  # VecNormalize returns float32
    assert mean != pytest.approx(evaluate_policy(normalised, plain, 1)[0], abs=1e-2)


@pytest.mark.parametrize("env", ["Swimmer-v5", "CartPole-v1", DRIFT])
def test_check_env_passes_on_what_is_trained_on(env: str) -> None:
    agent = make_agent(env, n_threads=1)
    with np.errstate(over="ignore"):
        check_env(agent.get_env().envs[0].unwrapped, skip_render_check=True)


def test_ctrl_c_takes_effect_at_a_window_s_end_where_the_agent_can_be_saved(tmp_path: Any) -> None:
    class Interrupting(Drift):
        at = -1

        def step(self, action: Any) -> Any:
            Interrupting.at -= 1
            if Interrupting.at == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(action)

    agent, other = (make_agent(Interrupting, n_threads=0) for _ in range(2))
    other.learn(2000)
    Interrupting.at = 333
    with pytest.raises(KeyboardInterrupt):
        agent.learn(2000)
    agent.save(tmp_path / "agent")
    loaded = NRES.load(tmp_path / "agent", env=Interrupting)
    for one in (agent, loaded):
        one.learn(0, reset_num_timesteps=False)
        assert 333 <= one.num_timesteps < 333 + 80
        one.learn(2000 - one.num_timesteps, reset_num_timesteps=False)
        np.testing.assert_array_equal(theta_of(one), theta_of(other))
        assert one.num_timesteps == other.num_timesteps


def test_an_error_in_a_callback_loses_no_steps() -> None:
    class Fail(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps > 300:
                raise RuntimeError("no more")
            return True

    agent = make_agent()
    with pytest.raises(RuntimeError, match="no more"):
        agent.learn(1000, callback=Fail())
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps == 120 + 4 * 80
