"""`es-rl evaluate`: trained policies on plain Gymnasium environments."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_rl.cli.completion import complete_environment
from es_rl.cli.policy_source import Source, open_source, policy_file, read
from es_rl.cli.settings import Checkpoint, ImportModules
from es_rl.option_kinds import Integer
from es_rl.options import check_value, parse_value

if TYPE_CHECKING:
    from es_rl.evaluation import Evaluation

__all__ = ["evaluate"]


def evaluate(
    run_or_policy: Annotated[
        list[str],
        typer.Argument(metavar="RUN_OR_POLICY...", help="Folders of runs, or policy files."),
    ],
    episodes: Annotated[str, typer.Option(metavar="INTEGER", help="Whole episodes to run.")] = "20",
    seed: Annotated[
        str, typer.Option(metavar="INTEGER", help="Seed of the first episode; then seed + 1, ...")
    ] = "0",
    checkpoint: Checkpoint = "best",
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ENV",
            help="Environment; default: the one it was trained on.",
            autocompletion=complete_environment,
        ),
    ] = None,
    env_kwargs: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|K=V,...", help="Keyword arguments of the environment; default: likewise."
        ),
    ] = None,
    import_modules: ImportModules = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; a list if there are several.")
    ] = False,
) -> None:
    """Evaluate runs or policy files on `gymnasium.make`, without anything of the trainer."""
    n_episodes = read("--episodes", Integer(1), episodes)
    first_seed = read("--seed", Integer(0, 2**32 - 1), seed)
    given = None if env_kwargs is None else parse_value("env_kwargs", env_kwargs)
    modules = check_value("import_modules", import_modules or [])
    for name in run_or_policy:
        policy_file(name, checkpoint)  # before anything is loaded, so that a mistake is told soon

    from es_rl.envs.mujoco.quiet import quiet
    from es_rl.evaluation import evaluate as evaluate_policy

    # what an environment prints is no part of an answer for programs
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with aside:
        sources = [
            open_source(name, checkpoint, env=env, env_kwargs=given, modules=modules)
            for name in run_or_policy
        ]
    results: list[Evaluation] = []
    total = n_episodes * len(sources)
    shown = not as_json and sys.stderr.isatty()
    with aside, quiet(), _Progress(total, shown=shown) as progress:
        for source in sources:
            results.append(
                evaluate_policy(
                    source.policy, source.env_id, n_episodes=n_episodes, seed=first_seed,
                    env_kwargs=source.env_kwargs, import_modules=source.modules,
                    on_episode=progress.advance,
                )
            )  # fmt: skip
    if as_json:
        facts = [_facts(s, r, first_seed) for s, r in zip(sources, results, strict=True)]
        print(json.dumps(facts if len(facts) > 1 else facts[0], indent=2))
    elif len(sources) == 1:
        _print_one(sources[0], results[0])
    else:
        _print_table(sources, results)


class _Progress:
    """A bar on stderr that counts episodes."""

    def __init__(self, n_episodes: int, shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

        from es_rl.cli.output import progress_bar

        self._progress = progress_bar(
            TextColumn("episodes"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[reward]}"),
            shown=shown,
        )
        self._task = self._progress.add_task("", total=n_episodes, reward="")

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self, done: int, reward: float) -> None:
        """Count one episode more; `done`, which starts anew with each policy, is not needed."""
        self._progress.update(self._task, advance=1, reward=f"last {reward:,.1f}")


def _facts(source: Source, result: Evaluation, seed: int) -> dict[str, Any]:
    return {
        "env": source.env_id,
        "policy": source.path,
        "update": source.policy.metadata.get("update"),
        "episodes": int(result.rewards.size),
        "seed": seed,
        "reward_mean": result.mean,
        "reward_std": result.std,
        "reward_min": float(result.rewards.min()),
        "reward_max": float(result.rewards.max()),
        "rewards": result.rewards.tolist(),
        "lengths": result.lengths.tolist(),
    }


def _print_one(source: Source, result: Evaluation) -> None:
    from es_rl.cli.display import reward_text

    rewards = result.rewards
    update = source.policy.metadata.get("update")
    print(f"{source.env_id} · {source.path}" + ("" if update is None else f" (update {update:,})"))
    print(
        f"reward {reward_text(result.mean, result.std)} over {rewards.size} episodes "
        f"({reward_text(float(rewards.min()))} to {reward_text(float(rewards.max()))}; "
        f"{result.lengths.mean():,.0f} steps each)"
    )


def _print_table(sources: list[Source], results: list[Evaluation]) -> None:
    from es_rl.cli.display import reward_text
    from es_rl.cli.tables import print_table

    rows = []
    for source, result in zip(sources, results, strict=True):
        update = source.policy.metadata.get("update")
        rows.append(
            (
                source.path,
                source.env_id,
                "–" if update is None else f"{update:,}",
                reward_text(result.mean, result.std),
                reward_text(float(result.rewards.min())),
                reward_text(float(result.rewards.max())),
                f"{result.lengths.mean():,.0f}",
            )
        )
    titles = ("policy", "environment", "update", "reward", "lowest", "highest", "steps")
    print_table(titles, rows, left=("policy", "environment"))
    n = results[0].rewards.size
    print(f"\nmean ± standard deviation over {n} episodes each; steps: mean length of an episode")
