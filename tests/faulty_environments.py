"""Environments that fail in every way that can be thought of, for tests; each in its third step."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

AT = 3


class Faulty(gym.Env[Any, Any]):
    """Does what `kind` says in step AT of every episode, or in its resets; fine until then."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)

    def __init__(self, kind: str = "fine", discrete: bool = False) -> None:
        self.kind = kind
        if discrete:
            self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        observation: Any = self.np_random.normal(size=2)
        match self.kind:
            case "raise in reset":
                raise RuntimeError("boom")
            case "hang in reset":
                time.sleep(600)
            case "nan observation in reset":
                observation[0] = np.nan
            case "shape in reset":
                observation = np.zeros(3)
            case "no info in reset":
                return observation
        return observation, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation: Any = self.np_random.normal(size=2)
        reward: Any = float(observation[0] + 0.1 * np.sum(action))
        terminated = self.kind == "ends at once"
        if self.kind == "picky" and not self.action_space.contains(action):
            raise gym.error.InvalidAction(f"action {action} is outside of {self.action_space}")
        if self.steps == AT:
            match self.kind:
                case "raise":
                    raise RuntimeError("boom")
                case "exit":
                    raise SystemExit(3)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "spin":
                    Path(os.environ["SPINNING"]).write_text(str(os.getpid()))
                    while True:
                        pass
                case "hang":
                    time.sleep(600)
                case "nan" | "inf" | "-inf":
                    reward = float(self.kind)
                case "reward of shape":
                    reward = np.zeros(2)
                case "reward none":
                    reward = None
                case "complex reward":
                    reward = 1j
                case "shape":
                    observation = np.zeros(3)
                case "text":
                    observation = "north"
                case "none":
                    observation = None
                case "nan observation":
                    observation[1] = np.nan
                case "inf observation":
                    observation[1] = np.inf
                case "four values":
                    return observation, reward, terminated, {}
        return observation, reward, terminated, False, {}


gym.register("Faulty-v0", entry_point=Faulty, max_episode_steps=10)
gym.register("Endless-v0", entry_point=Faulty)
