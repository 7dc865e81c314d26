"""Swimmer and HalfCheetah: forward velocity minus a control cost, without an end."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.family import Setup, Start, normal_velocity_start, uniform_start
from es_rl.envs.mujoco.fields import field, observe_state, parameters
from es_rl.envs.mujoco.numerics import action_cost

_SKIPPED, _DT, _FORWARD, _CONTROL = range(4)


def swimmer(env: Any, version: int) -> Setup:
    """Read a SwimmerEnv; versions 4 and 5 compute alike."""
    return _setup(env, 2, uniform_start(env, env._reset_noise_scale))


def half_cheetah(env: Any, version: int) -> Setup:
    """Read a HalfCheetahEnv; versions 4 and 5 compute alike."""
    return _setup(env, 1, normal_velocity_start(env, env._reset_noise_scale))


def _setup(env: Any, n_coordinates: int, start: Start) -> Setup:
    skipped = n_coordinates if env._exclude_current_positions_from_observation else 0
    return Setup(
        compile_kernel=_compile,
        parameters=(skipped, env.dt, env._forward_reward_weight, env._ctrl_cost_weight),
        n_observation=env.model.nq - skipped + env.model.nv,
        start=start,
        n_previous=1,
    )


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    observe_state(simulation, int(parameters(simulation)[_SKIPPED]), math.inf, observation)


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    previous[0] = field(simulation, 0, 1)[0]


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    p = parameters(simulation)
    x = field(simulation, 0, 1)[0]
    forward_reward = p[_FORWARD] * ((x - previous[0]) / p[_DT])
    previous[0] = x
    return forward_reward - action_cost(p[_CONTROL], action, simulation.arguments.single), False


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def forward_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return forward_runner
