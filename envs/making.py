"""`make_task`: an environment's id and a policy, to whatever unrolls them fastest."""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

if TYPE_CHECKING:
    from es_rl.envs.gymnasium_task import GymnasiumTask
    from es_rl.envs.mujoco.task import MujocoTask
    from es_rl.policies import Policy

__all__ = [
    "ENGINES",
    "OWN_ARGUMENTS",
    "EnvSource",
    "close_env",
    "distinct_ids",
    "make_env",
    "make_task",
    "makeable_ids",
    "maker_of",
]

ENGINES = ("auto", "native", "gymnasium")
"""Names of the engines; "auto" is native where that reproduces the environment exactly."""

OWN_ARGUMENTS = (
    "engine", "integrator", "n_threads", "n_workers", "step_timeout", "import_modules",
)  # fmt: skip
"""Keyword arguments of `make_task` and `GymnasiumTask` that no environment can be given."""

EnvSource = str | EnvSpec | Callable[..., gym.Env[Any, Any]]
"""What environments can be made from: an id, a registration, or a callable that makes them."""

_NOT_MAKEABLE = {"Pusher-v4": "needs mujoco<3 and cannot run here: use Pusher-v5"}


def distinct_ids() -> list[str]:
    """Return the registered ids, without this library's second names for the MuJoCo ones."""
    return [env_id for env_id in gym.registry if not env_id.startswith("es_rl/")]


def makeable_ids() -> list[str]:
    """Return the distinct ids but those that cannot be made.

    Gymnasium keeps ids of older versions only to refuse them, or for a MuJoCo that is no more.
    """
    return [
        env_id
        for env_id in distinct_ids()
        if not getattr(gym.registry[env_id].entry_point, "__name__", "").startswith("_raise_")
        and not _needs_mujoco_py(gym.registry[env_id])
        and env_id not in _NOT_MAKEABLE
    ]


def _needs_mujoco_py(spec: EnvSpec) -> bool:
    """Return whether this is a MuJoCo environment before -v4, as Gymnasium before 1.2 has them."""
    is_mujoco = str(spec.entry_point).startswith("gymnasium.envs.mujoco.")
    return is_mujoco and spec.version is not None and spec.version < 4


def make_env(env_id: str, /, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Return `gymnasium.make(env_id, **env_kwargs)`, without notices and log file.

    Raises:
        ValueError: if there is no such environment (with the nearest names), or it does not take
            these arguments, or it cannot be made here, whatever its constructor raised.
    """
    from es_rl.envs.mujoco.quiet import make_quietly

    if env_id in _NOT_MAKEABLE:
        raise ValueError(f"{env_id} {_NOT_MAKEABLE[env_id]}")
    try:
        # Gymnasium would take the newest version for a name without one, which presets do not know
        if ":" not in env_id and env_id not in gym.registry:
            raise gym.error.UnregisteredEnv(env_id)
        env = make_quietly(env_id, **env_kwargs)
    except gym.error.UnregisteredEnv as error:
        near = difflib.get_close_matches(env_id, makeable_ids(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"unknown environment {env_id!r}{hint}") from error
    except (Exception, SystemExit) as error:
        given = f" with {env_kwargs}" if env_kwargs else ""
        raise ValueError(f"{env_id} cannot be made{given}: {_reason(error)}") from error
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gym.Space):
            close_env(env, env_id)
            raise ValueError(f"{env_id} cannot be used: its {name} is {space!r}, no space")
    return env


def close_env(env: gym.Env[Any, Any], name: str) -> None:
    """Close `env`; what it raises then is a warning, as nothing depends on it any more."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        warnings.warn(f"{name}: in close: {_reason(error)}", RuntimeWarning, stacklevel=2)


def _reason(error: BaseException) -> str:
    """Return in one line what was raised: of errors about arguments what they say is enough."""
    text = " ".join(str(error).split())
    if text and isinstance(error, (gym.error.Error, ImportError, OSError, TypeError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def maker_of(
    source: EnvSource, env_kwargs: dict[str, Any]
) -> tuple[Callable[[], gym.Env[Any, Any]], gym.Env[Any, Any], EnvSpec | None]:
    """Return a maker of environments that can be sent to workers, one environment and its spec.

    The time limit of the registration is left out of all of them.

    Args:
        source: an id, a registration, or a callable that makes environments.
        env_kwargs: passed to `gymnasium.make`, or to the callable.
    """
    if not isinstance(source, (str, EnvSpec)):
        maker = functools.partial(source, **env_kwargs)
        env = maker()
        return maker, env, env.spec
    options = {"disable_env_checker": True, **env_kwargs, "max_episode_steps": -1}
    env = gym.make(source, **options)
    made: Any = env.unwrapped.spec
    # workers get the registration itself: they need not import what registered it here
    spec = source if isinstance(source, EnvSpec) else gym.registry[made.id]
    return functools.partial(gym.make, spec, **options), env, spec


def make_task(
    env_id: str,
    policy: Policy,
    /,
    *,
    engine: str = "auto",
    n_threads: int | None = None,
    step_timeout: float | None = None,
    integrator: str | None = None,
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
        n_threads: threads or worker processes; None for one per available processor, 0 for rows
            of "gymnasium" in this very process.
        step_timeout: seconds that one step or reset of the environment itself may take before its
            worker is stopped and the row is named; None for no limit. The native engine's steps
            are bounded work.
        integrator: one of `es_rl.envs.mujoco.integrators.INTEGRATORS` to simulate with in place of
            the model's own, which makes it another system; None for the environment as it is.
        **env_kwargs: passed to `gymnasium.make`.

    Raises:
        ValueError: if `engine` or `env_id` is unknown, the environment does not take
            `env_kwargs`, the policy does not fit, "native" cannot reproduce the environment, or
            there is no such integrator.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: choose one of {', '.join(ENGINES)}")
    env = make_env(env_id, **env_kwargs)
    try:
        if integrator is not None:
            from es_rl.envs.mujoco.integrators import set_integrator

            set_integrator(env, env_id, integrator)
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
        close_env(env, env_id)
    from es_rl.envs.gymnasium_task import GymnasiumTask

    return GymnasiumTask(
        env_id, policy, n_workers=n_threads, step_timeout=step_timeout, integrator=integrator,
        **env_kwargs,
    )  # fmt: skip
