"""Small environments for tests, in a module that worker processes import quickly."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from gymnasium.wrappers import FlattenObservation, TransformReward


class Line(gym.Env):
    """x ← x + action from a random start in [1, 2); the reward is −x². Leaving ±limit ends it.

    Counts its steps and its ends, over all processes, as bytes in the files `count` and `closed`,
    and can be told to fail in one way at one step of episodes with one seed.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, limit=np.inf, count=None, closed=None, fail=None, at=3, seed=None):
        self.limit, self.count, self.closed = limit, count, closed
        self.fail, self.at, self.bad_seed = fail, at, seed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.failing = self.fail if seed == self.bad_seed else None
        if self.failing == "raise in reset":
            raise ValueError("boom")
        self.x, self.steps = 1.0 + self.np_random.random(), 0
        return np.array([self.x]), {}

    def step(self, action):
        if self.count is not None:
            with open(self.count, "ab") as stream:
                stream.write(b".")
        self.steps += 1
        self.x += float(action[0])
        reward: Any = -(self.x**2)
        observation = np.array([self.x])
        if self.steps == self.at:
            match self.failing:
                case "raise":
                    raise ValueError("boom")
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang":
                    time.sleep(60)
                case "reward":
                    reward = np.array([reward])
                case "text":
                    reward = "1.0"
                case "nan" | "inf":
                    reward = -float(self.failing)
                case "observation":
                    observation = np.zeros(2)
        return observation, reward, abs(self.x) > self.limit, False, {}

    def close(self):
        if self.closed is not None:
            with open(self.closed, "ab") as stream:
                stream.write(b".")


class Cyclic(EzPickle, gym.Env):
    """Keeps its state where careless copies lose it: in views, closures and behind EzPickle."""

    observation_space = gym.spaces.Dict(
        {"x": gym.spaces.Box(-np.inf, np.inf, (2,)), "phase": gym.spaces.Discrete(3)}
    )
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self, start=1.0):
        EzPickle.__init__(self, start)
        self.state = np.full((3, 2), start)
        self.last = self.state[::-1, :].T[:, 0]
        self.phase = 0
        self.generator = random.Random(0)

        def push(amount):
            self.last += amount + self.generator.random()
            return push

        self.push = push

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.generator.seed(seed)
        self.state[:] = self.np_random.random((3, 2))
        self.phase = 0
        return self.look(), {}

    def look(self):
        return {"x": self.state[2], "phase": self.phase}

    def step(self, action):
        self.push(action[0])
        self.phase = (self.phase + 1) % 3
        return self.look(), float(self.state.sum() + self.np_random.random()), False, False, {}


class Locked(Line):
    """Holds what nobody can copy."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Foreign(Line):
    """Its reward depends on randomness that does not come from its seed."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + random.random(), *rest


class Thrown(gym.Wrapper):
    """Throws the robot away in step 3 of episodes with seed 11; MuJoCo then resets it silently."""

    def reset(self, *, seed=None, options=None):
        self.fate = 3 if seed == 11 else -1
        start = self.env.reset(seed=seed)
        # as an environment leaves it that does not reset all of MuJoCo's data
        self.unwrapped.data.warning.number[4] = 1
        return start

    def step(self, action):
        self.fate -= 1
        if self.fate == 0:
            self.unwrapped.data.qvel[0] = 1e12
        return self.env.step(action)


def make_thrown():
    return Thrown(gym.make("HalfCheetah-v4"))


gym.register("Line-v0", entry_point=Line, max_episode_steps=20)
gym.register("Cyclic-v0", entry_point=Cyclic)


def make_wrapped():
    """Return an environment with closures in its wrappers."""
    env = FlattenObservation(Cyclic())
    return TransformReward(env, lambda reward: reward * (1 + env.unwrapped.phase))
