"""Reacher: minus the distance of the fingertip to its target, and a control cost."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.family import Setup
from es_rl.envs.mujoco.fields import field, parameters
from es_rl.envs.mujoco.numerics import action_cost, inner

_FINGERTIP, _TARGET, _DISTANCE, _CONTROL, _BEFORE, _N_SHOWN = range(6)


def reacher(env: Any, version: int) -> Setup:
    """Read a ReacherEnv.

    Version 4 pays for the distance before the step, and shows all of its three coordinates;
    version 5 for the one after it, and shows two.
    """
    weights = (1.0, 1.0)
    if version == 5:
        weights = (env._reward_dist_weight, env._reward_control_weight)
    n_shown = 3 if version == 4 else 2
    return Setup(
        compile_kernel=_compile,
        parameters=(
            env.data.body("fingertip").id,
            env.data.body("target").id,
            *weights,
            version == 4,
            n_shown,
        ),
        n_observation=4 + (env.model.nq - 2) + 2 + n_shown,
        start=functools.partial(_start, env.init_qpos, env.init_qvel),
        n_previous=3,
        carries_observation=True,
        carries_previous=True,
        arithmetic=("np.sum", "np.sin", "np.cos", "np.dot"),
    )


def _start(
    qpos: NDArray[np.float64],
    qvel: NDArray[np.float64],
    rng: np.random.Generator,
    out: NDArray[np.float64],
) -> None:
    nq, nv = qpos.size, qvel.size
    out[:nq] = rng.uniform(low=-0.1, high=0.1, size=nq) + qpos
    while True:
        goal = rng.uniform(low=-0.2, high=0.2, size=2)
        if np.linalg.norm(goal) < 0.2:
            break
    out[nq - 2 : nq] = goal
    out[nq:] = qvel + rng.uniform(low=-0.005, high=0.005, size=nv)
    out[-2:] = 0.0


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    positions = field(simulation, a.xpos, 3 * a.nbody)
    fingertip, target = 3 * int(p[_FINGERTIP]), 3 * int(p[_TARGET])
    for i in range(3):
        previous[i] = positions[fingertip + i] - positions[target + i]


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    qpos, qvel = field(simulation, 0, a.nq), field(simulation, a.qvel, a.nv)
    for i in range(2):
        observation[i] = math.cos(qpos[i])
        observation[2 + i] = math.sin(qpos[i])
        observation[2 + a.nq + i] = qvel[i]
    for i in range(2, a.nq):
        observation[2 + i] = qpos[i]
    positions = field(simulation, a.xpos, 3 * a.nbody)
    fingertip, target = 3 * int(p[_FINGERTIP]), 3 * int(p[_TARGET])
    for i in range(int(p[_N_SHOWN])):
        observation[4 + a.nq + i] = positions[fingertip + i] - positions[target + i]


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    before = math.sqrt(inner(previous, a.fused_inner != 0))
    _mark(simulation, previous)
    after = math.sqrt(inner(previous, a.fused_inner != 0))
    distance = before if p[_BEFORE] != 0.0 else after
    return -distance * p[_DISTANCE] + -action_cost(
        p[_CONTROL], action, simulation.arguments.single
    ), False


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def reacher_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return reacher_runner
