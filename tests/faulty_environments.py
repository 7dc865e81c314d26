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
        match kind:
            case "raise in making":
                raise RuntimeError("boom\nand more")
            case "assert in making":
                raise AssertionError
            case "exit in making":
                raise SystemExit(0)
            case "no action space":
                self.action_space = None

    def close(self) -> None:
        match self.kind:
            case "raise in close":
                raise RuntimeError("boom")
            case "exit in close":
                raise SystemExit(0)

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
                case "numpy complex reward":
                    reward = np.complex128(1 + 2j)
                case "text reward":
                    reward = np.array("1.5")
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


class OwnWords(Faulty):
    """Takes keyword arguments that this library has too."""

    def __init__(self, env_id: int = 0, policy: int = 0, engine: str = "") -> None:
        super().__init__()


class Shown(gym.Env[Any, Any]):
    """Shows what is no observation of its space in step AT: the entry `kind` of WRONG."""

    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)

    def __init__(self, kind: str) -> None:
        self.observation_space, self.good, self.wrong, _ = WRONG[kind]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.good, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return (self.wrong if self.steps == AT else self.good), 1.0, False, False, {}


_BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)
_BOTH = gym.spaces.Dict({"a": gym.spaces.Box(-1.0, 1.0, (3,), np.float64), "b": _BOX})
_A, _B = np.zeros(3), np.zeros(2)
WRONG: dict[str, tuple[gym.Space[Any], Any, Any, str]] = {
    "complex": (_BOX, _B, np.array([1 + 2j, 2]), "observation of dtype complex128"),
    "words": (_BOX, _B, np.array(["1", "2"]), "observation of dtype <U1"),
    "objects": (_BOX, _B, np.array([1, None]), "observation of dtype object"),
    "below": (gym.spaces.Discrete(4), 1, -1, "observation -1: is not in Discrete(4)"),
    "above": (gym.spaces.Discrete(4, start=2), 2, 6, "observation 6: is not in Discrete(4"),
    "between": (gym.spaces.Discrete(4), 1, 1.5, "observation 1.5: is not in"),
    "many": (gym.spaces.Discrete(4), 1, np.array([0, 1, 2]), "observation array([0, 1, 2]): is"),
    "short part": (_BOTH, {"a": _A, "b": _B}, {"a": _A[:1], "b": _B}, "part 'a' of the observ"),
    "long part": (_BOTH, {"a": _A, "b": _B}, {"a": _A, "b": _A}, "part 'b' of the observation: ob"),
    "no part": (_BOTH, {"a": _A, "b": _B}, {"a": _A}, "observation {'a': array([0., 0., 0.])}: th"),
    "more parts": (_BOTH, {"a": _A, "b": _B}, {"a": _A, "b": _B, "c": 1}, "observation {'a'"),
    "no dict": (_BOTH, {"a": _A, "b": _B}, ["a", "b"], "observation ['a', 'b']: this policy takes"),
    "short tuple": (gym.spaces.Tuple([_BOX, _BOX]), (_B, _B), (_B,), "observation (array([0., 0."),
    "one bit": (gym.spaces.MultiBinary(4), np.ones(4), np.ones(1), "observation of shape (1,)"),
    "no bit": (gym.spaces.MultiBinary(2), np.ones(2), np.array([0, 2]), "observation array([0, 2]"),
    "one choice": (gym.spaces.MultiDiscrete([2, 3]), _B.astype(int), np.zeros(1, int), "observati"),
    "no choice": (gym.spaces.MultiDiscrete([2, 3]), _B.astype(int), np.array([0, 3]), "observatio"),
}  # fmt: skip
"""By name: a space, an observation of it, one that is none, and how the error begins."""

gym.register("OwnWords-v0", entry_point=OwnWords, max_episode_steps=10)
gym.register("Shown-v0", entry_point=Shown, max_episode_steps=10)
