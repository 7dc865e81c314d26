"""Stable-Baselines3's `VecEnv` face of the native vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from es_rl.envs import MujocoVectorEnv

__all__ = ["NativeVecEnv"]


class NativeVecEnv(VecEnv):  # type: ignore[misc]
    """Lets Stable-Baselines3's algorithms train on `es_rl.envs.MujocoVectorEnv`.

    Finished episodes restart at once, as SB3 expects, with `terminal_observation`,
    `TimeLimit.truncated` and the episode's return and length (as Monitor gives them) in the info.

    Args:
        env_id: one of Gymnasium's MuJoCo environments, version 4 or 5.
        n_envs: number of copies.
        n_threads: threads to step on; None for one per available processor.
        **env_kwargs: keyword arguments of the environment.
    """

    def __init__(
        self, env_id: str, n_envs: int = 1, n_threads: int | None = None, **env_kwargs: Any
    ) -> None:
        self.env = MujocoVectorEnv(
            env_id,
            num_envs=n_envs,
            n_threads=n_threads,
            autoreset_mode=AutoresetMode.SAME_STEP,
            **env_kwargs,
        )
        self.render_mode = None
        super().__init__(n_envs, self.env.single_observation_space, self.env.single_action_space)
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, np.int64)
        self._actions: NDArray[Any] = np.empty(0)

    def reset(self) -> NDArray[np.float64]:
        """Reset all copies, with the seeds of the last call of `seed`; (n_envs, n_observation)."""
        observations, _ = self.env.reset(seed=self._seeds)
        self._reset_seeds()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep `actions` (n_envs, n_action) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all copies under the kept actions."""
        observations, rewards, terminations, truncations, vector_info = self.env.step(self._actions)
        dones = terminations | truncations
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(dones):
            infos[i] = {
                "terminal_observation": vector_info["final_obs"][i],
                "TimeLimit.truncated": bool(truncations[i] and not terminations[i]),
                "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i])},
            }
        self._returns[dones] = 0.0
        self._lengths[dones] = 0
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Stop the threads and free the copies."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the vector environment, once for each copy asked for."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: the copies are rows of one engine and have no attributes of their own."""
        raise AttributeError(f"{attr_name}: the copies of a NativeVecEnv share one engine")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Refuse: the copies are rows of one engine and have no methods of their own."""
        raise AttributeError(f"{method_name}: the copies of a NativeVecEnv share one engine")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each copy: nothing is wrapped."""
        return [False for _ in self._get_indices(indices)]
