"""What compiled environments see of a simulation: one record of sizes, flags and addresses.

The functions here turn addresses into arrays. A family's code reaches the fields of MuJoCo's
mjData through `field`, its own parameters through `parameters`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from es_rl.envs.mujoco.numerics import clip

__all__ = [
    "ARGUMENTS",
    "Simulation",
    "doubles",
    "field",
    "integers",
    "observe_state",
    "parameters",
]

ARGUMENTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "mode",
            # the model and the fields of mjData: struct offsets, then offsets from qpos, in bytes
            *("frame_skip", "rne_post", "nq", "nv", "nu", "nbody", "n_warnings"),
            *("at_qpos", "at_warnings", "qvel", "ctrl", "xpos", "xipos", "site_xpos", "cinert"),
            *("cvel", "qfrc_actuator", "qfrc_constraint", "cfrc_ext"),
            # the family: addresses and lengths
            *("parameters", "n_parameters", "body_mass", "fused_inner", "fused_weighted"),
            *("n_observation", "n_previous", "carries_observation", "carries_previous"),
            # the rows: each one's place in this call, and what it carries beside its state
            *("place_of_row", "memory", "n_memory"),
            # the policy
            *("thetas", "num_params", "sizes", "n_sizes", "has_bias", "activation", "n_scratch"),
            *("clip", "squash", "low", "high"),
            # what it sees observations through, for each row, and what it sums over them
            *("normalize", "observation_bound", "means", "scales", "center", "moments"),
            # arrays of this call, in the order of its rows
            *("n_steps", "loss_sum", "steps_taken", "ended"),
            *("actions", "single", "observations", "rewards", "terminated", "diverged"),
            *("starts", "start_of_place"),
        )
    ],
    align=True,
)
"""The record that a kernel takes: sizes, flags and addresses, one 64-bit word each."""


@intrinsic
def _float64_pointer(typingctx: Any, address: Any) -> Any:
    """Return an address as a pointer to float64."""
    result = types.CPointer(types.float64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64), codegen


@intrinsic
def _int64_pointer(typingctx: Any, address: Any) -> Any:
    """Return an address as a pointer to int64."""
    result = types.CPointer(types.int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64), codegen


@numba.njit(error_model="numpy", nogil=True)
def doubles(address, length):  # type: ignore[no-untyped-def]
    """Return the (length,) float64 array at an address."""
    return numba.carray(_float64_pointer(address), (length,))


@numba.njit(error_model="numpy", nogil=True)
def integers(address, length):  # type: ignore[no-untyped-def]
    """Return the (length,) int64 array at an address."""
    return numba.carray(_int64_pointer(address), (length,))


class Simulation(NamedTuple):
    """What a family's functions see: the address of qpos in the mjData, and the record."""

    base: int
    arguments: Any


@numba.njit(error_model="numpy", nogil=True)
def field(simulation, offset, length):  # type: ignore[no-untyped-def]
    """Return a (length,) float64 field of the mjData; `offset` is in bytes from qpos."""
    return doubles(simulation.base + offset, length)


@numba.njit(error_model="numpy", nogil=True)
def parameters(simulation):  # type: ignore[no-untyped-def]
    """Return the family's (n_parameters,) float64 parameters."""
    return doubles(simulation.arguments.parameters, simulation.arguments.n_parameters)


@numba.njit(error_model="numpy", nogil=True)
def observe_state(simulation, skipped, bound, observation):  # type: ignore[no-untyped-def]
    """Write the positions but for the first `skipped`, then the velocities within ±`bound`."""
    a = simulation.arguments
    qpos, qvel = field(simulation, 0, a.nq), field(simulation, a.qvel, a.nv)
    n_positions = a.nq - skipped
    for i in range(n_positions):
        observation[i] = qpos[skipped + i]
    for i in range(a.nv):
        observation[n_positions + i] = clip(qvel[i], -bound, bound)
