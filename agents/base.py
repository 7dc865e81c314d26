"""What all agents share: options, environment, policy, seeds, and the trainer behind them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common import utils
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from es_rl.agents.checks import (
    MAX_SEED,
    check_count,
    check_kwargs,
    check_policy,
    check_rate,
    check_scale,
    check_seed,
)
from es_rl.agents.episodes import RecordingTask
from es_rl.agents.policies import ESPolicy, LinearPolicy, MlpPolicy, check_device, policy_options
from es_rl.agents.sources import EnvArgument, Source, open_source, vectorized
from es_rl.estimators import ESTIMATORS, Estimator
from es_rl.optimizers import Optimizer, make_optimizer
from es_rl.options import INIT_SCALES
from es_rl.tasks import State, state_part
from es_rl.trainer import Trainer

__all__ = ["AgentBase", "LearningRate"]

LearningRate = float | Callable[[float], float]
"""A positive number, or a function of the progress remaining (from 1 down to 0)."""

_OPTIMIZER = "optimizer/"
_STATISTICS = "statistics/"


class AgentBase(BaseAlgorithm):  # type: ignore[misc]
    """An agent that is set up, and has a trainer when it needs one.

    Training happens on rows of its own, copies of the environment that are made and kept by an
    es_rl task ("particles"). They start afresh, step-unlocked, when training first begins and
    when something that shapes them changes: the environment, the seed, or a failed window.

    Attributes:
        algorithm: name of the estimator in `es_rl.estimators.ESTIMATORS`.
        estimator_options: the constructor's arguments that go to the estimator.
        policy: what is trained; holds θ.
        sequential_steps: steps so far that had to happen one after another; starts anew with
            `num_timesteps`.
    """

    algorithm: ClassVar[str]
    estimator_options: ClassVar[tuple[str, ...]]
    policy_aliases: ClassVar[dict[str, type[ESPolicy]]] = {
        "LinearPolicy": LinearPolicy,
        "MlpPolicy": MlpPolicy,
    }
    policy: ESPolicy
    num_timesteps: int
    _current_progress_remaining: float

    def __init__(
        self,
        policy: str | type[ESPolicy],
        env: EnvArgument | None,
        *,
        estimator: Mapping[str, Any],
        learning_rate: LearningRate,
        optimizer: str,
        optimizer_kwargs: dict[str, Any] | None,
        horizon: int | None,
        init_scale: float | None,
        engine: str,
        n_threads: int | None,
        env_kwargs: dict[str, Any] | None,
        policy_kwargs: dict[str, Any] | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        seed: int | None,
        verbose: int,
        device: torch.device | str,
        _init_setup_model: bool,
    ) -> None:
        self._vec_env: VecEnv | None = None
        self._source: Source | None = None
        self._trainer: Trainer | None = None
        self._recorder: RecordingTask | None = None
        check_policy(policy, tuple(self.policy_aliases))
        check_rate(learning_rate, to_train=_init_setup_model)
        check_count("stats_window_size", stats_window_size, least=1)
        check_count("verbose", int(verbose) if isinstance(verbose, bool) else verbose, least=0)
        for name, kwargs in (
            ("optimizer_kwargs", optimizer_kwargs),
            ("env_kwargs", env_kwargs),
            ("policy_kwargs", policy_kwargs),
        ):
            check_kwargs(name, kwargs)
        if seed is not None:
            check_seed(seed)
        if n_threads is not None:
            check_count("n_threads", n_threads, least=0)
        if init_scale is not None:
            check_scale("init_scale", init_scale)
        if unknown := set(estimator) - set(self.estimator_options):
            raise TypeError(
                f"{type(self).__name__} takes no argument {', '.join(sorted(unknown))}; its "
                f"estimator takes {', '.join(self.estimator_options)}"
            )
        super().__init__(
            policy,
            None,
            learning_rate if callable(learning_rate) else float(learning_rate),
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=check_device(device),
            seed=seed,
        )
        for name in self.estimator_options:
            setattr(self, name, estimator[name])
        self.optimizer = optimizer
        self.optimizer_kwargs = {} if optimizer_kwargs is None else dict(optimizer_kwargs)
        self.horizon = horizon
        self.init_scale = init_scale
        self.engine = engine
        self.n_threads = n_threads
        self.sequential_steps = 0
        # all randomness of training comes from this number alone
        self._noise_seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
        # executed steps of this window that num_timesteps has not told the callbacks yet
        self._unannounced = 0
        # whether the particles have begun, and what they and the optimiser are to begin from
        self._begun = False
        self._saved_state: State = {}
        # what was known of the observations when the trainer was made
        self._earlier_statistics: State = {}
        # arguments that a file could not hold and nobody has supplied since
        self._missing: dict[str, str] = {}
        if env is not None:
            self._adopt(*open_source(env, env_kwargs))
        elif _init_setup_model:
            raise ValueError("env=None: pass an environment to train on; load needs none")
        if _init_setup_model:
            self._setup_model()
            self._ready()

    @property
    def stats_window_size(self) -> int:
        """Number of finished episodes that the logged means are taken over."""
        return int(self._stats_window_size)

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the environment."""
        return {} if self._source is None else dict(self._source.env_kwargs)

    @property
    def env(self) -> VecEnv | None:
        """The environment for Stable-Baselines3's tools; training does not step it.

        It is the VecEnv that was passed, or one copy of the environment, made on first use. None
        if this agent was loaded without an environment and its file does not name one.
        """
        if self._vec_env is None and self._source is not None and self._source.available:
            self._vec_env = vectorized(self._source.make())
            if self.seed is not None:
                self._vec_env.seed(self.seed)
        return self._vec_env

    @env.setter
    def env(self, env: VecEnv | None) -> None:
        self._vec_env = env

    def _adopt(self, source: Source, face: Any) -> None:
        """Take over an environment and its spaces."""
        face = vectorized(source.make() if face is None else face)
        self._source, self._vec_env = source, face
        self._vec_normalize_env = unwrap_vec_normalize(face)
        self.observation_space: spaces.Space[Any] = face.observation_space
        self.action_space: spaces.Space[Any] = face.action_space
        self.n_envs = face.num_envs

    def set_env(self, env: EnvArgument, force_reset: bool = True) -> None:
        """Train on another environment from here on.

        If copies of it are not copies of the present one, the particles start afresh.

        Args:
            env: as the constructor takes it.
            force_reset: make the next `learn` reset `get_env()`; training never reads it.

        Raises:
            ValueError: if the spaces differ, or training could not reproduce `env`.
        """
        source, face = open_source(env)
        face = vectorized(source.make() if face is None else face)
        utils.check_for_correct_spaces(face, self.observation_space, self.action_space)
        same = self._source is not None and self._source.same_system(source)
        self._adopt(source, face)
        if force_reset:
            self._last_obs = None
        if not same:
            self._restart_particles()

    def _get_policy_from_name(self, policy_name: str) -> type[ESPolicy]:
        return self.policy_aliases[policy_name]

    def _setup_model(self) -> None:
        """Make the policy, with its initial θ."""
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._setup_policy()

    def _setup_policy(self) -> None:
        known = policy_options(self.policy_class)
        unknown = set(self.policy_kwargs) - set(known)
        if unknown:
            raise ValueError(
                f"policy_kwargs={self.policy_kwargs}: {self.policy_class.__name__} takes "
                f"{', '.join(known)}, not {', '.join(sorted(unknown))}"
            )
        self.policy = self.policy_class(
            self.observation_space, self.action_space, **self.policy_kwargs
        )
        core = self.policy.core
        scale = INIT_SCALES.get(core.kind, 0.0) if self.init_scale is None else self.init_scale
        core.theta = core.initial_theta(scale, self._noise_seed)

    def _learning_rate_now(self, update: int) -> float:
        """Return today's learning rate; a schedule here follows progress, not updates."""
        return float(self.lr_schedule(self._current_progress_remaining))

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything: Python, NumPy, Torch, the action space, `get_env()`, and training.

        Training draws from this seed alone. If it has begun under another one, the particles
        start afresh.

        Args:
            seed: 0 to 2**32 - 1; None changes nothing.

        Raises:
            ValueError: if `seed` is out of range.
        """
        if seed is None:
            return
        check_seed(seed)
        utils.set_random_seed(int(seed))
        self.action_space.seed(int(seed))
        if self._vec_env is not None:
            self._vec_env.seed(int(seed))
        self.seed = int(seed)
        if seed != self._noise_seed:
            self._noise_seed = int(seed)
            self._restart_particles()

    def _ready(self) -> Trainer:
        """Return the trainer, made and brought to where it was saved if there was none.

        Raises:
            ValueError: if an option is out of range or does not fit the environment.
        """
        if self._trainer is not None:
            return self._trainer
        for name, what in self._missing.items():
            raise ValueError(
                f"{name}: it was {what} when this agent was saved, and files do not hold code; "
                f"pass {name}=... to load"
            )
        if self._source is None or not self._source.available:
            raise ValueError(
                "env=None: training needs the environment, and files neither hold callables nor "
                "import modules; pass env=... to the constructor or to load, or call set_env"
            )
        check_rate(self.learning_rate)
        core = self.policy.core
        task = self._source.make_task(core, self.engine, self.n_threads)
        options = {name: getattr(self, name) for name in self.estimator_options}
        recorder = RecordingTask(task, self.horizon, self._first_recorded_row())
        estimator = ESTIMATORS[self.algorithm](
            recorder, horizon=self.horizon, seed=self._noise_seed, **options
        )
        if statistics := state_part(self._saved_state, _STATISTICS):
            estimator.begin_with(statistics)
        trainer = Trainer(estimator, self._make_optimizer(core.num_params), core.theta)
        if "counters" in self._saved_state:
            trainer.load_state_dict({**self._saved_state, "theta": core.theta})
            if statistics and estimator.statistics is not None:
                # later than the particles' own if they were set from another agent's file
                estimator.statistics.load_state_dict(statistics)
        elif optimizer_state := state_part(self._saved_state, _OPTIMIZER):
            trainer.optimizer.load_state_dict(optimizer_state)
        self._begun = "counters" in self._saved_state
        self._earlier_statistics = {
            n: v for n, v in self._saved_state.items() if n.startswith(_STATISTICS)
        }
        self._saved_state = {}
        self._trainer, self._recorder = trainer, recorder
        return trainer

    def _first_recorded_row(self) -> int:
        return 0

    def _make_optimizer(self, num_params: int) -> Optimizer:
        # what an optimiser derives from its first learning rate must not depend on when a saved
        # agent is loaded
        progress, self._current_progress_remaining = self._current_progress_remaining, 1.0
        try:
            return make_optimizer(
                self.optimizer, num_params, self._learning_rate_now, **self.optimizer_kwargs
            )
        except TypeError as error:
            raise ValueError(f"optimizer_kwargs={self.optimizer_kwargs}: {error}") from error
        finally:
            self._current_progress_remaining = progress

    def _training_state(self) -> State:
        """Return optimiser and, if they have begun, particles, as `_saved_state` takes them."""
        if self._trainer is None:
            return self._saved_state
        if self._begun:
            state = self._trainer.state_dict()
            del state["theta"]
            return {**state, **self._lasting_state()}
        return self._lasting_state()

    def _lasting_state(self) -> State:
        """Return what goes on where the particles do not: the optimiser, what is known of the
        observations.
        """
        assert self._trainer is not None
        state = self._trainer.optimizer.state_dict()
        lasting = {_OPTIMIZER + name: value for name, value in state.items()}
        estimator = self._trainer.estimator
        assert isinstance(estimator, Estimator)
        if self._begun and estimator.statistics is not None:
            known = estimator.statistics.state_dict()
            lasting.update({_STATISTICS + name: value for name, value in known.items()})
        else:
            lasting.update(self._earlier_statistics)
        return lasting

    def _set_statistics(self, known: State) -> None:
        """Go on from what another agent knew of the observations; episodes that run keep theirs."""
        named = {_STATISTICS + name: value for name, value in known.items()}
        if self._trainer is None:
            self._saved_state = {**self._saved_state, **named}
            return
        estimator = self._trainer.estimator
        assert isinstance(estimator, Estimator)
        if self._begun and estimator.statistics is not None:
            estimator.statistics.load_state_dict(known)
        else:
            self._earlier_statistics = named
            estimator.begin_with(known)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: what `save` stores, and code as it is.

        Like a loaded agent it makes a trainer, an environment and a logger of its own when it
        needs them: particles, processes and open files cannot be shared.
        """
        state = {name: value for name, value in vars(self).items() if name != "_logger"}
        own = dict.fromkeys(("_trainer", "_recorder", "_vec_env", "_vec_normalize_env"))
        state.update(own, _saved_state=self._training_state(), _begun=False)
        state.update(_last_obs=None, _custom_logger=False, n_envs=1)
        return state

    def _restart_particles(self) -> None:
        """Forget the particles; θ, the counters and the optimiser's state stay."""
        state = self._saved_state
        if self._trainer is not None:
            state = self._lasting_state()
            assert self._recorder is not None
            close = getattr(self._recorder.task, "close", None)
            if close is not None:
                close()
        lasting = (_OPTIMIZER, _STATISTICS)
        self._saved_state = {n: v for n, v in state.items() if n.startswith(lasting)}
        self._trainer = self._recorder = None
        self._begun = False
