"""`es-rl compare`: algorithms on one environment, at the same number of steps."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_rl.cli.completion import complete_environment, complete_list, complete_preset
from es_rl.cli.extras import need_extra
from es_rl.cli.plot import read_confidence, read_thresholds, thresholds_of
from es_rl.cli.policy_source import read
from es_rl.cli.settings import EnvKwargs, ImportModules, read_presets, read_settings
from es_rl.option_kinds import Choice, Integer
from es_rl.options import ALGORITHMS, ConfigError, check_value, parse_value

if TYPE_CHECKING:
    from es_rl.comparison import Plan, Summary
    from es_rl.curves import Curve
    from es_rl.run_pool import Evaluated, Finished, Job

__all__ = ["compare"]

_Text = str | None


def compare(
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV", help="Environment to compare on.", autocompletion=complete_environment
        ),
    ],
    algos: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Algorithms, joined by commas.",
            autocompletion=complete_list(ALGORITHMS),
        ),
    ] = "nres,pes,tes,fulles",
    seeds: Annotated[
        str,
        typer.Option(metavar="INTEGER|LIST", help="How many seeds (5: 0 to 4), or 23,29,31."),
    ] = "5",
    jobs: Annotated[
        _Text, typer.Option(metavar="INTEGER", help="Runs at a time; default: one a processor.")
    ] = None,
    total_steps: Annotated[
        _Text,
        typer.Option(
            metavar="INTEGER", help="Budget of each run; default: the largest of the presets'."
        ),
    ] = None,
    n_pairs: Annotated[
        _Text,
        typer.Option(
            metavar="INTEGER",
            help="N of the first; tes gets 2N/3 and fulles N·W/T, for equal steps an update; "
            "default: the preset's.",
        ),
    ] = None,
    unroll_length: Annotated[
        _Text,
        typer.Option(metavar="INTEGER", help="W of all but fulles; default: the first preset's."),
    ] = None,
    eval_every: Annotated[
        _Text,
        typer.Option(metavar="INTEGER", help="Updates between evaluations; default: 20 in a run."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            metavar=r"\[ALGO=]NAME|FILE",
            help="Settings of all, or of one; may be repeated.",
            autocompletion=complete_preset,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar=r"\[ALGO.]OPTION=VALUE",
            help="An option of `es-rl train` for all, or for one; may be repeated.",
        ),
    ] = None,
    env_kwargs: EnvKwargs = None,
    import_modules: ImportModules = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD|none",
            help="Tell the steps to this reward, may be repeated; default: the environment's own "
            "threshold in Gymnasium's registry.",
        ),
    ] = None,
    confidence: Annotated[
        str, typer.Option(metavar="NUMBER", help="Level of the bootstrap intervals.")
    ] = "0.95",
    folder: Annotated[
        _Text,
        typer.Option("--dir", metavar="FOLDER", help="Of the runs; default: runs/compare-ENV."),
    ] = None,
    output: Annotated[
        _Text,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Plot; default: comparison.png among the runs."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON, and progress on stderr.")
    ] = False,
) -> int:
    """Train several algorithms on several seeds, with equal steps in every update, and compare.

    Ends with a table and a plot. Ctrl-C saves; the same command goes on, and repeats nothing that
    is finished. The runs are ordinary ones, in a folder each.
    """
    names = [read("--algos", Choice(tuple(ALGORITHMS)), name.strip()) for name in algos.split(",")]
    names = list(dict.fromkeys(names))
    numbers = {
        name: None if text is None else read("--" + name.replace("_", "-"), Integer(1), text)
        for name, text in {"total_steps": total_steps, "n_pairs": n_pairs, "jobs": jobs,
                           "unroll_length": unroll_length, "eval_every": eval_every}.items()
    }  # fmt: skip
    chosen = _read_seeds(seeds)
    presets = read_presets(preset or [], names)
    settings, own = read_settings(setting or [], names)
    kwargs = {} if env_kwargs is None else parse_value("env_kwargs", env_kwargs)
    modules = check_value("import_modules", import_modules or [])
    given = read_thresholds(threshold)
    level = read_confidence(confidence)
    need_extra("plot", "compare")
    where = folder or os.path.join("runs", "compare-" + re.sub(r"[^\w.-]+", "-", env))
    picture = output or os.path.join(where, "comparison.png")

    from es_rl.comparison import make_plan, run_jobs
    from es_rl.perturbations import usable_cpus
    from es_rl.plotting import check_picture_name

    if output is not None:
        check_picture_name("-o", output)
    n_jobs = numbers.pop("jobs") or usable_cpus()
    plan = make_plan(
        env, names, chosen, where, presets=presets, settings=settings, own_settings=own,
        env_kwargs=kwargs, import_modules=modules, threads=max(1, usable_cpus() // n_jobs),
        **numbers,
    )  # fmt: skip

    from es_rl.cli.session import Interrupt

    report = _Report(plan, file=sys.stderr if as_json else sys.stdout)
    interrupt = Interrupt()
    try:
        with interrupt.installed():
            ended = run_jobs(plan.jobs, n_jobs, on_event=report.take, should_stop=interrupt)
    except KeyboardInterrupt:
        report.say("interrupted at once; the same command goes on from the last checkpoints")
        return 128 + (interrupt.signal or signal.SIGINT)
    if interrupt.signal is not None:
        report.say("stopped and saved; the same command goes on")
        return 128 + interrupt.signal
    return _conclude(plan, ended, names, given, level, picture, as_json, report)


def _read_seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if len(words) == 1:
        return list(range(read("--seeds", Integer(1, 10_000), text)))
    seeds = [read("--seeds", Integer(0, 2**64 - 1), word) for word in words if word]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: lists a seed twice, which would count it twice")
    return seeds


class _Report:
    """Tells how far the runs are, a line for each that ends."""

    def __init__(self, plan: Plan, file: Any) -> None:
        self._file, self._is_terminal = file, file.isatty()
        self._n_jobs, self._n_ended = len(plan.jobs), 0
        self._shares: dict[str, float] = {}
        config = plan.jobs[0].config
        self.say(
            f"{config.env} · {self._n_jobs} runs of {config.total_steps:,} steps · "
            f"{os.path.dirname(plan.jobs[0].run_dir)}"
        )
        for note in plan.notes:
            self.say(f"note: {note}")

    def say(self, text: str) -> None:
        """Print a line."""
        print(("\r\033[K" if self._is_terminal else "") + text, file=self._file, flush=True)

    def take(self, event: Evaluated | Finished) -> None:
        """Tell of an event."""
        from es_rl.cli.display import reward_text
        from es_rl.run_pool import Evaluated

        job = event.job
        name = f"{job.config.algo} seed {job.config.seed}"
        if isinstance(event, Evaluated):
            budget = job.config.total_steps or 1
            self._shares[name] = min(event.row.total_steps / budget, 1.0)
        elif event.reason != "interrupted":
            self._n_ended += 1
            self._shares.pop(name, None)
            told = f"failed: {event.error}"
            if event.reward is not None:
                told = f"reward {reward_text(event.reward)}"
            self.say(f"{self._n_ended:>3} of {self._n_jobs} · {name} · {told}")
        if self._is_terminal:
            parts = [f"{name} {100 * share:.0f}%" for name, share in self._shares.items()]
            print("\r\033[K" + " · ".join(parts), end="", file=self._file, flush=True)


def _conclude(
    plan: Plan,
    ended: Sequence[Finished],
    algos: Sequence[str],
    given: tuple[float, ...] | None,
    level: float,
    picture: str,
    as_json: bool,
    report: _Report,
) -> int:
    """Print the table, draw the plot and return the exit code."""
    from es_rl.comparison import summarise
    from es_rl.curves import Group, read_curve
    from es_rl.plotting import draw, make_panels, save_figure

    failed = {event.job.run_dir for event in ended if event.error is not None}
    curves: dict[str, list[Curve]] = {algo: [] for algo in algos}
    jobs: dict[str, list[Job]] = {algo: [] for algo in algos}
    for job in plan.jobs:
        jobs[job.config.algo].append(job)
        if job.run_dir not in failed:
            curves[job.config.algo].append(read_curve(job.run_dir))
    env = plan.jobs[0].config.env
    groups = [Group(algo, env, curves[algo]) for algo in algos if curves[algo]]
    thresholds = thresholds_of(groups, given).get(env, ())
    summaries = [
        summarise(
            algo, [job.config for job in jobs[algo]], curves[algo], thresholds,
            n_failed=len(jobs[algo]) - len(curves[algo]), confidence=level,
        )
        for algo in algos
    ]  # fmt: skip
    panels, notes = make_panels(groups, ("sequential", "total"), {env: thresholds}, level)
    for note in notes:
        report.say(f"note: {note}")
    if groups:
        save_figure(draw(panels, confidence=level), picture)
    else:
        report.say("no run was finished, so there is nothing to draw")
    if as_json:
        budget = plan.jobs[0].config.total_steps
        facts = {
            "env": env, "total_steps": budget, "confidence": level,
            "seeds": list(dict.fromkeys(job.config.seed for job in plan.jobs)),
            "plot": picture if groups else None, "algorithms": [_facts(s) for s in summaries],
        }  # fmt: skip
        print(json.dumps(facts, indent=2))
    else:
        _print_table(summaries, thresholds, level)
        if groups:
            print(f"plot: {picture}")
    return 1 if failed else 0


def _facts(summary: Summary) -> dict[str, Any]:
    facts = summary._asdict()
    facts["reached"] = [
        {"threshold": threshold, **reached._asdict()}
        for threshold, reached in summary.reached.items()
    ]
    return facts


def _print_table(summaries: Sequence[Summary], thresholds: Sequence[float], level: float) -> None:
    from es_rl.cli.display import reward_text
    from es_rl.cli.tables import print_table

    titles = ["algorithm", "pairs", "steps/update", "runs", "final reward", "interval"]
    for threshold in thresholds:
        titles += [f"sequential to {threshold:g}", f"total to {threshold:g}", "reached"]
    rows = []
    for s in summaries:
        final = "–" if s.final is None else reward_text(s.final)
        interval = "–"
        if s.low is not None and s.high is not None:
            interval = f"{reward_text(s.low)} to {reward_text(s.high)}"
        of = f"{s.n_runs} of {s.n_runs + s.n_failed}"
        row = [s.algo, f"{s.n_pairs:,}", f"{s.steps_per_update:,}", of, final, interval]
        for reached in s.reached.values():
            row += ["–" if steps is None else f"{steps:,.0f}" for steps in reached[:2]]
            row.append(f"{reached.n_runs} of {s.n_runs}")
        rows.append(row)
    print()
    print_table(titles, rows, left=("algorithm",))
    print(f"\nfinal reward: interquartile mean over seeds, {100 * level:g} % bootstrap interval")
    if thresholds:
        print("steps to a reward: median over seeds, those that were never there as infinite")
