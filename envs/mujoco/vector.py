"""MuJoCo environments as a `gymnasium.vector.VectorEnv` on the native engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from es_rl.envs.mujoco.make import make_engine

__all__ = ["MujocoVectorEnv"]

Observations = NDArray[np.float64]
Flags = NDArray[np.bool_]
Step = tuple[Observations, NDArray[np.float64], Flags, Flags, dict[str, Any]]


class MujocoVectorEnv(VectorEnv[Observations, NDArray[Any], NDArray[Any]]):
    """Many copies of one MuJoCo environment, stepped together on native threads.

    Observations, rewards, terminations, truncations and resets are bit for bit those of
    `gymnasium.vector.SyncVectorEnv` over `gymnasium.make(env_id, **env_kwargs)`, with the same
    seeds, actions and autoreset mode. The environments' own infos (positions, parts of the reward)
    are not computed; with SAME_STEP, `final_obs` and `final_info` are there as Gymnasium says.

    Args:
        env_id: one of Gymnasium's MuJoCo environments, version 4 or 5.
        num_envs: number of copies.
        n_threads: threads to step on; None for one per available processor.
        autoreset_mode: what happens to a copy whose episode is over: NEXT_STEP resets it in the
            next call, which ignores its action; SAME_STEP resets it at once; DISABLED leaves it
            to `reset(options={"reset_mask": mask})`.
        max_episode_steps: steps after which an episode is truncated; None for the registry's.
        **env_kwargs: keyword arguments of the environment.

    Raises:
        ValueError: if `num_envs` is not positive or the native engine cannot run the environment.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        n_threads: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **env_kwargs: Any,
    ) -> None:
        self.closed = True  # nothing to free yet, whatever fails until there is
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: must be a positive integer")
        mode = AutoresetMode(autoreset_mode)
        if max_episode_steps is not None:
            env_kwargs["max_episode_steps"] = max_episode_steps
        self._engine, made = make_engine(env_id, n_threads=n_threads, **env_kwargs)
        self.closed = False
        self.num_envs = num_envs
        self.spec = made.spec
        self.single_observation_space = made.observation_space
        self.single_action_space = made.action_space
        self.observation_space = batch_space(made.observation_space, num_envs)
        self.action_space = batch_space(made.action_space, num_envs)
        self.metadata = {**made.metadata, "autoreset_mode": mode}
        self._mode = mode
        self._limit = made.horizon
        self._engine.allocate(num_envs)
        self._rows = np.arange(num_envs)
        drawn = [gym.utils.seeding.np_random() for _ in range(num_envs)]
        self._generators = [generator for generator, _ in drawn]
        self._seeds = [seed for _, seed in drawn]
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, np.bool_)
        self._was_reset = False

    # as in SyncVectorEnv, whose copies have generators of their own
    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The copies' generators of random numbers."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What they were seeded with last."""
        return tuple(self._seeds)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Reset all copies, or those of `options["reset_mask"]` (num_envs,) bool.

        Copy i starts from `seed + i`, or from `seed[i]`; without a seed each goes on with its own
        random numbers.

        Returns:
            observations (num_envs, n_observation) and an empty info.

        Raises:
            ValueError: if the seeds or the mask have another length than there are copies.
            TypeError: if the mask is not an array of bool.
        """
        seeds: list[int | None]
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: {len(seeds)} seeds for num_envs={self.num_envs}")
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            mask = _checked_mask(options["reset_mask"], self.num_envs)
            if not self._was_reset and not mask.all():
                raise ValueError("options['reset_mask']: the first reset must be of all copies")
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._generators[i], self._seeds[i] = gym.utils.seeding.np_random(seeds[i])
        self._was_reset = True
        self._restart(self._rows[mask])
        return self._engine.observe(self._rows), {}

    def _restart(self, rows: NDArray[np.int64]) -> None:
        self._engine.restart(rows, [self._generators[i] for i in rows])
        self._elapsed[rows] = 0
        self._over[rows] = False

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all copies.

        Args:
            actions: (num_envs, n_action), passed raw, as the environments themselves do.

        Returns:
            observations (num_envs, n_observation), rewards (num_envs,) float64, terminations and
            truncations (num_envs,) bool, infos.

        Raises:
            RuntimeError: if the copies were never reset, or with autoreset DISABLED one whose
                episode is over was not reset.
        """
        if not self._was_reset:
            raise RuntimeError("call reset() before step()")
        actions = np.asarray(actions)
        rows = self._rows
        if self._over.any():
            if self._mode is AutoresetMode.NEXT_STEP:
                return self._step_and_reset(actions)
            if self._mode is AutoresetMode.DISABLED:
                raise RuntimeError(
                    f"copies {np.flatnonzero(self._over).tolist()} are over: with autoreset "
                    "DISABLED reset them with options={'reset_mask': mask}"
                )
        observations, rewards, terminations, truncations = self._advance(rows, actions)
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP and self._over.any():
            over = self._over.copy()
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(over):
                final[i] = observations[i].copy()
            infos = {
                "final_obs": final,
                "_final_obs": over,
                "final_info": {},
                "_final_info": over.copy(),
            }
            self._restart(rows[over])
            observations[over] = self._engine.observe(rows[over])
        return observations, rewards, terminations, truncations, infos

    def _step_and_reset(self, actions: NDArray[Any]) -> Step:
        """Reset the copies that are over, step the others."""
        over = self._over.copy()
        observations = np.empty((self.num_envs, self._engine.n_observation))
        rewards = np.zeros(self.num_envs)
        terminations = np.zeros(self.num_envs, np.bool_)
        truncations = np.zeros(self.num_envs, np.bool_)
        self._restart(self._rows[over])
        observations[over] = self._engine.observe(self._rows[over])
        going = ~over
        if going.any():
            results = self._advance(self._rows[going], actions[going])
            for target, result in zip(
                (observations, rewards, terminations, truncations), results, strict=True
            ):
                target[going] = result
        return observations, rewards, terminations, truncations, {}

    def _advance(
        self, rows: NDArray[np.int64], actions: NDArray[Any]
    ) -> tuple[Observations, NDArray[np.float64], Flags, Flags]:
        observations, rewards, terminations, _ = self._engine.step(rows, actions)
        self._elapsed[rows] += 1
        if self._limit is None:
            truncations = np.zeros(rows.size, np.bool_)
        else:
            truncations = self._elapsed[rows] >= self._limit
        self._over[rows] = terminations | truncations
        return observations, rewards, terminations, truncations

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads and free the copies."""
        self._engine.close()


def _checked_mask(mask: Any, num_envs: int) -> Flags:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError("options['reset_mask']: must be a numpy array of bool")
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(
            f"options['reset_mask']: must have shape ({num_envs},) and at least one True, has "
            f"shape {mask.shape}"
        )
    return mask
