"""Logs of the agents: what they say, and that they go on as one curve after a resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from agents_toys import SWIMMER
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from es_rl.agents import NRES, resume_logger


def make_agent(**changes: Any) -> Any:
    return NRES("LinearPolicy", "Swimmer-v5", **{**SWIMMER, **changes})


def rows(path: Any) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def curve(folder: Any, tag: str) -> Any:
    events = EventAccumulator(str(folder))
    events.Reload()
    return np.array([(event.step, event.value) for event in events.Scalars(tag)])


@pytest.fixture
def whole() -> Iterator[Any]:
    agent = make_agent()
    yield agent
    if hasattr(agent, "_logger"):
        agent.logger.close()


def test_the_log_tells_what_training_did(tmp_path: Any, whole: Any) -> None:
    whole.set_logger(configure(str(tmp_path), ["csv"]))
    whole.learn(1000)
    lines = rows(tmp_path / "progress.csv")
    assert [int(line["time/total_timesteps"]) for line in lines] == list(range(200, 1001, 80))
    assert [int(line["time/sequential_steps"]) for line in lines] == list(range(40, 141, 10))
    assert [int(line["train/n_updates"]) for line in lines] == list(range(1, 12))
    assert {float(line["train/learning_rate"]) for line in lines} == {0.5}
    last = lines[-1]
    assert int(last["time/episodes"]) == whole._episode_num
    recent = whole.ep_info_buffer
    assert float(last["rollout/ep_rew_mean"]) == pytest.approx(np.mean([i["r"] for i in recent]))
    assert float(last["rollout/ep_len_mean"]) == 40
    assert all(float(line["train/gradient_norm"]) > 0 for line in lines)
    losses = [float(line["rollout/mean_loss"]) for line in lines]
    assert len(set(losses)) == len(losses)


def test_log_interval_counts_windows(tmp_path: Any, whole: Any) -> None:
    whole.set_logger(configure(str(tmp_path), ["csv"]))
    whole.learn(1000, log_interval=5)
    assert [int(line["train/n_updates"]) for line in rows(tmp_path / "progress.csv")] == [5, 10]


def test_verbose_prints_the_log(capsys: Any) -> None:
    make_agent(verbose=1).learn(300, log_interval=2)
    printed = capsys.readouterr().out
    assert "sequential_steps" in printed
    assert "ep_rew_mean" in printed
    make_agent(verbose=0).learn(300)
    assert capsys.readouterr().out == ""


def test_evaluations_are_logged_with_both_step_counts(tmp_path: Any, whole: Any) -> None:
    whole.set_logger(configure(str(tmp_path), ["csv"]))
    callback = EvalCallback(
        whole.get_env(), eval_freq=35, n_eval_episodes=1, verbose=0, deterministic=True
    )
    whole.learn(300, callback=callback)
    evaluated = [line for line in rows(tmp_path / "progress.csv") if line["eval/mean_reward"]]
    assert [int(line["time/sequential_steps"]) for line in evaluated] == [35]
    assert [int(line["time/total_timesteps"]) for line in evaluated] == [120 + 5 * 8]


def test_tensorboard_shows_one_curve_after_a_resume(tmp_path: Any, whole: Any) -> None:
    whole.tensorboard_log = str(tmp_path / "whole")
    whole.learn(2000, tb_log_name="run")
    agent = make_agent(tensorboard_log=str(tmp_path / "parts"))
    agent.learn(900, tb_log_name="run")
    agent.save(tmp_path / "agent")
    # a run that went on after it was saved, and was lost
    agent.learn(300, tb_log_name="run", reset_num_timesteps=False)
    agent.logger.close()
    loaded = NRES.load(tmp_path / "agent")
    loaded.learn(2000 - loaded.num_timesteps, tb_log_name="run", reset_num_timesteps=False)
    loaded.logger.close()
    whole.logger.close()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["run_1"]
    for tag in ("rollout/mean_loss", "time/sequential_steps", "rollout/ep_rew_mean"):
        expected = curve(tmp_path / "whole" / "run_1", tag)
        np.testing.assert_array_equal(curve(tmp_path / "parts" / "run_1", tag), expected)
        assert len(expected) == 24


def test_csv_holds_one_curve_after_a_resume(tmp_path: Any, whole: Any) -> None:
    whole.set_logger(configure(str(tmp_path / "whole"), ["csv"]))
    whole.learn(2000)
    folder = str(tmp_path / "parts")
    agent = make_agent()
    agent.set_logger(configure(folder, ["csv"]))
    agent.learn(900)
    agent.save(tmp_path / "agent")
    agent.learn(300, reset_num_timesteps=False)
    agent.logger.close()
    loaded = NRES.load(tmp_path / "agent")
    loaded.set_logger(resume_logger(folder, ["csv"], loaded.num_timesteps))
    loaded.learn(2000 - loaded.num_timesteps, reset_num_timesteps=False)
    loaded.logger.close()
    expected, found = rows(tmp_path / "whole" / "progress.csv"), rows(f"{folder}/progress.csv")
    timeless = [key for key in expected[0] if key not in ("time/fps", "time/time_elapsed")]
    assert [[line[key] for key in timeless] for line in found] == [
        [line[key] for key in timeless] for line in expected
    ]


def test_json_holds_one_curve_after_a_resume_and_the_text_goes_on(tmp_path: Any) -> None:
    agent = make_agent()
    agent.set_logger(configure(str(tmp_path), ["json", "log"]))
    agent.learn(900)
    agent.save(tmp_path / "agent")
    agent.learn(300, reset_num_timesteps=False)
    agent.logger.close()
    text = (tmp_path / "log.txt").read_text()
    with (tmp_path / "progress.json").open("a") as stream:
        stream.write('{"time/total_timesteps": 12')  # broken off
    loaded = NRES.load(tmp_path / "agent")
    loaded.set_logger(resume_logger(tmp_path, ["json", "log"], loaded.num_timesteps))
    loaded.learn(2000 - loaded.num_timesteps, reset_num_timesteps=False)
    loaded.logger.close()
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [line["time/total_timesteps"] for line in lines] == list(range(200, 2041, 80))
    assert (tmp_path / "log.txt").read_text().startswith(text)
    assert (tmp_path / "log.txt").read_text().count("sequential_steps") > 24


def test_a_resumed_logger_begins_a_new_file_where_there_is_none(tmp_path: Any) -> None:
    agent = make_agent()
    agent.set_logger(resume_logger(tmp_path, ["csv", "tensorboard"], 0))
    agent.learn(300)
    agent.logger.close()
    assert len(rows(tmp_path / "progress.csv")) == 3
    assert len(curve(tmp_path, "rollout/mean_loss")) == 3
