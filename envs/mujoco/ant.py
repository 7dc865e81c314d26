"""Ant: forward velocity of its main body, minus control and contact costs."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.family import Setup, normal_velocity_start
from es_rl.envs.mujoco.fields import field, observe_state, parameters
from es_rl.envs.mujoco.numerics import action_cost, clip, sum_of_clipped_squares

_SKIPPED, _DT, _FORWARD, _CONTROL, _CONTACT, _HEALTHY, _TERMINATES, _PAID_ALWAYS = range(8)
_MIN_Z, _MAX_Z, _MIN_FORCE, _MAX_FORCE, _MAIN_BODY, _COSTS_CONTACT = range(8, 14)
_SHOWS_CONTACT, _FIRST_BODY = range(14, 16)


def ant(env: Any, version: int) -> Setup:
    """Read an AntEnv.

    Version 4 has contact forces, all or none, with `use_contact_forces`; version 5 always charges
    them, and shows them, without the world's own, with `include_cfrc_ext_in_observation`.
    """
    model = env.model
    skipped = 2 if env._exclude_current_positions_from_observation else 0
    terminates = bool(env._terminate_when_unhealthy)
    if version == 4:
        shows = costs = bool(env._use_contact_forces)
        forward, main_body, first_body = 1.0, env.data.body("torso").id, 0
    else:
        shows, costs = bool(env._include_cfrc_ext_in_observation), True
        forward, first_body = env._forward_reward_weight, 1
        main_body = env.data.body(env._main_body).id
    return Setup(
        compile_kernel=_compile,
        parameters=(
            skipped,
            env.dt,
            forward,
            env._ctrl_cost_weight,
            env._contact_cost_weight,
            env._healthy_reward,
            terminates,
            # version 4 pays the healthy reward for the unhealthy step that terminates, too
            version == 4 and terminates,
            *env._healthy_z_range,
            *env._contact_force_range,
            main_body,
            costs,
            shows,
            first_body,
        ),
        n_observation=model.nq - skipped + model.nv + 6 * (model.nbody - first_body) * shows,
        start=normal_velocity_start(env, env._reset_noise_scale),
        n_previous=1,
        carries_observation=shows,
        # the body's position lags one substep behind the joints', so it is not in the state
        carries_previous=True,
        rne_post=shows or costs,
    )


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    skipped = int(p[_SKIPPED])
    observe_state(simulation, skipped, math.inf, observation)
    if p[_SHOWS_CONTACT] != 0.0:
        forces = field(simulation, a.cfrc_ext, 6 * a.nbody)
        first, used = 6 * int(p[_FIRST_BODY]), a.nq - skipped + a.nv
        for i in range(first, forces.size):
            observation[used + i - first] = clip(forces[i], p[_MIN_FORCE], p[_MAX_FORCE])


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    a = simulation.arguments
    body = int(parameters(simulation)[_MAIN_BODY])
    previous[0] = field(simulation, a.xpos, 3 * a.nbody)[3 * body]


@numba.njit(error_model="numpy", nogil=True)
def _is_healthy(simulation, p):  # type: ignore[no-untyped-def]
    a = simulation.arguments
    qpos, qvel = field(simulation, 0, a.nq), field(simulation, a.qvel, a.nv)
    healthy = p[_MIN_Z] <= qpos[2] <= p[_MAX_Z]
    for i in range(a.nq):
        healthy &= math.isfinite(qpos[i])
    for i in range(a.nv):
        healthy &= math.isfinite(qvel[i])
    return healthy


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    a, p = simulation.arguments, parameters(simulation)
    before = previous[0]
    _mark(simulation, previous)
    forward_reward = (previous[0] - before) / p[_DT] * p[_FORWARD]
    healthy = _is_healthy(simulation, p)
    paid = 1.0 if healthy or p[_PAID_ALWAYS] != 0.0 else 0.0
    costs = action_cost(p[_CONTROL], action, simulation.arguments.single)
    if p[_COSTS_CONTACT] != 0.0:
        forces = field(simulation, a.cfrc_ext, 6 * a.nbody)
        costs += p[_CONTACT] * sum_of_clipped_squares(forces, p[_MIN_FORCE], p[_MAX_FORCE])
    gain = forward_reward + paid * p[_HEALTHY] - costs
    return gain, not healthy and p[_TERMINATES] != 0.0


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def ant_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return ant_runner
