"""Search settings of the control tasks with `es-rl tune`, as scripts/tuning/searches.yaml says.

Each search is one command, printed before it runs, and one file below scripts/tuning/found when it
is over: the command, its trials and what came out. Searches that have theirs are not run again, one
that was interrupted goes on. What came out is put into es_rl/presets by hand, and
scripts/benchmark_control.py judges it, on other seeds.

    python scripts/tune_control.py --list
    python scripts/tune_control.py --tasks InvertedPendulum-v4 --methods pes,fulles-mlp
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from results import machine

from es_rl.files import write_text
from es_rl.options import shown

TUNING = Path(__file__).with_name("tuning")
SEARCHES = TUNING / "searches.yaml"
QUICK = {"total_steps": 400, "seeds": 1, "trials": 2}
"""With which --quick runs the first search alone."""


class Search(NamedTuple):
    """One search: of a task and a method, as benchmark_control.py names methods.

    Of the kinds of presets that a method may name, only `mlp` is a policy; `nres-parallel`, say,
    searches what the preset parallel-TASK has.
    """

    task: str
    method: str
    about: Mapping[str, Any]

    def command(self, study: Path) -> list[str]:
        """Return the words of the command."""
        algo, _, kind = self.method.partition("-")
        words = ["es-rl", "tune", self.task, "--algo", algo, "--study", str(study)]
        for name in ("trials", "seeds", "total_steps"):
            words += [f"--{name.replace('_', '-')}", str(self.about[name])]
        fixed = dict(self.about.get("set", {}))
        if kind == "mlp":
            fixed["policy"] = kind
        for name, value in fixed.items():
            words += ["--set", f"{name}={shown(value)}"]
        for name, value in self.about["search"].items():
            words += ["--search", f"{name}={value}"]
        return words


def load_searches() -> Iterator[Search]:
    """Yield the searches of searches.yaml: a task's settings, and over them a method's own."""
    tasks: dict[str, dict[str, Any]] = yaml.safe_load(SEARCHES.read_text(encoding="utf-8"))
    for task, about in tasks.items():
        for method, own in about["methods"].items():
            merged = {**about, **(own or {})}
            for part in ("set", "search"):
                merged[part] = {**about.get(part, {}), **(own or {}).get(part, {})}
                merged[part] = {k: v for k, v in merged[part].items() if v is not None}
            yield Search(task, method, merged)


def trials_of(study: Path) -> list[dict[str, Any]]:
    """Return what a study tried, those of sessions that were interrupted included."""
    backend = JournalFileBackend(str(study / "journal.log"))
    kept = optuna.load_study(study_name=None, storage=JournalStorage(backend))
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        {"settings": trial.user_attrs["settings"],
         "value": trial.value if trial.state == TrialState.COMPLETE else None,
         "state": trial.user_attrs.get("error", trial.state.name.lower())}
        for trial in kept.get_trials(states=states)
    ]  # fmt: skip


def run(search: Search, study: Path, jobs: int | None) -> dict[str, Any]:
    """Run a search to its end; return what is kept of it.

    Ends the program with the command's own code if that is not 0. A SIGTERM goes on to the command,
    which saves its study, so that no search is left running without anyone to keep what it finds.
    """
    words = search.command(study)
    print(shlex.join(words), flush=True)
    program = Path(sys.executable).with_name(words[0])
    more = ["--json"] if jobs is None else ["--json", "--jobs", str(jobs)]
    with subprocess.Popen([program, *words[1:], *more], stdout=subprocess.PIPE, text=True) as tune:
        before = signal.signal(signal.SIGTERM, lambda number, _: tune.send_signal(number))
        try:
            said, _ = tune.communicate()
        finally:
            signal.signal(signal.SIGTERM, before)
    if tune.returncode != 0:
        sys.exit(tune.returncode)
    found = json.loads(said)
    return {
        "command": shlex.join(search.command(Path("STUDY"))),
        "best_settings": found["best_settings"],
        "best_value": found["best_value"],
        "trials": trials_of(study),
        "machine": machine(),
    }


def _asked(given: str | None, known: set[str], option: str) -> set[str]:
    names = set(given.split(",")) if given else known
    for name in sorted(names - known):
        sys.exit(f"{option} {name}: no search of it; there are {', '.join(sorted(known))}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", help="comma-separated; default: all of searches.yaml")
    parser.add_argument("--methods", help="comma-separated; default: all")
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--out", default=str(TUNING / "found"), help="folder of what came out")
    parser.add_argument("--studies", default="runs/tuning", help="folder of the studies")
    parser.add_argument("--jobs", type=int, help="trials at a time; default: one a processor")
    parser.add_argument(
        "--quick", action="store_true", help="the first search, tiny, to see that all works"
    )
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searches = list(load_searches())
    tasks = _asked(options.tasks, {s.task for s in searches}, "--tasks")
    methods = _asked(options.methods, {s.method for s in searches}, "--methods")
    chosen = [s for s in searches if s.task in tasks and s.method in methods]
    if options.quick:
        first = chosen[0]
        chosen = [first._replace(about={**first.about, **QUICK})]
        if options.out == parser.get_default("out"):
            parser.error("--quick: give --out, as a quick search is too small to be kept")
    for search in chosen:
        study = Path(options.studies) / search.task / search.method
        if options.list:
            print(shlex.join(search.command(study)))
            continue
        path = Path(options.out) / search.task / f"{search.method}.json"
        if path.exists():
            continue
        found = run(search, study, options.jobs)
        os.makedirs(path.parent, exist_ok=True)
        write_text(str(path), json.dumps(found, indent=1) + "\n")
        print(f"{path}: {found['best_value']}, {found['best_settings']}", flush=True)


if __name__ == "__main__":
    main()
