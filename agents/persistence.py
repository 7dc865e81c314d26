"""Saving and loading of agents, particles and all, without running code from the file."""

from __future__ import annotations

import pathlib
from collections import deque
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common import utils

from es_rl.agents.base import AgentBase
from es_rl.agents.policies import check_device
from es_rl.agents.saving import (
    NotStorableError,
    SavedAgent,
    encode_value,
    file_name,
    read_agent,
    write_agent,
)
from es_rl.agents.sources import EnvArgument, open_source, vectorized
from es_rl.estimator_options import DEFAULTS
from es_rl.normalization import Normalizer, Statistics
from es_rl.tasks import State, state_part

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PersistentAgent"]

_COMMON_ARGUMENTS = (
    "learning_rate",
    "optimizer",
    "optimizer_kwargs",
    "horizon",
    "init_scale",
    "engine",
    "n_threads",
    "policy_kwargs",
    "stats_window_size",
    "tensorboard_log",
    "seed",
    "verbose",
)
_COUNTERS = {
    "num_timesteps": "num_timesteps",
    "sequential_steps": "sequential_steps",
    "total_timesteps": "_total_timesteps",
    "n_updates": "_n_updates",
    "episodes": "_episode_num",
}
"""Attributes of the counters by their names in files."""
_PARTICLES = "particles"
_LASTING = ("optimizer/", "statistics/")
"""Beginnings of the names of what is kept without the particles."""


class PersistentAgent(AgentBase):
    """An agent that can be saved and loaded."""

    def save(
        self,
        path: str | pathlib.Path | IO[bytes],
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the agent to a .zip of JSON and arrays, whole or not at all.

        It holds θ in float64, the constructor's arguments, the counters, the optimiser, and the
        particles in mid-episode. What is code is not stored: a learning-rate function, a callable
        environment, a policy class of your own. `load` takes those again.

        Args:
            path: where to; ".zip" is added to a path without suffix. Or a binary file object.
            exclude: names of constructor arguments to leave out, or "particles" to leave those
                out, which makes the file small; training then starts them afresh.
            include: names to keep although they are in `exclude`.

        Raises:
            ValueError: if `exclude` names something that is never stored.
        """
        left_out = set(exclude or ()) - set(include or ())
        names = (*self.estimator_options, *_COMMON_ARGUMENTS)
        unknown = left_out - {*names, _PARTICLES}
        if unknown:
            raise ValueError(
                f"exclude={sorted(unknown)}: the file holds {', '.join(names)} and {_PARTICLES}"
            )
        arguments: dict[str, Any] = {}
        unsaved = dict(self._missing)
        for name in names:
            if name in left_out or name in unsaved:
                continue
            value = getattr(self, name)
            try:
                encode_value(value)
            except NotStorableError as error:
                unsaved[name] = str(error)
            else:
                arguments[name] = value
        state = self._training_state()
        if _PARTICLES in left_out:
            state = {n: v for n, v in state.items() if n.startswith(_LASTING)}
        counters = {name: int(getattr(self, attribute)) for name, attribute in _COUNTERS.items()}
        counters["num_timesteps"] += self._unannounced
        aliases = {cls: alias for alias, cls in self.policy_aliases.items()}
        saved = SavedAgent(
            algorithm=self.algorithm,
            policy=aliases.get(self.policy_class),
            policy_class=self.policy_class.__qualname__,
            arguments=arguments,
            unsaved=unsaved,
            source=self._source,
            observation_space=self.observation_space,
            action_space=self.action_space,
            noise_seed=self._noise_seed,
            counters=counters,
            progress_remaining=self._current_progress_remaining,
            recent_episodes=list(self.ep_info_buffer or ()),
            theta=self.policy.core.theta,
            state=state,
        )
        write_agent(path, saved)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Return a copy of the parameters: {"policy": {"theta": (d,) float64 tensor}}."""
        state = self.policy.state_dict()
        return {"policy": {name: value.clone() for name, value in state.items()}}

    def set_parameters(
        self,
        load_path_or_dict: str | pathlib.Path | IO[bytes] | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Set θ, and what observations are normalised with; optimiser and particles go on.

        From a file, training too goes on from what was known of the observations there: later
        windows and episodes that begin see with that. A dict does not hold enough for it.

        Args:
            load_path_or_dict: what `get_parameters` returned, or a file that `save` wrote.
            exact_match: whether every parameter must be there, and no other.
            device: the CPU, "cpu" or "auto".

        Raises:
            ValueError: if the parameters are not those of this agent, or the file is none of its.
        """
        check_device(device)
        parameters = load_path_or_dict
        known: State = {}
        if not isinstance(parameters, dict):
            parameters, known = _parameters_in(read_agent(parameters))
        if (exact_match and set(parameters) != {"policy"}) or set(parameters) - {"policy"}:
            raise ValueError(
                f"parameters of {', '.join(parameters) or 'nothing'}: this agent has those of "
                "policy alone"
            )
        if "policy" in parameters:
            try:
                self.policy.load_state_dict(parameters["policy"], strict=exact_match)
            except RuntimeError as error:
                raise ValueError(
                    f"parameters: they do not fit this agent's policy: {error}"
                ) from error
        if known and self.policy.core.normalizer is not None:
            self._set_statistics(known)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | IO[bytes],
        env: EnvArgument | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load an agent that `save` wrote; nothing in the file is executed.

        `learn(..., reset_num_timesteps=False)` then goes on bit for bit as if there had been no
        interruption. That needs the particles: if the environment, the seed or an option of the
        estimator is given a new value here, they start afresh under θ as it was saved.

        Args:
            path: where from; ".zip" may be left out. Or a binary file object.
            env: what to train on, as the constructor takes it; None for the environment that
                the file names. A callable has to be given again.
            device: the CPU, "cpu" or "auto".
            custom_objects: values for constructor arguments, used where the file has one of that
                name, and "policy_class" for a policy class of your own.
            print_system_info: print versions, of this process and of the one that saved.
            force_reset: make the next `learn` reset `get_env()`; it always does after loading.
            **kwargs: constructor arguments to change.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no agent of this class, is damaged, or does not fit `env`.
            TypeError: if `kwargs` has a name that the constructor does not have.
        """
        check_device(device)
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            utils.get_system_info()
        saved = read_agent(path, print_system_info)
        name = file_name(path)
        if saved.algorithm != cls.algorithm:
            raise ValueError(
                f"{name}: holds a {saved.algorithm!r} agent; {cls.__name__} loads {cls.algorithm!r}"
            )
        strange = {*saved.arguments, *saved.unsaved} - {*cls.estimator_options, *_COMMON_ARGUMENTS}
        if strange or set(saved.counters) != set(_COUNTERS):
            raise ValueError(
                f"{name}: not a usable agent file (arguments {sorted(saved.arguments)}, counters "
                f"{sorted(saved.counters)})"
            )
        agent = cls._with_arguments(saved, custom_objects or {}, kwargs)
        agent._restore(saved)
        agent._take_environment(saved, env, kwargs.get("env_kwargs"))
        agent._drop_what_changed(saved)
        return agent

    @classmethod
    def _with_arguments(
        cls, saved: SavedAgent, custom_objects: dict[str, Any], changes: dict[str, Any]
    ) -> Self:
        """Return an agent with the saved constructor arguments, but for what is supplied."""
        replaceable = saved.arguments.keys() | saved.unsaved.keys()
        supplied = {k: v for k, v in custom_objects.items() if k in replaceable}
        supplied.update(
            (k, v)
            for k, v in changes.items()
            if k != "env_kwargs" and not (k == "seed" and v is None)
        )
        network = saved.arguments.get("policy_kwargs")
        if "policy_kwargs" in supplied and supplied["policy_kwargs"] != network:
            raise ValueError(
                f"policy_kwargs={supplied['policy_kwargs']}: this agent was saved with {network}, "
                "and its parameters fit no other network"
            )
        policy = custom_objects.get("policy_class", saved.policy)
        if policy is None:
            raise ValueError(
                f"policy: it was the class {saved.policy_class} when this agent was saved, and "
                "files do not hold code; pass custom_objects={'policy_class': ...} to load"
            )
        agent = cls(policy, None, _init_setup_model=False, **{**saved.arguments, **supplied})
        agent._missing = {k: v for k, v in saved.unsaved.items() if k not in supplied}
        return agent

    def _restore(self, saved: SavedAgent) -> None:
        """Bring the agent to where it was saved; its trainer follows when training goes on."""
        self.observation_space, self.action_space = saved.observation_space, saved.action_space
        self.n_envs = 1
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._setup_policy()
        self.policy.core.theta = saved.theta
        known = state_part(saved.state, "statistics/")
        if self.policy.core.normalizer is not None and known:
            self.policy.core.normalizer = _normalizer_of(known)
        for name, attribute in _COUNTERS.items():
            setattr(self, attribute, saved.counters[name])
        self._current_progress_remaining = saved.progress_remaining
        self.ep_info_buffer = deque(saved.recent_episodes, maxlen=self.stats_window_size)
        self.ep_success_buffer: deque[bool] = deque(maxlen=self.stats_window_size)
        self._saved_state = saved.state

    def _take_environment(
        self, saved: SavedAgent, env: EnvArgument | None, env_kwargs: dict[str, Any] | None
    ) -> None:
        """Adopt `env`, or what the file names."""
        if env is None and env_kwargs is not None and saved.source is not None:
            env = saved.source.env_id
        if env is None:
            self._source = saved.source
            return
        source, face = open_source(env, env_kwargs)
        face = vectorized(source.make() if face is None else face)
        utils.check_for_correct_spaces(face, saved.observation_space, saved.action_space)
        self._adopt(source, face)

    def _drop_what_changed(self, saved: SavedAgent) -> None:
        """Forget the particles, or the optimiser's state, if they do not go with the options."""

        def is_new(name: str) -> bool:
            # files of before an option was there lack it
            if name not in saved.arguments and name in DEFAULTS and name not in saved.unsaved:
                return bool(getattr(self, name) != dict(DEFAULTS)[name])
            return name not in saved.arguments or getattr(self, name) != saved.arguments[name]

        if is_new("optimizer"):
            self._saved_state = {
                n: v for n, v in self._saved_state.items() if not n.startswith("optimizer/")
            }
        if not is_new("seed") or self.seed is None:
            self._noise_seed = saved.noise_seed
        shaping = ("optimizer", "horizon", "seed", *self.estimator_options)
        same_system = (
            saved.source is not None
            and self._source is not None
            and self._source.same_system(saved.source)
        )
        if any(map(is_new, shaping)) or not same_system:
            self._restart_particles()


def _normalizer_of(known: State) -> Normalizer:
    """Return what the statistics `known` make of observations."""
    statistics = Statistics(known["mean"].size if "mean" in known else 0)
    statistics.load_state_dict(known)
    return statistics.normalizer()


def _parameters_in(saved: SavedAgent) -> tuple[dict[str, dict[str, torch.Tensor]], State]:
    """Return the parameters in a file, as `get_parameters` does, and the statistics behind them."""
    arrays = {"theta": saved.theta}
    known = state_part(saved.state, "statistics/")
    options = saved.arguments.get("policy_kwargs") or {}
    if known or options.get("normalize_observations"):
        size = spaces.flatdim(saved.observation_space)
        normalizer = _normalizer_of(known) if known else Normalizer.identity(size)
        arrays["observation_mean"], arrays["observation_scale"] = normalizer
    return {"policy": {name: torch.from_numpy(array) for name, array in arrays.items()}}, known
