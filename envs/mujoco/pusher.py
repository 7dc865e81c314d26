"""Pusher-v5: minus the distances arm to object and object to goal, and a control cost."""

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

_ARM, _OBJECT, _GOAL, _NEAR, _DISTANCE, _CONTROL = range(6)
_N_JOINTS = 7


def pusher(env: Any, version: int) -> Setup:
    """Read a PusherEnv of version 5; version 4 needs a MuJoCo without a batch engine."""
    return Setup(
        compile_kernel=_compile,
        parameters=(
            env.data.body("tips_arm").id,
            env.data.body("object").id,
            env.data.body("goal").id,
            env._reward_near_weight,
            env._reward_dist_weight,
            env._reward_control_weight,
        ),
        n_observation=2 * _N_JOINTS + 9,
        start=functools.partial(_start, env.init_qpos, env.init_qvel),
        n_previous=3,
        carries_observation=True,
        arithmetic=("np.sum", "np.dot"),
    )


def _start(
    qpos: NDArray[np.float64],
    qvel: NDArray[np.float64],
    rng: np.random.Generator,
    out: NDArray[np.float64],
) -> None:
    nq, nv = qpos.size, qvel.size
    while True:
        x = rng.uniform(low=-0.3, high=0.0, size=1)
        cylinder = np.concatenate([x, rng.uniform(low=-0.2, high=0.2, size=1)])
        if np.linalg.norm(cylinder) > 0.17:
            break
    out[:nq] = qpos
    out[nq - 4 : nq - 2] = cylinder
    out[nq - 2 : nq] = 0.0
    out[nq:] = qvel + rng.uniform(low=-0.005, high=0.005, size=nv)
    out[-4:] = 0.0


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    pass


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    qpos, qvel = field(simulation, 0, _N_JOINTS), field(simulation, a.qvel, _N_JOINTS)
    positions = field(simulation, a.xpos, 3 * a.nbody)
    for i in range(_N_JOINTS):
        observation[i] = qpos[i]
        observation[_N_JOINTS + i] = qvel[i]
    for i in range(3):
        observation[2 * _N_JOINTS + i] = positions[3 * int(p[_ARM]) + i]
        observation[2 * _N_JOINTS + 3 + i] = positions[3 * int(p[_OBJECT]) + i]
        observation[2 * _N_JOINTS + 6 + i] = positions[3 * int(p[_GOAL]) + i]


@numba.njit(error_model="numpy", nogil=True)
def _distance(positions, one, other, vector, fused):  # type: ignore[no-untyped-def]
    for i in range(3):
        vector[i] = positions[3 * one + i] - positions[3 * other + i]
    return math.sqrt(inner(vector, fused))


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    positions, fused = field(simulation, a.xpos, 3 * a.nbody), a.fused_inner != 0
    item = int(p[_OBJECT])
    near = -_distance(positions, item, int(p[_ARM]), previous, fused) * p[_NEAR]
    distance = -_distance(positions, item, int(p[_GOAL]), previous, fused) * p[_DISTANCE]
    return distance + -action_cost(p[_CONTROL], action, simulation.arguments.single) + near, False


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def pusher_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return pusher_runner
