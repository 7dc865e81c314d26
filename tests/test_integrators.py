"""Training with another integrator of MuJoCo's: whose bits it has, and that evaluation has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from command_line import Run
from numpy.testing import assert_array_equal

import es_rl
from es_rl import run as runs
from es_rl.agents import FullES
from es_rl.assembly import assemble
from es_rl.config_layers import continued, load_config, resolve
from es_rl.envs import MujocoTask, make_task
from es_rl.envs.making import make_env
from es_rl.envs.mujoco.integrators import INTEGRATORS
from es_rl.estimators import ESTIMATORS
from es_rl.options import OPTIONS, ConfigError
from es_rl.tasks import State
from es_rl.variance import measure

SEED = 7


def policy_for(env_id: str) -> es_rl.LinearPolicy:
    env = make_env(env_id)
    env.close()
    return es_rl.LinearPolicy(env.observation_space, env.action_space, clip_actions=True)


def window_of(env_id: str, steps: int, **options: Any) -> tuple[float, int]:
    """Return (sum of losses, steps taken) of a window of one row."""
    policy = policy_for(env_id)
    theta = policy.initial_theta(0.5, seed=1)
    with make_task(env_id, policy, n_threads=1, **options) as task:
        task.allocate(1)
        task.reset(np.zeros(1, np.int64), np.array([SEED], np.uint64))
        result = task.unroll(np.zeros(1, np.int64), theta[None], np.array([steps]))
    return float(result.loss_sum[0]), int(result.steps_taken[0])


def window_in_python(env_id: str, steps: int, integrator: int) -> tuple[float, int]:
    """The same by the environment itself, whose model was changed by hand."""
    policy = policy_for(env_id)
    theta = policy.initial_theta(0.5, seed=1)
    env = make_env(env_id)
    env.unwrapped.model.opt.integrator = integrator  # type: ignore[attr-defined]
    observation, _ = env.reset(seed=SEED)
    loss, taken, terminated = 0.0, 0, False
    while taken < steps and not terminated:
        observation, reward, terminated, _, _ = env.step(policy.act(theta, observation))
        loss -= float(reward)
        taken += 1
    env.close()
    return loss, taken


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize(
    "env_id", ["Humanoid-v4", "Humanoid-v5", "Ant-v4", "Hopper-v5", "HalfCheetah-v4", "Reacher-v5"]
)
def test_both_engines_have_the_bits_of_the_environment_with_that_integrator(
    env_id: str, integrator: str
) -> None:
    expected = window_in_python(env_id, 40, INTEGRATORS[integrator])
    assert window_of(env_id, 40, engine="native", integrator=integrator) == expected
    if integrator == "euler":
        assert window_of(env_id, 40, engine="gymnasium", integrator=integrator) == expected


@pytest.mark.parametrize("env_id", ["Humanoid-v4", "Ant-v5", "Swimmer-v4"])
def test_the_models_own_integrator_by_name_changes_nothing_and_another_does(env_id: str) -> None:
    env = make_env(env_id)
    own = env.unwrapped.model.opt.integrator  # type: ignore[attr-defined]
    env.close()
    assert own == mujoco.mjtIntegrator.mjINT_RK4
    plain = window_of(env_id, 30)
    assert window_of(env_id, 30, integrator="rk4") == plain
    assert window_of(env_id, 30, integrator="euler") != plain


def test_copies_and_saved_states_of_the_gymnasium_engine_keep_the_integrator() -> None:
    policy = policy_for("Hopper-v4")
    theta = policy.initial_theta(0.5, seed=1)
    row, other = np.zeros(1, np.int64), np.ones(1, np.int64)
    results: list[float] = []
    state: State = {}
    for is_resumed in (False, True):
        with make_task(
            "Hopper-v4", policy, engine="gymnasium", n_threads=0, integrator="euler"
        ) as task:
            task.allocate(2)
            if is_resumed:
                task.set_state(state)
            else:
                task.reset(row, np.array([SEED], np.uint64))
                task.unroll(row, theta[None], np.array([4]))
                task.copy_rows(row, other)
                state = task.get_state()
            for rows in (row, other):
                results.append(task.unroll(rows, theta[None], np.array([9])).loss_sum[0])
    assert len(set(results)) == 1


@pytest.mark.parametrize("engine", ["auto", "gymnasium"])
def test_what_cannot_be_is_refused_by_name(engine: str) -> None:
    with pytest.raises(ValueError, match=r"integrator='eular': choose one of euler, implicit"):
        make_task("Hopper-v4", policy_for("Hopper-v4"), engine=engine, integrator="eular")
    env = make_env("CartPole-v1")
    policy = es_rl.LinearPolicy(env.observation_space, env.action_space)
    with pytest.raises(ValueError, match=r"integrator='euler': CartPole-v1 does not simulate"):
        make_task("CartPole-v1", policy, engine=engine, integrator="euler")
    given = {"env": "CartPole-v1", "algo": "nres", "integrator": "euler", "engine": engine}
    with pytest.raises(ConfigError, match=r"--integrator euler: CartPole-v1 does not simulate"):
        assemble(resolve(given).config)


def test_the_option_has_the_integrators_there_are() -> None:
    assert OPTIONS["integrator"].kind.choices == tuple(INTEGRATORS)  # type: ignore[attr-defined]


GIVEN = {"env": "Hopper-v4", "algo": "fulles", "integrator": "euler", "n_pairs": 2, "sigma": 0.05,
         "horizon": 30, "updates": 2, "eval_every": 0, "eval_episodes": 1, "threads": 1,
         "tensorboard": False}  # fmt: skip


def test_training_has_it_and_evaluation_the_models_own(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    result = runs.train(resolve(GIVEN).config, folder)
    assert result.final is not None
    stored, _ = load_config(f"{folder}/config.yaml")
    assert stored.integrator == "euler"
    policy = es_rl.load_policy(f"{folder}/policy.npz")
    alone = es_rl.evaluate(policy, "Hopper-v4", n_episodes=20, seed=1_000_000_000)
    assert alone.mean == result.final.mean
    own = runs.train(resolve({**GIVEN, "integrator": None}).config, str(tmp_path / "own"))
    assert own.total_steps != result.total_steps or own.final != result.final
    with (
        assemble(stored) as made,
        assemble(resolve({**GIVEN, "engine": "gymnasium"}).config) as twin,
    ):
        gradients = []
        for one in (made, twin):
            one.trainer.start()
            gradients.append(one.trainer.estimator.estimate(one.trainer.theta).gradient)
    assert_array_equal(*gradients)


def test_rows_go_on_with_another_integrator_from_one_call_to_the_next() -> None:
    policy = policy_for("Humanoid-v4")
    theta = policy.initial_theta(0.5, seed=1)
    row = np.zeros(1, np.int64)
    env = make_env("Humanoid-v4")
    model = env.unwrapped.model  # type: ignore[attr-defined]
    with make_task("Humanoid-v4", policy, n_threads=1, integrator="euler") as task:
        assert isinstance(task, MujocoTask)
        task.allocate(1)
        task.reset(row, np.array([SEED], np.uint64))
        observation, _ = env.reset(seed=SEED)
        for integrator in (INTEGRATORS["euler"], INTEGRATORS["rk4"], INTEGRATORS["euler"]):
            model.opt.integrator = task.engine.integrator = int(integrator)
            loss = 0.0
            for _ in range(5):
                observation, reward, *_ = env.step(policy.act(theta, observation))
                loss -= float(reward)
            assert task.unroll(row, theta[None], np.array([5])).loss_sum[0] == loss
    env.close()


def euler_hopper() -> Any:
    env = make_env("Hopper-v4")
    env.unwrapped.model.opt.integrator = INTEGRATORS["euler"]  # type: ignore[attr-defined]
    return env


def test_agents_train_with_the_integrator_of_the_callable_that_makes_the_environment() -> None:
    thetas = []
    for env in (euler_hopper, lambda: make_env("Hopper-v4")):
        for engine in ("native", "gymnasium"):
            agent = FullES(
                "LinearPolicy", env, n_pairs=2, horizon=30, seed=1, engine=engine, n_threads=1
            )
            agent.learn(200)
            thetas.append(agent.policy.core.theta.copy())
    assert_array_equal(thetas[0], thetas[1])
    assert_array_equal(thetas[2], thetas[3])
    assert not np.array_equal(thetas[0], thetas[2])


def states_of(given: dict[str, Any], updates: int) -> list[Any]:
    """Return the states of training after each update, and the total steps before it."""
    found = []
    with assemble(resolve({**given, "updates": updates}).config) as made:
        made.trainer.start()
        for _ in range(updates):
            before = made.trainer.total_steps
            made.trainer.update()
            found.append((before, made.trainer.theta.copy()))
    return found


@pytest.mark.parametrize("algo", ["fulles", "nres"])
def test_training_changes_to_the_models_own_where_it_was_told_to(algo: str) -> None:
    window = {"unroll_length": 10} if algo == "nres" else {}
    given = {**GIVEN, "algo": algo, **window}
    euler = states_of(given, 4)
    limit = euler[2][0]
    changed = states_of({**given, "integrator_steps": limit}, 4)
    for (_, one), (_, other) in zip(euler[:2], changed[:2], strict=True):
        assert_array_equal(one, other)
    assert not np.array_equal(euler[2][1], changed[2][1])
    assert_array_equal(states_of({**given, "integrator_steps": limit + 1}, 3)[2][1], euler[2][1])


def test_a_run_resumed_on_either_side_of_the_change_ends_alike(tmp_path: Path) -> None:
    limit = states_of(GIVEN, 4)[2][0]
    given = {**GIVEN, "integrator_steps": limit, "updates": 5}
    runs.train(resolve(given).config, str(tmp_path / "whole"))
    truth = (tmp_path / "whole" / "policy.npz").read_bytes()
    for updates in (2, 3):
        folder = tmp_path / str(updates)
        runs.train(resolve({**given, "updates": updates}).config, str(folder))
        stored, _ = load_config(f"{folder}/config.yaml")
        runs.resume(continued(stored, {"updates": 5}, str(folder)), str(folder))
        assert (folder / "policy.npz").read_bytes() == truth


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "native engine, euler integrator · "),
        (("--integrator-steps", "50"), "native engine, euler integrator for 50 steps · "),
    ],
)
def test_a_run_says_what_it_trains_with(words: tuple[str, ...], shown: str, run: Run) -> None:
    outcome = run(
        "train", "Hopper-v4", "--algo", "fulles", "--integrator", "euler", *words, "--updates", "1",
        "--n-pairs", "2", "--horizon", "10", "--run-dir", "here", "--no-tensorboard",
    )  # fmt: skip
    assert outcome.code == 0
    assert shown in " ".join((outcome.out + outcome.err).split())


@pytest.mark.parametrize("change", ["", " --integrator-steps 50"], ids=["euler", "own at the end"])
def test_the_variance_of_a_trained_policy_is_that_of_what_its_run_ends_with(
    change: str, run: Run
) -> None:
    trained = (
        f"train Hopper-v4 --algo fulles --integrator euler{change} --n-pairs 2 --horizon 10 "
        "--updates 2 --eval-episodes 1 --quiet --run-dir r --no-tensorboard"
    )
    assert run(*trained.split()).code == 0
    words = "variance Hopper-v4 --theta r --samples 10 --sigma 0.2 --algos fulles --json"
    told = run(*words.split())
    assert told.code == 0, told.err
    own = bool(change)
    policy = es_rl.load_policy("r/policy.npz")
    gradients = []
    for integrator in ("euler", None):
        with make_task("Hopper-v4", policy, integrator=integrator) as task:
            result = measure(
                ESTIMATORS["fulles"],
                task,
                policy.theta,
                n_samples=10,
                sigma=0.2,
                horizon=10,
                normalizer=policy.normalizer,
            )
            gradients.append(result.mean.tolist())
    assert gradients[0] != gradients[1]
    assert json.loads(told.out)["estimators"][0]["mean_gradient"] == gradients[own]


def test_another_integrator_than_the_presets_is_that_of_the_whole_run(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("Hopper-v4: {integrator: euler, integrator_steps: 50}\n")
    given = {**GIVEN, "integrator": "implicit"}
    assert resolve(given, preset=str(preset)).config.integrator_steps is None
    del given["integrator"]
    assert resolve(given, preset=str(preset)).config.integrator_steps == 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"integrator": None}, "--integrator-steps 50: there is no other integrator"),
        ({"engine": "gymnasium"}, "--integrator-steps 50: only the native engine.*--engine gym"),
        ({"engine": "ray"}, "--integrator-steps 50: only the native engine.*--engine ray"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({**GIVEN, "integrator_steps": 50, **given})
