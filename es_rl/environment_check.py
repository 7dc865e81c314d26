"""Whether an environment can be used as it was asked for, told before anything begins."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from es_rl.envs.making import close_env, make_env, makeable_ids
from es_rl.envs.mujoco.quiet import quiet
from es_rl.option_kinds import Integer, did_you_mean
from es_rl.option_messages import ConfigError, one_line, raised, shown

__all__ = ["check_environment", "kwargs_given"]

_MUJOCO = "gymnasium.envs.mujoco"


class _MismatchError(Exception):
    """An environment that is not what it declares to be."""


def check_environment(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Return the environment, made as `gymnasium.make` makes it.

    With keyword arguments of the user's it has taken its first step: many a wrong one is noticed
    by nothing before that.

    Raises:
        ConfigError: if there is none of that name, or it does not work with these arguments.
    """
    _check_counts(env_id, env_kwargs)
    # whatever it warns of it does again where it is made in earnest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = _made(env_id, env_kwargs)
        if env_kwargs:
            try:
                with quiet():
                    _try_out(env)
            except (Exception, SystemExit) as error:
                close_env(env, env_id)
                reason = str(error) if isinstance(error, _MismatchError) else raised(error)
                raise ConfigError(
                    f"{kwargs_given(env_kwargs)}: {env_id} does not work with them: {reason}"
                ) from error
    return env


def kwargs_given(env_kwargs: Mapping[str, Any]) -> str:
    """Return the option that gives these keyword arguments, as messages name it."""
    words = (
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in env_kwargs.items()
    )
    return f"--env-kwargs {shown(','.join(words))}"


def _check_counts(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Refuse numbers that Gymnasium takes without a word, and that leave nothing to train on."""
    names = ["max_episode_steps"]
    if str(getattr(gym.registry.get(env_id), "entry_point", "")).startswith(_MUJOCO):
        names.append("frame_skip")
    for name in names:
        value = env_kwargs.get(name)
        if value is None:
            continue
        try:
            Integer(1).check(value)
        except ValueError as error:
            raise ConfigError(f"{kwargs_given(env_kwargs)}: {name} {error}") from None


def _made(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    try:
        return make_env(env_id, **env_kwargs)
    except ValueError as error:
        cause = error.__cause__
        near = did_you_mean(env_id, makeable_ids()) or "; `es-rl envs` lists them"
        if isinstance(cause, gym.error.UnregisteredEnv):
            raise ConfigError(f"ENV {env_id}: no such environment{near}") from error
        if cause is not None and env_id in gym.registry and env_id not in makeable_ids():
            raise ConfigError(f"ENV {env_id}: is no longer part of Gymnasium{near}") from error
        if not env_kwargs or cause is None or isinstance(cause, (gym.error.Error, ImportError)):
            raise ConfigError(f"ENV {env_id}: {one_line(error)}") from error
        # errors about arguments say enough by themselves
        plain = isinstance(cause, (OSError, TypeError))
        reason = one_line(cause) if plain else raised(cause)
        raise ConfigError(
            f"{kwargs_given(env_kwargs)}: {env_id} does not take them: {reason}"
        ) from error


def _try_out(env: gym.Env[Any, Any]) -> None:
    """Reset the environment and take one step.

    Raises:
        Exception: whatever it raises, or says that it is not what it declares to be.
    """
    modes = env.metadata.get("render_modes") or ()
    if env.render_mode is not None and env.render_mode not in modes:
        raise _MismatchError(f"render_mode must be one of {', '.join(modes) or 'none'}")
    observation, _ = env.reset(seed=0)
    _check_shape(observation, env.observation_space)
    actions = copy.deepcopy(env.action_space)  # drawing from it would leave it in another state
    actions.seed(0)
    observation, reward, _, _, _ = env.step(actions.sample())
    _check_shape(observation, env.observation_space)
    float(reward)


def _check_shape(observation: Any, space: gym.Space[Any]) -> None:
    if isinstance(space, gym.spaces.Box) and np.shape(observation) != space.shape:
        raise _MismatchError(
            f"its observations have shape {np.shape(observation)}, and it declares {space.shape}"
        )
