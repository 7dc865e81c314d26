"""Another of MuJoCo's integrators for an environment: other physics, at another price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import mujoco

__all__ = ["INTEGRATORS", "make_with", "set_integrator"]

INTEGRATORS = {
    "euler": mujoco.mjtIntegrator.mjINT_EULER,
    "implicit": mujoco.mjtIntegrator.mjINT_IMPLICIT,
    "implicitfast": mujoco.mjtIntegrator.mjINT_IMPLICITFAST,
    "rk4": mujoco.mjtIntegrator.mjINT_RK4,
}
"""MuJoCo's integrators; `rk4` computes the dynamics four times a step, the others once."""


def set_integrator(env: gym.Env[Any, Any], env_id: str, integrator: str) -> None:
    """Let `env` simulate with another integrator than its model has.

    Args:
        env: a MuJoCo environment that was just made; its model is changed.
        env_id: its id, for messages.
        integrator: one of `INTEGRATORS`.

    Raises:
        ValueError: if there is no such integrator, or `env` does not simulate with MuJoCo.
    """
    if integrator not in INTEGRATORS:
        raise ValueError(f"integrator={integrator!r}: choose one of {', '.join(INTEGRATORS)}")
    model = getattr(env.unwrapped, "model", None)
    if not isinstance(model, mujoco.MjModel):
        raise ValueError(
            f"integrator={integrator!r}: {env_id} does not simulate with MuJoCo; leave it out"
        )
    model.opt.integrator = INTEGRATORS[integrator]


def make_with(
    integrator: str, make: Callable[[], gym.Env[Any, Any]], env_id: str
) -> gym.Env[Any, Any]:
    """Return `make()` with another integrator; in a `functools.partial` it can be sent to workers.

    Raises:
        ValueError: as `set_integrator` does, which is to be tried on one environment before.
    """
    env = make()
    set_integrator(env, env_id, integrator)
    return env
