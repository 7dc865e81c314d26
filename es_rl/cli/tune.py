"""`es-rl tune`: search for good settings."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from es_rl.cli.completion import complete_environment, complete_from, complete_preset
from es_rl.cli.extras import need_extra
from es_rl.cli.policy_source import read
from es_rl.cli.settings import EnvKwargs, ImportModules, read_settings
from es_rl.option_kinds import Choice, Integer
from es_rl.options import ALGORITHMS, ConfigError, check_value, parse_value, shown
from es_rl.search_space import read_dimension

if TYPE_CHECKING:
    from es_rl.tuning import Outcome, TrialEnded

__all__ = ["tune"]

_NOT_SET = ("env", "algo", "seed", "env_kwargs", "import_modules", "threads", "tensorboard",
            "updates", "total_steps", "sequential_steps", "max_time", "stop_at", "eval_every",
            "eval_episodes")  # fmt: skip
_Text = str | None


def tune(
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV", help="Environment to tune for.", autocompletion=complete_environment
        ),
    ],
    algo: Annotated[
        str,
        typer.Option(
            metavar="|".join(ALGORITHMS),
            help="Algorithm to tune.",
            autocompletion=complete_from(ALGORITHMS),
        ),
    ] = "nres",
    trials: Annotated[
        str,
        typer.Option(metavar="INTEGER", help="Trials that the study shall have in the end."),
    ] = "30",
    study: Annotated[
        _Text,
        typer.Option(metavar="FOLDER", help="Of the study; default: runs/tune-ENV-ALGO."),
    ] = None,
    jobs: Annotated[
        _Text, typer.Option(metavar="INTEGER", help="Trials at a time; default: one a processor.")
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="INTEGER", help="Runs of each trial.")] = "1",
    total_steps: Annotated[
        _Text, typer.Option(metavar="INTEGER", help="Budget of each run; default: the preset's.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Fix an option of `es-rl train`, which is then not searched; may be repeated.",
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=LOW:HIGH|OPTION=A,B,...",
            help="Search this range (logarithmic), or these values; may be repeated.",
        ),
    ] = None,
    preset: Annotated[
        _Text,
        typer.Option(
            metavar="NAME|FILE",
            help="Settings of what is not searched.",
            autocompletion=complete_preset,
        ),
    ] = None,
    env_kwargs: EnvKwargs = None,
    import_modules: ImportModules = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON, and progress on stderr.")
    ] = False,
) -> int:
    """Search for good settings with Optuna, and write them to a preset for `es-rl train`.

    Bad trials are cut short. Ctrl-C saves; the same command goes on with the study, and so does
    one with more --trials. The seeds are apart from those that results are reported for.
    """
    read("--algo", Choice(tuple(ALGORITHMS)), algo)
    n_trials = read("--trials", Integer(1), trials)
    n_seeds = read("--seeds", Integer(1, 1000), seeds)
    budget = None if total_steps is None else read("--total-steps", Integer(1), total_steps)
    given_jobs = None if jobs is None else read("--jobs", Integer(1), jobs)
    fixed, own = read_settings(setting or [], [algo])
    fixed.update(own.get(algo, {}))
    for name in fixed:
        if name in _NOT_SET:
            given = f"--set {name}={shown(fixed[name])}"
            raise ConfigError(f"{given}: cannot be fixed here; use the command's own option")
    searched = [read_dimension(word) for word in search or []]
    for dimension in searched:
        if dimension.option in _NOT_SET:
            raise ConfigError(f"--search {dimension.option}: cannot be searched")
    kwargs = {} if env_kwargs is None else parse_value("env_kwargs", env_kwargs)
    modules = check_value("import_modules", import_modules or [])
    need_extra("tune", "tune")
    folder = study or os.path.join("runs", "tune-" + re.sub(r"[^\w.-]+", "-", f"{env}-{algo}"))

    from es_rl.cli.session import Interrupt
    from es_rl.perturbations import usable_cpus
    from es_rl.tuning import Study

    n_jobs = given_jobs or usable_cpus()
    interrupt = Interrupt()
    with Study(
        folder, env, algo, fixed=fixed, total_steps=budget, n_seeds=n_seeds, env_kwargs=kwargs,
        import_modules=modules, preset=preset, threads=max(1, usable_cpus() // n_jobs),
        searched=searched,
    ) as opened:  # fmt: skip
        log = sys.stderr if as_json else sys.stdout
        print(f"{env} · {algo} · {n_trials} trials · {folder}", file=log, flush=True)
        for dimension in opened.dimensions:
            print(f"  {dimension.name}: {dimension.describe()}", file=log, flush=True)
        try:
            with interrupt.installed():
                outcome = opened.run(
                    n_trials, n_jobs, on_trial=partial(_tell, log), should_stop=interrupt
                )
        except KeyboardInterrupt:
            print("interrupted at once; the same command goes on", file=sys.stderr)
            return 128 + (interrupt.signal or signal.SIGINT)
    if as_json:
        print(
            json.dumps({"env": env, "algo": algo, "study": folder, **outcome._asdict()}, indent=2)
        )
    else:
        _conclude(outcome, env, algo, modules)
    if interrupt.signal is not None:
        print("stopped and saved; the same command goes on", file=log)
        return 128 + interrupt.signal
    return 0


def _words(settings: dict[str, object]) -> str:
    return " ".join(f"{name}={shown(value)}" for name, value in settings.items())


def _tell(log: TextIO, ended: TrialEnded) -> None:
    from es_rl.cli.display import reward_text

    told = ended.state if ended.value is None else reward_text(ended.value)
    reason = "" if ended.error is None else f" ({ended.error})"
    print(
        f"trial {ended.number:>3} · {told:>9} · {_words(ended.settings)}{reason}",
        file=log,
        flush=True,
    )


def _conclude(outcome: Outcome, env: str, algo: str, modules: Sequence[str]) -> None:
    from es_rl.cli.display import reward_text

    print(f"\n{outcome.n_trials} trials so far")
    if outcome.best_settings is None or outcome.preset is None or outcome.best_value is None:
        print("no trial is complete, so there is no preset yet")
        return
    print(f"best: trial {outcome.best_number}, {reward_text(outcome.best_value)}")
    print(f"preset: {outcome.preset}")
    print("\nnext, on seeds of their own:")
    imports = "".join(f" --import {module}" for module in modules)
    preset = shlex.quote(outcome.preset)
    print(f"  es-rl train {env} --algo {algo}{imports} --preset {preset} --seed 0")
