"""Environment steps a second of NRES training, ours and everybody's, in one run.

The floor is the recorded physics of our own training and nothing else, see floor.py; the peers run
the same NRES written over their vector environments with batched NumPy policies, see peers.py.
Contenders take turns; the table shows medians and, in brackets, the range over repetitions.

    python scripts/benchmark_throughput.py
    python scripts/benchmark_throughput.py --envs Swimmer-v4 --policies linear --contenders ours
    python scripts/benchmark_throughput.py --quick

EnvPool and sb3-contrib come with `pip install "es_rl[benchmark]"`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import numpy as np
from floor import Floor, RecordingTask
from peers import NumpyNres, make_copies
from results import table, write_json

from es_rl.envs import GymnasiumTask, make_task
from es_rl.envs.making import make_env
from es_rl.estimators import NRES
from es_rl.optimizers import SGD
from es_rl.perturbations import usable_cpus
from es_rl.policies import LinearPolicy, MlpPolicy, Policy
from es_rl.trainer import Trainer

ENVS = ("Swimmer-v4", "HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")
POLICIES = {"linear": (), "mlp-64-64": (64, 64), "mlp-256-256": (256, 256)}
PEERS = (
    "envpool",
    "gymnasium-sync",
    "gymnasium-async",
    "sb3-dummy",
    "sb3-subproc",
)
CONTENDERS = ("floor", "ours", "slow-twin", *PEERS)
# A rate that leaves the policy near its start: every contender simulates the same kind of motion
LEARNING_RATE = 1e-6
SIGMA = 0.02
N_PAIRS = 30
UNROLL_LENGTH = 100


def make_policy(env_id: str, name: str) -> Policy:
    env = make_env(env_id)
    hidden = POLICIES[name]
    spaces = (env.observation_space, env.action_space)
    env.close()
    return MlpPolicy(*spaces, hidden=hidden) if hidden else LinearPolicy(*spaces)


def make_trainer(policy: Policy, task: Any) -> Trainer:
    estimator = NRES(task, n_pairs=N_PAIRS, unroll_length=UNROLL_LENGTH, sigma=SIGMA, seed=1)
    theta = policy.initial_theta(0.03 if len(policy.arrays.sizes) == 2 else 0.3, seed=1)
    return Trainer(estimator, SGD(policy.num_params, LEARNING_RATE), theta)


class Ours:
    """Our training and its floor; both repeat the very same windows every time."""

    def __init__(self, env_id: str, policy: Policy, n_threads: int, updates: int) -> None:
        self.task = RecordingTask(make_task(env_id, policy, n_threads=n_threads), policy)
        self.trainer = make_trainer(policy, self.task)
        self.trainer.start()
        self.trainer.update()
        self.state = self.trainer.state_dict()
        self.updates = updates
        self.task.recording = True
        for _ in range(updates):
            self.trainer.update()
        self.task.recording = False
        self.floor = Floor(env_id, n_threads, self.task.calls)

    def train(self) -> float:
        """Return steps a second of the recorded updates, made once more."""
        self.trainer.load_state_dict(self.state)
        before = self.trainer.total_steps
        begin = time.perf_counter()
        for _ in range(self.updates):
            self.trainer.update()
        return (self.trainer.total_steps - before) / (time.perf_counter() - begin)

    def physics(self) -> float:
        """Return steps a second of their physics alone."""
        seconds = 0.0
        for call in self.floor.calls:
            self.floor.prepare(call)
            begin = time.perf_counter()
            self.floor.run(call)
            seconds += time.perf_counter() - begin
        return self.floor.steps / seconds

    def close(self) -> None:
        self.floor.close()
        self.task.task.close()


class SlowTwin:
    """The same training through engine="gymnasium": worker processes that step one by one."""

    def __init__(self, env_id: str, policy: Policy, n_threads: int) -> None:
        self.task = GymnasiumTask(env_id, policy, n_workers=n_threads)
        self.trainer = make_trainer(policy, self.task)
        self.trainer.estimator.staggering = "lockstep"
        self.trainer.start()

    def train(self) -> float:
        before = self.trainer.total_steps
        begin = time.perf_counter()
        self.trainer.update()
        return (self.trainer.total_steps - before) / (time.perf_counter() - begin)

    def close(self) -> None:
        self.task.close()


class Peer:
    """The same NRES over somebody else's vector environment."""

    def __init__(self, name: str, env_id: str, policy: Policy, n_threads: int) -> None:
        self.copies = make_copies(name, env_id, 2 * N_PAIRS, n_threads)
        sizes = [int(n) for n in policy.arrays.sizes]
        self.nres = NumpyNres(
            self.copies,
            layers=list(zip(sizes[1:], sizes[:-1], strict=True)),
            has_bias=policy.arrays.has_bias,
            n_pairs=N_PAIRS,
            unroll_length=UNROLL_LENGTH,
            horizon=1000,
            sigma=SIGMA,
            learning_rate=LEARNING_RATE,
        )
        self.nres.theta = policy.initial_theta(0.03 if len(sizes) == 2 else 0.3, seed=1)
        self.nres.update()

    def train(self) -> float:
        begin = time.perf_counter()
        steps = self.nres.update()
        return steps / (time.perf_counter() - begin)

    def close(self) -> None:
        self.copies.close()


def measure(
    env_id: str, policy_name: str, contenders: list[str], n_threads: int, repetitions: int
) -> dict[str, list[float]]:
    """Return steps a second of each contender, one figure a repetition."""
    policy = make_policy(env_id, policy_name)
    made: dict[str, Any] = {}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for name in contenders:
            if name in ("floor", "ours"):
                if "ours" not in made:
                    made["ours"] = Ours(env_id, policy, n_threads, updates=3)
            elif name == "slow-twin":
                made[name] = SlowTwin(env_id, policy, n_threads)
            else:
                try:
                    made[name] = Peer(name, env_id, policy, n_threads)
                except ImportError as error:
                    print(f"{name} is left out: {error}")
                    del found[name]
        for turn in range(repetitions):
            # there and back, so that nobody always follows the same neighbour
            for name in list(found)[:: 1 if turn % 2 == 0 else -1]:
                one = made["ours" if name == "floor" else name]
                found[name].append(one.physics() if name == "floor" else one.train())
    finally:
        for contender in made.values():
            contender.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envs", default=",".join(ENVS), help="comma-separated")
    parser.add_argument("--policies", default=",".join(POLICIES), help="comma-separated")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument(
        "--all-peers",
        action="store_true",
        help="slow peers for every policy, not only for the linear one",
    )
    parser.add_argument("--quick", action="store_true", help="two environments, few repetitions")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    envs, policies = options.envs.split(","), options.policies.split(",")
    contenders, repetitions = options.contenders.split(","), options.repetitions
    for name in policies:
        if name not in POLICIES:
            parser.error(f"--policies {name}: choose from {', '.join(POLICIES)}")
    if options.quick:
        envs, policies, repetitions = envs[:2], policies[:1], 2
        contenders = [c for c in contenders if c in ("floor", "ours", "gymnasium-sync")]
    figures: dict[str, Any] = {}
    for policy_name in policies:
        fast = [c for c in contenders if c in ("floor", "ours", "envpool")]
        names = contenders if policy_name == "linear" or options.all_peers else fast
        rows = []
        for env_id in envs:
            found = measure(env_id, policy_name, names, options.threads, repetitions)
            figures[f"{env_id} {policy_name}"] = found
            median = {name: statistics.median(values) for name, values in found.items()}
            row: dict[str, Any] = {"environment": env_id}
            for name in names:
                row[name] = _cell(found[name]) if name in found else "-"
            for name in median:
                if name != "ours" and "ours" in median:
                    row[f"ours / {name}"] = f"{_paired(found['ours'], found[name]):.2f}"
            rows.append(row)
            print(row, flush=True)
        print(
            f"\nSteps a second, NRES, {policy_name} policy, {2 * N_PAIRS} copies, "
            f"W={UNROLL_LENGTH}, {options.threads} threads: median [range] of {repetitions}\n"
        )
        print(table(rows), "\n", flush=True)
    if options.json:
        write_json(options.json, figures)


def _cell(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.0f} [{low:,.0f} to {high:,.0f}]"


def _paired(ours: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios within each turn, which a drifting machine leaves alone."""
    return float(np.median(np.array(ours) / np.array(theirs)))


if __name__ == "__main__":
    main()
