"""What `es-rl variance` measures on: a built-in task or an environment, and a θ."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from es_rl.option_kinds import did_you_mean
from es_rl.option_messages import shown
from es_rl.options import OPTIONS, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from es_rl.config import TrainConfig
    from es_rl.normalization import Normalizer
    from es_rl.tasks import UnrolledTask

__all__ = ["BUILT_IN", "INITIAL", "POLICY_OPTIONS", "Request", "Subject", "open_subject"]

INITIAL = "initial"

POLICY_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.group == "Policy")
"""Options of `es-rl train` that make the policy whose initial θ is meant."""


class _BuiltIn(NamedTuple):
    """A task of the papers: its class in `es_rl.envs`, and the σ, W and T that they use."""

    kind: str
    sigma: float
    unroll_length: int
    horizon: int | None = None


BUILT_IN: Mapping[str, _BuiltIn] = {
    "lorenz": _BuiltIn("LorenzTask", 0.04, 100),
    "influence-balancing": _BuiltIn("InfluenceBalancingTask", 0.1, 1, 200),
    "learned-optimizer": _BuiltIn("LearnedOptimizerTask", 0.01, 1),
    "hyperparameter-tuning": _BuiltIn("HyperparameterTask", 0.1, 100),
    "char-lstm": _BuiltIn("CharLstmTask", 0.001, 100),
}
"""Tasks that go by a name. Influence balancing never ends; its T is ours."""


class Request(NamedTuple):
    """What was asked for.

    Attributes:
        name: a key of `BUILT_IN`, or the id of an environment.
        theta: "initial", or a file: a policy or a run's folder for an environment, else a vector.
        checkpoint: "best" or "latest", for the folder of a run.
        kwargs: keyword arguments of the task or environment; None if none were given.
        settings: some of `POLICY_OPTIONS`.
        horizon: T; None for the task's own.
        threads: for the task; None for all processors.
        engine: what runs an environment.
        modules: to import first.
    """

    name: str
    theta: str
    checkpoint: str
    kwargs: dict[str, Any] | None
    settings: dict[str, Any]
    horizon: int | None
    threads: int | None
    engine: str
    modules: Sequence[str]


class Subject(NamedTuple):
    """What is measured.

    Attributes:
        task: made, with room for no rows yet.
        theta: (d,) float64.
        theta_name: where θ is from.
        sigma: σ where none is given.
        unroll_length: W where none is given.
        horizon: T.
        normalizer: what observations are normalised with, None for nothing.
    """

    task: UnrolledTask
    theta: NDArray[np.float64]
    theta_name: str
    sigma: float
    unroll_length: int
    horizon: int
    normalizer: Normalizer | None = None

    def close(self) -> None:
        """Let go of processes and memory."""
        close = getattr(self.task, "close", None)
        if close is not None:
            close()


def open_subject(request: Request) -> Subject:
    """Make the task and find θ.

    Raises:
        ConfigError: names the option that cannot be used.
    """
    if request.name in BUILT_IN:
        return _built_in(request)
    import gymnasium as gym

    from es_rl.assembly import import_all

    import_all(tuple(request.modules))
    if request.name not in gym.registry and not any(c in request.name for c in "-:/"):
        near = did_you_mean(request.name, BUILT_IN) or f"; choose one of {', '.join(BUILT_IN)}"
        raise ConfigError(f"TASK {request.name}: no such task{near}, or name an environment")
    try:
        if request.theta == INITIAL:
            return _at_initial_policy(request)
        return _at_saved_policy(request)
    except ConfigError as error:
        raise ConfigError(_in_our_words(str(error), request.name)) from error


def _in_our_words(text: str, name: str) -> str:
    for theirs, ours in (("ENV ", "TASK "), ("RUN_OR_POLICY ", "--theta ")):
        if text.startswith(theirs):
            text = ours + text[len(theirs) :]
    near = did_you_mean(name, BUILT_IN)
    if "no such environment" in text and "did you mean" not in text and near:
        text = f"TASK {name}: no such task or environment{near}"
    return text


def _built_in(request: Request) -> Subject:
    from importlib import import_module

    known = BUILT_IN[request.name]
    for flag, given, default in (
        ("--set", request.settings, {}), ("--import", list(request.modules), []),
        ("--engine", request.engine, "auto"), ("--checkpoint", request.checkpoint, "best"),
    ):  # fmt: skip
        if given != default:
            raise ConfigError(f"{flag}: is for environments; {request.name} takes --env-kwargs")
    kind = getattr(import_module("es_rl.envs"), known.kind)
    kwargs = _checked_kwargs(request.name, kind, dict(request.kwargs or {}))
    try:
        task = kind(n_threads=request.threads, **kwargs)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ConfigError(f"TASK {request.name}: {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--env-kwargs {error}") from None
    horizon = request.horizon or task.horizon or known.horizon
    if horizon is None:
        raise ConfigError(
            "--env-kwargs horizon=null: its episodes never end; give their steps with --horizon"
        )
    theta = task.initial_theta()
    if request.theta != INITIAL:
        theta = _read_vector(request.theta, task.num_params, request.name)
    return Subject(
        task, theta, request.theta, known.sigma, min(known.unroll_length, horizon), horizon
    )


def _checked_kwargs(name: str, kind: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a built-in task, files read and lists made tuples."""
    known = [word for word in inspect.signature(kind).parameters if word != "n_threads"]
    for key, value in kwargs.items():
        if key == "n_threads":
            raise ConfigError(f"--env-kwargs n_threads={value}: use --threads {value}")
        if key not in known:
            near = did_you_mean(key, known) or f"; it takes {', '.join(known)}"
            raise ConfigError(f"--env-kwargs {key}={value}: {name} does not take it{near}")
        if isinstance(value, list):
            kwargs[key] = tuple(value)
        if key == "text" and value is not None:
            from es_rl.envs.datasets import load_text

            if not isinstance(value, str):
                raise ConfigError(f"--env-kwargs text={shown(value)}: must be the path of a text")
            try:
                kwargs[key] = load_text(value)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(f"--env-kwargs text={value}: {reason}") from None
    return kwargs


def _read_vector(path: str, num_params: int, name: str) -> NDArray[np.float64]:
    import numpy as np

    try:
        theta = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ConfigError(f"--theta {path}: no such file; give a .npy file, or initial") from None
    except (OSError, ValueError, EOFError):
        raise ConfigError(f"--theta {path}: is no .npy file of numbers") from None
    if not isinstance(theta, np.ndarray) or theta.shape != (num_params,):
        shape = getattr(theta, "shape", "of several arrays")
        raise ConfigError(f"--theta {path}: has shape {shape}, {name} takes ({num_params},)")
    if theta.dtype.kind not in "biuf" or not np.isfinite(theta).all():
        raise ConfigError(f"--theta {path}: must hold finite numbers")
    return theta.astype(np.float64)


def _config(request: Request, env_kwargs: dict[str, Any] | None) -> tuple[TrainConfig, int]:
    """Return the settings of a NRES run on the environment, with the user's on top, and its W.

    The settings themselves have a window of one step: the preset's may be longer than the episode.
    """
    from es_rl.config_layers import resolve
    from es_rl.options import DEFAULT_UNROLL_LENGTH

    given = {"env": request.name, "algo": "nres", "engine": request.engine, **request.settings}
    optional = {"env_kwargs": env_kwargs, "threads": request.threads,
                "import_modules": tuple(request.modules) or None}  # fmt: skip
    given.update({name: value for name, value in optional.items() if value is not None})
    length = resolve(given).config.unroll_length or DEFAULT_UNROLL_LENGTH
    given.update(unroll_length=1, updates=1)
    if request.horizon is not None:
        given["horizon"] = request.horizon
    return resolve(given).config, length


def _at_initial_policy(request: Request) -> Subject:
    from es_rl.assembly import assemble

    config, length = _config(request, request.kwargs)
    made = assemble(config)
    close = getattr(made.eval_task, "close", None)
    if close is not None:
        close()
    horizon = made.config.horizon
    assert horizon is not None
    return Subject(
        made.task, made.trainer.theta.copy(), INITIAL, config.sigma, min(length, horizon), horizon
    )


def _at_saved_policy(request: Request) -> Subject:
    from es_rl.cli.policy_source import open_source
    from es_rl.envs import make_task

    if request.settings:
        names = ", ".join(request.settings)
        raise ConfigError(f"--set {names}: the policy in --theta {request.theta} has its own")
    source = open_source(
        request.theta, request.checkpoint, env=request.name, env_kwargs=request.kwargs,
        modules=tuple(request.modules),
    )  # fmt: skip
    config, length = _config(request, source.env_kwargs)
    stored = os.path.join(request.theta, "config.yaml")
    if os.path.exists(stored):
        from es_rl.config_layers import load_config

        config, _ = load_config(stored)
        length = config.unroll_length or length
    # what the run had in the end
    integrator = config.integrator if config.integrator_steps is None else None
    try:
        task = make_task(
            request.name, source.policy, engine=request.engine, n_threads=request.threads,
            integrator=integrator, **source.env_kwargs,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"TASK {request.name}: {error}") from None
    horizon = request.horizon or config.horizon or task.horizon
    if horizon is None:
        raise ConfigError(
            f"--horizon: {request.name} has no time limit of its own; give the steps of an episode"
        )
    return Subject(
        task,
        source.policy.theta.copy(),
        source.path,
        config.sigma,
        min(length, horizon),
        horizon,
        source.policy.normalizer,
    )
