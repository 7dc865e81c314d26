"""Small environments for the tests of the agents, and options that keep training short."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

DRIFT = "es_rl_tests/Drift-v0"
SWIMMER: dict[str, Any] = {
    "n_pairs": 4,
    "unroll_length": 10,
    "sigma": 0.1,
    "learning_rate": 0.5,
    "horizon": 40,
    "seed": 3,
}
"""Options under which a window of Swimmer takes 80 steps, unless a TES agent takes 120."""


class Drift(gym.Env[Any, Any]):
    """A point that is pushed along a line and falls off it at random times, counting all steps.

    The reward is the push, so a policy that pushes up earns more; it is multiplied by
    `scale`, and `bonus` is added.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    steps_executed: ClassVar[int] = 0
    episodes_ended: ClassVar[int] = 0

    def __init__(self, bonus: float = 0.0, survival: float = 0.9, scale: float = 1.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.bonus, self.survival, self.scale = bonus, survival, scale

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._position = self.np_random.normal()
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        Drift.steps_executed += 1
        push = float(np.clip(action[0], -1.0, 1.0))
        self._position = 0.5 * self._position + 0.1 * push
        fell = bool(self.np_random.random() > self.survival)
        Drift.episodes_ended += fell
        return self._observation(), self.scale * push + self.bonus, fell, False, {}

    def _observation(self) -> Any:
        return np.array([self._position, 1.0])


class TwoParts(gym.Env[Any, Any]):
    """Observes a Dict of a vector and a discrete number."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {"place": spaces.Box(-1.0, 1.0, (2,), np.float64), "kind": spaces.Discrete(3)}
        )
        self.action_space = spaces.Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        return self._observation(), float(action == 2), False, False, {}

    def _observation(self) -> Any:
        return {"place": self.np_random.uniform(-1, 1, 2), "kind": self.np_random.integers(3)}


if DRIFT not in gym.registry:
    gym.register(DRIFT, entry_point=Drift, max_episode_steps=30)
