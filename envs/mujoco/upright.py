"""Hopper and Walker2d: run forward while the torso stays in its healthy range."""

from __future__ import annotations

import functools
from typing import Any

import numba

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.family import Setup, uniform_start
from es_rl.envs.mujoco.fields import field, observe_state, parameters
from es_rl.envs.mujoco.numerics import action_cost

_SKIPPED, _DT, _FORWARD, _CONTROL, _HEALTHY, _TERMINATES, _PAID_ALWAYS = range(7)
_MIN_Z, _MAX_Z, _MIN_ANGLE, _MAX_ANGLE, _BOUNDS_STATE, _MIN_STATE, _MAX_STATE = range(7, 14)


def hopper(env: Any, version: int) -> Setup:
    """Read a HopperEnv."""
    return _setup(env, version, (True, *env._healthy_state_range))


def walker2d(env: Any, version: int) -> Setup:
    """Read a Walker2dEnv, which does not bound the rest of the state."""
    return _setup(env, version, (False, 0.0, 0.0))


def _setup(env: Any, version: int, state_range: tuple[float, float, float]) -> Setup:
    skipped = 1 if env._exclude_current_positions_from_observation else 0
    terminates = bool(env._terminate_when_unhealthy)
    return Setup(
        compile_kernel=_compile,
        parameters=(
            skipped,
            env.dt,
            env._forward_reward_weight,
            env._ctrl_cost_weight,
            env._healthy_reward,
            terminates,
            # version 4 pays the healthy reward for the unhealthy step that terminates, too
            version == 4 and terminates,
            *env._healthy_z_range,
            *env._healthy_angle_range,
            *state_range,
        ),
        n_observation=env.model.nq - skipped + env.model.nv,
        start=uniform_start(env, env._reset_noise_scale),
        n_previous=1,
    )


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    observe_state(simulation, int(parameters(simulation)[_SKIPPED]), 10.0, observation)


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    previous[0] = field(simulation, 0, 1)[0]


@numba.njit(error_model="numpy", nogil=True)
def _is_healthy(simulation, p):  # type: ignore[no-untyped-def]
    a = simulation.arguments
    qpos, qvel = field(simulation, 0, a.nq), field(simulation, a.qvel, a.nv)
    healthy = p[_MIN_Z] < qpos[1] < p[_MAX_Z] and p[_MIN_ANGLE] < qpos[2] < p[_MAX_ANGLE]
    if p[_BOUNDS_STATE] != 0.0:
        for i in range(2, a.nq):
            healthy &= p[_MIN_STATE] < qpos[i] < p[_MAX_STATE]
        for i in range(a.nv):
            healthy &= p[_MIN_STATE] < qvel[i] < p[_MAX_STATE]
    return healthy


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    p = parameters(simulation)
    x = field(simulation, 0, 1)[0]
    forward_reward = p[_FORWARD] * ((x - previous[0]) / p[_DT])
    previous[0] = x
    healthy = _is_healthy(simulation, p)
    paid = 1.0 if healthy or p[_PAID_ALWAYS] != 0.0 else 0.0
    gain = (
        forward_reward
        + paid * p[_HEALTHY]
        - action_cost(p[_CONTROL], action, simulation.arguments.single)
    )
    return gain, not healthy and p[_TERMINATES] != 0.0


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def upright_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return upright_runner
