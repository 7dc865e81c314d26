"""The native engine's check of itself: a few steps beside the environment, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from es_rl.envs.mujoco.engine import MujocoEngine
from es_rl.envs.mujoco.quiet import quiet

__all__ = ["NotReproducedError", "first_difference"]


class NotReproducedError(ValueError):
    """The native engine's bits are not those of the environment on this machine."""


def first_difference(env: Any, engine: MujocoEngine, n_steps: int = 3) -> str | None:
    """Step `engine` and the environment it was made from side by side.

    Both start from one seed and take the same `n_steps` random actions. The engine's rows are
    lost; `env` is the unwrapped environment, which is left in the middle of an episode.

    Returns:
        What differs first, None if nothing does.
    """
    row, seed = np.zeros(1, np.int64), 0
    rng = np.random.default_rng(seed)
    engine.allocate(1)
    try:
        with quiet():
            expected, _ = env.reset(seed=seed)
            engine.reset(row, np.array([seed], np.uint64))
            if not _same(engine.observe(row)[0], expected):
                return "the observation after a reset"
            for step in range(1, n_steps + 1):
                action = rng.uniform(-1.0, 1.0, engine.n_action)
                expected, reward, terminated, _, _ = env.step(action)
                observations, rewards, ended, _ = engine.step(row, action[None])
                for name, ours, theirs in (
                    ("observation", observations[0], expected),
                    ("reward", rewards[0], reward),
                    ("termination", ended[0], terminated),
                ):
                    if not _same(ours, theirs):
                        return f"the {name} of step {step}"
    finally:
        engine.close()
    return None


def _same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours, theirs, equal_nan=True)
