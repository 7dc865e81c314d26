"""What Humanoid and HumanoidStandup observe: the state and four derived quantities."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from es_rl.envs.mujoco.fields import field, observe_state, parameters

SKIPPED, FIRST_BODY, FIRST_DOF, _INERTIA, _VELOCITY, _ACTUATORS, _FORCES = range(7)
N_SHARED = 7
"""How many parameters, the first ones, both families share."""


def observed(env: Any, version: int) -> tuple[tuple[float, ...], int, bool]:
    """Return the shared parameters, the observation's length, and whether it must be carried.

    Version 4 shows everything. Version 5 leaves out the world body and the free joint, and each
    quantity whose keyword argument is not `True` itself.
    """
    model = env.model
    if version == 4:
        excludes = getattr(env, "_exclude_current_positions_from_observation", True)
        first_body, first_dof, shown = 0, 0, (True, True, True, True)
    else:
        excludes = env._exclude_current_positions_from_observation
        first_body, first_dof = 1, 6
        shown = (
            env._include_cinert_in_observation is True,
            env._include_cvel_in_observation is True,
            env._include_qfrc_actuator_in_observation is True,
            env._include_cfrc_ext_in_observation is True,
        )
    skipped = 2 if excludes else 0
    bodies = model.nbody - first_body
    sizes = (10 * bodies, 6 * bodies, model.nv - first_dof, 6 * bodies)
    length = model.nq - skipped + model.nv + sum(np.multiply(sizes, shown))
    return (skipped, first_body, first_dof, *shown), int(length), any(shown)


@numba.njit(error_model="numpy", nogil=True)
def _append(values, first, observation, used):  # type: ignore[no-untyped-def]
    for i in range(first, values.size):
        observation[used + i - first] = values[i]
    return used + values.size - first


@numba.njit(error_model="numpy", nogil=True)
def observe(simulation, observation):  # type: ignore[no-untyped-def]
    """Write positions, velocities, and those of the derived quantities that are shown."""
    a, p = simulation.arguments, parameters(simulation)
    skipped, body = int(p[SKIPPED]), int(p[FIRST_BODY])
    observe_state(simulation, skipped, math.inf, observation)
    used = a.nq - skipped + a.nv
    if p[_INERTIA] != 0.0:
        used = _append(field(simulation, a.cinert, 10 * a.nbody), 10 * body, observation, used)
    if p[_VELOCITY] != 0.0:
        used = _append(field(simulation, a.cvel, 6 * a.nbody), 6 * body, observation, used)
    if p[_ACTUATORS] != 0.0:
        actuators = field(simulation, a.qfrc_actuator, a.nv)
        used = _append(actuators, int(p[FIRST_DOF]), observation, used)
    if p[_FORCES] != 0.0:
        _append(field(simulation, a.cfrc_ext, 6 * a.nbody), 6 * body, observation, used)
