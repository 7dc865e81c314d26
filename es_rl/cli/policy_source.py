"""Which policy a subcommand acts on, and in which environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from es_rl.option_kinds import Choice, Integer, Kind
from es_rl.options import OPTIONS, ConfigError

if TYPE_CHECKING:
    from es_rl.policies import Policy

__all__ = ["CHECKPOINTS", "Source", "open_policy", "open_source", "policy_file", "read"]

_FILES = {"best": "best_policy.npz", "latest": "policy.npz"}
CHECKPOINTS = tuple(_FILES)
"""Which policies the folder of a run has."""

_TOLD = ("env", "env_kwargs", "import_modules", "horizon")
"""Options of training that a policy file tells."""


class Source(NamedTuple):
    """A policy and the environment to run it in.

    Attributes:
        policy: as it was saved.
        path: its file.
        env_id: id of the environment.
        env_kwargs: keyword arguments of the environment; they give it a time limit if it has none.
        modules: modules that were imported for it.
    """

    policy: Policy
    path: str
    env_id: str
    env_kwargs: dict[str, Any]
    modules: tuple[str, ...]


def read(name: str, kind: Kind, text: str) -> Any:
    """Return the value that `text` gives to the option `name`.

    Raises:
        ConfigError: says what is wrong with it.
    """
    try:
        return kind.parse(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text}: {error}") from None


def policy_file(run_or_policy: str, checkpoint: str) -> str:
    """Return the policy file that is meant, which exists.

    Args:
        run_or_policy: folder of a run, or a policy file.
        checkpoint: "best" or "latest", for the folder of a run.

    Raises:
        ConfigError: if there is none.
    """
    read("--checkpoint", Choice(CHECKPOINTS), checkpoint)
    if not os.path.isdir(run_or_policy):
        if not os.path.exists(run_or_policy):
            raise ConfigError(f"RUN_OR_POLICY {run_or_policy}: no such folder or file")
        return run_or_policy
    path = os.path.join(run_or_policy, _FILES[checkpoint])
    if not os.path.exists(path):
        others = [f"--checkpoint {name}" for name, file in _FILES.items()
                  if os.path.exists(os.path.join(run_or_policy, file))]  # fmt: skip
        way_out = f"try {others[0]}" if others else "is it the folder of a run?"
        raise ConfigError(f"RUN_OR_POLICY {run_or_policy}: has no {_FILES[checkpoint]}; {way_out}")
    return path


def open_policy(run_or_policy: str, path: str) -> Policy:
    """Return the policy in the file `path`, which is what `run_or_policy` means.

    Raises:
        ConfigError: if it cannot be loaded.
    """
    from es_rl.policies import load_policy

    try:
        return load_policy(path)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"RUN_OR_POLICY {run_or_policy}: {error}") from None


def open_source(
    run_or_policy: str,
    checkpoint: str = "best",
    *,
    env: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    modules: Sequence[str] = (),
) -> Source:
    """Load a policy and settle on an environment that it fits.

    Args:
        run_or_policy: folder of a run, or a policy file.
        checkpoint: "best" or "latest", for the folder of a run.
        env: environment; None for the one that the policy was trained on.
        env_kwargs: of the environment; None for those of training.
        modules: to import first; none for those of a run's own configuration. A policy file has
            nothing imported for it: where it was trained with modules they must be given.

    Raises:
        ConfigError: if there is no such policy or environment, or they do not fit, or a module
            would have to be imported that nobody asked for.
    """
    path = policy_file(run_or_policy, checkpoint)

    from es_rl.assembly import check_environment, import_all
    from es_rl.envs.making import close_env

    policy = open_policy(run_or_policy, path)
    told = _told(policy, path)
    env_id = env if env is not None else told.get("env")
    if env_id is None:
        raise ConfigError(f"--env: {path} does not tell what it was trained on; name it")
    own = told.get("env_kwargs", {}) if env_id == told.get("env") else {}
    kwargs = dict(own if env_kwargs is None else env_kwargs)
    imported = tuple(modules)
    if env is None:
        imported = _allowed_modules(run_or_policy, path, told, imported)
    import_all(imported)
    made = check_environment(env_id, kwargs)
    try:
        policy.check_fits(made, env_id)
    except ValueError as error:
        raise ConfigError(f"ENV {env_id}: {error}") from None
    finally:
        close_env(made, env_id)
    limit = made.spec.max_episode_steps if made.spec else None
    if limit is None:
        # an episode of training was the steps of --horizon
        horizon = told.get("horizon")
        if horizon is None:
            raise ConfigError(
                f"--env-kwargs: {env_id} has no time limit; give one with max_episode_steps=STEPS"
            )
        kwargs["max_episode_steps"] = horizon
    return Source(policy, path, env_id, kwargs, imported)


def _told(policy: Policy, path: str) -> dict[str, Any]:
    """Return what the policy file says of its training, but what it leaves open.

    Raises:
        ConfigError: if it is not what a run writes.
    """
    kinds: dict[str, Kind] = {name: OPTIONS[name].kind for name in _TOLD} | {"update": Integer(0)}
    told = {}
    for name, kind in kinds.items():
        value = policy.metadata.get(name)
        if value is not None:
            try:
                told[name] = kind.check(value)
            except ValueError as error:
                raise ConfigError(
                    f"RUN_OR_POLICY {path}: not a usable policy file (its {name}: {error})"
                ) from None
    return told


def _allowed_modules(
    run_or_policy: str, path: str, told: dict[str, Any], given: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the modules to import for the environment that a policy was trained on.

    A policy file may come from anywhere, so what it names is not run for that. The folder of a
    run is its user's own, as a Makefile is: its config.yaml may name modules.
    """
    needed = list(told.get("import_modules", ()))
    # Gymnasium imports what stands before the colon of an id
    module, colon, _ = told["env"].rpartition(":")
    if colon:
        needed.append(module)
    config = os.path.join(run_or_policy, "config.yaml")
    allowed = given
    if needed and not given and os.path.isfile(config):
        from es_rl.config_layers import load_config

        run, _ = load_config(config)
        given = run.import_modules
        allowed = (*given, run.env.rpartition(":")[0])
    missing = [name for name in needed if name not in allowed]
    if missing:
        raise ConfigError(
            f"--import: {path} was trained with {', '.join(missing)}, and nothing is imported "
            "because a policy file names it; if you trust the code, add "
            + " ".join(f"--import {name}" for name in missing)
        )
    return given
