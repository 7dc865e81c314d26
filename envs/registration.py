"""Registers the native vector environments with Gymnasium, as `es_rl/Swimmer-v4` and so on."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym

__all__ = ["NATIVE_ENVS", "register_envs"]

_BOTH_VERSIONS = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Reacher",
    "Swimmer",
    "Walker2d",
)
NATIVE_ENVS = (*(f"{name}-v{v}" for name in _BOTH_VERSIONS for v in (4, 5)), "Pusher-v5")
"""Gymnasium's environments that the native engine runs."""

_NAMESPACE = "es_rl"


def _make_vector(env_id: str, num_envs: int, **kwargs: Any) -> Any:
    from es_rl.envs.mujoco.vector import MujocoVectorEnv

    return MujocoVectorEnv(env_id, num_envs, **kwargs)


def register_envs() -> None:
    """Make `gymnasium.make_vec("es_rl/ENV")` find the native vector environment of each ENV.

    `gymnasium.make("es_rl/ENV")` makes Gymnasium's own single environment.
    """
    for env_id in NATIVE_ENVS:
        original, name = gym.registry[env_id], f"{_NAMESPACE}/{env_id}"
        if name not in gym.registry:
            gym.register(
                name,
                entry_point=original.entry_point,
                reward_threshold=original.reward_threshold,
                max_episode_steps=original.max_episode_steps,
                kwargs=dict(original.kwargs),
                vector_entry_point=partial(_make_vector, env_id),
            )
