"""All MuJoCo control tasks, ours and the peers: reward at budgets, steps and time to rewards.

Ours (nres, pes, fulles, ars, or whatever is asked for, with the library's presets), sb3-contrib's
ARS and Stable-Baselines3's PPO and SAC with RL Zoo's settings, all evaluated alike: 10 episodes of
the deterministic policy from the same start states, seeds apart from training, at equal distances
in total steps. Evaluation is on nobody's clock.

Each run is a file; what is there is not run again, so that a benchmark which was interrupted goes
on with the same command, one of our own runs from its last evaluation; and several processes may
share a folder: each run is done by one.

    python scripts/benchmark_control.py --out runs/control --tasks Swimmer-v4 --seeds 5
    python scripts/benchmark_control.py --out runs/control --report --pictures pictures

The runs that docs/control.md reports are in scripts/control_results. From there, `--publish` renews
the page's tables and pictures:

    python scripts/benchmark_control.py --out scripts/control_results --report --publish
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from control_report import Result, pictures, task_tables
from control_runs import PEERS, OtherRunError, run_ours, run_peer
from reproductions.publication import renewed
from results import machine

from es_rl.config_layers import resolve
from es_rl.files import write_text
from es_rl.options import ALGORITHMS, OPTIONS

SETTINGS = Path(__file__).with_name("control_tasks.yaml")
DOCS = Path(__file__).parent.parent / "docs"
KINDS = ("", "mlp", "quick", "parallel", "best")
"""Of presets: those of a task, and what others begin with, such as mlp-Hopper-v4."""
SETTINGS_GROUPS = ("Estimator", "Optimiser", "Policy")
"""Of options, those which a run's figures depend on."""
METHODS = "nres,pes,fulles,ars,sb3-ars,sb3-ppo,sb3-sac"
QUICK = {"tasks": "InvertedPendulum-v4", "methods": "fulles,sb3-ars", "seeds": 2, "budget": 1_000,
         "judgements": 2}  # fmt: skip


class Plan(NamedTuple):
    """One run: where its figures go, and what to do for them."""

    path: Path
    task: str
    method: str
    seed: int
    budget: int


def load_tasks() -> dict[str, dict[str, Any]]:
    """Return control_tasks.yaml."""
    tasks: dict[str, dict[str, Any]] = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    return tasks


def methods_of(names: Sequence[str]) -> list[str]:
    """Return the known `names`; one of ours may name a preset's kind: nres-mlp, nres-quick."""
    for name in names:
        algo, _, kind = name.partition("-")
        if name not in PEERS and not (algo in ALGORITHMS and kind in KINDS):
            known = ", ".join((*ALGORITHMS, *PEERS))
            sys.exit(
                f"--methods {name}: no such method; there are {known}, and nres-mlp, nres-quick "
                "and so on, with the presets mlp-TASK and quick-TASK"
            )
    return list(names)


def make_plans(
    out: Path, tasks: Mapping[str, Mapping[str, Any]], methods: Sequence[str], seeds: Sequence[int],
    budget: int | None,
) -> list[Plan]:  # fmt: skip
    """Return all runs, seed by seed and task by task, so that methods take turns."""
    plans = []
    for seed in seeds:
        for task, about in tasks.items():
            for method in methods:
                steps = about.get("budgets", {}).get(method, about["budget"])
                if method in PEERS:
                    steps = about["peer_budgets"][PEERS[method]]
                steps = steps if budget is None else min(budget, steps)
                path = out / task / f"{method}-seed{seed}.json"
                plans.append(Plan(path, task, method, seed, steps))
    return plans


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Yield whether the run of this file is left to do, and by this process."""
    os.makedirs(path.parent, exist_ok=True)
    lock = path.with_suffix(".lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not path.exists()
        lock.unlink(missing_ok=True)


def options_of(method: str, task: str) -> dict[str, Any]:
    """Return the options of one of our methods: its algorithm and, if it names one, its preset."""
    algo, _, kind = method.partition("-")
    return {"algo": algo, "preset": f"{kind}-{task}"} if kind else {"algo": algo}


def settings_of(method: str, task: str) -> dict[str, Any]:
    """Return what the presets make of one of our methods: estimator, optimiser and policy."""
    given = {"env": task, **options_of(method, task)}
    preset = given.pop("preset", None)
    values = resolve(given, preset=preset).config.to_dict()
    return {
        name: values[name]
        for name, option in OPTIONS.items()
        if option.group in SETTINGS_GROUPS and values.get(name) is not None
    }


def train(
    plan: Plan, about: Mapping[str, Any], threads: int | None, n_judgements: int
) -> dict[str, Any]:
    """Do a run and return all that is to be known of it."""
    begin = time.strftime("%Y-%m-%d %H:%M:%S %z")
    options: dict[str, Any] = {}
    if plan.method in PEERS:
        kind = PEERS[plan.method]
        settings = dict(about[kind])
        run = run_peer(kind, plan.task, settings, plan.seed, plan.budget, n_judgements)
    else:
        options = options_of(plan.method, plan.task)
        settings = settings_of(plan.method, plan.task)
        given = {**options, "threads": threads}
        kept = plan.path.with_suffix(".npz")
        try:
            run = run_ours(plan.task, given, plan.seed, plan.budget, n_judgements, kept)
        except OtherRunError as error:
            sys.exit(f"--out: {error}")
    return {
        "task": plan.task,
        "method": plan.method,
        "seed": plan.seed,
        "budget": plan.budget,
        "options": options,
        "settings": settings,
        "begun": begin,
        "machine": machine(),
        **run.as_dict(),
    }


def load_results(out: Path, tasks: Sequence[str]) -> list[Result]:
    """Return the finished runs of `tasks` below `out`."""
    found = []
    for task in tasks:
        for path in sorted((out / task).glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                Result(
                    task=content["task"],
                    method=content["method"],
                    seed=content["seed"],
                    total=np.array(content["total_steps"], np.float64),
                    sequential=np.array(content["sequential_steps"], np.float64),
                    seconds=np.array(content["seconds"], np.float64),
                    reward=np.array(content["reward"], np.float64),
                )
            )
    return found


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with each task's table where it says `<!-- control: TASK -->`.

    Ends the program if it does not say so for one of them.
    """
    for task, text in tables.items():
        marker = f"<!-- control: {task} -->"
        if marker not in page:
            sys.exit(f"--publish: docs/control.md has no lines {marker} and <!-- end -->; add them")
        page = renewed(page, f"control: {task}", text)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/control", help="folder of the runs' figures")
    parser.add_argument("--tasks", help="comma-separated; default: all of control_tasks.yaml")
    parser.add_argument(
        "--methods",
        help=f"comma-separated; default: {METHODS}; all of ours, also with -mlp or -quick at the "
        f"end, and {', '.join(PEERS)}",
    )
    parser.add_argument("--seeds", type=int, help="how many, from --first-seed on; default: 5")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", type=int, help="total steps at most, of every run")
    parser.add_argument("--judgements", type=int, help="evaluations of a run; default: 20")
    parser.add_argument("--threads", type=int, help="of our runs; default: all processors")
    parser.add_argument("--report", action="store_true", help="run nothing, tell what is there")
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument("--pictures", help="folder to draw learning curves into")
    drawn.add_argument(
        "--publish", action="store_true", help="renew the tables and pictures of docs/control.md"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small task and budget, to see that all works"
    )
    options = parser.parse_args()
    if options.publish and options.quick:
        parser.error("--publish --quick: a quick run is too small to be published")
    usual = (
        QUICK
        if options.quick
        else {"tasks": None, "methods": METHODS, "seeds": 5, "judgements": 20}
    )
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    tasks = load_tasks()
    names = options.tasks.split(",") if options.tasks else list(tasks)
    for name in names:
        if name not in tasks:
            sys.exit(f"--tasks {name}: not in {SETTINGS.name}; it has {', '.join(tasks)}")
    chosen = {name: tasks[name] for name in names}
    out = Path(options.out)
    if not options.report:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        plans = make_plans(
            out, chosen, methods_of(options.methods.split(",")), seeds, options.budget
        )
        for number, plan in enumerate(plans, 1):
            with claimed(plan.path) as is_ours:
                if not is_ours:
                    continue
                result = train(plan, chosen[plan.task], options.threads, options.judgements)
                write_text(str(plan.path), json.dumps(result) + "\n")
            print(
                f"{number}/{len(plans)}  {plan.task}  {plan.method}  seed {plan.seed}: "
                f"{result['reward'][-1]:.1f} after {result['total_steps'][-1]:,} steps, "
                f"{result['seconds'][-1]:.1f} s",
                flush=True,
            )
    results = load_results(out, names)
    if not results:
        sys.exit(f"--out {out}: holds no finished run of these tasks")
    by_task = {name: [r for r in results if r.task == name] for name in names}
    tables = {name: task_tables(rows, tasks[name]) for name, rows in by_task.items() if rows}
    print("\n\n".join(f"## {name}\n\n{text}" for name, text in tables.items()))
    if options.publish:
        page = DOCS / "control.md"
        write_text(str(page), with_tables(page.read_text(encoding="utf-8"), tables))
        options.pictures = str(DOCS / "images" / "control")
    if options.pictures:
        for written in pictures(results, chosen, options.pictures):
            print(written)


if __name__ == "__main__":
    main()
