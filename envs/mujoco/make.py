"""From a Gymnasium environment to the native engine that reproduces it, or the reason why not."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from es_rl.envs.making import make_env
from es_rl.envs.mujoco.check import NotReproducedError, first_difference
from es_rl.envs.mujoco.engine import MujocoEngine
from es_rl.envs.mujoco.family import Setup
from es_rl.envs.mujoco.numerics import MAX_ACTION, MAX_SQUARES, probe

__all__ = ["FAMILIES", "Made", "engine_for", "horizon_of", "make_engine", "why_not_native"]

_PACKAGE = "gymnasium.envs.mujoco"
_ENVIRONMENTS = (
    # module and class in Gymnasium, versions, module here, function in it that reads one
    ("ant", "AntEnv", (4, 5), "ant", "ant"),
    ("half_cheetah", "HalfCheetahEnv", (4, 5), "forward", "half_cheetah"),
    ("hopper", "HopperEnv", (4, 5), "upright", "hopper"),
    ("humanoid", "HumanoidEnv", (4, 5), "humanoid", "humanoid"),
    ("humanoidstandup", "HumanoidStandupEnv", (4, 5), "humanoid_standup", "humanoid_standup"),
    (
        "inverted_double_pendulum",
        "InvertedDoublePendulumEnv",
        (4, 5),
        "inverted_double_pendulum",
        "inverted_double_pendulum",
    ),
    ("inverted_pendulum", "InvertedPendulumEnv", (4, 5), "inverted_pendulum", "inverted_pendulum"),
    ("pusher", "PusherEnv", (5,), "pusher", "pusher"),
    ("reacher", "ReacherEnv", (4, 5), "reacher", "reacher"),
    ("swimmer", "SwimmerEnv", (4, 5), "forward", "swimmer"),
    ("walker2d", "Walker2dEnv", (4, 5), "upright", "walker2d"),
)

FAMILIES = {
    f"{_PACKAGE}.{module}_v{version}.{name}": (family, reader, version)
    for module, name, versions, family, reader in _ENVIRONMENTS
    for version in versions
}
"""Classes that run natively: the module of the family, the function in it that reads an
environment, and the version."""

_HIDDEN_STATE = int(mujoco.mjtEnableBit.mjENBL_SLEEP) | int(mujoco.mjtEnableBit.mjENBL_IPC)
# RL Zoo puts a class of its own in the place of Gymnasium's, which may have happened already
_TIME_LIMIT: type[TimeLimit[Any, Any]] = next(
    c for c in TimeLimit.__mro__ if c.__module__.startswith("gymnasium.")
)
_STANDARD_WRAPPERS = (OrderEnforcing, PassiveEnvChecker, _TIME_LIMIT)


class Made(NamedTuple):
    """What remains to be known of the environment that an engine was made from.

    Attributes:
        observation_space: space of one observation.
        action_space: space of one action.
        metadata: the environment's own.
        spec: its registration.
        horizon: the limit on an episode's steps, None if there is none.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    metadata: dict[str, Any]
    spec: EnvSpec | None
    horizon: int | None


def _family(env: gym.Env[Any, Any]) -> tuple[str, str, int] | None:
    """Return the entry of `FAMILIES` for the very class of what `env` wraps."""
    cls = type(env.unwrapped)
    known = getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls
    return FAMILIES.get(f"{cls.__module__}.{cls.__qualname__}") if known else None


def _read(env: gym.Env[Any, Any]) -> Setup | str:
    """Return what the kernel of `env` needs, or the reason why there is none."""
    family = _family(env)
    if family is None:
        return "it is not one of Gymnasium's MuJoCo environments of version 4 or 5"
    layer = env
    while isinstance(layer, gym.Wrapper):
        # the last one: what `gymnasium.make` limits episodes with at present
        if type(layer) not in (*_STANDARD_WRAPPERS, gym.wrappers.TimeLimit):
            return f"it is wrapped in {type(layer).__name__}, which the kernels do not know"
        layer = layer.env
    if env.render_mode is not None:
        return f"render_mode={env.render_mode!r} asks for drawing"
    model: mujoco.MjModel = env.unwrapped.model  # type: ignore[attr-defined]
    if model.nplugin or model.opt.enableflags & _HIDDEN_STATE:
        return "its model has plugins, sleeping bodies or IPC, whose state is not in a row"
    if model.nu > MAX_ACTION or 6 * model.nbody > MAX_SQUARES:
        return f"{model.nbody} bodies and {model.nu} actuators are more than the kernels sum over"
    module_name, reader, version = family
    module = importlib.import_module(f"es_rl.envs.mujoco.{module_name}")
    setup: Setup = getattr(module, reader)(env.unwrapped, version)
    if env.observation_space.shape != (setup.n_observation,):
        return f"its observations do not have the shape {env.observation_space.shape} it declares"
    if missing := probe().unmatched.intersection(setup.arithmetic):
        return f"the kernels do not reproduce this NumPy's {', '.join(sorted(missing))}"
    return setup


def why_not_native(env: gym.Env[Any, Any]) -> str | None:
    """Return why the native engine does not reproduce `env`, or None if it should."""
    setup = _read(env)
    return setup if isinstance(setup, str) else None


def horizon_of(env: gym.Env[Any, Any]) -> int | None:
    """Return the limit on an episode's steps, None if there is none."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, _TIME_LIMIT):
            return int(layer._max_episode_steps)
        layer = layer.env
    return None


def engine_for(env: gym.Env[Any, Any], env_id: str, n_threads: int | None = None) -> MujocoEngine:
    """Return a native engine that reproduces `env`, checked against it for a few steps.

    The unwrapped environment is left in the middle of an episode.

    Raises:
        ValueError: if the native engine cannot reproduce it, saying why.
        NotReproducedError: if it should, but the check finds a differing bit.
    """
    setup = _read(env)
    if isinstance(setup, str):
        raise ValueError(f"engine='native': {env_id} cannot run on it, because {setup}")
    engine = MujocoEngine(env.unwrapped, setup, n_threads)
    if difference := first_difference(env.unwrapped, engine):
        raise NotReproducedError(
            f"engine='native': it does not give {difference} of {env_id} bit for bit on this "
            "machine; use engine='gymnasium'"
        )
    return engine


def make_engine(
    env_id: str, *, n_threads: int | None = None, **env_kwargs: Any
) -> tuple[MujocoEngine, Made]:
    """Return a native engine for `gymnasium.make(env_id, **env_kwargs)`, and its description.

    Raises:
        ValueError: if the environment cannot be made, or the native engine cannot reproduce it.
    """
    env = make_env(env_id, **env_kwargs)
    try:
        made = Made(
            env.observation_space, env.action_space, env.metadata, env.spec, horizon_of(env)
        )
        return engine_for(env, env_id, n_threads), made
    finally:
        env.close()
