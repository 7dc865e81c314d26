"""Humanoid: forward velocity of the centre of mass, minus control and contact costs."""

from __future__ import annotations

import functools
from typing import Any

import numba

from es_rl.envs.mujoco import humanoid_body, kernel
from es_rl.envs.mujoco.family import Setup, uniform_start
from es_rl.envs.mujoco.fields import doubles, field, parameters
from es_rl.envs.mujoco.humanoid_body import N_SHARED, observe, observed
from es_rl.envs.mujoco.numerics import clip, sum_of_squares, weighted_mean

_DT, _FORWARD, _CONTROL, _HEALTHY, _TERMINATES, _PAID_ALWAYS, _MIN_Z, _MAX_Z = range(
    N_SHARED, N_SHARED + 8
)
_COSTS_CONTACT, _CONTACT, _MIN_COST, _MAX_COST, _MASS = range(N_SHARED + 8, N_SHARED + 13)


def humanoid(env: Any, version: int) -> Setup:
    """Read a HumanoidEnv; only version 5 charges contact forces."""
    shared, n_observation, carries_observation = observed(env, version)
    terminates = bool(env._terminate_when_unhealthy)
    contact = (False, 0.0, 0.0, 0.0)
    if version == 5:
        contact = (True, env._contact_cost_weight, *env._contact_cost_range)
    return Setup(
        compile_kernel=_compile,
        parameters=(
            *shared,
            env.dt,
            env._forward_reward_weight,
            env._ctrl_cost_weight,
            env._healthy_reward,
            terminates,
            # version 4 pays the healthy reward for the unhealthy step that terminates, too
            version == 4 and terminates,
            *env._healthy_z_range,
            *contact,
            env.model.body_mass.sum(),
        ),
        n_observation=n_observation,
        start=uniform_start(env, env._reset_noise_scale),
        n_previous=1,
        carries_observation=carries_observation,
        # the bodies' positions lag one substep behind the joints', so they are not in the state
        carries_previous=True,
        rne_post=True,
        arithmetic=("np.sum", "np.einsum"),
    )


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    a = simulation.arguments
    masses = doubles(a.body_mass, a.nbody)
    centres = field(simulation, a.xipos, 3 * a.nbody)
    mass = parameters(simulation)[_MASS]
    previous[0] = weighted_mean(masses, centres, 0, mass, a.fused_weighted != 0)


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    before = previous[0]
    _mark(simulation, previous)
    forward_reward = p[_FORWARD] * ((previous[0] - before) / p[_DT])
    healthy = p[_MIN_Z] < field(simulation, 0, 3)[2] < p[_MAX_Z]
    paid = 1.0 if healthy or p[_PAID_ALWAYS] != 0.0 else 0.0
    # of the controls, not the action: MuJoCo zeroes controls that are not finite
    costs = p[_CONTROL] * sum_of_squares(field(simulation, a.ctrl, a.nu))
    if p[_COSTS_CONTACT] != 0.0:
        squares = sum_of_squares(field(simulation, a.cfrc_ext, 6 * a.nbody))
        costs += clip(p[_CONTACT] * squares, p[_MIN_COST], p[_MAX_COST])
    gain = forward_reward + paid * p[_HEALTHY] - costs
    return gain, not healthy and p[_TERMINATES] != 0.0


_run = kernel.runner(observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__, humanoid_body.__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def humanoid_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return humanoid_runner
