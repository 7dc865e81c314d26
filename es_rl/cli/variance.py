"""`es-rl variance`: how noisy the gradient estimators are at a fixed θ."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from es_rl.cli.completion import complete_environment, complete_from, complete_list
from es_rl.cli.extras import need_extra
from es_rl.cli.plot import read_confidence
from es_rl.cli.policy_source import read
from es_rl.cli.settings import Checkpoint, ImportModules, read_settings
from es_rl.cli.variance_report import (
    MAX_CLOSED_HORIZON,
    Case,
    Plan,
    Row,
    draw,
    facts,
    print_rows,
)
from es_rl.cli.variance_source import BUILT_IN, INITIAL, POLICY_OPTIONS, Request, open_subject
from es_rl.option_kinds import Choice, Integer, Real
from es_rl.options import ConfigError, check_value, parse_value

if TYPE_CHECKING:
    from es_rl.cli.variance_source import Subject

__all__ = ["variance"]

_ALGOS = ("nres", "pes", "gpes", "tes", "fulles")
_ENGINES = ("auto", "native", "gymnasium")
_Text = str | None


def _complete_task(incomplete: str) -> list[str]:
    return complete_from(BUILT_IN)(incomplete) + complete_environment(incomplete)


def variance(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help=f"An environment, or one of {', '.join(BUILT_IN)}.",
            autocompletion=_complete_task,
        ),
    ],
    algos: Annotated[
        _Text,
        typer.Option(
            metavar="NAME,...",
            help="Estimators; default: nres,pes,tes,fulles, and gpes if it is given periods.",
            autocompletion=complete_list(_ALGOS),
        ),
    ] = None,
    noise_periods: Annotated[
        _Text, typer.Option(metavar="INTEGER,...", help="K of gpes, multiples of W.")
    ] = None,
    unroll_lengths: Annotated[
        _Text,
        typer.Option(metavar="INTEGER,...", help="W of all but fulles; default: the task's."),
    ] = None,
    theta: Annotated[
        str,
        typer.Option(
            metavar="FILE|initial",
            help="Where: a policy file or a run's folder for an environment, else a .npy file.",
        ),
    ] = INITIAL,
    sigma: Annotated[
        _Text,
        typer.Option(metavar="NUMBER", help="σ; default: the run's, the preset's or the paper's."),
    ] = None,
    horizon: Annotated[
        _Text, typer.Option(metavar="INTEGER", help="T; default: the task's own.")
    ] = None,
    pairs: Annotated[
        str, typer.Option(metavar="INTEGER", help="N: pairs of the update whose variance is told.")
    ] = "1",
    samples: Annotated[
        str,
        typer.Option(metavar="INTEGER", help="Independent samples, each one pair's whole episode."),
    ] = "200",
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="Seed of all randomness.")] = "0",
    confidence: Annotated[
        str, typer.Option(metavar="NUMBER", help="Level of the bootstrap intervals.")
    ] = "0.95",
    checkpoint: Checkpoint = "best",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help=f"{', '.join(n.replace('_', '-') for n in POLICY_OPTIONS)} of the policy whose "
            "initial θ is meant; may be repeated.",
        ),
    ] = None,
    env_kwargs: Annotated[
        _Text,
        typer.Option(metavar="JSON|K=V,...", help="Keyword arguments of the environment or task."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="|".join(_ENGINES),
            help="What runs an environment.",
            autocompletion=complete_from(_ENGINES),
        ),
    ] = "auto",
    threads: Annotated[
        _Text, typer.Option(metavar="INTEGER", help="Threads; results do not depend on it.")
    ] = None,
    import_modules: ImportModules = None,
    output: Annotated[
        _Text,
        typer.Option("-o", "--output", metavar="FILE", help="Plot: .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, mean gradients included.")
    ] = False,
) -> int:
    """Measure the total variance of gradient estimators at a θ that does not move.

    Told beside the closed form where the task has one (influence-balancing).
    """
    asked = _read_cases(algos, noise_periods, unroll_lengths)
    numbers = {
        flag: read(flag, Integer(low), text) if text is not None else None
        for flag, text, low in (
            ("--horizon", horizon, 1), ("--pairs", pairs, 1), ("--samples", samples, 10),
            ("--threads", threads, 1),
        )
    }  # fmt: skip
    level = read_confidence(confidence)
    first_seed: int = read("--seed", Integer(0, 2**64 - 1), seed)
    given_sigma = None if sigma is None else read("--sigma", Real(above=0), sigma)
    settings, _ = read_settings(setting or [], ())
    for name in settings:
        if name not in POLICY_OPTIONS:
            raise ConfigError(f"--set {name}: only {', '.join(POLICY_OPTIONS)} can be set here")
    request = Request(
        task, theta, read("--checkpoint", Choice(("best", "latest")), checkpoint),
        None if env_kwargs is None else parse_value("env_kwargs", env_kwargs), settings,
        numbers["--horizon"], numbers["--threads"], parse_value("engine", engine),
        check_value("import_modules", import_modules or []),
    )  # fmt: skip
    if output is not None:
        need_extra("plot", "variance -o")
        from es_rl.plotting import check_picture_name

        check_picture_name("-o", output)

    from es_rl.envs.mujoco.quiet import quiet

    with quiet():
        subject = open_subject(request)
        try:
            plan = Plan(
                task, subject, given_sigma or subject.sigma, numbers["--pairs"] or 1,
                numbers["--samples"] or 0, first_seed, level,
            )  # fmt: skip
            rows = _measure(plan, asked.cases(subject), shown=sys.stderr.isatty())
        finally:
            subject.close()
    if output is not None:
        draw(plan, rows, output)
    if as_json:
        print(json.dumps(facts(plan, rows, output), indent=2))
    else:
        print_rows(plan, rows)
        if output is not None:
            print(f"plot: {output}")
    return 0


class _Asked(NamedTuple):
    algos: list[str]
    noise_periods: list[int]
    unroll_lengths: list[int]

    def cases(self, subject: Subject) -> list[Case]:
        """Return what is to be measured.

        Raises:
            ConfigError: if a window is longer than the episode, or no window fits a period.
        """
        lengths = self.unroll_lengths or [subject.unroll_length]
        for length in lengths:
            if length > subject.horizon:
                raise ConfigError(
                    f"--unroll-lengths {length}: longer than the episode, which has "
                    f"{subject.horizon} steps"
                )
        for period in self.noise_periods:
            if all(period % length for length in lengths):
                raise ConfigError(
                    f"--noise-periods {period}: must be a multiple of W, which is "
                    f"{' or '.join(map(str, lengths))}"
                )
        cases = []
        for algo in self.algos:
            if algo == "fulles":
                cases.append(Case(algo, None, None))
            elif algo == "gpes":
                cases += [
                    Case(algo, w, k) for w in lengths for k in self.noise_periods if k % w == 0
                ]
            else:
                cases += [Case(algo, w, None) for w in lengths]
        return cases


def _read_cases(algos: str | None, noise_periods: str | None, unroll_lengths: str | None) -> _Asked:
    def numbers(flag: str, text: str | None) -> list[int]:
        words = [] if text is None else text.split(",")
        return sorted({read(flag, Integer(1), word.strip()) for word in words})

    periods = numbers("--noise-periods", noise_periods)
    if algos is None:
        algos = "nres,pes,gpes,tes,fulles" if periods else "nres,pes,tes,fulles"
    names = [read("--algos", Choice(_ALGOS), name.strip()) for name in algos.split(",")]
    if periods and "gpes" not in names:
        raise ConfigError(
            f"--noise-periods {noise_periods}: is for gpes, which --algos {algos} leaves out"
        )
    if "gpes" in names and not periods:
        raise ConfigError("--noise-periods: missing; gpes needs K, such as twice W")
    return _Asked(list(dict.fromkeys(names)), periods, numbers("--unroll-lengths", unroll_lengths))


def _measure(plan: Plan, cases: Sequence[Case], shown: bool) -> list[Row]:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from es_rl.cli.output import progress_bar
    from es_rl.envs.faults import EnvironmentFaultError
    from es_rl.estimators import ESTIMATORS
    from es_rl.tasks import NonFiniteLossError
    from es_rl.variance import closed_variance, measure

    subject, rows = plan.subject, []
    progress = progress_bar(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), shown=shown
    )
    with progress:
        bars = [progress.add_task(case.words, total=None) for case in cases]
        for case, bar in zip(cases, bars, strict=True):
            kind = ESTIMATORS[case.algo]
            try:
                result = measure(
                    kind, subject.task, subject.theta, n_samples=plan.n_samples, seed=plan.seed,
                    confidence=plan.confidence, sigma=plan.sigma, horizon=subject.horizon,
                    normalizer=subject.normalizer,
                    on_progress=lambda done, of, bar=bar: progress.update(  # type: ignore[misc]
                        bar, completed=done, total=of
                    ),
                    **case.options,
                )  # fmt: skip
            except NonFiniteLossError as error:
                raise ConfigError(
                    f"{case.words}: {error.what}; lower --sigma or --horizon, or name another "
                    "--theta"
                ) from error
            except EnvironmentFaultError as error:
                raise ConfigError(f"{case.words}: {error}") from error
            except ValueError as error:
                raise ConfigError(f"--sigma {plan.sigma}: {error}") from error
            closed = None
            if subject.horizon <= MAX_CLOSED_HORIZON:
                closed = closed_variance(
                    kind, subject.task, subject.theta, horizon=subject.horizon,
                    unroll_length=case.unroll_length, noise_period=result.noise_period,
                )  # fmt: skip
            rows.append(Row(case, result, closed))
    return rows
