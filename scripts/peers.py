"""NRES written the usual way, over other people's vector environments, for the benchmarks.

One batched NumPy policy acts for all copies at every step. This is what a user would write who
has a vector environment and no engine of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.making import make_env

Array = NDArray[np.float64]


class Copies(Protocol):
    """Many copies of an environment that step together."""

    def reset(self) -> Array: ...
    def step(self, actions: Array) -> tuple[Array, Array]: ...
    def close(self) -> None: ...


class GymnasiumCopies:
    """gymnasium's SyncVectorEnv or AsyncVectorEnv."""

    def __init__(self, env_id: str, n: int, kind: str) -> None:
        make = [lambda: make_env(env_id) for _ in range(n)]
        self._env = (
            gym.vector.SyncVectorEnv(make) if kind == "sync" else gym.vector.AsyncVectorEnv(make)
        )

    def reset(self) -> Array:
        return self._env.reset(seed=0)[0]

    def step(self, actions: Array) -> tuple[Array, Array]:
        observations, rewards, *_ = self._env.step(actions)
        return observations, rewards

    def close(self) -> None:
        self._env.close()


class Sb3Copies:
    """Stable-Baselines3's DummyVecEnv or SubprocVecEnv."""

    def __init__(self, env_id: str, n: int, kind: str) -> None:
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        make = [lambda: make_env(env_id) for _ in range(n)]
        self._env = DummyVecEnv(make) if kind == "dummy" else SubprocVecEnv(make)

    def reset(self) -> Array:
        return np.asarray(self._env.reset())

    def step(self, actions: Array) -> tuple[Array, Array]:
        observations, rewards, _, _ = self._env.step(actions)
        return np.asarray(observations), rewards

    def close(self) -> None:
        self._env.close()


class EnvPoolCopies:
    """EnvPool's C++ vector environment, synchronous mode."""

    def __init__(self, env_id: str, n: int, n_threads: int) -> None:
        import envpool

        self._env = envpool.make(
            env_id, env_type="gymnasium", num_envs=n, num_threads=n_threads, seed=0
        )

    def reset(self) -> Array:
        return self._env.reset()[0]

    def step(self, actions: Array) -> tuple[Array, Array]:
        observations, rewards, *_ = self._env.step(actions)
        return observations, rewards

    def close(self) -> None:
        self._env.close()


def make_copies(name: str, env_id: str, n: int, n_threads: int) -> Copies:
    """Make the vector environment that the benchmark calls `name`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "envpool":
            return EnvPoolCopies(env_id, n, n_threads)
        if name.startswith("gymnasium-"):
            return GymnasiumCopies(env_id, n, name.removeprefix("gymnasium-"))
        return Sb3Copies(env_id, n, name.removeprefix("sb3-"))


class NumpyNres:
    """NRES in lockstep over `Copies`: rows 2i and 2i + 1 run under θ ± εᵢ."""

    def __init__(
        self,
        copies: Copies,
        layers: list[tuple[int, int]],
        has_bias: bool,
        n_pairs: int,
        unroll_length: int,
        horizon: int,
        sigma: float,
        learning_rate: float,
    ) -> None:
        self.copies, self.layers, self.has_bias = copies, layers, has_bias
        self.n_pairs, self.unroll_length, self.horizon = n_pairs, unroll_length, horizon
        self.sigma, self.learning_rate = sigma, learning_rate
        n_params = sum(o * i + (o if has_bias else 0) for o, i in layers)
        self.theta = np.zeros(n_params)
        self.rng = np.random.default_rng(0)
        self.step_in_episode = horizon
        self.observations: Array = np.empty(0)

    def update(self) -> int:
        """Make one update and return the environment steps it took."""
        if self.step_in_episode >= self.horizon:
            self.observations = self.copies.reset()
            self.step_in_episode = 0
            self.epsilon = self.sigma * self.rng.standard_normal((self.n_pairs, self.theta.size))
        thetas = np.empty((2 * self.n_pairs, self.theta.size))
        thetas[0::2] = self.theta + self.epsilon
        thetas[1::2] = self.theta - self.epsilon
        act = self._policy(thetas)
        losses = np.zeros(2 * self.n_pairs)
        for _ in range(self.unroll_length):
            self.observations, rewards = self.copies.step(act(self.observations))
            losses -= rewards
        self.step_in_episode += self.unroll_length
        differences = losses[0::2] - losses[1::2]
        scale = 2.0 * self.sigma**2 * self.unroll_length * self.n_pairs
        self.theta = self.theta - self.learning_rate * (differences @ self.epsilon) / scale
        return 2 * self.n_pairs * self.unroll_length

    def _policy(self, thetas: Array) -> Callable[[Array], Array]:
        parts: list[tuple[Any, Any]] = []
        offset = 0
        for n_out, n_in in self.layers:
            weights = thetas[:, offset : offset + n_out * n_in].reshape(-1, n_out, n_in)
            offset += n_out * n_in
            bias = None
            if self.has_bias:
                bias = thetas[:, offset : offset + n_out]
                offset += n_out
            parts.append((weights, bias))

        def act(observations: Array) -> Array:
            x = observations
            for number, (weights, bias) in enumerate(parts):
                x = np.matmul(weights, x[:, :, None])[:, :, 0]
                if bias is not None:
                    x += bias
                if number < len(parts) - 1:
                    np.tanh(x, out=x)
            return x

        return act
