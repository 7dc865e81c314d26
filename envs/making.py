"""`make_task`: an environment's id and a policy, to whatever unrolls them fastest."""

from __future__ import annotations

import difflib
import warnings
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from es_rl.envs.gymnasium_task import GymnasiumTask
    from es_rl.envs.mujoco.task import MujocoTask
    from es_rl.policies import Policy

__all__ = ["ENGINES", "make_env", "make_task"]

ENGINES = ("auto", "native", "gymnasium")
"""Names of the engines; "auto" is native where that reproduces the environment exactly."""


def make_env(env_id: str, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Return `gymnasium.make(env_id, **env_kwargs)`, without notices and log file.

    Raises:
        ValueError: if there is no such environment (with the nearest names), or it does not take
            these arguments, or it cannot be made here.
    """
    from es_rl.envs.mujoco.quiet import make_quietly

    if env_id == "Pusher-v4":
        raise ValueError("Pusher-v4 needs mujoco<3 and cannot run here: use Pusher-v5")
    try:
        # Gymnasium would take the newest version for a name without one, which presets do not know
        if ":" not in env_id and env_id not in gym.registry:
            raise gym.error.UnregisteredEnv(env_id)
        return make_quietly(env_id, **env_kwargs)
    except gym.error.UnregisteredEnv as error:
        near = difflib.get_close_matches(env_id, gym.registry, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"unknown environment {env_id!r}{hint}") from error
    except (gym.error.Error, ImportError, OSError, TypeError) as error:
        given = f" with {env_kwargs}" if env_kwargs else ""
        raise ValueError(f"{env_id} cannot be made{given}: {error}") from error


def make_task(
    env_id: str,
    policy: Policy,
    *,
    engine: str = "auto",
    n_threads: int | None = None,
    step_timeout: float | None = None,
    **env_kwargs: Any,
) -> MujocoTask | GymnasiumTask:
    """Return an `UnrolledTask` that unrolls `policy` on an environment.

    Args:
        env_id: id in Gymnasium's registry.
        policy: the policy; the task's rows take its flat parameter vectors.
        engine: "native" for MuJoCo's batch engine, which reproduces Gymnasium's MuJoCo
            environments of versions 4 and 5 bit for bit; "gymnasium" for the environment itself
            in worker processes; "auto" for native where that is exact, with a warning if it
            should be and is not.
        n_threads: threads or worker processes; None for one per available processor.
        step_timeout: seconds that one step or reset of the environment itself may take before its
            worker is stopped and the row is named; None for no limit. The native engine's steps
            are bounded work.
        **env_kwargs: passed to `gymnasium.make`.

    Raises:
        ValueError: if `engine` or `env_id` is unknown, the environment does not take
            `env_kwargs`, the policy does not fit, or "native" cannot reproduce the environment.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose one of {', '.join(ENGINES)}")
    env = make_env(env_id, **env_kwargs)
    try:
        policy.check_fits(env, env_id)
        if engine != "gymnasium":
            from es_rl.envs.mujoco.check import NotReproducedError
            from es_rl.envs.mujoco.make import why_not_native
            from es_rl.envs.mujoco.task import MujocoTask

            if engine == "native" or why_not_native(env) is None:
                try:
                    return MujocoTask(env, env_id, policy, n_threads=n_threads)
                except NotReproducedError as error:
                    if engine == "native":
                        raise
                    warnings.warn(f"{error}, as is done now", stacklevel=2)
    finally:
        env.close()
    from es_rl.envs.gymnasium_task import GymnasiumTask

    return GymnasiumTask(
        env_id, policy, n_workers=n_threads, step_timeout=step_timeout, **env_kwargs
    )
