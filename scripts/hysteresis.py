"""Hysteresis on Swimmer-v4, and whether refreshing pays: the figures of docs/options.md.

    python scripts/hysteresis.py > hysteresis.txt

Takes about five minutes of one processor. The preset's settings of nres, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from es_rl.assembly import assemble
from es_rl.config_layers import resolve
from es_rl.envs.mujoco.quiet import quiet
from es_rl.estimators import Estimator
from es_rl.evaluation import evaluate_on_task
from es_rl.hysteresis import Comparison, HysteresisMeter, summarize

ENV = "Swimmer-v4"
EVALUATIONS = (74_000, 130_000, 186_000, 242_000, 298_000)  # total steps


def config(seed: int, **given: Any) -> Any:
    """Return the preset's config."""
    return resolve({"env": ENV, "algo": "nres", "seed": seed, "threads": 1, **given}).config


def measured(seed: int, n_windows: int) -> list[Comparison]:
    """Return the comparisons of the first windows of a run."""
    with assemble(config(seed)) as run:
        trainer = run.trainer
        assert isinstance(trainer.estimator, Estimator)
        meter = trainer.estimator = HysteresisMeter(trainer.estimator)
        trainer.run(updates=n_windows)
        return meter.comparisons


def rewards(seed: int, refresh_drift: float) -> tuple[list[float], int, int]:
    """Return the evaluated rewards of a run, its updates, and its sequential steps."""
    with assemble(config(seed, refresh_drift=refresh_drift)) as run:
        found = []
        for total in EVALUATIONS:
            run.trainer.run(total_steps=total)
            result = evaluate_on_task(
                run.eval_task, run.trainer.theta, n_episodes=10, seed=1_000_000_000
            )
            found.append(result.mean)
        return found, run.trainer.updates, run.trainer.sequential_steps


def told(values: Sequence[float]) -> str:
    """Return the mean and the lowest of some rewards."""
    return f"{np.mean(values):.0f} ({min(values):.0f})"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--measured-seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--drifts", type=float, nargs="*", default=[0.0, 2.0, 0.5])
    asked = parser.parse_args()

    print("refresh  seed  updates  sequential  reward at total steps", *EVALUATIONS)
    for drift in asked.drifts:
        table = []
        for seed in range(asked.seeds):
            found, updates, sequential = rewards(seed, drift)
            print(
                drift, seed, updates, sequential, *(f"{value:.1f}" for value in found), flush=True
            )
            table.append(found)
        print("mean (lowest)", drift, *(told(column) for column in zip(*table, strict=True)))

    print("seeds · windows  cosine  difference  bias (interval)  along (interval)")
    runs = {seed: measured(seed, asked.windows) for seed in range(asked.measured_seeds)}
    half = asked.windows // 20 * 10
    for begin, end in ((0, half), (half, asked.windows), (0, asked.windows)):
        for seeds in (*([seed] for seed in runs), list(runs)):
            part = [one for seed in seeds for one in runs[seed][begin:end]]
            summary = summarize(part, unroll_length=100, horizon=1000)
            ends = [
                "–" if one is None else f"{one.low:.2f} to {one.high:.2f}"
                for one in (summary.bias_interval, summary.along_interval)
            ]
            print(
                *seeds, f"· {begin + 1} to {end}",
                f"{summary.cosine:.3f} {summary.relative_difference:.3f}",
                f"{summary.bias:.3f} ({ends[0]}) {summary.along:.3f} ({ends[1]})",
                flush=True,
            )  # fmt: skip
    for group in summary.ages:
        print("age", *group)


if __name__ == "__main__":
    with quiet():
        main()
