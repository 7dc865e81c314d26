"""Choosing an engine for an environment, and the errors of those who ask for the wrong one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.swimmer_v4 import SwimmerEnv as MujocoSwimmer
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.wrappers import ClipAction

import es_rl
import es_rl.envs.mujoco.make
from es_rl.envs import GymnasiumTask, MujocoTask, make_task
from es_rl.envs.making import make_env, makeable_ids
from es_rl.envs.mujoco.make import horizon_of, why_not_native
from es_rl.envs.mujoco.numerics import Arithmetic


class MySwimmer(SwimmerEnv):
    """A user's variant, which may compute anything."""


REGISTERED = {
    "TestSwimmerAgain-v0": {"entry_point": SwimmerEnv, "max_episode_steps": 77},
    "TestSwimmerEndless-v0": {"entry_point": SwimmerEnv},
    "TestSwimmerOfMine-v0": {"entry_point": MySwimmer},
    "TestSwimmerWrapped-v0": {
        "entry_point": SwimmerEnv,
        "additional_wrappers": (ClipAction.wrapper_spec(),),
    },
}


@pytest.fixture(autouse=True)
def registered() -> Any:
    for env_id, options in REGISTERED.items():
        gym.register(env_id, **options)  # type: ignore[arg-type]
    yield
    for env_id in REGISTERED:
        del gym.registry[env_id]


def policy_for(env_id: str, **env_kwargs: Any) -> es_rl.LinearPolicy:
    env = make_env(env_id, **env_kwargs)
    env.close()
    return es_rl.LinearPolicy(env.observation_space, env.action_space)


@pytest.mark.parametrize(
    ("env_id", "engine", "expected"),
    [
        ("Swimmer-v4", "auto", MujocoTask),
        ("Swimmer-v4", "native", MujocoTask),
        ("Swimmer-v4", "gymnasium", GymnasiumTask),
        ("TestSwimmerAgain-v0", "auto", MujocoTask),
        ("TestSwimmerOfMine-v0", "auto", GymnasiumTask),
        ("TestSwimmerWrapped-v0", "auto", GymnasiumTask),
        ("Pendulum-v1", "auto", GymnasiumTask),
    ],
)
def test_the_engine_is_native_where_that_is_exact(env_id: str, engine: str, expected: type) -> None:
    with make_task(env_id, policy_for(env_id), engine=engine, n_threads=1) as task:
        assert type(task) is expected


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "horizon"),
    [
        ("Swimmer-v4", {}, 1000),
        ("Reacher-v4", {}, 50),
        ("Pusher-v5", {}, 100),
        ("Reacher-v5", {"max_episode_steps": 7}, 7),
        ("TestSwimmerAgain-v0", {}, 77),
        ("TestSwimmerEndless-v0", {}, None),
    ],
)
def test_the_horizon_is_the_limit_on_episode_steps(
    env_id: str, env_kwargs: dict[str, Any], horizon: int | None
) -> None:
    policy = policy_for(env_id, **env_kwargs)
    assert make_task(env_id, policy, engine="native", **env_kwargs).horizon == horizon


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("Swimmer-v4", {"engine": "nativ"}, "engine='nativ': choose one of auto, native"),
        ("Swimmer-v4", {"n_threads": 0}, "n_threads=0"),
        ("Swimer-v4", {}, "unknown environment 'Swimer-v4'; did you mean Swimmer-v4"),
        ("Swimmer-v9", {}, "unknown environment 'Swimmer-v9'; did you mean Swimmer-v"),
        ("qqq", {}, "unknown environment 'qqq'$"),
        ("Pusher-v4", {}, "Pusher-v4 needs mujoco<3 .* use Pusher-v5"),
        ("Swimmer-v4", {"frame_skips": 2}, "Swimmer-v4 cannot be made with .*frame_skips"),
        ("Swimmer-v5", {"xml_file": "/no/such.xml"}, "Swimmer-v5 cannot be made .*such.xml"),
        ("Hopper-v4", {}, "policy does not fit Hopper-v4"),
        ("Swimmer-v2", {}, "Swimmer-v2 cannot be made"),
        ("Pendulum-v1", {"engine": "native"}, "policy does not fit Pendulum-v1"),
        ("TestSwimmerOfMine-v0", {"engine": "native"}, "not one of Gymnasium's MuJoCo"),
        ("TestSwimmerWrapped-v0", {"engine": "native"}, "wrapped in ClipAction"),
        ("Swimmer-v4", {"engine": "native", "render_mode": "rgb_array"}, "drawing"),
    ],
)
def test_a_bad_request_is_a_value_error_that_names_it(
    env_id: str, options: dict[str, Any], message: str
) -> None:
    policy = policy_for("Swimmer-v4")
    with pytest.raises(ValueError, match=message):
        make_task(env_id, policy, **options)


def test_both_engines_give_the_same_window_bit_for_bit() -> None:
    policy = policy_for("Hopper-v4")
    thetas = np.array([policy.initial_theta(0.5, seed=seed) for seed in range(4)])
    results = []
    for engine in ("native", "gymnasium"):
        with make_task("Hopper-v4", policy, engine=engine, n_threads=1) as task:
            task.allocate(4)
            task.reset(np.arange(4), np.arange(4).astype(np.uint64))
            results.append(task.unroll(np.arange(4), thetas, np.array([5, 90, 17, 200])))
    for native, plain in zip(*results, strict=True):
        np.testing.assert_array_equal(native, plain)
    assert results[0].ended.any()


def test_a_differing_bit_is_found_before_anything_is_unrolled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = policy_for("Swimmer-v4")
    monkeypatch.setattr(MujocoSwimmer, "control_cost", lambda self, action: 1e-12)
    with pytest.raises(ValueError, match="does not give the reward of step 1 of Swimmer-v4"):
        make_task("Swimmer-v4", policy, engine="native")
    with (
        pytest.warns(UserWarning, match="use engine='gymnasium', as is done now"),
        make_task("Swimmer-v4", policy, n_threads=1) as task,
    ):
        assert type(task) is GymnasiumTask


def test_numpy_that_computes_otherwise_sends_an_environment_to_gymnasium(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Arithmetic(False, False, frozenset({"np.sin"}))
    monkeypatch.setattr(es_rl.envs.mujoco.make, "probe", lambda: other)
    env_id = "Reacher-v5"
    policy = policy_for(env_id)
    with pytest.raises(ValueError, match="do not reproduce this NumPy's np\\.sin"):
        make_task(env_id, policy, engine="native")
    with make_task(env_id, policy, n_threads=1) as task:
        assert type(task) is GymnasiumTask
    assert type(make_task("Swimmer-v4", policy_for("Swimmer-v4"))) is MujocoTask


def test_a_time_limit_that_another_library_put_in_place_of_gymnasiums_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Limit(gym.wrappers.TimeLimit):
        pass

    monkeypatch.setattr("gymnasium.wrappers.TimeLimit", Limit)
    env = make_env("Swimmer-v5")
    assert isinstance(env, Limit)
    assert why_not_native(env) is None
    assert horizon_of(env) == 1000


def test_what_is_offered_in_place_of_an_unknown_environment_can_be_made() -> None:
    offered = makeable_ids()
    assert "Pusher-v5" in offered
    assert not {"Pusher-v4", "Swimmer-v3", "Swimmer-v2", "es_rl/Swimmer-v5"} & set(offered)
    for unknown in ("Pusher-v3000", "Swimmer-v33", "pusher-v4"):
        with pytest.raises(ValueError, match="unknown environment") as caught:
            make_env(unknown)
        names = str(caught.value).partition("did you mean ")[2].rstrip("?").split(", ")
        assert set(names) <= {*offered, ""}
