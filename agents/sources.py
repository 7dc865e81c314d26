"""Where the training rows come from: what a user passes as `env`, made reproducible.

Training does not step the environment that it is given; it unrolls copies of its own. So an
environment is reduced to what copies can be made from, an id with keyword arguments or a
callable, and whatever would be lost on the way is refused.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from es_rl.envs.making import ENGINES, make_env, make_task
from es_rl.policies import Policy
from es_rl.tasks import UnrolledTask

__all__ = ["EnvArgument", "Source", "open_source", "vectorized"]

EnvArgument: TypeAlias = (
    str
    | Callable[..., gym.Env[Any, Any]]
    | gym.Env[Any, Any]
    | EnvSpec
    | VecEnv
    | gym.vector.VectorEnv[Any, Any, Any]
)
"""What may be passed as `env`; an environment, vectorised or not, must have a spec."""

_GYMNASIUM = "gymnasium.wrappers"
_STANDARD = {
    f"{_GYMNASIUM}.common:{name}" for name in ("OrderEnforcing", "PassiveEnvChecker", "TimeLimit")
}
_WATCHERS = {
    "stable_baselines3.common.monitor:Monitor",
    f"{_GYMNASIUM}.common:RecordEpisodeStatistics",
    f"{_GYMNASIUM}.rendering:HumanRendering",
    f"{_GYMNASIUM}.rendering:RecordVideo",
    f"{_GYMNASIUM}.rendering:RenderCollection",
}
"""Wrappers that change neither what the policy sees or earns nor when an episode ends."""

_HARMLESS_VEC = (VecCheckNan, VecMonitor, VecVideoRecorder)

# arguments of gymnasium.make and make_vec that say how to show or vectorise, not what to simulate
_NOT_THE_SYSTEM = {"render_mode", "num_envs", "vectorization_mode", "vector_kwargs"}


@dataclass(frozen=True)
class Source:
    """What copies of an environment are made from.

    With neither `env_id` nor `factory` it is a name only: that of a callable, once it was saved.

    Attributes:
        name: id of the environment, or a name for messages.
        env_id: id in Gymnasium's registry, perhaps after "module:"; None if `factory` makes the
            copies.
        env_kwargs: keyword arguments of `gymnasium.make`, or of `factory`.
        factory: makes an environment.
    """

    name: str
    env_id: str | None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[..., gym.Env[Any, Any]] | None = None

    @property
    def available(self) -> bool:
        """Whether copies can be made."""
        return self.env_id is not None or self.factory is not None

    def make(self) -> gym.Env[Any, Any]:
        """Return one environment, one that renders to arrays where it can."""
        if self.factory is not None:
            return self.factory(**self.env_kwargs)
        assert self.env_id is not None
        if "render_mode" in self.env_kwargs:
            return make_env(self.env_id, **self.env_kwargs)
        env = make_env(self.env_id, **self.env_kwargs)
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            return env
        env.close()
        return make_env(self.env_id, render_mode="rgb_array", **self.env_kwargs)

    def make_task(self, policy: Policy, engine: str, n_threads: int | None) -> UnrolledTask:
        """Return a task whose rows are copies of the environment.

        Raises:
            ValueError: if `engine` is unknown or cannot run the environment.
        """
        if self.factory is None:
            assert self.env_id is not None
            kwargs = {k: v for k, v in self.env_kwargs.items() if k != "render_mode"}
            return make_task(self.env_id, policy, engine=engine, n_threads=n_threads, **kwargs)
        if engine not in ENGINES:
            raise ValueError(f"engine={engine!r}: choose one of {', '.join(ENGINES)}")
        from es_rl.envs.gymnasium_task import GymnasiumTask
        from es_rl.envs.mujoco.check import NotReproducedError
        from es_rl.envs.mujoco.make import why_not_native
        from es_rl.envs.mujoco.task import MujocoTask

        env = self.factory(**self.env_kwargs)
        try:
            # the task reads this very environment, so whatever the callable did to it counts
            plain = _without_watchers(env)
            if engine == "native" or (engine == "auto" and why_not_native(plain) is None):
                return MujocoTask(plain, self.name, policy, n_threads=n_threads)
        except NotReproducedError as error:
            if engine == "native":
                raise
            warnings.warn(f"{error}, as is done now", stacklevel=2)
        finally:
            env.close()
        return GymnasiumTask(self.factory, policy, n_workers=n_threads, **self.env_kwargs)

    def same_system(self, other: Source) -> bool:
        """Return whether rows of `other` are rows of this source.

        Callables cannot be compared: of those, the names are. Where rows of a callable are
        restored from a file, their replay shows whether it still makes the same environment.
        """
        if self.env_id is None or other.env_id is None:
            return self.name == other.name
        ours, theirs = (env_id.rpartition(":")[2] for env_id in (self.env_id, other.env_id))
        return ours == theirs and _same(_system(self.env_kwargs), _system(other.env_kwargs))


def open_source(
    env: Any, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[Source, VecEnv | gym.Env[Any, Any] | None]:
    """Reduce what a user passed as `env` to a source.

    Args:
        env: an `EnvArgument`; whatever else it is gets refused.
        env_kwargs: keyword arguments for an id or a callable.

    Returns:
        the source, and the environment itself where Stable-Baselines3's tools can use it.

    Raises:
        ValueError: if copies of `env` cannot be made, or would not be what was passed.
    """
    kwargs = dict(env_kwargs or {})
    if isinstance(env, str):
        return Source(env, env, kwargs), None
    if kwargs and not (callable(env) and not isinstance(env, gym.Env)):
        raise ValueError(
            f"env_kwargs={kwargs}: only for an id or a callable; this environment is made already"
        )
    if isinstance(env, VecEnv):
        return _from_vec_env(env), env
    if isinstance(env, gym.vector.VectorEnv):
        return _from_vector_env(env), None
    if isinstance(env, gym.Env):
        source = _from_spec(env.spec, str(env))
        _refuse_changed(env, source)
        return source, env
    if isinstance(env, EnvSpec):
        return _from_spec(env, env.id), None
    if callable(env):
        made = env(**kwargs)
        if not isinstance(made, gym.Env):
            raise ValueError(f"env={env!r}: returned a {type(made).__name__}, not a gymnasium.Env")
        name = made.spec.id if made.spec is not None else type(made.unwrapped).__name__
        return Source(name, None, kwargs, env), made
    raise ValueError(
        f"env={env!r}: pass an environment's id, a callable that makes one, a gymnasium "
        "environment, or a vectorised one"
    )


def vectorized(env: VecEnv | gym.Env[Any, Any]) -> VecEnv:
    """Return `env` as a VecEnv, of one copy with a Monitor if it is none yet."""
    if isinstance(env, VecEnv):
        return env
    monitored = env if is_wrapped(env, Monitor) else Monitor(env)
    return DummyVecEnv([lambda: monitored])


def _from_vec_env(env: VecEnv) -> Source:
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            if layer.norm_obs or layer.norm_reward:
                raise ValueError(
                    "env: VecNormalize changes what the policy sees or earns, and training, which "
                    "unrolls copies of its own, cannot reproduce it; pass the environment without "
                    "it. Around an evaluation environment it works"
                )
        elif not isinstance(layer, _HARMLESS_VEC):
            raise ValueError(
                f"env: {type(layer).__name__} may change what the policy sees or earns, and "
                "training, which unrolls copies of its own, cannot reproduce it; pass the "
                "environment without it, or a callable that makes a wrapped single environment"
            )
        layer = layer.venv
    spec = getattr(layer, "spec", None)
    specs = env.get_attr("spec") if spec is None else [spec]
    return _from_copies(specs, getattr(layer, "envs", ()), type(layer).__name__)


def _from_vector_env(env: gym.vector.VectorEnv[Any, Any, Any]) -> Source:
    spec = env.spec
    layer: Any = env
    while isinstance(layer, gym.vector.VectorWrapper):
        if not isinstance(layer, gym.wrappers.vector.RecordEpisodeStatistics):
            raise ValueError(
                f"env: {type(layer).__name__} may change what the policy sees or earns, and "
                "training, which unrolls copies of its own, cannot reproduce it; pass the "
                "environment without it"
            )
        layer = layer.env
    specs = [spec]
    if spec is None and isinstance(layer, (gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv)):
        specs = list(layer.get_attr("spec"))
    return _from_copies(specs, getattr(layer, "envs", ()), str(env))


def _from_copies(
    specs: Sequence[EnvSpec | None], copies: Sequence[gym.Env[Any, Any]], what: str
) -> Source:
    """Return the source of all `copies`, which have these `specs`; some may be out of reach."""
    sources = [_from_spec(spec, what) for spec in specs]
    if not all(sources[0].same_system(other) for other in sources[1:]):
        raise ValueError("env: its copies are of different environments, training takes one")
    for copy in copies:
        _refuse_changed(copy, sources[0])
    return sources[0]


def _from_spec(spec: EnvSpec | None, what: str) -> Source:
    """Return the source that a made environment's `spec` describes."""
    if spec is None:
        raise ValueError(
            f"env: {what} has no spec to make copies from; register the environment with "
            "gymnasium.register and pass its id, or pass a callable that makes it"
        )
    wrappers = [w.entry_point for w in spec.additional_wrappers]
    wrappers += [repr(w) for w in spec.kwargs.get("wrappers") or ()]
    changing = [w for w in wrappers if w not in _STANDARD | _WATCHERS]
    if changing:
        raise ValueError(
            f"env: {spec.id} is wrapped in {', '.join(changing)}, which may change what the policy "
            "sees or earns, and training unrolls copies of its own; pass a callable that makes "
            "the wrapped environment, and the copies will be made by it"
        )
    registered = gym.registry.get(spec.id)
    if registered is None or registered.entry_point != spec.entry_point:
        raise ValueError(
            f"env: {spec.id} is not registered as what this environment is; register it with "
            "gymnasium.register, or pass a callable that makes it"
        )
    ignored = _NOT_THE_SYSTEM | {"wrappers", "max_episode_steps"}
    kwargs = {
        name: value
        for name, value in spec.kwargs.items()
        if name not in ignored
        and not (name in registered.kwargs and _same(registered.kwargs[name], value))
    }
    # make_vec keeps the limit it was given among the keyword arguments
    limit = spec.kwargs.get("max_episode_steps", spec.max_episode_steps)
    if limit != registered.max_episode_steps:
        if limit is None:
            raise ValueError(
                f"env: this {spec.id} was made without its time limit; pass its id, and the steps "
                "of an episode as horizon"
            )
        kwargs["max_episode_steps"] = limit
    return Source(spec.id, spec.id, kwargs)


def _refuse_changed(env: gym.Env[Any, Any], source: Source) -> None:
    """Raise ValueError if something was done to `env` since it was made.

    Only Gymnasium's own environments can be asked: what they hold in plain attributes, and in
    MuJoCo's model, is how they are set up and not where they are in an episode.
    """
    ours = env.unwrapped
    if not type(ours).__module__.startswith("gymnasium.envs."):
        return
    kwargs = {name: value for name, value in source.env_kwargs.items() if name != "render_mode"}
    fresh = make_env(source.name, **kwargs)
    try:
        theirs = fresh.unwrapped
        changed = [
            name
            for name, value in vars(theirs).items()
            if isinstance(value, (bool, int, float, str, tuple))
            and not name.startswith("_np_random")
            and not _same(value, getattr(ours, name, None))
        ]
        if _model_bytes(ours) != _model_bytes(theirs):
            changed.append("model")
    finally:
        fresh.close()
    if changed:
        raise ValueError(
            f"env: {', '.join(changed)} of this {source.name} was changed after it was made, and "
            "training unrolls copies of its own; pass a callable that makes and changes it"
        )


def _model_bytes(env: Any) -> bytes:
    """Return MuJoCo's model in `env`, if it has one."""
    mujoco = sys.modules.get("mujoco")
    model = getattr(env, "model", None)
    if mujoco is None or not isinstance(model, mujoco.MjModel):
        return b""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def _system(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _NOT_THE_SYSTEM}


def _same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, arrays and containers of them included."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return set(first) == set(second) and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return bool(np.array_equal(first, second))
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def _without_watchers(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Return what is inside the outermost `_WATCHERS`."""
    while (
        isinstance(env, gym.Wrapper)
        and f"{type(env).__module__}:{type(env).__qualname__}" in _WATCHERS
    ):
        env = env.env
    return env
