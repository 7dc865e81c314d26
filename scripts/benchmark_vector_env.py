"""Steps a second of `MujocoVectorEnv.step` and EnvPool's step, 64 copies, random actions, in turns.

python scripts/benchmark_vector_env.py --envs HalfCheetah-v4
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import numpy as np
from peers import EnvPoolCopies
from results import table, write_json

from es_rl.envs import MujocoVectorEnv
from es_rl.perturbations import usable_cpus


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envs", default="HalfCheetah-v4,Swimmer-v4", help="comma-separated")
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="steps of a repetition")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, figures = [], {}
    for env_id in options.envs.split(","):
        ours = MujocoVectorEnv(env_id, options.copies, options.threads)
        contenders: dict[str, Any] = {"ours": ours}
        try:
            contenders["envpool"] = EnvPoolCopies(env_id, options.copies, options.threads)
        except ImportError as error:
            print(f"envpool is left out: {error}")
        ours.reset(seed=0)
        if "envpool" in contenders:
            contenders["envpool"].reset()
        shape = (options.steps, *ours.action_space.shape)
        actions = np.random.default_rng(0).uniform(-1.0, 1.0, shape)
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(options.repetitions):
            for name, contender in contenders.items():
                begin = time.perf_counter()
                for action in actions:
                    contender.step(action)
                taken = options.steps * options.copies
                found[name].append(taken / (time.perf_counter() - begin))
        row = {"environment": env_id}
        row.update({name: f"{statistics.median(v):,.0f}" for name, v in found.items()})
        if "envpool" in found:
            ratios = [a / b for a, b in zip(found["ours"], found["envpool"], strict=True)]
            row["ours / envpool"] = (
                f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"
            )
        rows.append(row)
        figures[env_id] = found
        for contender in contenders.values():
            contender.close()
    print(table(rows))
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
