"""`es-rl envs`: what can be trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from es_rl.cli.settings import ImportModules
from es_rl.options import check_value

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

__all__ = ["EnvironmentFacts", "envs", "examine"]


class EnvironmentFacts(NamedTuple):
    """What a user wants to know of an environment before training on it.

    Attributes:
        env: its id.
        engine: "native" or "gymnasium"; None if it cannot be trained.
        observations: numbers in an observation.
        actions: numbers in an action, or "n choices".
        horizon: time limit in steps; None if it has none.
        threshold: reward at which it counts as solved; None if nobody said.
        reason: why it cannot be trained; None if it can.
    """

    env: str
    engine: str | None = None
    observations: int | None = None
    actions: str | None = None
    horizon: int | None = None
    threshold: float | None = None
    reason: str | None = None


def examine(spec: EnvSpec) -> EnvironmentFacts:
    """Make an environment once and say whether a policy can act in it, and on which engine."""
    import gymnasium as gym

    from es_rl.envs.making import close_env, make_env
    from es_rl.envs.mujoco.make import why_not_native
    from es_rl.policies import LinearPolicy

    try:
        env = make_env(spec.id)
    except ValueError as error:
        return EnvironmentFacts(spec.id, reason=" ".join(str(error).split()))
    try:
        policy = LinearPolicy(env.observation_space, env.action_space)
    except ValueError as error:
        return EnvironmentFacts(spec.id, reason=str(error))
    finally:
        close_env(env, spec.id)
    outputs = int(policy.arrays.sizes[-1])
    is_discrete = isinstance(env.action_space, gym.spaces.Discrete)
    return EnvironmentFacts(
        env=spec.id,
        engine="native" if why_not_native(env) is None else "gymnasium",
        observations=int(policy.arrays.sizes[0]),
        actions=f"{outputs} choices" if is_discrete else str(outputs),
        horizon=spec.max_episode_steps,
        threshold=spec.reward_threshold,
    )


def envs(
    import_modules: ImportModules = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also those that cannot be trained here, and why.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the environments that can be trained, those of the native engine first."""
    modules = check_value("import_modules", import_modules or [])

    import gymnasium as gym

    from es_rl.assembly import import_all
    from es_rl.envs.making import distinct_ids

    import_all(modules)
    facts = [examine(gym.registry[env_id]) for env_id in distinct_ids()]
    facts.sort(key=lambda fact: ("native", "gymnasium", None).index(fact.engine))
    usable = [fact for fact in facts if fact.engine is not None]
    if as_json:
        listed = facts if show_all else usable
        print(json.dumps([fact._asdict() for fact in listed], indent=2))
        return
    _print(usable, [fact for fact in facts if fact.engine is None] if show_all else [])


def _print(usable: list[EnvironmentFacts], unusable: list[EnvironmentFacts]) -> None:
    from rich.console import Console
    from rich.table import Table

    def text(value: Any) -> str:
        return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    table = Table(box=None, pad_edge=False)
    for title in ("environment", "engine", "observations", "actions", "horizon", "solved at"):
        words = title in ("environment", "engine")
        table.add_column(title, justify="left" if words else "right", no_wrap=True)
    for fact in usable:
        table.add_row(*(text(value) for value in fact[:-1]))
    console = Console()
    console.print(table)
    for fact in unusable:
        console.print(f"{fact.env}: {fact.reason}", soft_wrap=True, markup=False, highlight=False)
    console.print(
        "\nAny other environment that Gymnasium can make trains too: register it in a module and "
        "give --import MODULE.",
        highlight=False,
    )
