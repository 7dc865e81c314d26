"""What the command line imports: modules that its user named, and never those of a policy file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

from es_rl import LinearPolicy
from es_rl.envs.making import make_env

MODULE = """
import pathlib
import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
pathlib.Path(MARK).touch()
gym.registry.pop("Own-v0", None)
gym.register("Own-v0", entry_point=CartPoleEnv, max_episode_steps=20)
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the module `registers_own` in the current folder was imported."""
    made = tmp_path / "imported"
    text = MODULE.replace("MARK", repr(str(made)))
    (tmp_path / "registers_own.py").write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "registers_own", raising=False)
    return made


def save_policy(path: Path, **metadata: Any) -> None:
    env = make_env("CartPole-v1")
    LinearPolicy(env.observation_space, env.action_space).save(path, **metadata)


FILES = [
    {"env": "CartPole-v1", "import_modules": ["registers_own"]},
    {"env": "Own-v0", "import_modules": ["registers_own"]},
    {"env": "registers_own:CartPole-v1"},
]


@pytest.mark.parametrize("metadata", FILES, ids=str)
@pytest.mark.parametrize(
    "command", [("evaluate",), ("enjoy", "--video", "v.gif"), ("record", "-o", "v.gif")]
)
def test_a_policy_file_has_nothing_imported(
    run: Run, tmp_path: Path, mark: Path, metadata: dict[str, Any], command: tuple[str, ...]
) -> None:
    save_policy(tmp_path / "p.npz", **metadata)
    outcome = run(command[0], "p.npz", *command[1:])
    assert outcome.code == 2
    assert outcome.err.startswith("error: --import: p.npz was trained with registers_own")
    assert "add --import registers_own" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not mark.exists()


@pytest.mark.parametrize("metadata", FILES, ids=str)
def test_modules_that_are_named_are_imported(
    run: Run, tmp_path: Path, mark: Path, metadata: dict[str, Any]
) -> None:
    save_policy(tmp_path / "p.npz", **metadata)
    outcome = run("evaluate", "p.npz", "--episodes", "1", "--import", "registers_own")
    assert outcome.code == 0, outcome.err
    assert mark.exists()


def test_another_environment_needs_none_of_the_modules(
    run: Run, tmp_path: Path, mark: Path
) -> None:
    save_policy(tmp_path / "p.npz", **FILES[0])
    outcome = run("evaluate", "p.npz", "--episodes", "1", "--env", "CartPole-v1")
    assert outcome.code == 0, outcome.err
    assert not mark.exists()


def test_the_folder_of_a_run_says_what_to_import_and_a_policy_put_into_it_does_not(
    run: Run, tmp_path: Path, mark: Path
) -> None:
    outcome = run(
        "train", "Own-v0", "--import", "registers_own", "--algo", "nres", "--updates", "2",
        "--n-pairs", "2", "--threads", "1", "--eval-episodes", "1", "--run-dir", "run", "--quiet",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    for words in (("evaluate", "run", "--episodes", "1"), ("resume", "run", "--updates", "3")):
        mark.unlink()
        del sys.modules["registers_own"]
        assert run(*words).code == 0
        assert mark.exists()
    shutil.copy("run/policy.npz", "alone.npz")
    assert run("evaluate", "alone.npz").code == 2
    save_policy(tmp_path / "run" / "policy.npz", env="CartPole-v1", import_modules=["antigravity"])
    outcome = run("evaluate", "run", "--checkpoint", "latest")
    assert outcome.code == 2
    assert "add --import antigravity" in outcome.err


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"env": "CartPole-v1", "env_kwargs": 5}, "env_kwargs"),
        ({"env": "CartPole-v1", "env_kwargs": [1]}, "env_kwargs"),
        ({"env": "CartPole-v1", "import_modules": 7}, "import_modules"),
        ({"env": "CartPole-v1", "import_modules": [3]}, "import_modules"),
        ({"env": "CartPole-v1", "import_modules": "os"}, "import_modules"),
        ({"env": ["CartPole-v1"]}, "env"),
        ({"env": 5}, "env"),
        ({"env": "CartPole-v1", "horizon": "x"}, "horizon"),
        ({"env": "CartPole-v1", "update": "x"}, "update"),
    ],
    ids=str,
)
def test_what_a_policy_file_tells_is_checked(
    run: Run, tmp_path: Path, metadata: dict[str, Any], name: str
) -> None:
    save_policy(tmp_path / "p.npz", **metadata)
    outcome = run("evaluate", "p.npz", "--episodes", "1")
    assert outcome.code == 2
    assert outcome.err.startswith(
        f"error: RUN_OR_POLICY p.npz: not a usable policy file (its {name}: "
    )
    assert outcome.err.count("\n") == 1
