"""Swimmer and HalfCheetah by all evolution strategies, against sequential and total steps.

Runs are planned, trained and summed up by `es_rl.comparison`, as `es-rl compare` does: equally
many steps in every update of every method.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from es_rl.assembly import assemble
from es_rl.comparison import Summary, make_plan, run_jobs, summarise
from es_rl.config import TrainConfig
from es_rl.curves import Curve, Group, read_curve
from es_rl.evaluation import evaluate_on_task
from es_rl.files import write_text
from es_rl.plotting import draw, make_panels
from es_rl.run_pool import Finished, Job
from reproductions.report import Report
from reproductions.training import tune

__all__ = ["ALGORITHMS", "Outcome", "Study", "compare", "present", "tuned"]

ALGORITHMS = {"nres": "NRES", "pes": "PES", "tes": "TES", "fulles": "FullES"}
EVALUATION_SEED = 10_000
_UNTUNED = "default"  # a task's own preset, when it is tuned anew, would change these figures


class Study(NamedTuple):
    """One environment with what is the same for all methods.

    Attributes:
        env: environment.
        n_pairs: N of NRES and PES; TES and FullES have as many as take equal steps.
        unroll_length: W.
        thresholds: rewards that count as solved, the first being the one that is judged.
        settings: other options of all methods.
        rates: middle of each method's grid of learning rates.
        sigmas: σ that are tried.
    """

    env: str
    n_pairs: int
    unroll_length: int
    thresholds: tuple[float, ...]
    settings: Mapping[str, Any]
    rates: Mapping[str, float]
    sigmas: tuple[float, ...]


def _plan(
    study: Study, seeds: Sequence[int], folder: str, total_steps: int, eval_every: int,
    own: Mapping[str, Mapping[str, Any]], preset: str = _UNTUNED, episodes: int = 20,
) -> list[Job]:  # fmt: skip
    plan = make_plan(
        study.env, list(ALGORITHMS), seeds, folder, n_pairs=study.n_pairs,
        unroll_length=study.unroll_length, total_steps=total_steps, eval_every=eval_every,
        presets={"": preset},
        settings={**study.settings, "eval_episodes": episodes},
        own_settings=own, threads=1,
    )  # fmt: skip
    jobs: list[Job] = plan.jobs
    return jobs


def trial(
    study: list[Any], algo: str, learning_rate: float, sigma: float, total_steps: int,
    evaluations: int, episodes: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train once and return minus the mean of the evaluations' rewards, those on the way too."""
    own = {algo: {"learning_rate": learning_rate, "sigma": sigma}}
    jobs = _plan(Study(*study), [seed], "", total_steps, 1, own)
    config = next(job.config for job in jobs if job.config.algo == algo)
    rewards: list[float] = []
    with assemble(config) as made:
        for part in range(evaluations):
            try:
                made.trainer.run(total_steps=total_steps * (part + 1) // evaluations)
            except FloatingPointError:
                return {"score": np.inf, "rewards": np.array(rewards)}
            found = evaluate_on_task(
                made.eval_task, made.trainer.theta, n_episodes=episodes, seed=EVALUATION_SEED,
                normalizer=made.trainer.estimator.normalizer,
            )  # fmt: skip
            rewards.append(found.mean)
    return {"score": -float(np.mean(rewards)), "rewards": np.array(rewards)}


def tuned(report: Report, study: Study, total_steps: int) -> dict[str, dict[str, float]]:
    """Choose learning rate and σ of every method, on the same grid and seeds for all.

    Returns:
        by algorithm, "learning_rate" and "sigma".
    """
    quick = report.size == "quick"
    plain = [dict(part) if isinstance(part, Mapping) else part for part in study]
    algorithms = ["nres"] if quick else list(ALGORITHMS)
    methods = {
        f"{ALGORITHMS[algo]}, σ={sigma:g}": {
            "study": plain, "algo": algo, "learning_rate": study.rates[algo], "sigma": sigma,
            "total_steps": total_steps, "evaluations": report.pick(1, 5, 10),
            "episodes": report.pick(1, 4, 10),
        }
        for algo in algorithms
        for sigma in (study.sigmas[:1] if quick else study.sigmas)
    }  # fmt: skip
    _, grid = tune(
        report, trial, methods, n_seeds=report.pick(1, 2, 5), reach=report.pick(0, 1, 2),
        most=report.pick(0, 3, 4),
    )  # fmt: skip
    for row in grid:
        settings = methods[row["method"]]
        row.update(algo=settings["algo"], sigma=settings["sigma"], chosen=False)
    chosen = {}
    for algo in algorithms:
        best = min((r for r in grid if r["algo"] == algo), key=lambda row: row["score"])
        best["chosen"] = True
        chosen[algo] = {"learning_rate": best["learning_rate"], "sigma": best["sigma"]}
    report.write_csv(
        "tuning",
        [
            {"method": ALGORITHMS[r["algo"]], "sigma": r["sigma"],
             "learning_rate": r["learning_rate"], "mean reward on the way": -r["score"],
             "chosen": r["chosen"]}
            for r in grid
        ],
    )  # fmt: skip
    for algo in ALGORITHMS:
        chosen.setdefault(algo, {"learning_rate": study.rates[algo], "sigma": study.sigmas[0]})
    return chosen


class Outcome(NamedTuple):
    """What a comparison gave.

    Attributes:
        groups: the learning curves of each method that has any.
        summaries: by method.
        configs: by method, of one run.
    """

    groups: list[Group]
    summaries: dict[str, Summary]
    configs: dict[str, TrainConfig]


def compare(
    report: Report, study: Study, name: str, total_steps: int, eval_every: int,
    own: Mapping[str, Mapping[str, Any]], preset: str = _UNTUNED,
) -> Outcome:  # fmt: skip
    """Train all methods on all seeds, in folders that a later call goes on with."""
    options = (total_steps, eval_every, own, preset, report.pick(2, 10, 20))
    # other settings are other runs
    digest = hashlib.sha256(json.dumps([study, options]).encode()).hexdigest()[:8]
    folder = os.path.join(report.folder, "runs", f"{name}-{digest}")
    jobs = _plan(study, report.seeds, folder, *options)

    def tell(event: Any) -> None:
        if isinstance(event, Finished):
            told = event.error or f"reward {event.reward:.0f}"
            print(f"  {report.figure}: {os.path.basename(event.job.run_dir)} {told}", flush=True)

    with _charged(report, os.path.join(folder, "seconds.txt")):
        ended = run_jobs(jobs, report.n_jobs, on_event=tell)
    failed = {event.job.run_dir for event in ended if event.error is not None}
    if len(failed) == len(jobs):
        raise RuntimeError(f"{report.figure}: every run failed, the last with: {ended[-1].error}")
    groups, summaries, configs = [], {}, {}
    for algo, method in ALGORITHMS.items():
        mine = [job for job in jobs if job.config.algo == algo]
        curves = [read_curve(job.run_dir) for job in mine if job.run_dir not in failed]
        if curves:
            groups.append(Group(method, study.env, curves))
        summaries[method] = summarise(
            algo, [job.config for job in mine], curves, study.thresholds,
            n_failed=len(mine) - len(curves),
        )  # fmt: skip
        configs[method] = mine[0].config
    return Outcome(groups, summaries, configs)


@contextmanager
def _charged(report: Report, path: str) -> Iterator[None]:
    """Charge the processor time of the runs' processes, that of earlier calls included.

    `path` keeps it from call to call.
    """

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = 0.0
    if os.path.exists(path):
        with open(path, encoding="ascii") as stream:
            before = float(stream.read())
    begin = spent()
    try:
        yield
    finally:
        seconds = before + spent() - begin
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_text(path, f"{seconds:.1f}\n")
    report.charge(seconds)


def present(report: Report, study: Study, outcome: Outcome, name: str, title: str) -> None:
    """Draw the curves over both axes, and write them and the table of steps to a reward."""
    panels, _ = make_panels(outcome.groups, ("sequential", "total"), {study.env: study.thresholds})
    report.save(draw(panels, title=title), name)
    report.write_csv(f"{name}-curves", [row for g in outcome.groups for row in _points(g)])
    report.write_csv(
        f"{name}-table",
        [_line(study, method, outcome) for method in outcome.summaries],
        shown=True,
    )


def _points(group: Group) -> list[dict[str, Any]]:
    def of(curve: Curve) -> list[dict[str, Any]]:
        return [
            {"method": group.label, "seed": curve.seed, "sequential_steps": int(sequential),
             "total_steps": int(total), "reward": reward}
            for sequential, total, reward in zip(
                curve.x["sequential"], curve.x["total"], curve.reward, strict=True
            )
        ]  # fmt: skip

    return [row for curve in group.curves for row in of(curve)]


def _line(study: Study, method: str, outcome: Outcome) -> dict[str, Any]:
    summary, config = outcome.summaries[method], outcome.configs[method]
    line: dict[str, Any] = {
        "method": method, "N": config.n_pairs, "sigma": config.sigma,
        "learning rate": config.learning_rate, "steps per update": summary.steps_per_update,
        "final reward": None if summary.final is None else round(summary.final, 1),
        "low": None if summary.low is None else round(summary.low, 1),
        "high": None if summary.high is None else round(summary.high, 1),
        "failed": summary.n_failed,
    }  # fmt: skip
    for threshold in study.thresholds:
        reached = summary.reached[threshold]
        line[f"sequential to {threshold:g}"] = reached.sequential
        line[f"total to {threshold:g}"] = reached.total
        line[f"reached {threshold:g}"] = f"{reached.n_runs} of {summary.n_runs}"
    return line
