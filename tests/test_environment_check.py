"""Keyword arguments, names and modules of environments that cannot be used: one line, no folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import faulty_environments as faulty
import gymnasium as gym
import pytest
from command_line import Run

from es_rl.environment_check import check_environment
from es_rl.envs.making import make_env
from es_rl.options import ConfigError

WRONG = {
    # each is noticed at another moment: when made, reset, stepped, looked at, or not at all
    ("Swimmer-v4", "reset_noise_scale=abc"): "does not work with them: TypeError: ",
    ("Swimmer-v4", "reset_noise_scale=-1"): "does not work with them: ValueError: high - low < 0",
    ("Swimmer-v5", "reset_noise_scale=null"): "does not work with them: TypeError: ",
    ("Swimmer-v5", "frame_skip=0"): "frame_skip must be a positive integer",
    ("Swimmer-v5", "frame_skip=1.5"): "frame_skip must be a positive integer",
    ("Swimmer-v5", "frame_skip=-1"): "frame_skip must be a positive integer",
    ("Swimmer-v5", "forward_reward_weight=x"): "does not work with them: ",
    ("Hopper-v4", "healthy_z_range=5"): "does not work with them: TypeError: ",
    ("Hopper-v4", "healthy_z_range=[0.5]"): "does not work with them: ValueError: not enough",
    ("Ant-v5", "main_body=foo"): "does not work with them: KeyError: ",
    ("Ant-v5", "main_body=-1"): "does not work with them: IndexError: ",
    ("HalfCheetah-v5", "exclude_current_positions_from_observation=7"): "does not work with them: "
    "its observations have shape (17,), and it declares (11,)\n",
    ("CartPole-v1", "max_episode_steps=-1"): "max_episode_steps must be a positive integer",
    ("CartPole-v1", "max_episode_steps=true"): "max_episode_steps must be a positive integer",
    ("Swimmer-v5", "render_mode=foo"): "does not work with them: render_mode must be one of human",
    ("Swimmer-v5", "xml_file=none.xml"): "does not take them: File ",
}


@pytest.mark.parametrize(("env_id", "words"), WRONG, ids=" ".join)
def test_wrong_keyword_arguments_get_one_line_and_leave_nothing(
    run: Run, env_id: str, words: str
) -> None:
    outcome = run("train", env_id, "--algo", "nres", "--env-kwargs", words, "--updates", "1")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith(f"error: --env-kwargs {words}: ")
    assert WRONG[env_id, words] in outcome.err
    assert os.listdir() == []


def test_wrong_keyword_arguments_are_refused_in_evaluation_too(run: Run) -> None:
    run("train", "Swimmer-v4", "--algo", "nres", "--n-pairs", "2", "--updates", "1", "--threads",
        "1", "--env-kwargs", "max_episode_steps=20", "--unroll-length", "10", "--run-dir", "run",
        "--quiet")  # fmt: skip
    for words in ("reset_noise_scale=abc", "frame_skip=-1"):
        outcome = run("evaluate", "run", "--env-kwargs", words)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"error: --env-kwargs {words}: ")
        assert outcome.err.count("\n") == 1


def test_an_environment_of_the_user_is_told_with_the_line_that_raised() -> None:
    with pytest.raises(ConfigError) as caught:
        check_environment("Faulty-v0", {"kind": "raise in reset"})
    assert str(caught.value).startswith(
        "--env-kwargs kind=raise in reset: Faulty-v0 does not work with them: RuntimeError: boom "
        f"({Path(faulty.__file__).name}, line "
    )


def test_the_trial_leaves_the_spaces_as_they_are() -> None:
    made = check_environment("Faulty-v0", {"kind": "fine", "discrete": True})
    other = gym.make("Faulty-v0", kind="fine", discrete=True)
    for env in (made, other):
        env.action_space.seed(5)
    assert made.action_space.sample() == other.action_space.sample()


@pytest.mark.parametrize("name", ["CartPole", "Swimmer", "Swimmer v4"])
@pytest.mark.filterwarnings("error")
def test_a_name_without_its_version_is_no_name(run: Run, name: str) -> None:
    # Gymnasium would warn and take the newest, which is not the one of the presets
    outcome = run("train", name, "--algo", "nres")
    assert outcome.code == 2
    near = {"CartPole": "CartPole-v1", "Swimmer": "Swimmer-v", "Swimmer v4": "Swimmer-v4"}[name]
    assert outcome.err.startswith(f"error: ENV {name}: no such environment; did you mean ")
    assert near in outcome.err
    assert outcome.err.count("\n") == 1
    with pytest.raises(ValueError, match=f"unknown environment '{name}'"):
        make_env(name)


MODULES = {
    'raise RuntimeError("boom")\n': "RuntimeError: boom (broken_module.py, line 1)\n",
    "\ndef (:\n": "SyntaxError: invalid syntax (broken_module.py, line 2)\n",
    "import not_there_xyz\n": "ModuleNotFoundError: No module named 'not_there_xyz' "
    "(broken_module.py, line 1)\n",
    "import sys\nsys.exit(3)\n": "SystemExit: 3 (broken_module.py, line 2)\n",
}


@pytest.mark.parametrize("text", MODULES)
def test_a_module_that_cannot_be_imported_gets_one_line(
    run: Run, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("broken_module.py").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, os.getcwd()])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    outcome = run("train", "Swimmer-v4", "--algo", "nres", "--import", "broken_module")
    assert outcome.code == 2
    assert outcome.err == f"error: --import broken_module: {MODULES[text]}"
    assert os.listdir() == ["broken_module.py"]
