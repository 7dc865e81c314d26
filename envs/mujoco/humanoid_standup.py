"""HumanoidStandup: height, minus control and impact costs; never terminates."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba

from es_rl.envs.mujoco import humanoid_body, kernel
from es_rl.envs.mujoco.family import Setup, uniform_start
from es_rl.envs.mujoco.fields import field, parameters
from es_rl.envs.mujoco.humanoid_body import N_SHARED, observe, observed
from es_rl.envs.mujoco.numerics import clip, sum_of_squares

_TIMESTEP, _CONTROL, _IMPACT, _MIN_COST, _MAX_COST = range(N_SHARED, N_SHARED + 5)


def humanoid_standup(env: Any, version: int) -> Setup:
    """Read a HumanoidStandupEnv; version 4 has no keyword arguments of its own."""
    shared, n_observation, carries_observation = observed(env, version)
    if version == 4:
        scale, costs = 0.01, (0.1, 0.5e-6, -math.inf, 10.0)
    else:
        scale = env._reset_noise_scale
        costs = (env._ctrl_cost_weight, env._impact_cost_weight, *env._impact_cost_range)
    return Setup(
        compile_kernel=_compile,
        parameters=(*shared, env.model.opt.timestep, *costs),
        n_observation=n_observation,
        start=uniform_start(env, scale),
        carries_observation=carries_observation,
        rne_post=True,
    )


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    pass


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    # of the controls, not the action: MuJoCo zeroes controls that are not finite
    control = p[_CONTROL] * sum_of_squares(field(simulation, a.ctrl, a.nu))
    squares = sum_of_squares(field(simulation, a.cfrc_ext, 6 * a.nbody))
    impact = clip(p[_IMPACT] * squares, p[_MIN_COST], p[_MAX_COST])
    height = field(simulation, 0, 3)[2]
    return height / p[_TIMESTEP] - control - impact + 1.0, False


_run = kernel.runner(observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__, humanoid_body.__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def humanoid_standup_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return humanoid_standup_runner
