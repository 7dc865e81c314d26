"""The compiled loop that every environment family shares: a whole window of one row.

MuJoCo's batch engine calls the kernel once a row, on its own threads, between loading the row's
state into an mjData and saving it. Everything that the kernel needs comes in one record.

A family gives three compiled functions, with `simulation` a `Simulation`:

* `observe(simulation, observation)` writes the observation of the present state;
* `mark(simulation, previous)` keeps what the next reward needs of the state before the step;
* `reward(simulation, action, previous, observation) -> (reward, terminated)` judges the step just
  taken, whose observation is in place, and marks `previous` for the next one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

import es_rl.elementary
import es_rl.lanes
import es_rl.policy_kernels
from es_rl.envs.mujoco import fields, numerics
from es_rl.envs.mujoco.fields import ARGUMENTS, Simulation, doubles, field, integers
from es_rl.envs.mujoco.library import register_symbols
from es_rl.policy_kernels import accumulate, forward, normalize, squash
from es_rl.sources import digest

__all__ = [
    "OBSERVE",
    "RESET",
    "SIGNATURE",
    "STEP",
    "WINDOW",
    "runner",
    "source_files",
    "sources_digest",
]

register_symbols()

WINDOW, STEP, RESET, OBSERVE = 0, 1, 2, 3

SIGNATURE = types.void(
    types.int64, types.int64, types.int32, types.CPointer(numba.from_dtype(ARGUMENTS))
)
"""`mjfBatchFunc`: model, data, simulation (the row) and argument."""

_mj_step = types.ExternalFunction("mj_step", types.void(types.int64, types.int64))
_mj_forward = types.ExternalFunction("mj_forward", types.void(types.int64, types.int64))
_mj_reset_data = types.ExternalFunction("mj_resetData", types.void(types.int64, types.int64))
_mju_malloc = types.ExternalFunction("mju_malloc", types.int64(types.int64))
_mju_free = types.ExternalFunction("mju_free", types.void(types.int64))
_mj_rne_post = types.ExternalFunction("mj_rnePostConstraint", types.void(types.int64, types.int64))

# a warning counter that stands at one keeps MuJoCo from printing; any change tells a new warning
_ARMED = np.int64((1 << 32) | 0xFFFFFFFF)
_FIRST_BAD, _LAST_BAD = 3, 6  # mjWARN_BADQPOS, BADQVEL, BADQACC, BADCTRL


@numba.njit(error_model="numpy", nogil=True)
def _advance(model, data, simulation, action):  # type: ignore[no-untyped-def]
    """Take one environment step; return whether the simulation diverged in it.

    MuJoCo resets a simulation that diverges without telling, except by its warning counters.
    """
    a = simulation.arguments
    ctrl = field(simulation, a.ctrl, a.nu)
    for i in range(a.nu):
        ctrl[i] = action[i]
    warnings = integers(data + a.at_warnings, a.n_warnings)
    for i in range(a.n_warnings):
        warnings[i] = _ARMED
    for _ in range(a.frame_skip):
        _mj_step(model, data)
    if a.rne_post != 0:
        _mj_rne_post(model, data)
    diverged = False
    for i in range(_FIRST_BAD, _LAST_BAD + 1):
        diverged |= warnings[i] != _ARMED
    return diverged


def runner(observe: Any, mark: Any, reward: Any) -> Any:
    """Return the compiled `run(model, data, row, argument, digest)` of one family."""

    @numba.njit(error_model="numpy", nogil=True)
    def run(model, data, row, argument, digest):  # type: ignore[no-untyped-def]
        """Do what the record's `mode` asks for on one row.

        WINDOW: at most n_steps[place] steps under the row's own policy, stopping after
        termination, after a loss that is not finite, and after divergence, whose loss is NaN.
        STEP: one step under a given action. RESET: a new episode from given positions and
        velocities. OBSERVE: nothing but the observation. `digest` is part of the cache key and no
        more, see `sources_digest`.
        """
        a = numba.carray(argument, 1)[0]
        base = integers(data + a.at_qpos, 1)[0]
        simulation = Simulation(base, a)
        place = integers(a.place_of_row, row + 1)[row]

        n_observation, n_previous = a.n_observation, a.n_previous
        # not np.empty: code from Numba's cache may run before Numba's own allocator is set up
        scratch_size = 2 * n_observation + n_previous + a.nu + a.n_scratch
        scratch_address = _mju_malloc(8 * scratch_size)
        scratch = doubles(scratch_address, scratch_size)
        memory = a.memory + 8 * row * a.n_memory
        if a.carries_observation != 0:
            observation = doubles(memory, n_observation)
            memory += 8 * n_observation
        else:
            observation = scratch[:n_observation]
        if a.carries_previous != 0:
            previous = doubles(memory, n_previous)
        else:
            previous = scratch[n_observation : n_observation + n_previous]

        if a.mode == RESET:
            _mj_reset_data(model, data)
            warnings = integers(data + a.at_warnings, a.n_warnings)
            for i in range(a.n_warnings):
                warnings[i] = _ARMED
            size = a.nq + a.nv
            start = integers(a.start_of_place, place + 1)[place]
            values = doubles(a.starts + 8 * start * size, size)
            qpos, qvel = field(simulation, 0, a.nq), field(simulation, a.qvel, a.nv)
            for i in range(a.nq):
                qpos[i] = values[i]
            for i in range(a.nv):
                qvel[i] = values[a.nq + i]
            _mj_forward(model, data)
        if a.mode == RESET or a.carries_observation == 0:
            observe(simulation, observation)
        if a.mode == RESET or a.carries_previous == 0:
            mark(simulation, previous)

        if a.mode == WINDOW:
            theta = doubles(a.thetas + 8 * place * a.num_params, a.num_params)
            sizes = integers(a.sizes, a.n_sizes)
            low, high = doubles(a.low, a.nu), doubles(a.high, a.nu)
            used = n_observation + n_previous
            action = scratch[used : used + a.nu]
            layers = scratch[used + a.nu : used + a.nu + a.n_scratch]
            seen, bound = observation, 0.0
            mean = scale = center = moments = scratch[:0]
            if a.normalize != 0:
                seen = scratch[scratch_size - n_observation :]
                bound = doubles(a.observation_bound, 1)[0]
                mean = doubles(a.means + 8 * row * n_observation, n_observation)
                scale = doubles(a.scales + 8 * row * n_observation, n_observation)
                center = doubles(a.center, n_observation)
                moments = doubles(a.moments + 16 * row * n_observation, 2 * n_observation)
            n_steps = integers(a.n_steps, place + 1)[place]
            loss, steps, ended = 0.0, 0, 0
            while steps < n_steps:
                if a.normalize != 0:
                    accumulate(observation, center, moments)
                    normalize(observation, mean, scale, bound, seen)
                forward(theta, sizes, a.has_bias != 0, a.activation, seen, layers, action)
                if a.clip != 0:
                    for i in range(a.nu):
                        action[i] = numerics.clip(action[i], low[i], high[i])
                if a.squash != 0:
                    squash(action, low, high)
                diverged = _advance(model, data, simulation, action)
                steps += 1
                observe(simulation, observation)
                gain, terminated = reward(simulation, action, previous, observation)
                loss -= gain
                if diverged:
                    loss = np.nan
                if not np.isfinite(loss):
                    break
                if terminated:
                    ended = 1
                    break
            doubles(a.loss_sum, place + 1)[place] = loss
            integers(a.steps_taken, place + 1)[place] = steps
            integers(a.ended, place + 1)[place] = ended
        elif a.mode == STEP:
            action = doubles(a.actions + 8 * place * a.nu, a.nu)
            diverged = _advance(model, data, simulation, action)
            observe(simulation, observation)
            gain, terminated = reward(simulation, action, previous, observation)
            doubles(a.rewards, place + 1)[place] = gain
            integers(a.terminated, place + 1)[place] = terminated
            integers(a.diverged, place + 1)[place] = diverged
        if a.mode == STEP or a.mode == OBSERVE:
            target = doubles(a.observations + 8 * place * n_observation, n_observation)
            for i in range(n_observation):
                target[i] = observation[i]
        _mju_free(scratch_address)

    return run


def source_files(*family_files: str) -> tuple[str, ...]:
    """Return every source file that a family's kernel is compiled from."""
    shared = (es_rl.elementary, es_rl.lanes, es_rl.policy_kernels, numerics, fields)
    return (*(str(module.__file__) for module in shared), __file__, *family_files)


def sources_digest(*family_files: str) -> int:
    """Return a digest of `source_files`, which a kernel keeps in its cache key."""
    return digest(*source_files(*family_files))
