"""From a config to the objects of a run: policy, tasks, estimator, optimiser, trainer."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from es_rl.config import TrainConfig
from es_rl.distributed import RayEstimator, RayUnavailableError
from es_rl.distributed.estimator import DEFAULT_WORKER_TIMEOUT
from es_rl.environment_check import check_environment, kwargs_given
from es_rl.envs import MujocoTask, make_task
from es_rl.envs.making import OWN_ARGUMENTS, close_env
from es_rl.estimators import ESTIMATORS
from es_rl.evaluation import Evaluation, evaluate_on_task
from es_rl.memory_need import check_memory, check_widths
from es_rl.normalization import Normalizer
from es_rl.optimizers import make_optimizer
from es_rl.option_messages import one_line, raised
from es_rl.options import BUDGETS, ConfigError, flag
from es_rl.perturbations import usable_cpus
from es_rl.policies import POLICIES, Policy
from es_rl.schedules import parse_schedule
from es_rl.starts import SeveralStarts, start_seed
from es_rl.tasks import UnrolledTask
from es_rl.trainer import GradientSource, Trainer

__all__ = ["Assembly", "assemble", "check_environment", "import_all"]

# of the evaluations that starts are judged by, apart from those of a run and of `es-rl evaluate`
_JUDGED_EPISODES, _JUDGED_SEED = 20, 2_000_000_000

_LIBRARY_ERROR = re.compile(r"([a-z_]+)='?(.*?)'?: (.*)")


class Assembly(NamedTuple):
    """The objects of a run; use it in a `with` statement to close the tasks.

    Attributes:
        config: as given, with all that depends on the environment filled in.
        policy: of the kind and shape that is trained.
        task: what is trained on.
        eval_task: a second instance to evaluate on.
        trainer: not started yet.
    """

    config: TrainConfig
    policy: Policy
    task: UnrolledTask
    eval_task: UnrolledTask
    trainer: Trainer

    def __enter__(self) -> Assembly:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for part in (self.trainer.estimator, self.task, self.eval_task):
            close = getattr(part, "close", None)
            if close is not None:
                close()


def import_all(modules: tuple[str, ...]) -> None:
    """Import the modules that register a user's environments, also from the current folder.

    Raises:
        ConfigError: if there is no such module, or it cannot be imported: what it raises, and
            where, is told in one line.
    """
    here = os.getcwd()
    if modules and here not in sys.path:
        sys.path.append(here)
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not (module + ".").startswith(missing + "."):
                raise ConfigError(f"--import {module}: {raised(error)}") from error
            raise ConfigError(
                f"--import {module}: no such module; it must be installed, or lie in the current "
                "folder or on PYTHONPATH"
            ) from None


def assemble(config: TrainConfig) -> Assembly:
    """Make everything that a run needs, without writing or unrolling anything.

    Raises:
        ConfigError: if the options do not fit the environment or each other.
    """
    if not config.has_budget and config.stop_at is None:
        names = ", ".join(flag(name) for name in (*BUDGETS, "max_time"))
        raise ConfigError(f"--updates: the run would never end; give one of {names}")
    import_all(config.import_modules)
    for name in sorted(config.env_kwargs.keys() & set(OWN_ARGUMENTS)):
        raise ConfigError(
            f"--env-kwargs {name}={config.env_kwargs[name]}: {name} means something else to this "
            "library; register the environment again, by a module for --import, with the value "
            "that it is to have"
        )
    check_widths(config.hidden)
    env = check_environment(config.env, config.env_kwargs)
    try:
        policy = _make_policy(config, env)
    finally:
        close_env(env, config.env)
    task = _make_task(config, policy)
    config = _filled_in(config, task)
    if config.engine != "ray":  # whose workers may have the memory of many machines
        check_memory(config, policy.num_params, config.engine)
    # all processors of this machine, whatever each worker has
    threads = None if config.engine == "ray" else config.threads
    own = replace(config, threads=threads, integrator=None, integrator_steps=None)
    eval_task = _make_task(own, policy)
    if config.has_starts:
        trainer: Trainer = _several_starts(config, policy, task, eval_task)
    else:
        trainer = _make_trainer(config, policy, task)
    if config.integrator_steps is not None:
        trainer.before_update = _integrator_change(config, task, eval_task)
    if eval_task.horizon is None:
        eval_task.horizon = config.horizon
    return Assembly(config, policy, task, eval_task, trainer)


def _make_policy(config: TrainConfig, env: gym.Env[Any, Any]) -> Policy:
    options: dict[str, Any] = {
        "clip_actions": config.clip_actions,
        "squash_actions": config.squash_actions,
    }
    if config.normalize_observations:
        options.update(normalize_observations=True, observation_clip=config.observation_clip)
    if config.policy == "mlp":
        options.update(hidden=config.hidden, activation=config.activation)
    else:
        options.update(bias=config.bias)
    try:
        return POLICIES[config.policy](env.observation_space, env.action_space, **options)
    except ValueError as error:
        raise _translated(error, f"--policy {config.policy}") from error


def _make_task(config: TrainConfig, policy: Policy) -> UnrolledTask:
    given = config.env_kwargs
    where = kwargs_given(given) if given else f"ENV {config.env}"
    try:
        return make_task(
            config.env,
            policy,
            engine="auto" if config.engine == "ray" else config.engine,
            n_threads=config.threads,
            step_timeout=config.step_timeout,
            integrator=config.integrator,
            **config.env_kwargs,
        )
    except (ValueError, gym.error.Error) as error:
        raise _translated(error, where) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # what the engine makes of values that the environment itself takes
        if not given:
            raise
        raise ConfigError(f"{where}: {raised(error)}") from error


def _filled_in(config: TrainConfig, task: UnrolledTask) -> TrainConfig:
    """Return the config with what the task decides."""
    config = config.with_horizon(task.horizon)
    if config.horizon is None:
        raise ConfigError(
            f"--horizon: {config.env} has no time limit of its own; give the steps of an episode"
        )
    if config.engine == "ray":
        return replace(config, threads=config.threads or 1)
    return replace(
        config,
        engine="native" if isinstance(task, MujocoTask) else "gymnasium",
        threads=config.threads or usable_cpus(),
    )


def _make_trainer(config: TrainConfig, policy: Policy, task: UnrolledTask) -> Trainer:
    options: dict[str, Any] = {
        "n_pairs": config.n_pairs,
        "sigma": config.sigma,
        "horizon": config.horizon,
        "seed": config.seed,
        "shaping": config.shaping,
        "reward_offset": config.reward_offset,
        "noise": config.noise,
        "adapt_sigma": config.adapt_sigma,
    }
    for name in ("unroll_length", "noise_period", "staggering", "top_pairs", "unroll_range",
                 "refresh_drift"):  # fmt: skip
        value = getattr(config, name)
        if value is not None:
            options[name] = value
    try:
        schedule = parse_schedule(config.lr_schedule, config.learning_rate)
        given = {name: getattr(config, name) for name in ("momentum", "weight_decay")}
        own = {name: value for name, value in given.items() if value is not None}
        optimizer = make_optimizer(config.optimizer, policy.num_params, schedule, **own)
        assert config.init_scale is not None
        theta = policy.initial_theta(config.init_scale, config.seed)
        estimator: GradientSource
        if config.engine == "ray":
            estimator = _ray_estimator(config, policy, options)
        else:
            estimator = ESTIMATORS[config.algo](task, **options)
    except ValueError as error:
        raise _translated(error, f"--algo {config.algo}") from error
    return Trainer(estimator, optimizer, theta)


def _several_starts(
    config: TrainConfig, policy: Policy, task: UnrolledTask, eval_task: UnrolledTask
) -> SeveralStarts:
    assert config.starts is not None
    assert config.start_steps is not None

    def make(start: int) -> Trainer:
        return _make_trainer(replace(config, seed=start_seed(config.seed, start)), policy, task)

    def judge(theta: NDArray[np.float64], normalizer: Normalizer | None) -> Evaluation:
        return evaluate_on_task(
            eval_task, theta, n_episodes=_JUDGED_EPISODES, seed=_JUDGED_SEED, normalizer=normalizer
        )

    return SeveralStarts(
        make, judge, config.starts, config.start_steps, good_reward=config.start_reward
    )


def _integrator_change(
    config: TrainConfig, task: UnrolledTask, eval_task: UnrolledTask
) -> Callable[[int], None]:
    """Return what gives `task` its integrator of the time, by the run's total steps so far."""
    limit = config.integrator_steps
    assert limit is not None
    if not (isinstance(task, MujocoTask) and isinstance(eval_task, MujocoTask)):
        raise ConfigError(
            f"--integrator-steps {limit}: only the native engine changes it under way, which does "
            f"not run {config.env}; leave it out"
        )
    first, own = task.engine.integrator, eval_task.engine.integrator

    def change(total_steps: int) -> None:
        task.engine.integrator = first if total_steps < limit else own

    return change


def _ray_estimator(config: TrainConfig, policy: Policy, options: Mapping[str, Any]) -> RayEstimator:
    try:
        return RayEstimator(
            config.algo,
            functools.partial(_worker_task, config, policy),
            n_workers=config.workers,
            address=config.ray_address,
            n_threads=config.threads or 1,
            worker_timeout=config.worker_timeout or DEFAULT_WORKER_TIMEOUT,
            **options,
        )
    except RayUnavailableError as error:
        raise _translated(error, "--engine ray") from error


def _worker_task(config: TrainConfig, policy: Policy) -> UnrolledTask:
    """Return what a worker unrolls, in the worker's own process."""
    import_all(config.import_modules)
    return _make_task(config, policy)


def _translated(error: Exception, otherwise: str) -> ConfigError:
    """Return a library's error in the command line's words: sigma=0 becomes --sigma 0."""
    text = one_line(error)
    match = _LIBRARY_ERROR.fullmatch(text)
    if match is None:
        return ConfigError(f"{otherwise}: {text}")
    name, value, reason = match.groups()
    if value in ("True", "False"):
        return ConfigError(f"{flag(name)}: {reason}")
    return ConfigError(f"{flag(name)} {value}: {reason}")
