"""Time and steps until a policy reaches a mean of 325 over 20 evaluation episodes on Swimmer-v4.

Ours (nres, pes, fulles, with their presets), sb3-contrib's ARS and Stable-Baselines3's PPO with
the settings that RL Zoo publishes for Swimmer. Every method is evaluated alike: 20 episodes of the
deterministic policy on `gymnasium.make`, seeds apart from training, at the same number of total
steps; evaluation time is left out of every method's clock. Contenders take turns, seed by seed.

    python scripts/benchmark_time_to_solve.py --seeds 5
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from results import table, write_json
from stopwatch import Stopwatch

from es_rl.assembly import assemble
from es_rl.config_layers import resolve
from es_rl.envs.making import make_env
from es_rl.evaluation import evaluate_on_task

ENV_ID = "Swimmer-v4"
EPISODES = 20
EVALUATION_SEED = 10_000
# https://huggingface.co/sb3/ars-Swimmer-v3 and rl-baselines3-zoo's hyperparams/ppo.yml
ARS = {"n_delta": 1, "n_top": 1, "delta_std": 0.01, "learning_rate": 0.02}
PPO = {"gamma": 0.9999}


class Outcome(NamedTuple):
    """When the threshold was reached; `solved` says whether it was within the budget."""

    seconds: float
    sequential_steps: int
    total_steps: int
    reward: float
    solved: bool


def ours(algorithm: str, seed: int, threshold: float, budget: int) -> Outcome:
    """Train as `es-rl train Swimmer-v4 --algo ALGORITHM` does, judged after every update."""
    watch = Stopwatch()
    chosen = {"env": ENV_ID, "algo": algorithm, "seed": seed, "total_steps": budget}
    with assemble(resolve(chosen).config) as made:
        made.trainer.start()
        reward = -np.inf
        while made.trainer.total_steps < budget:
            made.trainer.update()
            watch.pause()
            reward = evaluate_on_task(
                made.eval_task, made.trainer.theta, n_episodes=EPISODES, seed=EVALUATION_SEED
            ).mean
            if reward >= threshold:
                break
            watch.go()
        counts = made.trainer.sequential_steps, made.trainer.total_steps
    return Outcome(watch.elapsed, *counts, reward, reward >= threshold)


def sb3(algorithm: str, seed: int, threshold: float, budget: int) -> Outcome:
    from stable_baselines3 import PPO as Ppo
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, sync_envs_normalization

    def make(n: int) -> Any:
        copies = DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(make_env(ENV_ID))] * n)
        return VecNormalize(copies) if algorithm == "ppo" else copies

    train, judge = make(2 if algorithm == "ars" else 1), make(1)
    if algorithm == "ppo":
        judge.training = judge.norm_reward = False
    watch = Stopwatch()
    found: dict[str, Any] = {"reward": -np.inf, "steps": 0, "sequential": 0}
    every = 8_000

    class Judge(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.last = 0

        def _on_step(self) -> bool:
            if "done" in found:
                return False
            if self.num_timesteps - self.last < every:
                return True
            self.last = self.num_timesteps
            watch.pause()
            if algorithm == "ppo":
                sync_envs_normalization(train, judge)
            judge.seed(EVALUATION_SEED)
            reward, _ = evaluate_policy(self.model, judge, EPISODES, warn=False)
            found.update(reward=reward, steps=self.num_timesteps, sequential=self.n_calls)
            if reward >= threshold:
                found["done"] = True
                # sb3-contrib's ARS goes on when a callback says stop
                raise Solved
            watch.go()
            return True

    if algorithm == "ars":
        from sb3_contrib import ARS as Ars

        model: Any = Ars("LinearPolicy", train, seed=seed, **ARS)
    else:
        model = Ppo("MlpPolicy", train, seed=seed, device="cpu", **PPO)
    try:
        model.learn(budget, callback=Judge())
        watch.pause()
    except Solved:
        pass
    train.close()
    judge.close()
    return Outcome(
        watch.elapsed, found["sequential"], found["steps"], found["reward"], "done" in found
    )


class Solved(Exception):
    """Ends a run from inside a callback."""


CONTENDERS: dict[str, Callable[[int, float, int], Outcome]] = {
    "nres": lambda *a: ours("nres", *a),
    "pes": lambda *a: ours("pes", *a),
    "fulles": lambda *a: ours("fulles", *a),
    "sb3-contrib ARS": lambda *a: sb3("ars", *a),
    "SB3 PPO": lambda *a: sb3("ppo", *a),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to SEEDS - 1")
    parser.add_argument("--threshold", type=float, default=325.0)
    parser.add_argument("--budget", type=int, default=2_000_000, help="total steps at most")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.contenders.split(",")
    # compile and load everything once, so that the clocks see a warm cache
    ours("nres", 0, -np.inf, 1)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            outcome = CONTENDERS[name](seed, options.threshold, options.budget)
            outcomes[name].append(outcome)
            print(f"seed {seed}  {name:16s} {outcome}", flush=True)
    rows = []
    for name, results in outcomes.items():
        solved = [r for r in results if r.solved]
        rows.append(
            {
                "method": name,
                "solved": f"{len(solved)}/{len(results)}",
                "seconds": _spread([r.seconds for r in results], "{:.2f}"),
                "sequential steps": _spread([r.sequential_steps for r in results], "{:,.0f}"),
                "total steps": _spread([r.total_steps for r in results], "{:,.0f}"),
            }
        )
    print(f"\nUntil the mean of {EPISODES} episodes reaches {options.threshold:g} on {ENV_ID}")
    print("(median [range]; a run that did not get there counts with its whole budget)\n")
    print(table(rows))
    if {"nres", "sb3-contrib ARS"} <= set(names):
        median = {n: statistics.median(r.seconds for r in outcomes[n]) for n in names}
        print(
            f"\nsb3-contrib ARS / nres, seconds: {median['sb3-contrib ARS'] / median['nres']:.0f}"
        )
    if options.json:
        write_json(options.json, {n: [r._asdict() for r in rs] for n, rs in outcomes.items()})


def _spread(values: list[float], form: str) -> str:
    return (
        f"{form.format(statistics.median(values))} "
        f"[{form.format(min(values))} to {form.format(max(values))}]"
    )


if __name__ == "__main__":
    main()
