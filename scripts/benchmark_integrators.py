"""What `--integrator` saves: steps a second of NRES training with each of MuJoCo's integrators.

The same training as in benchmark_throughput.py, of linear policies. Integrators take turns; the
table shows how many times as fast as the model's own each is: the median over repetitions and, in
brackets, the range.

    python scripts/benchmark_integrators.py
    python scripts/benchmark_integrators.py --quick
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmark_throughput import make_policy, make_trainer
from results import table

from es_rl.envs import make_task
from es_rl.trainer import Trainer

ENVS = (
    "Swimmer-v4", "HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4",
    "InvertedPendulum-v4", "InvertedDoublePendulum-v4", "Reacher-v4", "Pusher-v5",
)  # fmt: skip
INTEGRATORS = ("euler", "implicitfast")


def steps_a_second(trainer: Trainer, updates: int) -> float:
    """Train on, and return how fast that was."""
    before, begin = trainer.total_steps, time.perf_counter()
    for _ in range(updates):
        trainer.update()
    return (trainer.total_steps - before) / (time.perf_counter() - begin)


def ratios(env_id: str, n_threads: int, updates: int, repetitions: int) -> dict[str, list[float]]:
    """Return, of each integrator, its speed over that of the model's own in each repetition."""
    policy = make_policy(env_id, "linear")
    tasks = {
        name: make_task(env_id, policy, n_threads=n_threads, integrator=name)
        for name in (None, *INTEGRATORS)
    }
    trainers = {name: make_trainer(policy, task) for name, task in tasks.items()}
    for trainer in trainers.values():
        trainer.update()
    found: dict[str, list[float]] = {name: [] for name in INTEGRATORS}
    for _ in range(repetitions):
        speeds = {name: steps_a_second(trainer, updates) for name, trainer in trainers.items()}
        for name in INTEGRATORS:
            found[name].append(speeds[name] / speeds[None])
    for task in tasks.values():
        task.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", default=",".join(ENVS), help="comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=2, help="of one measurement")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a small size of everything")
    options = parser.parse_args()
    if options.quick:
        options.envs, options.updates, options.repetitions = "Hopper-v4", 1, 2
    rows = []
    for env_id in options.envs.split(","):
        found = ratios(env_id, options.threads, options.updates, options.repetitions)
        row = {"task": env_id}
        for name, own in found.items():
            row[name] = f"{statistics.median(own):.2f} [{min(own):.2f} to {max(own):.2f}]"
        rows.append(row)
        print(*row.values(), sep="  ", flush=True)
    print()
    print(table(rows))


if __name__ == "__main__":
    main()
