"""One training run of the control benchmark: ours or a peer's, judged alike, as plain figures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
from stopwatch import Stopwatch

from es_rl.assembly import assemble
from es_rl.config_layers import resolve
from es_rl.envs.making import make_env
from es_rl.evaluation import evaluate_on_task

__all__ = ["PEERS", "Judgement", "Run", "run_ours", "run_peer"]

EPISODES = 10
EVALUATION_SEED = 20_000
PEERS = {"sb3-ars": "ars", "sb3-ppo": "ppo", "sb3-sac": "sac"}
"""Names of the peers in results, and their entries in control_tasks.yaml."""

_ALGORITHM_ONLY = ("normalize", "n_envs", "default", "log_std_init", "ortho_init", "activation",
                   "net_arch")  # fmt: skip


class Judgement(NamedTuple):
    """What was seen at one moment of a run.

    Attributes:
        total_steps: environment steps in training so far.
        sequential_steps: those that had to happen one after another.
        seconds: of training so far, evaluations left out.
        reward: mean of `EPISODES` episodes of the deterministic policy.
    """

    total_steps: int
    sequential_steps: int
    seconds: float
    reward: float


class Run:
    """Keeps the judgements of a run, at equal distances in total steps.

    Args:
        budget: total steps.
        n_judgements: how many, the last at the end of the budget.
    """

    def __init__(self, budget: int, n_judgements: int) -> None:
        self.watch = Stopwatch()
        self.judgements: list[Judgement] = []
        self._budget, self._n = budget, n_judgements

    def is_due(self, total_steps: int) -> bool:
        """Return whether another share of the budget has been used up."""
        return total_steps * self._n >= self._budget * self._next_share

    @property
    def _next_share(self) -> int:
        if not self.judgements:
            return 1
        return self.judgements[-1].total_steps * self._n // self._budget + 1

    def add(self, total_steps: int, sequential_steps: int, reward: float) -> None:
        """Record what was seen; the watch must stand still."""
        seconds = round(self.watch.elapsed, 3)
        self.judgements.append(Judgement(total_steps, sequential_steps, seconds, reward))

    def as_dict(self) -> dict[str, list[float]]:
        """Return the judgements by column."""
        columns = zip(*self.judgements, strict=True) if self.judgements else [[]] * 4
        return {name: list(column) for name, column in zip(Judgement._fields, columns, strict=True)}


def run_ours(
    env_id: str, options: Mapping[str, Any], seed: int, budget: int, n_judgements: int
) -> Run:
    """Train as `es-rl train ENV --algo ...` does with these options.

    Args:
        env_id: environment.
        options: `algo`, `threads`, `preset` (a name, optional) and any other options of a run.
        seed: of the run.
        budget: total steps.
        n_judgements: evaluations, the last at the end.
    """
    given = {**options, "env": env_id, "seed": seed, "total_steps": budget}
    preset = given.pop("preset", None)
    with assemble(resolve(given, preset=preset).config) as made:
        trainer = made.trainer
        # compile and load everything, so that the clock sees a warm cache
        evaluate_on_task(made.eval_task, trainer.theta, n_episodes=1)
        run = Run(budget, n_judgements)
        trainer.start()
        is_over = False
        while not is_over:
            trainer.update()
            is_over = trainer.total_steps >= budget
            if is_over or run.is_due(trainer.total_steps):
                run.watch.pause()
                reward = evaluate_on_task(
                    made.eval_task, trainer.theta, n_episodes=EPISODES, seed=EVALUATION_SEED,
                    normalizer=trainer.estimator.normalizer,
                ).mean  # fmt: skip
                run.add(trainer.total_steps, trainer.sequential_steps, reward)
                run.watch.go()
    return run


class _OutOfBudget(Exception):
    """Ends a run from inside a callback: sb3-contrib's ARS goes on when one returns False."""


def run_peer(
    kind: str, env_id: str, settings: Mapping[str, Any], seed: int, budget: int, n_judgements: int
) -> Run:
    """Train one of `PEERS` with RL Zoo's settings.

    Its sequential steps are calls of `step` on its vector environment: its copies go side by side.
    """
    from sb3_contrib import ARS
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import (
        DummyVecEnv,
        VecEnv,
        VecNormalize,
        sync_envs_normalization,
    )

    warnings.simplefilter("ignore")
    normalize = bool(settings.get("normalize"))

    def make(n: int) -> VecEnv:
        copies = DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(make_env(env_id))] * n)
        if not normalize:
            return copies
        return VecNormalize(copies, norm_reward=kind != "ars")

    train, judge = make(int(settings.get("n_envs", 1))), make(EPISODES)
    if isinstance(judge, VecNormalize):
        judge.training = judge.norm_reward = False
    run = Run(budget, n_judgements)

    class Judge(BaseCallback):
        def _on_step(self) -> bool:
            if run.is_due(self.num_timesteps):
                run.watch.pause()
                if normalize:
                    sync_envs_normalization(train, judge)
                judge.seed(EVALUATION_SEED)
                reward, _ = evaluate_policy(self.model, judge, EPISODES, warn=False)
                run.add(self.num_timesteps, self.n_calls, float(reward))
                run.watch.go()
            if self.num_timesteps >= budget:
                raise _OutOfBudget
            return True

    own = {name: value for name, value in settings.items() if name not in _ALGORITHM_ONLY}
    classes: dict[str, type[BaseAlgorithm]] = {"ars": ARS, "ppo": PPO, "sac": SAC}
    network = "LinearPolicy" if kind == "ars" else "MlpPolicy"
    options = {"policy_kwargs": _network(settings)} if kind == "ppo" else {}
    model = classes[kind](network, train, seed=seed, device="cpu", **own, **options)
    run.watch.go()
    try:
        model.learn(budget, callback=Judge())
    except _OutOfBudget:
        pass
    finally:
        train.close()
        judge.close()
    return run


def _network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return SB3's `policy_kwargs`."""
    from torch import nn

    found: dict[str, Any] = {}
    for name in ("log_std_init", "ortho_init"):
        if name in settings:
            found[name] = settings[name]
    if "activation" in settings:
        found["activation_fn"] = {"relu": nn.ReLU, "tanh": nn.Tanh}[settings["activation"]]
    if "net_arch" in settings:
        widths = list(settings["net_arch"])
        found["net_arch"] = {"pi": widths, "vf": widths}
    return found
