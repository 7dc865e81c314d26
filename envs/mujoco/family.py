"""What an environment family tells the engine about one environment, and its random starts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["Setup", "Start", "normal_velocity_start", "uniform_start"]

Start = Callable[[Generator, NDArray[np.float64]], None]
"""Draws one start, positions then velocities, into a (nq + nv,) float64 array."""

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Setup:
    """One environment as its family's kernel takes it.

    Attributes:
        compile_kernel: compiles the family's kernel, or loads it from Numba's cache; its
            `address` is what MuJoCo's batch engine calls.
        parameters: numbers that the compiled functions read, in the family's own order.
        n_observation: length of the observation.
        start: draws a new episode's start exactly as the environment's `reset_model` does; can be
            pickled.
        n_previous: how many numbers of the state before a step its reward needs.
        carries_observation: whether the observation reads quantities that MuJoCo derives and does
            not keep in a simulation's state, so that it must be kept beside it.
        carries_previous: the same for what the reward needs of the state before a step.
        rne_post: whether something reads the contact forces of `mj_rnePostConstraint`.
        arithmetic: operations of NumPy, by the names in `numerics.probe`, that it depends on.
    """

    compile_kernel: Callable[[], Any]
    parameters: tuple[float, ...]
    n_observation: int
    start: Start
    n_previous: int = 0
    carries_observation: bool = False
    carries_previous: bool = False
    rne_post: bool = False
    arithmetic: tuple[str, ...] = ("np.sum",)


def uniform_start(env: Any, scale: float) -> Start:
    """Return the start whose positions and velocities get noise, uniform in ±`scale`."""
    return functools.partial(_uniform, env.init_qpos, env.init_qvel, scale)


def normal_velocity_start(env: Any, scale: float) -> Start:
    """Return the start with uniform noise on positions and normal noise on velocities."""
    return functools.partial(_normal_velocity, env.init_qpos, env.init_qvel, scale)


# functions of the module, as one made inside another cannot be pickled


def _uniform(qpos: _Values, qvel: _Values, scale: float, rng: Generator, out: _Values) -> None:
    nq, nv = qpos.size, qvel.size
    out[:nq] = qpos + rng.uniform(-scale, scale, nq)
    out[nq:] = qvel + rng.uniform(-scale, scale, nv)


def _normal_velocity(
    qpos: _Values, qvel: _Values, scale: float, rng: Generator, out: _Values
) -> None:
    nq, nv = qpos.size, qvel.size
    out[:nq] = qpos + rng.uniform(-scale, scale, nq)
    out[nq:] = qvel + scale * rng.standard_normal(nv)
