"""InvertedPendulum: one a step while the pole stands."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.family import Setup, uniform_start
from es_rl.envs.mujoco.fields import observe_state, parameters

_PAID_ALWAYS = 0


def inverted_pendulum(env: Any, version: int) -> Setup:
    """Read an InvertedPendulumEnv; version 4 pays for the step that terminates, too."""
    return Setup(
        compile_kernel=_compile,
        parameters=(version == 4,),
        n_observation=env.model.nq + env.model.nv,
        start=uniform_start(env, 0.01 if version == 4 else env._reset_noise_scale),
        arithmetic=(),
    )


@numba.njit(error_model="numpy", nogil=True)
def _observe(simulation, observation):  # type: ignore[no-untyped-def]
    observe_state(simulation, 0, math.inf, observation)


@numba.njit(error_model="numpy", nogil=True)
def _mark(simulation, previous):  # type: ignore[no-untyped-def]
    pass


@numba.njit(error_model="numpy", nogil=True)
def _reward(simulation, action, previous, observation):  # type: ignore[no-untyped-def]
    terminated = abs(observation[1]) > 0.2
    for i in range(observation.size):
        terminated |= not math.isfinite(observation[i])
    paid = not terminated or parameters(simulation)[_PAID_ALWAYS] != 0.0
    return 1.0 if paid else 0.0, terminated


_run = kernel.runner(_observe, _mark, _reward)


@functools.cache
def _compile() -> Any:
    digest = kernel.sources_digest(__file__)

    @numba.cfunc(kernel.SIGNATURE, cache=True)
    def inverted_pendulum_runner(model, data, row, argument):  # type: ignore[no-untyped-def]
        _run(model, data, row, argument, digest)

    return inverted_pendulum_runner
