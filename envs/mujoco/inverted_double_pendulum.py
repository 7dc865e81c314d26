"""InvertedDoublePendulum: a bonus a step, minus distance and velocity penalties."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.family import Setup, normal_velocity_start
from es_rl.envs.mujoco.fields import field, parameters
from es_rl.envs.mujoco.numerics import clip, square_by_power

_ALIVE, _PAID_ALWAYS, _N_FORCES, _TWO = range(4)


def inverted_double_pendulum(env: Any, version: int) -> Setup:
    """Read an InvertedDoublePendulumEnv.

    Version 4 pays the bonus for the step that terminates, too, and shows the constraint forces of
    all joints, version 5 of the first.
    """
    model = env.model
    n_forces = model.nv if version == 4 else 1
    return Setup(
        compile_kernel=_compile,
        parameters=(10.0 if version == 4 else env._healthy_reward, version == 4, n_forces, 2.0),
        n_observation=1 + 2 * (model.nq - 1) + model.nv + n_forces,
        start=normal_velocity_start(env, 0.1 if version == 4 else env._reset_noise_scale),
        carries_observation=True,
        arithmetic=("np.sin", "np.cos", "power"),
    )


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    a = simulation.arguments
    qpos, qvel = field(simulation, 0, a.nq), field(simulation, a.qvel, a.nv)
    forces = field(simulation, a.qfrc_constraint, a.nv)
    n_angles = a.nq - 1
    observation[0] = qpos[0]
    for i in range(n_angles):
        observation[1 + i] = math.sin(qpos[1 + i])
        observation[1 + n_angles + i] = math.cos(qpos[1 + i])
    used = 1 + 2 * n_angles
    for i in range(a.nv):
        observation[used + i] = clip(qvel[i], -10.0, 10.0)
    for i in range(int(parameters(simulation)[_N_FORCES])):
        observation[used + a.nv + i] = clip(forces[i], -10.0, 10.0)


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    pass


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    tip = field(simulation, a.site_xpos, 3)
    qvel = field(simulation, a.qvel, 3)
    two = p[_TWO]
    distance = 0.01 * square_by_power(tip[0], two) + square_by_power(tip[2] - 2.0, two)
    velocity = 1e-3 * square_by_power(qvel[1], two) + 5e-3 * square_by_power(qvel[2], two)
    terminated = tip[2] <= 1.0
    paid = 1.0 if not terminated or p[_PAID_ALWAYS] != 0.0 else 0.0
    return p[_ALIVE] * paid - distance - velocity, terminated


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def inverted_double_pendulum_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return inverted_double_pendulum_runner
