"""Environments that misbehave: named with pair, row and step; nothing is zeroed or waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import faulty_environments as faulty
import gymnasium as gym
import numpy as np
import pytest
from waiting import within

from es_rl.config_layers import resolve
from es_rl.envs.faults import EnvironmentFaultError
from es_rl.envs.gymnasium_task import GymnasiumTask
from es_rl.envs.making import make_env, make_task
from es_rl.estimators import ESTIMATORS
from es_rl.evaluation import evaluate
from es_rl.optimizers import SGD
from es_rl.options import ConfigError
from es_rl.policies import LinearPolicy
from es_rl.run import train
from es_rl.tasks import NonFiniteLossError
from es_rl.trainer import Trainer


def trainer(
    algo: str = "nres", horizon: int | None = None, clip: bool = False, **env_kwargs: Any
) -> Trainer:
    env = gym.make("Faulty-v0", **env_kwargs)
    policy = LinearPolicy(env.observation_space, env.action_space, clip_actions=clip)
    task = GymnasiumTask("Faulty-v0", policy, n_workers=0, **env_kwargs)
    options: dict[str, Any] = {"unroll_length": 4, "staggering": "lockstep"}
    estimator = ESTIMATORS[algo](
        task, n_pairs=3, sigma=0.1, horizon=horizon, **(options if algo != "fulles" else {})
    )
    return Trainer(estimator, SGD(policy.num_params, 0.1), np.ones(policy.num_params))


def refused(**env_kwargs: Any) -> EnvironmentFaultError:
    made = trainer(**env_kwargs)
    theta = made.theta.copy()
    with pytest.raises(EnvironmentFaultError) as caught:
        made.run(updates=3)
    np.testing.assert_array_equal(made.theta, theta)
    assert made.updates == 0
    return caught.value


IN_STEP = "Faulty-v0: row 0 (plus row of pair 0), in step 3 of its episode: "
IN_RESET = "Faulty-v0: row 0 (plus row of pair 0), in reset: "


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raise", IN_STEP + "RuntimeError: boom"),
        ("shape", IN_STEP + "ValueError: observation of shape (3,): this policy takes (2,)"),
        ("text", IN_STEP + "ValueError: observation of shape ()"),
        ("none", IN_STEP + "ValueError: observation of shape ()"),
        ("nan observation", IN_STEP + "ValueError: the observation has NaN or infinite entries"),
        ("inf observation", IN_STEP + "ValueError: the observation has NaN or infinite entries"),
        ("reward of shape", IN_STEP + "TypeError: the reward is a ndarray of shape (2,)"),
        ("reward none", IN_STEP + "TypeError: the reward is a NoneType"),
        ("complex reward", IN_STEP + "TypeError: the reward is a complex"),
        ("numpy complex reward", IN_STEP + "TypeError: the reward is a complex128"),
        ("text reward", IN_STEP + "TypeError: the reward is a ndarray of dtype <U3"),
        ("four values", IN_STEP + "ValueError: not enough values to unpack"),
        ("raise in reset", IN_RESET + "RuntimeError: boom"),
        ("shape in reset", IN_RESET + "ValueError: observation of shape (3,)"),
        ("nan observation in reset", IN_RESET + "ValueError: the observation has NaN"),
    ],
)
@pytest.mark.parametrize("discrete", [False, True])
def test_a_fault_is_named_and_nothing_is_learnt_from_it(
    kind: str, reason: str, discrete: bool
) -> None:
    fault = refused(kind=kind, discrete=discrete)
    assert str(fault).startswith(reason), str(fault)
    assert (fault.environment, fault.row) == ("Faulty-v0", 0)
    assert fault.step == (0 if "reset" in kind else faulty.AT)


@pytest.mark.parametrize("kind", faulty.WRONG)
@pytest.mark.parametrize("normalize", [False, True])
def test_what_is_no_observation_of_its_space_is_named_and_never_read(
    kind: str, normalize: bool
) -> None:
    space, _, _, reason = faulty.WRONG[kind]
    action_space = faulty.Shown.action_space
    policy = LinearPolicy(space, action_space, normalize_observations=normalize)
    task = GymnasiumTask("Shown-v0", policy, n_workers=0, kind=kind)
    estimator = ESTIMATORS["nres"](
        task, n_pairs=2, unroll_length=4, sigma=0.1, staggering="lockstep"
    )
    made = Trainer(estimator, SGD(policy.num_params, 0.1), np.ones(policy.num_params))
    with pytest.raises(EnvironmentFaultError) as caught:
        made.run(updates=3)
    assert str(caught.value).startswith(
        f"Shown-v0: row 0 (plus row of pair 0), in step 3 of its episode: ValueError: {reason}"
    )
    assert made.updates == 0


@pytest.mark.parametrize("kind", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("algo", ["nres", "tes", "fulles"])
def test_a_reward_that_is_no_number_is_named(kind: str, algo: str) -> None:
    made = trainer(algo, kind=kind)
    loss = {"nan": "nan", "inf": "-inf", "-inf": "inf"}[kind]
    with pytest.raises(NonFiniteLossError) as caught:
        made.run(updates=3)
    assert str(caught.value).startswith(
        f"Faulty-v0: the loss of pair 0 (plus row) became {loss} at step 3 of its episode"
    )
    assert made.updates == 0
    np.testing.assert_array_equal(made.theta, np.ones(made.theta.size))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raise", "in step 3: RuntimeError: boom"),
        ("exit", "in step 3: SystemExit: 3"),
        ("shape", "in step 3: ValueError: observation of shape (3,)"),
        ("nan observation", "in step 3: ValueError: the observation has NaN"),
        ("numpy complex reward", "in step 3: TypeError: the reward is a complex128"),
        ("text reward", "in step 3: TypeError: the reward is a ndarray of dtype <U3"),
        ("reward none", "in step 3: TypeError: the reward is a NoneType"),
        ("raise in reset", "in the reset: RuntimeError: boom"),
        ("nan observation in reset", "in the reset: ValueError: the observation has NaN"),
    ],
)
@pytest.mark.parametrize("discrete", [False, True])
def test_evaluation_averages_no_fault_away(kind: str, reason: str, discrete: bool) -> None:
    # Gymnasium's own checker warns first, and warnings are errors here
    kwargs = {"kind": kind, "discrete": discrete, "disable_env_checker": True}
    env = gym.make("Faulty-v0", **kwargs)
    policy = LinearPolicy(env.observation_space, env.action_space)
    policy.theta = np.ones(policy.num_params)
    with pytest.raises(EnvironmentFaultError) as caught:
        evaluate(policy, "Faulty-v0", n_episodes=2, seed=7, env_kwargs=kwargs)
    assert str(caught.value).startswith(f"Faulty-v0: episode 0 (seed 7), {reason}")


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_reward_that_is_no_number_ends_an_evaluation(kind: str) -> None:
    policy = LinearPolicy(faulty.Faulty.observation_space, faulty.Faulty.action_space)
    with pytest.raises(NonFiniteLossError, match=r"evaluation on Faulty-v0: .* at step 3"):
        evaluate(policy, "Faulty-v0", n_episodes=2, env_kwargs={"kind": kind})


@pytest.mark.parametrize("kind", ["raise", "nan", "nan observation"])
def test_the_command_line_names_the_fault_that_ends_an_evaluation(
    run: Any, tmp_path: Path, kind: str
) -> None:
    policy = LinearPolicy(faulty.Faulty.observation_space, faulty.Faulty.action_space)
    kwargs = {"kind": kind, "disable_env_checker": True}
    policy.save(tmp_path / "p.npz", env="Faulty-v0", env_kwargs=kwargs)
    outcome = run("evaluate", "p.npz", "--episodes", "2")
    first = outcome.err.partition("\n")[0]
    assert outcome.code == 1
    assert first.startswith("error: ")
    assert "Faulty-v0" in first
    assert "step 3" in first


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raise in making", "RuntimeError: boom and more"),
        ("assert in making", "AssertionError"),
        ("exit in making", "SystemExit: 0"),
        ("no action space", "action space does not inherit"),
    ],
)
def test_an_environment_that_cannot_be_made_is_told_in_one_line(
    run: Any, tmp_path: Path, kind: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"Faulty-v0 cannot be made.*{reason}"):
        make_env("Faulty-v0", kind=kind)
    if "space" in kind:
        with pytest.raises(ValueError, match="cannot be used: its action_space is None, no space"):
            make_env("Faulty-v0", kind=kind, disable_env_checker=True)
    outcome = run(
        "train", "Faulty-v0", "--algo", "nres", "--updates", "1", "--run-dir", "run",
        "--env-kwargs", f"kind={kind}",
    )  # fmt: skip
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: --env-kwargs kind={kind}: Faulty-v0 ")
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["raise in close", "exit in close"])
def test_what_close_raises_changes_no_result(kind: str) -> None:
    fine, made = trainer(kind="fine"), None
    fine.run(updates=2)
    with pytest.warns(RuntimeWarning, match=r"Faulty-v0: in close: (RuntimeError|SystemExit)"):
        made = trainer(kind=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.run(updates=2)
        made.estimator.task.close()
        policy = LinearPolicy(faulty.Faulty.observation_space, faulty.Faulty.action_space)
        evaluate(policy, "Faulty-v0", n_episodes=2, env_kwargs={"kind": kind})
    np.testing.assert_array_equal(made.theta, fine.theta)


def test_an_environment_may_take_words_of_this_library(run: Any, tmp_path: Path) -> None:
    policy = LinearPolicy(faulty.Faulty.observation_space, faulty.Faulty.action_space)
    kwargs = {"env_id": 3, "policy": 4}
    make_env("OwnWords-v0", **kwargs, engine="diesel").close()
    make_task("OwnWords-v0", policy, n_threads=0, **kwargs)
    evaluate(policy, "OwnWords-v0", n_episodes=1, env_kwargs={**kwargs, "engine": "diesel"})
    words = ["train", "OwnWords-v0", "--algo", "nres", "--updates", "1", "--run-dir", "run"]
    outcome = run(*words, "--env-kwargs", "engine=diesel")
    assert outcome.code == 2
    assert outcome.err.startswith("error: --env-kwargs engine=diesel: engine means something else")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("algo", ["nres", "pes", "tes", "fulles"])
def test_episodes_of_one_step_are_trained_on_and_counted(algo: str) -> None:
    made = trainer(algo, kind="ends at once")
    made.run(updates=3)
    assert np.isfinite(made.theta).all()
    assert (made.theta != 1.0).any()
    # every episode has one step on each of its rows; a window has four episodes
    windows, rows = (3, 2) if algo == "fulles" else (12, 3 if algo == "tes" else 2)
    assert made.total_steps == 3 * windows * rows
    assert made.episodes == 3 * windows


def test_episodes_that_never_end_need_a_horizon_and_then_train() -> None:
    env = gym.make("Endless-v0")
    policy = LinearPolicy(env.observation_space, env.action_space)
    task = GymnasiumTask("Endless-v0", policy, n_workers=0)
    assert task.horizon is None
    with pytest.raises(ValueError, match=r"horizon=None: .* give a horizon"):
        ESTIMATORS["fulles"](task, n_pairs=2, sigma=0.1)
    with pytest.raises(ValueError, match="it has no time limit, so an episode might never end"):
        evaluate(policy, "Endless-v0")
    given = {"env": "Endless-v0", "algo": "nres", "updates": 2, "n_pairs": 2, "threads": 1}
    with pytest.raises(ConfigError, match="--horizon: Endless-v0 has no time limit of its own"):
        train(resolve(given).config, "never-made")
    assert not os.path.exists("never-made")
    estimator = ESTIMATORS["nres"](task, n_pairs=2, unroll_length=4, sigma=0.1)
    made = Trainer(estimator, SGD(policy.num_params, 0.1), np.zeros(policy.num_params))
    made.run(updates=20)
    assert (made.episodes, made.total_steps) == (0, 20 * 4 * 4)


def test_actions_outside_the_space_reach_the_environment_which_may_refuse_them() -> None:
    fault = refused(kind="picky")
    assert fault.row == 0
    assert "InvalidAction: action [" in str(fault)
    assert "outside of Box(-1.0, 1.0, (2,), float64)" in str(fault)
    made = trainer(kind="picky", clip=True)
    made.run(updates=5)
    assert made.updates == 5


def on_the_command_line(folder: Path, kind: str, *more: str) -> tuple[int, str]:
    code = "from es_rl.cli.main import main; main()"
    done = subprocess.run(
        [
            sys.executable, "-c", code, "train", "Faulty-v0", "--import", "faulty_environments",
            "--algo", "nres", "--env-kwargs", f"kind={kind}", "--n-pairs", "2", "--threads", "1",
            "--unroll-length", "4", "--updates", "5", "--staggering", "lockstep",
            "--run-dir", "run", *more,
        ],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("hang", IN_STEP + "no progress for 2 s, the limit (step_timeout, or --step-timeout); "
         "worker process 0 was stopped"),
        ("kill", IN_STEP + "worker process 0 was ended by signal 9 (Killed)"),
        ("exit", IN_STEP + "worker process 0"),
        ("raise", IN_STEP + "RuntimeError: boom"),
    ],
)  # fmt: skip
def test_the_command_line_names_a_fault_and_the_checkpoint_that_stands(
    tmp_path: Path, kind: str, reason: str
) -> None:
    code, err = on_the_command_line(tmp_path, kind, "--step-timeout", "2")
    assert code == 1
    first = err.partition("\n")[0]
    assert first.startswith(f"error: {reason}"), err
    last = os.path.join("run", "checkpoints", "update-0000000000.npz")
    assert first.endswith(f"; the last checkpoint stands: {last}")
    assert (tmp_path / last).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_worker_that_hangs_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    told = tmp_path / "spinning"
    words = [
        "train", "Faulty-v0", "--algo", "nres", "--import", "faulty_environments", "--horizon",
        "9", "--env-kwargs", "kind=spin", "--threads", "1", "--run-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    code = "import sys; from es_rl.cli.main import main; sys.argv[0] = 'es-rl'; main()"
    path = os.pathsep.join([str(Path(faulty.__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "SPINNING": str(told)}
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        worker = int(within(120, lambda: told.read_text() if told.exists() else ""))
        process.kill()
    within(30, lambda: not _is_running(worker))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # what nobody waits for stays as a zombie where the first process reaps none
    with open(f"/proc/{process}/stat", encoding="ascii") as stream:
        return stream.read().rpartition(")")[2].split()[0] != "Z"
