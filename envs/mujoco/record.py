"""The record that an engine's kernel takes, with what is the same in every call."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.mujoco import numerics
from es_rl.envs.mujoco.family import Setup
from es_rl.envs.mujoco.fields import ARGUMENTS
from es_rl.envs.mujoco.layout import FIELDS, DataLayout

__all__ = ["record_of"]


def record_of(
    env: Any, model: mujoco.MjModel, setup: Setup
) -> tuple[NDArray[Any], tuple[NDArray[np.float64], ...]]:
    """Return the record, and the arrays whose addresses stand in it, which must be kept.

    Args:
        env: the environment to reproduce.
        model: what the engine simulates, of the same sizes.
        setup: what the environment's family says about it.
    """
    arithmetic = numerics.probe()
    layout = DataLayout(model)
    parameters = np.array(setup.parameters, np.float64)
    body_mass = np.array(env.model.body_mass, np.float64)
    record = np.zeros((), ARGUMENTS)
    for name in FIELDS:
        record[name] = layout.offset[name]
    for name, value in {
        "frame_skip": env.frame_skip,
        "rne_post": setup.rne_post,
        "nq": model.nq,
        "nv": model.nv,
        "nu": model.nu,
        "nbody": model.nbody,
        "n_warnings": layout.n_warnings,
        "at_qpos": layout.at_qpos,
        "at_warnings": layout.at_warnings,
        "parameters": parameters.ctypes.data,
        "n_parameters": parameters.size,
        "body_mass": body_mass.ctypes.data,
        "fused_inner": arithmetic.fused_inner,
        "fused_weighted": arithmetic.fused_weighted,
        "n_observation": setup.n_observation,
        "n_previous": setup.n_previous,
        "carries_observation": setup.carries_observation,
        "carries_previous": setup.carries_previous,
        "n_memory": (
            setup.n_observation * setup.carries_observation
            + setup.n_previous * setup.carries_previous
        ),
    }.items():
        record[name] = value
    return record, (parameters, body_mass)
