"""Adaptive unroll length against fixed ones, at equal total steps: the table of docs/options.md.

    python scripts/ablate_unroll_range.py
    python scripts/ablate_unroll_range.py --envs HalfCheetah-v4 --lengths 40 --learning-rate 0.08

The second command moves θ as far in a step with windows of 40 as the first does with those of 10.
Everything but W is the environment's nres preset, but for what a study says itself. Each run is on
one thread, whose number changes no result.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from es_rl.assembly import assemble
from es_rl.config_layers import resolve
from es_rl.evaluation import evaluate_on_task
from es_rl.workers import Estimator


class Study(NamedTuple):
    """What is compared on one environment."""

    env: str
    total_steps: int
    fixed: tuple[int, ...]
    first: int
    unroll_range: tuple[int, int]
    settings: Mapping[str, Any]


STUDIES = (
    Study("Swimmer-v4", 300_000, (25, 50, 100, 200, 400), 100, (25, 400), {}),
    Study(
        "HalfCheetah-v4", 400_000, (10, 20, 40, 80), 40, (5, 160),
        {"n_pairs": 100, "learning_rate": 0.02, "lr_schedule": "linear:600:0.2",
         "shaping": "std", "horizon": 1000},
    ),
)  # fmt: skip
EPISODES = 20


def run(study: Study, seed: int, **given: Any) -> tuple[float, int, list[int]]:
    """Train once; return the final policy's mean reward, the updates, and every W on the way."""
    config = resolve(
        {"env": study.env, "algo": "nres", "seed": seed, "threads": 1,
         "total_steps": study.total_steps, **study.settings, **given}
    ).config  # fmt: skip
    lengths: list[int] = []
    with assemble(config) as made:
        estimator = made.trainer.estimator
        assert isinstance(estimator, Estimator)

        def note(*_: object) -> None:
            if lengths[-1:] != [estimator.unroll_length_now]:
                lengths.append(estimator.unroll_length_now)

        made.trainer.run(total_steps=study.total_steps, callback=note)
        found = evaluate_on_task(
            made.eval_task, made.trainer.theta, n_episodes=EPISODES, seed=1_000_000_000,
            normalizer=estimator.normalizer,
        )  # fmt: skip
        return found.mean, made.trainer.updates, lengths


def main() -> None:
    """Run all and print a row for each choice of W."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--envs", default=",".join(study.env for study in STUDIES))
    parser.add_argument("--lengths", help="fixed W, joined by commas, instead of all")
    parser.add_argument("--learning-rate", type=float, help="instead of the preset's")
    args = parser.parse_args()
    own = {} if args.learning_rate is None else {"learning_rate": args.learning_rate}
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for study in STUDIES:
        if study.env not in args.envs.split(","):
            continue
        print(f"{study.env}, {study.total_steps:,} total steps, seeds {args.seeds}", flush=True)
        arms: list[dict[str, Any]] = [{"unroll_length": length} for length in study.fixed]
        arms.append({"unroll_length": study.first, "unroll_range": study.unroll_range})
        if args.lengths is not None:
            arms = [{"unroll_length": int(length)} for length in args.lengths.split(",")]
        for arm in arms:
            results = [run(study, seed, **arm, **own) for seed in seeds]
            rewards = [reward for reward, *_ in results]
            print(
                "W {unroll_length}".format(**arm), arm.get("unroll_range", ""), "|",
                ", ".join(f"{reward:.0f}" for reward in rewards), "|",
                f"{np.mean(rewards):.0f} | updates {np.mean([u for _, u, _ in results]):.0f} |",
                "; ".join("→".join(map(str, lengths)) for *_, lengths in results), flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
