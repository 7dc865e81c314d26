"""RL Baselines3 Zoo trains, resumes and plays the agents."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from es_rl.agents import AGENTS, NRES, register_rl_zoo3
from es_rl.agents.zoo import main

HYPERPARAMETERS = """
Swimmer-v5:
  n_timesteps: 1000
  policy: LinearPolicy
  n_pairs: 4
  unroll_length: 10
  horizon: 40
  sigma: 0.1
  learning_rate: lin_0.5
  policy_kwargs: "dict(clip_actions=True)"
default:
  n_timesteps: 500
  n_envs: 2
  policy: MlpPolicy
  n_pairs: 2
  learning_rate: 0.1
  normalize: true
"""


# what rl_zoo3 and its dependencies warn of is their own business
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def zoo(tmp_path: Any, monkeypatch: Any, capsys: Any) -> Callable[..., str]:
    """Runs a command of the zoo in a folder with a hyperparameter file; returns its output."""
    pytest.importorskip("rl_zoo3")
    (tmp_path / "nres.yml").write_text(HYPERPARAMETERS)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
        main()
        return str(capsys.readouterr().out)

    return run


def test_every_agent_is_registered() -> None:
    zoo3 = pytest.importorskip("rl_zoo3")
    register_rl_zoo3()
    ours = {name: agent for name, agent in AGENTS.items() if name != "ars"}  # sb3-contrib has one
    assert {name: zoo3.ALGOS[name] for name in ours} == ours


def test_train_resume_and_enjoy(tmp_path: Any, zoo: Callable[..., str]) -> None:
    options = ["--algo", "nres", "--env", "Swimmer-v5", "-f", "logs"]
    train = ["train", *options, "-conf", "nres.yml", "--seed", "3", "--eval-episodes", "1"]
    printed = zoo(*train, "--eval-freq", "60", "--save-freq", "50")
    assert "Eval num_timesteps" in printed
    folder = tmp_path / "logs" / "nres" / "Swimmer-v5_1"
    names = {path.name for path in folder.iterdir()}
    assert {"Swimmer-v5.zip", "best_model.zip", "evaluations.npz", "0.monitor.csv"} <= names
    first = NRES.load(folder / "Swimmer-v5.zip")
    assert first.num_timesteps == 1000
    assert first.policy.core.clip_actions
    # the same training by hand
    other = NRES(
        "LinearPolicy",
        "Swimmer-v5",
        n_pairs=4,
        unroll_length=10,
        horizon=40,
        sigma=0.1,
        learning_rate=lambda progress: 0.5 * progress,
        policy_kwargs={"clip_actions": True},
        seed=3,
    )
    other.learn(1000)
    np.testing.assert_array_equal(first.policy.core.theta, other.policy.core.theta)
    printed = zoo("enjoy", *options, "--no-render", "-n", "2000", "--load-best")
    assert "Episode Length 1000" in printed
    zoo(*train, "--eval-freq", "-1", "-i", str(folder / "Swimmer-v5.zip"), "-n", "400")
    second = NRES.load(tmp_path / "logs" / "nres" / "Swimmer-v5_2" / "Swimmer-v5")
    # particles and θ go on, the counter begins anew as rl_zoo3 asks for
    assert second.num_timesteps == 400
    other.learn(400)
    np.testing.assert_array_equal(second.policy.core.theta, other.policy.core.theta)


def test_a_hyperparameter_file_that_normalises_is_refused(zoo: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="VecNormalize changes what the policy sees"):
        zoo("train", "--algo", "nres", "--env", "Pendulum-v1", "-conf", "nres.yml")


def test_the_module_runs_as_a_program_and_says_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "es_rl.agents.zoo", "play"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "{train,enjoy}" in done.stderr
    assert "Warning" not in done.stderr


def test_training_without_a_hyperparameter_file_says_what_is_missing(zoo: Any) -> None:
    for algo in (("--algo", "nres"), ("--algo=nres",)):
        with pytest.raises(SystemExit, match=r"--algo nres: .*-conf FILE"):
            zoo("train", *algo, "--env", "Swimmer-v5")


def test_names_that_are_other_libraries_stay_theirs(
    zoo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = pytest.importorskip("rl_zoo3.train")
    called = []
    monkeypatch.setattr(train, "train", lambda: called.append(sys.argv[1:]))
    for arguments in (("--algo", "ars"), ("--algo", "ppo", "-f", "nres"), ("--env", "pes")):
        zoo("train", *arguments)
    assert len(called) == 3
